//! Changes the tree: one batch, each touched node read and written once.
//!
//! A changed leaf is handed up before it is written, because its parent may have become small enough
//! to swallow it. Invariant: after [`apply`] the stored nodes are exactly those of the new set of
//! records.

use super::node::{self, LeafRecord, NO_CHILD, Node, Path, encode_branch, encode_leaf, nibble};
use super::{MerkleError, NodeStore, load};
use crate::hash::{MerkleHash, RecordHash};
use crate::limits::MERKLE_LEAF_RECORDS_MAX;
use crate::record::RecordKey;
use crate::wire::messages::MerkleChild;

/// One record's wanted state and where it lies.
struct Change {
    path: Path,
    key: RecordKey,
    hash: Option<RecordHash>,
}

/// What a batch made of the part of the tree below a prefix.
enum Outcome {
    /// Nothing is different.
    Unchanged { hash: MerkleHash },
    /// A leaf that is not written yet; without records the node has to go.
    Leaf { records: Vec<LeafRecord>, bytes: Vec<u8> },
    /// A branch that is written.
    Branch { child: MerkleChild },
}

/// Makes a batch of records present with a hash, or absent, and returns the new root.
///
/// Where a key comes twice the last one counts. Repeating a batch, or removing what is not there, is
/// allowed and writes nothing. Costs about five node reads and writes for each record far from others
/// in a tree of a million. When it fails the store may hold half of the batch: drop the transaction.
///
/// # Errors
/// [`MerkleError`] when the store fails or a node on the way is damaged.
pub fn apply<S: NodeStore>(
    store: &mut S,
    changes: Vec<(RecordKey, Option<RecordHash>)>,
) -> Result<MerkleHash, MerkleError<S::Error>> {
    let mut changes: Vec<Change> =
        changes.into_iter().map(|(key, hash)| Change { path: node::path_of(&key), key, hash }).collect();
    // Of equal paths the last in the batch comes first and survives.
    changes.reverse();
    changes.sort_by_key(|change| change.path);
    changes.dedup_by(|later, first| later.path == first.path);

    let mut prefix = Vec::with_capacity(8);
    match visit(store, &mut prefix, None, &changes)? {
        Outcome::Unchanged { hash } => Ok(hash),
        Outcome::Branch { child } => Ok(child.hash),
        Outcome::Leaf { records, .. } if records.is_empty() => {
            store.remove(&[]).map_err(MerkleError::Store)?;
            Ok(MerkleHash::EMPTY)
        }
        Outcome::Leaf { bytes, .. } => {
            let hash = MerkleHash::of(&bytes);
            store.put(&[], bytes).map_err(MerkleError::Store)?;
            Ok(hash)
        }
    }
}

/// Applies `changes`, all of which lie below `prefix`. `known` is what the parent says of the node.
fn visit<S: NodeStore>(
    store: &mut S,
    prefix: &mut Vec<u8>,
    known: Option<MerkleChild>,
    changes: &[Change],
) -> Result<Outcome, MerkleError<S::Error>> {
    let (node, hash) = match known {
        Some(child) => (load_child(store, prefix, child)?, child.hash),
        None => load(store, prefix)?.unwrap_or((Node::Leaf(Vec::new()), MerkleHash::EMPTY)),
    };
    let children = match node {
        Node::Branch(children) => children,
        Node::Leaf(records) => return visit_leaf(store, prefix, hash, records, changes),
    };
    let mut edit = BranchEdit { children: *children, old: *children, leaves: Default::default() };
    let mut is_changed = false;
    let depth = prefix.len();
    for group in changes.chunk_by(|a, b| nibble(&a.path, depth) == nibble(&b.path, depth)) {
        let n = nibble(&group[0].path, depth);
        let place = usize::from(n);
        prefix.push(n);
        let outcome = visit(store, prefix, Some(children[place]), group)?;
        prefix.pop();
        match outcome {
            Outcome::Unchanged { .. } => continue,
            Outcome::Branch { child } => edit.children[place] = child,
            Outcome::Leaf { records, bytes } => {
                edit.children[place] =
                    if records.is_empty() { NO_CHILD } else { node::child_of(&bytes, records.len() as u64) };
                edit.leaves[place] = Some((records, bytes));
            }
        }
        is_changed = true;
    }
    match edit.count() {
        _ if !is_changed => Ok(Outcome::Unchanged { hash }),
        count if count <= MERKLE_LEAF_RECORDS_MAX as u64 => edit.collapse(store, prefix),
        count => edit.write(store, prefix, count),
    }
}

fn visit_leaf<S: NodeStore>(
    store: &mut S,
    prefix: &mut Vec<u8>,
    hash: MerkleHash,
    records: Vec<LeafRecord>,
    changes: &[Change],
) -> Result<Outcome, MerkleError<S::Error>> {
    let (records, is_changed) = merge(records, changes);
    if !is_changed {
        return Ok(Outcome::Unchanged { hash });
    }
    if records.len() <= MERKLE_LEAF_RECORDS_MAX {
        let bytes = encode_leaf(&records);
        return Ok(Outcome::Leaf { records, bytes });
    }
    Ok(Outcome::Branch { child: grow(store, prefix, &records)? })
}

/// Merges sorted records with sorted changes; tells whether that made a difference.
fn merge(records: Vec<LeafRecord>, changes: &[Change]) -> (Vec<LeafRecord>, bool) {
    let mut merged = Vec::with_capacity(records.len() + changes.len());
    let mut is_changed = false;
    let mut old = records.into_iter().peekable();
    for change in changes {
        while let Some(record) = old.next_if(|record| record.path < change.path) {
            merged.push(record);
        }
        let before = old.next_if(|record| record.path == change.path).map(|record| record.hash);
        is_changed |= before != change.hash;
        if let Some(hash) = change.hash {
            merged.push(LeafRecord { path: change.path, key: change.key.clone(), hash });
        }
    }
    merged.extend(old);
    (merged, is_changed)
}

/// Writes a branch and everything below it from more than 16 records, where only a leaf or nothing was.
fn grow<S: NodeStore>(
    store: &mut S,
    prefix: &mut Vec<u8>,
    records: &[LeafRecord],
) -> Result<MerkleChild, MerkleError<S::Error>> {
    let mut children = [NO_CHILD; 16];
    let depth = prefix.len();
    for group in records.chunk_by(|a, b| nibble(&a.path, depth) == nibble(&b.path, depth)) {
        let n = nibble(&group[0].path, depth);
        prefix.push(n);
        children[usize::from(n)] = if group.len() > MERKLE_LEAF_RECORDS_MAX {
            grow(store, prefix, group)?
        } else {
            let bytes = encode_leaf(group);
            let child = node::child_of(&bytes, group.len() as u64);
            store.put(prefix, bytes).map_err(MerkleError::Store)?;
            child
        };
        prefix.pop();
    }
    let bytes = encode_branch(&children);
    let child = node::child_of(&bytes, records.len() as u64);
    store.put(prefix, bytes).map_err(MerkleError::Store)?;
    Ok(child)
}

/// A branch whose children were visited.
struct BranchEdit {
    old: [MerkleChild; 16],
    children: [MerkleChild; 16],
    /// Changed leaves that are not written yet, with their bytes.
    leaves: [Option<(Vec<LeafRecord>, Vec<u8>)>; 16],
}

impl BranchEdit {
    fn count(&self) -> u64 {
        self.children.iter().fold(0, |sum, child| sum.saturating_add(child.count))
    }

    /// Writes the branch and its changed leaves.
    fn write<S: NodeStore>(
        self,
        store: &mut S,
        prefix: &mut Vec<u8>,
        count: u64,
    ) -> Result<Outcome, MerkleError<S::Error>> {
        for ((n, leaf), old) in (0_u8..).zip(self.leaves).zip(self.old) {
            let Some((records, bytes)) = leaf else { continue };
            prefix.push(n);
            if !records.is_empty() {
                store.put(prefix, bytes).map_err(MerkleError::Store)?;
            } else if old.count > 0 {
                store.remove(prefix).map_err(MerkleError::Store)?;
            }
            prefix.pop();
        }
        let bytes = encode_branch(&self.children);
        let child = node::child_of(&bytes, count);
        store.put(prefix, bytes).map_err(MerkleError::Store)?;
        Ok(Outcome::Branch { child })
    }

    /// Turns the branch, which has few records now, into a leaf and removes its children.
    fn collapse<S: NodeStore>(
        self,
        store: &mut S,
        prefix: &mut Vec<u8>,
    ) -> Result<Outcome, MerkleError<S::Error>> {
        let mut all = Vec::with_capacity(MERKLE_LEAF_RECORDS_MAX);
        for ((n, leaf), old) in (0_u8..).zip(self.leaves).zip(self.old) {
            prefix.push(n);
            match leaf {
                Some((records, _)) => all.extend(records),
                None if old.count > 0 => match load_child(store, prefix, old)? {
                    Node::Leaf(records) => all.extend(records),
                    Node::Branch(_) => return Err(MerkleError::Damaged { prefix: prefix.clone() }),
                },
                None => {}
            }
            if old.count > 0 {
                store.remove(prefix).map_err(MerkleError::Store)?;
            }
            prefix.pop();
        }
        let bytes = encode_leaf(&all);
        Ok(Outcome::Leaf { records: all, bytes })
    }
}

/// Reads a child and holds it against what its parent says of it.
pub(super) fn load_child<S: NodeStore>(
    store: &S,
    prefix: &[u8],
    child: MerkleChild,
) -> Result<Node, MerkleError<S::Error>> {
    if child.count == 0 {
        return Ok(Node::Leaf(Vec::new()));
    }
    match load(store, prefix)? {
        Some((node, hash)) if hash == child.hash && node.count() == child.count => Ok(node),
        _ => Err(MerkleError::Damaged { prefix: prefix.to_vec() }),
    }
}
