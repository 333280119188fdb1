//! The planner against tables and against generated histories.

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, RecordKey};

use super::model::{Local, Server, name};
use super::{Input, Plan, without_room};

const ROOT: NodeId = NodeId::ROOT;

fn send(local: &mut Local, server: &mut Server, plan: &Plan) {
    for component in &plan.send {
        let revision = server.apply(&component.changes).unwrap_or_else(|rule| {
            panic!("refused: {rule}\ncomponent {component:#?}\nof {plan:#?}");
        });
        local.acknowledge(component, revision);
    }
    let done = plan.send.iter().flat_map(|component| component.seqs.iter().copied());
    let done = done.chain(plan.finished.iter().copied()).filter(|seq| !plan.held.contains(seq)).collect();
    local.drop_groups(&done);
}

fn flush(local: &mut Local, server: &mut Server) {
    let plan = local.plan(&BTreeSet::new());
    send(local, server, &plan);
    assert!(local.journal.is_empty(), "{:#?}", local.journal);
    let values = server.records.iter().map(|(key, (_, record))| (key.clone(), record.clone()));
    assert_eq!(local.records, values.collect());
}

fn start() -> (Local, Server) {
    let server = Server::new();
    (Local::of(&server), server)
}

#[test]
fn files_of_one_directory_are_sent_apart_and_one_that_waits_delays_no_other() {
    let (mut local, mut server) = start();
    let big = local.create(ROOT, &name("big"), NodeKind::File).expect("new");
    local.create(ROOT, &name("small"), NodeKind::File).expect("new");
    let plan = local.plan(&BTreeSet::from([big]));
    assert_eq!(plan.send.len(), 2, "the small file, and the directory's times: {plan:#?}");
    assert_eq!(plan.held, BTreeSet::from([1]), "its creation");
    send(&mut local, &mut server, &plan);
    assert_eq!(local.journal.len(), 1);
    flush(&mut local, &mut server);
}

#[test]
fn a_file_in_a_new_directory_waits_for_the_directory_and_not_the_other_way_round() {
    let (mut local, mut server) = start();
    let a = local.create(ROOT, &name("a"), NodeKind::Directory).expect("new");
    let b = local.create(a, &name("b"), NodeKind::Directory).expect("new");
    let file = local.create(b, &name("file"), NodeKind::File).expect("new");
    let plan = local.plan(&BTreeSet::from([file]));
    send(&mut local, &mut server, &plan);
    assert!(server.records.contains_key(&RecordKey::Node(b)));
    assert!(!server.records.contains_key(&RecordKey::Node(file)));
    assert_eq!(local.plan(&BTreeSet::from([file])).send, [], "what is clean or waits is not sent");
    flush(&mut local, &mut server);
}

#[test]
fn what_was_made_and_deleted_before_it_was_sent_is_never_sent() {
    let (mut local, mut server) = start();
    local.create(ROOT, &name("x"), NodeKind::File);
    local.remove(ROOT, &name("x"));
    let plan = local.plan(&BTreeSet::new());
    let keys: Vec<_> = plan.send.iter().flat_map(|part| &part.changes).map(|change| &change.key).collect();
    assert_eq!(keys, [&RecordKey::Node(ROOT)], "only the directory's times");
    flush(&mut local, &mut server);
    assert_eq!(server.records.len(), 1);
}

#[test]
fn ten_saves_are_one_change() {
    let (mut local, mut server) = start();
    let file = local.create(ROOT, &name("x"), NodeKind::File).expect("new");
    flush(&mut local, &mut server);
    (0..10).for_each(|_| local.write(file));
    let plan = local.plan(&BTreeSet::new());
    assert_eq!(plan.send.len(), 1);
    assert_eq!(plan.send[0].changes.len(), 1);
    assert_eq!(plan.send[0].seqs.len(), 10);
}

#[test]
fn a_directory_is_removed_after_everything_that_was_in_it() {
    let (mut local, mut server) = start();
    let dir = local.create(ROOT, &name("dir"), NodeKind::Directory).expect("new");
    local.create(dir, &name("gone"), NodeKind::File);
    let moved = local.create(dir, &name("moved"), NodeKind::File).expect("new");
    flush(&mut local, &mut server);
    local.remove(dir, &name("gone"));
    local.rename((dir, &name("moved")), (ROOT, &name("moved")));
    local.remove(ROOT, &name("dir"));
    let plan = local.plan(&BTreeSet::from([moved]));
    send(&mut local, &mut server, &plan);
    assert!(server.records.contains_key(&RecordKey::Node(dir)), "its file has not moved yet");
    flush(&mut local, &mut server);
}

#[test]
fn a_save_through_a_temporary_file_is_one_group() {
    let (mut local, mut server) = start();
    local.create(ROOT, &name("doc"), NodeKind::File);
    flush(&mut local, &mut server);
    let fresh = local.create(ROOT, &name("doc.tmp"), NodeKind::File).expect("new");
    local.write(fresh);
    local.rename((ROOT, &name("doc.tmp")), (ROOT, &name("doc")));
    let plan = local.plan(&BTreeSet::new());
    assert_eq!(plan.send.iter().filter(|part| part.changes.len() > 1).count(), 1, "{plan:#?}");
    flush(&mut local, &mut server);
}

#[test]
fn directories_that_swap_their_nesting_arrive_without_a_circle() {
    let (mut local, mut server) = start();
    let outer = local.create(ROOT, &name("outer"), NodeKind::Directory).expect("new");
    let inner = local.create(outer, &name("inner"), NodeKind::Directory).expect("new");
    flush(&mut local, &mut server);
    local.rename((outer, &name("inner")), (ROOT, &name("inner")));
    local.rename((ROOT, &name("outer")), (inner, &name("outer")));
    flush(&mut local, &mut server);
}

#[test]
fn a_plan_stops_at_its_size_and_the_rest_follows() {
    let (mut local, mut server) = start();
    for number in 0..10 {
        local.create(ROOT, &name(&format!("f{number}")), NodeKind::File);
    }
    let plan = local.plan_first(&BTreeSet::new(), usize::MAX, 5);
    assert!(plan.full);
    let sizes: usize = plan.send.iter().map(|part| part.changes.len()).sum();
    assert!(sizes <= 5);
    send(&mut local, &mut server, &plan);
    let one = local.plan_first(&BTreeSet::new(), usize::MAX, 1);
    assert_eq!(one.send.len(), 1, "one component goes even if it is larger: {one:#?}");
    flush(&mut local, &mut server);
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % below
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

fn random_step(local: &mut Local, random: &mut Random, names: &[Name]) {
    let directories = local.directories();
    let (one, other) = (random.pick(&directories), random.pick(&directories));
    let (from, to) = (random.pick(names), random.pick(names));
    match random.below(12) {
        0..=2 => drop(local.create(one, &from, NodeKind::File)),
        3..=4 => drop(local.create(one, &from, NodeKind::Directory)),
        5..=6 => local.remove(one, &from),
        7..=8 => local.rename((one, &from), (other, &to)),
        9 => local.exchange((one, &from), (other, &to)),
        _ => match local.files() {
            files if files.is_empty() => (),
            files if random.below(2) == 0 => local.write(random.pick(&files)),
            files => local.link(random.pick(&files), one, &to),
        },
    }
}

/// Semantics: any prefix of any plan of any history keeps the server's tree whole, whatever waits meanwhile.
#[test]
fn generated_histories_never_break_the_server_and_always_arrive() {
    for seed in 0..1500 {
        let mut random = Random(seed);
        let names: Vec<Name> = ["a", "b", "c"].map(name).to_vec();
        let (mut local, mut server) = start();
        for _ in 0..1 + random.below(4) {
            (0..random.below(30)).for_each(|_| random_step(&mut local, &mut random, &names));
            let waiting = local.files().into_iter().filter(|_| random.below(3) == 0).collect();
            let groups = if random.below(3) == 0 { random.below(12) } else { usize::MAX };
            let changes_max = if random.below(3) == 0 { 1 + random.below(12) } else { usize::MAX };
            let mut plan = local.plan_first(&waiting, groups, changes_max);
            assert_eq!(
                plan,
                local.plan_first(&waiting, groups, changes_max),
                "seed {seed}: not deterministic"
            );
            if random.below(3) == 0 && groups == usize::MAX {
                let sent = random.below(plan.send.len() + 1);
                let lost = plan.send.split_off(sent);
                plan.held.extend(lost.iter().flat_map(|part| part.seqs.iter().copied()));
            }
            let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                send(&mut local, &mut server, &plan);
            }));
            assert!(check.is_ok(), "seed {seed}, groups {groups}");
        }
        let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| flush(&mut local, &mut server)));
        assert!(check.is_ok(), "seed {seed}");
    }
}

/// The files of these changes that do not fit, with what they need.
fn over(local: &Local, growth: &[(NodeId, i128)], room: u64) -> BTreeMap<NodeId, u64> {
    let (nothing, none) = (BTreeSet::new(), BTreeSet::new());
    let keys = local.journal.iter().flat_map(|group| group.keys.iter().cloned());
    let wants = keys.map(|key| (key.clone(), local.want(&key))).collect();
    let directories = local.directories().into_iter().collect();
    let input = Input {
        groups: &local.journal,
        wants: &wants,
        directories: &directories,
        waiting: &nothing,
        continued: &BTreeSet::new(),
        stuck: &none,
        changes_max: usize::MAX,
    };
    without_room(&input, &growth.iter().copied().collect(), room)
}

#[test]
fn the_oldest_changes_get_the_room_and_one_that_does_not_fit_holds_up_none_that_does() {
    let (mut local, _) = start();
    let mut make = |text| local.create(ROOT, &name(text), NodeKind::File).expect("new");
    let [a, b, c, shorter] = ["a", "b", "c", "d"].map(&mut make);
    let growth = [(a, 5), (b, 20), (c, 6), (shorter, -50)];
    let table = [
        (4, vec![(a, 5), (b, 20), (c, 6)]),
        (5, vec![(b, 20), (c, 6)]),
        (10, vec![(b, 20), (c, 6)]),
        (11, vec![(b, 20)]),
        (30, vec![(c, 6)]),
        (31, vec![]),
    ];
    for (room, expected) in table {
        assert_eq!(over(&local, &growth, room), expected.into_iter().collect(), "{room}");
    }
}

#[test]
fn what_is_sent_as_one_needs_the_room_of_the_sum() {
    let (mut local, mut server) = start();
    let old = local.create(ROOT, &name("file"), NodeKind::File).expect("new");
    flush(&mut local, &mut server);
    let new = local.create(ROOT, &name("new"), NodeKind::File).expect("new");
    local.rename((ROOT, &name("new")), (ROOT, &name("file")));
    let growth = [(new, 90), (old, -80)];
    assert_eq!(over(&local, &growth, 9), BTreeMap::from([(new, 10)]));
    assert_eq!(over(&local, &growth, 10), BTreeMap::new());
}
