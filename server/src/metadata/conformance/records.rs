//! Volumes, records, trees, history, clients, replies and tokens.

use dfs_shared::hash::MerkleHash;
use dfs_shared::ids::ClientId;

use super::*;
use crate::metadata::token::{Access, AccessToken, TokenId};
use crate::metadata::{Client, PastRecord};

on_every_store!(
    a_volume_comes_back_advances_and_its_name_is_taken_once,
    a_quota_is_set_and_taken_away_and_outlives_commits,
    a_record_is_written_replaced_and_removed_in_its_volume_alone,
    entries_are_listed_by_name_and_by_target_up_to_a_limit,
    an_entry_that_leads_elsewhere_is_no_longer_found_by_its_old_node,
    merkle_nodes_are_written_replaced_and_removed,
    history_is_newest_first_and_counts_versions_of_the_node_alone,
    a_removed_entry_is_found_as_it_was_last,
    a_client_is_written_anew_and_times_are_whole_microseconds,
    replies_are_kept_for_as_many_numbers_as_asked,
    tokens_are_listed_oldest_first_and_stay_revoked,
);

fn a_volume_comes_back_advances_and_its_name_is_taken_once(opened: Opened) {
    let store = opened.store();
    let second = volume(store, "b");
    let first = volume(store, "a");
    assert_eq!(names(store), ["a", "b"]);
    let made = store.read(|snapshot| snapshot.volume(&name("a"))).unwrap().unwrap();
    assert_eq!((made.key, made.revision, made.root), (first, Revision(0), MerkleHash::EMPTY));
    let root = MerkleHash::from_bytes([9; 32]);
    write(store, move |tx| tx.advance_volume(first, Revision(7), root, u64::MAX - 2));
    let [one, two] = ["a", "b"].map(|text| store.read(|snapshot| snapshot.volume(&name(text))).unwrap());
    let one = one.map(|volume| (volume.revision, volume.root, volume.used));
    assert_eq!(one, Some((Revision(7), root, u64::MAX - 2)));
    assert_eq!(two.map(|volume| (volume.key, volume.revision)), Some((second, Revision(0))));
    let taken = store.write(1, |tx| tx.create_volume(&name("a"), VolumeId::generate())).wait();
    let error = taken.expect_err("the name is taken");
    assert!(!error.is_retryable() && !error.is_fatal(), "{error:?}");
    assert_eq!(store.read(|snapshot| snapshot.volume(&name("none"))).unwrap(), None);
}

fn a_quota_is_set_and_taken_away_and_outlives_commits(opened: Opened) {
    let store = opened.store();
    let (first, second) = (volume(store, "a"), volume(store, "b"));
    let quotas = || store.read(|s| s.volumes()).unwrap().into_iter().map(|v| v.quota).collect::<Vec<_>>();
    assert_eq!(quotas(), [None, None]);
    for quota in [Some(0), Some(1 << 62), None, Some(7)] {
        write(store, move |tx| tx.set_quota(second, quota));
        assert_eq!(quotas(), [None, quota]);
    }
    write(store, move |tx| tx.advance_volume(second, Revision(1), MerkleHash::EMPTY, 5));
    write(store, move |tx| tx.set_quota(first, Some(1)));
    let failed = store.write(1, move |tx| {
        tx.set_quota(first, Some(2))?;
        Err::<(), _>(MetadataError::Panicked)
    });
    failed.wait().expect_err("it says so");
    assert_eq!(quotas(), [Some(1), Some(7)]);
    let used = store.read(|s| s.volume(&name("b"))).unwrap().map(|volume| volume.used);
    assert_eq!(used, Some(5));
}

fn a_record_is_written_replaced_and_removed_in_its_volume_alone(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let key = node(1, 0).key();
    let found = |volume| store.read(|snapshot| snapshot.record(volume, &key)).unwrap();
    write(store, move |tx| tx.put_record(main, Revision(1), &node(1, 10)));
    write(store, move |tx| tx.put_record(main, Revision(2), &node(1, 20)));
    assert_eq!(found(main).map(|row| (row.revision, row.record)), Some((Revision(2), node(1, 20))));
    assert_eq!(found(other), None);
    write(store, move |tx| tx.remove_record(other, &node(1, 0).key()));
    assert!(found(main).is_some());
    write(store, move |tx| tx.remove_record(main, &node(1, 0).key()));
    assert_eq!(found(main), None);
}

fn entries_are_listed_by_name_and_by_target_up_to_a_limit(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let long = [0xff; 255];
    write(store, move |tx| {
        for text in [&b"b"[..], &long, b"ab", b"a"] {
            tx.put_record(main, Revision(1), &entry(1, text, 5))?;
        }
        tx.put_record(main, Revision(1), &entry(2, b"z", 5))?;
        tx.put_record(main, Revision(1), &node(1, 0))?;
        tx.put_record(other, Revision(1), &entry(1, b"c", 5))
    });
    let named = |rows: Vec<dfs_shared::record::Versioned>| -> Vec<Record> {
        rows.into_iter().map(|row| row.record).collect()
    };
    let inside = |limit| named(store.read(|s| s.entries_in(main, node_id(1), limit)).unwrap());
    let from =
        |first: &[u8], limit| named(store.read(|s| s.entries_from(main, node_id(1), first, limit)).unwrap());
    let to = |limit| named(store.read(|s| s.entries_to(main, node_id(5), limit)).unwrap());
    let sorted = [entry(1, b"a", 5), entry(1, b"ab", 5), entry(1, b"b", 5), entry(1, &long, 5)];
    assert_eq!(inside(9), sorted);
    assert_eq!(inside(4), sorted);
    assert_eq!(inside(3), sorted[..3]);
    assert_eq!(inside(0), []);
    assert_eq!(from(b"", 9), sorted);
    assert_eq!(from(b"ab", 2), sorted[1..3]);
    assert_eq!(from(b"aa", 1), sorted[1..2]);
    assert_eq!(from(b"c", 9), sorted[3..]);
    assert_eq!(to(9), [&sorted[..], &[entry(2, b"z", 5)]].concat());
    assert_eq!(to(2), sorted[..2]);
}

fn an_entry_that_leads_elsewhere_is_no_longer_found_by_its_old_node(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    let to = |target| store.read(|s| s.entries_to(main, node_id(target), 9)).unwrap().len();
    write(store, move |tx| tx.put_record(main, Revision(1), &entry(1, b"a", 5)));
    assert_eq!((to(5), to(6)), (1, 0));
    write(store, move |tx| tx.put_record(main, Revision(2), &entry(1, b"a", 6)));
    assert_eq!((to(5), to(6)), (0, 1));
    write(store, move |tx| tx.remove_record(main, &entry(1, b"a", 6).key()));
    assert_eq!((to(5), to(6)), (0, 0));
}

fn merkle_nodes_are_written_replaced_and_removed(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let found = |volume, prefix: &[u8]| store.read(|s| s.merkle_node(volume, prefix)).unwrap();
    write(store, move |tx| {
        tx.put_merkle_node(main, b"", Some(b"root"))?;
        tx.put_merkle_node(main, b"\x01", Some(b"one"))?;
        tx.put_merkle_node(main, b"\x01", Some(b"two"))
    });
    assert_eq!(found(main, b"").as_deref(), Some(&b"root"[..]));
    assert_eq!(found(main, b"\x01").as_deref(), Some(&b"two"[..]));
    assert_eq!(found(other, b""), None);
    write(store, move |tx| tx.put_merkle_node(main, b"\x01", None));
    assert_eq!(found(main, b"\x01"), None);
}

fn past(target: u8, record: Record, began: u64, ended: u64) -> PastRecord {
    let (began, ended) = (Revision(began), Revision(ended));
    PastRecord { node: node_id(target), began, ended, time: at(7), record, author: None }
}

fn history_is_newest_first_and_counts_versions_of_the_node_alone(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let rows = [
        past(1, node(1, 10), 1, 2),
        past(1, node(1, 20), 2, 5),
        past(1, entry(0, b"a", 1), 1, 5),
        past(1, node(1, 30), 3, 4),
    ];
    let written = rows.clone();
    write(store, move |tx| {
        written.iter().try_for_each(|row| tx.put_history(main, row))?;
        tx.put_history(main, &past(2, node(2, 1), 1, 9))
    });
    let [first, second, third, fourth] = rows;
    let found = |limit| store.read(|s| s.history(main, node_id(1), limit)).unwrap();
    assert_eq!(
        found(9),
        [third.clone(), second.clone(), fourth, first],
        "same revision: the later row first"
    );
    assert_eq!(found(2), [third, second]);
    let count = |volume| store.read(|s| s.past_versions(volume, node_id(1))).unwrap();
    assert_eq!((count(main), count(other)), (3, 0));
}

fn a_removed_entry_is_found_as_it_was_last(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    let (old, new) = (past(5, entry(1, b"a", 5), 1, 3), past(6, entry(1, b"a", 6), 3, 8));
    let (first, second) = (new.clone(), old);
    write(store, move |tx| {
        tx.put_history(main, &first)?;
        tx.put_history(main, &second)
    });
    let found = |text: &[u8]| store.read(|s| s.removed_entry(main, &entry(1, text, 0).key())).unwrap();
    assert_eq!(found(b"a"), Some(new));
    assert_eq!(found(b"b"), None);
}

fn a_client_is_written_anew_and_times_are_whole_microseconds(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    let id = ClientId::new("c").unwrap();
    let client = |name: &str, nanos| Client {
        id: ClientId::new("c").unwrap(),
        name: name.to_owned(),
        last_seen: Timestamp { secs: -5, nanos },
    };
    let (first, second) = (client("one", 1999), client("two", 2000));
    write(store, move |tx| tx.put_client(main, &first));
    assert_eq!(store.read(|s| s.client(main, &id)).unwrap(), Some(client("one", 1000)));
    write(store, move |tx| {
        tx.put_client(main, &second)?;
        tx.put_client_platform(main, &second.id, "linux")
    });
    assert_eq!(store.read(|s| s.client(main, &id)).unwrap(), Some(client("two", 2000)));
    assert_eq!(store.read(|s| s.client(main, &ClientId::new("d").unwrap())).unwrap(), None);
}

fn replies_are_kept_for_as_many_numbers_as_asked(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    let client = ClientId::new("c").unwrap();
    let asker = client.clone();
    let kept = |number| store.read(|s| s.commit_reply(main, &asker, number)).unwrap();
    write(store, move |tx| {
        (0..=5).try_for_each(|number| tx.put_commit_reply(main, &client, number, &[number as u8], 3))
    });
    let all: Vec<_> = (0..=5).map(|number| kept(number).is_some()).collect();
    assert_eq!(all, [false, false, false, true, true, true]);
    assert_eq!(kept(5), Some(vec![5]));
}

fn tokens_are_listed_oldest_first_and_stay_revoked(opened: Opened) {
    let store = opened.store();
    let token = |id: u8, created| AccessToken {
        id: TokenId::from_bytes([id; 8]),
        digest: [id; 32],
        volume: name("main"),
        access: Access::Write,
        name: "laptop".to_owned(),
        created: at(created),
        revoked: None,
    };
    write(store, move |tx| {
        [token(1, 20), token(3, 10), token(2, 10)].iter().try_for_each(|token| tx.put_token(token))
    });
    assert_eq!(store.read(|s| s.tokens()).unwrap(), [token(2, 10), token(3, 10), token(1, 20)]);
    assert!(store.write(1, move |tx| tx.put_token(&token(2, 30))).wait().is_err(), "the id is taken");
    let revoke =
        |id: u8, secs| write(store, move |tx| tx.revoke_token(&TokenId::from_bytes([id; 8]), at(secs)));
    assert!(revoke(3, 40) && revoke(3, 50));
    assert!(!revoke(9, 40));
    let revoked: Vec<_> = store.read(|s| s.tokens()).unwrap().iter().map(|token| token.revoked).collect();
    assert_eq!(revoked, [None, Some(at(40)), None]);
}
