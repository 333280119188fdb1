//! What a mount tells the server that it holds and has done.

use dfs_shared::wire::report::MountEvent;

use super::rig::{Rig, bytes_of, until};
use crate::remote::memory::MemoryRemote;

/// Tells whether the server was told that the mount holds exactly these files as they are now.
fn holds(server: &MemoryRemote, rig: &Rig, names: &[&str]) -> bool {
    let mut wanted: Vec<_> = names.iter().map(|name| (rig.id(name), rig.content(name))).collect();
    wanted.sort();
    server.held().into_iter().collect::<Vec<_>>() == wanted
}

#[test]
fn what_is_written_fetched_and_evicted_is_told_in_few_reports() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    let names: Vec<String> = (0..300).map(|n| format!("f{n}")).collect();
    names.iter().for_each(|name| one.write(name, name.as_bytes()));
    one.flush();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    until("all are told", || holds(&server, &one, &all));
    let reports = server.reports().iter().filter(|report| !report.held.is_empty()).count();
    assert!(reports < 30, "{reports} reports of 300 files");
    one.evict("f7");
    let rest: Vec<&str> = all.iter().copied().filter(|name| *name != "f7").collect();
    until("it is gone", || holds(&server, &one, &rest));
    one.fetch("f7", 0..2).expect("bytes");
    until("it is back", || holds(&server, &one, &all));
    one.remove("f7");
    one.flush();
    until("it is removed", || holds(&server, &one, &rest));
}

#[test]
fn a_content_is_not_told_before_the_server_has_it() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    for round in 0..20_u64 {
        one.write("f", &bytes_of(100, round));
        if round % 3 == 0 {
            one.flush();
        }
    }
    one.flush();
    until("the last one is told", || holds(&server, &one, &["f"]));
    for report in server.reports() {
        for held in report.held {
            let dfs_shared::wire::report::Holding::Whole(Some(content)) = held.holding else { continue };
            assert!(server.content(content).is_some(), "{content} is told and was never committed");
        }
    }
}

#[test]
fn a_restarted_mount_tells_what_is_new_and_nothing_twice() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.online();
    one.write("a", b"a");
    one.flush();
    until("it is told", || holds(&server, &one, &["a"]));
    one.kill();
    one.write_while_alone("b", b"b");
    one.start(&server);
    one.online();
    one.flush();
    until("both are told", || holds(&server, &one, &["a", "b"]));
    let (a, b) = (one.id("a"), one.id("b"));
    let told = |node| {
        let reports = server.reports();
        reports.iter().flat_map(|report| report.held.clone()).filter(|held| held.node == node).count()
    };
    assert_eq!((told(a), told(b)), (1, 1));
}

#[test]
fn a_lost_reply_is_made_good_and_a_server_that_forgot_is_told_anew() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.write("a", b"a");
    one.flush();
    until("it is told", || holds(&server, &one, &["a"]));
    server.swallow_reports(2);
    one.write("b", b"b");
    one.flush();
    until("both are told", || holds(&server, &one, &["a", "b"]));
    assert!(server.reports().iter().all(|report| !report.anew), "a lost reply is no reason to begin anew");
    server.forget_reports();
    one.write("c", b"c");
    one.flush();
    until("all are told", || holds(&server, &one, &["a", "b", "c"]));
}

#[test]
fn reconciliation_downloads_and_conflict_copies_are_told() {
    let server = MemoryRemote::new();
    let (mut one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    let large = bytes_of(1 << 20, 5);
    other.write("large", &large);
    other.write("f", b"first");
    other.flush();
    until("the bytes are there", || one.here("f").is_some());
    one.until("the file is there", || one.content("large").is_some());
    one.fetch("large", 0..large.len() as u64).expect("bytes");
    let events = || server.reports().into_iter().flat_map(|report| report.events).collect::<Vec<_>>();
    until("the download is told", || {
        events().iter().any(|event| {
            matches!(event, MountEvent::Downloaded { path, size, .. } if path == b"large" && *size == 1 << 20)
        })
    });
    one.kill();
    other.write("f", b"theirs");
    other.flush();
    one.write_while_alone("f", b"ours");
    one.start(&server);
    one.online();
    one.flush();
    until("the conflict is told", || {
        let events = events();
        let at = events
            .iter()
            .position(|event| matches!(event, MountEvent::ConflictDetected { path } if path == b"f"));
        at.is_some_and(|at| {
            matches!(&events[at + 1], MountEvent::ConflictResolved { path, copy } if path == b"f" && copy != path)
        })
    });
    let started = events().iter().filter(|event| **event == MountEvent::SyncStarted).count();
    assert!(started >= 3, "one for each connection: {started}");
}
