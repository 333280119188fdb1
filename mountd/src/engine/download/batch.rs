//! One download request: asks for some chunks and writes each as it arrives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_shared::ids::NodeId;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::want::Place;
use crate::cache::{CacheError, Filler};
use crate::engine::shared::{Shared, blocking};
use crate::remote::RemoteError;
use crate::tree::TreeError;

/// What became of one chunk, or of the rest of a batch.
#[derive(Debug)]
pub(super) enum Arrived {
    /// It is in the file.
    Here(Place),
    /// It is not: it may be asked for again.
    Failed(Place, BatchError),
}

/// Why a chunk is not in the file.
#[derive(Debug, Clone)]
pub(super) enum BatchError {
    /// The server.
    Remote(RemoteError),
    /// The file has another content now.
    Changed,
    /// The disk is full.
    NoSpace,
    /// The disk or the store failed.
    Local(String),
}

impl From<CacheError> for BatchError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Changed | CacheError::NotFound => Self::Changed,
            CacheError::Io { source, .. } if source.raw_os_error() == Some(libc::ENOSPC) => Self::NoSpace,
            CacheError::Tree { source: TreeError::NoSpace } => Self::NoSpace,
            error => Self::Local(crate::engine::shared::chain(&error)),
        }
    }
}

/// Downloads the chunks into the file; tells of each.
pub(super) async fn run(
    shared: Arc<Shared>,
    node: NodeId,
    filler: Arc<Filler>,
    chunks: Vec<Place>,
    arrived: mpsc::UnboundedSender<Arrived>,
) {
    let _slot = shared.downloads.slots.acquire().await.expect("the semaphore is never closed");
    let mut open: VecDeque<Place> = chunks.into();
    let error = match request(&shared, node, &filler, &mut open, &arrived).await {
        Ok(()) => BatchError::Remote(RemoteError::Disconnected { server: shared.remote.name() }),
        Err(error) => error,
    };
    for place in open {
        let _ = arrived.send(Arrived::Failed(place, error.clone()));
    }
}

async fn request(
    shared: &Arc<Shared>,
    node: NodeId,
    filler: &Filler,
    open: &mut VecDeque<Place>,
    arrived: &mpsc::UnboundedSender<Arrived>,
) -> Result<(), BatchError> {
    let hashes = open.iter().map(|(_, chunk)| chunk.hash).collect();
    let mut chunks = shared.remote.get_chunks(hashes).await.map_err(BatchError::Remote)?;
    while let Some(chunk) = chunks.next().await {
        let Some(place) = open.front().copied() else { break };
        match chunk {
            Ok((_, bytes)) => {
                blocking(|| filler.write(place.0, &bytes)).map_err(BatchError::from)?;
                shared.downloads.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let _ = arrived.send(Arrived::Here(place));
            }
            Err(error @ RemoteError::CorruptChunk { .. }) => {
                let path = shared.tree.path_of(node).ok().flatten().unwrap_or_default();
                let path = String::from_utf8_lossy(&path).into_owned();
                tracing::error!(%path, offset = place.0, chunk = %place.1.hash, "a chunk is damaged on the server");
                let _ = arrived.send(Arrived::Failed(place, BatchError::Remote(error)));
            }
            Err(error @ RemoteError::AbsentChunk { .. }) => {
                let _ = arrived.send(Arrived::Failed(place, BatchError::Remote(error)));
            }
            Err(error) => return Err(BatchError::Remote(error)),
        }
        open.pop_front();
    }
    Ok(())
}
