//! Gets bytes that are read and are not here. Each file that is being read has a task of its own while it lasts.
//!
//! ```text
//! fetch ─► task of the file ─► manifest ─► Filler ─► wanted chunks + read-ahead ─► batches ─► written ─► done
//! ```
//!
//! Invariant: every `done` that was handed in is called exactly once, at the latest when its deadline passes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs_shared::ids::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::shared::Shared;
use crate::cache::{FetchDone, FetchError};
use crate::limits::{AHEAD_OF_READER_LEN, DOWNLOAD_REQUESTS_MAX, FETCH_DEADLINE_MS, FETCH_WAITERS_MAX};

mod batch;
mod file;
mod want;

pub(super) use file::manifest_of;

/// The downloads that are going on.
#[derive(Debug)]
pub(super) struct Downloads {
    files: parking_lot::Mutex<HashMap<NodeId, mpsc::Sender<Waiter>>>,
    slots: Semaphore,
    bytes: AtomicU64,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            files: parking_lot::Mutex::default(),
            slots: Semaphore::new(DOWNLOAD_REQUESTS_MAX),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Downloads {
    /// Returns how many bytes were downloaded since the start.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Somebody who waits for a range.
struct Waiter {
    range: Range<u64>,
    deadline: Instant,
    /// Nobody reads it now: no read-ahead, and it may take its time.
    background: bool,
    done: FetchDone,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("range", &self.range).finish_non_exhaustive()
    }
}

/// Fetches a range of a file; see [`crate::cache::Fetch`].
pub(super) fn fetch(shared: &Arc<Shared>, node: NodeId, range: Range<u64>, done: FetchDone) {
    let mut deadline = Instant::now() + Duration::from_millis(FETCH_DEADLINE_MS);
    if let Some(rate) = shared.remote.rates().down {
        deadline += Duration::from_secs(AHEAD_OF_READER_LEN / rate.max(1));
    }
    send(shared, node, Waiter { range, deadline, background: false, done });
}

/// Fetches the first `len` bytes of a file and waits for them; returns why they cannot be had.
pub(super) async fn fetch_up_to(shared: &Arc<Shared>, node: NodeId, len: u64) -> Option<FetchError> {
    let (sender, receiver) = oneshot::channel();
    fetch(shared, node, 0..len, Box::new(move |result| drop(sender.send(result))));
    // Without an answer the engine is ending.
    receiver.await.ok()?.err()
}

/// Fetches a range of a file anew and waits for it, for as long as it takes while the server is there.
pub(super) async fn fetch_again(
    shared: &Arc<Shared>,
    node: NodeId,
    range: Range<u64>,
) -> Result<(), FetchError> {
    let (sender, receiver) = oneshot::channel();
    let deadline = Instant::now() + Duration::from_secs(3600);
    let done: FetchDone = Box::new(move |result| drop(sender.send(result)));
    send(shared, node, Waiter { range, deadline, background: true, done });
    // Without an answer the engine is ending.
    receiver.await.unwrap_or(Err(FetchError::TimedOut))
}

/// Fetches a whole file that nobody waits for.
pub(super) fn prefetch(shared: &Arc<Shared>, node: NodeId) {
    let deadline = Instant::now() + Duration::from_secs(3600);
    let done: FetchDone = Box::new(move |result| {
        if let Err(error) = result {
            tracing::debug!(%node, %error, "a new version was not fetched ahead");
        }
    });
    send(shared, node, Waiter { range: 0..u64::MAX, deadline, background: true, done });
}

fn send(shared: &Arc<Shared>, node: NodeId, waiter: Waiter) {
    let mut files = shared.downloads.files.lock();
    let waiter = match files.get(&node) {
        None => waiter,
        Some(file) => match file.try_send(waiter) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(waiter)) => {
                drop(files);
                (waiter.done)(Err(FetchError::Failed {
                    reason: "too many reads wait for this file".to_owned(),
                }));
                return;
            }
            Err(mpsc::error::TrySendError::Closed(waiter)) => waiter,
        },
    };
    let (sender, receiver) = mpsc::channel(FETCH_WAITERS_MAX);
    let _ = sender.try_send(waiter);
    files.insert(node, sender);
    drop(files);
    shared.tasks.spawn(file::run(Arc::clone(shared), node, receiver));
}
