//! Where names stand in their directories while these are read.

use super::*;

/// Reads a directory in parts of ten names; `work` is done after each with its names.
fn read(mount: &Mount, mut work: impl FnMut(&[Name])) -> Vec<Name> {
    let (mut seen, mut after) = (Vec::new(), Cookie(0));
    loop {
        let part = mount.tree.read_dir(NodeId::ROOT, after, 10).expect("read");
        let Some(last) = part.last() else { return seen };
        after = last.target.cookie;
        let names: Vec<Name> = part.into_iter().map(|entry| entry.name).collect();
        work(&names);
        seen.extend(names);
        assert!(seen.len() <= 1000, "it never ends");
    }
}

fn made(count: usize) -> Mount {
    let mount = Mount::new("one");
    for number in 0..count {
        mount.make(Ino::ROOT, &format!("f{number:02}"), NodeKind::File);
    }
    mount
}

fn rename(mount: &Mount, from: &Name, to: &Name, mode: RenameMode) {
    mount.tree.rename((Ino::ROOT, from), (Ino::ROOT, to), mode, at(300)).expect("renamed");
}

// S22
#[test]
fn who_renames_every_file_that_it_reads_comes_to_an_end() {
    let mount = made(50);
    let seen = read(&mount, |names| {
        for old in names {
            rename(&mount, old, &name(&format!("a {old}")), RenameMode::NoReplace);
        }
    });
    assert_eq!(seen.len(), 50);
    assert_eq!(read(&mount, |_| {}).len(), 50);
    assert_eq!(mount.tree.audit().expect("a store"), Vec::<String>::new());
}

// S22
#[test]
fn a_name_whose_file_is_replaced_meanwhile_is_read_once() {
    let mount = made(50);
    let mut round = 0;
    let seen = read(&mount, |_| {
        // Saves of a name that was read, and of one that was not.
        for old in ["f03", "f47"].map(name) {
            let new = mount.make(Ino::ROOT, "saving", NodeKind::File);
            rename(&mount, &name("saving"), &old, RenameMode::Replace);
            assert_eq!(mount.tree.lookup(Ino::ROOT, &old).expect("a store").expect("it").id, new.id);
        }
        rename(&mount, &name("f05"), &name("f45"), RenameMode::Exchange);
        round += 1;
    });
    assert!(round >= 5);
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((seen.len(), sorted.len()), (50, 50), "{seen:?}");
    assert_eq!(mount.tree.audit().expect("a store"), Vec::<String>::new());
}

#[test]
fn a_file_that_moves_aside_for_a_new_one_in_the_same_batch_has_a_position_of_its_own() {
    let (mut one, mut other) = (made(3), Mount::new("other"));
    let mut server = Server::default();
    one.sync(&mut server);
    other.sync(&mut server);
    for _ in 0..3 {
        rename(&one, &name("f01"), &name("f01~"), RenameMode::Replace);
        one.make(Ino::ROOT, "f01", NodeKind::File);
        one.sync(&mut server);
        other.sync(&mut server);
        for mount in [&one, &other] {
            assert_eq!(mount.tree.audit().expect("a store"), Vec::<String>::new());
            assert_eq!(read(mount, |_| {}).len(), 4);
        }
    }
}
