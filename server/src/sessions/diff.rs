//! What a client and the server have to do to have the same files: pure, file by file.
//!
//! A client's snapshot has one line for each of its files. `version` is the server's version on which the client's
//! content is based: the one that it downloaded or uploaded last; a client that never saw the server's file leaves it out.
//! `sync_state` says what the client knows of its own content; `deleted` keeps the line of a file that it removed.
//!
//! | client | server | result |
//! |---|---|---|
//! | nothing | file | download: the client never saw it, or forgot it |
//! | file | never had one | upload |
//! | file, unchanged since a version that was deleted | deleted | delete here (`files_to_delete_local`) |
//! | file, otherwise | deleted | upload: the edit survives |
//! | same hash | same hash | nothing, whatever the versions |
//! | other hash, no `version` | file | conflict: two files got the same name |
//! | other hash, `version` is the server's or later | file | upload; conflict if it says `synced`, which it cannot be |
//! | other hash, `version` is older, `synced` | file | download |
//! | other hash, `version` is older, otherwise | file | conflict: both sides changed it |
//! | `conflict` and another hash | file | conflict |
//! | `deleted`, `version` is the server's or later, or same hash | file | delete on the server |
//! | `deleted`, otherwise | file | download: the edit survives |
//! | `deleted` | nothing | nothing |
//!
//! Without a whole hash on both sides contents count as different, unless the client says `synced` with the server's
//! version. Invariants: a path is in at most one list; lists are sorted; the order of the server's files does not
//! matter; nothing that only one side has is ever deleted on the other without its having seen it.

use std::collections::BTreeMap;

use dfs_shared::ddl::SyncStatus;
use dfs_shared::hash::ChunkHash;

/// A file as a client describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalFile {
    /// The server's version on which its content is based.
    pub version: Option<u64>,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub hash: Option<ChunkHash>,
    /// What the client knows of it.
    pub status: Option<SyncStatus>,
}

/// A file as the server has it, or had it before it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFile {
    /// Which version.
    pub version: u64,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, if it is known.
    pub hash: Option<ChunkHash>,
}

/// What is to be done about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The client sends it.
    Upload,
    /// The client fetches it.
    Download,
    /// The client deletes it on the server.
    DeleteRemote,
    /// The client deletes its own.
    DeleteLocal,
    /// The client decides.
    Conflict,
}

/// A file that needs something done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub action: Action,
    /// Bytes to move; 0 where none are.
    pub bytes: u64,
    /// The server's version that the plan is about; `None` where it has no file.
    pub base: Option<u64>,
}

/// What a comparison came to, by path.
pub type Plan = BTreeMap<Vec<u8>, Planned>;

/// A comparison under way: the server's files come one by one, in any order.
#[derive(Debug)]
pub struct Comparison {
    local: BTreeMap<Vec<u8>, LocalFile>,
    plan: Plan,
}

impl Comparison {
    /// Begins with the client's files.
    #[must_use]
    pub fn new(local: BTreeMap<Vec<u8>, LocalFile>) -> Self {
        Self { local, plan: Plan::new() }
    }

    /// Takes one of the server's files.
    pub fn add(&mut self, path: Vec<u8>, server: &ServerFile) {
        let local = self.local.remove(&path);
        if let Some(action) = both(local.as_ref(), server) {
            let bytes = match action {
                Action::Download => server.size,
                Action::Upload | Action::Conflict => local.map_or(0, |local| local.size),
                Action::DeleteRemote | Action::DeleteLocal => 0,
            };
            self.plan.insert(path, Planned { action, bytes, base: Some(server.version) });
        }
    }

    /// Returns how many files need something done so far.
    #[must_use]
    pub fn planned(&self) -> usize {
        self.plan.len()
    }

    /// Decides what only the client has; `deleted` says what the server had last under a path.
    ///
    /// # Errors
    /// What `deleted` returns.
    pub fn finish<E>(
        mut self,
        mut deleted: impl FnMut(&[u8]) -> Result<Option<ServerFile>, E>,
    ) -> Result<Plan, E> {
        for (path, local) in self.local {
            if local.status == Some(SyncStatus::Deleted) {
                continue;
            }
            let is_behind = match deleted(&path)? {
                Some(last) => is_unchanged(&local, &last),
                None => false,
            };
            let (action, bytes) =
                if is_behind { (Action::DeleteLocal, 0) } else { (Action::Upload, local.size) };
            self.plan.insert(path, Planned { action, bytes, base: None });
        }
        Ok(self.plan)
    }
}

/// Decides about a file that the server has.
fn both(local: Option<&LocalFile>, server: &ServerFile) -> Option<Action> {
    let Some(local) = local else { return Some(Action::Download) };
    let is_current = local.version.is_some_and(|version| version >= server.version);
    let is_same = same_hash(local, server);
    if local.status == Some(SyncStatus::Deleted) {
        return Some(if is_current || is_same { Action::DeleteRemote } else { Action::Download });
    }
    let is_claimed = local.hash.is_none()
        && local.version == Some(server.version)
        && local.status == Some(SyncStatus::Synced);
    if is_same || is_claimed {
        return None;
    }
    Some(match (local.version, local.status) {
        (None, _) | (_, Some(SyncStatus::Conflict)) => Action::Conflict,
        (Some(_), Some(SyncStatus::Synced)) if is_current => Action::Conflict,
        (Some(_), Some(SyncStatus::Synced)) => Action::Download,
        (Some(_), _) if is_current => Action::Upload,
        (Some(_), _) => Action::Conflict,
    })
}

fn same_hash(local: &LocalFile, server: &ServerFile) -> bool {
    local.hash.is_some() && local.hash == server.hash
}

/// Tells whether a client's file is what the server had when it was deleted there.
fn is_unchanged(local: &LocalFile, last: &ServerFile) -> bool {
    let is_edited = matches!(
        local.status,
        Some(SyncStatus::Modified | SyncStatus::Syncing | SyncStatus::Conflict | SyncStatus::Deleted)
    );
    !is_edited && local.version.is_some_and(|version| version <= last.version) && same_hash(local, last)
}

#[cfg(test)]
mod tests;
