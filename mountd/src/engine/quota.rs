//! The volume's quota: which changes wait for room, and when they are sent after all.
//!
//! ```text
//!                       fits: sent ──accepted──► done
//! a change that grows ──┤        └──refused, others were quicker──► looked at again once their events are applied
//!                       └ does not fit: waits ──an event frees room, the quota is raised──► looked at again
//! ```
//!
//! The tree knows how many bytes the server's files have (`Sizes::base`): the sum over the records that both sides agreed on. The
//! server pushes the limit. So what fits is known here, nothing is asked for again and again, and no bytes are uploaded for a
//! change that has no room. Invariant: whatever does not grow the files is never held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::ids::NodeId;
use dfs_shared::record::{ChangeGroup, Record};
use tokio::time::Instant;

use super::pending::Window;
use super::plan::without_room;
use super::shared::{EngineError, Shared};
use crate::limits::QUOTA_RETRY_MS_MAX;
use crate::tree::Quota;

/// Changes that wait for room.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    state: parking_lot::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that wait, with the bytes that their changes need.
    files: BTreeMap<NodeId, u64>,
    /// Files that the server refused though they seemed to fit: how often in a row, and when to try again.
    refused: BTreeMap<NodeId, (u32, Instant)>,
}

/// What has to wait.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) files: BTreeSet<NodeId>,
    /// When to look again without being woken.
    pub(super) again_in: Option<Duration>,
}

impl Waiting {
    pub(super) fn clear(&self) {
        *self.state.lock() = State::default();
    }

    /// Tells whether it matters by how much files grow.
    pub(super) fn is_asked_for(&self, shared: &Shared) -> bool {
        shared.tree.quota().limit.is_some() || !self.state.lock().refused.is_empty()
    }

    /// Returns the files that wait, with the bytes that their changes need.
    pub(super) fn files(&self) -> BTreeMap<NodeId, u64> {
        self.state.lock().files.clone()
    }

    /// Returns why a file waits, if it does.
    pub(super) fn explain(&self, shared: &Shared, node: NodeId) -> Option<String> {
        let needs = *self.state.lock().files.get(&node)?;
        Some(reason(shared, needs))
    }

    /// The server refused a group: its files are looked at again when the events up to then are applied, and if they seem to
    /// fit even then, after growing pauses: the server's quota is on its way to here.
    pub(super) fn refused(&self, group: &ChangeGroup, growth: u64) {
        let mut state = self.state.lock();
        let files = group.changes.iter().filter_map(|change| match &change.value {
            Some(Record::Node(node)) if node.quota_len() > 0 => Some(node.id),
            Some(Record::Node(_) | Record::Entry(_)) | None => None,
        });
        for file in files {
            state.files.insert(file, growth);
            let (count, at) = state.refused.entry(file).or_insert((0, Instant::now()));
            let pause_ms = if *count == 0 { 0 } else { (25_u64 << (*count).min(16)).min(QUOTA_RETRY_MS_MAX) };
            *at = Instant::now() + Duration::from_millis(pause_ms);
            *count += 1;
        }
    }
}

/// Says in words why a change waits.
pub(super) fn reason(shared: &Shared, needs: u64) -> String {
    let used = shared.tree.sizes().base;
    match shared.tree.quota().limit {
        Some(limit) => format!(
            "the volume's quota of {limit} bytes is reached: {used} are used on the server, this needs {needs} more; it \
             goes on by itself when there is room"
        ),
        None => format!("the server has no room for {needs} bytes more: the volume's quota is reached"),
    }
}

/// Finds out which of the window's changes wait for room.
pub(super) fn hold(shared: &Arc<Shared>, window: &Window) -> Held {
    let mut held = Held::default();
    let mut over = match shared.tree.quota().limit {
        Some(limit) if window.growth.values().any(|growth| *growth > 0) => {
            let room = limit.saturating_sub(shared.tree.sizes().base);
            let (none, nothing) = (BTreeSet::new(), BTreeSet::new());
            without_room(&window.input(&none, &nothing), &window.growth, room)
        }
        Some(_) | None => BTreeMap::new(),
    };
    let mut state = shared.quota.state.lock();
    let now = Instant::now();
    state.refused.retain(|node, _| window.growth.get(node).is_some_and(|growth| *growth > 0));
    for (node, (_, at)) in state.refused.iter().filter(|(_, (_, at))| *at > now) {
        let needs = state.files.get(node).copied().unwrap_or(0);
        over.entry(*node).or_insert(needs);
        let pause = *at - now;
        held.again_in = Some(held.again_in.map_or(pause, |other| other.min(pause)));
    }
    if over.len() > state.files.len() {
        tracing::warn!(files = over.len(), "the volume's quota is reached: changes wait here for room");
    }
    held.files = over.keys().copied().collect();
    state.files = over;
    held
}

/// Takes over the quota that the server tells.
pub(super) fn told(shared: &Shared, limit: Option<u64>) -> Result<(), EngineError> {
    if shared.tree.set_quota(Quota { limit })? {
        tracing::info!(?limit, "the volume has another quota");
        shared.wake.wake();
    }
    Ok(())
}
