//! Has the server keep a version that was written before the one that it has, where the last write wins, and removes its copy.
//!
//! ```text
//! copy, held back ─► its content gets its name ─► `past` (uploads what the server lacks) ─► one batch: the copy goes
//!                          │ written on since, the file is gone, or a server that cannot ─► both are kept
//! ```
//!
//! Invariant: the copy goes only after the server has answered that it keeps just this content. A crash before that batch asks
//! once more, and the server keeps a version once.

use std::sync::Arc;

use dfs_shared::ids::NodeId;
use dfs_shared::limits::SMALL_CONTENT_LEN_MAX;
use dfs_shared::record::NodeRecord;
use dfs_shared::wire::messages::{CommitReply, GroupOutcome, Refusal};

use super::conflict::Step;
use super::hash::{Hashed, hash_node};
use super::request::past_message;
use super::shared::{EngineError, Shared, blocking};
use super::upload::{self, Reason};
use crate::tree::Undecided;

/// Files the copy of a conflict in the history of its original.
pub(super) async fn file(shared: &Arc<Shared>, undecided: &Undecided) -> Result<Step, EngineError> {
    let Undecided { copy, original, .. } = *undecided;
    if shared.open_files().is_some_and(|open| open.is_being_written(copy)) {
        return Ok(Step::Again);
    }
    let Some(version) = named(shared, copy).await? else { return Ok(Step::Again) };
    let theirs = shared.tree.node_by_id(original)?;
    let Some(theirs) = theirs.as_ref().and_then(|node| node.live()) else {
        return Ok(Step::KeepBoth("the other version is gone"));
    };
    if version.mtime > theirs.mtime {
        return Ok(Step::KeepBoth("the earlier version was written on"));
    }
    let Some(client) = shared.online() else { return Err(EngineError::Lost) };
    let message = blocking(|| past_message(shared, client, original, &version))?;
    match shared.remote.past(message).await {
        Ok(reply) => settle(shared, undecided, &version, reply).await,
        Err(error) if !error.is_retryable() && error.token_refused().is_none() => {
            tracing::warn!(%error, "the server keeps no version beside the one that it has");
            Ok(Step::KeepBoth("the server does not keep the earlier version"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the copy's record once its bytes have a name; `None` if they do not stand still or it is gone.
async fn named(shared: &Arc<Shared>, copy: NodeId) -> Result<Option<NodeRecord>, EngineError> {
    let Some(node) = shared.tree.node_by_id(copy)? else { return Ok(None) };
    let Some(record) = node.live() else { return Ok(None) };
    if node.dirty_content.is_none() {
        return Ok(Some(record.clone()));
    }
    let is_done = record.size <= SMALL_CONTENT_LEN_MAX
        && matches!(blocking(|| hash_node(shared, copy, SMALL_CONTENT_LEN_MAX))?, Hashed::Done);
    if !is_done && !upload::now(shared, copy, Reason::Changed).await? {
        return Ok(None);
    }
    let node = shared.tree.node_by_id(copy)?.filter(|node| node.dirty_content.is_none());
    Ok(node.and_then(|node| node.live().cloned()))
}

async fn settle(
    shared: &Arc<Shared>,
    undecided: &Undecided,
    version: &NodeRecord,
    reply: CommitReply,
) -> Result<Step, EngineError> {
    let Undecided { copy, original, .. } = *undecided;
    let reason = match reply.outcomes.into_iter().next() {
        Some(GroupOutcome::Accepted) => {
            let is_dropped = blocking(|| drop_copy(shared, copy, version))?;
            if is_dropped {
                let name = shared.tree.path_of(original)?.unwrap_or_default();
                let path = String::from_utf8_lossy(&name).into_owned();
                shared.notice(format!(
                    "{path}: another mount wrote it later; the version of this mount is in its history"
                ));
            }
            return Ok(if is_dropped { Step::Done } else { Step::Again });
        }
        Some(GroupOutcome::Refused { reason, .. }) => reason,
        None => return Ok(Step::KeepBoth("the server did not say what became of it")),
    };
    match reason {
        Refusal::ChunksMissing { .. } | Refusal::ContentMissing { .. } => {
            upload::now(shared, copy, Reason::Lacking).await?;
            Ok(Step::Again)
        }
        Refusal::TargetMissing { .. } => Ok(Step::KeepBoth("the file is gone on the server")),
        reason => {
            tracing::warn!(?reason, "the server does not keep a version");
            Ok(Step::KeepBoth("the server does not keep the earlier version"))
        }
    }
}

/// Removes the copy if it still is what the server keeps.
fn drop_copy(shared: &Shared, copy: NodeId, version: &NodeRecord) -> Result<bool, EngineError> {
    shared.change_files(&[copy], || {
        let dropped = shared.tree.drop_filed(copy, version.content, shared.clock.now())?;
        Ok((dropped.is_some(), dropped.unwrap_or_default()))
    })
}
