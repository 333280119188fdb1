//! The last write wins: which of two files keeps the name, in both orders of arrival, and what becomes of the other.

use super::*;
use crate::tree::policy::{Policies, Policy};
use crate::tree::{Fate, Undecided};

impl Mount {
    /// Gives a file bytes at a time.
    pub(super) fn write_at(&self, node: &LocalNode, bytes: &str, secs: i64) {
        let size = bytes.len() as u64;
        let change = ContentChange { size, mtime: at(secs), ctime: at(secs), stamp: None };
        let node = self.tree.content_changed(node.id, change).expect("noted").expect("exists");
        let chunk = ChunkRef { hash: dfs_shared::hash::ChunkHash::of(bytes.as_bytes()), len: size };
        let manifest = Manifest { chunk_log2: 14, chunks: vec![chunk] };
        let number = node.dirty_content.expect("dirty");
        let named = NamedContent { id: node.id, number, content: Some(manifest.id()), manifest };
        assert!(self.tree.set_contents(&[named]).expect("set").contains(&node.id));
    }

    fn last_write_wins(self) -> Self {
        self.tree.set_policies(Policies::new(Policy::LastWriteWins, &[]).expect("no patterns"));
        self
    }

    fn content(&self, path: &str) -> Option<ContentId> {
        self.find(path).live().expect("it is there").content
    }
}

fn edit(mount: &Mount, bytes: &str, secs: i64) {
    mount.write_at(&mount.find("f"), bytes, secs);
}

/// A save through a temporary file gives the name to a new node.
fn save(mount: &Mount, bytes: &str, secs: i64) {
    mount.write_at(&mount.make(Ino::ROOT, ".f.new", NodeKind::File), bytes, secs);
    let (from, to) = (name(".f.new"), name("f"));
    mount.tree.rename((Ino::ROOT, &from), (Ino::ROOT, &to), RenameMode::Replace, at(secs)).expect("renamed");
}

/// As [`save`], with a temporary file that the server knows.
fn save_known(mount: &Mount, bytes: &str, secs: i64) {
    mount.write_at(&mount.find("t"), bytes, secs);
    let (from, to) = (name("t"), name("f"));
    mount.tree.rename((Ino::ROOT, &from), (Ino::ROOT, &to), RenameMode::Replace, at(secs)).expect("renamed");
}

fn make(mount: &Mount, bytes: &str, secs: i64) {
    mount.write_at(&mount.make(Ino::ROOT, "new", NodeKind::File), bytes, secs);
}

type Write = fn(&Mount, &str, i64);

/// What two mounts do to one name.
const ROWS: &[(&str, Write, Write)] = &[
    ("f", edit, edit),
    ("f", edit, save),
    ("f", save, edit),
    ("f", save, save),
    ("f", edit, save_known),
    ("f", save_known, edit),
    ("new", make, make),
];

/// Two mounts as [`pair`] has them, that also agree on `/t`.
fn mounts() -> (Server, Mount, Mount) {
    let (mut server, mut one, mut two) = pair();
    one.write(&one.make(Ino::ROOT, "t", NodeKind::File), "temporary");
    one.sync(&mut server);
    two.sync(&mut server);
    (server, one.last_write_wins(), two.last_write_wins())
}

/// Does what is to be done with the only copy once the server has its content, and returns that.
fn file_copy(mount: &Mount) -> Option<ContentId> {
    let [Undecided { copy, original, fate: Fate::History, .. }] = mount.tree.undecided()[..] else {
        panic!("one is to be filed: {:?}", mount.tree.undecided())
    };
    let record = mount.tree.node_by_id(copy).expect("a store").expect("a copy").record.expect("live");
    let names = mount.tree.names_of(original).expect("a store");
    assert!(!names.is_empty(), "the history belongs to a file that is there");
    let other = content_of("written on since");
    assert!(mount.tree.drop_filed(copy, other, at(400)).expect("a store").is_none(), "another content");
    assert!(mount.tree.drop_filed(copy, record.content, at(400)).expect("a store").is_some());
    assert!(mount.tree.undecided().is_empty() && mount.tree.conflicts().expect("a store").is_empty());
    record.content
}

#[test]
fn the_later_content_keeps_the_name_in_both_orders_and_the_earlier_is_replaced_or_filed() {
    for (path, left, right) in ROWS {
        for (left_at, right_at) in [(300, 400), (400, 300)] {
            let (mut server, mut one, mut two) = mounts();
            left(&one, "from the first", left_at);
            right(&two, "from the second", right_at);
            one.sync(&mut server);
            two.pull(&server);
            let what = format!("{path}, {left_at}, {right_at}");
            let (winner, loser) = match left_at > right_at {
                true => ("from the first", "from the second"),
                false => ("from the second", "from the first"),
            };
            assert_eq!(two.content(path), content_of(winner), "{what}");
            if left_at > right_at {
                assert_eq!(file_copy(&two), content_of(loser), "{what}");
            } else {
                assert_eq!(
                    two.tree.undecided(),
                    [],
                    "{what}: the server's version becomes history by itself"
                );
            }
            let mut two = two.restart().last_write_wins();
            two.sync(&mut server);
            one.sync(&mut server);
            two.sync(&mut server);
            assert_eq!(one.listing(), two.listing(), "{what}");
            assert_eq!(one.content(path), content_of(winner), "{what}");
            let copies: Vec<_> = one.paths().into_iter().filter(|path| path.contains("conflict")).collect();
            assert_eq!(copies, Vec::<String>::new(), "{what}");
        }
    }
}

#[test]
fn contents_of_the_same_time_have_the_same_winner_on_both_sides() {
    let contents = ["one", "another"];
    let wanted = contents.map(content_of).into_iter().max().expect("two");
    for (path, left, right) in ROWS {
        for (first, second) in [(0, 1), (1, 0)] {
            let (mut server, mut one, mut two) = mounts();
            left(&one, contents[first], 300);
            right(&two, contents[second], 300);
            one.sync(&mut server);
            two.pull(&server);
            assert_eq!(two.content(path), wanted, "{path}");
        }
    }
}

#[test]
fn bytes_that_are_not_hashed_yet_are_hashed_only_where_the_time_does_not_decide() {
    for (path, left, right) in ROWS {
        for (secs, is_asked) in [(299, false), (300, true), (301, false)] {
            let (mut server, mut one, two) = mounts();
            left(&one, "from the first", 300);
            right(&two, "written by two", secs);
            let node = two.find(path);
            let change = ContentChange { size: 20, mtime: at(secs), ctime: at(secs), stamp: None };
            two.tree.content_changed(node.id, change).expect("noted");
            one.sync(&mut server);
            let records: Vec<CurrentRecord> = server
                .records
                .iter()
                .filter(|(key, versioned)| two.seen.get(key) != Some(&versioned.revision))
                .map(|(key, versioned)| CurrentRecord { key: key.clone(), value: Some(versioned.clone()) })
                .chain(
                    two.seen
                        .keys()
                        .filter(|key| !server.records.contains_key(key))
                        .map(|key| CurrentRecord { key: key.clone(), value: None }),
                )
                .collect();
            let options = ApplyOptions { at: at(500), force_conflicts: false, lost_after: None };
            match two.tree.apply(&records, options) {
                Err(TreeError::HashFirst { nodes }) => {
                    assert!(is_asked && nodes == [node.id], "{path} {secs}: {nodes:?}");
                    let options = ApplyOptions { force_conflicts: true, ..options };
                    two.tree.apply(&records, options).expect("both can be kept");
                }
                Ok(_) => assert!(!is_asked, "{path} {secs}"),
                Err(error) => panic!("{path} {secs}: {error}"),
            }
            assert_eq!(two.tree.undecided().len(), usize::from(secs <= 300), "{path} {secs}");
        }
    }
}

#[test]
fn an_edit_survives_a_later_deletion_and_what_is_no_file_on_both_sides_is_kept_twice() {
    for edit_first in [true, false] {
        let (mut server, mut one, mut two) = mounts();
        let (editing, removing) = if edit_first { (&one, &two) } else { (&two, &one) };
        edit(editing, "edited", 300);
        removing.tree.unlink(Ino::ROOT, &name("f"), at(9_000)).expect("removed");
        one.sync(&mut server);
        two.sync(&mut server);
        assert_eq!(two.content("f"), content_of("edited"));
    }
    for first_is_file in [true, false] {
        let (mut server, mut one, mut two) = mounts();
        let (first, second) = match first_is_file {
            true => (NodeKind::File, NodeKind::Directory),
            false => (NodeKind::Directory, NodeKind::File),
        };
        one.make(Ino::ROOT, "new", first);
        two.make(Ino::ROOT, "new", second);
        one.sync(&mut server);
        two.sync(&mut server);
        assert_eq!(
            two.paths().iter().filter(|path| path.starts_with("/new")).count(),
            2,
            "{:?}",
            two.paths()
        );
        assert_eq!(two.tree.undecided(), []);
    }
}

#[test]
fn a_file_with_another_name_and_one_with_unsent_bytes_are_never_taken_away() {
    // The local file has a second name: it stays there, so it stays beside the server's, too.
    let (mut server, mut one, mut two) = mounts();
    make(&one, "from the first", 400);
    make(&two, "from the second", 300);
    two.tree.link(two.find("new").ino, Ino::ROOT, &name("link"), at(300)).expect("linked");
    one.sync(&mut server);
    two.sync(&mut server);
    assert_eq!(two.content("link"), content_of("from the second"));
    assert_eq!(two.tree.undecided(), []);
    // The server moved a file onto the name of a later one, and its bytes were changed here: the server never saw them.
    let (mut server, mut one, mut two) = mounts();
    let (from, to) = (name("t"), name("new"));
    one.tree.rename((Ino::ROOT, &from), (Ino::ROOT, &to), RenameMode::Replace, at(300)).expect("renamed");
    two.write_at(&two.find("t"), "only here", 310);
    make(&two, "from the second", 400);
    one.sync(&mut server);
    two.sync(&mut server);
    let contents: Vec<_> = two.listing().into_values().map(|(_, content, _)| content).collect();
    assert!(contents.contains(&content_of("only here")), "{:?}", two.paths());
    assert!(contents.contains(&content_of("from the second")), "{:?}", two.paths());
}

#[test]
fn only_paths_with_the_policy_have_a_last_write() {
    let (mut server, mut one, mut two) = pair();
    let patterns = [("*.log".to_owned(), Policy::LastWriteWins)];
    two.tree.set_policies(Policies::new(Policy::KeepBoth, &patterns).expect("a pattern"));
    for path in ["a.log", "a.txt"] {
        one.write_at(&one.make(Ino::ROOT, path, NodeKind::File), "from the first", 300);
        two.write_at(&two.make(Ino::ROOT, path, NodeKind::File), "from the second", 400);
    }
    one.sync(&mut server);
    two.sync(&mut server);
    assert_eq!(two.content("a.log"), content_of("from the second"));
    assert_eq!(two.content("a.txt"), content_of("from the first"));
    assert_eq!(two.paths().len(), 6, "{:?}", two.paths());
}
