//! What the journal promises over a restart.

use super::*;

#[test]
fn a_change_after_a_restart_does_not_go_with_an_acknowledgement_that_comes_twice() {
    let mount = Mount::new("one");
    mount.make(Ino::ROOT, "f", NodeKind::File);
    let pending = mount.tree.pending(0, 9).expect("a store");
    let seqs: Vec<u64> = pending.iter().map(|group| group.seq).collect();
    let change = |key: &RecordKey| match mount.tree.key_state(key).expect("a store") {
        KeyState::Dirty { base, value, .. } => Change { key: key.clone(), base, value },
        KeyState::Clean => panic!("{key:?} has to be sent"),
    };
    let sent: Vec<Change> = pending.iter().flat_map(|group| &group.keys).map(change).collect();
    let acknowledge = |mount: &Mount| mount.tree.acknowledge(&sent, &seqs, Revision(1)).expect("a store");
    acknowledge(&mount);
    // The mount ends before it forgets what was in flight.
    let mount = mount.restart();
    mount.make(Ino::ROOT, "g", NodeKind::File);
    acknowledge(&mount);
    assert_eq!(mount.tree.audit().expect("a store"), Vec::<String>::new());
}
