//! Every commit rule, kept and broken.

use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::{SMALL_CONTENT_LEN_MAX, TARGET_LEN_MAX, XATTR_NAME_LEN_MAX};
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::record::Change;
use dfs_shared::wire::messages::NewContent;

use super::super::kit::*;
use super::*;

const ROOT: NodeId = NodeId::ROOT;

fn keys(current: &[CurrentRecord]) -> Vec<RecordKey> {
    current.iter().map(|current| current.key.clone()).collect()
}

#[test]
fn base_none_means_that_the_record_must_not_exist() {
    let kit = Kit::new();
    let (first, _) = kit.file(ROOT, "a");
    let second = NodeId::generate();
    let (reason, current) =
        kit.refuse(vec![put(None, node(second, NodeKind::File)), put(None, entry(ROOT, "a", second))]);
    assert_eq!(reason, Refusal::BaseChanged { key: entry_key(ROOT, "a") });
    assert_eq!(current[1].value.as_ref().unwrap().record, entry(ROOT, "a", first));
}

#[test]
fn a_base_that_is_not_the_newest_is_refused_with_the_newest_record() {
    let kit = Kit::new();
    let (id, made) = kit.file(ROOT, "a");
    let changed = kit.accept(vec![put(Some(made), with(id, NodeKind::File, |node| node.uid = 7))]);
    let stale = with(id, NodeKind::File, |node| node.uid = 8);
    for base in [Some(made), None, Some(Revision(changed.0 + 1))] {
        let (reason, current) = kit.refuse(vec![put(base, stale.clone())]);
        assert_eq!(reason, Refusal::BaseChanged { key: node_key(id) });
        assert_eq!(current[0].value.as_ref().unwrap().revision, changed);
    }
    let (reason, _) = kit.refuse(vec![remove(made, node_key(id))]);
    assert_eq!(reason, Refusal::BaseChanged { key: node_key(id) });
    kit.accept(vec![put(Some(changed), stale)]);
}

#[test]
fn an_entry_needs_a_directory_that_exists() {
    let kit = Kit::new();
    let (file, _) = kit.file(ROOT, "file");
    for parent in [NodeId::generate(), file] {
        let id = NodeId::generate();
        let (reason, current) =
            kit.refuse(vec![put(None, node(id, NodeKind::File)), put(None, entry(parent, "x", id))]);
        assert_eq!(reason, Refusal::ParentMissing { key: entry_key(parent, "x") });
        assert!(keys(&current).contains(&node_key(parent)));
    }
}

#[test]
fn an_entry_needs_a_node_that_exists() {
    let kit = Kit::new();
    let (file, made) = kit.file(ROOT, "file");
    let nobody = NodeId::generate();
    let (reason, _) = kit.refuse(vec![put(None, entry(ROOT, "x", nobody))]);
    assert_eq!(reason, Refusal::TargetMissing { key: entry_key(ROOT, "x") });
    let (reason, _) = kit.refuse(vec![put(None, entry(ROOT, "x", file)), remove(made, node_key(file))]);
    assert_eq!(reason, Refusal::TargetMissing { key: entry_key(ROOT, "x") });
}

#[test]
fn a_node_without_a_name_is_refused() {
    let kit = Kit::new();
    for kind in [NodeKind::File, NodeKind::Directory, NodeKind::Fifo] {
        let id = NodeId::generate();
        let (reason, _) = kit.refuse(vec![put(None, node(id, kind))]);
        assert_eq!(reason, Refusal::WrongLinkCount { key: node_key(id) });
    }
    let (file, made) = kit.file(ROOT, "file");
    let (reason, _) = kit.refuse(vec![remove(made, entry_key(ROOT, "file"))]);
    assert_eq!(reason, Refusal::WrongLinkCount { key: node_key(file) });
}

#[test]
fn a_file_may_have_many_names_a_directory_one_and_the_root_none() {
    let kit = Kit::new();
    let (file, _) = kit.file(ROOT, "file");
    kit.accept(vec![put(None, entry(ROOT, "second", file))]);
    let (dir, made) = kit.directory("dir");
    let (reason, current) = kit.refuse(vec![put(None, entry(ROOT, "dir2", dir))]);
    assert_eq!(reason, Refusal::WrongLinkCount { key: node_key(dir) });
    assert!(keys(&current).contains(&entry_key(ROOT, "dir")));
    let (reason, _) = kit.refuse(vec![put(None, entry(dir, "root", ROOT))]);
    assert_eq!(reason, Refusal::WrongLinkCount { key: node_key(ROOT) });
    kit.accept(vec![remove(made, entry_key(ROOT, "dir")), put(None, entry(ROOT, "dir2", dir))]);
}

#[test]
fn a_node_that_still_has_a_name_is_not_removed() {
    let kit = Kit::new();
    let (file, made) = kit.file(ROOT, "file");
    kit.accept(vec![put(None, entry(ROOT, "second", file))]);
    let changes = vec![remove(made, entry_key(ROOT, "file")), remove(made, node_key(file))];
    let (reason, current) = kit.refuse(changes);
    assert_eq!(reason, Refusal::WrongLinkCount { key: node_key(file) });
    assert!(keys(&current).contains(&entry_key(ROOT, "second")));
}

#[test]
fn a_directory_that_is_not_empty_is_not_removed() {
    let kit = Kit::new();
    let (dir, made) = kit.directory("dir");
    let (file, inner) = kit.file(dir, "file");
    let removal = || vec![remove(made, entry_key(ROOT, "dir")), remove(made, node_key(dir))];
    let (reason, current) = kit.refuse(removal());
    assert_eq!(reason, Refusal::NotEmpty { key: node_key(dir) });
    assert!(keys(&current).contains(&entry_key(dir, "file")));
    assert!(keys(&current).contains(&node_key(file)));
    let with_file = [removal(), vec![remove(inner, entry_key(dir, "file")), remove(inner, node_key(file))]];
    kit.accept(with_file.concat());
}

#[test]
fn a_directory_is_never_moved_into_itself() {
    let kit = Kit::new();
    let (a, made_a) = kit.directory("a");
    let b = NodeId::generate();
    let made_b = kit.accept(vec![put(None, node(b, NodeKind::Directory)), put(None, entry(a, "b", b))]);
    let (reason, _) = kit.refuse(vec![remove(made_a, entry_key(ROOT, "a")), put(None, entry(a, "a", a))]);
    assert_eq!(reason, Refusal::Cycle { key: entry_key(a, "a") });
    let (reason, current) =
        kit.refuse(vec![remove(made_a, entry_key(ROOT, "a")), put(None, entry(b, "a", a))]);
    assert_eq!(reason, Refusal::Cycle { key: entry_key(b, "a") });
    assert!(keys(&current).contains(&entry_key(a, "b")));
    // Turning the two around is no cycle.
    kit.accept(vec![
        remove(made_a, entry_key(ROOT, "a")),
        remove(made_b, entry_key(a, "b")),
        put(None, entry(ROOT, "b", b)),
        put(None, entry(b, "a", a)),
    ]);
}

#[test]
fn two_moves_that_together_close_a_circle_are_not_both_accepted() {
    let kit = Kit::new();
    let (a, made_a) = kit.directory("a");
    let (b, made_b) = kit.directory("b");
    kit.file(a, "in a");
    kit.file(b, "in b");
    let into = |from: &str, made, to, id| ChangeGroup {
        changes: vec![remove(made, entry_key(ROOT, from)), put(None, entry(to, from, id))],
    };
    let reply = kit.commit(vec![into("a", made_a, b, a), into("b", made_b, a, b)]);
    assert_eq!(reply.outcomes[0], GroupOutcome::Accepted);
    let GroupOutcome::Refused { reason, .. } = &reply.outcomes[1] else { panic!("{reply:?}") };
    assert_eq!(*reason, Refusal::Cycle { key: entry_key(a, "b") });
}

#[test]
fn malformed_records_are_refused_by_name() {
    let kit = Kit::new();
    let id = NodeId::generate();
    let bad = |kind, edit: fn(&mut NodeRecord)| with(id, kind, edit);
    let table: Vec<(&str, Record)> = vec![
        ("mode", bad(NodeKind::File, |node| node.mode = 0o10000)),
        ("nanoseconds", bad(NodeKind::File, |node| node.mtime.nanos = 1_000_000_000)),
        ("device", bad(NodeKind::File, |node| node.rdev = 1)),
        ("content", bad(NodeKind::File, |node| node.size = 1)),
        ("content", bad(NodeKind::File, |node| node.content = Some(content_id(b"x")))),
        ("content", bad(NodeKind::Directory, |node| node.content = Some(content_id(b"x")))),
        ("size", bad(NodeKind::Fifo, |node| node.size = 1)),
        ("target", bad(NodeKind::File, |node| node.target = b"x".to_vec())),
        ("target", bad(NodeKind::Symlink, |_| ())),
        ("target", bad(NodeKind::Symlink, |node| node.target = vec![b'x'; TARGET_LEN_MAX + 1])),
        ("size", bad(NodeKind::Symlink, |node| node.target = b"x".to_vec())),
        (
            "attribute",
            bad(NodeKind::File, |node| drop(node.xattrs.insert(vec![b'x'; XATTR_NAME_LEN_MAX + 1], vec![]))),
        ),
        ("attribute", bad(NodeKind::File, |node| drop(node.xattrs.insert(vec![], vec![])))),
    ];
    for (about, record) in table {
        let (reason, _) = kit.refuse(vec![put(None, record.clone()), put(None, entry(ROOT, "x", id))]);
        let Refusal::Invalid { key, why } = reason else { panic!("{reason:?} for {record:?}") };
        assert_eq!(key, node_key(id));
        assert!(why.contains(about), "`{why}` does not speak of {about}");
    }
}

#[test]
fn the_root_stays_and_kinds_and_keys_do_not_change() {
    let kit = Kit::new();
    let root = kit.records(vec![node_key(ROOT)])[0].value.clone().unwrap();
    let (reason, _) = kit.refuse(vec![remove(root.revision, node_key(ROOT))]);
    assert!(matches!(reason, Refusal::Invalid { .. }), "{reason:?}");
    let (id, made) = kit.file(ROOT, "a");
    let (reason, _) = kit.refuse(vec![put(Some(made), node(id, NodeKind::Fifo))]);
    assert!(matches!(reason, Refusal::Invalid { .. }), "{reason:?}");
    let other =
        Change { key: node_key(id), base: Some(made), value: Some(node(NodeId::generate(), NodeKind::File)) };
    let (reason, _) = kit.refuse(vec![other]);
    assert!(matches!(reason, Refusal::Invalid { .. }), "{reason:?}");
    let twice = put(Some(made), with(id, NodeKind::File, |node| node.uid = 1));
    let (reason, _) = kit.refuse(vec![twice.clone(), twice]);
    assert!(matches!(reason, Refusal::Invalid { .. }), "{reason:?}");
    kit.accept(vec![put(Some(root.revision), with(ROOT, NodeKind::Directory, |node| node.mode = 0o700))]);
}

#[test]
fn a_content_has_to_be_known() {
    let kit = Kit::new();
    let id = NodeId::generate();
    let create = || vec![put(None, filled(id, b"hello")), put(None, entry(ROOT, "a", id))];
    let (reason, _) = kit.refuse(create());
    assert_eq!(reason, Refusal::ContentMissing { contents: vec![content_id(b"hello")] });
    let made = kit.accept_with(create(), &[b"hello"]);
    // Known now: another file may have it without sending it.
    let other = NodeId::generate();
    kit.accept(vec![put(None, filled(other, b"hello")), put(None, entry(ROOT, "b", other))]);
    let wrong_size = with(id, NodeKind::File, |node| {
        node.size = 4;
        node.content = Some(content_id(b"hello"));
    });
    let (reason, _) = kit.refuse(vec![put(Some(made), wrong_size)]);
    assert!(matches!(reason, Refusal::Invalid { .. }), "{reason:?}");
}

#[test]
fn all_chunks_of_a_content_have_to_be_here() {
    let kit = Kit::new();
    let id = NodeId::generate();
    let large = vec![7; SMALL_CONTENT_LEN_MAX as usize + 1];
    let chunks = vec![
        ChunkRef { hash: ChunkHash::of(b"small"), len: 5 },
        ChunkRef { hash: ChunkHash::HOLE, len: 1 << 33 },
        ChunkRef { hash: ChunkHash::of(&large), len: large.len() as u64 },
    ];
    let manifest = Manifest { chunk_log2: 14, chunks };
    let record = with(id, NodeKind::File, |node| {
        node.size = manifest.size();
        node.content = Some(manifest.id());
    });
    let request = || {
        let changes = vec![put(None, record.clone()), put(None, entry(ROOT, "a", id))];
        let mut request = kit.request(vec![ChangeGroup { changes }], &[b"small"]);
        request.contents = vec![NewContent { manifest: manifest.clone(), file_hash: None }];
        request
    };
    let reply = kit.send(request()).unwrap();
    let GroupOutcome::Refused { reason, .. } = &reply.outcomes[0] else { panic!("{reply:?}") };
    assert_eq!(*reason, Refusal::ChunksMissing { hashes: vec![ChunkHash::of(&large)] });
    let mut batch = kit.service.upload();
    let sent = bytes::Bytes::from(large.clone());
    crate::blocking::block_on(batch.put(ChunkHash::of(&large), sent)).unwrap();
    crate::blocking::block_on(batch.finish()).unwrap();
    assert_eq!(kit.send(request()).unwrap().outcomes, [GroupOutcome::Accepted]);
}

#[test]
fn a_manifest_that_lies_about_a_length_is_refused() {
    let kit = Kit::new();
    let id = NodeId::generate();
    let chunks = vec![ChunkRef { hash: ChunkHash::of(b"small"), len: 6 }];
    let manifest = Manifest { chunk_log2: 14, chunks };
    let record = with(id, NodeKind::File, |node| {
        node.size = 6;
        node.content = Some(manifest.id());
    });
    let changes = vec![put(None, record), put(None, entry(ROOT, "a", id))];
    let mut request = kit.request(vec![ChangeGroup { changes }], &[b"small"]);
    request.contents = vec![NewContent { manifest, file_hash: None }];
    let reply = kit.send(request).unwrap();
    let GroupOutcome::Refused { reason: Refusal::Invalid { why, .. }, .. } = &reply.outcomes[0] else {
        panic!("{reply:?}")
    };
    assert!(why.contains("5 bytes"), "{why}");
}

#[test]
fn a_refusal_reports_other_records_up_to_a_limit() {
    use dfs_shared::record::ChangeGroup;
    let kit = Kit::new();
    let (dir, made) = kit.directory("dir");
    let (file, filled_at) = kit.file(ROOT, "file");
    let max = REFUSAL_RECORDS_MAX;
    let add = |numbers: std::ops::Range<usize>| {
        let group = |number: usize| {
            let (id, name) = (NodeId::generate(), format!("{number}"));
            let link = entry(ROOT, &format!("link {number}"), file);
            let changes = [node(id, NodeKind::File), entry(dir, &name, id), link];
            ChangeGroup { changes: changes.map(|record| put(None, record)).to_vec() }
        };
        let reply = kit.commit(numbers.map(group).collect());
        assert!(reply.outcomes.iter().all(|outcome| *outcome == GroupOutcome::Accepted));
    };
    let reported = || {
        let full = kit.refuse(vec![remove(made, node_key(dir)), remove(made, entry_key(ROOT, "dir"))]);
        assert_eq!(full.0, Refusal::NotEmpty { key: node_key(dir) });
        let linked = kit.refuse(vec![remove(filled_at, node_key(file))]);
        assert_eq!(linked.0, Refusal::WrongLinkCount { key: node_key(file) });
        (full.1.len(), linked.1.len())
    };
    // Beside the group's own: each entry and what it leads to; each entry that leads to the file. One link is `file` itself.
    add(0..max - 1);
    assert_eq!(reported(), (2 + 2 * (max - 1), 1 + max));
    add(max - 1..max);
    assert_eq!(reported(), (2 + 2 * max, 1 + max));
    add(max..max + 1);
    assert_eq!(reported(), (2 + 2 * max, 1 + max));
}
