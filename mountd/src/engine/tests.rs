//! The engine with a real tree and cache against the server in memory.

mod full;
mod holes;
mod join;
mod last_write;
mod pin;
mod quota;
mod report;
mod rig;
mod state;
mod verify;
mod went_back;

use std::sync::Arc;
use std::time::Duration;

use dfs_shared::hash::ChunkHash;
use dfs_shared::record::{NodeKind, Record};

use crate::cache::FetchError;
use crate::remote::memory::MemoryRemote;
use rig::{Rig, bytes_of, until};

#[test]
fn a_small_file_appears_on_another_mount_with_its_bytes_without_a_request() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    one.write("hello.txt", b"hello");
    one.flush();
    // The file may be sent before its bytes are: as the empty file that it was first.
    until("the bytes are there", || other.here("hello.txt").as_deref() == Some(b"hello"));
    server.set_online(false);
    assert_eq!(other.status().downloaded_bytes, 0);
    assert_eq!(other.here("hello.txt").as_deref(), Some(&b"hello"[..]));
    assert_eq!(one.root(), other.root());
}

#[test]
fn waiting_covers_what_was_written_while_a_commit_was_being_prepared() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    for n in 0..400_u32 {
        // The new name wakes the sender, which may have looked before the bytes are there.
        let name = format!("f{n}");
        one.write(&name, &n.to_be_bytes());
        one.flush();
        assert_eq!(server.content(one.manifest(&name).id()), Some(n.to_be_bytes().to_vec()), "{n}");
    }
}

#[test]
fn a_file_that_is_closed_while_a_commit_is_being_prepared_is_not_sent_without_its_bytes() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.make_and_write_when_asked("f", b"its first bytes");
    one.flush();
    assert_eq!(server.content(one.manifest("f").id()).as_deref(), Some(&b"its first bytes"[..]));
    let records = server.all_records();
    let revision = |wanted: &dyn Fn(&Record) -> bool| {
        records.values().find(|value| wanted(&value.record)).map(|value| value.revision)
    };
    let name = revision(&|record| matches!(record, Record::Entry(_)));
    assert_eq!(name, revision(&rig::is_file), "there was a version without bytes");
}

#[test]
fn a_large_file_is_uploaded_in_chunks_and_fetched_when_it_is_read() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    let content = bytes_of(3 << 20, 1);
    one.write("large", &content);
    one.flush();
    other.until("the file is there", || other.content("large").is_some());
    assert_eq!(other.here("large"), None);
    other.fetch("large", 1 << 20..(1 << 20) + 5).expect("bytes");
    other.fetch("large", 0..content.len() as u64).expect("bytes");
    assert_eq!(other.here("large"), Some(content));
    assert_eq!(one.status().pending, 0);
    assert_eq!(one.status().uploaded_bytes, 3 << 20);
}

#[test]
fn changes_made_offline_arrive_when_the_server_comes_back() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    other.online();
    server.set_online(false);
    one.write("a", b"a");
    one.make_dir("dir");
    assert!(
        !one.engine()
            .runtime()
            .block_on(one.engine().wait(Some(Duration::from_millis(50))))
            .expect("a store")
    );
    assert!(one.status().pending > 0);
    server.set_online(true);
    one.flush();
    other.until("both are there", || other.names() == ["a", "dir"]);
    other.fetch("a", 0..1).expect("bytes");
    assert_eq!(other.here("a").as_deref(), Some(&b"a"[..]));
}

#[test]
fn a_commit_whose_answer_is_lost_is_repeated_and_done_once() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    server.swallow_replies(1);
    one.write("a", b"first");
    one.flush();
    assert_eq!(one.names(), ["a"]);
    assert_eq!(one.status().conflicts, 0);
    let files = server.all_records().values().filter(|value| rig::is_file(&value.record)).count();
    assert_eq!(files, 1);
}

#[test]
fn a_commit_whose_answer_is_too_long_is_kept_and_told_and_repeated_until_the_answer_is_right() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    server.talk_too_much(true);
    one.write("a", b"first");
    until("it is told", || one.status().reason.contains("a commit reply that is longer than 1 bytes"));
    assert!(one.status().pending > 0, "what was not acknowledged stays");
    let before = server.commits();
    until("it is tried again", || server.commits() > before + 1);
    server.talk_too_much(false);
    one.flush();
    one.online();
    assert_eq!((one.names(), one.status().conflicts), (vec!["a".to_owned()], 0));
    let content = one.content("a").expect("a content");
    assert_eq!(server.content(content).as_deref(), Some(&b"first"[..]));
}

#[test]
fn what_was_in_flight_when_the_mount_died_is_settled_before_anything_else() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.online();
    one.write("a", b"first");
    one.flush();
    server.swallow_replies(u32::MAX);
    let before = server.commits();
    one.write("a", b"second");
    until("the server has it", || server.commits() > before);
    one.kill();
    one.write_while_alone("a", b"third");
    server.swallow_replies(0);
    one.start(&server);
    one.flush();
    assert_eq!(one.names(), ["a"], "its own change is no conflict");
    let content = one.content("a").expect("a content");
    assert_eq!(server.content(content).as_deref(), Some(&b"third"[..]));
}

#[test]
fn a_commit_that_never_reached_the_server_is_sent_again_after_a_crash_with_its_small_contents() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.online();
    server.lose_commits(u32::MAX);
    let before = server.commits();
    one.write("same", b"as it was");
    one.write("changed", b"as it was sent");
    until("both were sent", || server.commits() > before + 1);
    one.kill();
    one.write_while_alone("changed", b"newer");
    server.lose_commits(0);
    one.start(&server);
    one.flush();
    for (name, bytes) in [("same", &b"as it was"[..]), ("changed", b"newer")] {
        let content = one.content(name).expect("a content");
        assert_eq!(server.content(content).as_deref(), Some(bytes), "{name}");
    }
    assert_eq!(one.names(), ["changed", "same"]);
    assert_eq!(one.status().stuck, []);
}

#[test]
fn an_edit_on_both_sides_of_a_gap_keeps_both() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    one.write("doc", b"base");
    one.flush();
    until("the file is there", || other.here("doc").is_some());
    server.set_online(false);
    one.write("doc", b"from one");
    other.write("doc", b"from the other");
    server.set_online(true);
    for rig in [&one, &other, &one, &other] {
        rig.online();
        rig.flush();
    }
    for rig in [&one, &other] {
        rig.until("two versions", || rig.names().len() == 2);
        rig.until("in step", || rig.root() == one.root());
    }
    let mut contents: Vec<_> =
        one.names().iter().filter_map(|name| server.content(one.content(name)?)).collect();
    contents.sort();
    assert_eq!(contents, [b"from one".to_vec(), b"from the other".to_vec()]);
    assert_eq!(one.status().conflicts + other.status().conflicts, 1);
}

#[test]
fn a_merge_that_was_asked_for_is_told_when_the_kernel_has_forgotten_both_versions() {
    let server = MemoryRemote::new();
    let (one, mut two) = (Rig::new(&server), Rig::new(&server));
    one.online();
    // Small contents come with the event: whoever connects later reads the record only.
    two.online();
    one.write("f", b"a\nb\nc\n");
    one.flush();
    two.until("the file is there", || two.here("f").is_some());
    two.kill();
    two.write_while_alone("f", b"a\nb\nC\n");
    one.write("f", b"A\nb\nc\n");
    one.flush();
    two.start(&server);
    two.online();
    two.flush();
    let copy = two.names().into_iter().find(|name| name != "f").expect("a conflict copy");
    let merged = two.engine().runtime().block_on(two.engine().merge_conflict(two.id(&copy)));
    let is_settled = two.is_settled();
    merged.expect("it merges cleanly");
    assert!(is_settled, "whoever asked would still find the copy");
    assert_eq!(two.names(), ["f"]);
}

#[test]
fn a_gap_is_closed_by_reconciling() {
    let server = MemoryRemote::new();
    let (one, mut other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    other.kill();
    for number in 0..300 {
        one.write(&format!("f{number}"), format!("{number}").as_bytes());
    }
    one.flush();
    one.remove("f7");
    one.flush();
    other.start(&server);
    other.online();
    assert_eq!(other.names().len(), 299);
    assert_eq!(other.root(), one.root());
    other.fetch("f8", 0..1).expect("bytes");
    assert_eq!(other.here("f8").as_deref(), Some(&b"8"[..]));
}

#[test]
fn a_chunk_that_is_damaged_on_the_server_is_named_and_others_are_read() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    let content = bytes_of(1 << 20, 2);
    one.write("large", &content);
    one.flush();
    other.until("the file is there", || other.content("large").is_some());
    let chunk = one.manifest("large").chunks[0].hash;
    server.corrupt_chunk(chunk);
    let error = other.fetch("large", 0..1).expect_err("damaged");
    assert!(matches!(error, FetchError::Corrupt { chunk: found } if found == chunk), "{error:?}");
    other.fetch("large", (1 << 20) - 1..1 << 20).expect("the last chunk is whole");
}

#[test]
fn chunks_that_the_server_lost_are_uploaded_again_when_it_says_so() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    let content = bytes_of(1 << 20, 3);
    one.write("large", &content);
    one.flush();
    let manifest = one.manifest("large");
    server.forget_chunk(manifest.chunks[0].hash);
    assert!(server.content(manifest.id()).is_none());
    one.touch("large");
    one.flush();
    assert_eq!(server.content(manifest.id()), Some(content));
    assert_eq!(one.status().stuck, []);
}

#[test]
fn a_read_outlives_a_lost_answer_about_the_content() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.write("large", &bytes_of(1 << 20, 4));
    one.flush();
    // Who comes later knows the record and not of which chunks the content is made.
    let other = Rig::new(&server);
    other.online();
    server.swallow_contents(2);
    other.fetch("large", 0..1).expect("the bytes");
}

#[test]
fn a_fetch_of_bytes_that_are_here_is_answered() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.write("here", b"bytes");
    one.fetch("here", 0..1).expect("they are here");
}

/// Two mounts whose server is away, and of whose file `large` the second one has nothing.
fn away_before_it_was_read() -> (MemoryRemote, Rig, Rig) {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    one.write("large", &bytes_of(1 << 20, 4));
    one.flush();
    other.until("the file is there", || other.content("large").is_some());
    server.set_online(false);
    (server, one, other)
}

#[test]
fn reading_offline_fails_soon_and_says_so() {
    let (_server, _one, other) = away_before_it_was_read();
    let error = other.fetch("large", 0..1).expect_err("offline");
    assert!(matches!(error, FetchError::Offline), "{error:?}");
}

// S13
#[test]
fn a_read_waits_for_a_server_that_is_started_again() {
    let (server, _one, other) = away_before_it_was_read();
    until("it is away", || other.status().state == "offline");
    // Back at the second question of the read.
    server.come_back_after(2);
    other.fetch("large", 0..1).expect("the bytes");
}

#[test]
fn a_new_version_of_a_file_that_was_here_is_fetched_ahead() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    let mut content = bytes_of(2 << 20, 5);
    one.write("large", &content);
    one.flush();
    other.until("the file is there", || other.content("large").is_some());
    other.fetch("large", 0..2 << 20).expect("bytes");
    let old = other.content("large");
    content[1 << 20] ^= 1;
    one.write("large", &content);
    one.flush();
    other.until("the new version", || other.content("large") != old);
    until("it is here", || other.here("large").as_ref() == Some(&content));
    assert!(other.status().downloaded_bytes < 3 << 20, "only the changed chunks travel");
}

#[test]
fn a_content_that_comes_back_is_not_taken_for_the_bytes_that_were_written_between() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    one.write("f", b"first");
    one.flush();
    until("it is there", || other.here("f").as_deref() == Some(b"first"));
    // Somebody has it open from now on.
    let _open = other.backing("f");
    other.write("f", b"other");
    other.flush();
    until("it is there", || one.here("f").as_deref() == Some(b"other"));
    one.write("f", b"first");
    one.flush();
    until("the first content is there again", || other.here("f").as_deref() == Some(b"first"));
}

#[test]
fn another_volume_stops_the_engine_and_touches_nothing() {
    let (server, stranger) = (MemoryRemote::new(), MemoryRemote::new());
    let mut one = Rig::new(&server);
    one.online();
    one.write("a", b"a");
    one.flush();
    one.kill();
    one.start(&stranger);
    until("it stops", || one.status().state == "stopped");
    assert!(one.status().reason.contains("another volume"), "{}", one.status().reason);
    assert_eq!(one.names(), ["a"]);
    assert_eq!(stranger.all_records().len(), 1);
}

#[test]
fn files_that_are_made_and_deleted_while_offline_never_travel() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    server.set_online(false);
    let before = server.all_records().len();
    one.write("gone", b"gone");
    one.remove("gone");
    server.set_online(true);
    one.flush();
    assert_eq!(server.all_records().len(), before);
    assert!(server.content(dfs_shared::hash::ContentId::of(b"x")).is_none());
    assert_eq!(one.status().pending, 0);
}

#[test]
fn many_files_arrive_in_few_requests() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    other.online();
    server.set_online(false);
    for number in 0..2_000 {
        one.write(&format!("f{number}"), format!("content {number}").as_bytes());
    }
    server.set_online(true);
    one.flush();
    assert!(server.commits() < 20, "{}", server.commits());
    other.until("all are there", || other.names().len() == 2_000);
    other.until("in step", || other.root() == one.root());
    other.fetch("f1234", 0..12).expect("bytes");
    assert_eq!(other.here("f1234").as_deref(), Some(&b"content 1234"[..]));
    let chunk = ChunkHash::of(b"content 1234");
    assert_eq!(other.manifest("f1234").chunks[0].hash, chunk);
}

#[test]
fn two_mounts_that_make_the_same_names_end_alike() {
    let server = MemoryRemote::new();
    let rigs: Vec<Arc<Rig>> = (0..3).map(|_| Arc::new(Rig::new(&server))).collect();
    rigs.iter().for_each(|rig| rig.online());
    let threads = rigs.iter().enumerate().map(|(number, rig)| {
        let rig = Arc::clone(rig);
        std::thread::spawn(move || {
            for round in 0..20 {
                rig.write(&format!("shared{}", round % 5), format!("{number} {round}").as_bytes());
                rig.write(&format!("own{number}-{round}"), b"x");
            }
            rig.flush();
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("no panic");
    }
    for _ in 0..3 {
        rigs.iter().for_each(|rig| rig.flush());
    }
    until("all are alike", || {
        let roots: Vec<_> = rigs.iter().map(|rig| (rig.root(), rig.names())).collect();
        roots.iter().all(|root| *root == roots[0]) && rigs.iter().all(|rig| rig.status().pending == 0)
    });
    assert!(rigs[0].names().len() >= 65);
    assert!(rigs[0].kinds().iter().all(|kind| *kind == NodeKind::File));
}
