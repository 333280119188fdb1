//! Changes that wait for room within the volume's quota.

use dfs_shared::record::Record;

use crate::engine::Obstacle;
use crate::remote::memory::MemoryRemote;

use super::rig::{Rig, bytes_of, until};

/// The files of which a mount says that they wait for room.
fn waiting(rig: &Rig) -> Vec<String> {
    rig.status().no_room.into_iter().map(|file| file.path).collect()
}

/// Whether the server has a file of this length. How many it has does not tell: one may have been sent before it was written.
fn has_file_of(server: &MemoryRemote, len: u64) -> bool {
    let records = server.all_records();
    records.values().any(|value| matches!(&value.record, Record::Node(node) if node.size == len))
}

fn is_audited(rig: &Rig) {
    assert_eq!(rig.tree().audit().expect("a store"), Vec::<String>::new());
}

#[test]
fn a_file_without_room_waits_others_pass_and_a_removal_elsewhere_lets_it_through() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    other.online();
    other.write("old", &[1; 60]);
    other.write("shrinks", &[1; 30]);
    other.flush();
    server.set_quota(Some(100), false);
    one.online();
    until("the quota is known", || one.status().quota == Some(100) && one.exists("shrinks"));
    assert_eq!(one.status().used, 90);
    one.write("waits", &[2; 50]);
    until("it waits", || waiting(&one) == ["waits"]);
    let commits = server.commits();
    assert!(
        matches!(one.engine().explain(one.id("waits")), Some(Obstacle::NoRoom(why)) if why.contains("50"))
    );
    // What needs no room, or fits, goes on.
    one.write("fits", &[3; 10]);
    one.make_dir("dir");
    one.touch("old");
    other.until("the others came", || other.here("fits").is_some() && other.exists("dir"));
    one.write("shrinks", &[1; 5]);
    other.until("it is shorter", || other.here("shrinks").is_some_and(|bytes| bytes.len() == 5));
    assert_eq!(waiting(&one), ["waits"]);
    assert!(other.status().conflicts == 0 && one.status().conflicts == 0);
    assert!(server.commits() < commits + 20, "it asks again and again");
    other.remove("old");
    one.flush();
    other.until("it goes on by itself", || other.here("waits").as_deref() == Some(&[2; 50]));
    assert_eq!((waiting(&one).len(), one.status().used), (0, 65));
    is_audited(&one);
    is_audited(&other);
}

#[test]
fn no_bytes_are_uploaded_for_a_file_without_room_and_a_higher_quota_lets_it_through() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    server.set_quota(Some(1 << 20), false);
    one.online();
    until("the quota is known", || one.status().quota == Some(1 << 20));
    let content = bytes_of(3 << 20, 1);
    one.write("large", &content);
    until("it waits", || waiting(&one) == ["large"]);
    one.write("small", b"small");
    until("the small one is sent", || has_file_of(&server, 5));
    assert_eq!(one.status().uploaded_bytes, 0);
    server.set_quota(Some(1 << 22), false);
    one.flush();
    assert_eq!(server.content(one.manifest("large").id()), Some(content));
    server.set_quota(None, false);
    until("there is no quota", || one.status().quota.is_none());
}

#[test]
fn a_save_by_rename_needs_room_only_for_the_difference() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    one.write("file", &[1; 80]);
    one.flush();
    server.set_quota(Some(100), false);
    until("the quota is known", || one.status().quota.is_some());
    server.set_online(false);
    one.write("new", &[2; 90]);
    one.rename("new", "file");
    server.set_online(true);
    one.flush();
    assert_eq!(one.status().used, 90);
    is_audited(&one);
}

#[test]
fn a_quota_that_the_mount_does_not_know_yet_refuses_and_what_is_refused_waits_without_a_conflict() {
    let server = MemoryRemote::new();
    let one = Rig::new(&server);
    one.online();
    server.set_quota(Some(10), true);
    one.write("over", &[1; 20]);
    one.write("small", &[1; 5]);
    until("it waits", || waiting(&one) == ["over"]);
    until("the small one is sent", || has_file_of(&server, 5));
    server.set_quota(Some(10), false);
    until("the quota is known", || one.status().quota == Some(10));
    // It may be on its way to be refused once more.
    until("it waits for the known one", || waiting(&one) == ["over"]);
    server.set_quota(Some(30), false);
    one.flush();
    assert_eq!((one.status().conflicts, one.status().stuck.len(), one.status().used), (0, 0, 25));
}

#[test]
fn the_last_known_quota_counts_without_the_server_and_over_a_restart() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    server.set_quota(Some(100), false);
    one.online();
    one.write("a", &[1; 70]);
    one.flush();
    one.kill();
    one.write_while_alone("b", &[1; 50]);
    server.set_online(false);
    one.start(&server);
    assert_eq!((one.tree().quota().limit, one.tree().quota_room()), (Some(100), Some(0)));
    server.set_online(true);
    one.online();
    until("it waits", || waiting(&one) == ["b"]);
    one.remove("a");
    one.flush();
    assert_eq!((one.status().used, one.tree().quota_room()), (50, Some(50)));
    is_audited(&one);
}
