//! The audit finds nothing in a tree that only operations have changed, and every row that is not as it should be.

use std::sync::Arc;

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::CurrentRecord;

use crate::tree::apply::ApplyOptions;
use crate::tree::keys;
use crate::tree::namespace::NewNode;
use crate::tree::node::Ino;
use crate::tree::store::{MemoryDisk, Space, Store, Write};
use crate::tree::{LocalNode, Sizes, Tree};

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

fn tree() -> Tree {
    let store = Store::in_memory(&MemoryDisk::default()).expect("a store");
    Tree::open(Arc::new(store), "host".to_owned(), Box::new(|| {})).expect("a tree")
}

fn make(tree: &Tree, name: &str, kind: NodeKind) -> LocalNode {
    let name = Name::new(name.as_bytes()).expect("a name");
    tree.create(Ino::ROOT, &name, NewNode::plain(kind, 0o755, (1, 1), at(100))).expect("made")
}

/// Gives the tree the server's root, which is older.
fn meet(tree: &Tree) {
    let mut root =
        tree.node_by_id(NodeId::ROOT).expect("a store").and_then(|node| node.record).expect("a root");
    (root.mtime, root.ctime) = (at(1), at(1));
    let value = Some(Versioned { revision: Revision(1), record: Record::Node(root) });
    let records = [CurrentRecord { key: RecordKey::Node(NodeId::ROOT), value }];
    tree.apply(&records, ApplyOptions { at: at(200), force_conflicts: false, lost_after: None })
        .expect("applied");
}

#[test]
fn the_times_of_a_root_that_changed_before_the_first_contact_are_sent_after_it() {
    let tree = tree();
    make(&tree, "a", NodeKind::Directory);
    assert_eq!(tree.audit().expect("a store"), Vec::<String>::new());
    meet(&tree);
    assert_eq!(tree.audit().expect("a store"), Vec::<String>::new());
    let groups = tree.pending(0, usize::MAX).expect("a store");
    assert!(groups.iter().any(|group| group.keys == [RecordKey::Node(NodeId::ROOT)]), "{groups:?}");
}

#[test]
fn every_table_that_says_something_else_than_the_others_is_found() {
    let name = Name::new(b"f").expect("a name");
    let journal = 1_u64.to_be_bytes();
    type Damage<'d> = &'d dyn Fn(&LocalNode) -> Write;
    let damages: [(&str, Damage<'_>); 7] = [
        ("is not here", &|file| Write::remove(Space::Nodes, file.id.as_bytes())),
        ("without a name", &|_| Write::remove(Space::Entries, &keys::entry(NodeId::ROOT, &name))),
        ("names of nodes", &|file| Write::remove(Space::Names, &keys::name(file.id, NodeId::ROOT, &name))),
        ("counts", &|file| {
            Write::put(Space::Nodes, file.id.as_bytes(), &LocalNode { entries: 2, ..file.clone() })
        }),
        ("not in the journal", &|_| Write::remove(Space::Journal, &journal)),
        ("sums of sizes", &|_| Write::put(Space::Meta, b"sizes", &Sizes { here: 1, base: 0 })),
        ("Merkle", &|_| Write::remove(Space::Merkle, &keys::merkle(&[]))),
    ];
    for (words, damage) in damages {
        let tree = tree();
        let file = make(&tree, "f", NodeKind::File);
        meet(&tree);
        tree.store().commit(vec![damage(&file)]).expect("written");
        let found = tree.audit().expect("a store").join("\n");
        assert!(found.contains(words), "{words} is not in: {found}");
    }
}
