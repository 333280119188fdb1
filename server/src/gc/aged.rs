//! The time by which history ages: the clock's, unless that jumps.
//!
//! A clock that is set ahead by a year would end all history at once, and what is replaced while it is behind would look old once it
//! is right again. So each sweep notes its time and the newest version that it saw:
//!
//! - time goes on by at most a day from sweep to sweep, which is every hour. A server that was off for a month catches up within
//!   two days; a clock that was wrong for an hour has cost a day of history.
//! - a version that came since the last sweep did not end before it, whatever its time says.

use std::io;
use std::time::Duration;

use dfs_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Collector, GcError, earlier, request};
use crate::limits::HISTORY_AGES_S_PER_SWEEP;

/// Beside the database.
const AGED_FILE: &str = "history-aged.json";
/// A clock may be set right by this much without anybody being told.
const TOLERATED_S: u64 = 60;

/// What a sweep noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Aged {
    /// Its time, in seconds since 1970.
    time_s: i64,
    /// The newest past version then; 0 if there was none.
    newest: u64,
}

impl Collector {
    /// Returns the time by which the history is to be swept when the clock says `wall`. Blocks on the disk.
    pub(super) fn age(&self, wall: Timestamp) -> Result<Timestamp, GcError> {
        let newest = self.metadata.read(|snapshot| snapshot.newest_history())?;
        let Some(last) = self.read_aged() else {
            self.note_aged(Aged { time_s: wall.secs, newest });
            return Ok(wall);
        };
        let seen = Timestamp { secs: last.time_s, nanos: 0 };
        let lift = self.metadata.write(1, move |tx| tx.lift_history(last.newest, seen));
        let lifted = lift.wait()?;
        if wall < earlier(seen, Duration::from_secs(TOLERATED_S)) {
            let behind_s = seen.secs - wall.secs;
            tracing::warn!(
                behind_s,
                lifted,
                "the clock was set back: nothing of the history gets older until it has caught up"
            );
        }
        let limit = Timestamp { secs: last.time_s.saturating_add(HISTORY_AGES_S_PER_SWEEP), nanos: 0 };
        if wall > limit {
            let ahead_s = wall.secs - last.time_s;
            tracing::warn!(
                ahead_s,
                "the clock is far ahead of the last sweep: unless the server was off for so long it is wrong; until it has caught \
                 up, history gets older by a day per sweep"
            );
        }
        let now = wall.min(limit);
        self.note_aged(Aged { time_s: now.secs.max(last.time_s), newest });
        Ok(now)
    }

    /// Notes which versions are left, so that numbers that are used again count as new.
    pub(super) fn note_swept(&self) -> Result<(), GcError> {
        let newest = self.metadata.read(|snapshot| snapshot.newest_history())?;
        if let Some(last) = self.read_aged().filter(|last| newest < last.newest) {
            self.note_aged(Aged { newest, ..last });
        }
        Ok(())
    }

    fn read_aged(&self) -> Option<Aged> {
        let read = std::fs::read(self.data_dir.join(AGED_FILE));
        match read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
            Ok(aged) => Some(aged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "it cannot be read when history was swept last: the clock is believed");
                None
            }
        }
    }

    fn note_aged(&self, aged: Aged) {
        if let Err(error) = request::write(&self.data_dir, AGED_FILE, &aged) {
            tracing::warn!(%error, "it cannot be noted when history was swept");
        }
    }
}
