//! Batches of chunks up and down, frame by frame: never more than a few chunks in memory.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::QUERY_ITEMS_MAX;
use dfs_shared::wire::chunks::{CHUNK_HEADER_LEN, ChunkBody, ChunkHeader};
use dfs_shared::wire::messages::ChunksRequest;
use dfs_shared::wire::{CHUNKS_CONTENT_TYPE, decode};
use serde_json::json;
use tokio::sync::mpsc;

use super::messages::query;
use super::outgoing::{Closed, Outgoing};
use super::status::{ApiError, answer};
use super::upload_name::UploadName;
use super::{Api, volume_of};
use crate::blocking::{beside, offload};
use crate::http::{Body, Response, Status, StreamError, StreamItem};
use crate::limits::{CHUNK_PIECES_MAX, QUERY_LEN_MAX};
use crate::router::Call;
use crate::sync::{ChunkSource, FoundChunk, SyncError, SyncService};

/// `PUT /sync/{volume}/chunks`: 200 when all chunks of the batch are durable.
pub(super) async fn put(api: Arc<Api>, call: Call) -> Response {
    answer(try_put(&api, call).await)
}

/// `POST /sync/{volume}/missing`
pub(super) async fn missing(api: Arc<Api>, call: Call) -> Response {
    let named = match volume_of(&call) {
        Ok(volume) => UploadName::of(&api, &call, &volume).await,
        Err(_) => None,
    };
    let answered = query(&api, call, SyncService::missing).await;
    if let (Ok(_), Some(named)) = (&answered, named) {
        named.started(&api);
    }
    answer(answered)
}

async fn try_put(api: &Api, mut call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let sync = Arc::clone(&api.sync);
    let name = volume.clone();
    offload(move || sync.volume(&name)).await?;
    let named = UploadName::of(api, &call, &volume).await;
    let mut chunks = Vec::new();
    let mut batch = api.sync.upload();
    let mut frames = Frames::default();
    while let Some(piece) = call.body.next().await.transpose()? {
        frames.push(piece);
        while let Some((header, bytes)) = frames.next()? {
            if named.is_some() {
                chunks.push((header.hash, bytes.len() as u64));
            }
            batch.put(header.hash, bytes).await?;
        }
    }
    frames.end()?;
    let stored = batch.finish().await?;
    if let Some(named) = named {
        named.received(api, chunks);
    }
    Ok(Response::json(Status::OK, format!("{}\n", json!({ "stored": stored }))))
}

/// Cuts a body that comes in pieces into frames.
#[derive(Debug, Default)]
struct Frames {
    buffer: BytesMut,
    header: Option<(ChunkHeader, usize)>,
}

impl Frames {
    fn push(&mut self, piece: Bytes) {
        if let Some((_, len)) = self.header {
            self.buffer.reserve(len.saturating_sub(self.buffer.len()));
        }
        self.buffer.extend_from_slice(&piece);
    }

    /// Takes the next whole frame off the buffer.
    fn next(&mut self) -> Result<Option<(ChunkHeader, Bytes)>, ApiError> {
        if self.header.is_none() {
            let Some(header) = self.buffer.first_chunk::<CHUNK_HEADER_LEN>() else { return Ok(None) };
            let header = ChunkHeader::decode(header)?;
            let ChunkBody::Bytes(len) = header.body else {
                return Err(ApiError::Batch { why: "an upload has no marks in place of bytes" });
            };
            self.buffer.advance(CHUNK_HEADER_LEN);
            self.header = Some((header, len as usize));
        }
        match self.header {
            Some((header, len)) if self.buffer.len() >= len => {
                self.header = None;
                Ok(Some((header, self.buffer.split_to(len).freeze())))
            }
            Some(_) | None => Ok(None),
        }
    }

    fn end(&self) -> Result<(), ApiError> {
        if self.header.is_some() || !self.buffer.is_empty() {
            return Err(ApiError::Batch { why: "it is cut short inside a chunk" });
        }
        Ok(())
    }
}

/// `POST /sync/{volume}/chunks/get`: every asked chunk in order.
pub(super) async fn get(api: Arc<Api>, call: Call) -> Response {
    answer(try_get(&api, call).await)
}

async fn try_get(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let request: ChunksRequest = decode(&call.body.collect(QUERY_LEN_MAX).await?)?;
    if request.hashes.len() > QUERY_ITEMS_MAX {
        let count = request.hashes.len();
        return Err(SyncError::TooMany { what: "hashes", count, max: QUERY_ITEMS_MAX }.into());
    }
    let sync = Arc::clone(&api.sync);
    offload(move || sync.volume(&volume)).await?;
    let (pieces, body) = mpsc::channel(CHUNK_PIECES_MAX);
    let sync = Arc::clone(&api.sync);
    beside(move || send_chunks(&sync, &request, &pieces));
    Ok(Response::new(Status::OK)
        .with_header("Content-Type", CHUNKS_CONTENT_TYPE)
        .with_body(Body::Stream(body)))
}

/// Reads the chunks one after the other, ahead of the peer by [`CHUNK_PIECES_MAX`] pieces.
fn send_chunks(sync: &SyncService, request: &ChunksRequest, pieces: &mpsc::Sender<StreamItem>) {
    let mut outgoing = Outgoing::new(pieces);
    for hash in &request.hashes {
        let found = match sync.chunk_to_send(*hash) {
            Ok(found) => found,
            Err(error) => {
                let reason = crate::report::chain(&error);
                tracing::error!(chunk = %hash, error = %reason, "cannot read a chunk");
                let _ = pieces.blocking_send(Err(StreamError { reason }));
                return;
            }
        };
        // A failed send means that the peer is gone.
        if send_chunk(*hash, found, &mut outgoing).is_err() {
            return;
        }
    }
    let _ = outgoing.flush();
}

/// Sends a chunk's frame.
fn send_chunk(
    hash: ChunkHash,
    found: FoundChunk<ChunkSource>,
    outgoing: &mut Outgoing<'_>,
) -> Result<(), Closed> {
    let body = match &found {
        FoundChunk::Bytes(source) => {
            ChunkBody::Bytes(u32::try_from(source.len()).expect("a stored chunk is within CHUNK_LEN_MAX"))
        }
        FoundChunk::Absent => ChunkBody::Absent,
        FoundChunk::Corrupt => ChunkBody::Corrupt,
    };
    outgoing.bytes(Bytes::copy_from_slice(&ChunkHeader { hash, body }.encode()))?;
    match found {
        FoundChunk::Bytes(ChunkSource::Memory(bytes)) => outgoing.bytes(bytes),
        FoundChunk::Bytes(ChunkSource::File(file)) => {
            let len = file.len();
            outgoing.file(file, 0, len)?;
            // It is on its way while the next one is looked for.
            outgoing.flush()
        }
        FoundChunk::Absent | FoundChunk::Corrupt => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk_store::{ChunkStore, DiskStore};

    fn frame(bytes: &[u8]) -> Vec<u8> {
        let header = ChunkHeader { hash: ChunkHash::of(bytes), body: ChunkBody::Bytes(bytes.len() as u32) };
        [&header.encode()[..], bytes].concat()
    }

    #[test]
    fn a_chunk_is_on_its_way_before_the_next_one_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        let (bytes, hash) = (vec![1; 100_000], ChunkHash::of(&[1; 100_000]));
        store.put(hash, &bytes).unwrap();
        let file = store.open(hash).unwrap().expect("few files are open");
        let (pieces, body) = mpsc::channel(4);
        let found = FoundChunk::Bytes(ChunkSource::File(file));
        send_chunk(hash, found, &mut Outgoing::new(&pieces)).unwrap();
        assert_eq!(body.len(), 2, "its header and its file");
    }

    #[test]
    fn frames_are_found_however_the_body_is_split() {
        let body = [frame(b"one"), frame(&[7; 100]), frame(b"z")].concat();
        for split in 0..=body.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in [&body[..split], &body[split..]] {
                frames.push(Bytes::copy_from_slice(piece));
                while let Some((header, bytes)) = frames.next().unwrap() {
                    assert_eq!(ChunkHash::of(&bytes), header.hash);
                    found.push(bytes.len());
                }
            }
            frames.end().unwrap();
            assert_eq!(found, [3, 100, 1], "split at {split}");
        }
    }

    #[test]
    fn a_body_that_ends_inside_a_frame_is_refused() {
        let body = frame(b"one");
        for len in 1..body.len() {
            let mut frames = Frames::default();
            frames.push(Bytes::copy_from_slice(&body[..len]));
            assert!(frames.next().unwrap().is_none());
            assert!(frames.end().is_err(), "{len}");
        }
    }

    #[test]
    fn marks_and_lengths_over_the_limit_are_refused_before_any_byte() {
        let hash = ChunkHash::of(b"x");
        for body in
            [ChunkBody::Absent, ChunkBody::Corrupt, ChunkBody::Bytes(0), ChunkBody::Bytes(u32::MAX - 2)]
        {
            let mut frames = Frames::default();
            frames.push(Bytes::copy_from_slice(&ChunkHeader { hash, body }.encode()));
            assert!(frames.next().is_err(), "{body:?}");
        }
    }
}
