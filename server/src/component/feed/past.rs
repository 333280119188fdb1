//! File events of commits that the ring does not have, read from the store a few commits at a time.

use dfs_shared::revision::Revision;
use dfs_shared::wire::decode_plain;

use super::happened::{Happened, entry};
use super::mark::Mark;
use super::place::Places;
use super::{Feed, Wanted, gap, write_event};
use crate::limits::{COMMIT_CHANGES_READ, FEED_PIECE_LEN};
use crate::metadata::{CommitChanges, MetadataError, MetadataStore};
use crate::sync::FileChange;

/// What is still to be told before the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Past {
    behind: Mark,
    /// The last commit.
    until: Revision,
    /// Whether it is known that the store reaches far enough back.
    is_checked: bool,
}

/// Some events, and what is left.
pub(super) struct Read {
    pub(super) text: String,
    /// Behind what was read.
    pub(super) mark: Mark,
    pub(super) rest: Option<Past>,
}

impl Past {
    pub(super) fn new(behind: Mark, until: Revision) -> Self {
        Self { behind, until, is_checked: false }
    }
}

impl Feed {
    /// Reads some of the past. What cannot be read is a gap. Blocks.
    pub(super) fn read_past(&self, wanted: &Wanted, past: Past) -> Read {
        let end = Mark::end_of(past.until);
        let Some(store) = self.store.get() else {
            return Read { text: String::new(), mark: end, rest: None };
        };
        read(&**store, wanted, past).unwrap_or_else(|error| {
            tracing::error!(error = %crate::report::chain(&error), "past events cannot be read");
            let mut text = String::new();
            write_event(&mut text, None, &gap(None, "the events of earlier revisions cannot be read"));
            Read { text, mark: end, rest: None }
        })
    }
}

fn read(store: &dyn MetadataStore, wanted: &Wanted, past: Past) -> Result<Read, MetadataError> {
    let first = past.behind.first_open();
    let (oldest, commits) = store.read(|snapshot| match snapshot.volume(&wanted.volume)? {
        Some(volume) => Ok((
            snapshot.oldest_changes(volume.key)?,
            snapshot.changes_from(volume.key, first, COMMIT_CHANGES_READ)?,
        )),
        None => Ok((None, Vec::new())),
    })?;
    let mut text = String::new();
    if !past.is_checked && oldest.is_none_or(|oldest| oldest > first) {
        write_event(&mut text, None, &gap(None, "the events of earlier revisions are not kept"));
    }
    let is_end = commits.len() < COMMIT_CHANGES_READ;
    let (mut places, mut mark) = (Places::default(), past.behind);
    for CommitChanges { revision, time, changes } in commits {
        if revision > past.until {
            break;
        }
        let damaged = |source| MetadataError::Damaged {
            what: "changes of a commit",
            source: Some(std::sync::Arc::new(source)),
        };
        let changes: Vec<FileChange> = decode_plain(&changes).map_err(damaged)?;
        for (index, change) in (0..).zip(changes) {
            let own = Mark { revision, index };
            if own <= past.behind {
                continue;
            }
            let happened = Happened::of_change(change, wanted.volume.clone(), revision);
            let told = entry(store, &mut places, time, happened)?;
            mark = own;
            if wanted.takes(&told) {
                // No start of a server has the number 0: whoever comes back with this id comes back to its mark.
                write_event(&mut text, Some((0, 0, mark)), &told);
            }
            if text.len() >= FEED_PIECE_LEN {
                let rest = Some(Past { behind: mark, is_checked: true, ..past });
                return Ok(Read { text, mark, rest });
            }
        }
        mark = Mark::end_of(revision);
    }
    let is_end = is_end || mark >= Mark::end_of(past.until);
    let mark = if is_end { Mark::end_of(past.until) } else { mark };
    let rest = (!is_end).then_some(Past { behind: mark, is_checked: true, ..past });
    Ok(Read { text, mark, rest })
}
