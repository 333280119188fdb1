//! A commit request, checked as far as that needs no store. Runs on the request's own thread, so that
//! the one writer hashes nothing.

use std::collections::{BTreeMap, HashMap};

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::ClientId;
use dfs_shared::limits::{COMMIT_CHANGES_MAX, QUERY_ITEMS_MAX, SMALL_CONTENT_LEN_MAX};
use dfs_shared::record::{ChangeGroup, RecordKey};
use dfs_shared::wire::messages::{CommitRequest, NewContent, SmallChunk};

use super::SyncError;
use super::commit::Numbered;
use super::validity::{check_change, check_manifest};

/// A group and, if it can never be accepted, the first thing that is wrong with it.
#[derive(Debug)]
pub(super) struct CheckedGroup {
    pub(super) group: ChangeGroup,
    pub(super) flaw: Option<(RecordKey, String)>,
}

/// A commit request whose hashes have been verified.
#[derive(Debug)]
pub struct CheckedRequest {
    pub(super) client: ClientId,
    pub(super) commit: u64,
    /// If a client may repeat it.
    pub(super) numbered: Option<Numbered>,
    pub(super) groups: Vec<CheckedGroup>,
    /// Each content under its true id; the reason if its manifest is malformed.
    pub(super) contents: HashMap<ContentId, Result<NewContent, String>>,
    /// Verified bytes.
    pub(super) small_chunks: HashMap<ChunkHash, Vec<u8>>,
}

impl CheckedRequest {
    /// Checks a request.
    ///
    /// # Errors
    /// [`SyncError::TooMany`] or [`SyncError::BadRequest`] when the request as a whole is refused.
    pub(super) fn new(request: CommitRequest) -> Result<Self, SyncError> {
        let changes = request.groups.iter().map(|group| group.changes.len()).sum();
        at_most("changes in a commit", changes, COMMIT_CHANGES_MAX)?;
        at_most("groups in a commit", request.groups.len(), COMMIT_CHANGES_MAX)?;
        at_most("contents in a commit", request.contents.len(), COMMIT_CHANGES_MAX)?;
        at_most("small chunks in a commit", request.small_chunks.len(), COMMIT_CHANGES_MAX)?;
        let numbered = Numbered::of(&request);
        let mut small_chunks = HashMap::with_capacity(request.small_chunks.len());
        for SmallChunk { hash, bytes } in request.small_chunks {
            if bytes.is_empty() || bytes.len() as u64 > SMALL_CONTENT_LEN_MAX {
                let why = format!(
                    "small chunk {hash} has {} bytes: 1 to {SMALL_CONTENT_LEN_MAX} may be sent",
                    bytes.len()
                );
                return Err(SyncError::BadRequest { why });
            }
            if ChunkHash::of(&bytes) != hash {
                return Err(SyncError::BadRequest {
                    why: format!("the bytes of small chunk {hash} have another hash"),
                });
            }
            small_chunks.insert(hash, bytes);
        }
        let contents = request.contents.into_iter().map(|content| {
            let id = content.manifest.id();
            (id, check_manifest(&content.manifest).map(|()| content))
        });
        Ok(Self {
            client: request.client,
            commit: request.commit,
            numbered,
            groups: request.groups.into_iter().map(check_group).collect(),
            contents: contents.collect(),
            small_chunks,
        })
    }

    /// Tells whether a client may repeat it: then it is a mount's.
    pub(super) fn is_numbered(&self) -> bool {
        self.numbered.is_some()
    }

    /// About how many rows the request writes.
    pub(super) fn weight(&self) -> usize {
        let changes: usize = self.groups.iter().map(|checked| checked.group.changes.len()).sum();
        1 + changes + self.contents.len() + self.small_chunks.len()
    }
}

fn check_group(group: ChangeGroup) -> CheckedGroup {
    let mut seen = BTreeMap::new();
    let flaw = group.changes.iter().find_map(|change| {
        let twice = match seen.insert(&change.key, ()) {
            Some(()) => Err("the group has two changes of this record".to_owned()),
            None => Ok(()),
        };
        twice.and_then(|()| check_change(change)).err().map(|why| (change.key.clone(), why))
    });
    CheckedGroup { group, flaw }
}

/// Refuses a list that is too long.
///
/// # Errors
/// [`SyncError::TooMany`].
pub(super) fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), SyncError> {
    if count > max { Err(SyncError::TooMany { what, count, max }) } else { Ok(()) }
}

/// Refuses a query that asks for too much at once.
///
/// # Errors
/// [`SyncError::TooMany`].
pub(super) fn check_query(what: &'static str, count: usize) -> Result<(), SyncError> {
    at_most(what, count, QUERY_ITEMS_MAX)
}
