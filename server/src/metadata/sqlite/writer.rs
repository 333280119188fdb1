//! The SQLite store's side of the writer thread: one transaction for a batch, then every job is told.
//!
//! ```text
//! submit ─► queue ─► BEGIN ─► SAVEPOINT job RELEASE ─► … ─► COMMIT (one fsync) ─► finish, in order
//!                                  └ error: ROLLBACK TO, that job alone fails
//! ```
//!
//! A failed COMMIT fails every job of the batch. A full or locked database is survived; a failure of
//! the disk stops the writer for good, because what is on it is then no longer known.

use rusqlite::Connection;

use super::checkpoint::Trigger;
use super::failed;
use super::read::Tables;
use crate::limits;
use crate::metadata::MetadataError;
use crate::metadata::writer::{Execute, Job, Outcome, run_caught};

/// Runs batches on the one connection that writes.
pub(super) struct Batches {
    connection: Connection,
    checkpoint: Trigger,
    unchecked_weight: usize,
    stopped: Option<MetadataError>,
}

impl Execute for Batches {
    fn execute(&mut self, batch: Vec<Job>) {
        self.unchecked_weight += batch.iter().map(|job| job.weight().max(1)).sum::<usize>();
        self.run(batch);
        if self.unchecked_weight >= limits::CHECKPOINT_WEIGHT {
            self.unchecked_weight = 0;
            self.checkpoint.fire();
        }
    }
}

impl Batches {
    pub(super) fn new(connection: Connection, checkpoint: Trigger) -> Self {
        Self { connection, checkpoint, unchecked_weight: 0, stopped: None }
    }

    fn run(&mut self, mut batch: Vec<Job>) {
        let outcomes = match self.transact(&mut batch) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                if !self.connection.is_autocommit() {
                    // The connection is unusable if even this fails, and the next BEGIN will say so.
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                tracing::error!(error = %crate::report::chain(&error), "a metadata transaction failed");
                if error.is_fatal() && self.stopped.is_none() {
                    self.stopped = Some(MetadataError::Stopped { reason: crate::report::chain(&error) });
                }
                batch.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (job, outcome) in batch.into_iter().zip(outcomes) {
            job.finish(outcome);
        }
    }

    /// Runs the jobs and commits; the error of the whole transaction, or each job's own outcome.
    fn transact(&mut self, batch: &mut [Job]) -> Result<Vec<Outcome>, MetadataError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        self.sql("BEGIN IMMEDIATE", "begin a transaction")?;
        let outcomes = batch.iter_mut().map(|job| self.run_job(job)).collect::<Result<Vec<_>, _>>()?;
        self.sql("COMMIT", "commit a transaction")?;
        Ok(outcomes)
    }

    fn run_job(&self, job: &mut Job) -> Result<Outcome, MetadataError> {
        self.sql("SAVEPOINT job", "begin a job")?;
        match run_caught(job, &mut Tables::new(&self.connection)) {
            Ok(()) => {
                self.sql("RELEASE job", "end a job")?;
                Ok(Ok(()))
            }
            // SQLite has rolled the whole transaction back by itself.
            Err(error) if self.connection.is_autocommit() => Err(error),
            Err(error) => {
                self.sql("ROLLBACK TO job", "undo a job")?;
                self.sql("RELEASE job", "end a job")?;
                Ok(Err(error))
            }
        }
    }

    fn sql(&self, text: &str, attempted: &'static str) -> Result<(), MetadataError> {
        self.connection
            .prepare_cached(text)
            .and_then(|mut statement| statement.execute([]))
            .map(|_| ())
            .map_err(failed(attempted))
    }
}
