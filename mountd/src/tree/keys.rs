//! Keys of the store's tables, as bytes. docs/STORAGE.md has the table of them.

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;

use super::node::{Cookie, Ino};

/// Directory and name: an entry.
pub(super) fn entry(parent: NodeId, name: &Name) -> Vec<u8> {
    [&parent.as_bytes()[..], name.as_bytes()].concat()
}

/// Directory and cookie: an entry's place in its directory.
pub(super) fn index(parent: NodeId, cookie: Cookie) -> Vec<u8> {
    [&parent.as_bytes()[..], &cookie.0.to_be_bytes()].concat()
}

/// Node, directory and name: from a node to its names.
pub(super) fn name(node: NodeId, parent: NodeId, name: &Name) -> Vec<u8> {
    [&node.as_bytes()[..], parent.as_bytes(), name.as_bytes()].concat()
}

/// Inode number: to the node.
pub(super) fn inode(ino: Ino) -> [u8; 8] {
    ino.0.to_be_bytes()
}

/// Length of the prefix and the prefix: a node of the Merkle tree. The root's key is one byte, as the store takes no empty key.
pub(super) fn merkle(prefix: &[u8]) -> Vec<u8> {
    let len = u8::try_from(prefix.len()).expect("a prefix has at most 64 nibbles");
    [&[len], prefix].concat()
}

/// Takes directory and name off the end of a `name` key.
pub(super) fn parse_name(key: &[u8]) -> Option<(NodeId, Name)> {
    let (_, rest) = key.split_first_chunk::<16>()?;
    let (parent, name) = rest.split_first_chunk::<16>()?;
    Some((NodeId::from_bytes(*parent), Name::new(name).ok()?))
}
