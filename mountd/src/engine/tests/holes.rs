//! Holes of files that are not here.

use super::rig::{Rig, until};
use crate::remote::memory::MemoryRemote;

// S4
#[test]
fn a_file_that_was_cut_before_its_holes_were_known_is_sent_after_a_restart() {
    let server = MemoryRemote::new();
    let (mut one, other) = (Rig::new(&server), Rig::new(&server));
    other.online();
    other.write("f", &[0; 3]);
    other.flush();
    one.online();
    // Not as the empty file that it may have been sent as first.
    until("it is known", || one.content("f").is_some() && one.content("f") == other.content("f"));
    server.set_online(false);
    one.cut("f", 1);
    one.kill();
    server.set_online(true);
    one.start(&server);
    one.flush();
    other.online();
    other.fetch("f", 0..1).expect("bytes");
    other.until("it came", || other.here("f").is_some_and(|bytes| bytes == [0]));
}
