//! The last write wins: the version that lost reaches the server's history, whatever happens on the way.

use super::rig::{Rig, bytes_of, until};
use crate::remote::memory::MemoryRemote;

/// Two mounts that both have `f`; the second one is not there.
fn both_have_it(server: &MemoryRemote) -> (Rig, Rig) {
    let (one, mut two) = (Rig::new(server), Rig::new(server));
    one.online();
    two.online();
    one.write("f", b"base");
    one.flush();
    two.until("the file is there", || two.content("f").is_some());
    two.kill();
    (one, two)
}

/// Two mounts that both have `f`; the second one is to lose: it wrote before the first one did, and arrives later.
fn loser(server: &MemoryRemote, lost: &[u8]) -> (Rig, Rig) {
    let (one, mut two) = both_have_it(server);
    two.write_while_alone("f", lost);
    one.write("f", b"the winner");
    one.flush();
    (one, two)
}

fn filed(server: &MemoryRemote) -> Vec<Vec<u8>> {
    let contents = server.past_versions().into_iter().map(|version| version.content);
    contents
        .map(|content| content.map_or_else(Vec::new, |content| server.content(content).expect("whole")))
        .collect()
}

#[test]
fn the_version_that_lost_is_kept_by_the_server_and_its_copy_goes() {
    for lost in [b"the loser".to_vec(), bytes_of(3 << 20, 7), Vec::new()] {
        let server = MemoryRemote::new();
        let (one, mut two) = loser(&server, &lost);
        let winner = one.content("f");
        two.last_write_wins();
        two.start(&server);
        two.online();
        two.flush();
        two.until("the copy is gone", || two.names() == ["f"]);
        assert_eq!(two.content("f"), winner);
        assert_eq!(filed(&server), [lost]);
        until("both are at rest", || one.root() == two.root());
        assert_eq!(one.names(), ["f"]);
    }
}

#[test]
fn the_later_version_replaces_the_servers_without_a_copy() {
    let server = MemoryRemote::new();
    let (one, mut two) = both_have_it(&server);
    one.write("f", b"the loser, which arrives first");
    one.flush();
    two.write_while_alone("f", b"the winner");
    two.last_write_wins();
    two.start(&server);
    two.online();
    two.flush();
    assert_eq!(two.here("f").as_deref(), Some(&b"the winner"[..]));
    until("it is there", || one.here("f").as_deref() == Some(&b"the winner"[..]));
    assert_eq!((one.names(), two.names()), (vec!["f".to_owned()], vec!["f".to_owned()]));
    assert_eq!(filed(&server), Vec::<Vec<u8>>::new(), "the server's version becomes history by itself");
}

#[test]
fn a_lost_reply_and_a_crash_before_the_copy_went_keep_the_version_once() {
    let server = MemoryRemote::new();
    let (_one, mut two) = loser(&server, b"the loser");
    server.swallow_replies(1);
    two.last_write_wins();
    two.start(&server);
    until("the server has it", || !server.past_versions().is_empty());
    two.kill();
    two.last_write_wins();
    two.start(&server);
    two.online();
    two.flush();
    two.until("the copy is gone", || two.names() == ["f"]);
    assert_eq!(filed(&server), [b"the loser".to_vec()]);
}

#[test]
fn where_the_file_is_gone_on_the_server_the_version_stays_as_a_file() {
    let server = MemoryRemote::new();
    let (one, mut two) = loser(&server, b"the loser");
    // What is to be kept is lost on its way until the file is removed elsewhere.
    server.lose_past(true);
    two.last_write_wins();
    two.start(&server);
    two.until("the copy stands beside the file", || two.names().len() == 2);
    one.remove("f");
    one.flush();
    server.lose_past(false);
    two.flush();
    until("the version is a file of its own", || one.names().len() == 1 && one.root() == two.root());
    let [name] = &one.names()[..] else { panic!("one file: {:?}", one.names()) };
    assert!(name.contains("conflict"), "{name}");
}
