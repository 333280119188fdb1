//! How far somebody has heard of a volume's commits.

use std::fmt;

use dfs_shared::revision::Revision;

/// Stands behind one file event of a commit, or behind all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The commit.
    pub(super) revision: Revision,
    /// Which of its events, from 0; the largest number for all of them.
    pub(super) index: u32,
}

impl Mark {
    /// Stands behind all events of a commit.
    #[must_use]
    pub const fn end_of(revision: Revision) -> Self {
        Self { revision, index: u32::MAX }
    }

    /// Returns the first commit of which something follows.
    pub(super) fn first_open(self) -> Revision {
        if self.index == u32::MAX { self.revision.next() } else { self.revision }
    }

    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text.split_once('.') {
            Some((revision, index)) => {
                Some(Self { revision: Revision(revision.parse().ok()?), index: index.parse().ok()? })
            }
            None => Some(Self::end_of(Revision(text.parse().ok()?))),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            u32::MAX => write!(f, "{}", self.revision),
            index => write!(f, "{}.{index}", self.revision),
        }
    }
}
