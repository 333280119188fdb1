//! Writes events to the log.

use crate::sync::{ChunkCorrupt, CommitEvent};

/// Writes events to the log: what damages data as errors, refusals as information, the rest for debugging.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logger;

impl Logger {
    /// Logs a commit.
    pub fn on_commit(self, event: &CommitEvent) {
        let CommitEvent { volume, revision, client, changes, accepted, refused, took, frame: _ } = event;
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if *refused > 0 {
            tracing::info!(%volume, %revision, %client, changes, accepted, refused, took_us, "committed in part");
        } else {
            tracing::debug!(%volume, %revision, %client, changes, accepted, took_us, "committed");
        }
    }

    /// Logs damage to a chunk.
    pub fn on_chunk_corrupt(self, event: &ChunkCorrupt) {
        let ChunkCorrupt { hash, why } = event;
        tracing::error!(chunk = %hash, error = %why, "a chunk is damaged and is not served");
    }
}
