//! The quota of a volume: what is counted, what is refused, what always passes.

use dfs_shared::ids::NodeId;
use dfs_shared::record::{Change, ChangeGroup, NodeKind};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::{GroupOutcome, Refusal};

use super::super::QuotaSet;
use super::super::kit::*;

fn set(kit: &Kit, quota: Option<u64>) {
    let set = kit.metadata.write(1, move |tx| match tx.volume(&main_volume())? {
        Some(volume) => tx.set_quota(volume.key, quota),
        None => Ok(()),
    });
    set.wait().unwrap();
}

fn used(kit: &Kit) -> u64 {
    kit.service.volume(&main_volume()).unwrap().used
}

fn new_file(name: &str, bytes: &[u8]) -> (NodeId, Vec<Change>) {
    let id = NodeId::generate();
    (id, vec![put(None, filled(id, bytes)), put(None, entry(NodeId::ROOT, name, id))])
}

fn make(kit: &Kit, name: &str, bytes: &[u8]) -> (NodeId, Revision) {
    let (id, changes) = new_file(name, bytes);
    (id, kit.accept_with(changes, &[bytes]))
}

#[test]
fn files_count_with_their_present_length_and_nothing_else_does() {
    let kit = Kit::new();
    let (a, first) = make(&kit, "a", b"12345");
    make(&kit, "b", b"123");
    kit.directory("d");
    assert_eq!(used(&kit), 8);
    kit.accept(vec![put(None, entry(NodeId::ROOT, "second name", a))]);
    assert_eq!(used(&kit), 8, "a file counts once");
    let revision = kit.accept_with(vec![put(Some(first), filled(a, b"1"))], &[b"1"]);
    assert_eq!(used(&kit), 4, "replaced versions do not count");
    let names = ["a", "second name"].map(|name| entry_key(NodeId::ROOT, name));
    let bases = kit.records(names.to_vec()).into_iter().map(|found| found.value.unwrap().revision);
    let mut changes: Vec<_> = bases.zip(names).map(|(base, key)| remove(base, key)).collect();
    changes.push(remove(revision, node_key(a)));
    kit.accept(changes);
    assert_eq!(used(&kit), 3, "nor do removed files");
}

#[test]
fn growth_is_refused_by_one_byte_and_the_rest_of_the_request_goes_on() {
    let kit = Kit::new();
    make(&kit, "a", b"12345");
    set(&kit, Some(8));
    let (_, over) = new_file("over", b"1234");
    let (reason, _) = kit.refuse_with(over.clone(), &[b"1234"]);
    assert_eq!(reason, Refusal::OverQuota { limit: 8, used: 5, growth: 4 });
    let (_, fits) = new_file("fits", b"123");
    let (_, empty) = new_file("empty", b"");
    let empty = empty.into_iter().map(|change| match change.value {
        Some(dfs_shared::record::Record::Node(node)) => put(None, self::node(node.id, NodeKind::File)),
        _ => change,
    });
    let groups = [over, fits, empty.collect()].map(|changes| ChangeGroup { changes });
    let reply = kit.send(kit.request(groups.to_vec(), &[b"1234", b"123"])).unwrap();
    let accepted = reply.outcomes.iter().map(|outcome| *outcome == GroupOutcome::Accepted);
    assert_eq!(accepted.collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(used(&kit), 8);
}

#[test]
fn groups_of_one_request_are_counted_one_after_the_other() {
    let kit = Kit::new();
    set(&kit, Some(7));
    let groups = ["a", "b"].map(|name| ChangeGroup { changes: new_file(name, b"1234").1 });
    let reply = kit.send(kit.request(groups.to_vec(), &[b"1234"])).unwrap();
    assert_eq!(reply.outcomes[0], GroupOutcome::Accepted);
    let GroupOutcome::Refused { reason, .. } = &reply.outcomes[1] else { panic!("two fit") };
    assert_eq!(*reason, Refusal::OverQuota { limit: 7, used: 4, growth: 4 });
}

#[test]
fn what_shrinks_removes_or_leaves_the_length_passes_also_over_the_quota() {
    let kit = Kit::new();
    let (a, revision) = make(&kit, "a", b"12345");
    let (b, other) = make(&kit, "b", b"123");
    set(&kit, Some(1));
    let revision = kit.accept_with(vec![put(Some(revision), filled(a, b"54321"))], &[b"54321"]);
    let revision = kit.accept(vec![put(Some(revision), with(a, NodeKind::File, |node| node.mode = 0o600))]);
    assert_eq!(used(&kit), 3, "it was cut to nothing by the change of its mode");
    let (reason, _) = kit.refuse_with(vec![put(Some(revision), filled(a, b"1"))], &[b"1"]);
    assert_eq!(reason, Refusal::OverQuota { limit: 1, used: 3, growth: 1 });
    // One group that makes one file longer and another one shorter by more.
    kit.accept_with(
        vec![
            put(Some(revision), filled(a, b"1")),
            remove(other, node_key(b)),
            remove(other, entry_key(NodeId::ROOT, "b")),
        ],
        &[b"1"],
    );
    assert_eq!(used(&kit), 1);
}

#[test]
fn a_quota_is_told_once_for_each_change() {
    let kit = Kit::new();
    let told = std::sync::Arc::<std::sync::Mutex<Vec<Option<u64>>>>::default();
    let into = std::sync::Arc::clone(&told);
    let options = dfs_shared::event::SubscribeOptions::new("test");
    let _joined = kit.bus.subscribe(options, move |event: &QuotaSet| into.lock().unwrap().push(event.limit));
    for quota in [None, Some(5), Some(5), Some(6), None] {
        set(&kit, quota);
        kit.service.tell_quotas().unwrap();
        kit.service.tell_quotas().unwrap();
    }
    assert_eq!(*told.lock().unwrap(), [None, Some(5), Some(6), None]);
}
