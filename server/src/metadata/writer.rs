//! The one writer of a store: a bounded queue and the thread that drains it, whatever executes the batches.
//!
//! Invariants: jobs leave the queue in the order in which they came; whoever executes them is never called from two
//! threads; dropping the handle runs what is queued, then ends the thread.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::{MetadataError, WriteJob, WriteMetadata};
use crate::limits;

pub(super) type Job = Box<dyn WriteJob>;
pub(super) type Outcome = Result<(), MetadataError>;

/// Runs batches of jobs and finishes each of them, in order.
pub(super) trait Execute: Send + 'static {
    /// Runs a batch in one transaction and finishes every job of it.
    fn execute(&mut self, batch: Vec<Job>);
}

/// Runs a job. A panic must not end the one writer; the caller undoes what the job has done.
pub(super) fn run_caught(job: &mut Job, tx: &mut dyn WriteMetadata) -> Outcome {
    let run = AssertUnwindSafe(|| job.run(tx));
    catch_unwind(run).unwrap_or(Err(MetadataError::Panicked))
}

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
    pub(super) fn start(mut executor: impl Execute) -> Self {
        let queue = Arc::new(Queue::default());
        let drained = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("metadata-writer".to_owned())
            .spawn(move || {
                while let Some(batch) = drained.next_batch() {
                    executor.execute(batch);
                }
            })
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

impl Queue {
    /// Waits for jobs and takes as many as fit one transaction; `None` when closed and empty.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return None;
            }
            self.filled.wait(&mut state);
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
}
