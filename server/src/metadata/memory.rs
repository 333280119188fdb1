//! The metadata store in memory: ordered persistent maps, one writer thread. Nothing survives the process.
//!
//! A snapshot is a handle on the maps as they were; writing copies what it changes and shares the rest. A batch copies a part
//! of a map once, and a job of it that fails is undone row by row. Ids are ordered by time, so what is written together stands
//! together and a batch touches few leaves. Invariants: the published tables are never changed, only replaced, and only by the
//! writer after a batch, before its jobs are told; a reader holds the lock for the copy of one handle, so that neither waits for
//! the other's work.

use std::sync::Arc;

use parking_lot::RwLock;

use super::writer::{Execute, Job, Outcome, Writer, run_caught};
use super::{MetadataError, MetadataStore, ReadWork, WriteJob};

mod files;
mod logged;
mod read;
mod replicas;
mod sessions;
mod tables;
mod upkeep;
mod write;

use tables::Tables;

/// The metadata store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    published: Arc<RwLock<Arc<Tables>>>,
    writer: Writer,
}

impl MemoryStore {
    /// Makes an empty store and starts its writer.
    #[must_use]
    pub fn new() -> Self {
        let published = Arc::<RwLock<Arc<Tables>>>::default();
        let batches = Batches { published: Arc::clone(&published), tables: Tables::default() };
        Self { published, writer: Writer::start(batches) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MetadataStore for MemoryStore {
    fn submit(&self, job: Box<dyn WriteJob>) {
        self.writer.submit(job);
    }

    fn read_with(&self, work: &mut ReadWork<'_>) -> Result<(), MetadataError> {
        let snapshot = Arc::clone(&self.published.read());
        work(&*snapshot)
    }
}

/// Runs batches on the tables as they will be, then publishes these.
struct Batches {
    published: Arc<RwLock<Arc<Tables>>>,
    tables: Tables,
}

impl Execute for Batches {
    fn execute(&mut self, mut batch: Vec<Job>) {
        let outcomes: Vec<_> = batch.iter_mut().map(|job| self.run(job)).collect();
        let next = Arc::new(self.tables.clone());
        let last = std::mem::replace(&mut *self.published.write(), next);
        // What only the last tables held is freed after the lock, and before anybody is told.
        drop(last);
        for (job, outcome) in batch.into_iter().zip(outcomes) {
            job.finish(outcome);
        }
    }
}

impl Batches {
    fn run(&mut self, job: &mut Job) -> Outcome {
        let outcome = run_caught(job, &mut self.tables);
        match outcome {
            Ok(()) => self.tables.keep(),
            Err(_) => self.tables.undo(),
        }
        outcome
    }
}
