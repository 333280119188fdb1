//! What the server has becomes part of the tree, and those who cache it hear of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::{Committed, CurrentRecord, SmallChunk};

use super::hash::hash_node;
use super::shared::{EngineError, Shared, blocking, chain};
use crate::limits::APPLY_RECORDS_MAX;
use crate::tree::TreeError;
use crate::tree::apply::{Applied, ApplyOptions};
use crate::tree::content::Present;

/// Records to be applied, with the contents that were pushed along.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    records: BTreeMap<RecordKey, CurrentRecord>,
    small: HashMap<ChunkHash, Vec<u8>>,
    manifests: HashMap<ContentId, Manifest>,
    lost_after: Option<Revision>,
    /// When events removed those records that they did.
    removed_at: BTreeMap<RecordKey, Revision>,
}

impl Incoming {
    /// Takes records as they are; of one record the last state counts. A server that went back lacks what was committed
    /// after `lost_after`.
    pub(super) fn of(records: Vec<CurrentRecord>, lost_after: Option<Revision>) -> Self {
        let records = records.into_iter().map(|record| (record.key.clone(), record)).collect();
        Self { records, lost_after, ..Self::default() }
    }

    /// Adds an event; of one record the last state counts.
    pub(super) fn add(&mut self, event: Committed) {
        for record in event.records {
            if record.value.is_none() {
                self.removed_at.insert(record.key.clone(), event.revision);
            }
            self.records.insert(record.key.clone(), record);
        }
        self.manifests.extend(event.manifests.into_iter().map(|manifest| (manifest.id(), manifest)));
        for SmallChunk { hash, bytes } in event.small_chunks {
            if ChunkHash::of(&bytes) == hash {
                self.small.insert(hash, bytes);
            } else {
                tracing::warn!(chunk = %hash, "the server pushed wrong bytes for a chunk; they are ignored");
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the files that the records give a content, with it.
    fn contents(&self) -> Vec<(NodeId, ContentId)> {
        let nodes = self.records.values().filter_map(|current| match &current.value.as_ref()?.record {
            Record::Node(node) => Some((node.id, node.content?)),
            Record::Entry(_) => None,
        });
        nodes.collect()
    }
}

/// Applies records; the caller holds `Shared::base`. Blocks, for the time of hashing files where a conflict asks for it.
/// Returns how many were news.
pub(super) fn apply(shared: &Arc<Shared>, incoming: Incoming) -> Result<usize, EngineError> {
    if incoming.is_empty() {
        return Ok(0);
    }
    blocking(|| apply_blocking(shared, incoming))
}

/// As [`apply`], while the base may lack some of what the records build on, or be newer than they are.
pub(super) fn apply_what_fits(shared: &Arc<Shared>, mut incoming: Incoming) -> Result<usize, EngineError> {
    blocking(|| {
        // Revisions of a server that went back do not tell what is older.
        if incoming.lost_after.is_none() {
            shared.tree.leave_out_older(&mut incoming.records, &incoming.removed_at)?;
        }
        shared.tree.leave_out_misfits(&mut incoming.records)
    })?;
    apply(shared, incoming)
}

fn apply_blocking(shared: &Arc<Shared>, mut incoming: Incoming) -> Result<usize, EngineError> {
    let contents = incoming.contents();
    let (pushed, others): (Vec<_>, Vec<_>) = contents.into_iter().partition(|(_, content)| {
        let manifest = incoming.manifests.get(content);
        manifest.is_some_and(|manifest| is_small(manifest, &incoming.small))
    });
    let fresh = whole_files(shared, &others)?;
    // Before anybody can hear of the contents: a reader shall find the manifest.
    incoming.manifests.values().for_each(|manifest| shared.manifests.put(manifest.clone()));
    let mut news = 0;
    for batch in batches(std::mem::take(&mut incoming.records)) {
        news += apply_batch(shared, &batch, incoming.lost_after)?;
    }
    // Only now: those who cache the tree have let go of the versions before.
    if let Err(error) = store_small(shared, &incoming, &pushed) {
        tracing::warn!(error = chain(&error), "pushed contents will be fetched when they are read");
    }
    for node in fresh {
        super::download::prefetch(shared, node);
    }
    if news > 0 {
        // What was refused may fit now.
        shared.refused.lock().retain(|_, refused| refused.invalid);
    }
    shared.wake.wake();
    Ok(news)
}

/// Cuts many records into batches that may follow each other: nodes, then names, then removed nodes.
fn batches(records: BTreeMap<RecordKey, CurrentRecord>) -> Vec<Vec<CurrentRecord>> {
    if records.len() <= APPLY_RECORDS_MAX {
        return vec![records.into_values().collect()];
    }
    let mut all: Vec<CurrentRecord> = records.into_values().collect();
    all.sort_by_key(|record| match (&record.key, &record.value) {
        (RecordKey::Node(_), Some(_)) => 0,
        (RecordKey::Entry { .. }, _) => 1,
        (RecordKey::Node(_), None) => 2,
    });
    all.chunks(APPLY_RECORDS_MAX).map(<[CurrentRecord]>::to_vec).collect()
}

/// Applies one batch and tells those who cache the tree.
fn apply_batch(
    shared: &Arc<Shared>,
    records: &[CurrentRecord],
    lost_after: Option<Revision>,
) -> Result<usize, EngineError> {
    let files: Vec<NodeId> = records
        .iter()
        .filter_map(|current| match current.key {
            RecordKey::Node(node) => Some(node),
            RecordKey::Entry { .. } => None,
        })
        .collect();
    for attempt in 0..3 {
        let applied = shared.change_files(&files, || {
            let options = ApplyOptions { at: shared.clock.now(), force_conflicts: attempt > 1, lost_after };
            let Applied { effects, conflicts, news } = shared.tree.apply(records, options)?;
            Ok(((conflicts, news), effects))
        });
        match applied {
            Ok((conflicts, news)) => {
                shared.note_conflicts(conflicts);
                return Ok(news);
            }
            Err(TreeError::HashFirst { nodes }) => {
                for node in nodes {
                    if let Err(error) = hash_node(shared, node, u64::MAX) {
                        tracing::warn!(%node, error = chain(&error), "a changed file cannot be read to compare it");
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Diverged("changed files could not be compared with the server's".to_owned()))
}

fn is_small(manifest: &Manifest, small: &HashMap<ChunkHash, Vec<u8>>) -> bool {
    matches!(&manifest.chunks[..], [chunk] if small.contains_key(&chunk.hash))
}

/// Puts small contents that were pushed into the cache, so that reading them costs no request.
fn store_small(
    shared: &Shared,
    incoming: &Incoming,
    pushed: &[(NodeId, ContentId)],
) -> Result<(), EngineError> {
    for (node, content) in pushed {
        let Some(manifest) = incoming.manifests.get(content) else { continue };
        let Some(chunk) = manifest.chunks.first() else { continue };
        let Some(bytes) = incoming.small.get(&chunk.hash) else { continue };
        if shared.cache.put_small(*node, manifest, bytes)? {
            continue;
        }
        match shared.cache.begin_fill(*node, manifest).and_then(|filler| filler.write(0, bytes)) {
            // The file has changed again, here or there.
            Ok(()) | Err(crate::cache::CacheError::Changed | crate::cache::CacheError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns those files of which an older version is wholly here: the new one shall be here too.
fn whole_files(shared: &Shared, contents: &[(NodeId, ContentId)]) -> Result<Vec<NodeId>, EngineError> {
    let mut whole = Vec::new();
    for (node, content) in contents {
        let row = shared.tree.content_state(*node)?;
        if row.is_some_and(|row| row.present == Present::All && row.content != Some(*content)) {
            whole.push(*node);
        }
    }
    Ok(whole)
}
