//! Fetches what is pinned and not here, in the background.
//!
//! ```text
//! pinned, moved under a pin, new version ─► looked at ─► waiting ─► a few at once, piece by piece ─► here
//!                                                          ▲                       │
//!                                                          └── lost, after a pause ┘──► given up until the next connection
//! ```
//!
//! Invariants: nothing is asked for while the server is not there; of one file at most one piece is on its way, so that
//! readers are served in between. What waits is in memory only: after a start everything pinned is looked at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dfs_shared::ids::NodeId;
use dfs_shared::record::{NodeKind, RecordKey};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant};

use super::download::fetch_again;
use super::retry::Backoff;
use super::shared::{Shared, blocking, chain};
use super::status::path_of;
use crate::cache::FetchError;
use crate::limits::{
    PIN_FAILURES_SHOWN, PIN_FILES_AT_ONCE, PIN_PIECE_LEN, PIN_TELL_MS, PINNED_WAITING_MAX, READ_DIR_BATCH,
};
use crate::tree::content::Present;
use crate::tree::node::Cookie;
use crate::tree::pins::PinNews;
use crate::tree::{Tree, TreeError};

/// How far fetching what was pinned is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinProgress {
    /// Files that are not here.
    pub files: u64,
    /// Bytes that are not here.
    pub bytes: u64,
    /// Tells that there are more than were counted.
    pub is_at_least: bool,
}

/// Why what was pinned is not all here.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The server cannot be reached.
    #[error("the server cannot be reached; it is pinned, and fetching goes on when the server is back")]
    Offline,
    /// Files that cannot be fetched.
    #[error("{count} pinned files cannot be fetched: {}", shown.join("; "))]
    NotFetched {
        /// How many.
        count: u64,
        /// The first of them, with the reason.
        shown: Vec<String>,
    },
    /// The local tree failed.
    #[error("the local tree failed")]
    Tree {
        /// Why.
        #[from]
        source: TreeError,
    },
}

/// What is pinned and not here.
pub(super) struct Pinned {
    state: parking_lot::Mutex<State>,
    /// Counts files that were fetched or given up.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Files to be fetched, with how many bytes are not here.
    waiting: BTreeMap<NodeId, u64>,
    fetching: BTreeMap<NodeId, Fetching>,
    /// Files that are left alone until the next connection, and why.
    failed: BTreeMap<NodeId, (u64, String)>,
    /// Bytes of files that found no room in `waiting`.
    beyond: u64,
    has_beyond: bool,
    /// Why nothing can be fetched at the moment, though the server is there.
    stalled: Option<String>,
    /// It was told that what is pinned does not fit into the cache.
    is_too_much: bool,
}

#[derive(Debug, Clone, Copy)]
struct Fetching {
    bytes: u64,
    /// There is news of the file since it is being fetched: a failure may be one of what it was before.
    has_news: bool,
}

impl Default for Pinned {
    fn default() -> Self {
        Self { state: parking_lot::Mutex::default(), news: watch::channel(0).0 }
    }
}

impl Pinned {
    /// Returns how many bytes are pinned and not here, as far as was looked.
    pub(super) fn missing_bytes(&self) -> u64 {
        let state = self.state.lock();
        let files = state.waiting.values().chain(state.fetching.values().map(|fetching| &fetching.bytes));
        files.chain(state.failed.values().map(|(bytes, _)| bytes)).sum::<u64>() + state.beyond
    }

    /// Lets files be tried again that were given up.
    pub(super) fn try_again(&self) {
        let mut state = self.state.lock();
        let failed = std::mem::take(&mut state.failed);
        state.waiting.extend(failed.into_iter().map(|(node, (bytes, _))| (node, bytes)));
    }

    /// Looks whether a file is to be fetched. Under the lock: what is here by now is not taken for missing, and no news of a
    /// file is lost.
    fn look_at(&self, shared: &Shared, node: NodeId) -> Result<(), TreeError> {
        let mut state = self.state.lock();
        if let Some(fetching) = state.fetching.get_mut(&node) {
            fetching.has_news = true;
            return Ok(());
        }
        state.failed.remove(&node);
        let Some(bytes) = missing_of(shared, node)? else {
            state.waiting.remove(&node);
            return Ok(());
        };
        if state.waiting.len() < PINNED_WAITING_MAX || state.waiting.contains_key(&node) {
            state.waiting.insert(node, bytes);
        } else {
            state.beyond += bytes;
            state.has_beyond = true;
        }
        Ok(())
    }

    /// Returns how many bytes of a file are not here; `Some(0)` if all are and that is still to be noted, `None` if it is.
    fn left_of(&self, shared: &Shared, node: NodeId) -> Result<Option<u64>, TreeError> {
        let mut state = self.state.lock();
        let missing = missing_of(shared, node)?;
        if missing.is_none() && state.fetching.contains_key(&node) {
            return Ok(Some(0));
        }
        if missing.is_none() {
            state.waiting.remove(&node);
            state.failed.remove(&node);
        }
        Ok(missing)
    }

    fn next(&self) -> Option<NodeId> {
        let mut state = self.state.lock();
        let (node, bytes) = state.waiting.pop_first()?;
        state.fetching.insert(node, Fetching { bytes, has_news: false });
        Some(node)
    }

    fn give_back(&self, node: NodeId) {
        let mut state = self.state.lock();
        if let Some(fetching) = state.fetching.remove(&node) {
            state.waiting.insert(node, fetching.bytes);
        }
    }

    fn has_news_of(&self, node: NodeId) -> bool {
        self.state.lock().fetching.get(&node).is_some_and(|fetching| fetching.has_news)
    }

    /// Tells whether files found no room in `waiting`, now that there is some.
    fn take_beyond(&self) -> bool {
        let mut state = self.state.lock();
        state.waiting.is_empty() && std::mem::take(&mut state.has_beyond)
    }
}

/// Returns how many bytes of a file are not here; `None` if nothing is to be fetched.
fn missing_of(shared: &Shared, node: NodeId) -> Result<Option<u64>, TreeError> {
    let Some(found) = shared.tree.node_by_id(node)? else { return Ok(None) };
    let Some(record) = found.live().filter(|record| record.kind == NodeKind::File) else { return Ok(None) };
    let row = match shared.cache.row_of(&found) {
        Ok(row) => row,
        Err(crate::cache::CacheError::Tree { source }) => return Err(source),
        Err(_) => return Ok(None),
    };
    Ok(match row.map(|row| row.present) {
        Some(Present::All) => None,
        _ if record.size == 0 || (record.content.is_none() && found.dirty_content.is_none()) => None,
        Some(Present::Ranges(ranges)) => {
            let here: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            Some(record.size.saturating_sub(here).max(1))
        }
        None => Some(record.size),
    })
}

/// Calls `each` with a file, or with every file below a directory.
fn each_file(
    tree: &Tree,
    top: NodeId,
    each: &mut dyn FnMut(NodeId) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let kind = tree.node_by_id(top)?.and_then(|node| node.live().map(|record| record.kind));
    match kind {
        Some(NodeKind::File) => return each(top),
        Some(NodeKind::Directory) => {}
        _ => return Ok(()),
    }
    let mut directories = vec![top];
    while let Some(directory) = directories.pop() {
        let mut after = Cookie(0);
        loop {
            let entries = tree.read_dir(directory, after, READ_DIR_BATCH)?;
            let Some(last) = entries.last() else { break };
            after = last.target.cookie;
            for entry in &entries {
                match entry.target.kind {
                    NodeKind::Directory => directories.push(entry.target.node),
                    NodeKind::File => each(entry.target.node)?,
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Looks at everything that is pinned.
fn look_at_all(shared: &Shared) -> Result<(), TreeError> {
    {
        let mut state = shared.pinned.state.lock();
        state.waiting.clear();
        state.failed.clear();
        (state.beyond, state.has_beyond) = (0, false);
    }
    let mut all = 0_u64;
    for pin in shared.tree.pins()? {
        // Another pin covers it, too.
        if shared.tree.pinned_from_above(pin)?.is_some() {
            continue;
        }
        each_file(&shared.tree, pin, &mut |node| {
            let found = shared.tree.node_by_id(node)?;
            all += found.and_then(|found| found.live().map(|record| record.size)).unwrap_or(0);
            shared.pinned.look_at(shared, node)
        })?;
    }
    let is_too_much = all > shared.cache.size_max();
    let was_too_much = std::mem::replace(&mut shared.pinned.state.lock().is_too_much, is_too_much);
    if is_too_much && !was_too_much {
        let max = shared.cache.size_max();
        shared.notice(format!(
            "what is pinned has {all} bytes, more than --cache-size ({max}): it is kept, and nothing else stays for long"
        ));
    }
    Ok(())
}

fn look(shared: &Shared, news: PinNews) -> Result<(), TreeError> {
    shared.tree.forget_dead_pins()?;
    let nodes = match news {
        PinNews::All => return look_at_all(shared),
        PinNews::Some(nodes) => nodes,
    };
    for top in nodes {
        if shared.tree.pinned_by(top)?.is_some() {
            each_file(&shared.tree, top, &mut |node| shared.pinned.look_at(shared, node))?;
        }
    }
    Ok(())
}

/// Fetches what is pinned until the engine stops.
pub(super) async fn run(shared: Arc<Shared>) {
    shared.until_stopped(keep(&shared)).await;
}

async fn keep(shared: &Arc<Shared>) {
    let mut changes = shared.tree.pin_changes();
    let mut connection = shared.connection.subscribe();
    let mut backoff = Backoff::new(shared.seed.wrapping_add(3));
    let mut running = FuturesUnordered::new();
    let (mut paused, mut was_online): (Option<Instant>, bool) = (None, false);
    loop {
        changes.mark_unchanged();
        connection.mark_unchanged();
        if let Err(error) = look_at_news(shared).await {
            tracing::warn!(error = chain(&error), "what is pinned could not be looked at");
        }
        let is_online = shared.online().is_some();
        if is_online && !was_online {
            shared.pinned.try_again();
            paused = None;
        }
        was_online = is_online;
        paused = paused.filter(|until| *until > Instant::now());
        while is_online && paused.is_none() && running.len() < PIN_FILES_AT_ONCE {
            let Some(node) = shared.pinned.next() else { break };
            running.push(async move { (node, fetch(shared, node).await) });
        }
        tokio::select! {
            biased;
            Some((node, ended)) = running.next(), if !running.is_empty() => {
                match settle(shared, node, ended) {
                    Settled::Done => backoff.reset(),
                    Settled::Again => paused = Some(Instant::now() + backoff.next()),
                }
            }
            _ = changes.changed() => {}
            _ = connection.changed() => {}
            () = tokio::time::sleep_until(paused.unwrap_or_else(Instant::now)), if paused.is_some() => {}
        }
    }
}

async fn look_at_news(shared: &Arc<Shared>) -> Result<(), TreeError> {
    let news = match shared.tree.take_pin_news() {
        _ if shared.pinned.take_beyond() => PinNews::All,
        PinNews::Some(nodes) if nodes.is_empty() => return Ok(()),
        news => news,
    };
    // Who applies records holds this until the small contents that came with them are here.
    drop(shared.base.lock().await);
    blocking(|| look(shared, news))
}

/// Fetches a file piece by piece.
async fn fetch(shared: &Arc<Shared>, node: NodeId) -> Result<(), FetchError> {
    let failed = |error: TreeError| FetchError::Failed { reason: chain(&error) };
    let mut at = 0;
    loop {
        let found = shared.tree.node_by_id(node).map_err(failed)?;
        let size = found.and_then(|found| found.live().map(|record| record.size)).unwrap_or(0);
        let is_wanted = shared.tree.pinned_by(node).map_err(failed)?.is_some();
        if at >= size || !is_wanted || missing_of(shared, node).map_err(failed)?.is_none() {
            return Ok(());
        }
        let end = at.saturating_add(PIN_PIECE_LEN).min(size);
        fetch_again(shared, node, at..end).await?;
        at = end;
    }
}

enum Settled {
    Done,
    Again,
}

/// Notes how fetching a file ended.
fn settle(shared: &Shared, node: NodeId, ended: Result<(), FetchError>) -> Settled {
    let pinned = &shared.pinned;
    let is_wanted = || shared.tree.pinned_by(node).is_ok_and(|by| by.is_some());
    let settled = match ended {
        Ok(()) => {
            let mut state = pinned.state.lock();
            let left = missing_of(shared, node).ok().flatten().filter(|_| is_wanted());
            state.fetching.remove(&node);
            state.stalled = None;
            match left {
                None => Settled::Done,
                Some(bytes) => {
                    // It has changed meanwhile.
                    state.waiting.insert(node, bytes);
                    Settled::Again
                }
            }
        }
        Err(FetchError::Offline | FetchError::TimedOut) => {
            pinned.give_back(node);
            Settled::Again
        }
        Err(error @ FetchError::NoSpace) => {
            pinned.give_back(node);
            let why = error.to_string();
            shared.notice(format!("what is pinned cannot be fetched: {why}"));
            pinned.state.lock().stalled = Some(why);
            Settled::Again
        }
        Err(_) if pinned.has_news_of(node) => {
            pinned.give_back(node);
            Settled::Again
        }
        Err(error) => {
            let why = error.to_string();
            shared.notice(format!(
                "{} is pinned and cannot be fetched: {why}",
                path_of(shared, &RecordKey::Node(node))
            ));
            let mut state = pinned.state.lock();
            let bytes = state.fetching.remove(&node).map_or(0, |fetching| fetching.bytes);
            state.failed.insert(node, (bytes, why));
            Settled::Done
        }
    };
    pinned.news.send_modify(|count| *count += 1);
    settled
}

/// Files that somebody waits for, in the order in which they are fetched.
struct Wanted {
    files: VecDeque<(NodeId, u64)>,
    bytes: u64,
    /// There are more than these.
    is_part: bool,
    failures: u64,
    shown: Vec<String>,
}

impl Wanted {
    fn below(shared: &Shared, top: NodeId) -> Result<Self, TreeError> {
        let mut found = BTreeMap::new();
        let mut is_part = false;
        each_file(&shared.tree, top, &mut |node| {
            if let Some(bytes) = shared.pinned.left_of(shared, node)? {
                if found.len() < PINNED_WAITING_MAX {
                    found.insert(node, bytes);
                } else {
                    is_part = true;
                }
            }
            Ok(())
        })?;
        let bytes = found.values().sum();
        Ok(Self { files: found.into_iter().collect(), bytes, is_part, failures: 0, shown: Vec::new() })
    }

    /// Leaves out those in front that are here or were given up, and tells how far it is.
    fn advance(&mut self, shared: &Shared) -> Result<PinProgress, TreeError> {
        let mut of_first = 0;
        while let Some((node, bytes)) = self.files.front().copied() {
            let missing = shared.pinned.left_of(shared, node)?;
            let failed = shared.pinned.state.lock().failed.get(&node).map(|(_, why)| why.clone());
            match (missing, failed) {
                (Some(left), None) if shared.tree.pinned_by(node)?.is_some() => {
                    of_first = bytes.saturating_sub(left);
                    break;
                }
                (Some(_), Some(why)) => {
                    self.failures += 1;
                    if self.shown.len() < PIN_FAILURES_SHOWN {
                        self.shown.push(format!("{}: {why}", path_of(shared, &RecordKey::Node(node))));
                    }
                }
                (Some(_) | None, _) => {}
            }
            self.bytes -= bytes;
            self.files.pop_front();
        }
        let files = self.files.len() as u64;
        Ok(PinProgress { files, bytes: self.bytes - of_first, is_at_least: self.is_part })
    }
}

/// Pins a file or directory, durably.
pub(super) fn pin(shared: &Shared, node: NodeId) -> Result<(), TreeError> {
    shared.tree.pin(node)?;
    shared.tree.persist()?;
    shared.pinned.try_again();
    // Also where it was pinned before: what was given up is tried again.
    shared.tree.look_at_pins_again();
    Ok(())
}

/// Waits until everything pinned below a node is here; ends early when the receiver of `progress` is dropped.
pub(super) async fn wait(
    shared: &Arc<Shared>,
    top: NodeId,
    progress: mpsc::Sender<PinProgress>,
) -> Result<(), PinError> {
    let mut news = shared.pinned.news.subscribe();
    let mut connection = shared.connection.subscribe();
    let mut wanted = blocking(|| Wanted::below(shared, top))?;
    loop {
        news.mark_unchanged();
        connection.mark_unchanged();
        let left = wanted.advance(shared)?;
        if left.files == 0 && wanted.failures > 0 {
            return Err(PinError::NotFetched { count: wanted.failures, shown: wanted.shown });
        }
        if left.files == 0 {
            if !wanted.is_part {
                return Ok(());
            }
            wanted = blocking(|| Wanted::below(shared, top))?;
            continue;
        }
        if shared.is_offline() {
            return Err(PinError::Offline);
        }
        if let Some(why) = shared.pinned.state.lock().stalled.clone() {
            return Err(PinError::NotFetched { count: left.files, shown: vec![why] });
        }
        // Whoever cannot keep up is told later.
        let _ = progress.try_send(left);
        let tell = tokio::time::sleep(Duration::from_millis(PIN_TELL_MS));
        tokio::select! {
            biased;
            () = progress.closed() => return Ok(()),
            _ = news.changed() => {}
            _ = connection.changed() => {}
            () = tell => {}
        }
    }
}
