//! The canonical Merkle tree over a volume's records, for the server and the mount alike.
//!
//! A record lies at the nibbles of SHA-256 of its key, so records are spread evenly. A node that has
//! at most [`crate::limits::MERKLE_LEAF_RECORDS_MAX`] records below it is a leaf, every other a branch of sixteen
//! children. Invariant: nodes depend on the set of records alone, never on the order in which it came
//! about, so two sides have equal roots exactly when they have equal records.
//!
//! A node's hash is SHA-256 of its bytes; a node without records is not stored and has
//! [`MerkleHash::EMPTY`]. Integers are big-endian.
//!
//! | leaf | content |
//! |---|---|
//! | 0 | tag `0` |
//! | 1 | number of records, 1 to 16 |
//! | for each record, by path | length of the key (2 bytes), key as `RecordKey::to_bytes`, record hash (32 bytes) |
//!
//! | branch | content |
//! |---|---|
//! | 0 | tag `1` |
//! | 1..3 | which children have records: bit n for nibble n |
//! | for each of these | hash (32 bytes), number of records below (8 bytes) |
//!
//! Everything here is pure: nodes lie in a [`NodeStore`], which brings its own transactions.

use std::collections::BTreeMap;
use std::convert::Infallible;

use sha2::{Digest, Sha256};

use crate::hash::{MerkleHash, RecordHash};
use crate::record::{RecordKey, Versioned};
use crate::wire::encode_plain;
use crate::wire::messages::MerkleNode;

mod node;
#[cfg(test)]
mod tests;
mod update;
mod walk;

use node::{DEPTH_MAX, Node};
pub use update::apply;
pub use walk::{Walk, WalkError};

/// Stands before everything that is hashed as a record, so that no other hash can be taken for one.
const RECORD_DOMAIN: &[u8] = b"dfs record 1\0";

/// Keeps the nodes of one volume's tree. A prefix has one nibble (0 to 15) in each byte; the root's is empty.
///
/// [`apply`] reads and writes each node at most once. Whoever implements this makes all writes of one
/// [`apply`] durable together or not at all.
pub trait NodeStore {
    /// Why the store failed.
    type Error;

    /// Reads the bytes of a node; `None` when it is not there.
    ///
    /// # Errors
    /// When the store fails.
    fn get(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Writes or replaces the bytes of a node.
    ///
    /// # Errors
    /// When the store fails.
    fn put(&mut self, prefix: &[u8], node: Vec<u8>) -> Result<(), Self::Error>;

    /// Removes a node that is there.
    ///
    /// # Errors
    /// When the store fails.
    fn remove(&mut self, prefix: &[u8]) -> Result<(), Self::Error>;
}

/// Why the tree could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MerkleError<E> {
    /// The store failed.
    #[error("the store of Merkle nodes failed")]
    Store(#[source] E),
    /// A stored node is no node, or not the one that its parent names.
    #[error("the Merkle node at {prefix:?} is damaged")]
    Damaged {
        /// Nibbles of the node's place.
        prefix: Vec<u8>,
    },
}

/// Keeps nodes in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryNodes {
    nodes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryNodes {
    /// Returns how many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl NodeStore for MemoryNodes {
    type Error = Infallible;

    fn get(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.nodes.get(prefix).cloned())
    }

    fn put(&mut self, prefix: &[u8], node: Vec<u8>) -> Result<(), Infallible> {
        self.nodes.insert(prefix.to_vec(), node);
        Ok(())
    }

    fn remove(&mut self, prefix: &[u8]) -> Result<(), Infallible> {
        self.nodes.remove(prefix);
        Ok(())
    }
}

/// Hashes a record's state: a domain, the length of the key (4 bytes), the key, and the plain encoding
/// of the value with its revision.
#[must_use]
pub fn record_hash(key: &RecordKey, value: &Versioned) -> RecordHash {
    let key = key.to_bytes();
    let mut hasher = Sha256::new();
    hasher.update(RECORD_DOMAIN);
    hasher.update(u32::try_from(key.len()).expect("a key has at most 272 bytes").to_be_bytes());
    hasher.update(&key);
    hasher.update(encode_plain(value));
    RecordHash::from_bytes(hasher.finalize().into())
}

/// Reads the tree's root hash.
///
/// # Errors
/// [`MerkleError`] when the store fails or the root is damaged.
pub fn root<S: NodeStore>(store: &S) -> Result<MerkleHash, MerkleError<S::Error>> {
    Ok(load(store, &[])?.map_or(MerkleHash::EMPTY, |(_, hash)| hash))
}

/// Reads how many records the tree has.
///
/// # Errors
/// [`MerkleError`] when the store fails or the root is damaged.
pub fn count<S: NodeStore>(store: &S) -> Result<u64, MerkleError<S::Error>> {
    Ok(load(store, &[])?.map_or(0, |(node, _)| node.count()))
}

/// Reads what is below a prefix, to answer a [`Walk`] on the other side. The prefix may be anything.
///
/// A prefix below a leaf gives those records of the leaf that belong there, so a walk that began before
/// the tree shrank still hears of all records.
///
/// # Errors
/// [`MerkleError`] when the store fails or a node is damaged.
pub fn node<S: NodeStore>(store: &S, prefix: &[u8]) -> Result<MerkleNode, MerkleError<S::Error>> {
    if let Some((node, _)) = load(store, prefix)? {
        return Ok(node.into_wire());
    }
    for depth in 0..prefix.len().min(DEPTH_MAX) {
        match load(store, &prefix[..depth])? {
            None => break,
            Some((Node::Branch(_), _)) => {}
            Some((Node::Leaf(mut records), _)) => {
                records.retain(|record| node::lies_below(&record.path, prefix));
                return Ok(Node::Leaf(records).into_wire());
            }
        }
    }
    Ok(MerkleNode::Leaf { records: Vec::new() })
}

/// Calls `visit` with every record below a prefix at which a node is stored, by path.
///
/// # Errors
/// [`MerkleError`] when the store fails or a node is damaged.
pub fn for_each_record<S: NodeStore>(
    store: &S,
    prefix: &[u8],
    visit: &mut impl FnMut(RecordKey, RecordHash),
) -> Result<(), MerkleError<S::Error>> {
    match load(store, prefix)? {
        None => {}
        Some((Node::Leaf(records), _)) => {
            records.into_iter().for_each(|record| visit(record.key, record.hash));
        }
        Some((Node::Branch(children), _)) => {
            for (nibble, child) in (0_u8..).zip(children.iter()) {
                if child.count > 0 {
                    for_each_record(store, &[prefix, &[nibble]].concat(), visit)?;
                }
            }
        }
    }
    Ok(())
}

/// Returns a node's bytes, for stores that hold [`MerkleNode`]s; `None` for an empty leaf.
#[must_use]
pub fn encode_node(node: &MerkleNode) -> Option<Vec<u8>> {
    match node {
        MerkleNode::Leaf { records } if records.is_empty() => None,
        other => Some(Node::from_wire_unchecked(other).encode()),
    }
}

/// Reads a node back from its bytes; `None` when they are not a node that can lie at `prefix`.
#[must_use]
pub fn decode_node(prefix: &[u8], bytes: &[u8]) -> Option<MerkleNode> {
    Node::decode(prefix, bytes).map(Node::into_wire)
}

/// Reads a node and its hash.
fn load<S: NodeStore>(store: &S, prefix: &[u8]) -> Result<Option<(Node, MerkleHash)>, MerkleError<S::Error>> {
    let Some(bytes) = store.get(prefix).map_err(MerkleError::Store)? else { return Ok(None) };
    match Node::decode(prefix, &bytes) {
        Some(node) => Ok(Some((node, MerkleHash::of(&bytes)))),
        None => Err(MerkleError::Damaged { prefix: prefix.to_vec() }),
    }
}
