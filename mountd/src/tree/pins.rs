//! What is to stay on this machine, and what may have to be looked at because of it.
//!
//! Owns the table of pins: a row for each file or directory that somebody pinned, by its node, so that a rename keeps it. What a
//! directory's pin covers is found by walking up from a file when it matters, never copied to the files.
//!
//! Invariants: what is in memory is what the table holds; pins change under the writer's lock, so that whoever asks under it
//! has the answer for as long as it holds it.

use std::collections::BTreeSet;

use dfs_shared::ids::NodeId;
use dfs_shared::record::NodeKind;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::store::{Space, Store, Write};
use super::txn::Txn;
use super::{Tree, TreeError};
use crate::limits::{PATH_DEPTH_MAX, PIN_NEWS_MAX, PINS_MAX};

/// The pins, in memory.
pub(super) struct Pins {
    state: Mutex<State>,
    /// Counts what is to be looked at.
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    rows: BTreeSet<NodeId>,
    /// Nodes that came under a directory or got another content since they were last taken.
    news: BTreeSet<NodeId>,
    is_all_news: bool,
}

/// What has to be looked at since the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinNews {
    /// Everything that is pinned.
    All,
    /// These nodes and what is below them, whether pinned or not.
    Some(Vec<NodeId>),
}

impl Pins {
    pub(super) fn load(store: &Store) -> Result<Self, TreeError> {
        let mut rows = BTreeSet::new();
        store.each(Space::Pins, &[], |key, _| {
            let id = <[u8; 16]>::try_from(key).map_err(|_| TreeError::Damaged { what: "pin" })?;
            rows.insert(NodeId::from_bytes(id));
            Ok(true)
        })?;
        let is_all_news = !rows.is_empty();
        let state = Mutex::new(State { rows, is_all_news, ..State::default() });
        Ok(Self { state, count: watch::channel(0).0 })
    }

    /// Returns what a change brings under a directory or gives another content; nothing while nothing is pinned.
    pub(super) fn arrivals(&self, txn: &Txn<'_>) -> Vec<NodeId> {
        if self.state.lock().rows.is_empty() { Vec::new() } else { txn.arrivals() }
    }

    /// Takes note of a change that is in the store now.
    pub(super) fn note(&self, nodes: Vec<NodeId>) {
        if nodes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if !state.is_all_news {
            state.news.extend(nodes);
            if state.news.len() > PIN_NEWS_MAX {
                state.look_at_all();
            }
        }
        drop(state);
        self.count.send_modify(|count| *count += 1);
    }

    fn has(&self, node: NodeId) -> bool {
        self.state.lock().rows.contains(&node)
    }
}

impl State {
    fn look_at_all(&mut self) {
        self.news.clear();
        self.is_all_news = true;
    }
}

impl Tree {
    /// Pins a file, or a directory with all that is below it now and later; `false` if it was pinned.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound`, `NotPermitted` (neither file nor directory), `TooManyPins`, or a failing store.
    pub fn pin(&self, node: NodeId) -> Result<bool, TreeError> {
        let _writer = self.writer.lock();
        let found = self.node_by_id(node)?;
        let record = found.as_ref().and_then(|found| found.live()).ok_or(TreeError::NotFound)?;
        if !matches!(record.kind, NodeKind::File | NodeKind::Directory) {
            return Err(TreeError::NotPermitted);
        }
        if self.pins.has(node) {
            return Ok(false);
        }
        if self.pins.state.lock().rows.len() >= PINS_MAX {
            self.drop_dead_pins()?;
            if self.pins.state.lock().rows.len() >= PINS_MAX {
                return Err(TreeError::TooManyPins);
            }
        }
        self.store.commit_growth(vec![Write::raw(Space::Pins, node.as_bytes(), Some(Vec::new()))])?;
        self.change_pins(|rows| rows.insert(node));
        Ok(true)
    }

    /// Removes the pin of a node itself; `false` if it has none.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn unpin(&self, node: NodeId) -> Result<bool, TreeError> {
        let _writer = self.writer.lock();
        if !self.pins.has(node) {
            return Ok(false);
        }
        self.store.commit(vec![Write::remove(Space::Pins, node.as_bytes())])?;
        self.change_pins(|rows| rows.remove(&node));
        Ok(true)
    }

    /// Forgets the pins of nodes that are gone, here and on the server. A file that is removed here and that somebody else has
    /// changed comes back, with its pin.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn forget_dead_pins(&self) -> Result<(), TreeError> {
        let _writer = self.writer.lock();
        self.drop_dead_pins()
    }

    fn drop_dead_pins(&self) -> Result<(), TreeError> {
        let rows = self.pins.state.lock().rows.clone();
        for node in rows {
            if self.node_by_id(node)?.is_none() {
                self.store.commit(vec![Write::remove(Space::Pins, node.as_bytes())])?;
                self.pins.state.lock().rows.remove(&node);
            }
        }
        Ok(())
    }

    fn change_pins(&self, change: impl FnOnce(&mut BTreeSet<NodeId>) -> bool) {
        let mut state = self.pins.state.lock();
        change(&mut state.rows);
        state.look_at_all();
        drop(state);
        self.pins.count.send_modify(|count| *count += 1);
    }

    /// Lets everything that is pinned be looked at once more.
    pub fn look_at_pins_again(&self) {
        self.change_pins(|_| false);
    }

    /// Returns what is pinned itself and exists here.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn pins(&self) -> Result<Vec<NodeId>, TreeError> {
        let rows = self.pins.state.lock().rows.clone();
        let mut live = Vec::with_capacity(rows.len());
        for node in rows {
            if self.node_by_id(node)?.is_some_and(|node| node.live().is_some()) {
                live.push(node);
            }
        }
        Ok(live)
    }

    /// Returns the pin that covers a node: its own, or that of a directory above one of its names.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn pinned_by(&self, node: NodeId) -> Result<Option<NodeId>, TreeError> {
        if self.pins.state.lock().rows.is_empty() {
            return Ok(None);
        }
        if self.pins.has(node) {
            return Ok(Some(node));
        }
        self.pinned_from_above(node)
    }

    /// As [`Self::pinned_by`], but for the node's own pin.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn pinned_from_above(&self, node: NodeId) -> Result<Option<NodeId>, TreeError> {
        if node == NodeId::ROOT {
            return Ok(None);
        }
        for (parent, _) in self.names_of(node)? {
            let mut at = parent;
            for _ in 0..PATH_DEPTH_MAX {
                if self.pins.has(at) {
                    return Ok(Some(at));
                }
                match self.node_by_id(at)? {
                    Some(dir) if at != NodeId::ROOT => at = dir.parent,
                    _ => break,
                }
            }
        }
        Ok(None)
    }

    /// Counts changes of what has to be looked at, for those who wait for one.
    #[must_use]
    pub fn pin_changes(&self) -> watch::Receiver<u64> {
        self.pins.count.subscribe()
    }

    /// Takes what has to be looked at.
    #[must_use]
    pub fn take_pin_news(&self) -> PinNews {
        let mut state = self.pins.state.lock();
        let news = std::mem::take(&mut state.news);
        if std::mem::take(&mut state.is_all_news) {
            PinNews::All
        } else {
            PinNews::Some(news.into_iter().collect())
        }
    }
}
