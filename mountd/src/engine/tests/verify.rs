//! What is damaged is named, what somebody has a good copy of is put right, and nothing else is touched.

use std::fs::File;
use std::os::unix::fs::FileExt;

use dfs_shared::record::{NodeKind, Record};

use super::rig::{Rig, bytes_of, until};
use crate::engine::verify::Scope;
use crate::remote::memory::MemoryRemote;

const LARGE: usize = 3 << 20;

/// A mount that wrote a large file, and another that fetched it.
fn two(server: &MemoryRemote) -> (Rig, Rig, Vec<u8>) {
    let (one, other) = (Rig::new(server), Rig::new(server));
    one.online();
    other.online();
    let content = bytes_of(LARGE, 1);
    one.write("small", b"a few bytes");
    one.write("large", &content);
    one.flush();
    other.until("the files are there", || {
        other.content("large").is_some() && other.content("small").is_some()
    });
    other.fetch("large", 0..LARGE as u64).expect("bytes");
    (one, other, content)
}

fn flip(at: u64) -> impl FnOnce(&File) {
    move |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a disk");
        file.write_all_at(&[byte[0] ^ 1], at).expect("a disk");
    }
}

/// Where the chunk begins that has the byte, and how long it is.
fn chunk_at(rig: &Rig, name: &str, at: u64) -> (u64, u64) {
    let manifest = rig.manifest(name);
    let found = manifest.offsets().find(|(start, chunk)| (*start..start + chunk.len).contains(&at));
    let (start, chunk) = found.expect("a chunk");
    (start, chunk.len)
}

#[test]
fn mounts_that_are_as_they_should_be_are_said_to_be() {
    let server = MemoryRemote::new();
    let (one, other, _) = two(&server);
    for rig in [&one, &other] {
        let (verified, found) = rig.verify(Scope::All, true);
        assert_eq!(found, []);
        assert_eq!((verified.files, verified.bytes), (2, LARGE as u64 + 11));
        assert!(verified.tree_compared && verified.server_revision.is_some(), "{verified:?}");
        assert_eq!(
            (verified.damaged, verified.unnamed, verified.being_written, verified.unknown),
            (0, 0, 0, 0)
        );
    }
}

#[test]
fn a_flipped_bit_is_named_and_only_its_chunk_is_fetched_anew() {
    let server = MemoryRemote::new();
    let (one, other, content) = two(&server);
    for (rig, place) in [(&one, "state"), (&other, "cache")] {
        let before = rig.status().downloaded_bytes;
        let (start, len) = chunk_at(rig, "large", 1_000_000);
        assert!(len < LARGE as u64 / 2, "there are several chunks");
        rig.rot("large", flip(1_000_000));
        let (verified, found) = rig.verify(Scope::All, true);
        let found = &found[..];
        assert_eq!((found.len(), verified.damaged, verified.repaired), (1, 1, 1), "{found:?}");
        assert_eq!((found[0].path.as_str(), found[0].place.as_str()), ("large", place));
        assert_eq!(
            (found[0].offset, found[0].bytes, found[0].repaired),
            (Some(start), len, true),
            "{found:?}"
        );
        assert_eq!(rig.here("large").as_ref(), Some(&content));
        assert_eq!(rig.status().downloaded_bytes - before, len);
        assert_eq!(rig.verify(Scope::All, true).0.damaged, 0);
    }
}

#[test]
fn a_write_behind_the_mounts_back_is_damage_too() {
    let server = MemoryRemote::new();
    let (_one, other, content) = two(&server);
    until("nobody uses it", || !other.backing("large").is_used());
    let file = File::options().read(true).write(true).open(other.backing_path("large")).expect("a file");
    flip(5)(&file);
    let (verified, _) = other.verify(Scope::File(other.id("large")), true);
    assert_eq!((verified.damaged, verified.repaired, verified.tree_compared), (1, 1, false));
    assert_eq!(other.here("large"), Some(content));
}

#[test]
fn a_lost_or_cut_backing_file_is_fetched_anew_as_a_whole() {
    let server = MemoryRemote::new();
    let (_one, other, content) = two(&server);
    until("nobody uses it", || !other.backing("large").is_used());
    std::fs::remove_file(other.backing_path("large")).expect("it is there");
    let (_, found) = other.verify(Scope::All, true);
    assert!(found.len() == 1 && found[0].repaired && found[0].what.contains("missing"), "{found:?}");
    assert_eq!((found[0].bytes, other.here("large").as_ref()), (LARGE as u64, Some(&content)));
    other.rot("large", |file| file.set_len(LARGE as u64 + 7).expect("a disk"));
    let (_, found) = other.verify(Scope::All, true);
    assert!(found.len() == 1 && found[0].repaired && found[0].bytes == 7, "{found:?}");
    other.rot("large", |file| file.set_len(LARGE as u64 - 1).expect("a disk"));
    let (_, found) = other.verify(Scope::All, true);
    assert!(found.len() == 1 && found[0].repaired, "{found:?}");
    assert_eq!(other.here("large"), Some(content));
}

#[test]
fn a_pin_keeps_no_damage() {
    let server = MemoryRemote::new();
    let (_one, other, content) = two(&server);
    other.pin("large");
    other.rot("large", |file| file.set_len(1000).expect("a disk"));
    let (verified, found) = other.verify(Scope::All, true);
    assert_eq!((verified.damaged, verified.repaired), (1, 1), "{found:?}");
    assert_eq!(other.here("large"), Some(content));
}

#[test]
fn bytes_in_a_hole_are_damage() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.write("holes", &[&bytes_of(1 << 20, 2)[..], &vec![0; 4 << 20]].concat());
    one.flush();
    let hole = one.manifest("holes").offsets().find(|(_, chunk)| chunk.hash.is_hole()).expect("a hole").0;
    let content = one.here("holes");
    one.rot("holes", flip(hole + 100));
    let (_, found) = one.verify(Scope::All, true);
    assert!(found.len() == 1 && found[0].repaired, "{found:?}");
    assert_eq!(one.here("holes"), content);
}

#[test]
fn what_the_server_does_not_have_is_named_and_left_as_it_is() {
    let server = MemoryRemote::new();
    server.set_online(false);
    let one = Rig::new(&server);
    one.write("f", b"nobody else has it");
    one.name_content("f");
    one.rot("f", flip(0));
    let (verified, found) = one.verify(Scope::All, true);
    assert!(
        found.len() == 1 && !found[0].repaired && found[0].outcome.contains("left as it is"),
        "{found:?}"
    );
    assert_eq!((verified.damaged, verified.repaired), (1, 0));
    assert_eq!(one.here("f").as_deref(), Some(&b"oobody else has it"[..]));
}

#[test]
fn what_is_not_named_yet_is_left_out() {
    let server = MemoryRemote::new();
    server.set_online(false);
    let one = Rig::new(&server);
    one.write("f", b"written offline");
    let (verified, found) = one.verify(Scope::All, true);
    assert_eq!((verified.unnamed, verified.files, found.len()), (1, 0, 0));
    assert!(verified.server_revision.is_none() && !verified.server_not_compared.is_empty(), "{verified:?}");
}

#[test]
fn offline_damage_is_named_and_nobody_reads_it_and_it_is_put_right_when_the_server_is_back() {
    let server = MemoryRemote::new();
    let (_one, other, content) = two(&server);
    server.set_online(false);
    until("the mount knows", || other.status().state == "offline");
    other.rot("large", flip(1_000_000));
    let (verified, found) = other.verify(Scope::All, true);
    assert!(found.len() == 1 && !found[0].repaired, "{found:?}");
    assert!(!verified.server_not_compared.is_empty(), "{verified:?}");
    let (start, len) = chunk_at(&other, "large", 1_000_000);
    assert!(other.fetch("large", start..start + len).is_err(), "wrong bytes could be read");
    other.fetch("large", 0..start).expect("the rest is here still");
    server.set_online(true);
    until("it is fetched", || other.here("large").is_some());
    assert_eq!(other.here("large"), Some(content));
    assert_eq!(other.verify(Scope::All, true).0.damaged, 0);
}

#[test]
fn what_the_server_lost_too_is_said_to_be_lost() {
    let server = MemoryRemote::new();
    let (_one, other, _) = two(&server);
    let (start, _) = chunk_at(&other, "large", 1_000_000);
    let chunk = other.manifest("large").offsets().find(|(at, _)| *at == start).expect("a chunk").1;
    server.corrupt_chunk(chunk.hash);
    other.rot("large", flip(1_000_000));
    let (verified, found) = other.verify(Scope::All, true);
    assert_eq!((verified.damaged, verified.repaired), (1, 0));
    assert!(found[0].outcome.contains("damaged on the server"), "{found:?}");
}

#[test]
fn without_repair_and_while_somebody_has_it_open_damage_is_only_named() {
    let server = MemoryRemote::new();
    let (_one, other, content) = two(&server);
    other.rot("large", flip(0));
    let damaged = other.here("large");
    let (verified, found) = other.verify(Scope::All, false);
    assert_eq!((verified.damaged, verified.repaired, found[0].offset), (1, 0, Some(0)));
    let backing = other.backing("large");
    backing.use_it();
    let (verified, found) = other.verify(Scope::All, true);
    assert!(verified.repaired == 0 && found[0].outcome.contains("in use"), "{found:?}");
    assert_eq!(other.here("large"), damaged);
    backing.unuse();
    drop(backing);
    assert_eq!(other.verify(Scope::All, true).0.repaired, 1);
    assert_eq!(other.here("large"), Some(content));
}

#[test]
fn bytes_that_somebody_is_writing_are_no_damage() {
    let server = MemoryRemote::new();
    let (one, _other, _) = two(&server);
    let backing = one.backing("large");
    backing.use_it();
    let file = backing.file().expect("a file");
    // As the kernel writes through a backing file: nobody hears of it before the file is closed.
    flip(7)(&file);
    let (verified, found) = one.verify(Scope::All, true);
    assert_eq!((verified.being_written, found.len()), (1, 0), "{found:?}");
    backing.unuse();
}

#[test]
fn only_files_below_the_directory_are_compared() {
    let server = MemoryRemote::new();
    let (one, _other, _) = two(&server);
    one.make_dir("larg");
    one.rot("large", flip(0));
    let (verified, found) = one.verify(Scope::Below(b"larg".to_vec()), true);
    assert_eq!((verified.files, found.len(), verified.tree_compared), (0, 0, false));
}

#[test]
fn a_record_that_differs_from_the_servers_is_named_and_taken_from_there() {
    let server = MemoryRemote::new();
    let (one, _other, _) = two(&server);
    server.change_silently(|record| match record {
        Record::Node(node) if node.kind == NodeKind::File && node.size == 11 => {
            let mut node = node.clone();
            node.mode = 0o600;
            Some(Record::Node(node))
        }
        _ => None,
    });
    let (verified, found) = one.verify(Scope::All, false);
    assert!(
        verified.server_revision.is_none() && found.len() == 1 && !found[0].repaired,
        "{verified:?} {found:?}"
    );
    let (verified, found) = one.verify(Scope::All, true);
    assert_eq!((found.len(), verified.repaired), (1, 1), "{verified:?} {found:?}");
    assert_eq!((found[0].path.as_str(), found[0].place.as_str()), ("small", "server"));
    assert!(verified.server_revision.is_some());
    assert_eq!(one.verify(Scope::All, true).0.damaged, 0);
}
