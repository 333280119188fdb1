//! What the volume's quota means for writers: growth for which it leaves no room is refused before any of it is written.
//!
//! The room is what the server told last, less everything that this mount shows, sent or not. While it is far
//! ([`QUOTA_NEAR`]) nobody looks: the kernel writes backing files by itself. When it is near, files that are opened for writing
//! go through the daemon, which looks before each write that makes a file longer, and tells the tree of it at once. What shrinks
//! a file, writes within its length, or changes names and attributes is never refused.

use std::sync::Arc;

use super::attributes::Space;
use super::{Fs, FsError};
use crate::cache::Backing;
use crate::limits::QUOTA_NEAR;

impl Fs {
    /// Tells whether so little room is left that every write has to be looked at.
    pub(super) fn is_quota_near(&self) -> bool {
        self.tree.quota_room().is_some_and(|room| room < QUOTA_NEAR)
    }

    /// Refuses to make a file so long if the quota leaves no room for it. Returns whether the tree has to be told as soon as it is
    /// that long.
    ///
    /// # Errors
    /// [`FsError::OverQuota`], or a failing disk.
    pub(super) fn check_room(&self, backing: &Backing, len: u64) -> Result<bool, FsError> {
        let Some(room) = self.tree.quota_room() else { return Ok(false) };
        // The bytes of a removed file, and of a version that was replaced, do not count.
        if backing.node().is_none() {
            return Ok(false);
        }
        match len.saturating_sub(backing.size()?) {
            0 => Ok(false),
            growth if growth > room => Err(FsError::OverQuota),
            _ => Ok(room < QUOTA_NEAR),
        }
    }

    /// As [`Self::check_room`] for a write, which is shorter than what counts as near: far from the quota it costs nothing.
    pub(super) fn check_write(&self, backing: &Backing, offset: u64, len: usize) -> Result<bool, FsError> {
        if !self.is_quota_near() {
            return Ok(false);
        }
        self.check_room(backing, offset.saturating_add(len as u64))
    }

    /// Shows the quota as the size where it is smaller, and of the room what both leave.
    pub(super) fn within_quota(&self, mut space: Space) -> Space {
        let Some((limit, room)) = self.tree.quota().limit.zip(self.tree.quota_room()) else { return space };
        let block = u64::from(space.block_size.max(1));
        space.blocks = space.blocks.min(limit / block);
        space.free = space.free.min(room / block);
        space.available = space.available.min(room / block);
        space
    }

    /// Tells the tree of a file that has just grown near the quota.
    pub(super) fn grown(&self, backing: &Arc<Backing>, is_near: bool) -> Result<(), FsError> {
        if is_near { self.notice_backing(backing) } else { Ok(()) }
    }
}
