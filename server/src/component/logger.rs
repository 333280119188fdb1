//! Writes events to the log.

use dfs_shared::event::kinds::server::{ServerShuttingDown, ServerStarted};
use dfs_shared::event::{EventBus, SubscribeError, SubscribeOptions, Subscription};

use crate::sync::{ChunkCorrupt, CommitAnswered};

/// Writes events to the log: what damages data as errors, refusals as information, the rest for debugging.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logger;

impl Logger {
    /// Joins the bus until the returned subscriptions are dropped.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn join(self, bus: &EventBus) -> Result<Vec<Subscription>, SubscribeError> {
        Ok(vec![
            bus.subscribe(options(), move |event: &CommitAnswered| self.on_commit(event))?,
            bus.subscribe(options(), move |event: &ChunkCorrupt| self.on_chunk_corrupt(event))?,
            bus.subscribe(
                options(),
                |event: &ServerStarted| tracing::info!(address = %event.address, "serving"),
            )?,
            bus.subscribe(options(), |_: &ServerShuttingDown| tracing::info!("shutting down"))?,
        ])
    }

    fn on_commit(self, event: &CommitAnswered) {
        let CommitAnswered { volume, revision, client, changes, accepted, refused, took } = event;
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if *refused > 0 {
            tracing::info!(%volume, %revision, %client, changes, accepted, refused, took_us, "committed in part");
        } else {
            tracing::debug!(%volume, %revision, %client, changes, accepted, took_us, "committed");
        }
    }

    fn on_chunk_corrupt(self, event: &ChunkCorrupt) {
        let ChunkCorrupt { hash, why } = event;
        tracing::error!(chunk = %hash, error = %why, "a chunk is damaged and is not served");
    }
}

fn options<E: dfs_shared::event::Event>() -> SubscribeOptions<E> {
    SubscribeOptions::new("logger")
}
