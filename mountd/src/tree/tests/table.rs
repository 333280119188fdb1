//! Rows of the conflict table that need a whole tree: saves that replace the node, and names of conflict copies.

use super::*;
use crate::tree::content::{ContentState, FileId, Place, Present, Stamp};
use crate::tree::policy::{Policies, Policy};
use crate::tree::{Merged, Undecided};

/// A save through a temporary file gives the name to a new node.
fn save_by_rename(mount: &Mount, bytes: &str) {
    mount.write(&mount.make(Ino::ROOT, ".f.new", NodeKind::File), bytes);
    let (from, to) = (name(".f.new"), name("f"));
    mount.tree.rename((Ino::ROOT, &from), (Ino::ROOT, &to), RenameMode::Replace, at(300)).expect("renamed");
}

#[test]
fn an_edit_and_a_save_by_rename_are_kept_beside_each_other_in_both_orders() {
    for save_first in [true, false] {
        let (server, one, two) = pair();
        let (saving, editing) = if save_first { (&one, &two) } else { (&two, &one) };
        save_by_rename(saving, "saved");
        editing.write(&editing.find("f"), "edited");
        let (one, _) = settle(server, one, two);
        let listing = one.listing();
        let (first, second) = if save_first { ("saved", "edited") } else { ("edited", "saved") };
        assert_eq!(listing["/f"].1, content_of(first));
        assert_eq!(listing["/f (conflict two 2023-11-14 22.13.20)"].1, content_of(second));
        assert_eq!(listing.len(), 4, "{:?}", listing.keys());
    }
}

#[test]
fn a_conflict_copy_never_takes_the_name_of_a_file_of_that_form() {
    let (server, one, two) = pair();
    let form = "f (conflict two 2023-11-14 22.13.20)";
    two.write(&two.make(Ino::ROOT, form, NodeKind::File), "a user's own");
    one.write(
        &one.make(
            Ino::ROOT,
            &format!("{}2)", form.strip_suffix(')').expect("a bracket").to_owned() + " "),
            NodeKind::File,
        ),
        "another",
    );
    one.write(&one.find("f"), "from one");
    two.write(&two.find("f"), "from two");
    let (one, _) = settle(server, one, two);
    let listing = one.listing();
    assert_eq!(listing[&format!("/{form}")].1, content_of("a user's own"));
    assert_eq!(listing["/f (conflict two 2023-11-14 22.13.20 2)"].1, content_of("another"));
    assert_eq!(listing["/f (conflict two 2023-11-14 22.13.20 3)"].1, content_of("from two"));
}

#[test]
fn a_file_of_the_form_of_a_conflict_copy_is_an_ordinary_file() {
    let (mut server, mut one, mut two) = pair();
    let form = "x (conflict h 2026-01-01 00.00.00).txt";
    one.write(&one.make(Ino::ROOT, form, NodeKind::File), "base");
    one.sync(&mut server);
    two.sync(&mut server);
    one.write(&one.find(form), "one");
    two.write(&two.find(form), "two");
    let (one, _) = settle(server, one, two);
    let listing = one.listing();
    assert_eq!(listing[&format!("/{form}")].1, content_of("one"));
    let copy = "/x (conflict h 2026-01-01 00.00.00) (conflict two 2023-11-14 22.13.20).txt";
    assert_eq!(listing[copy].1, content_of("two"));
}

#[test]
fn a_merge_is_taken_in_one_batch_and_only_of_what_was_merged() {
    let (mut server, mut one, mut two) = pair();
    two.tree.set_policies(Policies::new(Policy::Merge, &[]).expect("no patterns"));
    one.write(&one.find("f"), "from one");
    two.write(&two.find("f"), "from two");
    one.sync(&mut server);
    two.pull(&server);
    // A crash before the merge leaves both versions and what is to be done.
    let mut two = two.restart();
    assert_eq!(two.paths().len(), 4);
    let [Undecided { copy, original, base, .. }] = two.tree.undecided()[..] else {
        panic!("one is to be merged")
    };
    assert_eq!(base, content_of("old"));
    let chunk = ChunkRef { hash: dfs_shared::hash::ChunkHash::of(b"merged"), len: 6 };
    let manifest = Manifest { chunk_log2: 14, chunks: vec![chunk] };
    let row = ContentState {
        file: FileId(two.tree.next_number().expect("a number")),
        place: Place::State,
        content: Some(manifest.id()),
        present: Present::All,
        stamp: Stamp::default(),
    };
    let take = |local, remote| {
        let merged = Merged {
            copy,
            original,
            local: (None, content_of(local)),
            remote: content_of(remote),
            manifest: &manifest,
        };
        two.tree.take_merged(merged, &row, at(400)).expect("a store")
    };
    assert!(take("from two, edited", "from one").is_none(), "the local version is another");
    assert!(take("from two", "from one, edited").is_none(), "the server's version is another");
    assert_eq!(two.paths().len(), 4, "nothing was done");
    assert!(take("from two", "from one").is_some());
    assert_eq!(two.paths(), ["/d", "/e", "/f"]);
    assert_eq!(two.tree.undecided(), []);
    two = two.restart();
    assert_eq!(two.tree.undecided(), []);
    two.sync(&mut server);
    one.sync(&mut server);
    assert_eq!(one.listing()["/f"].1, content_of("merged"));
    assert_eq!(one.listing(), two.listing());
}

#[test]
fn a_conflict_that_cannot_be_merged_stays_for_others_to_decide_until_one_version_is_gone() {
    let (mut server, mut one, mut two) = pair();
    two.tree.set_policies(
        Policies::new(Policy::KeepBoth, &[("f".to_owned(), Policy::Manual)]).expect("a pattern"),
    );
    one.write(&one.find("f"), "from one");
    two.write(&two.find("f"), "from two");
    one.sync(&mut server);
    two.pull(&server);
    let two = two.restart();
    let open = two.tree.conflicts().expect("a store");
    let [conflict] = &open[..] else { panic!("{open:?}") };
    assert_eq!(conflict.path, b"f");
    assert_eq!(conflict.copy_path, b"f (conflict two 2023-11-14 22.13.20)");
    assert_eq!((conflict.host.as_str(), conflict.manual), ("two", true));
    for path in ["f", "f (conflict two 2023-11-14 22.13.20)"] {
        assert!(two.tree.is_marked_conflict(two.find(path).id), "{path}");
    }
    assert!(!two.tree.is_marked_conflict(two.find("d").id));
    two.tree.unlink(Ino::ROOT, &name("f (conflict two 2023-11-14 22.13.20)"), at(500)).expect("gone");
    assert!(!two.tree.is_marked_conflict(two.find("f").id));
    assert_eq!(two.tree.conflicts().expect("a store"), []);
    assert_eq!(two.restart().tree.conflicts().expect("a store"), []);
}
