//! Finds the records in which this side and the other differ, without input or output of its own.
//!
//! ```text
//! Walk::new ─► ask ─► (the other side's nodes) ─► answer ─┐
//!               ▲                                         │ something is left to ask
//!               └─────────────────────────────────────────┘
//!                                        is_done ─► into_differences
//! ```
//!
//! Breadth first, so the number of rounds is the depth of the tree and not the number of differences.
//! What the other side sends is checked before it is used. Invariant: whatever was answered is either
//! equal on both sides, among the differences, or covered by a prefix that is still to be asked.

use std::collections::VecDeque;

use super::node::{self, LeafRecord, Node, encode_leaf, nibble};
use super::update::load_child;
use super::{MerkleError, NodeStore, for_each_record, load};
use crate::limits::MERKLE_WALK_NODES_MAX;
use crate::record::RecordKey;
use crate::wire::messages::{MerkleChild, MerkleNode};

/// Why a walk cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError<E> {
    /// This side's tree could not be read.
    #[error("the local Merkle tree cannot be read")]
    Local(#[source] MerkleError<E>),
    /// The answer is not to the oldest prefixes that are to be asked.
    #[error("an answer to something that was not asked")]
    NotAsked,
    /// The other side sent more or fewer nodes than were asked.
    #[error("{asked} Merkle nodes were asked and {received} came")]
    WrongNodeCount {
        /// How many were asked.
        asked: usize,
        /// How many came.
        received: usize,
    },
    /// The other side sent a node that cannot be.
    #[error("the other side's Merkle node at {prefix:?} is invalid: {why}")]
    BadNode {
        /// Nibbles of the node's place.
        prefix: Vec<u8>,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The other side sent more nodes than any volume can have.
    #[error("the walk passed the limit of {MERKLE_WALK_NODES_MAX} nodes")]
    TooManyNodes,
}

impl<E> From<MerkleError<E>> for WalkError<E> {
    fn from(error: MerkleError<E>) -> Self {
        Self::Local(error)
    }
}

/// What this side has below a prefix.
#[derive(Debug)]
enum Local {
    /// The root, of which no parent tells anything.
    Root,
    /// A stored node.
    Stored(MerkleChild),
    /// Some records of a leaf further up, or none.
    Records(Vec<LeafRecord>),
}

#[derive(Debug)]
struct Pending {
    prefix: Vec<u8>,
    local: Local,
}

/// A comparison of this side's tree with the other side's.
///
/// While it lasts, this side's tree must not change. The other side's may: then the walk may report
/// too much and miss what changed meanwhile, so compare the roots once the differences are dealt with.
#[derive(Debug)]
pub struct Walk {
    pending: VecDeque<Pending>,
    differences: Vec<RecordKey>,
    nodes: usize,
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

impl Walk {
    /// Begins at the root.
    #[must_use]
    pub fn new() -> Self {
        let root = Pending { prefix: Vec::new(), local: Local::Root };
        Self { pending: VecDeque::from([root]), differences: Vec::new(), nodes: 0 }
    }

    /// Returns up to `max` prefixes to ask the other side for. Until they are answered, asks for the same again.
    #[must_use]
    pub fn ask(&self, max: usize) -> Vec<Vec<u8>> {
        self.pending.iter().take(max).map(|pending| pending.prefix.clone()).collect()
    }

    /// Tells whether nothing is left to ask.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes the other side's nodes for what [`Walk::ask`] returned.
    ///
    /// # Errors
    /// [`WalkError`] when this side's store fails or the answer is invalid; begin anew then.
    pub fn answer<S: NodeStore>(
        &mut self,
        local: &S,
        prefixes: &[Vec<u8>],
        nodes: Vec<MerkleNode>,
    ) -> Result<(), WalkError<S::Error>> {
        if prefixes.len() != nodes.len() {
            return Err(WalkError::WrongNodeCount { asked: prefixes.len(), received: nodes.len() });
        }
        self.nodes = self.nodes.saturating_add(nodes.len());
        if self.nodes > MERKLE_WALK_NODES_MAX {
            return Err(WalkError::TooManyNodes);
        }
        for (prefix, node) in prefixes.iter().zip(nodes) {
            let pending = self.pending.pop_front().ok_or(WalkError::NotAsked)?;
            if pending.prefix != *prefix {
                return Err(WalkError::NotAsked);
            }
            let remote = Node::from_wire(prefix, node)
                .map_err(|why| WalkError::BadNode { prefix: prefix.clone(), why })?;
            let here = match pending.local {
                Local::Root => load(local, prefix)?.map_or(Node::Leaf(Vec::new()), |(node, _)| node),
                Local::Stored(child) => load_child(local, prefix, child)?,
                Local::Records(records) => Node::Leaf(records),
            };
            self.compare(local, prefix, here, remote)?;
        }
        Ok(())
    }

    /// Takes the differences found so far, so that they can be worked on while the walk goes on.
    #[must_use]
    pub fn take_differences(&mut self) -> Vec<RecordKey> {
        std::mem::take(&mut self.differences)
    }

    /// Returns, in order, all keys whose records differ or are on one side only.
    #[must_use]
    pub fn into_differences(mut self) -> Vec<RecordKey> {
        self.differences.sort_unstable();
        self.differences
    }

    fn compare<S: NodeStore>(
        &mut self,
        local: &S,
        prefix: &[u8],
        here: Node,
        remote: Node,
    ) -> Result<(), WalkError<S::Error>> {
        match (here, remote) {
            (Node::Leaf(here), Node::Leaf(there)) => self.compare_records(here, there),
            (Node::Branch(children), Node::Leaf(there)) => {
                let mut here = Vec::new();
                for (n, child) in (0_u8..).zip(children.iter()).filter(|(_, child)| child.count > 0) {
                    let prefix = [prefix, &[n]].concat();
                    load_child(local, &prefix, *child)?;
                    for_each_record(local, &prefix, &mut |key, hash| here.push(LeafRecord::new(key, hash)))?;
                }
                self.compare_records(here, there);
            }
            (Node::Leaf(here), Node::Branch(there)) => self.descend_from_leaf(prefix, here, &there),
            (Node::Branch(here), Node::Branch(there)) => {
                for ((n, here), there) in (0_u8..).zip(here.iter()).zip(there.iter()) {
                    if here.hash == there.hash {
                        continue;
                    }
                    let prefix = [prefix, &[n]].concat();
                    if there.count == 0 {
                        for_each_record(local, &prefix, &mut |key, _| self.differences.push(key))?;
                    } else {
                        self.pending.push_back(Pending { prefix, local: Local::Stored(*here) });
                    }
                }
            }
        }
        Ok(())
    }

    fn descend_from_leaf(&mut self, prefix: &[u8], here: Vec<LeafRecord>, there: &[MerkleChild; 16]) {
        let mut parts: [Vec<LeafRecord>; 16] = Default::default();
        for record in here {
            parts[usize::from(nibble(&record.path, prefix.len()))].push(record);
        }
        for ((n, here), there) in (0_u8..).zip(parts).zip(there) {
            let is_equal = if here.is_empty() {
                there.count == 0
            } else {
                node::child_of(&encode_leaf(&here), here.len() as u64) == *there
            };
            if is_equal {
                continue;
            }
            if there.count == 0 {
                self.differences.extend(here.into_iter().map(|record| record.key));
            } else {
                let prefix = [prefix, &[n]].concat();
                self.pending.push_back(Pending { prefix, local: Local::Records(here) });
            }
        }
    }

    /// Adds the differences of two lists that are both in the order of paths.
    fn compare_records(&mut self, here: Vec<LeafRecord>, there: Vec<LeafRecord>) {
        let mut there = there.into_iter().peekable();
        for record in here {
            while let Some(other) = there.next_if(|other| other.path < record.path) {
                self.differences.push(other.key);
            }
            match there.next_if(|other| other.path == record.path) {
                Some(other) if other.hash == record.hash => {}
                _ => self.differences.push(record.key),
            }
        }
        self.differences.extend(there.map(|other| other.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::MemoryNodes;

    #[test]
    fn a_walk_takes_as_many_nodes_as_any_volume_has_and_no_more() {
        for (taken, is_over) in [(MERKLE_WALK_NODES_MAX - 1, false), (MERKLE_WALK_NODES_MAX, true)] {
            let mut walk = Walk { nodes: taken, ..Walk::new() };
            let prefixes = walk.ask(1);
            let answered =
                walk.answer(&MemoryNodes::default(), &prefixes, vec![MerkleNode::Leaf { records: vec![] }]);
            assert_eq!(matches!(answered, Err(WalkError::TooManyNodes)), is_over, "{taken}: {answered:?}");
        }
    }
}
