//! Deals with the server's answer to a commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::ids::NodeId;
use dfs_shared::lineage::State;
use dfs_shared::record::{Change, ChangeGroup, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::{CommitReply, GroupOutcome, Refusal};

use super::request::InFlight;
use super::shared::{EngineError, Refused, Shared};
use crate::limits::REFUSALS_MAX;

/// Takes over what was accepted. Returns what has to happen first if some of it was refused.
pub(super) async fn settle(
    shared: &Arc<Shared>,
    flight: InFlight,
    reply: CommitReply,
) -> Result<Option<Setback>, EngineError> {
    let CommitReply { outcomes, revision, root } = reply;
    let mut accepted: Vec<Change> = Vec::new();
    let mut refusals = Vec::new();
    let mut open: BTreeSet<u64> = flight.notes.held.clone();
    for ((group, seqs), outcome) in flight.request.groups.into_iter().zip(&flight.notes.seqs).zip(outcomes) {
        match outcome {
            GroupOutcome::Accepted => accepted.extend(group.changes),
            GroupOutcome::Refused { reason, current: _ } => {
                open.extend(seqs);
                refusals.push(Found { group, seqs: seqs.clone(), reason });
            }
        }
    }
    let all: BTreeSet<u64> = flight.notes.seqs.iter().flatten().copied().collect();
    let done: Vec<u64> = all.difference(&open).copied().collect();
    let mut base = shared.base.lock().await;
    // First: the base never has what a server that went back could not be asked about.
    super::lineage::note(shared, State { revision, root })?;
    super::shared::blocking(|| acknowledge(shared, &accepted, &done, revision))?;
    if !accepted.is_empty() {
        *base = (*base).max(revision);
    }
    shared.tree.store_in_flight(None)?;
    shared.settled.send_replace(flight.notes.commit);
    shared.note_progress();
    drop(base);
    Ok(note_refusals(shared, refusals, revision))
}

/// Tells the tree, and whoever caches it where that changes files; blocks.
fn acknowledge(
    shared: &Shared,
    accepted: &[Change],
    done: &[u64],
    revision: Revision,
) -> Result<(), EngineError> {
    if !shared.tree.has_given_up()? {
        shared.tree.acknowledge(accepted, done, revision)?;
        return Ok(());
    }
    let nodes = accepted.iter().filter_map(|change| match change.key {
        RecordKey::Node(node) => Some(node),
        RecordKey::Entry { .. } => None,
    });
    let nodes: Vec<NodeId> = nodes.collect();
    let acknowledge = || Ok(((), shared.tree.acknowledge(accepted, done, revision)?));
    shared.change_files(&nodes, acknowledge)
}

/// What has to happen before refused changes are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setback {
    /// The events up to this revision have to be applied: they carry what the changes met with.
    pub(super) after: Revision,
    /// This time has to pass.
    pub(super) pause: Duration,
}

/// A group that was refused.
struct Found {
    group: ChangeGroup,
    seqs: Vec<u64>,
    reason: Refusal,
}

/// The records that a refusal shows are not applied: they may lead to others that are not known here yet. The
/// events bring them all, in order.
fn note_refusals(shared: &Arc<Shared>, refusals: Vec<Found>, revision: Revision) -> Option<Setback> {
    let mut count = 0;
    for found in &refusals {
        tracing::debug!(reason = ?found.reason, "a change was refused");
        match &found.reason {
            Refusal::ChunksMissing { .. } | Refusal::ContentMissing { .. } => {
                for node in contents_of(&found.group) {
                    super::upload::ensure(shared, node);
                }
            }
            Refusal::OverQuota { growth, .. } => shared.quota.refused(&found.group, *growth),
            Refusal::Invalid { key, why } => {
                note(shared, found, &format!("{key:?}: {why}"), true);
            }
            reason => {
                count = count.max(note(shared, found, &format!("the server refuses it: {reason:?}"), false));
            }
        }
    }
    let pause = Duration::from_millis(if count > 1 { 50 << count.min(REFUSALS_MAX) } else { 0 });
    (!refusals.is_empty()).then_some(Setback { after: revision, pause })
}

fn contents_of(group: &ChangeGroup) -> Vec<NodeId> {
    let nodes = group.changes.iter().filter_map(|change| match &change.value {
        Some(Record::Node(node)) if node.content.is_some() => Some(node.id),
        _ => None,
    });
    nodes.collect()
}

/// Counts a refusal and returns how many there were in a row; after too many, or at once if it is `invalid`, the change is left alone until the next connection.
fn note(shared: &Shared, found: &Found, why: &str, invalid: bool) -> u32 {
    let Some(first) = found.seqs.first() else { return 0 };
    let mut refused: parking_lot::MutexGuard<'_, BTreeMap<u64, Refused>> = shared.refused.lock();
    let entry = refused.entry(*first).or_insert_with(|| Refused {
        seqs: BTreeSet::new(),
        keys: BTreeSet::new(),
        count: 0,
        why: String::new(),
        stuck: false,
        invalid,
    });
    entry.count += 1;
    entry.seqs.extend(&found.seqs);
    entry.keys.extend(found.group.changes.iter().map(|change| change.key.clone()));
    why.clone_into(&mut entry.why);
    if (invalid || entry.count >= REFUSALS_MAX) && !entry.stuck {
        entry.stuck = true;
        tracing::error!(%why, "a change stays here: the server does not take it");
    }
    entry.count
}
