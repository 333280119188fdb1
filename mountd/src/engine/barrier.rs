//! Waits until what was changed so far is on the server.
//!
//! A change of a record that is in flight is journaled again only when the flight is over. So a wait first lets
//! the commit that may be in flight be settled, and then takes the journal's end as its mark. What was changed may go on
//! under a later number, as a conflict copy does: the mark moves on to that.

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::cache::{FetchDone, FetchError};
use crate::limits::BARRIER_DEADLINE_MS;
use crate::tree::TreeError;

/// Waits; `false` when `timeout` passes first.
pub(super) async fn wait(shared: &Arc<Shared>, timeout: Option<Duration>) -> Result<bool, TreeError> {
    let reached = reached_everything(shared);
    match timeout {
        None => reached.await.map(|()| true),
        Some(timeout) => match tokio::time::timeout(timeout, reached).await {
            Ok(reached) => reached.map(|()| true),
            Err(_) => Ok(false),
        },
    }
}

async fn reached_everything(shared: &Arc<Shared>) -> Result<(), TreeError> {
    if let Some(open) = shared.open_files() {
        let marked = shared.tree.open_marks()?;
        super::shared::blocking(|| open.notice(&marked));
    }
    shared.wake.wake();
    let mut progress = shared.progress.subscribe();
    let mut settled = shared.settled.subscribe();
    let begun = {
        // A request that is being prepared has perhaps looked at a record before its last change, and is not stored yet.
        let _nobody_prepares = shared.sending.lock().await;
        shared.tree.in_flight()?.is_some().then(|| shared.tree.membership()).transpose()?.map(|m| m.commit)
    };
    if let Some(begun) = begun {
        // The sender lives in `shared`.
        let _ = settled.wait_for(|settled| *settled >= begun).await;
    }
    let mut mark = shared.tree.write_barrier()?;
    loop {
        progress.borrow_and_update();
        let oldest = shared.tree.pending(0, 1)?;
        if oldest.first().is_none_or(|group| group.seq > mark) {
            match shared.tree.carried() {
                carried if carried > mark => mark = carried,
                _ => return Ok(()),
            }
            continue;
        }
        let _ = progress.changed().await;
    }
}

/// As [`wait`], for `fsync`: with a deadline and an answer for the caller's errno.
pub(super) fn reached(shared: &Arc<Shared>, done: FetchDone) {
    let shared = Arc::clone(shared);
    let waiting = Arc::clone(&shared);
    waiting.tasks.spawn(async move {
        let result = wait(&shared, Some(Duration::from_millis(BARRIER_DEADLINE_MS))).await;
        done(match result {
            Ok(true) => Ok(()),
            Ok(false) if shared.is_offline() => Err(FetchError::Offline),
            // The server's, not this machine's.
            Ok(false) if !shared.quota.files().is_empty() => Err(FetchError::NoSpace),
            Ok(false) => Err(FetchError::TimedOut),
            Err(error) => Err(FetchError::Failed { reason: error.to_string() }),
        });
    });
}
