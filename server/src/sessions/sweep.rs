//! What ends by itself: sessions whose clients are silent, and what a stopped server left half done.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use dfs_shared::time::Timestamp;

use super::state::{Left, State, expired_before};
use super::{SessionError, SessionService, now, state_of};
use crate::limits::SESSION_SWEEP_INTERVAL_S;
use crate::report::chain;

/// Sessions that are looked at in one transaction.
const BATCH: usize = 64;

impl SessionService {
    /// Lets sessions that were in the middle of something be asked again. Blocks.
    pub(super) fn restart(&self) -> Result<(), SessionError> {
        for state in [State::ComputingDiff, State::ApplyingChanges] {
            let restart = move |tx: &mut dyn crate::metadata::WriteMetadata| {
                let found = tx.sessions_in_state(state.number(), BATCH)?;
                for id in &found {
                    let Some(mut row) = tx.session(id)? else { continue };
                    tx.clear_applying(id)?;
                    row.applying = 0;
                    let left = Left { transfers: row.transfers, conflicts: row.conflicts, applying: 0 };
                    row.state = state_of(&row)?.restart(left).number();
                    tx.put_session(&row)?;
                }
                Ok(found.len())
            };
            while self.metadata.write(2 * BATCH, restart).wait()? > 0 {}
        }
        Ok(())
    }

    /// Removes the sessions that are over at `at`, and bytes of sessions that are not known. Blocks.
    ///
    /// # Errors
    /// [`SessionError`] when the store or the staging directory fails.
    pub fn sweep(&self, at: Timestamp) -> Result<usize, SessionError> {
        let mut removed = 0;
        loop {
            let expire = move |tx: &mut dyn crate::metadata::WriteMetadata| {
                let found = tx.sessions_heard_before(expired_before(at), BATCH)?;
                found.iter().try_for_each(|id| tx.remove_session(id))?;
                Ok(found.len())
            };
            let count = self.metadata.write(BATCH, expire).wait()?;
            removed += count;
            if count == 0 {
                break;
            }
        }
        // Rows go first: bytes without a row are found here, rows without bytes would promise what is not there.
        for id in self.staging.sessions()? {
            if self.metadata.read(|snapshot| snapshot.session(&id))?.is_none() {
                self.staging.remove_session(&id)?;
            }
        }
        Ok(removed)
    }
}

/// Looks for expired sessions now and then, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Sweeper {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(sessions: Arc<SessionService>) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let interval = Duration::from_secs(SESSION_SWEEP_INTERVAL_S);
        let run = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                match sessions.sweep(now()) {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "sync sessions have expired"),
                    Err(error) => {
                        tracing::error!(error = %chain(&error), "cannot remove expired sync sessions");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("dfs-sessions".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that removes expired sync sessions panicked");
        }
    }
}
