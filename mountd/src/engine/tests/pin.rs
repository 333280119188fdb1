//! What is pinned is fetched by itself, and stays.

use super::rig::{Rig, bytes_of, until};
use crate::cache::CacheError;
use crate::engine::PinError;
use crate::remote::memory::MemoryRemote;

const MIB: usize = 1 << 20;

/// A mount that wrote `names`, each with its own bytes, and another one that has read none of them.
fn pair(server: &MemoryRemote, names: &[&str], other: Rig) -> (Rig, Rig) {
    let one = Rig::new(server);
    one.online();
    other.online();
    for (seed, name) in names.iter().enumerate() {
        one.write(name, &bytes_of(2 * MIB, seed as u64));
    }
    one.flush();
    other.until("the files are there", || names.iter().all(|name| other.content(name).is_some()));
    (one, other)
}

fn arrives(rig: &Rig, name: &str, bytes: &[u8]) {
    until("the bytes are here", || rig.here(name).as_deref() == Some(bytes));
}

// S45
#[test]
fn a_pinned_file_is_fetched_in_the_background_and_others_are_not() {
    let server = MemoryRemote::new();
    let (_one, other) = pair(&server, &["f", "g"], Rig::new(&server));
    other.pin("f");
    other.wait_pinned("f").expect("the server is there");
    assert_eq!(other.here("f"), Some(bytes_of(2 * MIB, 0)));
    assert_eq!(other.here("g"), None);
    let status = other.status();
    assert_eq!((status.pins, status.pinned_missing_bytes, status.downloaded_bytes), (1, 0, 2 * MIB as u64));
}

#[test]
fn whoever_waited_finds_nothing_missing_in_the_status() {
    let server = MemoryRemote::new();
    let (_one, other) = pair(&server, &["f"], Rig::new(&server));
    for _ in 0..200 {
        other.pin("f");
        // The bytes are here for a moment before that is noted.
        while other.here("f").is_none() {}
        other.wait_pinned("f").expect("the server is there");
        assert_eq!(other.status().pinned_missing_bytes, 0);
        other.unpin("f");
        until("nobody uses it", || other.try_evict("f").is_ok());
    }
}

// S45
#[test]
fn a_new_version_and_a_new_file_are_fetched_by_themselves() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.make_dir("dir");
    let other = Rig::new(&server);
    one.flush();
    other.online();
    other.until("the directory is there", || other.exists("dir"));
    other.pin("dir");
    one.write("dir/f", &bytes_of(2 * MIB, 1));
    arrives(&other, "dir/f", &bytes_of(2 * MIB, 1));
    // Nothing of the old version can be used, and it is not here as a whole when the new one comes.
    one.write("dir/f", &bytes_of(3 * MIB, 2));
    arrives(&other, "dir/f", &bytes_of(3 * MIB, 2));
}

// S46
#[test]
fn what_is_moved_under_a_pinned_directory_here_or_elsewhere_is_fetched_and_what_leaves_it_is_free() {
    let server = MemoryRemote::new();
    let (one, other) = pair(&server, &["f", "g", "h"], Rig::new(&server));
    one.make_dir("dir");
    one.make_dir("dir/below");
    one.write("dir/first", &bytes_of(MIB, 3));
    one.flush();
    other.until("the directories are there", || {
        other.exists("dir/below") && other.content("dir/first").is_some()
    });
    other.pin("dir");
    // Once this is here, all that was there has been looked at.
    other.wait_pinned("dir").expect("the server is there");
    other.rename("f", "dir/below/f");
    arrives(&other, "dir/below/f", &bytes_of(2 * MIB, 0));
    one.rename("g", "dir/g");
    arrives(&other, "dir/g", &bytes_of(2 * MIB, 1));
    assert_eq!(other.here("h"), None);
    assert!(matches!(other.try_evict("dir/g"), Err(CacheError::Pinned { by }) if by == other.id("dir")));
    other.rename("dir/g", "g");
    until("nobody uses it", || other.try_evict("g").is_ok());
}

// S45
#[test]
fn a_pin_that_was_set_without_the_server_is_remembered_over_a_restart() {
    let server = MemoryRemote::new();
    let (_one, mut other) = pair(&server, &["f"], Rig::new(&server));
    server.set_online(false);
    until("it is noticed", || other.status().state == "offline");
    other.pin("f");
    assert!(matches!(other.wait_pinned("f"), Err(PinError::Offline)));
    until("it is looked at", || other.status().pinned_missing_bytes == 2 * MIB as u64);
    other.kill();
    other.start(&server);
    server.set_online(true);
    arrives(&other, "f", &bytes_of(2 * MIB, 0));
}

#[test]
fn a_file_that_cannot_be_fetched_is_named_and_the_others_come() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.make_dir("dir");
    for n in 0..20 {
        one.write(&format!("dir/f{n:02}"), &bytes_of(MIB, n));
    }
    one.flush();
    let other = Rig::new(&server);
    other.online();
    server.corrupt_chunk(one.manifest("dir/f00").chunks[0].hash);
    other.pin("dir");
    let error = other.wait_pinned("dir").expect_err("a chunk is damaged");
    assert!(
        matches!(&error, PinError::NotFetched { count: 1, shown } if shown[0].contains("dir/f00")),
        "{error}"
    );
    for n in 1..20 {
        assert_eq!(other.here(&format!("dir/f{n:02}")), Some(bytes_of(MIB, n)), "{n}");
    }
    assert!(other.status().notices.iter().any(|notice| notice.contains("dir/f00 is pinned")));
}

// S45
#[test]
fn making_room_takes_other_files_and_leaves_pinned_ones() {
    let server = MemoryRemote::new();
    let (_one, other) = pair(&server, &["a", "b", "c"], Rig::bounded(&server, 5 * MIB as u64));
    other.pin("a");
    other.wait_pinned("a").expect("the server is there");
    for name in ["b", "c"] {
        other.fetch(name, 0..2 * MIB as u64).expect("bytes");
    }
    // The pinned file was used longest ago.
    until("there is room", || {
        other.make_room();
        other.status().cache_bytes <= 5 * MIB as u64
    });
    assert_eq!(other.here("a"), Some(bytes_of(2 * MIB, 0)));
    assert!(other.here("b").is_none() || other.here("c").is_none());
    assert!(other.status().notices.is_empty());
}

#[test]
fn what_is_pinned_and_does_not_fit_is_kept_and_told_once() {
    let server = MemoryRemote::new();
    let (_one, other) = pair(&server, &["a", "b"], Rig::bounded(&server, 3 * MIB as u64));
    for name in ["a", "b"] {
        other.pin(name);
        other.wait_pinned(name).expect("the server is there");
    }
    other.make_room();
    let told = || other.status().notices.iter().filter(|notice| notice.contains("--cache-size")).count();
    until("it is told", || told() == 1);
    other.pin("a");
    other.wait_pinned("a").expect("it is here");
    assert_eq!(told(), 1);
    for (name, seed) in [("a", 0), ("b", 1)] {
        assert_eq!(other.here(name), Some(bytes_of(2 * MIB, seed)));
    }
}
