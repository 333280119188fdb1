//! Rows of the conflict table that need a whole tree: saves that replace the node, and names of conflict copies.

use super::*;

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
