//! Files by path: what the public API shows of a volume and how it changes it.
//!
//! The records, contents and history are those of the mounts: a file written here is pushed to them like every commit,
//! and what they commit is found here. Leaves the rules of a commit to `sync` and storage to `metadata`.
//! Invariant: every change is one change group, so nobody sees half of it.
//!
//! A file's `version` counts its kept contents: 1 is the first, and every commit that changes the content of the node
//! adds one. Times, owner and mode are no part of it. A file that replaces another one under the same name by a rename
//! is another node and starts at 1 again.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use dfs_shared::ddl::{FileMetadata, Replica, SyncStatus};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::NodeRecord;
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::SmallChunk;
use parking_lot::Mutex;

use crate::blocking::offload;
use crate::limits::{FILE_PAGE_LEN_MAX, FILE_PAGE_VISITS_MAX};
use crate::metadata::{MetadataError, MetadataStore, Volume};
use crate::sync::SyncService;

mod announced;
mod error;
mod hash;
mod list;
mod past;
mod path;
mod view;
mod write;

use list::Walk;

pub use announced::{Added, NewFile};
pub use error::FilesError;
pub use path::FilePath;

/// The extended attribute of a file's record that holds what the API calls its owner.
pub const OWNER_XATTR: &[u8] = b"user.dfs.owner";

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it is, or was.
    pub path: FilePath,
    /// The node.
    pub node: NodeId,
    /// Which version of the node's content this is, from 1.
    pub version: u64,
    /// The node's record; its `content` and `size` are those of this version.
    pub record: NodeRecord,
    /// The commit that made the record.
    pub revision: Revision,
    /// SHA-256 of the bytes where it is known without reading them. [`FileService::file_hash`] reads them.
    pub file_hash: Option<ChunkHash>,
    /// `Synced` for a version that is or was current, `Deleted` for the last one of a removed file.
    pub status: SyncStatus,
    /// Who has which version: the server itself, which has the current one, and behind it the mounts by their client ids, as they
    /// reported last. In a history only those who have that version.
    pub replicas: Vec<Replica>,
}

impl FileInfo {
    /// Returns the length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// Returns the content, `None` for an empty file. Good for an ETag.
    #[must_use]
    pub fn content(&self) -> Option<ContentId> {
        self.record.content
    }

    /// Returns the last change of the content.
    #[must_use]
    pub fn mtime(&self) -> Timestamp {
        self.record.mtime
    }

    /// Returns the owner: what the API has set, otherwise the numeric user id.
    #[must_use]
    pub fn owner(&self) -> String {
        match self.record.xattrs.get(OWNER_XATTR) {
            Some(owner) => String::from_utf8_lossy(owner).into_owned(),
            None => self.record.uid.to_string(),
        }
    }
}

/// Some files in order, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The files, by path: name by name, names by their bytes. May be empty although more follow.
    pub files: Vec<FileInfo>,
    /// Announced files in the same range, in order: metadata without a content, and no file at the path.
    pub announced: Vec<FileMetadata>,
    /// Asks for the next page; `None` after the last one.
    pub cursor: Option<String>,
}

/// A content that is about to become a file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContent {
    /// Its chunks; none for an empty file. Those not in `small_chunks` were uploaded before.
    pub manifest: Manifest,
    /// SHA-256 of the bytes, if somebody has read them all.
    pub file_hash: Option<ChunkHash>,
    /// Bytes of chunks of a content of at most `SMALL_CONTENT_LEN_MAX` bytes; empty where they were uploaded.
    pub small_chunks: Vec<SmallChunk>,
}

/// Asks for a file to have a content: [`FileService::publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Which file. Missing directories are made.
    pub path: FilePath,
    /// The content.
    pub content: NewContent,
    /// Last change of the content; `None`: now.
    pub mtime: Option<Timestamp>,
    /// What the API calls the owner; `None`: the author.
    pub owner: Option<String>,
    /// Who made the version.
    pub author: ClientId,
    /// The version that is to be replaced, 0 for a file that must not be there yet; `None`: whatever is there.
    pub expected_version: Option<u64>,
}

/// Asks for other metadata of a file: [`FileService::set_metadata`]. `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetadataChange {
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// What the API calls the owner.
    pub owner: Option<String>,
    /// A content that the server has: hash and length. Another one than the file's makes a new version.
    pub content: Option<(ChunkHash, u64)>,
    /// The version that the file must have.
    pub expected_version: Option<u64>,
}

/// Files by path over the sync service and its store. Reads block the thread for the time of database reads.
pub struct FileService {
    sync: Arc<SyncService>,
    metadata: Arc<dyn MetadataStore>,
    /// Volumes in which the service is registered as a client of its own.
    joined: Mutex<HashSet<VolumeName>>,
    /// Held while a file is read for its hash.
    hashing: Mutex<()>,
}

impl std::fmt::Debug for FileService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileService").finish_non_exhaustive()
    }
}

impl FileService {
    /// Joins the sync service and the store that it works on.
    #[must_use]
    pub fn new(sync: Arc<SyncService>, metadata: Arc<dyn MetadataStore>) -> Self {
        Self { sync, metadata, joined: Mutex::default(), hashing: Mutex::default() }
    }

    /// Returns the sync service, for chunks.
    #[must_use]
    pub fn sync(&self) -> &Arc<SyncService> {
        &self.sync
    }

    /// Finds a file. Blocks.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::NotAFile`] or [`FilesError::Sync`].
    pub fn find(&self, volume: &VolumeName, path: &FilePath) -> Result<FileInfo, FilesError> {
        view::read(&*self.metadata, volume, |view| view.find(path))
    }

    /// Lists up to `limit` files whose path begins with these bytes. Looks at a bounded number of records, so a page may
    /// be short or empty and still have a cursor. Blocks.
    ///
    /// # Errors
    /// [`FilesError::BadCursor`], [`FilesError::BadPath`] for a prefix that no path begins with, or [`FilesError::Sync`].
    pub fn list(
        &self,
        volume: &VolumeName,
        prefix: &[u8],
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page, FilesError> {
        let limit = limit.clamp(1, FILE_PAGE_LEN_MAX);
        let cursor = cursor.map(|text| list::cursor_bytes(text, prefix)).transpose()?;
        view::read(&*self.metadata, volume, |view| {
            list::page(view, prefix, limit, cursor.as_deref(), FILE_PAGE_VISITS_MAX)
        })
    }

    /// Returns the cursor of a page that begins behind a path.
    #[must_use]
    pub fn cursor_behind(path: &FilePath) -> String {
        list::cursor_text(&path.to_bytes())
    }

    /// Shows all files of a volume in one consistent snapshot, in the order of [`FileService::list`], until `visit`
    /// breaks. Returns the volume as the snapshot has it. Blocks.
    ///
    /// # Errors
    /// [`FilesError::Sync`].
    pub fn snapshot(
        &self,
        volume: &VolumeName,
        visit: &mut dyn FnMut(FileInfo) -> ControlFlow<()>,
    ) -> Result<Volume, FilesError> {
        view::read(&*self.metadata, volume, |view| {
            let mut walk = Walk::begin(view, b"", None)?;
            while let ControlFlow::Continue(found) = walk.step(view)? {
                if let Some((path, node)) = found
                    && visit(view.current(path, node)?).is_break()
                {
                    break;
                }
            }
            Ok(view.volume.clone())
        })
    }

    /// Reads every kept version of a file, newest first, at most `limits::FILE_VERSIONS_MAX`. Of a removed file those
    /// that it had until it was removed. Blocks.
    ///
    /// # Errors
    /// As [`FileService::find`].
    pub fn history(&self, volume: &VolumeName, path: &FilePath) -> Result<Vec<FileInfo>, FilesError> {
        view::read(&*self.metadata, volume, |view| view.history(path))
    }

    /// Finds one version of a file, removed or not. Blocks.
    ///
    /// # Errors
    /// As [`FileService::find`], and [`FilesError::NoVersion`].
    pub fn at_version(
        &self,
        volume: &VolumeName,
        path: &FilePath,
        version: u64,
    ) -> Result<FileInfo, FilesError> {
        let versions = self.history(volume, path)?;
        let newest = versions.first().map_or(0, |newest| newest.version);
        let found = versions.into_iter().find(|kept| kept.version == version);
        found.ok_or_else(|| FilesError::NoVersion { path: path.clone(), version, newest })
    }

    /// Reads the chunks of a version, in order; none for an empty file. Blocks.
    ///
    /// # Errors
    /// [`FilesError::Sync`].
    pub fn manifest(&self, info: &FileInfo) -> Result<Manifest, FilesError> {
        let Some(id) = info.content() else { return Ok(Manifest::default()) };
        let found = self.metadata.read(|snapshot| snapshot.content(&id))?;
        Ok(found.ok_or(MetadataError::Damaged { what: "content of a file", source: None })?)
    }

    /// Returns the SHA-256 of a version's bytes. Where nobody has told it, the bytes are read chunk by chunk and the hash
    /// is kept, so that the next one is told at once. Blocks, for the time of reading the file in the worst case.
    ///
    /// # Errors
    /// [`FilesError::Damaged`], [`FilesError::TooLong`] or [`FilesError::Sync`].
    pub fn file_hash(&self, info: &FileInfo) -> Result<ChunkHash, FilesError> {
        match (info.file_hash, info.content()) {
            (Some(hash), _) => Ok(hash),
            (None, None) => Ok(ChunkHash::of(b"")),
            (None, Some(id)) => self.read_hash(info, id),
        }
    }

    /// Finds a content of the server by the SHA-256 and the number of its bytes, as far as the hash is known. Blocks.
    ///
    /// # Errors
    /// [`FilesError::Sync`].
    pub fn content_with_hash(&self, hash: &ChunkHash, size: u64) -> Result<Option<NewContent>, FilesError> {
        let manifest = self.known_content(hash, size)?;
        let content = |manifest| NewContent { manifest, file_hash: Some(*hash), small_chunks: Vec::new() };
        Ok(manifest.map(content))
    }

    /// Gives a file a content in one atomic commit: makes it and its directories if they are missing, otherwise replaces
    /// the content of the same node. Returns when that is durable and on its way to the mounts.
    ///
    /// # Errors
    /// [`FilesError::VersionConflict`], [`FilesError::NotAFile`], [`FilesError::NotADirectory`],
    /// [`FilesError::ChunksMissing`], [`FilesError::Contended`], [`FilesError::Refused`] or [`FilesError::Sync`].
    pub async fn publish(&self, volume: &VolumeName, wanted: Publish) -> Result<FileInfo, FilesError> {
        let path = wanted.path.clone();
        let published = self.change(volume, &path, move |view| write::publish(view, &wanted)).await?;
        if published.version == 1 {
            self.forget_announced(volume, &path).await?;
        }
        Ok(published)
    }

    /// Changes metadata of a file that is there.
    ///
    /// # Errors
    /// As [`FileService::publish`], and [`FilesError::NotFound`] or [`FilesError::ContentUnknown`].
    pub async fn set_metadata(
        self: &Arc<Self>,
        volume: &VolumeName,
        path: &FilePath,
        change: MetadataChange,
    ) -> Result<FileInfo, FilesError> {
        let (service, name, at) = (Arc::clone(self), volume.clone(), path.clone());
        let wanted = change.content;
        let content = offload(move || service.other_content(&name, &at, wanted)).await?;
        let at = path.clone();
        self.change(volume, path, move |view| write::set_metadata(view, &at, &change, content.as_ref())).await
    }

    /// Finds the content that a file is to have, if it has another one now. Blocks.
    fn other_content(
        &self,
        volume: &VolumeName,
        path: &FilePath,
        wanted: Option<(ChunkHash, u64)>,
    ) -> Result<Option<NewContent>, FilesError> {
        let Some((hash, size)) = wanted else { return Ok(None) };
        let info = self.find(volume, path)?;
        if info.size() == size && self.file_hash(&info)? == hash {
            return Ok(None);
        }
        let content = self.content_with_hash(&hash, size)?;
        content.map(Some).ok_or(FilesError::ContentUnknown { hash, size })
    }

    /// Removes a file's name; with its last name the file goes to the history. Returns what was removed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::NotAFile`], [`FilesError::Contended`] or [`FilesError::Sync`].
    pub async fn remove(&self, volume: &VolumeName, path: &FilePath) -> Result<FileInfo, FilesError> {
        let at = path.clone();
        self.change(volume, path, move |view| write::remove(view, &at)).await
    }
}

#[cfg(test)]
mod tests;
