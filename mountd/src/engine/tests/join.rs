//! The first connection of a mount to a volume that is too large to be taken at once.

use dfs_shared::hash::MerkleHash;

use super::rig::{Rig, until};
use crate::limits::APPLY_RECORDS_MAX;
use crate::remote::memory::MemoryRemote;

const DIRECTORIES: usize = 10;
/// More nodes, and more names, than are applied at once.
const IN_EACH: usize = 3 * APPLY_RECORDS_MAX / DIRECTORIES;

fn is_whole(rig: &Rig, server: &MemoryRemote) {
    let records = DIRECTORIES * (IN_EACH + 1) * 2 + 1;
    assert!(server.all_records().len() >= records);
    assert_eq!(rig.tree().audit().expect("a store"), Vec::<String>::new());
    for at in ["d0/f0".to_owned(), format!("d9/f{}", IN_EACH - 1)] {
        assert!(rig.exists(&at), "{at}");
    }
}

#[test]
fn a_large_volume_is_taken_piece_by_piece_beside_what_is_here() {
    let server = MemoryRemote::new();
    server.make_files(DIRECTORIES, IN_EACH);
    server.set_online(false);
    let one = Rig::new(&server);
    one.write("mine", b"mine");
    one.make_dir("d4");
    server.set_online(true);
    one.online();
    one.flush();
    is_whole(&one, &server);
    // Directories of one name become one.
    assert_eq!(one.names().len(), DIRECTORIES + 1, "{:?}", one.names());
    let other = Rig::new(&server);
    other.online();
    is_whole(&other, &server);
    until("they agree", || one.root() == other.root());
    assert!(other.exists("mine"));
}

#[test]
fn a_mount_that_ends_in_the_middle_goes_on_after_its_next_start() {
    // Among the nodes, between them and the names, among the names.
    for requests in [1, 4, 6] {
        let server = MemoryRemote::new();
        server.make_files(DIRECTORIES, IN_EACH);
        server.leave_after_records(requests);
        let mut one = Rig::new(&server);
        until("a part is here", || {
            let state = one.status();
            state.state == "offline" && one.root() != MerkleHash::EMPTY
        });
        one.kill();
        server.set_online(true);
        one.start(&server);
        one.online();
        is_whole(&one, &server);
        assert_eq!(one.names().len(), DIRECTORIES);
    }
}
