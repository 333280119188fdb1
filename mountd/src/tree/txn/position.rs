//! Where names stand in their directories.
//!
//! A position is what `readdir` goes on from. Whoever reads a directory while it changes finds each name that is there all along
//! once, and once each file that only gets another name there: a name whose file is replaced keeps its position, and a
//! new name of a file takes the one that the file leaves.
//!
//! Invariant: two names of a directory never have the same position.

use std::collections::{BTreeMap, BTreeSet};

use dfs_shared::ids::NodeId;

use super::super::node::{Cookie, EntryTarget};

/// The positions that change hands in one change of the tree.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// What nodes have left in a directory, for another name of theirs there.
    left: BTreeMap<(NodeId, NodeId), Cookie>,
    /// What another name took over.
    passed_on: BTreeSet<(NodeId, Cookie)>,
}

impl Positions {
    /// A stored name leads nowhere any more.
    pub(super) fn leave(&mut self, parent: NodeId, stored: &EntryTarget) {
        if !self.passed_on.contains(&(parent, stored.cookie)) {
            self.left.insert((parent, stored.node), stored.cookie);
        }
    }

    /// Returns the position of a name that leads to `id` now and stood where `stored` says; `None`: a new one.
    pub(super) fn take(
        &mut self,
        parent: NodeId,
        id: NodeId,
        stored: Option<&EntryTarget>,
    ) -> Option<Cookie> {
        if let Some(stored) = stored.filter(|stored| !self.passed_on.contains(&(parent, stored.cookie))) {
            self.left.remove(&(parent, stored.node));
            return Some(stored.cookie);
        }
        let left = self.left.remove(&(parent, id))?;
        self.passed_on.insert((parent, left));
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use dfs_shared::record::NodeKind;

    use super::super::super::node::Ino;
    use super::*;

    #[test]
    fn a_position_that_was_passed_on_is_nobody_elses() {
        let (dir, file, other) = (NodeId::ROOT, NodeId::generate(), NodeId::generate());
        let stored = EntryTarget { node: file, ino: Ino(9), kind: NodeKind::File, cookie: Cookie(20) };
        let mut positions = Positions::default();
        positions.leave(dir, &stored);
        assert_eq!(positions.take(dir, file, None), Some(Cookie(20)), "its new name");
        assert_eq!(positions.take(dir, other, Some(&stored)), None, "what has its old name now");
        positions.leave(dir, &stored);
        assert_eq!(positions.take(dir, file, None), None);
        let mut positions = Positions::default();
        positions.leave(dir, &stored);
        assert_eq!(
            positions.take(dir, other, Some(&stored)),
            Some(Cookie(20)),
            "the name was there all along"
        );
        assert_eq!(positions.take(dir, file, None), None, "the file went elsewhere");
    }
}
