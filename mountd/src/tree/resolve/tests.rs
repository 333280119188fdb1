//! The conflict table, row by row, of nodes and of entries.

use std::collections::BTreeMap;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::record::{NodeKind, NodeRecord};
use dfs_shared::time::Timestamp;

use super::{EntryVerdict, LocalView, NodeVerdict, Rules, entry, node};

const ID: NodeId = NodeId::from_bytes([7; 16]);
const RULES: Rules = Rules { force: false, last_write_wins: false };
const LAST_WRITE_WINS: Rules = Rules { last_write_wins: true, ..RULES };

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

fn content(text: &str) -> Option<ContentId> {
    let chunk = ChunkRef { hash: ChunkHash::of(text.as_bytes()), len: text.len() as u64 };
    (!text.is_empty()).then(|| Manifest { chunk_log2: 14, chunks: vec![chunk] }.id())
}

fn file(text: &str) -> NodeRecord {
    NodeRecord {
        id: ID,
        kind: NodeKind::File,
        mode: 0o644,
        uid: 1,
        gid: 1,
        atime: at(1),
        mtime: at(1),
        ctime: at(1),
        crtime: at(1),
        size: text.len() as u64,
        content: content(text),
        rdev: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    }
}

fn edited(text: &str, secs: i64) -> NodeRecord {
    NodeRecord { mtime: at(secs), ctime: at(secs), ..file(text) }
}

fn with_xattr(mut record: NodeRecord, name: &str, value: &str) -> NodeRecord {
    record.xattrs.insert(name.as_bytes().to_vec(), value.as_bytes().to_vec());
    record
}

fn decide(local: Option<&NodeRecord>, remote: Option<&NodeRecord>) -> NodeVerdict {
    node(Some(&file("base")), LocalView { record: local, dirty_content: false }, remote, RULES)
}

fn merged(verdict: NodeVerdict) -> NodeRecord {
    match verdict {
        NodeVerdict::Merge(record) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_edit_is_unified_and_different_ones_fork_with_the_servers_content() {
    let (left, right) = (edited("left", 2), edited("right", 3));
    for (here, there) in [(&left, &right), (&right, &left)] {
        assert_eq!(
            merged(decide(Some(here), Some(&edited(if here == &left { "left" } else { "right" }, 9))))
                .content,
            here.content
        );
        match decide(Some(here), Some(there)) {
            NodeVerdict::Fork(record) => {
                assert_eq!(
                    (record.content, record.size, record.mtime),
                    (there.content, there.size, there.mtime)
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn bytes_without_a_name_are_hashed_only_where_they_may_be_the_same() {
    let base = file("base");
    let dirty = |here: &NodeRecord, there: &NodeRecord, force| {
        let rules = Rules { force, ..RULES };
        node(Some(&base), LocalView { record: Some(here), dirty_content: true }, Some(there), rules)
    };
    let (here, same_length, longer) = (edited("aaaa", 2), edited("bbbb", 3), edited("ccccc", 3));
    assert_eq!(dirty(&here, &same_length, false), NodeVerdict::HashFirst);
    assert!(matches!(dirty(&here, &same_length, true), NodeVerdict::Fork(_)));
    assert!(matches!(dirty(&here, &longer, false), NodeVerdict::Fork(_)));
    // The server changed attributes only: there is nothing to compare with.
    let chmod = NodeRecord { mode: 0o600, ..base.clone() };
    assert_eq!(merged(dirty(&here, &chmod, false)).mode, 0o600);
}

#[test]
fn an_edit_survives_a_deletion_whichever_side_it_is_on() {
    let edit = edited("edit", 2);
    assert_eq!(decide(Some(&edit), None), NodeVerdict::Resurrect);
    assert_eq!(decide(None, Some(&edit)), NodeVerdict::Undelete);
    let unhashed = LocalView { record: Some(&file("base")), dirty_content: true };
    assert_eq!(node(Some(&file("base")), unhashed, None, RULES), NodeVerdict::Resurrect);
}

#[test]
fn a_file_that_two_sides_bring_back_after_a_deletion_forks_unless_its_bytes_are_the_same() {
    let (mine, theirs) = (edited("mine", 2), edited("their", 3));
    let decide = |here: &NodeRecord, dirty_content: bool, force: bool| {
        node(
            None,
            LocalView { record: Some(here), dirty_content },
            Some(&theirs),
            Rules { force, last_write_wins: false },
        )
    };
    assert_eq!(decide(&mine, false, false), NodeVerdict::Fork(theirs.clone()));
    assert_eq!(decide(&mine, true, false), NodeVerdict::Fork(theirs.clone()));
    assert_eq!(merged(decide(&edited("their", 4), false, false)).mtime, at(4));
    assert_eq!(decide(&edited("same?", 4), true, false), NodeVerdict::HashFirst);
    assert_eq!(decide(&edited("same?", 4), true, true), NodeVerdict::Fork(theirs.clone()));
}

#[test]
fn a_deletion_stands_against_a_change_of_attributes_whichever_side_it_is_on() {
    let chmod = NodeRecord { mode: 0o600, ctime: at(2), ..file("base") };
    assert_eq!(decide(Some(&chmod), None), NodeVerdict::TakeRemote);
    assert_eq!(decide(None, Some(&chmod)), NodeVerdict::KeepLocal);
    assert_eq!(decide(None, None), NodeVerdict::TakeRemote);
}

#[test]
fn attributes_merge_field_by_field_and_the_later_in_server_order_wins_one_field() {
    let chmod = |mode| NodeRecord { mode, ctime: at(2), ..file("base") };
    let marked = with_xattr(file("base"), "user.other", "1");
    for (here, there) in [(chmod(0o600), marked.clone()), (marked, chmod(0o600))] {
        let both = merged(decide(Some(&here), Some(&there)));
        assert_eq!(both.mode, 0o600);
        assert_eq!(both.xattrs.len(), 1);
    }
    assert_eq!(
        merged(decide(Some(&chmod(0o600)), Some(&chmod(0o640)))).mode,
        0o600,
        "what is here is sent later"
    );
    let (mine, theirs) =
        (with_xattr(file("base"), "user.x", "mine"), with_xattr(file("base"), "user.x", "theirs"));
    assert_eq!(merged(decide(Some(&mine), Some(&theirs))).xattrs[&b"user.x"[..]], b"mine");
}

#[test]
fn attributes_and_content_both_apply_whichever_side_changed_which() {
    let chmod = NodeRecord { mode: 0o600, ctime: at(5), ..file("base") };
    let edit = edited("edit", 2);
    for (here, there) in [(&chmod, &edit), (&edit, &chmod)] {
        let both = merged(decide(Some(here), Some(there)));
        assert_eq!((both.mode, both.content, both.size, both.mtime), (0o600, edit.content, 4, at(2)));
        assert_eq!(both.ctime, at(5));
    }
}

#[test]
fn an_attribute_that_one_side_removed_is_gone() {
    let base = with_xattr(file("base"), "user.x", "1");
    let view = |record| LocalView { record: Some(record), dirty_content: false };
    let (gone, kept) = (file("base"), NodeRecord { mode: 0o600, ..base.clone() });
    for (here, there) in [(&gone, &kept), (&kept, &gone)] {
        assert!(merged(node(Some(&base), view(here), Some(there), RULES)).xattrs.is_empty());
    }
}

/// What stays of a file that one side edited at `here` and the other at `there`, as the side sees it that `here` is on.
fn last_write(here: &NodeRecord, there: &NodeRecord) -> Option<ContentId> {
    match node(
        Some(&file("base")),
        LocalView { record: Some(here), dirty_content: false },
        Some(there),
        LAST_WRITE_WINS,
    ) {
        NodeVerdict::Merge(record) | NodeVerdict::Fork(record) => {
            let winner = if record.content == here.content { here } else { there };
            assert_eq!(
                (record.content, record.size, record.mtime),
                (winner.content, winner.size, winner.mtime)
            );
            record.content
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn where_the_last_write_wins_both_sides_find_the_same_winner() {
    let rows = [
        // earlier, later
        (edited("early", 2), edited("late", 3)),
        (edited("early", -5), edited("late", 0)),
        (edited("x", 2), NodeRecord { mtime: Timestamp { secs: 2, nanos: 1 }, ..edited("y", 2) }),
    ];
    for (earlier, later) in &rows {
        assert_eq!(last_write(earlier, later), later.content);
        assert_eq!(last_write(later, earlier), later.content);
    }
    // At the same time the content decides, not the side.
    for (one, other) in [("one", "other"), ("other", "a third"), ("", "not empty")] {
        let (one, other) = (edited(one, 2), edited(other, 2));
        assert_eq!(last_write(&one, &other), one.content.max(other.content));
        assert_eq!(last_write(&other, &one), one.content.max(other.content));
    }
}

#[test]
fn where_the_last_write_wins_the_loser_is_forked_and_the_winner_goes_on_top_of_the_servers_state() {
    let base = file("base");
    let decide = |here: &NodeRecord, there: &NodeRecord, dirty_content, force| {
        let rules = Rules { force, ..LAST_WRITE_WINS };
        node(Some(&base), LocalView { record: Some(here), dirty_content }, Some(there), rules)
    };
    let (early, late) = (edited("early", 2), NodeRecord { mode: 0o600, ..edited("late", 3) });
    let both = merged(decide(&late, &early, false, false));
    assert_eq!((both.content, both.mode, both.mtime), (late.content, 0o600, at(3)));
    assert!(matches!(decide(&early, &late, false, false), NodeVerdict::Fork(_)));
    // The attributes are merged as ever, whichever content stays.
    match decide(&early, &late, false, false) {
        NodeVerdict::Fork(record) => assert_eq!((record.content, record.mode), (late.content, 0o600)),
        other => panic!("{other:?}"),
    }
    // Bytes without a name win or lose by their time; only at the same time they have to be named.
    assert_eq!(merged(decide(&late, &early, true, false)).mtime, at(3));
    assert!(matches!(decide(&early, &late, true, false), NodeVerdict::Fork(_)));
    let same_time = edited("longer", 3);
    assert_eq!(decide(&same_time, &late, true, false), NodeVerdict::HashFirst);
    assert!(matches!(decide(&same_time, &late, true, true), NodeVerdict::Fork(_)));
}

#[test]
fn where_the_last_write_wins_an_edit_still_survives_a_later_deletion_and_the_same_edit_is_unified() {
    let edit = edited("edit", 2);
    let decide = |local, remote| {
        node(Some(&file("base")), LocalView { record: local, dirty_content: false }, remote, LAST_WRITE_WINS)
    };
    assert_eq!(decide(Some(&edit), None), NodeVerdict::Resurrect);
    assert_eq!(decide(None, Some(&edit)), NodeVerdict::Undelete);
    let same = edited("edit", 9);
    assert_eq!(merged(decide(Some(&same), Some(&edit))).content, edit.content);
}

#[test]
fn entries_follow_the_table() {
    let [x, y, z] = [1, 2, 3].map(|n| Some(NodeId::from_bytes([n; 16])));
    use EntryVerdict::{Collide, KeepLocal, TakeRemote};
    let rows = [
        // base, local, remote
        (None, None, x, TakeRemote),
        (x, x, y, TakeRemote),
        (x, x, None, TakeRemote),
        (x, y, x, KeepLocal),
        (None, x, None, KeepLocal),
        (x, None, x, KeepLocal),
        (None, x, x, TakeRemote),
        (None, x, y, Collide),
        (x, y, z, Collide),
        // Renamed away or removed here, renamed over there: the name is the server's.
        (x, None, y, TakeRemote),
        // Replaced here, removed there: the new one stays.
        (x, y, None, KeepLocal),
        (x, None, None, TakeRemote),
    ];
    for (base, local, remote, wanted) in rows {
        assert_eq!(entry(base, local, remote), wanted, "{base:?} {local:?} {remote:?}");
    }
}
