//! Moves pages from the write-ahead log into the database, away from the writer's path.
//!
//! A passive checkpoint never blocks the writer or a reader; the next writer after a complete one
//! starts the log from its beginning, so the log's size stays bounded by what is written during one.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Owns the checkpointing thread; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Checkpointer {
    trigger: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Asks for a checkpoint; cheap, never blocks.
#[derive(Debug, Clone)]
pub(super) struct Trigger(SyncSender<()>);

impl Trigger {
    pub(super) fn fire(&self) {
        match self.0.try_send(()) {
            // Full means that one is asked for already; disconnected, that the store is closing.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

impl Checkpointer {
    pub(super) fn start(connection: Connection) -> Self {
        let (trigger, asked) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpointer".to_owned())
            .spawn(move || run(&connection, &asked))
            .expect("the system can start a thread at start-up");
        Self { trigger: Some(trigger), thread: Some(thread) }
    }

    pub(super) fn trigger(&self) -> Trigger {
        Trigger(self.trigger.clone().expect("present until dropped"))
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.trigger = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, asked: &Receiver<()>) {
    while asked.recv().is_ok() {
        let outcome = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        match outcome {
            Ok((log_pages, moved_pages)) => tracing::debug!(log_pages, moved_pages, "checkpoint"),
            // The log keeps everything; the next checkpoint tries again.
            Err(error) => tracing::warn!(%error, "cannot checkpoint the metadata database"),
        }
    }
}
