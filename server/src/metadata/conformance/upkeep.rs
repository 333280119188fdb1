//! Reading everything in pages, dropping old history, condemning and taking.

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::ClientId;
use dfs_shared::manifest::{ChunkRef, Manifest};

use super::*;
use crate::metadata::upkeep::{Dropped, Kind};
use crate::metadata::{ChunkPlace, PastRecord};

on_every_store!(
    records_come_in_pages_in_the_order_of_their_keys,
    contents_and_chunks_come_in_pages,
    old_history_goes_and_versions_keep_their_numbers,
    times_of_later_history_are_corrected,
    only_the_newest_versions_of_a_node_stay,
    past_names_of_a_directory_are_told_by_their_newest_record,
    authors_are_told_until_they_are_dropped,
    only_what_is_condemned_is_taken,
    a_tree_is_cleared_in_its_volume_alone,
);

fn past(record: Record, target: u8, ended: u64, secs: i64) -> PastRecord {
    let (began, ended) = (Revision(ended - 1), Revision(ended));
    PastRecord { node: node_id(target), began, ended, time: at(secs), record, author: None }
}

fn manifest(numbers: &[u8]) -> Manifest {
    let chunk = |number: &u8| ChunkRef { hash: ChunkHash::of(&[*number]), len: 1 };
    Manifest { chunk_log2: 14, chunks: numbers.iter().map(chunk).collect() }
}

fn records_come_in_pages_in_the_order_of_their_keys(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let mut all = vec![node(1, 0), node(2, 0), entry(1, b"a", 2), entry(1, b"b", 2), entry(2, b"a", 1)];
    let put = all.clone();
    write(store, move |tx| {
        put.iter().rev().try_for_each(|record| tx.put_record(main, Revision(1), record))?;
        tx.put_record(other, Revision(1), &node(3, 0))
    });
    all.sort_by_key(|record| record.key().to_bytes());
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.read(|s| s.records_from(main, after.as_ref(), 2)).unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.record.key());
        seen.extend(page.into_iter().map(|row| row.record));
    }
    assert_eq!(seen, all);
}

fn contents_and_chunks_come_in_pages(opened: Opened) {
    let store = opened.store();
    let mut contents: Vec<_> = [&[1, 2][..], &[3], &[4, 5]].map(manifest).map(|m| (m.id(), Some(m))).into();
    let put = contents.clone();
    write(store, move |tx| {
        put.iter().try_for_each(|(id, manifest)| tx.put_content(id, manifest.as_ref().unwrap(), None))?;
        tx.put_small_chunk(&ChunkHash::of(b"small"), b"small")?;
        tx.put_chunk(&ChunkHash::of(b"stored"), 77)
    });
    contents.sort_by_key(|(id, _)| *id);
    let first = store.read(|s| s.contents_from(None, 2)).unwrap();
    assert_eq!(first, contents[..2]);
    assert_eq!(store.read(|s| s.contents_from(Some(&first[1].0), 9)).unwrap(), contents[2..]);
    let mut chunks = vec![
        (ChunkHash::of(b"small"), ChunkPlace::Small { len: 5 }),
        (ChunkHash::of(b"stored"), ChunkPlace::Stored { len: 77 }),
    ];
    chunks.sort_by_key(|(hash, _)| *hash);
    assert_eq!(store.read(|s| s.chunks_from(None, 9)).unwrap(), chunks);
    assert_eq!(store.read(|s| s.chunks_from(Some(&chunks[0].0), 9)).unwrap(), chunks[1..]);
    assert_eq!(store.read(|s| s.content_counts()).unwrap(), (3, 2));
    assert_eq!(store.read(|s| s.integrity()).unwrap(), Vec::<String>::new());
}

fn old_history_goes_and_versions_keep_their_numbers(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    let rows = [
        past(node(1, 10), 1, 2, 100),
        past(entry(9, b"a", 1), 1, 2, 100),
        past(node(1, 20), 1, 3, 200),
        past(node(2, 10), 2, 4, 100),
    ];
    let put = rows.clone();
    write(store, move |tx| {
        tx.put_record(main, Revision(3), &node(1, 30))?;
        put.iter().try_for_each(|row| tx.put_history(main, row))?;
        tx.put_history(other, &past(node(1, 1), 1, 5, 300))
    });
    let all = store.read(|s| s.history_from(0, 9)).unwrap();
    assert_eq!(
        all.iter().filter(|row| row.volume == main).map(|row| row.past.clone()).collect::<Vec<_>>(),
        rows
    );
    let versions = |volume, number| store.read(|s| s.past_versions(volume, node_id(number))).unwrap();
    assert_eq!(versions(main, 1), 2);
    let first = write(store, move |tx| tx.drop_history(0, at(150), 2));
    assert_eq!(first, Dropped { count: 2, next: Some(all[1].id) });
    let rest = write(store, move |tx| tx.drop_history(first.next.unwrap(), at(150), 9));
    assert_eq!((rest.count, rest.next), (1, Some(all[4].id)));
    assert_eq!(write(store, move |tx| tx.drop_history(0, at(150), 9)), Dropped { count: 0, next: None });
    assert_eq!(store.read(|s| s.history(main, node_id(1), 9)).unwrap(), rows[2..3]);
    assert_eq!(versions(main, 1), 2, "a dropped version keeps its number");
    assert_eq!(versions(main, 2), 0, "nothing is left of that node");
    assert_eq!(versions(other, 1), 1);
    assert_eq!(store.read(|s| s.removed_entry(main, &entry(9, b"a", 1).key())).unwrap(), None);
}

fn times_of_later_history_are_corrected(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    assert_eq!(store.read(|s| s.newest_history()).unwrap(), 0);
    write(store, move |tx| {
        let rows =
            [past(node(1, 10), 1, 2, 5), past(node(1, 20), 1, 3, 200), past(entry(9, b"a", 1), 1, 4, 5)];
        rows.iter().try_for_each(|row| tx.put_history(main, row))
    });
    let all = store.read(|s| s.history_from(0, 9)).unwrap();
    assert_eq!(store.read(|s| s.newest_history()).unwrap(), all[2].id);
    let first = all[0].id;
    assert_eq!(write(store, move |tx| tx.lift_history(first, at(100))), 1);
    let times: Vec<_> =
        store.read(|s| s.history_from(0, 9)).unwrap().iter().map(|row| row.past.time).collect();
    assert_eq!(times, [at(5), at(200), at(100)]);
    let removed = store.read(|s| s.removed_entry(main, &entry(9, b"a", 1).key())).unwrap();
    assert_eq!(removed.map(|past| past.time), Some(at(100)));
    assert_eq!(write(store, move |tx| tx.lift_history(0, at(100))), 1);
    assert_eq!(
        store.read(|s| s.history(main, node_id(1), 9)).unwrap().last().map(|past| past.time),
        Some(at(100))
    );
    write(store, |tx| tx.drop_history(0, at(300), 9));
    assert_eq!(store.read(|s| s.newest_history()).unwrap(), 0);
}

fn only_the_newest_versions_of_a_node_stay(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    write(store, move |tx| {
        for ended in 2..7 {
            tx.put_history(main, &past(node(1, ended), 1, ended, 1))?;
            tx.put_history(main, &past(entry(9, b"a", 1), 1, ended, 1))?;
        }
        tx.put_history(main, &past(node(2, 0), 2, 9, 1))
    });
    let crowded = |after, limit| store.read(|s| s.crowded_nodes(3, after, limit)).unwrap();
    assert_eq!(crowded(None, 9), [(main, node_id(1))]);
    assert_eq!(crowded(Some((main, node_id(1))), 9), []);
    assert_eq!(write(store, move |tx| tx.drop_versions(main, node_id(1), 2, 2)), 2);
    assert_eq!(write(store, move |tx| tx.drop_versions(main, node_id(1), 2, 2)), 1);
    assert_eq!(write(store, move |tx| tx.drop_versions(main, node_id(1), 2, 2)), 0);
    let left = store.read(|s| s.history(main, node_id(1), 99)).unwrap();
    let nodes = left.iter().filter(|past| matches!(past.record, Record::Node(_)));
    assert_eq!(nodes.map(|past| past.ended.0).collect::<Vec<_>>(), [6, 5]);
    assert_eq!(left.len(), 7, "names are not versions");
    assert_eq!(store.read(|s| s.past_versions(main, node_id(1))).unwrap(), 5);
}

fn past_names_of_a_directory_are_told_by_their_newest_record(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    let rows = [
        past(entry(9, b"b", 1), 1, 2, 1),
        past(entry(9, b"a", 2), 2, 3, 1),
        past(entry(9, b"a", 3), 3, 5, 1),
        past(entry(8, b"c", 3), 3, 5, 1),
    ];
    let put = rows.clone();
    write(store, move |tx| put.iter().try_for_each(|row| tx.put_history(main, row)));
    let names = |after: &[u8], limit| store.read(|s| s.past_names(main, node_id(9), after, limit)).unwrap();
    assert_eq!(names(b"", 9), [rows[2].clone(), rows[0].clone()]);
    assert_eq!(names(b"", 1), [rows[2].clone()]);
    assert_eq!(names(b"a", 9), [rows[0].clone()]);
    let entries = |limit| store.read(|s| s.past_entries(main, &rows[1].record.key(), limit)).unwrap();
    assert_eq!(entries(9), [rows[2].clone(), rows[1].clone()]);
    assert_eq!(entries(1), [rows[2].clone()]);
}

fn authors_are_told_until_they_are_dropped(opened: Opened) {
    let store = opened.store();
    let main = volume(store, "main");
    let who = ClientId::new("who").unwrap();
    for revision in 1..4_u64 {
        let (who, time) = (who.clone(), at(i64::try_from(revision).unwrap()));
        write(store, move |tx| tx.put_commit_author(main, Revision(revision), &who, time));
    }
    let author = |revision| store.read(|s| s.commit_author(main, Revision(revision))).unwrap();
    assert_eq!((author(1), author(9)), (Some(who.clone()), None));
    assert_eq!(write(store, move |tx| tx.drop_commit_authors(main, at(3), 1)), 1);
    assert_eq!(write(store, move |tx| tx.drop_commit_authors(main, at(3), 9)), 1);
    assert_eq!((author(1), author(2), author(3)), (None, None, Some(who)));
}

fn only_what_is_condemned_is_taken(opened: Opened) {
    let store = opened.store();
    let content = manifest(&[1, 2]);
    let (id, hash): (ContentId, ChunkHash) = (content.id(), ChunkHash::of(b"x"));
    let file = ChunkHash::of(b"file");
    write(store, move |tx| {
        tx.put_content(&id, &content, Some(&file))?;
        tx.put_chunk(&hash, 9)
    });
    let condemned = |kind| store.read(|s| s.condemned_count(kind)).unwrap();
    assert!(!store.read(|s| s.is_any_condemned()).unwrap());
    assert!(!write(store, move |tx| tx.take_content(&id)));
    assert!(!write(store, move |tx| tx.take_chunk(&hash)));
    write(store, move |tx| tx.condemn(Kind::Chunk, hash.as_bytes(), at(1)));
    write(store, move |tx| tx.condemn(Kind::Chunk, hash.as_bytes(), at(2)));
    let since = store.read(|s| s.condemned_since(Kind::Chunk, hash.as_bytes())).unwrap();
    assert_eq!((since, condemned(Kind::Chunk), condemned(Kind::Content)), (Some(at(1)), 1, 0));
    write(store, move |tx| tx.reprieve(Kind::Chunk, hash.as_bytes()));
    assert!(!write(store, move |tx| tx.take_chunk(&hash)), "it was reprieved");
    assert!(store.read(|s| s.chunk_place(&hash)).unwrap().is_some());
    write(store, move |tx| {
        tx.condemn(Kind::Chunk, hash.as_bytes(), at(1))?;
        tx.condemn(Kind::Content, id.as_bytes(), at(1))
    });
    assert!(store.read(|s| s.is_any_condemned()).unwrap());
    assert!(write(store, move |tx| tx.take_chunk(&hash)) && write(store, move |tx| tx.take_content(&id)));
    assert_eq!(store.read(|s| s.chunk_place(&hash)).unwrap(), None);
    assert_eq!(store.read(|s| s.content(&id)).unwrap(), None);
    assert_eq!(store.read(|s| s.content_of_file(&file)).unwrap(), None);
    assert_eq!((condemned(Kind::Chunk), condemned(Kind::Content)), (0, 0));
}

fn a_tree_is_cleared_in_its_volume_alone(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    write(store, move |tx| {
        tx.put_merkle_node(main, b"", Some(b"x"))?;
        tx.put_merkle_node(main, b"\x01", Some(b"x"))?;
        tx.put_merkle_node(other, b"", Some(b"y"))
    });
    write(store, move |tx| tx.clear_merkle(main));
    let found = |volume, prefix: &[u8]| store.read(|s| s.merkle_node(volume, prefix)).unwrap();
    assert_eq!(
        (found(main, b""), found(main, b"\x01"), found(other, b"")),
        (None, None, Some(b"y".to_vec()))
    );
}
