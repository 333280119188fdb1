//! What a page of a list and a history read for hashes.

use dfs_shared::event::EventBus;
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::wire::messages::SmallChunk;

use super::*;
use crate::blocking::block_on;
use crate::chunk_store::DiskStore;
use crate::files::{NewContent, Publish};
use crate::metadata::MetadataStore;
use crate::metadata::memory::MemoryStore;
use crate::sync::SyncService;

/// A file of two chunks with three bytes, whose hash nobody has told.
fn file_of_three_bytes(name: &str) -> Publish {
    version_of_three_bytes(name, name)
}

/// As [`file_of_three_bytes`], of which this is the first byte.
fn version_of_three_bytes(name: &str, first: &str) -> Publish {
    let chunks: [&[u8]; 2] = [first.as_bytes(), b"23"];
    let chunk = |bytes: &[u8]| ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
    let small = |bytes: &[u8]| SmallChunk { hash: ChunkHash::of(bytes), bytes: bytes.to_vec() };
    let manifest = Manifest { chunk_log2: 14, chunks: chunks.map(chunk).to_vec() };
    Publish {
        path: FilePath::from_bytes(name.as_bytes()).unwrap(),
        content: NewContent { manifest, file_hash: None, small_chunks: chunks.map(small).to_vec() },
        mtime: None,
        owner: None,
        author: ClientId::new(AUTHOR).unwrap(),
        expected_version: None,
    }
}

/// Files in memory, with the volume `main`.
fn files() -> (tempfile::TempDir, Arc<FileService>, VolumeName) {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new());
    let chunks = Arc::new(DiskStore::open(dir.path()).unwrap());
    let sync = Arc::new(SyncService::new(Arc::clone(&store), chunks, EventBus::new()));
    let volume = VolumeName::new("main").unwrap();
    block_on(sync.ensure_volume(&volume)).unwrap();
    (dir, Arc::new(FileService::new(sync, store)), volume)
}

#[test]
fn a_page_for_which_too_much_was_read_ends_early_and_goes_on_behind_it() {
    let (_dir, files, volume) = files();
    let told = |cursor: Option<&str>, hashed_len_max| {
        let page = files.list(&volume, b"", 10, cursor).unwrap();
        let (told, cursor) = tell_page(&files, page, hashed_len_max);
        assert!(told.iter().all(|told| told.is_hashed));
        (told.len(), cursor)
    };
    // A hash that was read once is known from then on, so each attempt has files of its own.
    for name in ["a", "b", "c"] {
        block_on(files.publish(&volume, file_of_three_bytes(name))).unwrap();
    }
    let (count, cursor) = told(None, 5);
    assert_eq!((count, cursor.is_some()), (2, true));
    assert_eq!(told(cursor.as_deref(), 5), (1, None));
    for name in ["d", "e", "f"] {
        block_on(files.publish(&volume, file_of_three_bytes(name))).unwrap();
    }
    assert_eq!(told(None, 6), (6, None), "only the last one is past the limit");
}

#[test]
fn a_history_reads_no_more_for_hashes_than_it_may_and_the_next_one_gets_further() {
    let (_dir, files, volume) = files();
    let path = FilePath::from_bytes(b"f").unwrap();
    // The fourth content is the second one again.
    for first in ["a", "b", "c", "b"] {
        block_on(files.publish(&volume, version_of_three_bytes("f", first))).unwrap();
    }
    let known = |hashed_len_max| {
        let versions = files.history(&volume, &path).unwrap();
        let told = tell_versions(&files, versions, hashed_len_max);
        told.iter().map(|told| (told.metadata.version, told.is_hashed)).collect::<Vec<_>>()
    };
    assert_eq!(known(2), [(4, false), (3, false), (2, false), (1, false)], "one past the limit");
    assert_eq!(
        known(3),
        [(4, true), (3, false), (2, true), (1, false)],
        "at the limit; one content is read once"
    );
    assert_eq!(known(3), [(4, true), (3, true), (2, true), (1, false)], "what is known costs nothing");
    assert_eq!(known(3), [(4, true), (3, true), (2, true), (1, true)]);
    assert_eq!(known(0), [(4, true), (3, true), (2, true), (1, true)]);
}
