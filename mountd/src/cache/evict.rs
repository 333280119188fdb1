//! Which files' bytes go when the cache is full, and what is left over from the last run.
//!
//! Invariant: only bytes whose content the server has go, only while nobody uses them, and none that are pinned; all three are
//! checked under the locks under which they change.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use dfs_shared::ids::NodeId;

use super::{Cache, CacheError, Place};
use crate::limits::{CACHE_LOW_PERCENT, RECENT_FILES_MAX};
use crate::tree::content::{ContentState, FileId};
use crate::tree::{LocalNode, SyncState, Tree, TreeError};

/// When files were used last, in seconds since 1970; as many as fit.
#[derive(Debug, Default)]
pub(super) struct Recent {
    used: HashMap<NodeId, u64>,
}

fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Tells whether the server has the content that the node has here.
pub(super) fn is_on_server(node: &LocalNode) -> bool {
    let Some(record) = node.live() else { return false };
    let known = match &node.sync {
        SyncState::Clean(_) => true,
        SyncState::Changed { base, .. } => base.content == record.content,
        SyncState::New => false,
    };
    known && node.dirty_content.is_none()
}

pub(super) fn may_go(tree: &Tree, node: NodeId, row: &ContentState) -> Result<bool, CacheError> {
    let node = tree.node_by_id(node)?;
    Ok(node.is_none_or(|node| {
        let stale = node.live().is_some_and(|record| record.content != row.content);
        is_on_server(&node) && (stale || row.content.is_some())
    }))
}

impl Cache {
    pub(super) fn used_now(&self, node: NodeId) {
        let mut recent = self.recent.lock();
        if recent.used.len() >= RECENT_FILES_MAX && !recent.used.contains_key(&node) {
            recent.used.clear();
        }
        recent.used.insert(node, now_secs());
    }

    pub(super) fn is_held(&self, file: FileId) -> bool {
        self.held.lock().contains(&file)
    }

    /// Removes a file's bytes from this mount; they are fetched again when they are read. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`]: `Busy` when the file is open or the server does not have its content, `Pinned`, `NotFound`, or a failing disk or tree.
    pub fn evict(self: &Arc<Self>, node: NodeId) -> Result<(), CacheError> {
        self.let_go(node, |tree| tree.pinned_by(node))
    }

    /// As [`Self::evict`], of bytes that are not what they should be: a pin keeps good ones.
    ///
    /// # Errors
    /// As [`Self::evict`], but never `Pinned`.
    pub fn forget_all(self: &Arc<Self>, node: NodeId) -> Result<(), CacheError> {
        self.let_go(node, |_| Ok(None))
    }

    fn let_go(
        self: &Arc<Self>,
        node: NodeId,
        pinned_by: impl FnOnce(&Tree) -> Result<Option<NodeId>, TreeError>,
    ) -> Result<(), CacheError> {
        let found = self.tree.node_by_id(node)?.ok_or(CacheError::NotFound)?;
        let backing = self.backing(&found)?;
        let mut inner = backing.inner.lock();
        if inner.users > 0 || inner.touched {
            return Err(CacheError::Busy);
        }
        let (mut refused, mut gone, mut pinned) = (false, None, Ok(None));
        self.tree.update_content_state(node, |row| {
            let row = row?;
            // Readers of the tree take no lock, and its writers wait for this closure: what is clean here stays so.
            refused = !may_go(&self.tree, node, &row).unwrap_or(false);
            pinned = pinned_by(&self.tree);
            if refused || !matches!(pinned, Ok(None)) {
                return Some(row);
            }
            gone = Some((row.place, row.file, row.stamp.blocks));
            None
        })?;
        if let Some(by) = pinned? {
            return Err(CacheError::Pinned { by });
        }
        if refused {
            return Err(CacheError::Busy);
        }
        let Some((place, file, blocks)) = gone else { return Ok(()) };
        self.account(blocks, 0);
        self.remove_file(place, file);
        backing.emptied(&mut inner, file);
        Ok(())
    }

    /// Evicts the files that were used longest ago until the cache is within its bounds, and the disk of the state directory has room.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError::Tree`].
    pub fn make_room(self: &Arc<Self>) -> Result<(), CacheError> {
        let used = self.bytes_used();
        let lacks = self.tree.store().shortage().map_or(0, |shortage| shortage.lacks);
        let is_within = used <= self.size_max;
        if is_within && lacks == 0 {
            return Ok(());
        }
        let mut rows = Vec::new();
        self.tree.content_states(|node, row| {
            // What lies on another disk helps only the cache's own bound.
            let helps = !is_within || row.place == Place::State || self.is_on_one_disk;
            if row.stamp.blocks > 0 && helps {
                rows.push((node, row.place, row.file));
            }
        })?;
        let mut candidates = Vec::with_capacity(rows.len());
        {
            let recent = self.recent.lock();
            for (node, place, file) in rows {
                let known = recent.used.get(&node).copied();
                candidates.push((known.unwrap_or_else(|| self.accessed(place, file)), node));
            }
        }
        candidates.sort_unstable();
        let bound = if is_within { used } else { self.size_max / 100 * CACHE_LOW_PERCENT };
        let enough = bound.min(used.saturating_sub(lacks));
        for (_, node) in candidates {
            if self.bytes_used() <= enough {
                break;
            }
            match self.evict(node) {
                Ok(()) | Err(CacheError::Busy | CacheError::Pinned { .. } | CacheError::NotFound) => {}
                Err(error) => tracing::warn!(%node, %error, "a file cannot be evicted"),
            }
        }
        Ok(())
    }

    fn accessed(&self, place: Place, file: FileId) -> u64 {
        let stat = std::fs::symlink_metadata(self.dirs.path(place, file));
        stat.map_or(0, |stat| u64::try_from(stat.atime()).unwrap_or(0))
    }

    /// Adds up what is here and removes what nothing refers to; for the background, once after the start.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn check_leftovers(&self) -> Result<(), CacheError> {
        // Files made since the cache was opened have greater numbers: their rows may be younger than the look below.
        let limit = self.numbers.first();
        let mut rows = Vec::new();
        self.tree.content_states(|node, row| rows.push((node, row.file, row.stamp.blocks)))?;
        let mut known = HashSet::with_capacity(rows.len());
        for (node, file, blocks) in rows {
            if self.tree.node_by_id(node)?.is_some_and(|node| node.live().is_some()) {
                known.insert(file);
                self.account(0, blocks);
            } else {
                self.discard_bytes(node, true);
            }
        }
        let mut left = Vec::new();
        self.dirs
            .each(|place, file| {
                if file.0 < limit && !known.contains(&file) {
                    left.push((place, file));
                }
            })
            .map_err(|source| CacheError::Io { action: "list", path: self.state_dir.clone(), source })?;
        for (place, file) in left {
            let live: Vec<_> = self.live.lock().values().filter_map(Weak::upgrade).collect();
            if !self.is_held(file) && !live.iter().any(|backing| backing.id() == file) {
                self.dirs.remove(place, file);
            }
        }
        Ok(())
    }
}
