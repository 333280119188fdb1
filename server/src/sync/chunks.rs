//! Chunks in and out: durable before they are noted, verified before they are served.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::event::EventBus;
use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::{CHUNK_BATCH_LEN_MAX, QUERY_ITEMS_MAX};

use super::claims::Claim;
use super::event::{ChunkCorrupt, ChunksMoved};
use super::request::at_most;
use super::{Claims, SyncError, SyncService};
use crate::blocking::offload;
use crate::chunk_store::{ChunkError, ChunkFile, ChunkStore};
use crate::limits::{CHUNK_FROM_FILE_LEN_MIN, CHUNK_WRITES_MAX};
use crate::metadata::ChunkPlace;

/// What a reader gets for a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundChunk<T = Bytes> {
    /// Its verified bytes.
    Bytes(T),
    /// It is not here.
    Absent,
    /// It was here, but its bytes are damaged or gone; it counts as missing from now on.
    Corrupt,
}

/// A verified chunk on its way out.
#[derive(Debug)]
pub enum ChunkSource {
    /// In memory.
    Memory(Bytes),
    /// In its file.
    File(ChunkFile),
}

impl ChunkSource {
    /// Returns the chunk's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.len(),
        }
    }

    /// Tells whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for ChunkSource {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

impl SyncService {
    /// Reads and verifies a chunk. Blocks.
    ///
    /// # Errors
    /// [`SyncError`] when a store fails; a damaged chunk is no error.
    pub fn chunk(&self, hash: ChunkHash) -> Result<FoundChunk, SyncError> {
        self.find_chunk(hash, |_| self.chunks.get(hash), Bytes::len)
    }

    /// Finds and verifies a chunk to be sent: long ones from their files. Blocks.
    ///
    /// # Errors
    /// As [`SyncService::chunk`].
    pub fn chunk_to_send(&self, hash: ChunkHash) -> Result<FoundChunk<ChunkSource>, SyncError> {
        let read = |len: Option<u64>| {
            if len.is_some_and(|len| len >= CHUNK_FROM_FILE_LEN_MIN)
                && let Some(file) = self.chunks.open(hash)?
            {
                return Ok(ChunkSource::File(file));
            }
            self.chunks.get(hash).map(ChunkSource::Memory)
        };
        self.find_chunk(hash, read, |source| usize::try_from(source.len()).unwrap_or(usize::MAX))
    }

    /// Finds and verifies a chunk to be sent that a manifest names, from its file or in memory. Blocks. Spares the database
    /// where the store has it.
    ///
    /// # Errors
    /// As [`SyncService::chunk`].
    pub fn chunk_of_file(
        &self,
        hash: ChunkHash,
        from_file: bool,
    ) -> Result<FoundChunk<ChunkSource>, SyncError> {
        // What has its hash may be served. All else is looked into below.
        let stored = match from_file {
            true => self.chunks.open(hash).ok().flatten().map(ChunkSource::File),
            false => self.chunks.get(hash).ok().map(ChunkSource::Memory),
        };
        let Some(source) = stored else { return self.chunk_to_send(hash) };
        self.bus.publish(ChunksMoved::Served { bytes: source.len() });
        Ok(FoundChunk::Bytes(source))
    }

    /// Tells whether [`SyncService::chunk_of_file`] will find a chunk's file without reading it. A guess that touches no disk.
    #[must_use]
    pub fn is_at_hand(&self, hash: ChunkHash) -> bool {
        self.chunks.is_verified(hash)
    }

    /// Finds a chunk, by `read` if it is in the store; that is told the length that was noted.
    fn find_chunk<T: From<Bytes>>(
        &self,
        hash: ChunkHash,
        read: impl FnOnce(Option<u64>) -> Result<T, ChunkError>,
        len: impl FnOnce(&T) -> usize,
    ) -> Result<FoundChunk<T>, SyncError> {
        let (place, small) = self.metadata.read(|snapshot| {
            let place = snapshot.chunk_place(&hash)?;
            let small = match place {
                Some(ChunkPlace::Small { .. }) => snapshot.small_chunk(&hash)?,
                Some(ChunkPlace::Stored { .. }) | None => None,
            };
            Ok((place, small))
        })?;
        let found = match (place, small) {
            // It counts as missing, but its file may have been put right by hand: what has its hash may be served.
            (None, _) => {
                return match read(None) {
                    Ok(bytes) => Ok(FoundChunk::Bytes(bytes)),
                    Err(ChunkError::Absent { .. }) => Ok(FoundChunk::Absent),
                    Err(ChunkError::Corrupt { .. }) => Ok(FoundChunk::Corrupt),
                    Err(error) => Err(error.into()),
                };
            }
            (Some(ChunkPlace::Small { .. }), Some(bytes)) if ChunkHash::of(&bytes) == hash => {
                Ok(Bytes::from(bytes).into())
            }
            (Some(ChunkPlace::Small { .. }), _) => {
                Err(ChunkError::Corrupt { hash, path: crate::metadata::sqlite::DATABASE_FILE.into() })
            }
            (Some(ChunkPlace::Stored { len }), _) => read(Some(len)),
        };
        match found {
            Ok(bytes) => {
                self.bus.publish(ChunksMoved::Served { bytes: len(&bytes) as u64 });
                Ok(FoundChunk::Bytes(bytes))
            }
            Err(ChunkError::Absent { .. }) if self.is_gone(hash)? => Ok(FoundChunk::Absent),
            Err(error @ (ChunkError::Corrupt { .. } | ChunkError::Absent { .. })) => {
                self.forget(hash, &error);
                Ok(FoundChunk::Corrupt)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets a chunk count as missing, so that a mount which has its bytes can bring them again.
    fn forget(&self, hash: ChunkHash, error: &ChunkError) {
        self.bus.publish(ChunkCorrupt { hash, why: error.to_string() });
        let chunks = Arc::clone(&self.chunks);
        // Nobody waits for it: if it fails, the next reader finds the damage again. It may have been brought again
        // by now, and then it stays; one that is brought later is noted by a later job.
        drop(self.metadata.write(1, move |tx| match tx.chunk_place(&hash)? {
            Some(ChunkPlace::Stored { .. }) if chunks.get(hash).is_ok() => Ok(()),
            Some(_) | None => tx.forget_chunk(&hash),
        }));
    }

    /// Tells whether a chunk was collected between two looks.
    fn is_gone(&self, hash: ChunkHash) -> Result<bool, SyncError> {
        Ok(self.metadata.read(|snapshot| snapshot.chunk_place(&hash))?.is_none())
    }

    /// Begins an upload.
    #[must_use]
    pub fn upload(&self) -> Batch {
        Batch {
            chunks: Arc::clone(&self.chunks),
            metadata: Arc::clone(&self.metadata),
            claims: Arc::clone(&self.claims),
            claimed: Vec::new(),
            bus: self.bus.clone(),
            received: Vec::new(),
            bytes: 0,
            writing: VecDeque::new(),
        }
    }
}

type Writing = Pin<Box<dyn Future<Output = Result<(), ChunkError>> + Send>>;

/// An upload of chunks: nothing counts as present before [`Batch::finish`] has returned.
pub struct Batch {
    chunks: Arc<dyn ChunkStore>,
    metadata: Arc<dyn crate::metadata::MetadataStore>,
    claims: Arc<Claims>,
    /// Held until the rows are durable.
    claimed: Vec<Claim>,
    bus: EventBus,
    received: Vec<(ChunkHash, u64)>,
    bytes: usize,
    writing: VecDeque<Writing>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("received", &self.received.len()).finish_non_exhaustive()
    }
}

impl Batch {
    /// Takes a chunk; hashing and writing go on beside the caller.
    ///
    /// # Errors
    /// [`SyncError`] when the batch is too large, or this or an earlier chunk cannot be stored.
    pub async fn put(&mut self, hash: ChunkHash, bytes: Bytes) -> Result<(), SyncError> {
        self.bytes += bytes.len();
        at_most("bytes in a batch of chunks", self.bytes, CHUNK_BATCH_LEN_MAX)?;
        at_most("chunks in a batch", self.received.len() + 1, QUERY_ITEMS_MAX)?;
        self.received.push((hash, bytes.len() as u64));
        self.claimed.push(self.claims.claim(hash));
        while self.writing.len() >= CHUNK_WRITES_MAX {
            self.wait_for_one().await?;
        }
        let chunks = Arc::clone(&self.chunks);
        self.writing.push_back(Box::pin(offload(move || chunks.put(hash, &bytes))));
        Ok(())
    }

    async fn wait_for_one(&mut self) -> Result<(), SyncError> {
        match self.writing.pop_front() {
            Some(writing) => Ok(writing.await?),
            None => Ok(()),
        }
    }

    /// Makes the batch durable, then notes its chunks as present; returns how many it had.
    ///
    /// # Errors
    /// [`SyncError`] when a chunk cannot be stored; then none of the batch counts as present.
    pub async fn finish(mut self) -> Result<usize, SyncError> {
        while !self.writing.is_empty() {
            self.wait_for_one().await?;
        }
        let (received, chunks) = (std::mem::take(&mut self.received), Arc::clone(&self.chunks));
        if received.is_empty() {
            return Ok(0);
        }
        offload(move || chunks.sync()).await?;
        let count = received.len();
        let claimed = std::mem::take(&mut self.claimed);
        let noted = self.metadata.write(count, move |tx| {
            // They end with the job, also when nobody waits for it any more.
            let _held = &claimed;
            received.iter().try_for_each(|(hash, len)| tx.put_chunk(hash, *len))
        });
        noted.get().await?;
        self.bus.publish(ChunksMoved::Stored { count, bytes: self.bytes as u64 });
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::Kit;
    use super::*;
    use crate::blocking::block_on;

    #[test]
    fn a_batch_is_bounded_in_bytes_and_chunks_at_the_limit_and_one_past_it() {
        let kit = Kit::new();
        let put = |batch: &mut Batch| block_on(batch.put(ChunkHash::of(b"x"), Bytes::from_static(b"x")));
        let mut full = kit.service.upload();
        full.bytes = CHUNK_BATCH_LEN_MAX - 1;
        put(&mut full).unwrap();
        assert!(matches!(put(&mut full), Err(SyncError::TooMany { max: CHUNK_BATCH_LEN_MAX, .. })));
        let mut full = kit.service.upload();
        full.received = vec![(ChunkHash::of(b"y"), 1); QUERY_ITEMS_MAX - 1];
        put(&mut full).unwrap();
        assert!(matches!(put(&mut full), Err(SyncError::TooMany { max: QUERY_ITEMS_MAX, .. })));
    }
}
