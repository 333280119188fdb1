//! What a remote change did to the local tree, for those who cache it: the kernel and open files.

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;

use super::node::{Ino, LocalNode};

/// One consequence of a remote change (or of undoing a local one) that somebody may have cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The name leads elsewhere or nowhere now, or did not exist before.
    Entry {
        /// The directory's inode number.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// The node's attributes changed.
    Attributes {
        /// The node's inode number.
        ino: Ino,
    },
    /// The file has other content now. Its bytes may not be here yet.
    Content {
        /// The node.
        node: NodeId,
        /// The node's inode number.
        ino: Ino,
    },
    /// The node is gone; open handles keep its last state.
    Removed {
        /// The node as it was, with `record` as it was before.
        node: Box<LocalNode>,
    },
    /// A content conflict: the local bytes of `from` (and its backing file) belong to the new node `to` now.
    /// Open handles that write go on with `to`.
    Forked {
        /// The node that took the server's content.
        from: Ino,
        /// The new node's inode number.
        to: Ino,
        /// The new node.
        to_node: NodeId,
        /// The conflict copy's name, beside the original.
        name: Name,
    },
}

/// Takes effects after they are true in the store. Must not block on the network or call back into the tree's writers.
pub trait EffectSink: Send + Sync {
    /// Takes the effects of one batch, in order.
    fn effects(&self, effects: Vec<Effect>);

    /// Returns once the kernel has forgotten what the effects so far are about, or after a second.
    fn settle(&self);
}
