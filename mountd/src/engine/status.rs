//! How the mount stands to its server, for `dfs status`.

use std::sync::atomic::Ordering;

use dfs_shared::record::{Record, RecordKey};
use serde::{Deserialize, Serialize};

use super::identity;
use super::shared::{Connection, Shared};
use crate::limits::{PENDING_SHOWN_MAX, PLAN_GROUPS_MAX};
use crate::tree::journal::KeyState;
use crate::tree::{SyncState, TreeError};

/// How the mount stands to its server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `online`, `reconciling`, `offline`, `stopped`, or `refused: token` while the server does not accept the token.
    pub state: String,
    /// Why it is offline or stopped; empty otherwise.
    pub reason: String,
    /// Since when it is offline, in milliseconds since 1970.
    pub offline_since_ms: Option<i64>,
    /// The server that is talked to.
    pub server: String,
    /// The id that the server knows this mount by.
    pub client: Option<String>,
    /// The volume's id.
    pub volume_id: Option<String>,
    /// The newest revision that is applied here.
    pub revision: u64,
    /// Merkle root of what the server is known to have.
    pub merkle_root: String,
    /// Changed records that the server does not have.
    pub pending: u64,
    /// Tells that there are more than were counted.
    pub pending_is_at_least: bool,
    /// Bytes of changed files that the server does not have.
    pub pending_bytes: u64,
    /// Age of the oldest change that the server does not have, in milliseconds.
    pub oldest_pending_ms: Option<i64>,
    /// What is pending, the oldest first, as many as `PENDING_SHOWN_MAX`.
    pub pending_paths: Vec<String>,
    /// Files that are being uploaded, with what is done and what is to do in bytes.
    pub uploads: Vec<UploadStatus>,
    /// Bytes uploaded outside commits since the start.
    pub uploaded_bytes: u64,
    /// Bytes downloaded since the start.
    pub downloaded_bytes: u64,
    /// Most bytes of content uploaded in a second, if there is a limit.
    pub limit_up: Option<u64>,
    /// Most bytes of content downloaded in a second, if there is a limit.
    pub limit_down: Option<u64>,
    /// Conflicts since the start that left two versions side by side.
    pub conflicts: u64,
    /// Conflicts that nobody has decided; `dfs conflicts list` lists them.
    pub open_conflicts: u64,
    /// Changes that the server does not take, with the reason.
    pub stuck: Vec<StuckStatus>,
    /// Most bytes that the server lets the volume's files have together, if there is a quota.
    pub quota: Option<u64>,
    /// Bytes that they have on the server.
    pub used: u64,
    /// Changes that wait because the quota leaves no room for them, as many as `PENDING_SHOWN_MAX`.
    pub no_room: Vec<StuckStatus>,
    /// What happened since the start that people should know of, the newest last.
    pub notices: Vec<String>,
    /// Bytes that backing files take on the disk.
    pub cache_bytes: u64,
    /// Files and directories that are pinned themselves.
    pub pins: u64,
    /// Bytes of pinned files that are not here yet.
    pub pinned_missing_bytes: u64,
}

/// An upload that is going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadStatus {
    /// The file.
    pub path: String,
    /// What it is doing or waiting for.
    pub state: String,
    /// Bytes uploaded.
    pub done: u64,
    /// Bytes that had to be uploaded.
    pub total: u64,
}

/// A change that the server does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckStatus {
    /// The file or directory.
    pub path: String,
    /// Why.
    pub reason: String,
}

pub(super) fn snapshot(shared: &Shared) -> Result<Status, TreeError> {
    let membership = shared.tree.membership()?;
    let (state, reason, offline_since_ms) = match &*shared.connection.borrow() {
        Connection::Offline { since, why } => ("offline", why.clone(), Some(since.as_millis())),
        Connection::Reconciling => ("reconciling", String::new(), None),
        Connection::Online { .. } => ("online", String::new(), None),
        Connection::Stopped { why } => ("stopped", why.clone(), None),
    };
    let (state, reason) = match shared.token_refused.lock().clone() {
        Some(why) if state != "stopped" => ("refused: token", why),
        None if state == "online" => (state, shared.server_full().unwrap_or_default()),
        Some(_) | None => (state, reason),
    };
    let pending = count_pending(shared)?;
    Ok(Status {
        state: state.to_owned(),
        reason,
        offline_since_ms,
        server: shared.remote.name(),
        client: membership.client.map(|client| client.to_string()),
        volume_id: membership.volume.map(|volume| volume.to_string()),
        revision: membership.revision.0,
        merkle_root: shared.tree.base_root()?.to_string(),
        pending: pending.records,
        pending_is_at_least: pending.more,
        pending_bytes: pending.bytes,
        oldest_pending_ms: pending.oldest_ms,
        pending_paths: pending.first.iter().map(|key| path_of(shared, key)).collect(),
        uploads: uploads(shared),
        uploaded_bytes: shared.uploads.bytes(),
        downloaded_bytes: shared.downloads.bytes(),
        limit_up: shared.remote.rates().up,
        limit_down: shared.remote.rates().down,
        conflicts: shared.conflict_count.load(Ordering::Relaxed),
        open_conflicts: shared.tree.conflicts()?.len() as u64,
        stuck: stuck(shared),
        quota: shared.tree.quota().limit,
        used: shared.tree.sizes().base,
        no_room: no_room(shared),
        notices: shared.notices.lock().iter().cloned().chain(identity::clock_notice(shared)).collect(),
        cache_bytes: shared.cache.bytes_used(),
        pins: shared.tree.pins()?.len() as u64,
        pinned_missing_bytes: shared.pinned.missing_bytes(),
    })
}

#[derive(Default)]
struct PendingCount {
    records: u64,
    bytes: u64,
    oldest_ms: Option<i64>,
    more: bool,
    first: Vec<RecordKey>,
}

fn count_pending(shared: &Shared) -> Result<PendingCount, TreeError> {
    let groups = shared.tree.pending(0, PLAN_GROUPS_MAX)?;
    let mut count = PendingCount { more: groups.len() == PLAN_GROUPS_MAX, ..PendingCount::default() };
    let mut seen = std::collections::HashSet::new();
    let now = shared.clock.now().as_millis();
    for group in &groups {
        for key in &group.keys {
            if !seen.insert(key) {
                continue;
            }
            let KeyState::Dirty { value, dirty_content, base } = shared.tree.key_state(key)? else {
                continue;
            };
            if base.is_none() && value.is_none() {
                continue;
            }
            count.records += 1;
            if count.first.len() < PENDING_SHOWN_MAX {
                count.first.push(key.clone());
            }
            let age = (now - group.at.as_millis()).max(0);
            count.oldest_ms = Some(count.oldest_ms.map_or(age, |oldest| oldest.max(age)));
            if let Some(Record::Node(record)) = &value {
                let same_content = dirty_content.is_none()
                    && shared.tree.node_by_id(record.id)?.is_some_and(|node| {
                        matches!(&node.sync, SyncState::Changed { base, .. } if base.content == record.content)
                    });
                count.bytes += if same_content { 0 } else { record.size };
            }
        }
    }
    Ok(count)
}

pub(super) fn path_of(shared: &Shared, key: &RecordKey) -> String {
    let path = match key {
        RecordKey::Node(node) => shared.tree.path_of(*node),
        RecordKey::Entry { parent, name } => shared.tree.path_of_name(*parent, name),
    };
    match path {
        Ok(Some(path)) => String::from_utf8_lossy(&path).into_owned(),
        Ok(None) | Err(_) => format!("{key:?}"),
    }
}

fn uploads(shared: &Shared) -> Vec<UploadStatus> {
    let progress = shared.uploads.progress();
    let status = progress.into_iter().map(|(node, progress)| UploadStatus {
        path: path_of(shared, &RecordKey::Node(node)),
        state: progress.state,
        done: progress.done,
        total: progress.total,
    });
    status.collect()
}

fn stuck(shared: &Shared) -> Vec<StuckStatus> {
    let refused = shared.refused.lock().clone();
    let stuck = refused.into_values().filter(|refused| refused.stuck);
    let status = stuck.flat_map(|refused| {
        let first = refused.keys.into_iter().next();
        first.map(|key| StuckStatus { path: path_of(shared, &key), reason: refused.why })
    });
    status.collect()
}

fn no_room(shared: &Shared) -> Vec<StuckStatus> {
    let waiting = shared.quota.files().into_iter().take(PENDING_SHOWN_MAX);
    let status = waiting.map(|(node, needs)| StuckStatus {
        path: path_of(shared, &RecordKey::Node(node)),
        reason: super::quota::reason(shared, needs),
    });
    status.collect()
}
