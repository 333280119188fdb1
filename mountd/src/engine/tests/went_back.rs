//! A server that was restored from an older backup.

use super::rig::{Rig, until};
use crate::remote::memory::MemoryRemote;

fn alike(server: &MemoryRemote, one: &Rig, other: &Rig) {
    until("both are alike", || {
        let rigs = [one, other];
        let statuses = rigs.map(Rig::status);
        let at_rest = statuses.iter().all(|status| status.state == "online" && status.pending == 0);
        // Before they have compared themselves with the server they are alike, too.
        at_rest && rigs.iter().all(|rig| rig.root() == server.root()) && one.names() == other.names()
    });
}

#[test]
fn a_server_restored_from_an_older_backup_gets_back_what_it_lost() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    one.online();
    other.online();
    one.write("edited", b"before");
    one.write("renamed away", b"moves");
    one.write("deleted", b"gone");
    one.flush();
    let backup = server.backup();
    one.write("edited", b"after");
    one.write("made", b"new");
    one.remove("deleted");
    one.remove("renamed away");
    one.write("renamed", b"moves");
    one.flush();
    until("it is there", || other.here("made").is_some() && other.here("renamed").is_some());
    server.restore(backup);
    for rig in [&one, &other] {
        let is_said = || rig.status().notices.iter().any(|notice| notice.contains("older backup"));
        until("it says what happened", is_said);
    }
    alike(&server, &one, &other);
    for rig in [&one, &other] {
        until("its bytes are there", || rig.here("edited").as_deref() == Some(b"after"));
        until("those of the new one, too", || rig.here("made").as_deref() == Some(b"new"));
        until("those of the renamed one, too", || rig.here("renamed").as_deref() == Some(b"moves"));
    }
    let edited = one.manifest("edited").id();
    until("the server has it again", || server.content(edited).as_deref() == Some(&b"after"[..]));
    // It goes on as before.
    other.write("edited", b"later");
    other.flush();
    until("it is pushed", || one.here("edited").as_deref() == Some(b"later"));
}

#[test]
fn what_a_restored_server_lost_and_what_it_got_since_are_both_kept() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.write("file", b"before");
    one.flush();
    let backup = server.backup();
    one.write("file", b"lost by the server");
    one.write("untouched", b"lost, too");
    one.flush();
    one.kill();
    server.restore(backup);
    let other = Rig::new(&server);
    other.online();
    other.write("file", b"since the restore");
    for round in 0..9 {
        // The server's revisions pass those that it lost.
        other.write("counter", format!("{round}").as_bytes());
        other.flush();
    }
    one.start(&server);
    one.online();
    alike(&server, &one, &other);
    let names = one.names();
    let copy = names.iter().find(|name| name.starts_with("file (conflict")).expect("a conflict copy");
    for rig in [&one, &other] {
        until("the copy is there", || rig.here(copy).as_deref() == Some(b"lost by the server"));
        until("the file is there", || rig.here("file").as_deref() == Some(b"since the restore"));
        until("and the other one", || rig.here("untouched").as_deref() == Some(b"lost, too"));
    }
    let told = other.status().notices;
    assert!(
        !told.iter().any(|notice| notice.contains("older backup")),
        "it saw nothing that was lost: {told:?}"
    );
}

#[test]
fn a_change_made_offline_on_top_of_what_the_server_lost_is_sent() {
    let server = MemoryRemote::new();
    let mut one = Rig::new(&server);
    one.write("file", b"before");
    one.flush();
    let backup = server.backup();
    one.write("file", b"lost");
    one.write("removed", b"x");
    one.flush();
    one.kill();
    one.write_while_alone("file", b"on top");
    server.restore(backup);
    one.start(&server);
    one.flush();
    until("it is on the server", || server.content(one.manifest("file").id()).as_deref() == Some(b"on top"));
    let names: Vec<String> = one.names();
    assert_eq!(names, ["file", "removed"]);
}
