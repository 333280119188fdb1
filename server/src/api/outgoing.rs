//! Pieces of chunks on their way to a connection, gathered until a system call is worth its wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::Sender;

use crate::chunk_store::ChunkFile;
use crate::http::{BodyFile, FilePart, Piece, StreamItem};
use crate::limits::{CHUNK_FILES_PIECE_LEN, CHUNK_PIECE_LEN};

/// The connection takes no more: its peer is gone, or its grant.
#[derive(Debug)]
pub(super) struct Closed;

/// The producer's end of a streamed body. What is gathered is either bytes or files.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pieces: &'a Sender<StreamItem>,
    bytes: BytesMut,
    files: Vec<FilePart>,
    /// Of the files.
    len: u64,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(pieces: &'a Sender<StreamItem>) -> Self {
        Self { pieces, bytes: BytesMut::new(), files: Vec::new(), len: 0 }
    }

    /// Sends bytes, or gathers them. Blocks while the peer does not keep up.
    pub(super) fn bytes(&mut self, bytes: Bytes) -> Result<(), Closed> {
        if !self.files.is_empty() {
            self.flush()?;
        }
        if self.bytes.is_empty() && bytes.len() >= CHUNK_PIECE_LEN {
            return self.send(bytes.into());
        }
        self.bytes.extend_from_slice(&bytes);
        if self.bytes.len() >= CHUNK_PIECE_LEN { self.flush() } else { Ok(()) }
    }

    /// Sends `from..to` of a chunk's file, or gathers it. Blocks as [`Outgoing::bytes`] does.
    pub(super) fn file(&mut self, file: ChunkFile, mut from: u64, to: u64) -> Result<(), Closed> {
        if !self.bytes.is_empty() {
            self.flush()?;
        }
        let file: Arc<dyn BodyFile> = Arc::new(SentChunk(file));
        while from < to {
            let len = (to - from).min(CHUNK_FILES_PIECE_LEN - self.len);
            self.files.push(FilePart { file: Arc::clone(&file), offset: from, len });
            from += len;
            self.len += len;
            if self.len == CHUNK_FILES_PIECE_LEN {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self) -> Result<(), Closed> {
        self.len = 0;
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            self.send(bytes.freeze().into())?;
        }
        if !self.files.is_empty() {
            let files = std::mem::take(&mut self.files);
            self.send(Piece::Files(files))?;
        }
        Ok(())
    }

    fn send(&self, piece: Piece) -> Result<(), Closed> {
        self.pieces.blocking_send(Ok(piece)).map_err(|_| Closed)
    }
}

#[derive(Debug)]
struct SentChunk(ChunkFile);

impl AsFd for SentChunk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl BodyFile for SentChunk {
    fn is_unchanged(&self) -> bool {
        self.0.is_unchanged()
    }
}
