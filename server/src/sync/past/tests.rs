//! What becomes of a version that lost.

use dfs_shared::ids::NodeId;
use dfs_shared::record::{Change, ChangeGroup, NodeKind, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::{CommitReply, CommitRequest, GroupOutcome, Refusal};

use super::super::SyncError;
use super::super::kit::*;
use crate::blocking::block_on;
use crate::limits::PAST_VERSIONS_COMPARED;
use crate::metadata::PastRecord;
use crate::sync::SyncService;

impl Kit {
    fn send_past(&self, request: CommitRequest) -> Result<CommitReply, SyncError> {
        block_on(self.service.past(&main_volume(), SyncService::prepare(request)?))
    }

    fn past(&self, version: Record, contents: &[&[u8]]) -> CommitReply {
        let changes = vec![put(None, version)];
        self.send_past(self.request(vec![ChangeGroup { changes }], contents)).unwrap()
    }

    fn history(&self, node: NodeId) -> Vec<PastRecord> {
        self.metadata
            .read(|snapshot| {
                let volume = snapshot.volume(&main_volume())?.expect("it was made");
                snapshot.history(volume.key, node, 1000)
            })
            .unwrap()
    }

    fn state(&self) -> (Revision, dfs_shared::hash::MerkleHash) {
        let volume = self.service.info(&main_volume()).unwrap().volume;
        (volume.revision, volume.root)
    }
}

fn at(id: NodeId, bytes: &[u8], secs: i64) -> Record {
    let Record::Node(mut node) = filled(id, bytes) else { unreachable!("it is a node") };
    node.mtime = Timestamp { secs, nanos: 0 };
    Record::Node(node)
}

fn contents(history: &[PastRecord]) -> Vec<Option<dfs_shared::hash::ContentId>> {
    let content = |past: &PastRecord| match &past.record {
        Record::Node(node) => node.content,
        Record::Entry(_) => None,
    };
    history.iter().map(content).collect()
}

#[test]
fn a_version_that_lost_is_in_the_history_and_no_record_changes() {
    let kit = Kit::new();
    let (file, made) = kit.file(NodeId::ROOT, "f");
    kit.accept_with(vec![put(Some(made), at(file, b"winner", 9))], &[b"winner"]);
    let before = kit.records(vec![node_key(file)]);
    let (revision, root) = kit.state();
    let reply = kit.past(at(file, b"loser", 5), &[b"loser"]);
    assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
    assert_eq!(kit.state(), (revision.next(), root), "a revision of its own, and nothing else");
    assert_eq!((reply.revision, reply.root), kit.state());
    assert_eq!(kit.records(vec![node_key(file)]), before);
    let history = kit.history(file);
    assert_eq!(contents(&history), [Some(content_id(b"loser")), None], "after the empty file");
    assert_eq!((history[0].began, history[0].ended), (reply.revision, reply.revision));
    assert_eq!(history[0].author.as_ref(), Some(&kit.client));
    // What replaces the winner comes after the loser: versions keep their numbers.
    let winner = before[0].value.as_ref().expect("it is there").revision;
    kit.accept_with(vec![put(Some(winner), at(file, b"next", 10))], &[b"next"]);
    let wanted = [Some(content_id(b"winner")), Some(content_id(b"loser")), None];
    assert_eq!(contents(&kit.history(file)), wanted);
}

#[test]
fn a_version_that_is_brought_again_is_kept_once_and_so_is_one_that_the_file_has() {
    let kit = Kit::new();
    let (file, made) = kit.file(NodeId::ROOT, "f");
    kit.accept_with(vec![put(Some(made), at(file, b"winner", 9))], &[b"winner"]);
    for _ in 0..2 {
        assert_eq!(kit.past(at(file, b"loser", 5), &[b"loser"]).outcomes, [GroupOutcome::Accepted]);
        assert_eq!(kit.past(at(file, b"winner", 9), &[b"winner"]).outcomes, [GroupOutcome::Accepted]);
    }
    assert_eq!(kit.history(file).len(), 2);
    let state = kit.state();
    kit.past(at(file, b"loser", 5), &[b"loser"]);
    assert_eq!(kit.state(), state, "nothing is published for what was known");
    kit.past(at(file, b"loser", 6), &[b"loser"]);
    assert_eq!(kit.history(file).len(), 3, "the same bytes at another time are another version");
    // Only the newest ones are compared.
    for secs in 0..PAST_VERSIONS_COMPARED as i64 {
        kit.past(at(file, b"other", 100 + secs), &[b"other"]);
    }
    let len = kit.history(file).len();
    kit.past(at(file, b"other", 100), &[b"other"]);
    assert_eq!(kit.history(file).len(), len, "the oldest that is compared");
    kit.past(at(file, b"loser", 6), &[b"loser"]);
    assert_eq!(kit.history(file).len(), len + 1, "one older than those");
}

#[test]
fn what_is_missing_is_asked_for_and_nothing_is_kept_before_it_is_there() {
    let kit = Kit::new();
    let (file, _) = kit.file(NodeId::ROOT, "f");
    let state = kit.state();
    let refused = |reply: CommitReply| match reply.outcomes.into_iter().next() {
        Some(GroupOutcome::Refused { reason, .. }) => reason,
        other => panic!("{other:?} instead of a refusal"),
    };
    let unknown = refused(kit.past(at(file, b"loser", 5), &[]));
    assert_eq!(unknown, Refusal::ContentMissing { contents: vec![content_id(b"loser")] });
    let mut request =
        kit.request(vec![ChangeGroup { changes: vec![put(None, at(file, b"loser", 5))] }], &[b"loser"]);
    request.small_chunks.clear();
    let missing = refused(kit.send_past(request).unwrap());
    assert!(matches!(missing, Refusal::ChunksMissing { .. }), "{missing:?}");
    // A file that is gone has no history that anybody would look into: the mount keeps it otherwise.
    let gone = NodeId::generate();
    let reason = refused(kit.past(at(gone, b"loser", 5), &[b"loser"]));
    assert_eq!(reason, Refusal::TargetMissing { key: node_key(gone) });
    let (directory, _) = kit.directory("d");
    let reason = refused(kit.past(at(directory, b"loser", 5), &[b"loser"]));
    assert_eq!(reason, Refusal::TargetMissing { key: node_key(directory) });
    let wrong_size = with(file, NodeKind::File, |node| {
        (node.size, node.content) = (1, Some(content_id(b"loser")));
    });
    assert!(matches!(refused(kit.past(wrong_size, &[b"loser"])), Refusal::Invalid { .. }));
    assert_eq!(kit.history(file), []);
    assert_eq!(kit.state().0, state.0.next(), "only the directory was made");
}

#[test]
fn a_past_version_is_one_change_that_leaves_a_file() {
    let kit = Kit::new();
    let (file, made) = kit.file(NodeId::ROOT, "f");
    let version = || put(None, at(file, b"loser", 5));
    let entry = put(None, entry(NodeId::ROOT, "g", file));
    let removal = Change { key: RecordKey::Node(file), base: Some(made), value: None };
    let directory = put(None, node(file, NodeKind::Directory));
    let bad = [
        vec![],
        vec![ChangeGroup { changes: vec![] }],
        vec![ChangeGroup { changes: vec![version(), entry.clone()] }],
        vec![ChangeGroup { changes: vec![version()] }, ChangeGroup { changes: vec![version()] }],
        vec![ChangeGroup { changes: vec![entry] }],
        vec![ChangeGroup { changes: vec![removal] }],
        vec![ChangeGroup { changes: vec![directory] }],
    ];
    for groups in bad {
        let refused = kit.send_past(kit.request(groups.clone(), &[b"loser"]));
        assert!(matches!(refused, Err(SyncError::BadRequest { .. })), "{groups:?}: {refused:?}");
    }
    assert_eq!(kit.history(file), []);
}
