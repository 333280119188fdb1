//! The engine's tasks, and where its blocking work runs.
//!
//! On a runtime of several threads blocking work runs beside the other tasks. On a runtime of one thread it runs
//! there and then, so that everything happens in an order that depends on nothing but the tasks.
//!
//! Invariant: after [`Tasks::abort`] no task does anything more once it has come to its next wait.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinSet;

/// The tasks of one engine.
pub(super) struct Tasks {
    runtime: Handle,
    running: parking_lot::Mutex<JoinSet<()>>,
}

impl Tasks {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, running: parking_lot::Mutex::default() }
    }

    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock();
        while running.try_join_next().is_some() {}
        running.spawn_on(task, &self.runtime);
    }

    /// Ends all tasks.
    pub(super) fn abort(&self) {
        self.running.lock().abort_all();
    }
}

/// Tells whether the calling task has its thread for itself.
fn is_alone() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Runs something that may take a while on a runtime's thread without holding up its other tasks.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    if is_alone() { work() } else { tokio::task::block_in_place(work) }
}

/// Runs something that may take a while on a thread of its own.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if is_alone() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
