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
use crate::limits::{DISK_LOW_LOOK_MS, FUSE_WRITE_LEN_MAX, STORE_FREE_MIN, WRITER_PAUSE_MS_MAX};
use crate::tree::store::Shortage;

/// Nobody waits for less: many small files fill no disk.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// When bytes that may go were looked for last.
#[derive(Debug, Default)]
pub(super) struct Brake(Mutex<Option<Instant>>);

impl Fs {
    /// Returns how long whoever writes so many bytes through the daemon has to wait before that, and has room made; `None` if not
    /// worth a pause. Costs one system call.
    #[must_use]
    pub fn writer_pause(&self, len: usize) -> Option<Duration> {
        let shortage = self.shortage()?;
        self.look_for_room();
        Some(pause(shortage, len)).filter(|pause| *pause >= PAUSE_MIN)
    }

    /// Tells whether writes have to come by the daemon.
    pub(super) fn looks_at_writes(&self) -> bool {
        let is_short = self.shortage().is_some();
        if is_short {
            self.look_for_room();
        }
        is_short || self.is_quota_near()
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

/// A share of the longest pause that grows with the bytes, and with the square of the shortage, to the whole where the tree takes no
/// growth.
fn pause(Shortage { lacks, comfortable }: Shortage, len: usize) -> Duration {
    let range = comfortable.saturating_sub(STORE_FREE_MIN).max(1);
    let share = lacks.min(range) as f64 / range as f64;
    let longest = Duration::from_millis(WRITER_PAUSE_MS_MAX);
    longest
        .mul_f64(share * share * len.min(FUSE_WRITE_LEN_MAX as usize) as f64 / f64::from(FUSE_WRITE_LEN_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_what_the_disk_lacks_and_with_what_is_written_up_to_its_longest() {
        let (longest, whole) = (Duration::from_millis(WRITER_PAUSE_MS_MAX), FUSE_WRITE_LEN_MAX as usize);
        let comfortable = STORE_FREE_MIN + 100;
        let of = |lacks, len| pause(Shortage { lacks, comfortable }, len);
        let full = [1, 50, 100, comfortable].map(|lacks| of(lacks, whole));
        assert_eq!(full, [longest / 10_000, longest / 4, longest, longest]);
        assert_eq!(
            [of(100, whole / 4), of(100, 2 * whole), of(100, 0)],
            [longest / 4, longest, Duration::ZERO]
        );
        let tiny = Shortage { lacks: 1, comfortable: STORE_FREE_MIN / 2 };
        assert_eq!(pause(tiny, whole), longest, "of a tiny disk");
    }
}
