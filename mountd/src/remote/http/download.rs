//! Chunks out of the body of a download, each hashed before it is handed on.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use dfs_shared::hash::ChunkHash;
use dfs_shared::wire::chunks::{CHUNK_HEADER_LEN, ChunkBody, ChunkHeader};
use futures_util::{Stream, StreamExt, stream};
use reqwest::Response;

use super::pool::Line;
use crate::remote::{ChunkStream, RemoteError};

/// Chunks longer than this are hashed on a blocking thread.
const HASH_INLINE_LEN_MAX: usize = 256 * 1024;

struct Download {
    line: Line,
    body: Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>,
    buffer: BytesMut,
    asked: VecDeque<ChunkHash>,
}

/// Reads the chunks that were asked for, in that order.
pub(super) fn chunks(line: Line, response: Response, asked: Vec<ChunkHash>) -> ChunkStream {
    let body = Box::pin(response.bytes_stream());
    let download = Download { line, body, buffer: BytesMut::new(), asked: asked.into() };
    Box::pin(stream::unfold(Some(download), |download| async {
        let mut download = download?;
        let hash = download.asked.pop_front()?;
        match download.next(hash).await {
            Ok(bytes) => Some((Ok((hash, bytes)), Some(download))),
            Err(error @ (RemoteError::CorruptChunk { .. } | RemoteError::AbsentChunk { .. })) => {
                Some((Err(error), Some(download)))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Download {
    async fn next(&mut self, asked: ChunkHash) -> Result<Bytes, RemoteError> {
        self.fill(CHUNK_HEADER_LEN).await?;
        let header = self.buffer.first_chunk::<CHUNK_HEADER_LEN>().expect("the buffer was filled");
        let header = ChunkHeader::decode(header).map_err(|error| self.damaged(error.to_string()))?;
        self.buffer.advance(CHUNK_HEADER_LEN);
        if header.hash != asked {
            return Err(self.damaged(format!("chunk {asked} was asked for and {} came", header.hash)));
        }
        let len = match header.body {
            ChunkBody::Bytes(len) => len as usize,
            ChunkBody::Absent => return Err(RemoteError::AbsentChunk { hash: asked }),
            ChunkBody::Corrupt => return Err(RemoteError::CorruptChunk { hash: asked }),
        };
        self.fill(len).await?;
        let bytes = self.buffer.split_to(len).freeze();
        if hash_of(bytes.clone()).await != asked {
            return Err(self.damaged(format!("the bytes are not those of chunk {asked}")));
        }
        Ok(bytes)
    }

    /// Reads until the buffer has `len` bytes, which the frame's header has bounded.
    async fn fill(&mut self, len: usize) -> Result<(), RemoteError> {
        while self.buffer.len() < len {
            let piece = self.body.next().await.transpose();
            match piece.map_err(|error| self.line.failed(error))? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Err(RemoteError::Disconnected { server: self.line.server.clone() }),
            }
        }
        Ok(())
    }

    fn damaged(&self, why: String) -> RemoteError {
        RemoteError::Damaged { server: self.line.server.clone(), what: "chunk", why }
    }
}

async fn hash_of(bytes: Bytes) -> ChunkHash {
    if bytes.len() <= HASH_INLINE_LEN_MAX {
        return ChunkHash::of(&bytes);
    }
    tokio::task::spawn_blocking(move || ChunkHash::of(&bytes)).await.expect("hashing does not panic")
}
