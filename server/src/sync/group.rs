//! The commit rules: one change group against the tree, inside the write transaction.
//!
//! A group is checked against its base revisions, applied, and then the tree around it is checked:
//!
//! 1. every entry's directory exists and is a directory;
//! 2. every entry leads to a node that exists;
//! 3. a directory has exactly one entry (the root none), any other node at least one, a removed node none;
//! 4. no directory is inside itself;
//! 5. a removed directory has no entries;
//! 6. every new content is known, has the record's size, and all its chunks are here.
//!
//! Before that: a group that makes the volume's files longer keeps them within its quota. What shrinks them or leaves their
//! length always may, also over the quota.
//!
//! Invariant: a refused group leaves no trace, and after an accepted one the whole tree keeps rules 1
//! to 5, because only records that the group touched can break them.

use std::collections::{BTreeSet, HashMap, HashSet};

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::limits::{COMMIT_CHANGES_MAX, QUERY_ITEMS_MAX, REFUSED_RECORDS_MAX};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::{CurrentRecord, GroupOutcome, Refusal};

use super::request::{CheckedGroup, CheckedRequest};
use crate::limits::REFUSAL_RECORDS_MAX;
use crate::metadata::upkeep::Kind;
use crate::metadata::{MetadataError, VolumeKey, WriteMetadata};

// The group's own records, entries with what they lead to, and the node itself: what a mount reads.
const _: () = assert!(COMMIT_CHANGES_MAX + 2 * REFUSAL_RECORDS_MAX < REFUSED_RECORDS_MAX);

/// One request's view of the tree while its groups are applied.
pub(super) struct Groups<'a> {
    pub(super) tx: &'a mut dyn WriteMetadata,
    pub(super) volume: VolumeKey,
    /// The revision that accepted records get.
    pub(super) revision: Revision,
    pub(super) request: &'a CheckedRequest,
    /// Records that accepted groups have changed, with what they were before the request.
    pub(super) replaced: HashMap<RecordKey, Option<Versioned>>,
    /// The manifests of contents that accepted groups introduced.
    pub(super) introduced: HashMap<ContentId, Manifest>,
    /// Bytes of the volume's files with what accepted groups made of them, modulo 2^64.
    pub(super) used: u64,
    /// Most bytes that they may grow to.
    pub(super) quota: Option<u64>,
}

/// A broken rule: what to answer, and the records that it is about.
struct Broken {
    reason: Refusal,
    about: Vec<RecordKey>,
}

impl From<Refusal> for Broken {
    fn from(reason: Refusal) -> Self {
        Self { reason, about: Vec::new() }
    }
}

/// The outer error is the store's, the inner one refuses the group.
type Check<T = ()> = Result<Result<T, Broken>, MetadataError>;

/// Returns from a check that found a broken rule.
macro_rules! rule {
    ($check:expr) => {
        match $check {
            Ok(value) => value,
            Err(broken) => return Ok(Err(broken.into())),
        }
    };
}

/// What a group did to one record.
struct Done {
    key: RecordKey,
    old: Option<Versioned>,
    new: Option<Record>,
}

impl Groups<'_> {
    /// Applies a group, or refuses it and leaves everything as it was.
    pub(super) fn apply(&mut self, checked: &CheckedGroup) -> Result<GroupOutcome, MetadataError> {
        if let Some((key, why)) = &checked.flaw {
            let broken = Refusal::Invalid { key: key.clone(), why: why.clone() }.into();
            return self.refuse(&checked.group, broken);
        }
        let done = match self.check_bases(&checked.group)? {
            Ok(done) => done,
            Err(broken) => return self.refuse(&checked.group, broken),
        };
        let used = match self.check_quota(&done) {
            Ok(used) => used,
            Err(broken) => return self.refuse(&checked.group, broken),
        };
        for Done { key, new, .. } in &done {
            self.write(key, self.revision, new.as_ref())?;
        }
        match self.check_tree(&done)? {
            Ok(contents) => {
                self.keep_contents(contents)?;
                self.used = used;
                self.replaced.extend(done.into_iter().map(|done| (done.key, done.old)));
                Ok(GroupOutcome::Accepted)
            }
            Err(broken) => {
                for Done { key, old, .. } in &done {
                    let revision = old.as_ref().map_or(Revision::ZERO, |old| old.revision);
                    self.write(key, revision, old.as_ref().map(|old| &old.record))?;
                }
                self.refuse(&checked.group, broken)
            }
        }
    }

    /// Checks that a version fits a file that is there and that its content is here, and keeps the content, or refuses it. Changes
    /// no record.
    pub(super) fn keep_contents_of(&mut self, checked: &CheckedGroup) -> Result<GroupOutcome, MetadataError> {
        if let Some((key, why)) = &checked.flaw {
            let broken = Refusal::Invalid { key: key.clone(), why: why.clone() }.into();
            return self.refuse(&checked.group, broken);
        }
        let mut done = Vec::with_capacity(checked.group.changes.len());
        for change in &checked.group.changes {
            let old = self.tx.record(self.volume, &change.key)?;
            if as_node(old.as_ref().map(|old| &old.record)).is_none_or(|node| node.kind != NodeKind::File) {
                let broken = Refusal::TargetMissing { key: change.key.clone() }.into();
                return self.refuse(&checked.group, broken);
            }
            done.push(Done { key: change.key.clone(), old: None, new: change.value.clone() });
        }
        match self.check_contents(&done)? {
            Ok(contents) => {
                self.keep_contents(contents)?;
                Ok(GroupOutcome::Accepted)
            }
            Err(broken) => self.refuse(&checked.group, broken),
        }
    }

    fn write(
        &mut self,
        key: &RecordKey,
        revision: Revision,
        value: Option<&Record>,
    ) -> Result<(), MetadataError> {
        match value {
            Some(record) => self.tx.put_record(self.volume, revision, record),
            None => self.tx.remove_record(self.volume, key),
        }
    }

    fn refuse(&mut self, group: &ChangeGroup, broken: Broken) -> Result<GroupOutcome, MetadataError> {
        let mut keys: Vec<_> = group.changes.iter().map(|change| change.key.clone()).collect();
        keys.extend(broken.about);
        let mut seen = HashSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        let current = keys.into_iter().map(|key| {
            let value = self.tx.record(self.volume, &key)?;
            Ok(CurrentRecord { key, value })
        });
        Ok(GroupOutcome::Refused {
            reason: broken.reason,
            current: current.collect::<Result<_, MetadataError>>()?,
        })
    }

    /// Checks that nothing changed since the group was made, and that no node changes its kind.
    fn check_bases(&mut self, group: &ChangeGroup) -> Check<Vec<Done>> {
        let mut done = Vec::with_capacity(group.changes.len());
        for change in &group.changes {
            let old = self.tx.record(self.volume, &change.key)?;
            let is_based = old.as_ref().map(|old| old.revision) == change.base;
            if !is_based || self.replaced.contains_key(&change.key) {
                rule!(Err(Refusal::BaseChanged { key: change.key.clone() }));
            }
            if let (Some(Record::Node(old)), Some(Record::Node(new))) =
                (old.as_ref().map(|old| &old.record), &change.value)
                && old.kind != new.kind
            {
                let why = "a node's kind never changes".to_owned();
                rule!(Err(Refusal::Invalid { key: change.key.clone(), why }));
            }
            if old.is_some() || change.value.is_some() {
                done.push(Done { key: change.key.clone(), old, new: change.value.clone() });
            }
        }
        Ok(Ok(done))
    }

    /// Checks that a group which grows the volume's files keeps them within the quota; returns how many bytes they have after it.
    fn check_quota(&self, done: &[Done]) -> Result<u64, Broken> {
        let growth: i128 = done
            .iter()
            .map(|Done { old, new, .. }| {
                let old = old.as_ref().map_or(0, |old| old.record.quota_len());
                i128::from(new.as_ref().map_or(0, Record::quota_len)) - i128::from(old)
            })
            .sum();
        let (used, after) = (self.used, i128::from(self.used) + growth);
        match self.quota {
            Some(limit) if growth > 0 && after > i128::from(limit) => {
                let growth = u64::try_from(growth).unwrap_or(u64::MAX);
                Err(Refusal::OverQuota { limit, used, growth }.into())
            }
            // Modulo 2^64, as it is kept.
            #[expect(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                reason = "the lowest 64 bits are meant"
            )]
            Some(_) | None => Ok(after as u64),
        }
    }

    /// Checks rules 1 to 6; returns the contents that the group introduces.
    fn check_tree(&mut self, done: &[Done]) -> Check<Vec<(ContentId, Manifest)>> {
        let entries = || done.iter().filter_map(|done| as_entry(done.new.as_ref()));
        for entry in entries() {
            rule!(self.check_ends(entry)?);
        }
        let mut touched = BTreeSet::new();
        for Done { key, old, new } in done {
            match key {
                RecordKey::Node(id) => drop(touched.insert(*id)),
                RecordKey::Entry { .. } => {
                    let old = as_entry(old.as_ref().map(|old| &old.record));
                    touched.extend(old.into_iter().chain(as_entry(new.as_ref())).map(|entry| entry.node));
                }
            }
        }
        for id in touched {
            rule!(self.check_links(id)?);
        }
        for entry in entries() {
            rule!(self.check_no_cycle(entry)?);
        }
        for Done { key, old, new } in done {
            if let (Some(node), None) = (as_node(old.as_ref().map(|old| &old.record)), new)
                && node.kind == NodeKind::Directory
            {
                rule!(self.check_empty(key, node.id)?);
            }
        }
        self.check_contents(done)
    }

    fn node(&self, id: NodeId) -> Result<Option<NodeRecord>, MetadataError> {
        let found = self.tx.record(self.volume, &RecordKey::Node(id))?;
        Ok(found.and_then(|found| match found.record {
            Record::Node(node) => Some(node),
            Record::Entry(_) => None,
        }))
    }

    /// Rules 1 and 2.
    fn check_ends(&self, entry: &EntryRecord) -> Check {
        let parent = self.node(entry.parent)?;
        if parent.is_none_or(|parent| parent.kind != NodeKind::Directory) {
            let about = vec![RecordKey::Node(entry.parent)];
            return Ok(Err(Broken { reason: Refusal::ParentMissing { key: entry.key() }, about }));
        }
        if self.node(entry.node)?.is_none() {
            let about = vec![RecordKey::Node(entry.node)];
            return Ok(Err(Broken { reason: Refusal::TargetMissing { key: entry.key() }, about }));
        }
        Ok(Ok(()))
    }

    /// Rule 3.
    fn check_links(&self, id: NodeId) -> Check {
        let node = self.node(id)?;
        let entries = self.tx.entries_to(self.volume, id, 2)?.len();
        let fits = match node.map(|node| node.kind) {
            None => entries == 0,
            Some(_) if id == NodeId::ROOT => entries == 0,
            Some(NodeKind::Directory) => entries == 1,
            Some(_) => entries >= 1,
        };
        if fits {
            return Ok(Ok(()));
        }
        let key = RecordKey::Node(id);
        let entries = self.tx.entries_to(self.volume, id, REFUSAL_RECORDS_MAX)?;
        let about = entries.iter().map(|entry| entry.record.key()).chain([key.clone()]).collect();
        Ok(Err(Broken { reason: Refusal::WrongLinkCount { key }, about }))
    }

    /// Rule 4: walks from the entry's directory up to the root.
    fn check_no_cycle(&self, entry: &EntryRecord) -> Check {
        let leads_down = self.node(entry.node)?.is_some_and(|node| node.kind == NodeKind::Directory)
            && !self.tx.entries_in(self.volume, entry.node, 1)?.is_empty();
        if !leads_down {
            return Ok(Ok(()));
        }
        let mut at = entry.parent;
        let mut path = Vec::new();
        let mut seen = HashSet::from([entry.node]);
        while at != NodeId::ROOT {
            let above = self.tx.entries_to(self.volume, at, 1)?;
            let above = as_entry(above.first().map(|above| &above.record)).cloned();
            if !seen.insert(at) {
                path.truncate(REFUSAL_RECORDS_MAX);
                return Ok(Err(Broken { reason: Refusal::Cycle { key: entry.key() }, about: path }));
            }
            let Some(above) = above else {
                let about = vec![RecordKey::Node(at)];
                return Ok(Err(Broken { reason: Refusal::ParentMissing { key: entry.key() }, about }));
            };
            path.push(above.key());
            at = above.parent;
        }
        Ok(Ok(()))
    }

    /// Rule 5.
    fn check_empty(&self, key: &RecordKey, id: NodeId) -> Check {
        let left = self.tx.entries_in(self.volume, id, REFUSAL_RECORDS_MAX)?;
        if left.is_empty() {
            return Ok(Ok(()));
        }
        let about = left.iter().filter_map(|left| as_entry(Some(&left.record)));
        let about = about.flat_map(|entry| [entry.key(), RecordKey::Node(entry.node)]).collect();
        Ok(Err(Broken { reason: Refusal::NotEmpty { key: key.clone() }, about }))
    }

    /// Rule 6.
    fn check_contents(&self, done: &[Done]) -> Check<Vec<(ContentId, Manifest)>> {
        let (mut found, mut unknown, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for Done { key, old, new } in done {
            let Some(node) = as_node(new.as_ref()) else { continue };
            let Some(id) = node.content else { continue };
            let before = as_node(old.as_ref().map(|old| &old.record));
            if before.is_some_and(|before| before.content == Some(id) && before.size == node.size) {
                continue;
            }
            let invalid = |why: String| Refusal::Invalid { key: key.clone(), why };
            let manifest = match self.request.contents.get(&id) {
                Some(Ok(content)) => Some(content.manifest.clone()),
                Some(Err(why)) => rule!(Err(invalid(why.clone()))),
                None => self.tx.content(&id)?,
            };
            let Some(manifest) = manifest else {
                unknown.push(id);
                continue;
            };
            if manifest.size() != node.size {
                rule!(Err(invalid(format!(
                    "the size is {}, the content has {} bytes",
                    node.size,
                    manifest.size()
                ))));
            }
            if !self.introduced.contains_key(&id) {
                rule!(self.find_missing(&manifest, &mut missing)?.map_err(invalid));
            }
            found.push((id, manifest));
        }
        if !unknown.is_empty() {
            rule!(Err(Refusal::ContentMissing { contents: unknown }));
        }
        if !missing.is_empty() {
            rule!(Err(Refusal::ChunksMissing { hashes: missing }));
        }
        Ok(Ok(found))
    }

    /// Adds the chunks of a manifest that are not here; the inner error says which has another length.
    fn find_missing(
        &self,
        manifest: &Manifest,
        missing: &mut Vec<ChunkHash>,
    ) -> Result<Result<(), String>, MetadataError> {
        let mut seen = HashSet::new();
        for chunk in manifest.chunks.iter().filter(|chunk| !chunk.hash.is_hole()) {
            if !seen.insert((chunk.hash, chunk.len)) {
                continue;
            }
            let len = match self.request.small_chunks.get(&chunk.hash) {
                Some(bytes) => Some(bytes.len() as u64),
                None => self.tx.chunk_place(&chunk.hash)?.map(crate::metadata::ChunkPlace::len),
            };
            match len {
                Some(len) if len == chunk.len => {}
                Some(len) => {
                    return Ok(Err(format!("chunk {} has {len} bytes, not {}", chunk.hash, chunk.len)));
                }
                None if missing.len() < QUERY_ITEMS_MAX => missing.push(chunk.hash),
                None => break,
            }
        }
        Ok(Ok(()))
    }

    /// Stores manifests and small chunks of an accepted group.
    fn keep_contents(&mut self, contents: Vec<(ContentId, Manifest)>) -> Result<(), MetadataError> {
        let is_any_condemned = !contents.is_empty() && self.tx.is_any_condemned()?;
        for (id, manifest) in contents {
            if is_any_condemned {
                // A new reference: what it refers to must not be collected. See `gc`.
                self.tx.reprieve(Kind::Content, id.as_bytes())?;
                for chunk in &manifest.chunks {
                    self.tx.reprieve(Kind::Chunk, chunk.hash.as_bytes())?;
                }
            }
            if let Some(Ok(content)) = self.request.contents.get(&id) {
                self.tx.put_content(&id, &manifest, content.file_hash.as_ref())?;
            }
            for chunk in &manifest.chunks {
                if let Some(bytes) = self.request.small_chunks.get(&chunk.hash) {
                    self.tx.put_small_chunk(&chunk.hash, bytes)?;
                }
            }
            self.introduced.insert(id, manifest);
        }
        Ok(())
    }
}

fn as_entry(record: Option<&Record>) -> Option<&EntryRecord> {
    match record {
        Some(Record::Entry(entry)) => Some(entry),
        Some(Record::Node(_)) | None => None,
    }
}

fn as_node(record: Option<&Record>) -> Option<&NodeRecord> {
    match record {
        Some(Record::Node(node)) => Some(node),
        Some(Record::Entry(_)) | None => None,
    }
}

#[cfg(test)]
mod tests;
