//! One node of the tree: its bytes, its place and the rules that it has to keep.
//!
//! Invariant: a [`Node`] that came out of [`Node::decode`] or [`Node::from_wire`] may lie at its prefix
//! and is canonical; whether its parent names it is for others to check.

use crate::hash::{MerkleHash, RecordHash};
use crate::limits::MERKLE_LEAF_RECORDS_MAX;
use crate::record::RecordKey;
use crate::wire::messages::{MerkleChild, MerkleLeafRecord, MerkleNode};

/// SHA-256 of a record's key: where the record lies.
pub(super) type Path = [u8; 32];

/// Nibbles in a path, so also the greatest depth of a node.
pub(super) const DEPTH_MAX: usize = 64;

const LEAF_TAG: u8 = 0;
const BRANCH_TAG: u8 = 1;

/// A child that has no records.
pub(super) const NO_CHILD: MerkleChild = MerkleChild { hash: MerkleHash::EMPTY, count: 0 };

/// A record and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafRecord {
    pub(super) path: Path,
    pub(super) key: RecordKey,
    pub(super) hash: RecordHash,
}

/// A node in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// Up to 16 records by path. Only in memory it may be empty.
    Leaf(Vec<LeafRecord>),
    /// Sixteen children with more than 16 records in all.
    Branch(Box<[MerkleChild; 16]>),
}

/// Returns where a record lies.
pub(super) fn path_of(key: &RecordKey) -> Path {
    *MerkleHash::of(&key.to_bytes()).as_bytes()
}

/// Returns a path's nibble at a depth.
pub(super) fn nibble(path: &Path, depth: usize) -> u8 {
    let byte = path[depth / 2];
    if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

/// Tells whether a path begins with the nibbles of a prefix.
pub(super) fn lies_below(path: &Path, prefix: &[u8]) -> bool {
    prefix.len() <= DEPTH_MAX && prefix.iter().enumerate().all(|(depth, &want)| nibble(path, depth) == want)
}

/// Returns what a parent says of a leaf with these bytes.
pub(super) fn child_of(bytes: &[u8], count: u64) -> MerkleChild {
    MerkleChild { hash: MerkleHash::of(bytes), count }
}

impl LeafRecord {
    pub(super) fn new(key: RecordKey, hash: RecordHash) -> Self {
        Self { path: path_of(&key), key, hash }
    }
}

impl Node {
    /// Returns the number of records below; sums were checked when the node was read.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Leaf(records) => records.len() as u64,
            Self::Branch(children) => children.iter().map(|child| child.count).sum(),
        }
    }

    /// Returns the node's bytes, as the table in the head of the module above has them.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(records) => encode_leaf(records),
            Self::Branch(children) => encode_branch(children),
        }
    }

    /// Reads a node; `None` when the bytes are not one that can lie at `prefix`.
    pub(super) fn decode(prefix: &[u8], bytes: &[u8]) -> Option<Self> {
        let node = match bytes.split_first()? {
            (&LEAF_TAG, rest) => Self::Leaf(decode_leaf(rest)?),
            (&BRANCH_TAG, rest) => Self::Branch(decode_branch(rest)?),
            _ => return None,
        };
        let is_empty = matches!(&node, Self::Leaf(records) if records.is_empty());
        (!is_empty && node.check(prefix).is_ok()).then_some(node)
    }

    /// Takes a node that the other side sent for `prefix`.
    ///
    /// # Errors
    /// The rule that the node breaks.
    pub(super) fn from_wire(prefix: &[u8], node: MerkleNode) -> Result<Self, &'static str> {
        let node = match node {
            MerkleNode::Leaf { records } => {
                if records.len() > MERKLE_LEAF_RECORDS_MAX {
                    return Err("a leaf has too many records");
                }
                Self::Leaf(
                    records.into_iter().map(|record| LeafRecord::new(record.key, record.hash)).collect(),
                )
            }
            MerkleNode::Branch { children } => {
                Self::Branch(children.try_into().map_err(|_| "a branch has not sixteen children")?)
            }
        };
        node.check(prefix)?;
        Ok(node)
    }

    /// Takes a node from this program's own code, of which nothing needs to be checked.
    pub(super) fn from_wire_unchecked(node: &MerkleNode) -> Self {
        match node {
            MerkleNode::Leaf { records } => Self::Leaf(
                records.iter().map(|record| LeafRecord::new(record.key.clone(), record.hash)).collect(),
            ),
            MerkleNode::Branch { children } => {
                let mut all = [NO_CHILD; 16];
                for (place, child) in all.iter_mut().zip(children) {
                    *place = *child;
                }
                Self::Branch(Box::new(all))
            }
        }
    }

    /// Returns the node as a message has it.
    pub(super) fn into_wire(self) -> MerkleNode {
        match self {
            Self::Leaf(records) => MerkleNode::Leaf {
                records: records
                    .into_iter()
                    .map(|record| MerkleLeafRecord { key: record.key, hash: record.hash })
                    .collect(),
            },
            Self::Branch(children) => MerkleNode::Branch { children: children.to_vec() },
        }
    }

    fn check(&self, prefix: &[u8]) -> Result<(), &'static str> {
        match self {
            Self::Leaf(records) => {
                if !records.iter().all(|record| lies_below(&record.path, prefix)) {
                    return Err("a leaf has a record that lies elsewhere");
                }
                if !records.is_sorted_by(|a, b| a.path < b.path) {
                    return Err("a leaf's records are not in order");
                }
            }
            Self::Branch(children) => {
                if prefix.len() >= DEPTH_MAX {
                    return Err("a branch lies deeper than paths are long");
                }
                if children.iter().any(|child| (child.count == 0) != (child.hash == MerkleHash::EMPTY)) {
                    return Err("a branch's child has records but no hash, or a hash but no records");
                }
                let total = children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.count));
                if total.is_none_or(|total| total <= MERKLE_LEAF_RECORDS_MAX as u64) {
                    return Err("a branch has too few records, or more than can be counted");
                }
            }
        }
        Ok(())
    }
}

/// Returns the bytes of a leaf.
pub(super) fn encode_leaf(records: &[LeafRecord]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + records.len() * 72);
    bytes.push(LEAF_TAG);
    bytes.push(u8::try_from(records.len()).expect("a leaf has at most 16 records"));
    for record in records {
        let key = record.key.to_bytes();
        bytes
            .extend_from_slice(&u16::try_from(key.len()).expect("a key has at most 272 bytes").to_be_bytes());
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(record.hash.as_bytes());
    }
    bytes
}

/// Returns the bytes of a branch.
pub(super) fn encode_branch(children: &[MerkleChild; 16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 + 16 * 40);
    let present = (0..16).filter(|&n| children[n].count > 0).fold(0_u16, |bits, n| bits | (1 << n));
    bytes.push(BRANCH_TAG);
    bytes.extend_from_slice(&present.to_be_bytes());
    for child in children.iter().filter(|child| child.count > 0) {
        bytes.extend_from_slice(child.hash.as_bytes());
        bytes.extend_from_slice(&child.count.to_be_bytes());
    }
    bytes
}

fn decode_leaf(bytes: &[u8]) -> Option<Vec<LeafRecord>> {
    let (&count, mut rest) = bytes.split_first()?;
    let count = usize::from(count);
    if count > MERKLE_LEAF_RECORDS_MAX {
        return None;
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (key, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        let (hash, after) = after.split_first_chunk::<32>()?;
        records.push(LeafRecord {
            path: *MerkleHash::of(key).as_bytes(),
            key: RecordKey::from_bytes(key)?,
            hash: RecordHash::from_bytes(*hash),
        });
        rest = after;
    }
    rest.is_empty().then_some(records)
}

fn decode_branch(bytes: &[u8]) -> Option<Box<[MerkleChild; 16]>> {
    let (present, mut rest) = bytes.split_first_chunk::<2>()?;
    let present = u16::from_be_bytes(*present);
    let mut children = Box::new([NO_CHILD; 16]);
    for (n, child) in children.iter_mut().enumerate() {
        if present & (1 << n) == 0 {
            continue;
        }
        let (hash, after) = rest.split_first_chunk::<32>()?;
        let (count, after) = after.split_first_chunk::<8>()?;
        *child = MerkleChild { hash: MerkleHash::from_bytes(*hash), count: u64::from_be_bytes(*count) };
        if child.count == 0 {
            return None;
        }
        rest = after;
    }
    rest.is_empty().then_some(children)
}
