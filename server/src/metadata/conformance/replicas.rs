//! Mounts and what they hold, past commits, and roots of earlier revisions.

use dfs_shared::hash::{ContentId, MerkleHash};
use dfs_shared::ids::ClientId;

use super::*;
use crate::limits::ROOTS_KEPT;
use crate::metadata::{Client, CommitChanges, HeldVersion};

on_every_store!(
    clients_are_listed_by_id_with_the_number_of_their_report,
    replicas_are_kept_by_file_and_dropped_with_their_client,
    changes_of_commits_are_kept_up_to_a_number_of_bytes,
    roots_of_earlier_revisions_are_kept_up_to_a_number,
);

fn id(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

fn put_client(store: &dyn MetadataStore, volume: VolumeKey, text: &'static str) {
    let client = move || Client { id: id(text), name: text.to_uppercase(), last_seen: at(5) };
    write(store, move |tx| tx.put_client(volume, &client()));
}

fn clients_are_listed_by_id_with_the_number_of_their_report(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    put_client(store, main, "b");
    put_client(store, main, "a");
    put_client(store, other, "c");
    let listed = store.read(|s| s.clients(main)).unwrap();
    assert_eq!(listed.iter().map(|client| client.name.as_str()).collect::<Vec<_>>(), ["A", "B"]);
    let number = |text| store.read(|s| s.report_number(main, &id(text))).unwrap();
    write(store, move |tx| tx.put_report_number(main, &id("a"), 7));
    write(store, move |tx| tx.put_report_number(main, &id("c"), 8));
    assert_eq!((number("a"), number("b"), number("c")), (7, 0, 0), "nothing of a client that is not known");
}

fn replicas_are_kept_by_file_and_dropped_with_their_client(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    for text in ["-", "b", "a"] {
        put_client(store, main, text);
    }
    let held = |version| HeldVersion { content: Some(ContentId::of(b"x")), version };
    let empty = HeldVersion { content: None, version: 1 };
    write(store, move |tx| {
        tx.put_replica(main, node_id(1), &id("b"), Some(&held(1)))?;
        tx.put_replica(main, node_id(1), &id("b"), Some(&held(2)))?;
        tx.put_replica(main, node_id(1), &id("-"), Some(&empty))?;
        tx.put_replica(main, node_id(2), &id("a"), Some(&held(3)))?;
        tx.put_replica(other, node_id(1), &id("b"), Some(&held(4)))
    });
    let of = |volume, node, limit| store.read(|s| s.replicas(volume, node_id(node), limit)).unwrap();
    assert_eq!(of(main, 1, 9), [(id("-"), empty), (id("b"), held(2))]);
    assert_eq!(of(main, 1, 1), [(id("-"), empty)]);
    assert_eq!(of(main, 2, 9), [(id("a"), held(3))]);
    write(store, move |tx| tx.put_replica(main, node_id(1), &id("-"), None));
    assert_eq!(of(main, 1, 9), [(id("b"), held(2))]);
    write(store, move |tx| tx.drop_replicas(main, &id("a")));
    assert_eq!(of(main, 2, 9), []);
    write(store, move |tx| tx.put_commit_reply(main, &id("b"), 1, b"reply", 9));
    assert!(write(store, move |tx| tx.remove_client(main, &id("b"))));
    assert!(!write(store, move |tx| tx.remove_client(main, &id("b"))));
    assert_eq!(of(main, 1, 9), []);
    assert_eq!(store.read(|s| s.commit_reply(main, &id("b"), 1)).unwrap(), None);
    assert_eq!(of(other, 1, 9), [(id("b"), held(4))], "another volume's");
}

fn changes_of_commits_are_kept_up_to_a_number_of_bytes(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let changes = |revision: u64, len| CommitChanges {
        revision: Revision(revision),
        time: at(1),
        changes: vec![u8::try_from(revision).unwrap(); len],
    };
    assert_eq!(store.read(|s| s.oldest_changes(main)).unwrap(), None);
    write(store, move |tx| {
        tx.put_changes(main, &changes(1, 10), 30)?;
        tx.put_changes(main, &changes(2, 10), 30)?;
        tx.put_changes(other, &changes(9, 10), 30)?;
        tx.put_changes(main, &changes(3, 10), 30)
    });
    let from = |first| store.read(|s| s.changes_from(main, Revision(first), 9)).unwrap();
    assert_eq!(from(0), [changes(1, 10), changes(2, 10), changes(3, 10)], "exactly as many bytes");
    assert_eq!(store.read(|s| s.changes_from(main, Revision(2), 1)).unwrap(), [changes(2, 10)]);
    write(store, move |tx| tx.put_changes(main, &changes(4, 9), 30));
    assert_eq!(from(0)[0], changes(1, 10), "one of its bytes is among the newest");
    write(store, move |tx| tx.put_changes(main, &changes(5, 1), 30));
    assert_eq!(from(0)[0], changes(2, 10), "none of them is");
    assert_eq!(store.read(|s| s.oldest_changes(main)).unwrap(), Some(Revision(2)));
    write(store, move |tx| tx.put_changes(main, &changes(6, 100), 30));
    assert_eq!(from(0), [changes(6, 100)], "the newest stays, however long");
    assert_eq!(store.read(|s| s.oldest_changes(other)).unwrap(), Some(Revision(9)));
}

fn roots_of_earlier_revisions_are_kept_up_to_a_number(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    assert_eq!(store.read(|s| s.oldest_root(main)).unwrap(), None);
    let root = |number: u64| MerkleHash::from_bytes([u8::try_from(number % 256).unwrap(); 32]);
    write(store, move |tx| tx.advance_volume(other, Revision(1), root(9), 0));
    assert_eq!(store.read(|s| s.oldest_root(main)).unwrap(), None);
    for revision in [1, 2, ROOTS_KEPT, ROOTS_KEPT + 1] {
        write(store, move |tx| tx.advance_volume(main, Revision(revision), root(revision), 0));
        let oldest = store.read(|s| s.oldest_root(main)).unwrap();
        assert_eq!(oldest, Some(Revision(if revision > ROOTS_KEPT { 2 } else { 1 })));
    }
    let kept = |revision| store.read(|s| s.root_at(main, Revision(revision))).unwrap();
    assert_eq!((kept(1), kept(2), kept(3)), (None, Some(root(2)), None));
    assert_eq!(store.read(|s| s.root_at(other, Revision(1))).unwrap(), Some(root(9)));
}
