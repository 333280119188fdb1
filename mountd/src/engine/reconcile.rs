//! Finds out what differs after a gap, and takes the server's side of it: O(differences · log n), without any log.

use std::sync::Arc;

use dfs_shared::hash::MerkleHash;
use dfs_shared::limits::QUERY_ITEMS_MAX;
use dfs_shared::merkle::Walk;
use dfs_shared::record::RecordKey;
use dfs_shared::revision::Revision;

use super::apply::{Incoming, apply, apply_what_fits};
use super::shared::{EngineError, Shared, blocking};
use crate::limits::{APPLY_RECORDS_MAX, WALK_PREFIXES_AT_ONCE};

/// What a walk found.
#[derive(Debug)]
pub(super) struct Walked {
    /// The records in which the two sides differ.
    pub(super) differences: Vec<RecordKey>,
    /// The newest revision that the server told on the way.
    pub(super) revision: Revision,
}

/// Compares the base with the server's tree, whose root is `root`, and applies what differs. The caller holds
/// `Shared::base`. The server's tree may move on meanwhile: compare again afterwards. A server that went back lacks what was
/// committed after `lost_after`. Returns how many records were news.
pub(super) async fn reconcile(
    shared: &Arc<Shared>,
    root: MerkleHash,
    lost_after: Option<Revision>,
) -> Result<usize, EngineError> {
    let base = shared.tree.base_root()?;
    if base == root {
        return Ok(0);
    }
    let differences = walk(shared).await?.differences;
    tracing::info!(records = differences.len(), "reconciling with the server");
    if base == MerkleHash::EMPTY && lost_after.is_none() && differences.len() > APPLY_RECORDS_MAX {
        return take_everything(shared, differences).await;
    }
    take(shared, &differences, lost_after).await
}

/// Applies the server's side of many records where this mount had nothing of it: nodes, then names, a request at a time, so that memory
/// does not grow with the volume. Until its names come a node has none, and is not seen; if they do not come, because the connection
/// breaks or the server went on, they differ at the next comparison. The caller holds `Shared::base`. Returns how many records were news.
async fn take_everything(shared: &Arc<Shared>, differences: Vec<RecordKey>) -> Result<usize, EngineError> {
    let is_node = |key: &RecordKey| matches!(key, RecordKey::Node(_));
    let (nodes, names): (Vec<_>, Vec<_>) = differences.into_iter().partition(is_node);
    let at_once = QUERY_ITEMS_MAX.min(APPLY_RECORDS_MAX);
    let mut news = 0;
    for keys in nodes.chunks(at_once) {
        let records = shared.remote.records(keys.to_vec()).await?.records;
        news += apply(shared, Incoming::of(records, None))?;
    }
    for keys in names.chunks(at_once) {
        let records = shared.remote.records(keys.to_vec()).await?.records;
        news += apply_what_fits(shared, Incoming::of(records, None))?;
    }
    Ok(news)
}

/// Applies the server's side of records. The caller holds `Shared::base`. Returns how many were news.
pub(super) async fn take(
    shared: &Arc<Shared>,
    differences: &[RecordKey],
    lost_after: Option<Revision>,
) -> Result<usize, EngineError> {
    let mut records = Vec::with_capacity(differences.len());
    for keys in differences.chunks(QUERY_ITEMS_MAX) {
        records.extend(shared.remote.records(keys.to_vec()).await?.records);
    }
    apply_what_fits(shared, Incoming::of(records, lost_after))
}

/// Compares the base with the server's tree. The caller holds `Shared::base`.
pub(super) async fn walk(shared: &Arc<Shared>) -> Result<Walked, EngineError> {
    let mut walk = Walk::new();
    let mut revision = Revision::ZERO;
    while !walk.is_done() {
        let prefixes = walk.ask(WALK_PREFIXES_AT_ONCE);
        let reply = shared.remote.merkle(prefixes.clone()).await?;
        revision = revision.max(reply.revision);
        blocking(|| walk.answer(&shared.tree.local_merkle(), &prefixes, reply.nodes))
            .map_err(|error| EngineError::Diverged(super::shared::chain(&error)))?;
    }
    Ok(Walked { differences: walk.into_differences(), revision })
}
