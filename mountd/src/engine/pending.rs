//! Looks up what the journal's groups come to, and gets their contents ready.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::NodeId;
use dfs_shared::limits::{COMMIT_CHANGES_MAX, COMMIT_SMALL_BYTES_MAX, SMALL_CONTENT_LEN_MAX};
use dfs_shared::record::{NodeKind, Record, RecordKey};
use dfs_shared::time::Timestamp;

use super::hash::{self, Hashed, Named};
use super::plan::{Input, Pending, Want};
use super::shared::{EngineError, Shared, chain};
use crate::limits::{HASH_FILES_PER_COMMIT, OPEN_FILE_GRACE_MS, PLAN_GROUPS_MAX};
use crate::tree::journal::{KeyState, NamedContent, View};
use crate::tree::{Tree, TreeError};

/// The journal, as the planner sees it.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) groups: Vec<Pending>,
    pub(super) wants: BTreeMap<RecordKey, Want>,
    pub(super) directories: BTreeSet<NodeId>,
    pub(super) continued: BTreeSet<RecordKey>,
    /// By how many bytes nodes are longer than on the server; negative if shorter.
    pub(super) growth: BTreeMap<NodeId, i128>,
    counts_growth: bool,
    /// Files whose bytes have to be named first, and files that were just made, with the time of the change.
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    node: NodeId,
    dirty: bool,
    size: u64,
    at: Timestamp,
}

/// What of the window is ready.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Nodes whose content cannot be committed yet.
    pub(super) waiting: BTreeSet<NodeId>,
    /// Bytes of small contents that were just read.
    pub(super) small: HashMap<ChunkHash, Vec<u8>>,
    /// When to look again without being woken.
    pub(super) again_in: Option<Duration>,
}

impl Ready {
    fn again(&mut self, after: Duration) {
        self.again_in = Some(self.again_in.map_or(after, |old| old.min(after)));
    }
}

impl Window {
    /// Reads the journal's oldest groups and what their records are now; how long files grow only if somebody asks.
    pub(super) fn read(tree: &Tree, counts_growth: bool) -> Result<Self, TreeError> {
        let mut window = Self { counts_growth, ..Self::default() };
        // One moment of the tree: what belongs together is seen together.
        let tree = &tree.view()?;
        let groups = tree.pending(0, PLAN_GROUPS_MAX)?;
        let full = groups.len() == PLAN_GROUPS_MAX;
        for group in groups {
            for key in &group.keys {
                window.look_up(tree, key, group.at)?;
            }
            window.groups.push(Pending { seq: group.seq, keys: group.keys });
        }
        if full {
            window.read_beyond(tree)?;
        }
        Ok(window)
    }

    fn look_up(&mut self, tree: &View<'_>, key: &RecordKey, at: Timestamp) -> Result<(), TreeError> {
        if self.wants.contains_key(key) {
            return Ok(());
        }
        let (want, dirty) = want(tree, key)?;
        if let (RecordKey::Node(node), Want::Change { .. }, true) = (key, &want, self.counts_growth) {
            self.growth.insert(*node, tree.growth(*node)?);
        }
        match &want {
            Want::Change { value: Some(Record::Node(node)), base, .. } if node.kind == NodeKind::File => {
                if dirty || base.is_none() {
                    self.files.push(File { node: node.id, dirty, size: node.size, at });
                }
            }
            Want::Change { value: Some(Record::Entry(entry)), .. } => {
                let (parent, target) = (RecordKey::Node(entry.parent), entry.node);
                self.look_up(tree, &parent, at)?;
                self.look_up(tree, &RecordKey::Node(target), at)?;
                if tree.kind_of(target)? == Some(NodeKind::Directory) {
                    self.directories.insert(target);
                }
            }
            Want::Change { .. } | Want::Clean => {}
        }
        self.wants.insert(key.clone(), want);
        Ok(())
    }

    /// Finds the records of the window that later groups name too.
    fn read_beyond(&mut self, tree: &View<'_>) -> Result<(), TreeError> {
        let known: HashSet<&RecordKey> = self.groups.iter().flat_map(|group| &group.keys).collect();
        let mut continued = BTreeSet::new();
        let mut after = self.groups.last().map_or(0, |group| group.seq);
        loop {
            let groups = tree.pending(after, PLAN_GROUPS_MAX)?;
            let Some(last) = groups.last() else { break };
            after = last.seq;
            let keys = groups.into_iter().flat_map(|group| group.keys);
            continued.extend(keys.filter(|key| known.contains(key)));
        }
        self.continued = continued;
        Ok(())
    }

    /// Returns what the planner takes.
    pub(super) fn input<'a>(&'a self, waiting: &'a BTreeSet<NodeId>, stuck: &'a BTreeSet<u64>) -> Input<'a> {
        Input {
            groups: &self.groups,
            wants: &self.wants,
            directories: &self.directories,
            waiting,
            continued: &self.continued,
            stuck,
            changes_max: COMMIT_CHANGES_MAX,
        }
    }

    /// Names small contents, starts to upload large ones, and tells what has to wait. Blocks while it reads.
    pub(super) fn get_ready(&mut self, shared: &Arc<Shared>) -> Result<Ready, EngineError> {
        let mut ready = Ready { waiting: shared.uploads.active(), ..Ready::default() };
        ready.waiting.extend(super::conflict::hold(shared));
        let held = super::quota::hold(shared, self);
        ready.waiting.extend(held.files);
        ready.again_in = held.again_in;
        let now = shared.clock.now();
        let (mut hashed, mut bytes) = (Vec::new(), 0);
        let mut names = Vec::new();
        for file in std::mem::take(&mut self.files) {
            let grace_ms = open_for_ms(file.at, now);
            let is_open = || shared.open_files().is_some_and(|open| open.is_being_written(file.node));
            if grace_ms > 0 && is_open() {
                ready.waiting.insert(file.node);
                ready.again(Duration::from_millis(u64::try_from(grace_ms).unwrap_or(0)));
                continue;
            }
            if ready.waiting.contains(&file.node) {
                continue;
            }
            if !file.dirty {
                if shared.tree.node_by_id(file.node)?.is_some_and(|node| node.dirty_content.is_some()) {
                    // Its first bytes came since the window was read: the next one shows them with the file.
                    ready.waiting.insert(file.node);
                    ready.again(Duration::ZERO);
                }
                continue;
            }
            if file.size > SMALL_CONTENT_LEN_MAX {
                super::upload::start(shared, file.node);
                ready.waiting.insert(file.node);
            } else if hashed.len() >= HASH_FILES_PER_COMMIT || bytes >= COMMIT_SMALL_BYTES_MAX {
                ready.waiting.insert(file.node);
                ready.again(Duration::ZERO);
            } else {
                hashed.push(file.node);
                bytes += usize::try_from(file.size).unwrap_or(usize::MAX);
                Self::name_small(shared, file.node, &mut ready, &mut names)?;
            }
        }
        self.take_names(shared, &hashed, &names, &mut ready)?;
        Ok(ready)
    }

    /// Reads a small file that changed. What it holds is told to the tree with that of all the others.
    fn name_small(
        shared: &Arc<Shared>,
        node: NodeId,
        ready: &mut Ready,
        names: &mut Vec<NamedContent>,
    ) -> Result<(), EngineError> {
        match hash::name(shared, node, SMALL_CONTENT_LEN_MAX) {
            Ok(Named::Content { named, small }) => {
                ready.small.extend(small.map(|small| (small.hash, small.bytes)));
                names.push(named);
            }
            Ok(Named::Not(Hashed::Nothing | Hashed::Done)) => {}
            Ok(Named::Not(Hashed::Moving)) => {
                ready.waiting.insert(node);
                ready.again(Duration::from_millis(20));
            }
            Ok(Named::Not(Hashed::Partial | Hashed::Large)) => {
                super::upload::start(shared, node);
                ready.waiting.insert(node);
            }
            Err(EngineError::Tree(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%node, error = chain(&error), "a changed file cannot be read; it stays here");
                ready.waiting.insert(node);
                ready.again(Duration::from_secs(5));
            }
        }
        Ok(())
    }

    /// Tells the tree of contents that were just named, and looks up again what has to be sent of their nodes.
    fn take_names(
        &mut self,
        shared: &Arc<Shared>,
        nodes: &[NodeId],
        names: &[NamedContent],
        ready: &mut Ready,
    ) -> Result<(), EngineError> {
        let done = shared.tree.set_contents(names)?;
        for moved in names.iter().filter(|named| !done.contains(&named.id)) {
            ready.waiting.insert(moved.id);
            ready.again(Duration::from_millis(20));
        }
        let view = shared.tree.view()?;
        for node in nodes.iter().filter(|node| !ready.waiting.contains(node)).copied().collect::<Vec<_>>() {
            let key = RecordKey::Node(node);
            let (want, dirty) = want(&view, &key)?;
            if matches!(want, Want::Clean | Want::Change { value: None, .. }) {
                // Removed since the window was read: the next one shows all of it.
                ready.waiting.insert(node);
                ready.again(Duration::ZERO);
                continue;
            }
            if dirty {
                ready.waiting.insert(node);
                ready.again(Duration::from_millis(20));
            }
            self.wants.insert(key, want);
        }
        Ok(())
    }
}

/// Returns for how many milliseconds more a file that changed at `at` is waited for while it is open. A time that is still to come is of a
/// clock that was set back since, and tells nothing.
fn open_for_ms(at: Timestamp, now: Timestamp) -> i64 {
    let age = now.as_millis().saturating_sub(at.as_millis());
    if age < -OPEN_FILE_GRACE_MS { 0 } else { (OPEN_FILE_GRACE_MS - age.max(0)).max(0) }
}

/// Returns what there is to send of a record, and whether its content has no name yet.
fn want(tree: &View<'_>, key: &RecordKey) -> Result<(Want, bool), TreeError> {
    Ok(match tree.key_state(key)? {
        KeyState::Clean => (Want::Clean, false),
        KeyState::Dirty { base, value, dirty_content } => {
            let base_target = match key {
                RecordKey::Node(_) => None,
                RecordKey::Entry { parent, name } => tree.base_target(*parent, name)?,
            };
            (Want::Change { base, value, base_target }, dirty_content.is_some())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // S51
    #[test]
    fn an_open_file_is_not_waited_for_until_a_clock_that_was_set_back_has_caught_up() {
        let at = |secs| Timestamp { secs, nanos: 0 };
        assert_eq!(open_for_ms(at(100), at(100)), OPEN_FILE_GRACE_MS);
        assert_eq!(open_for_ms(at(100), at(101)), OPEN_FILE_GRACE_MS - 1000);
        assert!(open_for_ms(at(100), at(1_000_000)) <= 0);
        assert_eq!(open_for_ms(at(101), at(100)), OPEN_FILE_GRACE_MS, "a tick of the kernel's coarse clock");
        assert_eq!(open_for_ms(at(1_000_000), at(100)), 0);
        assert_eq!(open_for_ms(at(i64::MAX), at(i64::MIN)), 0);
    }
}
