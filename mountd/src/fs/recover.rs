//! Finds what the tree does not know of the files' bytes after a run that did not end by itself.
//!
//! ```text
//! killed:     files with an open mark ─► stamp differs ─► a change
//! power lost: all files ─► no content of the server ─────────► looked at as changed
//!                      │     └─► partly here ─────────────────► as long as what is left or the server has
//!                      └─► one ─► stamp as it was, long ago ──► good
//!                      │     └─► compared with its manifest ─► good
//!                      │            └─► differs ─► written later ─► a change
//!                      │                      └─► not written ───► forgotten, fetched when it is read
//!                      └─► no file, or nothing left of what
//!                          was here, content not sent ───────► as the server has it, or empty
//! ```
//!
//! A killed process leaves every byte and every row that it wrote. A machine without power leaves of both what had reached the
//! disk, each for itself: marks may be missing, bytes may be older than their rows or newer.
//!
//! Invariant: nothing is forgotten but bytes whose content the server has.

use std::sync::Arc;

use dfs_shared::ids::NodeId;
use dfs_shared::time::Timestamp;

use super::{Fs, FsError};
use crate::cache::{CacheError, Claim, Past, RangeSet, Standing, compare, same_bytes};
use crate::limits::POWER_LOSS_SECS;
use crate::tree::LocalNode;
use crate::tree::content::{ContentState, Place, Present, Stamp};
use crate::tree::node::SyncState;

impl Fs {
    /// Looks at every file that was open for writing when the last run ended; at all if the machine may have lost its power, as
    /// `boot` tells, which names its run since it was switched on.
    pub(super) fn recover(self: &Arc<Self>, boot: Option<&str>) -> Result<(), FsError> {
        let has_lost_power = boot.map(|boot| self.tree.lost_power(boot)).transpose()?.unwrap_or(false);
        // Rows of an older tree tell as little of the bytes that are here now.
        let has_lost_power = has_lost_power || self.cache.past() == Past::Older;
        if has_lost_power {
            // Marks tell little then: a stamp also differs of bytes that did not reach the disk.
            self.recover_from_power_loss()?;
        }
        for id in self.tree.open_marks()? {
            let node = self.tree.node_by_id(id)?.filter(|node| node.live().is_some() && !has_lost_power);
            match node.map_or(Ok(()), |node| self.recover_file(&node, false)) {
                // Whoever reads it is told; everything else goes on.
                Err(error @ FsError::Cache(CacheError::Lost { .. })) => {
                    tracing::error!(node = %id, %error, "bytes that were written here are lost");
                    self.lost.lock().push(id);
                }
                done => done?,
            }
            self.tree.unmark_open(id)?;
        }
        Ok(boot.map_or(Ok(()), |boot| self.tree.begin_boot(boot))?)
    }

    /// Returns the files that this start found without the bytes that had been written to them, for people to be told.
    pub fn lost_files(&self) -> Vec<NodeId> {
        self.lost.lock().clone()
    }

    fn recover_file(&self, node: &LocalNode, is_changed: bool) -> Result<(), FsError> {
        let Some(row) = self.tree.content_state(node.id)? else { return Ok(()) };
        let backing = self.cache.backing(node)?;
        if backing.id() != row.file {
            return Ok(());
        }
        backing.file()?;
        // Of a file that is partly here the tree was told before bytes changed, but not when; of a whole one its stamp tells.
        let was_announced = !backing.is_whole() && node.dirty_content.is_some();
        self.notice(&backing, is_changed || was_announced).map(drop)
    }

    fn recover_from_power_loss(&self) -> Result<(), FsError> {
        let mut rows = Vec::new();
        self.tree.content_states(|node, row| rows.push((node, row.stamp.ctime)))?;
        tracing::warn!(
            files = rows.len(),
            "the machine stopped while the mount was in use, or the state directory is older than its files: all are looked at"
        );
        let last = rows.iter().map(|(_, ctime)| *ctime).max().unwrap_or_default();
        let since = Timestamp { secs: last.secs.saturating_sub(POWER_LOSS_SECS), ..last };
        for (node, _) in rows {
            // What cannot be read now is told to whoever reads it.
            if let Err(error) = self.recover_bytes(node, since) {
                tracing::error!(%node, %error, "a file could not be looked at after the machine stopped");
            }
        }
        Ok(())
    }

    /// Looks at one file after a power loss. What was last changed before `since` is on the disk as its row says.
    fn recover_bytes(&self, id: NodeId, since: Timestamp) -> Result<(), FsError> {
        let Some(node) = self.tree.node_by_id(id)? else { return Ok(()) };
        let Some(record) = node.live() else { return Ok(()) };
        let Some(standing) = self.cache.standing(id)? else { return self.give_up(&node) };
        let Standing { row, now, .. } = &standing;
        let is_same = same_bytes(&row.stamp, now);
        if is_same && row.stamp.ctime < since {
            return Ok(());
        }
        if node.dirty_content.is_none() && row.content != record.content {
            // An older version, which only serves to copy from.
            return self.forget_bytes(id);
        }
        if let (Some(_), Present::Ranges(ranges)) = (node.dirty_content, &row.present) {
            return self.recover_partial(&node, row, RangeSet::from_ranges(ranges), now.size);
        }
        if node.dirty_content.is_some() || !self.cache.may_forget(id, row)? {
            let is_empty = row.content.is_none() && node.dirty_content.is_none();
            return if is_empty && is_same { Ok(()) } else { self.recover_file(&node, true) };
        }
        self.recover_named(&node, &standing)
    }

    /// Looks at a file that was written and is partly here, of which `len` bytes reached the disk. What of it is missing and the
    /// server has is fetched when it is needed; what was written behind that is as long as what is left of it.
    fn recover_partial(
        &self,
        node: &LocalNode,
        row: &ContentState,
        mut here: RangeSet,
        len: u64,
    ) -> Result<(), FsError> {
        let Some(record) = node.live() else { return Ok(()) };
        let noted = here.end();
        here.truncate(len);
        if noted > 0 && here.end() == 0 {
            return self.give_up(node);
        }
        let manifest = self.tree.manifest(node.id)?.filter(|(content, _)| Some(*content) == row.content);
        let theirs = match (manifest, &node.sync) {
            (Some((_, manifest)), _) => manifest.size(),
            (None, SyncState::Changed { base, .. }) if base.content == row.content => base.size,
            (None, _) => record.size,
        };
        // Of what is written behind the end the row is told first, the record later.
        let whole = record.size.max(noted).min(theirs.max(len));
        if noted > len {
            tracing::error!(node = %node.id, "bytes that were written here had not reached the disk: it ends after {whole}");
            self.lost.lock().push(node.id);
        }
        if len < whole {
            // First: what is added now is not here.
            let present = Present::Ranges(here.as_slice().to_vec());
            self.tree.update_content_state(node.id, |row| row.map(|row| ContentState { present, ..row }))?;
            self.cache.backing(node)?.file()?.set_len(whole)?;
        }
        self.recover_file(node, true)
    }

    /// The file is gone that held a node's bytes, or bytes of it that only it had.
    fn give_up(&self, node: &LocalNode) -> Result<(), FsError> {
        let Some(row) = self.tree.content_state(node.id)? else { return Ok(()) };
        if self.cache.may_forget(node.id, &row)? {
            return self.forget_bytes(node.id);
        }
        if node.dirty_content.is_none() && row.content.is_none() {
            // An empty one.
            return Ok(());
        }
        let is_theirs = self.tree.give_up_content(node.id, self.now())?;
        let left = if is_theirs { "it is as the server has it" } else { "it is empty" };
        tracing::error!(node = %node.id, "bytes that were written here had not reached the disk: {left}");
        self.lost.lock().push(node.id);
        Ok(())
    }

    /// Looks at a file whose content the server has.
    fn recover_named(&self, node: &LocalNode, standing: &Standing) -> Result<(), FsError> {
        let Standing { row, now, place } = standing;
        let manifest = self.tree.manifest(node.id)?;
        let manifest =
            manifest.filter(|(content, _)| Some(*content) == row.content).map(|(_, manifest)| manifest);
        let is_good = match (self.cache.claim(node.id)?, manifest) {
            (Claim::Bytes(claimed), Some(manifest)) => {
                !compare(&manifest, claimed.present.as_ref(), &claimed).is_damaged()
            }
            _ => false,
        };
        if is_good {
            return self.restamp(node.id, *now);
        }
        // Only what was moved to the state directory can have been written by a program.
        if *place == Place::State && now.mtime > row.stamp.mtime {
            return self.recover_file(node, true);
        }
        tracing::warn!(node = %node.id, "bytes that had not reached the disk are fetched again");
        self.forget_bytes(node.id)
    }

    fn restamp(&self, node: NodeId, now: Stamp) -> Result<(), FsError> {
        self.tree.update_content_state(node, |row| {
            let mut row = row?;
            // Ranges that were filled and not noted are not told by a stamp.
            if row.present == Present::All {
                row.stamp = now;
            }
            Some(row)
        })?;
        Ok(())
    }

    fn forget_bytes(&self, node: NodeId) -> Result<(), FsError> {
        match self.cache.forget_all(node) {
            Ok(()) | Err(CacheError::Busy | CacheError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
