//! Which contents this mount holds, and what the server was told of that.
//!
//! The table `reported` has, for each file, the content that the server was told this mount holds all bytes of. What differs from it
//! is to be told. Rows of bytes that were written are remembered in memory, so that a difference is found without reading every
//! row; after a start, and when too many were written, all rows are compared once.

use std::collections::BTreeSet;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::wire::report::{Held, Holding};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::content::{ContentState, Present};
use super::node::SyncState;
use super::store::{Space, Write, decode};
use super::{Tree, TreeError};
use crate::limits::{REPORTED_ROWS_FORGOTTEN_AT_ONCE, TOUCHED_CONTENTS_MAX};

/// Files whose rows of bytes were written since they were last looked at.
pub(crate) struct TouchedContents {
    state: Mutex<Touched>,
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Touched {
    nodes: BTreeSet<NodeId>,
    is_overfull: bool,
}

impl Default for TouchedContents {
    fn default() -> Self {
        Self { state: Mutex::default(), count: watch::channel(0).0 }
    }
}

impl TouchedContents {
    pub(crate) fn note<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let mut keys = keys.filter_map(|key| key.try_into().ok().map(NodeId::from_bytes)).peekable();
        if keys.peek().is_none() {
            return;
        }
        self.put(keys);
        self.count.send_modify(|count| *count += 1);
    }

    fn put(&self, nodes: impl Iterator<Item = NodeId>) {
        let mut state = self.state.lock();
        state.nodes.extend(nodes);
        if state.nodes.len() > TOUCHED_CONTENTS_MAX {
            state.nodes.clear();
            state.is_overfull = true;
        }
    }

    /// Takes up to `limit` files; `true` if more were touched than are remembered.
    fn take(&self, limit: usize) -> (Vec<NodeId>, bool) {
        let mut state = self.state.lock();
        let taken: Vec<NodeId> = (0..limit).map_while(|_| state.nodes.pop_first()).collect();
        (taken, std::mem::take(&mut state.is_overfull))
    }
}

/// What was told to the server last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReportState {
    /// The number of the last report.
    pub number: u64,
    /// The server has to be told everything anew.
    pub anew: bool,
}

const REPORTS_KEY: &[u8] = b"reports";

impl Tree {
    /// Counts the writes of rows of bytes, for those who wait for one.
    #[must_use]
    pub fn contents_touched(&self) -> watch::Receiver<u64> {
        self.store.touched_contents().count.subscribe()
    }

    /// Takes up to `limit` files whose rows of bytes were written; `true` if more were written than are remembered, so that all
    /// rows have to be compared.
    #[must_use]
    pub fn take_touched_contents(&self, limit: usize) -> (Vec<NodeId>, bool) {
        self.store.touched_contents().take(limit)
    }

    /// Tells whether there are files to be taken.
    #[must_use]
    pub fn has_touched_contents(&self) -> bool {
        let state = self.store.touched_contents().state.lock();
        !state.nodes.is_empty() || state.is_overfull
    }

    /// Gives files back that were taken, to be taken again. Wakes nobody.
    pub fn give_back_touched(&self, nodes: impl Iterator<Item = NodeId>) {
        self.store.touched_contents().put(nodes);
    }

    /// Finds out which content of a file is here as a whole; `None` while that is not decided: the file's content has changed
    /// here and the server does not have it yet.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn holding(&self, node: NodeId) -> Result<Option<Holding>, TreeError> {
        let Some(local) = self.node_by_id(node)? else { return Ok(Some(Holding::Nothing)) };
        let Some(record) = local.live() else { return Ok(Some(Holding::Nothing)) };
        let Some(row) = self.content_state(node)? else { return Ok(Some(Holding::Nothing)) };
        if local.dirty_content.is_some() {
            return Ok(None);
        }
        if row.present != Present::All {
            return Ok(Some(Holding::Nothing));
        }
        let is_known = match &local.sync {
            SyncState::Clean(_) => true,
            SyncState::New => false,
            SyncState::Changed { base, .. } => base.content == row.content,
        };
        // A row that is not the record's own is of an older version, which was committed once.
        let is_old = row.content != record.content;
        Ok((is_known || is_old).then_some(Holding::Whole(row.content)))
    }

    /// Returns what the server was told of a file.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn reported(&self, node: NodeId) -> Result<Holding, TreeError> {
        let told: Option<Option<ContentId>> = self.store.read(Space::Reported, node.as_bytes())?;
        Ok(told.map_or(Holding::Nothing, Holding::Whole))
    }

    /// Returns what was told last.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn report_state(&self) -> Result<ReportState, TreeError> {
        Ok(self.store.read(Space::Meta, REPORTS_KEY)?.unwrap_or_default())
    }

    /// Remembers that the server has noted a report.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn note_reported(&self, held: &[Held], state: ReportState) -> Result<(), TreeError> {
        let write = |held: &Held| match held.holding {
            Holding::Nothing => Write::remove(Space::Reported, held.node.as_bytes()),
            Holding::Whole(content) => Write::put(Space::Reported, held.node.as_bytes(), &content),
        };
        let mut writes: Vec<Write> = held.iter().map(write).collect();
        writes.push(Write::put(Space::Meta, REPORTS_KEY, &state));
        self.store.commit(writes)
    }

    /// Forgets what the server was told; it has to be told everything anew, after the report of this number.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn forget_reported(&self, number: u64) -> Result<(), TreeError> {
        // First, so that a crash on the way is made good.
        self.note_reported(&[], ReportState { number, anew: true })?;
        loop {
            let mut writes = Vec::new();
            self.store.each(Space::Reported, &[], |key, _| {
                writes.push(Write::remove(Space::Reported, key));
                Ok(writes.len() < REPORTED_ROWS_FORGOTTEN_AT_ONCE)
            })?;
            if writes.is_empty() {
                return Ok(());
            }
            self.store.commit(writes)?;
        }
    }

    /// Compares all rows of bytes with what the server was told, from behind the file `after` on; looks at about `limit` rows.
    /// Returns the files that may differ, and behind which one to go on, `None` at the end.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn differing_contents(
        &self,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<(Vec<NodeId>, Option<NodeId>), TreeError> {
        let start: Vec<u8> = after.map(|node| node.as_bytes().to_vec()).unwrap_or_default();
        let mut here = std::collections::BTreeMap::new();
        let mut end: Option<NodeId> = None;
        self.store.each_from(Space::Content, &[], &start, |key, value| {
            let row: ContentState = decode("content state", value)?;
            let whole = (row.present == Present::All).then_some(row.content);
            let node = node_of(key)?;
            here.insert(node, whole);
            if here.len() == limit {
                end = Some(node);
            }
            Ok(end.is_none())
        })?;
        let mut seen = 0;
        self.store.each_from(Space::Reported, &[], &start, |key, value| {
            let node = node_of(key)?;
            if end.is_some_and(|end| node > end) {
                return Ok(false);
            }
            let told: Option<ContentId> = decode("reported content", value)?;
            match here.get(&node) {
                Some(Some(whole)) if *whole == told => drop(here.remove(&node)),
                Some(_) => {}
                None => drop(here.insert(node, Some(told))),
            }
            // Also those that are here no more are counted.
            seen += 1;
            if seen == 2 * limit {
                end = Some(node);
            }
            Ok(seen < 2 * limit)
        })?;
        let differing = here.into_iter().filter(|(node, whole)| {
            whole.is_some() && end.is_none_or(|end| *node <= end)
                || whole.is_none() && self.is_reported(*node)
        });
        Ok((differing.map(|(node, _)| node).collect(), end))
    }

    fn is_reported(&self, node: NodeId) -> bool {
        self.reported(node).is_ok_and(|told| told != Holding::Nothing)
    }
}

fn node_of(key: &[u8]) -> Result<NodeId, TreeError> {
    key.try_into().map(NodeId::from_bytes).map_err(|_| TreeError::Damaged { what: "key of a file" })
}
