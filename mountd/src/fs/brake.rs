//! Slows those who write while the server takes what they write and more of that would help: what it has makes room on a disk that is
//! nearly full, and is sure of its room in a quota that is nearly used up.
//!
//! ```text
//! room on the disk   | DISK_LOW            STORE_FREE_MIN            0
//! pause              | none ─► longer and longer ─► the longest
//! bytes that may go  | stay ─► go, as many as the disk lacks
//! making, writing    |                              ENOSPC ─────────►
//! ```
//!
//! Near a quota ([`QUOTA_NEAR`](crate::limits::QUOTA_NEAR)) the room that the server counts belongs to whoever of all mounts sends first.
//! The more of it the files need that wait here, the longer is the pause of those who make others longer. A file's own growth
//! does not count: it is sent when it is closed, and one that fits is not slowed for its length.
//!
//! The kernel writes backing files by itself, so while the disk is nearly full or the quota near files that are opened for writing
//! go through the daemon. Invariant: nobody waits while the server cannot be reached, for nothing would come of it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Fs, FsError, Ino};
use crate::cache::Backing;
use crate::limits::{
    DISK_LOW_LOOK_MS, FUSE_WRITE_LEN_MAX, QUOTA_PAUSE_MS_MAX, STORE_FREE_MIN, WRITER_PAUSE_MS_MAX,
};
use crate::tree::store::Shortage;
use crate::tree::{Sizes, TreeError};

/// Nobody waits for less: many small files fill no disk.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// When bytes that may go were looked for last.
#[derive(Debug, Default)]
pub(super) struct Brake(Mutex<Option<Instant>>);

impl Fs {
    /// Returns how long whoever writes so many bytes at `offset` through the daemon has to wait before that, and has room made;
    /// `None` if not worth a pause. Far from the quota it costs one system call.
    #[must_use]
    pub fn writer_pause(&self, ino: Ino, offset: u64, len: usize) -> Option<Duration> {
        let disk = self.shortage().map(|shortage| {
            self.look_for_room();
            pause(share_lacking(shortage), WRITER_PAUSE_MS_MAX, len)
        });
        let quota = self
            .share_waiting(ino, offset.saturating_add(len as u64))
            .map(|share| pause(share, QUOTA_PAUSE_MS_MAX, len));
        disk.max(quota).filter(|pause| *pause >= PAUSE_MIN)
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
        self.tree.store().shortage().filter(|_| self.is_sending())
    }

    /// Returns which share of the room that the server counts is needed by what waits here, if a file that becomes so long makes it
    /// more and the server can help.
    fn share_waiting(&self, ino: Ino, end: u64) -> Option<f64> {
        if !self.is_quota_near() || !self.is_sending() {
            return None;
        }
        let backing = self.open_file(ino)?.backing().ok()?;
        let size = backing.size().ok()?;
        // What cannot be looked up here meets the write itself as well, which reports it.
        let node = self.tree.node_by_id(backing.node()?).ok()??;
        let limit = self.tree.quota().limit.filter(|_| end > size)?;
        Some(share_of_quota(limit, self.tree.sizes(), Sizes::of(&node)))
    }

    /// Refuses to reserve so many bytes of a file if the disk lacks them: it would be filled to its last block, which is the journal's.
    pub(super) fn check_disk(&self, backing: &Backing, len: u64) -> Result<(), FsError> {
        let needs = len.saturating_sub(backing.file()?.metadata()?.blocks().saturating_mul(512));
        match needs == 0 || self.tree.store().takes(needs) {
            true => Ok(()),
            false => Err(TreeError::NoSpace.into()),
        }
    }

    fn is_sending(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.is_sending())
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

/// How short the disk is, from 0 to 1, where the tree takes no growth.
fn share_lacking(Shortage { lacks, comfortable }: Shortage) -> f64 {
    let range = comfortable.saturating_sub(STORE_FREE_MIN).max(1);
    lacks.min(range) as f64 / range as f64
}

/// Which share of the room that the server counts other files than this one need, from 0 to 1.
fn share_of_quota(limit: u64, sizes: Sizes, own: Sizes) -> f64 {
    let waits = sizes.unsent().saturating_sub(own.unsent());
    let left = limit.saturating_sub(sizes.base).max(1);
    waits.min(left) as f64 / left as f64
}

/// A part of the longest pause that grows with the bytes and with the square of the share.
fn pause(share: f64, longest_ms: u64, len: usize) -> Duration {
    let len = len.min(FUSE_WRITE_LEN_MAX as usize) as f64 / f64::from(FUSE_WRITE_LEN_MAX);
    Duration::from_millis(longest_ms).mul_f64(share * share * len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_what_the_disk_lacks_and_with_what_is_written_up_to_its_longest() {
        let (longest, whole) = (Duration::from_millis(WRITER_PAUSE_MS_MAX), FUSE_WRITE_LEN_MAX as usize);
        let comfortable = STORE_FREE_MIN + 100;
        let of = |lacks, len| pause(share_lacking(Shortage { lacks, comfortable }), WRITER_PAUSE_MS_MAX, len);
        let full = [1, 50, 100, comfortable].map(|lacks| of(lacks, whole));
        assert_eq!(full, [longest / 10_000, longest / 4, longest, longest]);
        assert_eq!(
            [of(100, whole / 4), of(100, 2 * whole), of(100, 0)],
            [longest / 4, longest, Duration::ZERO]
        );
        let tiny = Shortage { lacks: 1, comfortable: STORE_FREE_MIN / 2 };
        assert_eq!(share_lacking(tiny), 1.0, "of a tiny disk");
    }

    #[test]
    fn what_waits_counts_by_the_room_that_the_server_counts_without_the_file_itself() {
        let here = |here| Sizes { here, base: 100 };
        let share = |sizes, own| share_of_quota(200, sizes, own);
        let nothing = Sizes::default();
        assert_eq!([100, 150, 200, 300].map(|sum| share(here(sum), nothing)), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(share(here(150), Sizes { here: 60, base: 20 }), 0.1);
        assert_eq!(share(here(50), nothing), 0.0, "what waits shrinks files");
        assert_eq!(share(Sizes { here: 300, base: 250 }, nothing), 1.0, "a quota below what is used");
    }
}
