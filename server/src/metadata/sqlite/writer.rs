//! The one writer: drains the queue into a transaction, commits once, then tells every job.
//!
//! ```text
//! submit ─► queue ─► BEGIN ─► SAVEPOINT job RELEASE ─► … ─► COMMIT (one fsync) ─► finish, in order
//!                                  └ error: ROLLBACK TO, that job alone fails
//! ```
//!
//! A failed COMMIT fails every job of the batch. A full or locked database is survived; a failure of
//! the disk stops the writer for good, because what is on it is then no longer known.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::checkpoint::Trigger;
use super::failed;
use super::read::Tables;
use crate::limits;
use crate::metadata::{MetadataError, WriteJob};

type Job = Box<dyn WriteJob>;
type Outcome = Result<(), MetadataError>;

/// Handle of the writer thread; dropping it runs what is queued, then ends the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.state.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(connection: Connection, checkpoint: Trigger) -> Self {
        let queue = Arc::new(Queue::default());
        let mut loop_ = Loop { queue: Arc::clone(&queue), connection, checkpoint, stopped: None };
        let thread = std::thread::Builder::new()
            .name("metadata-writer".to_owned())
            .spawn(move || loop_.run())
            .expect("the system can start a thread at start-up");
        Self { queue, thread: Some(thread) }
    }

    pub(super) fn submit(&self, job: Job) {
        let mut state = self.queue.state.lock();
        let waiting = state.jobs.len();
        if waiting >= limits::WRITE_QUEUE_MAX {
            drop(state);
            return job.finish(Err(MetadataError::Busy { waiting }));
        }
        state.jobs.push_back(job);
        drop(state);
        self.queue.filled.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    queue: Arc<Queue>,
    connection: Connection,
    checkpoint: Trigger,
    stopped: Option<MetadataError>,
}

impl Loop {
    fn run(&mut self) {
        let mut unchecked_weight = 0;
        while let Some(batch) = self.next_batch() {
            unchecked_weight += batch.iter().map(|job| job.weight().max(1)).sum::<usize>();
            self.execute(batch);
            if unchecked_weight >= limits::CHECKPOINT_WEIGHT {
                unchecked_weight = 0;
                self.checkpoint.fire();
            }
        }
    }

    /// Waits for jobs and takes as many as fit one transaction; `None` when closed and empty.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut state = self.queue.state.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return None;
            }
            self.queue.filled.wait(&mut state);
        }
        let mut batch = Vec::new();
        let mut weight = 0;
        while let Some(job) = state.jobs.pop_front() {
            weight += job.weight();
            batch.push(job);
            if weight >= limits::WRITE_BATCH_WEIGHT {
                break;
            }
        }
        Some(batch)
    }

    fn execute(&mut self, mut batch: Vec<Job>) {
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
        let run = AssertUnwindSafe(|| job.run(&mut Tables::new(&self.connection)));
        // A panic must not end the one writer; the savepoint undoes what the job has done.
        match catch_unwind(run).unwrap_or(Err(MetadataError::Panicked)) {
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
