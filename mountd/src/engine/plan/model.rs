//! Models for the planner's tests: a local tree that keeps a journal, and a server that checks its invariants.

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{Change, EntryRecord, NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;

use super::{Component, Input, Pending, Plan, Want, plan};

pub(super) fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub(super) fn node(id: NodeId, kind: NodeKind) -> NodeRecord {
    let at = Timestamp::default();
    NodeRecord {
        id,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        size: 0,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    }
}

/// The server: records with revisions, and the rules that every group must keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub(super) records: BTreeMap<RecordKey, (Revision, Record)>,
    revision: u64,
}

impl Server {
    pub(super) fn new() -> Self {
        let root = Record::Node(node(NodeId::ROOT, NodeKind::Directory));
        Self { records: BTreeMap::from([(root.key(), (Revision(1), root))]), revision: 1 }
    }

    /// Applies a group, or tells which rule it breaks.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<Revision, String> {
        let before = self.records.clone();
        self.revision += 1;
        let revision = Revision(self.revision);
        for change in changes {
            let found = before.get(&change.key).map(|(revision, _)| *revision);
            if found != change.base {
                return Err(format!("base of {:?} is {found:?}, not {:?}", change.key, change.base));
            }
            match &change.value {
                Some(record) => self.records.insert(change.key.clone(), (revision, record.clone())),
                None => self.records.remove(&change.key),
            };
        }
        self.check().inspect_err(|_| self.records = before)?;
        Ok(revision)
    }

    fn check(&self) -> Result<(), String> {
        let mut names: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        let kind = |id: &NodeId| match self.records.get(&RecordKey::Node(*id)) {
            Some((_, Record::Node(node))) => Some(node.kind),
            _ => None,
        };
        for (_, record) in self.records.values() {
            let Record::Entry(entry) = record else { continue };
            if kind(&entry.parent) != Some(NodeKind::Directory) {
                return Err(format!("{entry:?} has no parent"));
            }
            if kind(&entry.node).is_none() {
                return Err(format!("{entry:?} leads nowhere"));
            }
            names.entry(entry.node).or_default().push(entry.parent);
        }
        for (_, record) in self.records.values() {
            let Record::Node(node) = record else { continue };
            let count = names.get(&node.id).map_or(0, Vec::len);
            if node.id != NodeId::ROOT && (count == 0 || (node.kind == NodeKind::Directory && count > 1)) {
                return Err(format!("{:?} has {count} names", node.id));
            }
            let (mut at, mut steps) = (node.id, 0);
            while at != NodeId::ROOT {
                at = names[&at][0];
                steps += 1;
                if steps > 10_000 {
                    return Err(format!("{:?} is in a circle", node.id));
                }
            }
        }
        Ok(())
    }
}

/// A mount's tree with its journal, as `tree` keeps it.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) records: BTreeMap<RecordKey, Record>,
    base: BTreeMap<RecordKey, (Revision, Record)>,
    pub(super) journal: Vec<Pending>,
    next_seq: u64,
    next_id: u8,
    clock: i64,
}

impl Local {
    pub(super) fn of(server: &Server) -> Self {
        let records = server.records.iter().map(|(key, (_, record))| (key.clone(), record.clone())).collect();
        Self { records, base: server.records.clone(), journal: Vec::new(), next_seq: 1, next_id: 1, clock: 0 }
    }

    /// Appends a group for what happened to names, and one for each touched node, as the tree does.
    fn journal(&mut self, keys: impl IntoIterator<Item = RecordKey>, touched: &[NodeId]) {
        let touched = touched.iter().map(|node| vec![self.touch(*node)]).collect::<Vec<_>>();
        for keys in [keys.into_iter().collect()].into_iter().chain(touched).filter(|keys| !keys.is_empty()) {
            self.journal.push(Pending { seq: self.next_seq, keys });
            self.next_seq += 1;
        }
    }

    fn put(&mut self, record: Record) -> RecordKey {
        let key = record.key();
        self.records.insert(key.clone(), record);
        key
    }

    fn touch(&mut self, id: NodeId) -> RecordKey {
        self.clock += 1;
        let clock = self.clock;
        if let Some(Record::Node(node)) = self.records.get_mut(&RecordKey::Node(id)) {
            node.ctime.secs = clock;
        }
        RecordKey::Node(id)
    }

    fn entry(parent: NodeId, name: &Name, node: NodeId) -> Record {
        Record::Entry(EntryRecord { parent, name: name.clone(), node })
    }

    fn key(parent: NodeId, name: &Name) -> RecordKey {
        RecordKey::Entry { parent, name: name.clone() }
    }

    pub(super) fn lookup(&self, parent: NodeId, name: &Name) -> Option<NodeId> {
        match self.records.get(&Self::key(parent, name)) {
            Some(Record::Entry(entry)) => Some(entry.node),
            _ => None,
        }
    }

    pub(super) fn kind(&self, id: NodeId) -> NodeKind {
        match &self.records[&RecordKey::Node(id)] {
            Record::Node(node) => node.kind,
            Record::Entry(_) => unreachable!("the key is a node's"),
        }
    }

    pub(super) fn directories(&self) -> Vec<NodeId> {
        self.nodes(|kind| kind == NodeKind::Directory)
    }

    pub(super) fn files(&self) -> Vec<NodeId> {
        self.nodes(|kind| kind == NodeKind::File)
    }

    fn nodes(&self, wanted: impl Fn(NodeKind) -> bool) -> Vec<NodeId> {
        let nodes = self.records.values().filter_map(|record| match record {
            Record::Node(node) if wanted(node.kind) => Some(node.id),
            _ => None,
        });
        nodes.collect()
    }

    fn count(&self, wanted: impl Fn(&EntryRecord) -> bool) -> usize {
        self.records.values().filter(|record| matches!(record, Record::Entry(entry) if wanted(entry))).count()
    }

    pub(super) fn create(&mut self, parent: NodeId, name: &Name, kind: NodeKind) -> Option<NodeId> {
        if self.lookup(parent, name).is_some() {
            return None;
        }
        let id = id(self.next_id);
        self.next_id = self.next_id.checked_add(1).expect("small tests");
        let keys = [self.put(Record::Node(node(id, kind))), self.put(Self::entry(parent, name, id))];
        self.journal(keys, &[parent]);
        Some(id)
    }

    pub(super) fn write(&mut self, id: NodeId) {
        self.journal([], &[id]);
    }

    pub(super) fn link(&mut self, id: NodeId, parent: NodeId, name: &Name) {
        if self.lookup(parent, name).is_none() {
            let keys = [self.put(Self::entry(parent, name, id))];
            self.journal(keys, &[id, parent]);
        }
    }

    /// Drops one name of a node, and the node with its last name; returns false where POSIX refuses.
    fn drop_name(&mut self, parent: NodeId, name: &Name, keys: &mut Vec<RecordKey>) -> bool {
        let Some(id) = self.lookup(parent, name) else { return true };
        if self.kind(id) == NodeKind::Directory && self.count(|entry| entry.parent == id) > 0 {
            return false;
        }
        keys.push(Self::key(parent, name));
        self.records.remove(&Self::key(parent, name));
        if self.count(|entry| entry.node == id) == 0 {
            self.records.remove(&RecordKey::Node(id));
            keys.push(RecordKey::Node(id));
        }
        true
    }

    pub(super) fn remove(&mut self, parent: NodeId, name: &Name) {
        let mut keys = Vec::new();
        if self.drop_name(parent, name, &mut keys) && !keys.is_empty() {
            self.journal(keys, &[parent]);
        }
    }

    fn inside(&self, mut node: NodeId, ancestor: NodeId) -> bool {
        while node != ancestor && node != NodeId::ROOT {
            let parent = self.records.values().find_map(|record| match record {
                Record::Entry(entry) if entry.node == node => Some(entry.parent),
                _ => None,
            });
            node = parent.expect("every node has a name");
        }
        node == ancestor
    }

    pub(super) fn rename(&mut self, from: (NodeId, &Name), to: (NodeId, &Name)) {
        let Some(id) = self.lookup(from.0, from.1) else { return };
        let old = self.lookup(to.0, to.1);
        let over_directory = old.map(|old| self.kind(old) == NodeKind::Directory);
        let is_directory = self.kind(id) == NodeKind::Directory;
        if old == Some(id) || over_directory.is_some_and(|over| over != is_directory) {
            return;
        }
        if is_directory && self.inside(to.0, id) {
            return;
        }
        let mut keys = Vec::new();
        if !self.drop_name(to.0, to.1, &mut keys) {
            return;
        }
        self.records.remove(&Self::key(from.0, from.1));
        keys.extend([Self::key(from.0, from.1), self.put(Self::entry(to.0, to.1, id))]);
        self.journal(keys, &[id, from.0, to.0]);
    }

    pub(super) fn exchange(&mut self, one: (NodeId, &Name), other: (NodeId, &Name)) {
        let (Some(a), Some(b)) = (self.lookup(one.0, one.1), self.lookup(other.0, other.1)) else { return };
        if a == b || self.inside(other.0, a) || self.inside(one.0, b) {
            return;
        }
        let keys = [self.put(Self::entry(one.0, one.1, b)), self.put(Self::entry(other.0, other.1, a))];
        self.journal(keys, &[a, b, one.0, other.0]);
    }

    pub(super) fn want(&self, key: &RecordKey) -> Want {
        let base = self.base.get(key);
        let value = self.records.get(key);
        match (base, value) {
            (Some((_, base)), Some(value)) if base == value => Want::Clean,
            (None, None) => Want::Clean,
            _ => Want::Change {
                base: base.map(|(revision, _)| *revision),
                value: value.cloned(),
                base_target: match base {
                    Some((_, Record::Entry(entry))) => Some(entry.node),
                    _ => None,
                },
            },
        }
    }

    pub(super) fn plan_first(&self, waiting: &BTreeSet<NodeId>, groups: usize, changes_max: usize) -> Plan {
        let (groups, beyond) = self.journal.split_at(groups.min(self.journal.len()));
        let continued = beyond.iter().flat_map(|group| group.keys.iter().cloned()).collect();
        let mut wants: BTreeMap<RecordKey, Want> = BTreeMap::new();
        for key in groups.iter().flat_map(|group| &group.keys) {
            let want = self.want(key);
            if let Want::Change { value: Some(Record::Entry(entry)), .. } = &want {
                for node in [entry.parent, entry.node] {
                    wants.insert(RecordKey::Node(node), self.want(&RecordKey::Node(node)));
                }
            }
            wants.insert(key.clone(), want);
        }
        let directories = self.directories().into_iter().collect();
        plan(&Input {
            groups,
            wants: &wants,
            directories: &directories,
            waiting,
            continued: &continued,
            stuck: &BTreeSet::new(),
            changes_max,
        })
    }

    pub(super) fn plan(&self, waiting: &BTreeSet<NodeId>) -> Plan {
        self.plan_first(waiting, usize::MAX, usize::MAX)
    }

    /// Takes over what the server accepted.
    pub(super) fn acknowledge(&mut self, component: &Component, revision: Revision) {
        for change in &component.changes {
            match &change.value {
                Some(record) => self.base.insert(change.key.clone(), (revision, record.clone())),
                None => self.base.remove(&change.key),
            };
        }
    }

    pub(super) fn drop_groups(&mut self, seqs: &BTreeSet<u64>) {
        self.journal.retain(|group| !seqs.contains(&group.seq));
    }
}
