//! Records that do not fit together, or not to what is here already, are left out.
//!
//! That happens in two ways. Records that differed were asked for one after another while the server went on; and an event came
//! after the reply to an own commit that is newer. On the server every node but the root has a name, and every name leads to a
//! node: if some of the records would leave a node without a name or a name without its node, what is missing is of another
//! revision. What is left out still differs, so the next comparison brings it.

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::ids::NodeId;
use dfs_shared::record::{NodeKind, Record, RecordKey};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::CurrentRecord;

use crate::tree::node::LocalEntry;
use crate::tree::txn::Txn;
use crate::tree::{Tree, TreeError};

impl Tree {
    /// Leaves out the records that are older than what is known here; `removed_at` tells when an event removed one, what it
    /// does not tell is as it is now.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn leave_out_older(
        &self,
        records: &mut BTreeMap<RecordKey, CurrentRecord>,
        removed_at: &BTreeMap<RecordKey, Revision>,
    ) -> Result<(), TreeError> {
        let mut txn = Txn::new(&self.store);
        let mut older = BTreeSet::new();
        for (key, current) in records.iter() {
            let revision = match &current.value {
                Some(value) => Some(value.revision),
                None => removed_at.get(key).copied(),
            };
            if let Some(revision) = revision
                && txn.base_revision(key)?.is_some_and(|known| known > revision)
            {
                older.insert(key.clone());
            }
        }
        records.retain(|key, _| !older.contains(key));
        Ok(())
    }

    /// Leaves out the records after which a node would be on the server without a name, or a name without its node.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn leave_out_misfits(
        &self,
        records: &mut BTreeMap<RecordKey, CurrentRecord>,
    ) -> Result<(), TreeError> {
        let mut txn = Txn::new(&self.store);
        // Where names lead that the records are about, as this mount knows it.
        let mut known = BTreeMap::new();
        for key in records.keys() {
            if let RecordKey::Entry { parent, name } = key
                && let Some(node) = txn.entry(*parent, name)?.and_then(LocalEntry::base_target)
            {
                known.insert(key.clone(), node);
            }
        }
        // One that is left out may take away what another needs.
        loop {
            let before = records.len();
            let mut misfits = dangling(&mut txn, records)?;
            misfits.extend(second_names(&mut txn, records)?);
            records.retain(|key, _| !misfits.contains(key));
            let nameless = nameless(&mut txn, records, &known)?;
            // A name that stays as it was may leave another node without one.
            records.retain(|key, _| match key {
                RecordKey::Node(id) => !nameless.contains(id),
                RecordKey::Entry { .. } => known.get(key).is_none_or(|node| !nameless.contains(node)),
            });
            if records.len() == before {
                return Ok(());
            }
            tracing::debug!(left = records.len(), before, "records do not fit together: left for later");
        }
    }
}

/// Tells whether the server is known to have names of a node besides those that records are `about`.
pub(super) fn has_other_names(
    txn: &mut Txn<'_>,
    id: NodeId,
    about: impl Fn(&RecordKey) -> bool,
) -> Result<bool, TreeError> {
    let mut names = txn.base_names_of(id)?.into_iter();
    Ok(names.any(|(parent, name)| !about(&RecordKey::Entry { parent, name })))
}

/// Finds the names that lead to a node or are in a directory that is not known, and the removed nodes that a name still leads to
/// afterwards.
fn dangling(
    txn: &mut Txn<'_>,
    records: &BTreeMap<RecordKey, CurrentRecord>,
) -> Result<BTreeSet<RecordKey>, TreeError> {
    let (mut dangling, mut led_to) = (BTreeSet::new(), BTreeSet::new());
    for (key, current) in records {
        if let Some(Record::Entry(entry)) = current.value.as_ref().map(|value| &value.record) {
            led_to.insert(entry.node);
            for id in [entry.node, entry.parent] {
                let arriving = records.get(&RecordKey::Node(id)).map(|node| node.value.is_some());
                if !arriving.map_or_else(|| Ok(txn.node(id)?.is_some()), Ok::<_, TreeError>)? {
                    dangling.insert(key.clone());
                }
            }
        }
    }
    for (key, current) in records {
        if let (RecordKey::Node(id), None) = (key, &current.value)
            && (led_to.contains(id) || has_other_names(txn, *id, |key| records.contains_key(key))?)
        {
            dangling.insert(key.clone());
        }
    }
    Ok(dangling)
}

/// Finds the names of directories that would have another one, too, afterwards: one of the two is of another revision.
fn second_names(
    txn: &mut Txn<'_>,
    records: &BTreeMap<RecordKey, CurrentRecord>,
) -> Result<BTreeSet<RecordKey>, TreeError> {
    let mut names: BTreeMap<NodeId, Vec<&RecordKey>> = BTreeMap::new();
    for (key, current) in records {
        if let Some(Record::Entry(entry)) = current.value.as_ref().map(|value| &value.record) {
            names.entry(entry.node).or_default().push(key);
        }
    }
    let mut second = BTreeSet::new();
    for (id, keys) in names {
        let arriving = records.get(&RecordKey::Node(id)).and_then(|current| current.value.as_ref());
        let is_dir = match arriving.map(|value| &value.record) {
            Some(Record::Node(node)) => node.kind == NodeKind::Directory,
            _ => txn.kind(id)? == Some(NodeKind::Directory),
        };
        if is_dir && (keys.len() > 1 || has_other_names(txn, id, |key| records.contains_key(key))?) {
            second.extend(keys.into_iter().cloned());
        }
    }
    Ok(second)
}

/// Finds the nodes that the records make, or take a name from, and that no name leads to afterwards.
fn nameless(
    txn: &mut Txn<'_>,
    records: &BTreeMap<RecordKey, CurrentRecord>,
    known: &BTreeMap<RecordKey, NodeId>,
) -> Result<BTreeSet<NodeId>, TreeError> {
    let (mut concerned, mut led_to) = (BTreeSet::new(), BTreeSet::from([NodeId::ROOT]));
    for (key, current) in records {
        match (key, current.value.as_ref().map(|value| &value.record)) {
            (RecordKey::Node(id), Some(_)) => drop(concerned.insert(*id)),
            // It goes, and needs no name.
            (RecordKey::Node(id), None) => drop(led_to.insert(*id)),
            (RecordKey::Entry { .. }, Some(Record::Entry(entry))) => drop(led_to.insert(entry.node)),
            (RecordKey::Entry { .. }, _) => {}
        }
    }
    concerned.extend(known.iter().filter(|(key, _)| records.contains_key(*key)).map(|(_, node)| *node));
    let mut nameless = BTreeSet::new();
    for id in concerned.difference(&led_to) {
        if !records.contains_key(&RecordKey::Node(*id)) && txn.base_revision(&RecordKey::Node(*id))?.is_none()
        {
            // The server has no such node, whatever led to it.
            continue;
        }
        if !has_other_names(txn, *id, |key| records.contains_key(key))? {
            nameless.insert(*id);
        }
    }
    Ok(nameless)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dfs_shared::name::Name;
    use dfs_shared::record::{EntryRecord, NodeRecord, Versioned};
    use dfs_shared::time::Timestamp;

    use super::*;
    use crate::tree::apply::ApplyOptions;
    use crate::tree::store::{MemoryDisk, Store};

    const AT: Timestamp = Timestamp { secs: 1, nanos: 0 };

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn entry_key(name: &str) -> RecordKey {
        RecordKey::Entry { parent: NodeId::ROOT, name: Name::new(name.as_bytes()).expect("a name") }
    }

    fn entry(name: &str, node: u8, revision: u64) -> CurrentRecord {
        entry_in(NodeId::ROOT, name, node, revision)
    }

    fn entry_in(parent: NodeId, name: &str, node: u8, revision: u64) -> CurrentRecord {
        let name = Name::new(name.as_bytes()).expect("a name");
        let record = Record::Entry(EntryRecord { parent, name, node: id(node) });
        CurrentRecord { key: record.key(), value: Some(Versioned { revision: Revision(revision), record }) }
    }

    fn file(number: u8, revision: u64) -> CurrentRecord {
        let record = Record::Node(NodeRecord {
            id: id(number),
            kind: NodeKind::File,
            mode: 0o644,
            uid: 1,
            gid: 1,
            atime: AT,
            mtime: AT,
            ctime: AT,
            crtime: AT,
            size: 0,
            content: None,
            rdev: 0,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
        });
        CurrentRecord { key: record.key(), value: Some(Versioned { revision: Revision(revision), record }) }
    }

    fn directory(number: u8, revision: u64) -> CurrentRecord {
        let mut directory = file(number, revision);
        if let Some(Versioned { record: Record::Node(node), .. }) = &mut directory.value {
            node.kind = NodeKind::Directory;
        }
        directory
    }

    fn removed(key: RecordKey) -> CurrentRecord {
        CurrentRecord { key, value: None }
    }

    /// A tree that knows file 1 at the name `a` since revision 4.
    fn tree() -> Tree {
        let store = Store::in_memory(&MemoryDisk::default()).expect("a store");
        let tree = Tree::open(Arc::new(store), "host".to_owned(), Box::new(|| {})).expect("a tree");
        let options = ApplyOptions { at: AT, force_conflicts: false, lost_after: None };
        tree.apply(&[file(1, 4), entry("a", 1, 4)], options).expect("applied");
        tree
    }

    fn set(records: impl IntoIterator<Item = CurrentRecord>) -> BTreeMap<RecordKey, CurrentRecord> {
        records.into_iter().map(|record| (record.key.clone(), record)).collect()
    }

    #[test]
    fn a_removal_that_is_older_than_what_has_the_name_now_is_left_out_and_a_newer_one_stays() {
        let tree = tree();
        for (revision, left) in [(3, 0), (4, 1), (5, 1)] {
            let mut records = set([removed(entry_key("a"))]);
            let removed_at = BTreeMap::from([(entry_key("a"), Revision(revision))]);
            tree.leave_out_older(&mut records, &removed_at).expect("a store");
            assert_eq!(records.len(), left, "removed at {revision}");
        }
        let mut records = set([removed(entry_key("a")), file(1, 3), entry("b", 2, 1)]);
        tree.leave_out_older(&mut records, &BTreeMap::new()).expect("a store");
        assert_eq!(records, set([removed(entry_key("a")), entry("b", 2, 1)]), "as it is now");
    }

    #[test]
    fn what_would_leave_a_node_without_a_name_is_left_out_with_all_that_hangs_on_it() {
        let tree = tree();
        let rows = [
            (vec![file(2, 5)], vec![]),
            (vec![file(2, 5), entry("b", 2, 5)], vec![file(2, 5), entry("b", 2, 5)]),
            (vec![removed(entry_key("a"))], vec![]),
            (
                vec![removed(entry_key("a")), entry("b", 1, 5)],
                vec![removed(entry_key("a")), entry("b", 1, 5)],
            ),
            (
                vec![removed(entry_key("a")), removed(RecordKey::Node(id(1)))],
                vec![removed(entry_key("a")), removed(RecordKey::Node(id(1)))],
            ),
            // The new file needs the name that the old one cannot give up yet.
            (vec![file(2, 5), entry("a", 2, 5)], vec![]),
            (vec![file(1, 5)], vec![file(1, 5)]),
            // A name without its node.
            (vec![entry("b", 2, 5)], vec![]),
            // A name in a directory that is not known: it was renamed between two questions.
            (vec![file(2, 5), entry_in(id(3), "b", 2, 5), file(3, 5)], vec![]),
            // A directory that was moved between two questions has two names; a file may have them.
            (vec![directory(2, 5), entry("b", 2, 5), entry("c", 2, 6)], vec![]),
            (vec![file(1, 5), entry("b", 1, 5)], vec![file(1, 5), entry("b", 1, 5)]),
            // The file that has the name now is not known yet, so the one that had it keeps it.
            (vec![removed(RecordKey::Node(id(1))), entry("a", 2, 5)], vec![]),
            (vec![removed(RecordKey::Node(id(1)))], vec![]),
            (vec![removed(RecordKey::Node(id(1))), entry("a", 1, 4)], vec![]),
        ];
        for (records, wanted) in rows {
            let mut left = set(records.clone());
            tree.leave_out_misfits(&mut left).expect("a store");
            assert_eq!(left, set(wanted), "{records:?}");
        }
    }

    #[test]
    fn a_name_whose_node_is_gone_on_the_server_can_go() {
        let tree = tree();
        let options = ApplyOptions { at: AT, force_conflicts: false, lost_after: None };
        tree.apply(&[removed(RecordKey::Node(id(1))), entry("a", 2, 5)], options).expect("applied");
        let mut left = set([removed(entry_key("a"))]);
        tree.leave_out_misfits(&mut left).expect("a store");
        assert_eq!(left, set([removed(entry_key("a"))]));
    }
}
