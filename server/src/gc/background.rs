//! Collects now and then, and when `dfs-server gc` asks, on a thread of its own until it is dropped.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::request::{Answer, REQUEST_FILE, Woken, take_request, wait, watch, write_answer};
use super::{Collector, GcError};
use crate::limits::{GC_GRACE_S_DEFAULT, GC_INTERVAL_S};
use crate::report::chain;

/// Owns the thread; dropping it ends a collection at its next page.
#[derive(Debug)]
pub struct Background {
    collector: Arc<Collector>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread, pipe or file watch.
    pub fn start(collector: Collector, data_dir: &Path) -> io::Result<Self> {
        let collector = Arc::new(collector);
        let changes = watch(data_dir)?;
        let (stopped, stop) = io::pipe()?;
        let (working, data_dir) = (Arc::clone(&collector), data_dir.to_owned());
        let run = move || {
            // One that came before the watch.
            if data_dir.join(REQUEST_FILE).exists() {
                answer(&working, &data_dir);
            }
            loop {
                match wait(&changes, REQUEST_FILE, Some(stopped.as_fd()), GC_INTERVAL_S) {
                    Ok(Woken::Came) => answer(&working, &data_dir),
                    Ok(Woken::TimedOut) => collect(&working),
                    Ok(Woken::Other) => {}
                    Ok(Woken::Stopped) => return,
                    Err(error) => {
                        tracing::error!(%error, "nothing is collected any more: restart the server");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("gc".to_owned()).spawn(run)?;
        Ok(Self { collector, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.collector.stop();
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn grace(asked_s: Option<u64>) -> Duration {
    Duration::from_secs(asked_s.unwrap_or(GC_GRACE_S_DEFAULT))
}

fn collect(collector: &Collector) {
    match collector.run(grace(None), &mut |_, _| {}) {
        Ok(collected) => tracing::info!(?collected, "collected"),
        Err(GcError::Stopped) => {}
        Err(error) => tracing::error!(error = chain(&error), "cannot collect what nothing refers to"),
    }
}

fn answer(collector: &Collector, data_dir: &Path) {
    let request = match take_request(data_dir) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(%error, "a request to collect cannot be read");
            return;
        }
    };
    let done = collector.run(grace(request.grace_s), &mut |_, _| {});
    tracing::info!(?done, "collected on request");
    let (collected, error) = match done {
        Ok(collected) => (Some(collected), None),
        Err(error) => (None, Some(chain(&error))),
    };
    if let Err(error) = write_answer(data_dir, &Answer { id: request.id, collected, error }) {
        tracing::error!(%error, "cannot answer a request to collect");
    }
}
