//! Slows those who write while the disk is nearly full and the server takes what they write: what it has makes room here.
//!
//! ```text
//! room on the disk   | DISK_LOW            STORE_FREE_MIN            0
//! pause              | none ─► longer and longer ─► the longest
//! bytes that may go  | stay ─► go, as many as the disk lacks
//! making, writing    |                              ENOSPC ─────────►
//! ```
//!
//! The kernel writes backing files by itself, so while the disk is nearly full files that are opened for writing go through
//! the daemon. Invariant: nobody waits while the server cannot be reached, for nothing would come of it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Fs;
use crate::limits::{DISK_LOW_LOOK_MS, STORE_FREE_MIN, WRITER_PAUSE_MS_MAX};
use crate::tree::store::Shortage;

/// When bytes that may go were looked for last.
#[derive(Debug, Default)]
pub(super) struct Brake(Mutex<Option<Instant>>);

impl Fs {
    /// Returns how long whoever makes a file, or writes to one through the daemon, has to wait before that, and has room made;
    /// `None` if not at all. Costs one system call.
    #[must_use]
    pub fn writer_pause(&self) -> Option<Duration> {
        let shortage = self.shortage()?;
        self.look_for_room();
        Some(pause(shortage))
    }

    /// Tells whether writes have to come by the daemon.
    pub(super) fn looks_at_writes(&self) -> bool {
        self.is_quota_near() || self.shortage().is_some()
    }

    /// Returns how much room the disk lacks, if the server can help.
    fn shortage(&self) -> Option<Shortage> {
        let shortage = self.tree.store().shortage()?;
        self.progress.as_ref().is_some_and(|progress| progress.is_sending()).then_some(shortage)
    }

    fn look_for_room(&self) {
        let mut last = self.brake.0.lock();
        let pause = Duration::from_millis(DISK_LOW_LOOK_MS);
        if last.is_none_or(|last| last.elapsed() >= pause) {
            *last = Some(Instant::now());
            self.bell.ring();
        }
    }
}

/// The longest pause is reached where the tree takes no growth.
fn pause(Shortage { lacks, comfortable }: Shortage) -> Duration {
    let range = comfortable.saturating_sub(STORE_FREE_MIN).max(1);
    let longest = Duration::from_millis(WRITER_PAUSE_MS_MAX);
    longest.mul_f64(lacks.min(range) as f64 / range as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_what_the_disk_lacks_up_to_its_longest() {
        let longest = Duration::from_millis(WRITER_PAUSE_MS_MAX);
        let comfortable = STORE_FREE_MIN + 100;
        let of = |lacks| pause(Shortage { lacks, comfortable });
        assert_eq!([of(1), of(50), of(100), of(comfortable)], [longest / 100, longest / 2, longest, longest]);
        assert_eq!(pause(Shortage { lacks: 1, comfortable: STORE_FREE_MIN / 2 }), longest, "of a tiny disk");
    }
}
