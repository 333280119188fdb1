//! What is verified for a peer, and what reaches it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_shared::event::EventBus;
use dfs_shared::hash::ChunkHash;

use super::*;
use crate::chunk_store::{ChunkError, ChunkFile, ChunkStore, DiskStore};
use crate::http::Piece;
use crate::limits::{CHUNK_FILES_PIECE_LEN, CHUNKS_AHEAD_MAX};
use crate::metadata::memory::MemoryStore;

/// Counts what is opened.
struct Counting {
    store: DiskStore,
    opened: Arc<AtomicU64>,
}

impl ChunkStore for Counting {
    fn put(&self, hash: ChunkHash, bytes: &[u8]) -> Result<(), ChunkError> {
        self.store.put(hash, bytes)
    }

    fn sync(&self) -> Result<(), ChunkError> {
        self.store.sync()
    }

    fn get(&self, hash: ChunkHash) -> Result<Bytes, ChunkError> {
        self.store.get(hash)
    }

    fn remove(&self, hash: ChunkHash) -> Result<(), ChunkError> {
        self.store.remove(hash)
    }

    fn each(&self, visit: &mut dyn FnMut(ChunkHash, u64) -> ControlFlow<()>) -> Result<(), ChunkError> {
        self.store.each(visit)
    }

    fn open(&self, hash: ChunkHash) -> Result<Option<ChunkFile>, ChunkError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.store.open(hash)
    }

    fn is_verified(&self, hash: ChunkHash) -> bool {
        self.store.is_verified(hash)
    }
}

const CHUNK_LEN: u64 = 1 << 20;

/// A service with so many chunks; the last of them is damaged.
fn service(count: u8) -> (tempfile::TempDir, Arc<SyncService>, Manifest, Arc<AtomicU64>) {
    let (dir, sync, manifest, opened) = service_of(&vec![CHUNK_LEN; count.into()]);
    let damaged = manifest.chunks.last().expect("there are some").hash;
    let store = DiskStore::open_beside(dir.path()).unwrap();
    std::fs::write(store.path(damaged), vec![count; CHUNK_LEN as usize]).unwrap();
    (dir, sync, manifest, opened)
}

/// A service with chunks of these lengths, each of one byte all through, which is its number.
fn service_of(lens: &[u64]) -> (tempfile::TempDir, Arc<SyncService>, Manifest, Arc<AtomicU64>) {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskStore::open(dir.path()).unwrap();
    let chunks: Vec<ChunkRef> = (0..=u8::MAX)
        .zip(lens)
        .map(|(byte, len)| {
            let bytes = vec![byte; *len as usize];
            let hash = ChunkHash::of(&bytes);
            store.put(hash, &bytes).unwrap();
            ChunkRef { hash, len: *len }
        })
        .collect();
    store.sync().unwrap();
    let opened = Arc::<AtomicU64>::default();
    let counting = Counting { store, opened: Arc::clone(&opened) };
    let sync = SyncService::new(Arc::new(MemoryStore::new()), Arc::new(counting), EventBus::new());
    (dir, Arc::new(sync), Manifest { chunk_log2: 20, chunks }, opened)
}

#[test]
fn a_peer_that_stops_reading_does_not_cause_the_whole_file_to_be_verified() {
    let (_dir, sync, manifest, opened) = service(64);
    let (pieces, body) = mpsc::channel(CHUNK_PIECES_MAX);
    let producer = std::thread::spawn(move || send(&sync, &manifest, 0, manifest.size(), &pieces).is_err());
    // As many as wait in the channel, and the one that waits for it, each full.
    let handed_over = (CHUNK_PIECES_MAX as u64 + 1) * CHUNK_FILES_PIECE_LEN / CHUNK_LEN;
    let until = Instant::now() + Duration::from_secs(60);
    while opened.load(Ordering::SeqCst) < handed_over && Instant::now() < until {
        std::thread::yield_now();
    }
    drop(body);
    assert!(producer.join().unwrap(), "it is told that nobody reads");
    let opened = opened.load(Ordering::SeqCst);
    assert!(opened >= handed_over, "{opened}");
    assert!(opened <= handed_over + CHUNKS_AHEAD_MAX as u64, "{opened}");
}

#[test]
fn what_comes_before_a_damaged_chunk_is_sent_and_nothing_of_it_or_behind_it() {
    let (_dir, sync, manifest, _opened) = service(12);
    let damaged = manifest.chunks[11];
    // In the middle.
    let chunks = [&manifest.chunks[..11], &[damaged], &manifest.chunks[..11]].concat();
    let (pieces, mut body) = mpsc::channel(64);
    let manifest = Manifest { chunk_log2: 20, chunks };
    let sent = send(&sync, &manifest, 0, manifest.size(), &pieces);
    let Err(Broken::Failed(reason)) = sent else { panic!("it looks whole") };
    assert!(reason.contains(&damaged.hash.to_string()), "{reason}");
    drop(pieces);
    let mut len = 0;
    while let Some(piece) = body.blocking_recv() {
        match piece.unwrap() {
            Piece::Files(parts) => len += parts.iter().map(|part| part.len).sum::<u64>(),
            Piece::Bytes(bytes) => len += bytes.len() as u64,
        }
    }
    // What was gathered for a piece that was not full goes with it.
    assert_eq!(len, CHUNK_FILES_PIECE_LEN);
}

/// What reaches a connection that takes it all.
fn sent(sync: &Arc<SyncService>, manifest: &Manifest) -> Vec<Piece> {
    let (pieces, mut body) = mpsc::channel(1_000);
    assert!(send(sync, manifest, 0, manifest.size(), &pieces).is_ok());
    drop(pieces);
    std::iter::from_fn(|| body.blocking_recv()).map(Result::unwrap).collect()
}

#[test]
fn short_chunks_leave_together() {
    let lens: Vec<u64> = (0..200).map(|number| 4_096 + 100 * number).collect();
    let (_dir, sync, manifest, _opened) = service_of(&lens);
    let (mut bytes, mut count) = (Vec::new(), 0);
    for piece in sent(&sync, &manifest) {
        let Piece::Bytes(piece) = piece else { panic!("they are read into memory") };
        bytes.extend_from_slice(&piece);
        count += 1;
    }
    assert!(count <= manifest.size() as usize / CHUNK_PIECE_LEN + 1, "{count} pieces");
    let expected: Vec<u8> =
        (0..).zip(&lens).flat_map(|(byte, len)| std::iter::repeat_n(byte, *len as usize)).collect();
    assert!(bytes == expected);
}

#[test]
fn a_short_chunk_among_long_ones_is_sent_from_its_file_as_they_are() {
    let lens: Vec<u64> = (0..40).map(|number| if number % 2 == 0 { 4_096 } else { 200_000 }).collect();
    let (_dir, sync, manifest, _opened) = service_of(&lens);
    let pieces = sent(&sync, &manifest);
    let [Piece::Files(parts)] = &pieces[..] else { panic!("{} pieces", pieces.len()) };
    assert_eq!(parts.iter().map(|part| part.len).collect::<Vec<_>>(), lens);
}
