//! What the journal promises over a restart.

use dfs_shared::record::Record;

use super::*;
use crate::tree::journal::PendingGroup;
use crate::tree::{Effect, SyncState};

/// What would be sent of `pending`.
fn all_of(mount: &Mount, pending: &[PendingGroup]) -> Vec<Change> {
    let change = |key: &RecordKey| match mount.tree.key_state(key).expect("a store") {
        KeyState::Dirty { base, value, .. } => Change { key: key.clone(), base, value },
        KeyState::Clean => panic!("{key:?} has to be sent"),
    };
    pending.iter().flat_map(|group| &group.keys).map(change).collect()
}

#[test]
fn a_change_after_a_restart_does_not_go_with_an_acknowledgement_that_comes_twice() {
    let mount = Mount::new("one");
    mount.make(Ino::ROOT, "f", NodeKind::File);
    let pending = mount.tree.pending(0, 9).expect("a store");
    let seqs: Vec<u64> = pending.iter().map(|group| group.seq).collect();
    let sent = all_of(&mount, &pending);
    let acknowledge = |mount: &Mount| mount.tree.acknowledge(&sent, &seqs, Revision(1)).expect("a store");
    acknowledge(&mount);
    // The mount ends before it forgets what was in flight.
    let mount = mount.restart();
    mount.make(Ino::ROOT, "g", NodeKind::File);
    acknowledge(&mount);
    assert_eq!(mount.tree.audit().expect("a store"), Vec::<String>::new());
}

// S44
#[test]
fn a_file_whose_bytes_were_given_up_while_the_server_took_them_is_as_the_server_has_it() {
    for (is_new, is_changed_since) in [(false, false), (true, false), (false, true)] {
        let mut mount = Mount::new("one");
        let node = mount.make(Ino::ROOT, "f", NodeKind::File);
        if !is_new {
            mount.write(&node, "old");
            assert!(mount.push(&mut Server::default()), "the server takes it");
        }
        mount.write(&node, "new");
        let pending = mount.tree.pending(0, 9).expect("a store");
        let seqs: Vec<u64> = pending.iter().map(|group| group.seq).collect();
        let sent = all_of(&mount, &pending);
        mount.tree.store_in_flight(Some(b"a request")).expect("a store");
        // The machine loses its power before the answer comes.
        let mount = mount.restart();
        let is_theirs = mount.tree.give_up_content(node.id, at(300)).expect("a store");
        assert_eq!(is_theirs, !is_new);
        if is_changed_since {
            mount.write_at(&node, "newer", 400);
        }
        let effects = mount.tree.acknowledge(&sent, &seqs, Revision(7)).expect("a store");
        let found = mount.tree.node_by_id(node.id).expect("a store").expect("a node");
        let taken = sent.iter().any(|change| change.value == found.record.clone().map(Record::Node));
        assert_eq!(
            (taken, found.sync == SyncState::Clean(Revision(7))),
            (!is_changed_since, !is_changed_since)
        );
        let content = Effect::Content { node: node.id, ino: node.ino };
        assert_eq!(effects.contains(&content), !is_changed_since, "open files and the kernel have to know");
        assert_eq!(mount.tree.pending(0, 9).expect("a store").is_empty(), !is_changed_since);
        assert_eq!(mount.tree.audit().expect("a store"), Vec::<String>::new());
        mount.tree.store_in_flight(None).expect("a store");
        assert!(!mount.tree.has_given_up().expect("a store"));
    }
}
