//! Open marks: which files may hold bytes that nobody noticed, as the next start has to know.
//!
//! Marks are removed in batches, some time after the last writer closed: a mark too many costs one look at the next
//! start, a batch per close costs every close.
//!
//! Invariant: a file that the kernel may be changing has its mark in the tree.

use std::collections::HashSet;

use dfs_shared::ids::NodeId;
use parking_lot::Mutex;

use super::{Fs, FsError};
use crate::limits::STALE_MARKS_MAX;

/// Files whose marks can go.
#[derive(Debug, Default)]
pub(super) struct Marks {
    stale: Mutex<HashSet<NodeId>>,
}

impl Fs {
    /// Marks a file before the kernel may change it.
    pub(super) fn mark_open(&self, node: NodeId) -> Result<(), FsError> {
        if !self.marks.stale.lock().remove(&node) {
            self.tree.mark_open(node)?;
            self.told_tree();
        }
        Ok(())
    }

    /// Says that nobody changes a file any more and that the tree knows its bytes.
    pub(super) fn unmark_open(&self, node: NodeId) -> Result<(), FsError> {
        let mut stale = self.marks.stale.lock();
        stale.insert(node);
        let many = stale.len() >= STALE_MARKS_MAX;
        drop(stale);
        self.told_tree();
        if many { self.remove_marks() } else { Ok(()) }
    }

    /// A conflict has given the bytes of `from`, and with them its mark, to `to`: what is known of the one holds for the other.
    pub(super) fn mark_moved(&self, from: NodeId, to: NodeId) {
        let mut stale = self.marks.stale.lock();
        if stale.remove(&from) {
            stale.insert(to);
        }
    }

    /// Tells whether a file has a mark that cannot go yet.
    pub(super) fn is_marked(&self, node: NodeId) -> bool {
        !self.marks.stale.lock().contains(&node) && self.tree.is_marked_open(node).unwrap_or(false)
    }

    /// Removes the marks that can go.
    pub(super) fn remove_marks(&self) -> Result<(), FsError> {
        // Held over the batch: who marks one of them again has to come after it.
        let mut stale = self.marks.stale.lock();
        if !stale.is_empty() {
            self.tree.unmark_open_all(stale.iter().copied())?;
            stale.clear();
        }
        Ok(())
    }
}
