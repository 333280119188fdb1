//! A server whose disk has no room.

use super::rig::{Rig, bytes_of, until};
use crate::remote::memory::MemoryRemote;

// S49
#[test]
fn a_server_without_room_is_told_of_and_keeps_nobody_from_coming_back_and_reading() {
    let server = MemoryRemote::new();
    let (one, other) = (Rig::new(&server), Rig::new(&server));
    other.online();
    other.write("first", &bytes_of(200_000, 0));
    other.write("second", &bytes_of(200_000, 1));
    other.flush();
    one.online();
    until("they are known", || one.exists("first") && one.exists("second"));
    for (name, len, remote) in [("goes along", 100, "first"), ("goes before", 200_000, "second")] {
        server.set_full(true);
        one.write(name, &bytes_of(len, 2));
        let is_said = || one.status().reason.contains("no room on the server's disk");
        until("it is said", is_said);
        server.set_online(false);
        until("it is away", || one.status().state == "offline");
        server.set_online(true);
        until("it is let in", || one.status().state == "online");
        until("it is said again", is_said);
        one.fetch(remote, 0..100_000).expect("bytes");
        assert!(one.status().pending > 0);
        server.set_full(false);
        one.flush();
        assert_eq!(one.status().reason, "");
        other.until("it came", || other.exists(name));
    }
}
