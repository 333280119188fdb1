//! What a path held: every version of the file that is there and of those that were, and names that were removed.
//!
//! A save that puts a new file in place of the old one makes another node; here its versions stand before the old one's.

use std::collections::HashSet;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::{NodeId, VolumeName};
use dfs_shared::limits::HISTORY_ITEMS_MAX;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord, Record, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::wire::history::{FileVersion, HistoryReply, HistoryRequest, RemovedName, VersionState};

use super::view::{self, View};
use super::{FilePath, FileService, FilesError, OWNER_XATTR};

impl FileService {
    /// Answers what a path held. Blocks.
    ///
    /// # Errors
    /// [`FilesError::BadPath`], [`FilesError::NotFound`] or [`FilesError::Sync`].
    pub fn past(&self, volume: &VolumeName, request: &HistoryRequest) -> Result<HistoryReply, FilesError> {
        view::read(&*self.metadata, volume, |view| match request {
            HistoryRequest::Versions { path } => {
                Ok(HistoryReply::Versions { versions: view.versions(&FilePath::from_bytes(path)?)? })
            }
            HistoryRequest::Removed { path, after } => {
                let directory = match path.is_empty() {
                    true => Some(NodeId::ROOT),
                    false => {
                        let path = FilePath::from_bytes(path)?;
                        let (above, name) = path.split_last();
                        view.place(above)?.map(|parent| view.led_to(parent, name)).transpose()?.flatten()
                    }
                };
                let not_found = || -> FilesError {
                    match FilePath::from_bytes(path) {
                        Ok(path) => FilesError::NotFound { path },
                        Err(error) => error,
                    }
                };
                view.removed_names(directory.ok_or_else(not_found)?, after)
            }
        })
    }
}

impl View<'_> {
    /// Finds the directory that is, or last was, at a path.
    fn place(&self, names: &[Name]) -> Result<Option<NodeId>, FilesError> {
        let mut at = NodeId::ROOT;
        for name in names {
            match self.led_to(at, name)? {
                Some(node) => at = node,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Finds what a name leads to, or last led to.
    fn led_to(&self, parent: NodeId, name: &Name) -> Result<Option<NodeId>, FilesError> {
        let key = RecordKey::Entry { parent, name: name.clone() };
        Ok(match self.snapshot.record(self.volume.key, &key)? {
            Some(Versioned { record: Record::Entry(entry), .. }) => Some(entry.node),
            Some(_) | None => self.snapshot.removed_entry(self.volume.key, &key)?.map(|past| past.node),
        })
    }

    fn versions(&self, path: &FilePath) -> Result<Vec<FileVersion>, FilesError> {
        let not_found = || FilesError::NotFound { path: path.clone() };
        let (above, name) = path.split_last();
        let parent = self.place(above)?.ok_or_else(not_found)?;
        let key = RecordKey::Entry { parent, name: name.clone() };
        let (mut versions, mut seen) = (Vec::new(), HashSet::new());
        if let Some(Versioned { record: Record::Entry(entry), .. }) =
            self.snapshot.record(self.volume.key, &key)?
        {
            seen.insert(entry.node);
            self.add_versions(entry.node, None, &mut versions)?;
        }
        for past in self.snapshot.past_entries(self.volume.key, &key, HISTORY_ITEMS_MAX)? {
            if seen.insert(past.node) && versions.len() < HISTORY_ITEMS_MAX {
                self.add_versions(past.node, Some(past.ended), &mut versions)?;
            }
        }
        versions.truncate(HISTORY_ITEMS_MAX);
        if versions.is_empty() { Err(not_found()) } else { Ok(versions) }
    }

    /// Adds the versions of a node, newest first; only those that it had before a commit.
    fn add_versions(
        &self,
        node: NodeId,
        before: Option<Revision>,
        versions: &mut Vec<FileVersion>,
    ) -> Result<(), FilesError> {
        let mut number = self.snapshot.past_versions(self.volume.key, node)?;
        let is_new = |revision: Revision| before.is_some_and(|before| revision >= before);
        let start = versions.len();
        if let Some(current) = self.node(node)?
            && current.record.kind == NodeKind::File
            && !is_new(current.revision)
        {
            let state = if before.is_none() { VersionState::Current } else { VersionState::Removed };
            let author = self.author(current.revision, &current.record, None)?;
            versions.push(version(number + 1, current.revision, &current.record, author, state));
        }
        for past in self.snapshot.history(self.volume.key, node, HISTORY_ITEMS_MAX)? {
            let Record::Node(record) = past.record else { continue };
            let this = number;
            number = number.saturating_sub(1);
            if record.kind != NodeKind::File || is_new(past.began) {
                continue;
            }
            let is_last = versions.len() == start;
            let state =
                if is_last && before.is_some() { VersionState::Removed } else { VersionState::Replaced };
            let author = self.author(past.began, &record, past.author.map(|client| client.to_string()))?;
            versions.push(version(this, past.began, &record, author, state));
        }
        Ok(())
    }

    /// Names who made a revision: the client by its name, or whom the API calls the owner.
    fn author(
        &self,
        revision: Revision,
        record: &NodeRecord,
        noted: Option<String>,
    ) -> Result<Option<String>, FilesError> {
        let client = match noted {
            Some(client) => dfs_shared::ids::ClientId::new(&client).ok(),
            None => self.snapshot.commit_author(self.volume.key, revision)?,
        };
        let Some(client) = client else { return Ok(None) };
        if client.as_str() == super::write::COMMITTER
            && let Some(owner) = record.xattrs.get(OWNER_XATTR)
        {
            return Ok(Some(String::from_utf8_lossy(owner).into_owned()));
        }
        let name = self.snapshot.client(self.volume.key, &client)?.map(|client| client.name);
        Ok(Some(name.filter(|name| !name.is_empty()).unwrap_or_else(|| client.to_string())))
    }

    fn removed_names(&self, directory: NodeId, after: &[u8]) -> Result<HistoryReply, FilesError> {
        let page = self.snapshot.past_names(self.volume.key, directory, after, HISTORY_ITEMS_MAX)?;
        let (is_full, mut last, mut names) = (page.len() == HISTORY_ITEMS_MAX, None, Vec::new());
        for past in page {
            let Record::Entry(entry) = &past.record else { continue };
            last = Some(entry.name.as_bytes().to_vec());
            let is_there = self.snapshot.record(self.volume.key, &entry.key())?.is_some();
            // What lives on under another name was moved, not removed.
            if is_there || self.node(past.node)?.is_some() {
                continue;
            }
            let newest = self.snapshot.history(self.volume.key, past.node, HISTORY_ITEMS_MAX)?;
            let newest = newest.into_iter().find_map(|past| match past.record {
                Record::Node(node) => Some(node),
                Record::Entry(_) => None,
            });
            let Some(node) = newest else { continue };
            names.push(RemovedName {
                name: entry.name.as_bytes().to_vec(),
                is_directory: node.kind == NodeKind::Directory,
                size: node.size,
                at: past.time,
                by: self.author(past.ended, &node, None)?,
            });
        }
        Ok(HistoryReply::Removed { names, next: last.filter(|_| is_full) })
    }
}

fn version(
    number: u64,
    revision: Revision,
    record: &NodeRecord,
    author: Option<String>,
    state: VersionState,
) -> FileVersion {
    let content: Option<ContentId> = record.content;
    let (size, mtime, mode) = (record.size, record.mtime, record.mode);
    FileVersion { number, revision, size, mtime, mode, content, author, state }
}
