//! Files whose metadata is known and whose content is not: kept beside the namespace, so that no mount ever shows wrong
//! bytes. The public API shows them as `modified`, without replicas; the upload of the content makes them files.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use dfs_shared::ddl::{self, FileHash, FileMetadata, ModifiedAt, SyncState, SyncStatus};
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::time::Timestamp;

use super::view::{self, View};
use super::{FileInfo, FilePath, FileService, FilesError, Publish};
use crate::blocking::offload;
use crate::limits::FILE_OWNER_LEN_MAX;
use crate::metadata::MetadataError;

/// Asks for a file with a content that may or may not be here: [`FileService::add`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Which file.
    pub path: FilePath,
    /// The hash of its bytes, perhaps shortened.
    pub hash: FileHash,
    /// How many bytes it has.
    pub size: u64,
    /// What the caller calls the version; kept only as long as the content is not here.
    pub version: u64,
    /// Last change of the content; `None`: now.
    pub mtime: Option<Timestamp>,
    /// What the API calls the owner; `None`: the author.
    pub owner: Option<String>,
    /// Who adds it.
    pub author: ClientId,
}

/// What became of an added file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// The content is here: it is a file now.
    Made(FileInfo),
    /// A file with this content was there already; nothing was changed.
    Same(FileInfo),
    /// The content is not here: the metadata is kept until it is uploaded.
    Announced(FileMetadata),
}

/// The path as the store sorts announced files.
pub(super) fn key(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
}

impl FileService {
    /// Adds a file: with its content if the server has it, otherwise as an announcement that no mount sees.
    ///
    /// # Errors
    /// [`FilesError::Exists`], [`FilesError::Refused`] for a hash that cannot be, and as [`FileService::publish`].
    pub async fn add(self: &Arc<Self>, volume: &VolumeName, new: NewFile) -> Result<Added, FilesError> {
        let empty = FileHash::from(ChunkHash::of(b""));
        if new.size == 0 && !empty.as_str().starts_with(new.hash.as_str()) {
            return Err(FilesError::Refused { why: format!("0 bytes have the hash {}", empty.as_str()) });
        }
        let hash = if new.size == 0 { Some(ChunkHash::of(b"")) } else { new.hash.sha256() };
        if let Some(same) = self.same_file(volume, &new, hash).await? {
            return Ok(Added::Same(same));
        }
        let service = Arc::clone(self);
        let size = new.size;
        let known = offload(move || match hash {
            Some(hash) => service.content_with_hash(&hash, size),
            None => Ok(None),
        });
        let Some(content) = known.await? else {
            return self.announce(volume, new).await.map(Added::Announced);
        };
        let wanted = Publish {
            path: new.path.clone(),
            content,
            mtime: new.mtime,
            owner: new.owner,
            author: new.author,
            expected_version: Some(0),
        };
        match self.publish(volume, wanted).await {
            Ok(made) => Ok(Added::Made(made)),
            Err(FilesError::VersionConflict { path, .. }) => Err(FilesError::Exists { path }),
            Err(error) => Err(error),
        }
    }

    /// Finds a file that is already what is to be added; one with another content is refused.
    async fn same_file(
        self: &Arc<Self>,
        volume: &VolumeName,
        new: &NewFile,
        hash: Option<ChunkHash>,
    ) -> Result<Option<FileInfo>, FilesError> {
        let (service, volume, path, size) = (Arc::clone(self), volume.clone(), new.path.clone(), new.size);
        let find = move || {
            view::read(&*service.metadata, &volume, |view| match view.locate(&path) {
                Err(FilesError::NotFound { .. }) => Ok(()),
                place => place.map(drop),
            })?;
            let found = match service.find(&volume, &path) {
                Ok(found) => found,
                Err(FilesError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let is_same = found.size() == size && hash == Some(service.file_hash(&found)?);
            if is_same { Ok(Some(found)) } else { Err(FilesError::Exists { path }) }
        };
        offload(find).await
    }

    async fn announce(&self, volume: &VolumeName, new: NewFile) -> Result<FileMetadata, FilesError> {
        let owner = new.owner.unwrap_or_else(|| new.author.to_string());
        if owner.len() > FILE_OWNER_LEN_MAX {
            return Err(FilesError::Refused {
                why: format!("an owner has at most {FILE_OWNER_LEN_MAX} bytes"),
            });
        }
        let mtime = new.mtime.unwrap_or_else(|| Timestamp::from(SystemTime::now()));
        let metadata = FileMetadata {
            name: new.path.to_bytes(),
            version: new.version,
            size: new.size,
            hash: new.hash,
            last_modified: ModifiedAt::from(mtime),
            owner,
            sync_state: SyncState { status: SyncStatus::Modified, replicas: Vec::new() },
        };
        let (key, bytes) = (key(&metadata.name), ddl::encode(std::slice::from_ref(&metadata)));
        let name = volume.clone();
        let kept = self.metadata.write(1, move |tx| match tx.volume(&name)? {
            Some(volume) => tx.put_announced(volume.key, &key, Some(&bytes)).map(|()| true),
            None => Ok(false),
        });
        match kept.get().await? {
            true => Ok(metadata),
            false => Err(crate::sync::SyncError::VolumeNotFound { name: volume.clone() }.into()),
        }
    }

    /// Finds an announced file. Blocks.
    ///
    /// # Errors
    /// [`FilesError::NotFound`] or [`FilesError::Sync`].
    pub fn announced(&self, volume: &VolumeName, path: &FilePath) -> Result<FileMetadata, FilesError> {
        let found = view::read(&*self.metadata, volume, |view| announced(view, path))?;
        found.ok_or_else(|| FilesError::NotFound { path: path.clone() })
    }

    /// Drops an announcement, if there is one.
    ///
    /// # Errors
    /// [`FilesError::Sync`].
    pub async fn forget_announced(&self, volume: &VolumeName, path: &FilePath) -> Result<(), FilesError> {
        let (name, key) = (volume.clone(), key(&path.to_bytes()));
        let dropped = self.metadata.write(1, move |tx| match tx.volume(&name)? {
            Some(volume) => tx.put_announced(volume.key, &key, None),
            None => Ok(()),
        });
        Ok(dropped.get().await?)
    }
}

/// Finds the announcement of a path.
pub(super) fn announced(view: &View<'_>, path: &FilePath) -> Result<Option<FileMetadata>, FilesError> {
    let key = key(&path.to_bytes());
    let found = view.snapshot.announced_from(view.volume.key, &key, 1)?;
    let found = found.into_iter().find(|(other, _)| *other == key);
    found.map(|(_, bytes)| decode(&bytes)).transpose()
}

/// Shows announcements in order, behind a cursor, as long as their paths begin with `prefix`.
pub(super) fn walk(
    view: &View<'_>,
    prefix: &[u8],
    cursor: Option<&[u8]>,
    limit: usize,
    visit: &mut dyn FnMut(FilePath, FileMetadata) -> ControlFlow<()>,
) -> Result<(), FilesError> {
    let prefix = key(prefix.strip_prefix(b"/").unwrap_or(prefix));
    let behind = cursor.map(|cursor| [&key(cursor)[..], b"\0"].concat()).unwrap_or_default();
    let first = behind.max(prefix.clone());
    for (found, bytes) in view.snapshot.announced_from(view.volume.key, &first, limit)? {
        if !found.starts_with(&prefix) {
            break;
        }
        let metadata = decode(&bytes)?;
        if visit(FilePath::from_bytes(&metadata.name)?, metadata).is_break() {
            break;
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<FileMetadata, FilesError> {
    let damaged = || MetadataError::Damaged { what: "announced file", source: None };
    let records = ddl::decode(bytes).map_err(|error| {
        tracing::error!(%error, "an announced file cannot be read");
        damaged()
    })?;
    Ok(records.into_iter().next().ok_or_else(damaged)?)
}
