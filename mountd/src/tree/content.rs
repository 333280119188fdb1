//! What the tree remembers of a file's bytes on this mount; the bytes themselves are the cache's.
//!
//! A row says which backing file a node has and which of its ranges hold bytes of `content`. It is kept
//! here, not in the cache, so that it changes in the same batch as the record that it belongs to.
//!
//! Invariant: where `row.content` differs from `record.content` and the node has no dirty content, the row
//! is stale: its bytes are of an older version and may only serve as a source of chunks.

use std::ops::Range;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{NodeRecord, RecordKey};
use dfs_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::node::SyncState;
use super::store::{Space, Write};
use super::txn::Txn;
use super::{Tree, TreeError};

/// Names a backing file for ever; from [`Tree::next_number`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u64);

/// Which directory holds a backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The state directory: written here.
    State,
    /// The cache directory: fetched; may vanish while nothing is mounted.
    Cache,
}

/// Which bytes of a backing file are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Present {
    /// All of them.
    All,
    /// These half-open ranges, ascending and not touching.
    Ranges(Vec<Range<u64>>),
}

/// What `fstat` said of a backing file when its bytes were last known to be what the tree says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the bytes.
    pub mtime: Timestamp,
    /// Last change of bytes or attributes.
    pub ctime: Timestamp,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
}

/// A file's bytes on this mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentState {
    /// The backing file.
    pub file: FileId,
    /// Where it is.
    pub place: Place,
    /// The content whose bytes it holds; `None` for an empty one, and without meaning while the node's content is dirty.
    pub content: Option<ContentId>,
    /// Which of its bytes are there.
    pub present: Present,
    /// The backing file when it was last looked at.
    pub stamp: Stamp,
}

impl Tree {
    /// Returns what is known of a file's bytes here. Does not block.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn content_state(&self, node: NodeId) -> Result<Option<ContentState>, TreeError> {
        self.store.read(Space::Content, node.as_bytes())
    }

    /// Replaces what is known of a file's bytes by what `change` makes of it (`None` removes the row), and
    /// returns the new state. Takes the writer's lock; `change` must not call back into the tree.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails; nothing is changed then.
    pub fn update_content_state(
        &self,
        node: NodeId,
        change: impl FnOnce(Option<ContentState>) -> Option<ContentState>,
    ) -> Result<Option<ContentState>, TreeError> {
        let _writer = self.writer.lock();
        let old: Option<ContentState> = self.store.read(Space::Content, node.as_bytes())?;
        let new = change(old.clone());
        if new != old {
            let write = Write::maybe(Space::Content, node.as_bytes(), new.as_ref());
            self.store.commit(vec![write])?;
        }
        Ok(new)
    }

    /// Remembers the manifest and the bytes of a content that just came, if the node has that content now and nothing is known of
    /// its bytes here. Returns whether it did.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn put_content(
        &self,
        node: NodeId,
        manifest: &Manifest,
        row: &ContentState,
    ) -> Result<bool, TreeError> {
        let _writer = self.writer.lock();
        let is_wanted = self.node_by_id(node)?.is_some_and(|node| {
            node.dirty_content.is_none() && node.live().is_some_and(|record| record.content == row.content)
        });
        if !is_wanted || self.content_state(node)?.is_some() {
            return Ok(false);
        }
        self.store.commit(vec![
            Write::put(Space::Content, node.as_bytes(), row),
            Write::put(Space::Manifests, node.as_bytes(), &(manifest.id(), manifest)),
        ])?;
        Ok(true)
    }

    /// The bytes that were written to a file here are gone: it has the content again that the server has, or none. If a request is
    /// in flight, which may hold a newer one, the answer brings it ([`Tree::acknowledge`]). Returns whether the server has any.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn give_up_content(&self, id: NodeId, at: Timestamp) -> Result<bool, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let base = match txn.live(id)?.map(|node| node.sync.clone()) {
            Some(SyncState::Changed { base, .. }) => Some(base),
            Some(SyncState::Clean(_) | SyncState::New) | None => None,
        };
        let content = base.as_ref().and_then(|base| base.content);
        txn.change_node(id, |record| {
            let before = base.as_ref().map_or((0, at), |base| (base.size, base.mtime));
            (record.content, (record.size, record.mtime)) = (content, before);
            // Nothing else changed: then there is nothing to send.
            if let Some(base) =
                base.filter(|base| *base == NodeRecord { ctime: base.ctime, ..record.clone() })
            {
                *record = base;
            }
        })?;
        txn.edit_node(id, |node| node.dirty_content = None)?;
        if let Some(left) = txn.live(id)?.and_then(|node| node.record.clone()) {
            super::journal::give_up(&mut txn, left)?;
        }
        txn.journal(vec![RecordKey::Node(id)]);
        txn.extra.push(Write::remove(Space::Content, id.as_bytes()));
        self.finish(txn, at, false)?;
        Ok(content.is_some())
    }

    /// Returns every row, for start-up checks and eviction. Reads the whole table.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn content_states(&self, mut each: impl FnMut(NodeId, ContentState)) -> Result<(), TreeError> {
        self.store.each(Space::Content, &[], |key, value| {
            let id = key.try_into().map(NodeId::from_bytes);
            let id = id.map_err(|_| TreeError::Damaged { what: "content key" })?;
            each(id, super::store::decode("content state", value)?);
            Ok(true)
        })
    }

    /// Returns the files of which something is known, at most `max` of them, from behind `after` on.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn files_with_content(&self, after: Option<NodeId>, max: usize) -> Result<Vec<NodeId>, TreeError> {
        let start: Vec<u8> = after.map(|node| node.as_bytes().to_vec()).unwrap_or_default();
        let mut found = Vec::new();
        self.store.each_from(Space::Content, &[], &start, |key, _| {
            let id = key.try_into().map(NodeId::from_bytes);
            found.push(id.map_err(|_| TreeError::Damaged { what: "content key" })?);
            Ok(found.len() < max)
        })?;
        Ok(found)
    }

    /// Returns the newest manifest known for a file. Does not block.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn manifest(&self, node: NodeId) -> Result<Option<(ContentId, Manifest)>, TreeError> {
        self.store.read(Space::Manifests, node.as_bytes())
    }

    /// Remembers a manifest for a file.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn put_manifest(&self, node: NodeId, manifest: &Manifest) -> Result<(), TreeError> {
        self.store.commit(vec![Write::put(Space::Manifests, node.as_bytes(), &(manifest.id(), manifest))])
    }
}
