//! Hands files out to be compared with what they should hold, and forgets ranges that do not hold it.
//!
//! Invariant: nothing is forgotten but bytes whose content the server has, of a file that nobody uses; both are checked under
//! the locks under which they change, as for eviction.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use dfs_shared::ids::NodeId;

use super::compare::Bytes;
use super::evict::may_go;
use super::files::{read_full, same_bytes, stamp_of};
use super::ranges::RangeSet;
use super::{Cache, CacheError, copy};
use crate::tree::content::{ContentState, Place, Present, Stamp};

/// What the mount says of a file's bytes.
pub enum Claim {
    /// None of them are here, or there is no such file.
    Nothing,
    /// They were changed here and have no name yet: nothing tells what they should be.
    Unnamed,
    /// Some are here.
    Bytes(Claimed),
    /// Some should be here, and there is no backing file.
    Missing {
        /// What the tree says of them.
        row: ContentState,
        /// Where the file should be.
        path: PathBuf,
    },
}

/// Bytes that are said to be here.
pub struct Claimed {
    /// What the tree says of them.
    pub row: ContentState,
    /// Which of them; `None`: all.
    pub present: Option<RangeSet>,
    /// Tells whether somebody has the file open, so that it may change at any time.
    pub in_use: bool,
    file: File,
    before: Stamp,
}

impl Claimed {
    /// Returns the backing file's length.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.before.size
    }

    /// Tells whether the backing file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads at `offset` until the buffer is full or the file ends. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_full(&self.file, buffer, offset)
    }

    /// Returns where the next bytes at or after `offset` are that are no hole of the backing file; `None` if there are none.
    #[must_use]
    pub fn data_from(&self, offset: u64) -> Option<u64> {
        let from = i64::try_from(offset).ok()?;
        match copy::seek(&self.file, from, libc::SEEK_DATA) {
            Ok(found) => u64::try_from(found).ok(),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
            // A file system that cannot tell has data everywhere.
            Err(_) => (offset < self.len()).then_some(offset),
        }
    }
}

impl Bytes for Claimed {
    fn len(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }

    fn data_from(&self, offset: u64) -> Option<u64> {
        self.data_from(offset)
    }

    fn compared(&self, _len: u64) -> bool {
        true
    }
}

/// A file's bytes as the tree knows them, and as the disk has them.
#[derive(Debug)]
pub struct Standing {
    /// What the tree says of them.
    pub row: ContentState,
    /// The backing file as it is.
    pub now: Stamp,
    /// Where it is: moved to the state directory before it could be written.
    pub place: Place,
}

impl Cache {
    /// Looks at the backing file that a row names. `None` if there is no row or no such file. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn standing(&self, node: NodeId) -> Result<Option<Standing>, CacheError> {
        let Some(row) = self.tree.content_state(node)? else { return Ok(None) };
        let Some((file, place)) = self.dirs.find(row.place, row.file)? else { return Ok(None) };
        let failed =
            |source| CacheError::Io { action: "look at", path: self.dirs.path(place, row.file), source };
        let now = stamp_of(&file).map_err(failed)?;
        Ok(Some(Standing { row, now, place }))
    }

    /// Hands out the bytes of a file that are said to be here. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn claim(&self, node: NodeId) -> Result<Claim, CacheError> {
        let Some(found) = self.tree.node_by_id(node)?.filter(|node| node.live().is_some()) else {
            return Ok(Claim::Nothing);
        };
        let Some(row) = self.tree.content_state(node)? else { return Ok(Claim::Nothing) };
        if found.dirty_content.is_some() {
            return Ok(Claim::Unnamed);
        }
        if row.content.is_none() {
            return Ok(Claim::Nothing);
        }
        let live = self.live.lock().get(&node).and_then(Weak::upgrade);
        let in_use = live.is_some_and(|backing| {
            let inner = backing.inner.lock();
            inner.users > 0 || inner.touched
        });
        let Some((file, _)) = self.dirs.find(row.place, row.file)? else {
            return Ok(Claim::Missing { path: self.dirs.path(row.place, row.file), row });
        };
        let failed =
            |source| CacheError::Io { action: "look at", path: self.dirs.path(row.place, row.file), source };
        let before = stamp_of(&file).map_err(failed)?;
        let present = match &row.present {
            Present::All => None,
            Present::Ranges(ranges) => Some(RangeSet::from_ranges(ranges)),
        };
        Ok(Claim::Bytes(Claimed { row, present, in_use, file, before }))
    }

    /// Tells whether what was read of a claim is what counts: neither the file nor what the tree says of it has changed
    /// meanwhile, and no writer is at work of whom the tree does not know yet.
    ///
    /// # Errors
    /// [`CacheError::Tree`].
    pub fn still_stands(&self, node: NodeId, claimed: &Claimed) -> Result<bool, CacheError> {
        let same_file = stamp_of(&claimed.file).is_ok_and(|now| same_bytes(&now, &claimed.before));
        let same_row = self.tree.content_state(node)?.as_ref() == Some(&claimed.row);
        let is_named = self.tree.node_by_id(node)?.is_some_and(|node| node.dirty_content.is_none());
        let unnoticed = claimed.in_use && !same_bytes(&claimed.row.stamp, &claimed.before);
        Ok(same_file && same_row && is_named && !unnoticed)
    }

    /// Tells whether the server has what a row's bytes should be.
    ///
    /// # Errors
    /// [`CacheError::Tree`].
    pub fn may_forget(&self, node: NodeId, row: &ContentState) -> Result<bool, CacheError> {
        may_go(&self.tree, node, row)
    }

    /// Forgets that ranges of a file are here (`None`: all of it), so that they are fetched before they are read again.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`]: `Busy` when the file is open or the server does not have its content, `Changed` when `row` is not what the
    /// tree says any more, `NotFound`, or a failing disk or tree.
    pub fn forget(
        self: &Arc<Self>,
        node: NodeId,
        row: &ContentState,
        ranges: Option<&[Range<u64>]>,
    ) -> Result<(), CacheError> {
        let found = self.tree.node_by_id(node)?.ok_or(CacheError::NotFound)?;
        let is_old = found.live().is_none_or(|record| record.content != row.content);
        let Some(ranges) = ranges.filter(|_| !is_old) else { return self.forget_all(node) };
        let backing = self.backing(&found)?;
        let mut inner = backing.inner.lock();
        if inner.users > 0 || inner.touched {
            return Err(CacheError::Busy);
        }
        if backing.id() != row.file {
            return Err(CacheError::Changed);
        }
        let file = backing.open_file(&mut inner)?;
        let len = stamp_of(&file).map_err(|source| backing.failed("look at", &inner, source))?.size;
        let mut present = match &row.present {
            Present::All => RangeSet::from_ranges(std::slice::from_ref(&(0..len))),
            Present::Ranges(there) => RangeSet::from_ranges(there),
        };
        ranges.iter().for_each(|range| present.remove(range));
        let mut refused = None;
        self.tree.update_content_state(node, |now| {
            let mut now = now?;
            // As in `evict`: the tree's writers wait for this closure.
            if now != *row {
                refused = Some(CacheError::Changed);
            } else if !may_go(&self.tree, node, &now).unwrap_or(false) {
                refused = Some(CacheError::Busy);
            } else {
                now.present = Present::Ranges(present.as_slice().to_vec());
            }
            Some(now)
        })?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        inner.present = present;
        backing.whole_flag().store(false, Ordering::Release);
        Ok(())
    }
}
