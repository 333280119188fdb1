//! The journal as the sync engine sees it: what is to be sent, and what the server has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{Change, EntryRecord, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::content::ContentState;
use super::node::{Ino, LocalNode, SyncState};
use super::store::{Snapshot, Space, Store, Write, decode};
use super::txn::Txn;
use super::{Effect, Tree, TreeError};

/// A change group as it is stored; its key is its sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalRow {
    /// The records that changed together.
    pub(super) keys: Vec<RecordKey>,
    /// When.
    pub(super) at: Timestamp,
}

/// A change group that the server has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingGroup {
    /// Its place in the journal.
    pub seq: u64,
    /// The records that changed together; their state is looked up when they are sent, so that ten saves are one commit.
    pub keys: Vec<RecordKey>,
    /// When the change was made.
    pub at: Timestamp,
}

/// What there is to send of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "looked at and dropped; a box would cost an allocation for each record sent"
)]
pub enum KeyState {
    /// Nothing: equal on both sides, or on neither.
    Clean,
    /// Something.
    Dirty {
        /// The revision of the server's record, if it has one.
        base: Option<Revision>,
        /// The state here; `None` when it is gone here.
        value: Option<Record>,
        /// Set while the file's bytes have to be hashed first: the number to give to [`Tree::set_contents`].
        dirty_content: Option<u64>,
    },
}

const IN_FLIGHT_KEY: &[u8] = b"in-flight";
const SEQ_KEY: &[u8] = b"journal-seq";
/// The files whose bytes were given up while a request was in flight, as they were left: the server may have taken those bytes.
const GIVEN_UP_KEY: &[u8] = b"given-up";

/// Returns the highest sequence number that a request in flight may name: none of them is given away again, as settling such a
/// request takes its groups out of the journal, if need be a second time.
pub(super) fn last_seq(store: &Store) -> Result<u64, TreeError> {
    let last = store.last_key(Space::Journal)?.map(|key| <[u8; 8]>::try_from(key.as_slice()));
    let last = last.transpose().map_err(|_| TreeError::Damaged { what: "journal key" })?;
    let acknowledged: Option<u64> = store.read(Space::Meta, SEQ_KEY)?;
    Ok(last.map_or(0, u64::from_be_bytes).max(acknowledged.unwrap_or(0)))
}

/// The journal and the records at one moment: what is read from it fits together, whatever is changed meanwhile.
pub struct View<'t> {
    tree: &'t Tree,
    snapshot: Snapshot,
    start: u64,
    written: u64,
}

impl View<'_> {
    /// Returns up to `limit` change groups after sequence number `after`, oldest first.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn pending(&self, after: u64, limit: usize) -> Result<Vec<PendingGroup>, TreeError> {
        let mut groups = Vec::new();
        if limit == 0 {
            return Ok(groups);
        }
        let from = after.max(self.start);
        let bytes = from.to_be_bytes();
        self.tree.store.each_at(&self.snapshot, Space::Journal, &[], &bytes, |key, value| {
            let seq = key.try_into().map(u64::from_be_bytes);
            let seq = seq.map_err(|_| TreeError::Damaged { what: "journal key" })?;
            let JournalRow { keys, at } = decode("journal group", value)?;
            groups.push(PendingGroup { seq, keys, at });
            Ok(groups.len() < limit)
        })?;
        if from == self.start {
            // A row that is being written has a higher number than those that are written.
            let gone =
                groups.first().map_or(self.written, |group| self.written.min(group.seq.saturating_sub(1)));
            self.tree.journal_start.fetch_max(gone, Ordering::AcqRel);
        }
        Ok(groups)
    }

    fn txn(&self) -> Txn<'_> {
        Txn::at(&self.tree.store, &self.snapshot)
    }

    /// Returns what there is to send of a record.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn key_state(&self, key: &RecordKey) -> Result<KeyState, TreeError> {
        key_state(&mut self.txn(), key)
    }

    /// Returns where the server has an entry lead that is changed here.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn base_target(&self, parent: NodeId, name: &Name) -> Result<Option<NodeId>, TreeError> {
        Ok(match self.txn().entry(parent, name)?.map(|entry| &entry.sync) {
            Some(SyncState::Changed { base, .. }) => Some(*base),
            Some(SyncState::New | SyncState::Clean(_)) | None => None,
        })
    }

    /// Returns by how many bytes a node makes the volume's files longer than the server has them; negative if shorter.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn growth(&self, node: NodeId) -> Result<i128, TreeError> {
        let sizes = self.txn().node(node)?.map(super::sizes::Sizes::of).unwrap_or_default();
        Ok(i128::from(sizes.here) - i128::from(sizes.base))
    }

    /// Returns what sort of node it is, if it exists here.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn kind_of(&self, node: NodeId) -> Result<Option<dfs_shared::record::NodeKind>, TreeError> {
        self.txn().kind(node)
    }
}

fn key_state(txn: &mut Txn<'_>, key: &RecordKey) -> Result<KeyState, TreeError> {
    match key {
        RecordKey::Node(id) => Ok(match txn.node(*id)? {
            Some(node) if node.sync.is_dirty() => KeyState::Dirty {
                base: node.sync.base_revision(),
                value: node.record.clone().map(Record::Node),
                dirty_content: node.dirty_content,
            },
            _ => KeyState::Clean,
        }),
        RecordKey::Entry { parent, name } => Ok(match txn.entry(*parent, name)? {
            Some(entry) if entry.sync.is_dirty() => KeyState::Dirty {
                base: entry.sync.base_revision(),
                value: entry.target.map(|target| {
                    Record::Entry(EntryRecord { parent: *parent, name: name.clone(), node: target.node })
                }),
                dirty_content: None,
            },
            _ => KeyState::Clean,
        }),
    }
}

/// A content that a file's bytes were hashed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedContent {
    /// The file.
    pub id: NodeId,
    /// The change whose bytes were read.
    pub number: u64,
    /// The content; `None` if it is empty.
    pub content: Option<ContentId>,
    /// What it is made of.
    pub manifest: Manifest,
}

impl Tree {
    /// Freezes the journal and the records, for reads that have to fit together.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn view(&self) -> Result<View<'_>, TreeError> {
        let start = self.journal_start.load(Ordering::Acquire);
        let written = self.seq_written.load(Ordering::Acquire);
        Ok(View { tree: self, snapshot: self.store.snapshot()?, start, written })
    }

    /// Returns up to `limit` change groups after sequence number `after`, oldest first.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn pending(&self, after: u64, limit: usize) -> Result<Vec<PendingGroup>, TreeError> {
        self.view()?.pending(after, limit)
    }

    /// Returns what there is to send of a record.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn key_state(&self, key: &RecordKey) -> Result<KeyState, TreeError> {
        key_state(&mut Txn::new(&self.store), key)
    }

    /// Gives files the contents that their bytes were hashed to, in one batch. Returns those of them that have not changed since;
    /// nothing is done to the others.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails; none of them has its content then.
    pub fn set_contents(&self, named: &[NamedContent]) -> Result<BTreeSet<NodeId>, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let (mut done, mut at) = (BTreeSet::new(), Timestamp::default());
        for NamedContent { id, number, content, manifest } in named {
            if txn.live(*id)?.is_none_or(|node| node.dirty_content != Some(*number)) {
                continue;
            }
            txn.change_node(*id, |record| {
                record.content = *content;
                record.size = manifest.size();
                at = record.ctime;
            })?;
            txn.edit_node(*id, |node| node.dirty_content = None)?;
            txn.journal(vec![RecordKey::Node(*id)]);
            if let Some(mut row) = self.store.read::<ContentState>(Space::Content, id.as_bytes())? {
                row.content = *content;
                txn.extra.push(Write::put(Space::Content, id.as_bytes(), &row));
            }
            txn.extra.push(Write::put(Space::Manifests, id.as_bytes(), &(manifest.id(), manifest)));
            done.insert(*id);
        }
        if !done.is_empty() {
            self.finish(txn, at, false)?;
        }
        Ok(done)
    }

    /// Remembers the request that is being sent, so that it can be repeated after a crash; `None` forgets it.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn store_in_flight(&self, request: Option<&[u8]>) -> Result<(), TreeError> {
        let mut writes = vec![Write::raw(Space::Meta, IN_FLIGHT_KEY, request.map(<[u8]>::to_vec))];
        if request.is_none() && self.has_given_up()? {
            writes.push(Write::remove(Space::Meta, GIVEN_UP_KEY));
        }
        self.store.commit(writes)
    }

    /// Tells whether bytes were given up that the request in flight may hold: then [`Tree::acknowledge`] has effects.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn has_given_up(&self) -> Result<bool, TreeError> {
        Ok(self.store.read_raw(Space::Meta, GIVEN_UP_KEY)?.is_some())
    }

    /// Returns the request that was being sent.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn in_flight(&self) -> Result<Option<Vec<u8>>, TreeError> {
        Ok(self.store.read_raw(Space::Meta, IN_FLIGHT_KEY)?.map(|bytes| bytes.to_vec()))
    }

    /// Notes that the server has accepted `sent` with `revision`: that is the base now. What changed here since
    /// stays dirty and stands in the journal again; the groups `seqs` leave it. A file whose bytes were given up meanwhile, and
    /// which was not changed since, is as it was sent. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn acknowledge(
        &self,
        sent: &[Change],
        seqs: &[u64],
        revision: Revision,
    ) -> Result<Vec<Effect>, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let given_up: Vec<NodeRecord> = self.store.read(Space::Meta, GIVEN_UP_KEY)?.unwrap_or_default();
        let mut leaves = Vec::with_capacity(sent.len());
        let mut again = Vec::new();
        for change in sent {
            let is_newer = match &change.key {
                RecordKey::Node(id) => acknowledge_node(&mut txn, *id, change, revision, &given_up)?,
                RecordKey::Entry { parent, name } => {
                    acknowledge_entry(&mut txn, *parent, name, change, revision)?
                }
            };
            if let Some(dirty) = is_newer {
                let hash = change.value.clone().map(|record| {
                    dfs_shared::merkle::record_hash(&change.key, &Versioned { revision, record })
                });
                leaves.push((change.key.clone(), hash));
                if dirty {
                    again.push(change.key.clone());
                }
            }
        }
        dfs_shared::merkle::apply(&mut txn, leaves)?;
        let at = self.oldest(seqs)?.unwrap_or_default();
        txn.extra.extend(seqs.iter().map(|seq| Write::remove(Space::Journal, &seq.to_be_bytes())));
        for keys in group_by_node(&mut txn, &again)? {
            let row = JournalRow { keys, at };
            txn.extra.push(Write::put(Space::Journal, &self.next_seq().to_be_bytes(), &row));
        }
        let effects = if given_up.is_empty() { Vec::new() } else { txn.effects()? };
        let mut writes = txn.finish(at, || self.next_seq());
        writes.push(Write::put(Space::Meta, SEQ_KEY, &self.last_seq()));
        self.store.commit(writes)?;
        self.seq_written.store(self.last_seq(), Ordering::Release);
        Ok(effects)
    }

    fn oldest(&self, seqs: &[u64]) -> Result<Option<Timestamp>, TreeError> {
        let Some(seq) = seqs.iter().min() else { return Ok(None) };
        let row: Option<JournalRow> = self.store.read(Space::Journal, &seq.to_be_bytes())?;
        Ok(row.map(|row| row.at))
    }

    /// Removes groups from the journal whose records have nothing to send. The caller has looked each of them up;
    /// a group that became dirty again meanwhile stays.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn drop_groups(&self, seqs: &[u64]) -> Result<(), TreeError> {
        let _writer = self.writer.lock();
        let mut writes = Vec::with_capacity(seqs.len());
        'groups: for seq in seqs {
            let row: Option<JournalRow> = self.store.read(Space::Journal, &seq.to_be_bytes())?;
            for key in row.iter().flat_map(|row| &row.keys) {
                if self.key_state(key)? != KeyState::Clean {
                    continue 'groups;
                }
            }
            writes.push(Write::remove(Space::Journal, &seq.to_be_bytes()));
        }
        self.store.commit(writes)
    }

    /// Returns the newest change group that carries on what older ones began. Who waits for an older one waits for it, too.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.seq_carried.load(Ordering::Acquire)
    }

    /// Returns the sequence number of the newest change group: when no group up to it is pending, everything that
    /// was changed before the call is on the server.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn write_barrier(&self) -> Result<u64, TreeError> {
        let _writer = self.writer.lock();
        Ok(self.last_seq())
    }
}

/// Remembers how a file was left whose bytes are gone, while a request is in flight.
pub(super) fn give_up(txn: &mut Txn<'_>, left: NodeRecord) -> Result<(), TreeError> {
    let store = txn.store();
    if store.read_raw(Space::Meta, IN_FLIGHT_KEY)?.is_some() {
        let mut given_up: Vec<NodeRecord> = store.read(Space::Meta, GIVEN_UP_KEY)?.unwrap_or_default();
        given_up.push(left);
        txn.extra.push(Write::put(Space::Meta, GIVEN_UP_KEY, &given_up));
    }
    Ok(())
}

/// Returns whether the node is still dirty, or `None` when the base is as new already.
fn acknowledge_node(
    txn: &mut Txn<'_>,
    id: NodeId,
    change: &Change,
    revision: Revision,
    given_up: &[NodeRecord],
) -> Result<Option<bool>, TreeError> {
    let sent = match &change.value {
        Some(Record::Node(record)) => Some(record.clone()),
        _ => None,
    };
    let Some(node) = txn.node(id)? else {
        let Some(base) = sent else { return Ok(Some(false)) };
        // Made, sent and deleted here before the server answered: now the server has to be told.
        let ino = Ino(txn.store().next_number()?);
        let sync = SyncState::Changed { revision, base };
        let (parent, record, dirty_content) = (NodeId::ROOT, None, None);
        txn.put_node(LocalNode { id, ino, record, sync, entries: 0, subdirs: 0, parent, dirty_content })?;
        return Ok(Some(true));
    };
    if node.sync.base_revision().is_some_and(|known| known >= revision) {
        return Ok(None);
    }
    let is_left = node.record.as_ref().is_some_and(|record| given_up.contains(record));
    if let (true, Some(sent), None) = (is_left, &sent, node.dirty_content) {
        let sent = sent.clone();
        txn.edit_node(id, |node| (node.record, node.sync) = (Some(sent), SyncState::Clean(revision)))?;
        return Ok(Some(false));
    }
    let dirty = node.record != sent || node.dirty_content.is_some();
    let sync = match sent {
        Some(base) => SyncState::Changed { revision, base },
        None => SyncState::New,
    };
    txn.edit_node(id, |node| node.sync = sync)?;
    Ok(Some(dirty))
}

/// Returns whether the entry is still dirty, or `None` when the base is as new already.
fn acknowledge_entry(
    txn: &mut Txn<'_>,
    parent: NodeId,
    name: &Name,
    change: &Change,
    revision: Revision,
) -> Result<Option<bool>, TreeError> {
    let known = txn.entry(parent, name)?.and_then(|entry| entry.sync.base_revision());
    if known.is_some_and(|known| known >= revision) {
        return Ok(None);
    }
    let sent = match &change.value {
        Some(Record::Entry(entry)) => Some(entry.node),
        _ => None,
    };
    let here = txn.target(parent, name)?.map(|target| target.node);
    let sync = match sent {
        Some(base) => SyncState::Changed { revision, base },
        None => SyncState::New,
    };
    txn.set_entry_sync(parent, name, sync)?;
    Ok(Some(here != sent))
}

/// Sorts dirty records into groups that have to be sent together: entries with the nodes they lead to, here and
/// on the server.
pub(super) fn group_by_node(txn: &mut Txn<'_>, keys: &[RecordKey]) -> Result<Vec<Vec<RecordKey>>, TreeError> {
    let mut group_of: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<RecordKey>> = Vec::new();
    for key in keys {
        let nodes: Vec<NodeId> = match key {
            RecordKey::Node(id) => vec![*id],
            RecordKey::Entry { parent, name } => match txn.entry(*parent, name)? {
                Some(entry) => super::txn::entry_nodes(entry).into_iter().flatten().collect(),
                None => Vec::new(),
            },
        };
        let known: BTreeSet<usize> = nodes.iter().filter_map(|node| group_of.get(node).copied()).collect();
        let mut known = known.into_iter();
        let at = known.next().unwrap_or_else(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        for other in known {
            let moved = std::mem::take(&mut groups[other]);
            groups[at].extend(moved);
            group_of.values_mut().filter(|group| **group == other).for_each(|group| *group = at);
        }
        groups[at].push(key.clone());
        group_of.extend(nodes.into_iter().map(|node| (node, at)));
    }
    groups.retain(|group| !group.is_empty());
    Ok(groups)
}
