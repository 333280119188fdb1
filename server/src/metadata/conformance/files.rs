//! Contents, chunks and announced files.

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::manifest::{ChunkRef, Manifest};

use super::*;
use crate::metadata::ChunkPlace;

on_every_store!(
    a_chunk_is_kept_once_and_forgotten_wherever_it_is,
    a_content_keeps_its_manifest_and_the_first_hash_that_is_told,
    a_content_of_several_chunks_is_found_by_the_hash_of_the_whole,
    announced_files_are_listed_from_a_path_on_up_to_a_limit,
);

fn hash(number: u8) -> ChunkHash {
    ChunkHash::of(&[number])
}

fn content(number: u8) -> ContentId {
    ContentId::from_bytes([number; 32])
}

fn manifest(numbers: &[u8]) -> Manifest {
    let chunks = numbers.iter().map(|number| ChunkRef { hash: hash(*number), len: 1 << 20 }).collect();
    Manifest { chunk_log2: 20, chunks }
}

fn a_chunk_is_kept_once_and_forgotten_wherever_it_is(opened: Opened) {
    let store = opened.store();
    write(store, |tx| {
        tx.put_small_chunk(&hash(1), b"one")?;
        tx.put_small_chunk(&hash(1), b"other")?;
        tx.put_chunk(&hash(1), 9)?;
        tx.put_chunk(&hash(2), 7)?;
        tx.put_chunk(&hash(2), 8)
    });
    let place = |number| store.read(|s| s.chunk_place(&hash(number))).unwrap();
    assert_eq!(place(1), Some(ChunkPlace::Small { len: 3 }));
    assert_eq!(place(2), Some(ChunkPlace::Stored { len: 7 }));
    assert_eq!(place(3), None);
    let small = |number| store.read(|s| s.small_chunk(&hash(number))).unwrap();
    assert_eq!((small(1), small(2)), (Some(b"one".to_vec()), None));
    write(store, |tx| tx.forget_chunk(&hash(1)).and_then(|()| tx.forget_chunk(&hash(2))));
    assert_eq!((place(1), place(2), small(1)), (None, None, None));
}

fn a_content_keeps_its_manifest_and_the_first_hash_that_is_told(opened: Opened) {
    let store = opened.store();
    write(store, |tx| {
        tx.put_content(&content(1), &manifest(&[1]), None)?;
        tx.put_content(&content(2), &manifest(&[1, 2]), None)?;
        tx.put_content(&content(3), &Manifest { chunk_log2: 20, chunks: Vec::new() }, None)
    });
    let told = |number| store.read(|s| s.file_hash(&content(number))).unwrap();
    assert_eq!((told(1), told(2), told(3), told(9)), (Some(hash(1)), None, None, None));
    write(store, |tx| tx.put_content(&content(2), &manifest(&[9]), Some(&hash(5))));
    write(store, |tx| tx.put_content(&content(2), &manifest(&[1, 2]), Some(&hash(6))));
    assert_eq!(told(2), Some(hash(5)));
    let kept = |number| store.read(|s| s.content(&content(number))).unwrap();
    assert_eq!((kept(2), kept(9)), (Some(manifest(&[1, 2])), None));
}

fn a_content_of_several_chunks_is_found_by_the_hash_of_the_whole(opened: Opened) {
    let store = opened.store();
    write(store, |tx| {
        tx.put_content(&content(4), &manifest(&[4, 5]), Some(&hash(9)))?;
        tx.put_content(&content(3), &manifest(&[6, 7]), Some(&hash(9)))?;
        tx.put_content(&content(2), &manifest(&[8]), Some(&hash(8)))
    });
    let found = |number| store.read(|s| s.content_of_file(&hash(number))).unwrap();
    assert_eq!(found(9), Some(manifest(&[6, 7])), "the smallest id of several");
    assert_eq!((found(8), found(7)), (None, None));
}

fn announced_files_are_listed_from_a_path_on_up_to_a_limit(opened: Opened) {
    let store = opened.store();
    let (main, other) = (volume(store, "main"), volume(store, "other"));
    write(store, move |tx| {
        for path in [&b"b"[..], b"a\0b", b"a"] {
            tx.put_announced(main, path, Some(path))?;
        }
        tx.put_announced(main, b"b", Some(b"again"))?;
        tx.put_announced(other, b"0", Some(b"x"))
    });
    let from = |first: &[u8], limit| -> Vec<Vec<u8>> {
        let rows = store.read(|s| s.announced_from(main, first, limit)).unwrap();
        rows.into_iter().map(|(_, metadata)| metadata).collect()
    };
    assert_eq!(from(b"", 9), [&b"a"[..], b"a\0b", b"again"]);
    assert_eq!(from(b"a\0", 1), [b"a\0b"]);
    assert_eq!(from(b"a", 2), [&b"a"[..], b"a\0b"]);
    write(store, move |tx| tx.put_announced(main, b"a\0b", None));
    assert_eq!(from(b"a\0", 9), [b"again"]);
}
