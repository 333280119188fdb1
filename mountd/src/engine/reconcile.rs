//! Finds out what differs after a gap, and takes the server's side of it: O(differences · log n), without any log.

use std::sync::Arc;

use dfs_shared::hash::MerkleHash;
use dfs_shared::limits::QUERY_ITEMS_MAX;
use dfs_shared::merkle::Walk;
use dfs_shared::record::RecordKey;
use dfs_shared::revision::Revision;

use super::apply::{Incoming, apply_what_fits};
use super::shared::{EngineError, Shared, blocking};
use crate::limits::WALK_PREFIXES_AT_ONCE;

/// Compares the base with the server's tree, whose root is `root`, and applies what differs. The caller holds
/// `Shared::base`. The server's tree may move on meanwhile: compare again afterwards. A server that went back lacks what was
/// committed after `lost_after`. Returns how many records were news.
pub(super) async fn reconcile(
    shared: &Arc<Shared>,
    root: MerkleHash,
    lost_after: Option<Revision>,
) -> Result<usize, EngineError> {
    if shared.tree.base_root()? == root {
        return Ok(0);
    }
    let differences = differences(shared).await?;
    tracing::info!(records = differences.len(), "reconciling with the server");
    let mut records = Vec::with_capacity(differences.len());
    for keys in differences.chunks(QUERY_ITEMS_MAX) {
        records.extend(shared.remote.records(keys.to_vec()).await?.records);
    }
    apply_what_fits(shared, Incoming::of(records, lost_after))
}

async fn differences(shared: &Arc<Shared>) -> Result<Vec<RecordKey>, EngineError> {
    let mut walk = Walk::new();
    while !walk.is_done() {
        let prefixes = walk.ask(WALK_PREFIXES_AT_ONCE);
        let nodes = shared.remote.merkle(prefixes.clone()).await?.nodes;
        blocking(|| walk.answer(&shared.tree.local_merkle(), &prefixes, nodes))
            .map_err(|error| EngineError::Diverged(super::shared::chain(&error)))?;
    }
    Ok(walk.into_differences())
}
