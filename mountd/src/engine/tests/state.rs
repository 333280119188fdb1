//! A state directory that was lost, or that is older than what was written from it.

use std::path::Path;

use super::rig::{Rig, bytes_of, until};
use crate::remote::memory::MemoryRemote;

const LEN: usize = 300_000;

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a disk");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            match std::fs::copy(entry.path(), to.join(entry.file_name())) {
                // The store's last threads are still cleaning up.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{copied:?}"),
            }
        }
    }
}

/// Removes what a directory holds but `kept`.
fn empty(dir: &Path, kept: &str) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            _ if path.ends_with(kept) => {}
            true => std::fs::remove_dir_all(path).expect("a disk"),
            false => std::fs::remove_file(path).expect("a disk"),
        }
    }
}

fn fetch(rig: &Rig, name: &str, len: usize) {
    until("the name is there", || rig.exists(name));
    rig.fetch(name, 0..len as u64).expect("the server has it");
}

fn hole(first: usize) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    bytes[0] = u8::try_from(first).expect("a small number");
    bytes
}

fn names(first: u64, count: u64) -> Vec<String> {
    (first..first + count).map(|n| format!("f{n}")).collect()
}

// S50
#[test]
fn no_bytes_of_a_lost_state_directory_come_back_in_other_files() {
    let server = MemoryRemote::new();
    let (writer, mut one) = (Rig::new(&server), Rig::new(&server));
    // Every other one is a hole but for its first byte.
    let bytes = |n: usize| if n.is_multiple_of(2) { bytes_of(LEN, n as u64) } else { hole(n) };
    for (n, name) in names(0, 8).iter().enumerate() {
        writer.write(name, &bytes(n)[..if n.is_multiple_of(2) { LEN } else { 1 }]);
        writer.cut(name, LEN as u64);
    }
    writer.flush();
    names(0, 8).iter().for_each(|name| fetch(&one, name, LEN));
    one.kill();
    // As by somebody who removes ~/.local/state and not ~/.cache.
    empty(one.dir(), "cache");
    one.start(&server);
    // In another order than before, and new ones among them.
    for (n, name) in names(0, 8).iter().enumerate().rev() {
        one.write(&format!("new {name}"), b"");
        fetch(&one, name, LEN);
        assert!(one.here(name) == Some(bytes(n)), "{name} has the bytes of another one");
        assert_eq!(one.here(&format!("new {name}")).as_deref(), Some(&b""[..]));
        one.write(&format!("new {name}"), b"mine");
        assert_eq!(one.here(&format!("new {name}")).as_deref(), Some(&b"mine"[..]));
    }
    one.flush();
}

// S50
#[test]
fn what_was_written_under_a_lost_tree_is_set_aside() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.online();
    server.set_online(false);
    one.write("never sent", b"the only copy");
    one.kill();
    std::fs::remove_dir_all(one.dir().join("tree")).expect("a disk");
    server.set_online(true);
    one.start(&server);
    one.online();
    assert!(!one.exists("never sent"));
    let lost = std::fs::read_dir(one.dir().join("lost")).expect("a directory");
    let lost: Vec<_> = lost.map(|entry| std::fs::read(entry.expect("an entry").path())).collect();
    assert!(
        lost.iter().any(|bytes| bytes.as_deref().is_ok_and(|bytes| bytes == b"the only copy")),
        "{lost:?}"
    );
    let is_said = |rig: &Rig| rig.status().notices.iter().any(|notice| notice.contains("/lost"));
    assert!(is_said(&one), "{:#?}", one.status());
    one.kill();
    one.start(&server);
    assert!(is_said(&one), "as long as they are there: {:#?}", one.status());
}

// S50
#[test]
fn a_state_directory_that_is_older_than_what_was_written_from_it_loses_nothing() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.write("edited", b"before");
    one.write("other", &bytes_of(LEN, 1));
    one.flush();
    one.kill();
    let old = tempfile::tempdir().expect("a directory");
    copy(one.dir(), old.path());
    std::fs::remove_dir_all(old.path().join("cache")).expect("a disk");
    one.start(&server);
    one.write("edited", b"after");
    one.write("made later", &bytes_of(LEN, 2));
    one.flush();
    server.set_online(false);
    one.write("made last", b"never sent");
    one.kill();
    // All but the cache directory.
    empty(one.dir(), "cache");
    copy(old.path(), one.dir());
    one.start(&server);
    one.write("new", b"mine");
    one.write("edited", b"mine, too");
    server.set_online(true);
    one.flush();
    let other = Rig::new(&server);
    other.online();
    let found = |name: &str, bytes: &[u8]| {
        fetch(&other, name, bytes.len());
        assert!(other.here(name).as_deref() == Some(bytes), "{name}");
    };
    found("new", b"mine");
    found("made later", &bytes_of(LEN, 2));
    let copies: Vec<_> =
        other.names().into_iter().filter(|name| name.starts_with("edited (conflict")).collect();
    let [copy] = &copies[..] else { panic!("{:?}", other.names()) };
    found("edited", b"after");
    found(copy, b"mine, too");
    let told = one.status().notices;
    assert!(told.iter().any(|notice| notice.contains("older than what was written from it")), "{told:#?}");
}

// S50
#[test]
fn two_mounts_from_copies_of_one_state_directory_lose_nothing() {
    let server = MemoryRemote::new();
    let (mut one, mut other) = (Rig::new(&server), Rig::new(&server));
    one.write("shared", b"before");
    one.flush();
    one.kill();
    other.kill();
    empty(other.dir(), "nothing");
    copy(one.dir(), other.dir());
    one.start(&server);
    other.start(&server);
    one.online();
    other.online();
    for round in 0..4 {
        one.write(&format!("one {round}"), b"of one");
        other.write(&format!("other {round}"), b"of the other");
        one.flush();
        other.flush();
    }
    let all = 9;
    until("both have all", || one.names().len() == all && other.names().len() == all);
    let told = [one.status().notices, other.status().notices].concat();
    assert!(told.iter().any(|notice| notice.contains("copy of another mount's")), "{told:#?}");
}

// S50
#[test]
fn a_mount_restored_as_a_whole_does_not_take_replies_to_what_it_forgot_for_its_own() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.write("first", b"1");
    one.flush();
    one.kill();
    let old = tempfile::tempdir().expect("a directory");
    copy(one.dir(), old.path());
    one.start(&server);
    one.online();
    one.write("second", b"2");
    one.flush();
    one.kill();
    empty(one.dir(), "nothing");
    copy(old.path(), one.dir());
    one.start(&server);
    one.online();
    // One of these has the number that the second one had.
    for round in 3..7 {
        one.write(&format!("later {round}"), b"3");
        one.flush();
    }
    let other = Rig::new(&server);
    let all = ["first", "later 3", "later 4", "later 5", "later 6", "second"];
    until("all are there", || other.names() == all && one.names() == all);
    let told = one.status().notices;
    assert!(told.iter().any(|notice| notice.contains("copy of another mount's")), "{told:#?}");
}

// S50
#[test]
fn a_new_mount_of_a_known_name_says_that_its_state_may_be_lost() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    assert!(one.status().notices.is_empty());
    let mut other = Rig::new(&server);
    let is_told = |rig: &Rig| {
        rig.status().notices.iter().any(|notice| notice.contains("knows host-1 of the same name"))
    };
    until("it is told", || is_told(&other));
    other.kill();
    other.start(&server);
    other.write("f", b"x");
    other.flush();
    assert!(!is_told(&other), "it is known now");
}

// S51
#[test]
fn a_clock_that_is_wrong_is_told_of_until_it_is_right() {
    let server = MemoryRemote::new();
    server.set_clock_ahead(-90);
    let one = Rig::new(&server);
    let told = |rig: &Rig, part: &str| rig.status().notices.iter().any(|notice| notice.contains(part));
    until("it is told", || told(&one, " s ahead of the server's"));
    server.set_online(false);
    server.set_clock_ahead(3600);
    server.set_online(true);
    until("the other way, too", || told(&one, " s behind the server's"));
    server.set_online(false);
    server.set_clock_ahead(20);
    server.set_online(true);
    until("it is right", || one.status().notices.is_empty());
}
