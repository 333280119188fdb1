//! `/api/metadata/…`: what is known of files, by path, for people and their tools.
//!
//! Leaves every rule to `files`. The volume is the query parameter `volume`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::ddl::{FileHash, FileMetadata, ModifiedAt, SyncStatus};
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, VolumeName};
use serde_json::{Value, json};

use super::json::{DDL_TYPE, Said, Told, file, read, text, wants_ddl};
use super::status::{ApiError, answer};
use super::{Api, volume_asked};
use crate::blocking::offload;
use crate::files::{Added, FileInfo, FilePath, FileService, FilesError, MetadataChange, NewFile, Page};
use crate::http::{Response, Status};
use crate::limits::{
    FILE_HISTORY_HASHED_LEN_MAX, FILE_PAGE_HASHED_LEN_MAX, FILE_PAGE_LEN_DEFAULT, FILE_PAGE_LEN_MAX,
    METADATA_BODY_LEN_MAX, METADATA_RECORDS_MAX,
};
use crate::router::Call;
use crate::sessions::{SessionError, SessionService};

mod tree;

pub(super) use tree::{export, import};

/// The author of what comes without a session.
const AUTHOR: &str = "api";

/// `POST /api/metadata/add`
pub(super) async fn add(api: Arc<Api>, call: Call) -> Response {
    answer(try_add(&api, call).await)
}

async fn try_add(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_asked(&call)?;
    let all = body(call).await?;
    let news = all.into_iter().map(new_file).collect::<Result<Vec<_>, _>>()?;
    let (mut status, mut told) = (Status::OK, Vec::new());
    for new in news {
        let (code, one) = match api.files.add(&volume, new).await? {
            Added::Made(info) => (Status::CREATED, tell(api, info).await),
            Added::Same(info) => (Status::OK, tell(api, info).await),
            Added::Announced(metadata) => (Status::ACCEPTED, Told { metadata, is_hashed: true }),
        };
        status = status.max(code);
        told.push(one);
    }
    Ok(reply(status, &told))
}

fn new_file(said: Said) -> Result<NewFile, ApiError> {
    let size = said.size.ok_or(ApiError::FieldMissing { name: "size" })?;
    let hash = match said.hash {
        Some(hash) => hash,
        None if size == 0 => FileHash::from(ChunkHash::of(b"")),
        None => return Err(ApiError::FieldMissing { name: "hash" }),
    };
    Ok(NewFile {
        path: said.path,
        hash,
        size,
        version: said.version.unwrap_or(1),
        mtime: said.last_modified.map(ModifiedAt::timestamp),
        owner: said.owner,
        author: ClientId::new(AUTHOR).expect("a client id"),
    })
}

/// `PUT /api/metadata/update`
pub(super) async fn update(api: Arc<Api>, call: Call) -> Response {
    answer(try_update(&api, call).await)
}

async fn try_update(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_asked(&call)?;
    let mut told = Vec::new();
    for said in body(call).await? {
        told.push(update_one(api, &volume, said).await?);
    }
    Ok(reply(Status::OK, &told))
}

async fn update_one(api: &Api, volume: &VolumeName, said: Said) -> Result<Told, ApiError> {
    let (files, name, wanted) = (Arc::clone(&api.files), volume.clone(), said.clone());
    let content = match offload(move || content_of(&files, &name, &wanted)).await {
        Ok(content) => content,
        Err(FilesError::NotFound { .. }) => return update_announced(api, volume, said).await,
        Err(error) => return Err(error.into()),
    };
    let change = MetadataChange {
        mtime: said.last_modified.map(ModifiedAt::timestamp),
        owner: said.owner,
        content,
        expected_version: said.version,
    };
    let info = api.files.set_metadata(volume, &said.path, change).await?;
    Ok(tell(api, info).await)
}

/// Finds the content that an update asks for; what it leaves out is as it was. Blocks.
fn content_of(
    files: &FileService,
    volume: &VolumeName,
    said: &Said,
) -> Result<Option<(ChunkHash, u64)>, FilesError> {
    let info = files.find(volume, &said.path)?;
    if let Some(expected) = said.version.filter(|version| *version != info.version) {
        return Err(FilesError::VersionConflict { path: said.path.clone(), expected, found: info.version });
    }
    let size = said.size.unwrap_or(info.size());
    if said.hash.is_none() && size == info.size() {
        return Ok(None);
    }
    let current = files.file_hash(&info)?;
    let hash = match &said.hash {
        // A shortened hash can be compared, no more.
        Some(hash) if FileHash::from(current).as_str().starts_with(hash.as_str()) => current,
        Some(hash) => hash.sha256().ok_or_else(|| FilesError::Refused {
            why: format!("`{}` is no whole hash: a content is found by all 64 digits", hash.as_str()),
        })?,
        None if size == 0 => ChunkHash::of(b""),
        None => current,
    };
    Ok(Some((hash, size)))
}

async fn update_announced(api: &Api, volume: &VolumeName, said: Said) -> Result<Told, ApiError> {
    let (files, name, path) = (Arc::clone(&api.files), volume.clone(), said.path.clone());
    let old = offload(move || files.announced(&name, &path)).await?;
    if let Some(expected) = said.version.filter(|version| *version != old.version) {
        let (path, found) = (said.path, old.version);
        return Err(FilesError::VersionConflict { path, expected, found }.into());
    }
    let new = NewFile {
        path: said.path,
        hash: said.hash.unwrap_or(old.hash),
        size: said.size.unwrap_or(old.size),
        version: old.version,
        mtime: Some(said.last_modified.unwrap_or(old.last_modified).timestamp()),
        owner: Some(said.owner.unwrap_or(old.owner)),
        author: ClientId::new(AUTHOR).expect("a client id"),
    };
    Ok(match api.files.add(volume, new).await? {
        Added::Made(info) | Added::Same(info) => tell(api, info).await,
        Added::Announced(metadata) => Told { metadata, is_hashed: true },
    })
}

/// `GET /api/metadata/get/{path...}`
pub(super) async fn get(api: Arc<Api>, call: Call) -> Response {
    answer(try_get(&api, &call).await)
}

async fn try_get(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let (volume, path) = (volume_asked(call)?, path_of(call)?);
    let (files, sessions) = (Arc::clone(&api.files), Arc::clone(&api.sessions));
    let told = offload(move || {
        let mut told = match files.find(&volume, &path) {
            Ok(info) => describe(&files, info),
            Err(FilesError::NotFound { .. }) => {
                Told { metadata: files.announced(&volume, &path)?, is_hashed: true }
            }
            Err(error) => return Err(error.into()),
        };
        mark(&sessions, &volume, std::slice::from_mut(&mut told))?;
        Ok::<_, ApiError>(told)
    });
    let told = told.await?;
    match wants_ddl(&call.request) {
        true => Ok(ddl(text(&[told])?)),
        false => Ok(reply(Status::OK, &[told])),
    }
}

/// `GET /api/metadata/list?prefix=&limit=&cursor=`
pub(super) async fn list(api: Arc<Api>, call: Call) -> Response {
    answer(try_list(&api, &call).await)
}

async fn try_list(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let volume = volume_asked(call)?;
    let prefix = Bytes::copy_from_slice(call.request.query_bytes("prefix").unwrap_or_default());
    let limit = match call.request.query("limit").filter(|limit| !limit.is_empty()) {
        Some(limit) => limit
            .parse::<usize>()
            .ok()
            .filter(|limit| (1..=FILE_PAGE_LEN_MAX).contains(limit))
            .ok_or(ApiError::Limit { max: FILE_PAGE_LEN_MAX })?,
        None => FILE_PAGE_LEN_DEFAULT,
    };
    let cursor = call.request.query("cursor").filter(|cursor| !cursor.is_empty()).map(ToOwned::to_owned);
    let (files, sessions) = (Arc::clone(&api.files), Arc::clone(&api.sessions));
    let listed = offload(move || {
        let page = files.list(&volume, &prefix, limit, cursor.as_deref())?;
        let (mut told, cursor) = tell_page(&files, page, FILE_PAGE_HASHED_LEN_MAX);
        mark(&sessions, &volume, &mut told)?;
        Ok::<_, ApiError>((told, cursor))
    });
    let (told, cursor) = listed.await?;
    if wants_ddl(&call.request) {
        let response = ddl(text(&told)?);
        return Ok(match cursor {
            Some(cursor) => response.with_header("X-Dfs-Cursor", cursor),
            None => response,
        });
    }
    let files: Vec<Value> = told.iter().map(file).collect();
    Ok(Response::json(Status::OK, format!("{}\n", json!({ "files": files, "cursor": cursor }))))
}

/// Describes a page in order; ends it early once more than `hashed_len_max` bytes had to be read for hashes. Blocks.
fn tell_page(files: &FileService, page: Page, hashed_len_max: u64) -> (Vec<Told>, Option<String>) {
    let (mut told, mut bytes_read) = (Vec::new(), 0_u64);
    let (mut infos, mut announced) =
        (page.files.into_iter().peekable(), page.announced.into_iter().peekable());
    let is_announced_first = |info: Option<&FileInfo>, metadata: &FileMetadata| {
        info.is_none_or(|info| FilePath::from_bytes(&metadata.name).is_ok_and(|path| path < info.path))
    };
    loop {
        let metadata = announced.next_if(|metadata| is_announced_first(infos.peek(), metadata));
        if let Some(metadata) = metadata {
            told.push(Told { metadata, is_hashed: true });
            continue;
        }
        let Some(info) = infos.next() else { return (told, page.cursor) };
        let path = info.path.clone();
        if info.file_hash.is_none() {
            bytes_read = bytes_read.saturating_add(info.size());
        }
        told.push(describe(files, info));
        if bytes_read > hashed_len_max && (infos.peek().is_some() || announced.peek().is_some()) {
            return (told, Some(FileService::cursor_behind(&path)));
        }
    }
}

/// `DELETE /api/metadata/delete/{path...}`
pub(super) async fn delete(api: Arc<Api>, call: Call) -> Response {
    answer(try_delete(&api, &call).await)
}

async fn try_delete(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let (volume, path) = (volume_asked(call)?, path_of(call)?);
    let told = match api.files.remove(&volume, &path).await {
        Ok(info) => tell(api, info).await,
        Err(FilesError::NotFound { .. }) => {
            let (files, name, at) = (Arc::clone(&api.files), volume.clone(), path.clone());
            let mut metadata = offload(move || files.announced(&name, &at)).await?;
            metadata.sync_state.status = SyncStatus::Deleted;
            Told { metadata, is_hashed: true }
        }
        Err(error) => return Err(error.into()),
    };
    api.files.forget_announced(&volume, &path).await?;
    Ok(reply(Status::OK, &[told]))
}

/// `GET /api/metadata/history/{path...}`
pub(super) async fn history(api: Arc<Api>, call: Call) -> Response {
    answer(try_history(&api, &call).await)
}

async fn try_history(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let (volume, path) = (volume_asked(call)?, path_of(call)?);
    let (files, sessions, at) = (Arc::clone(&api.files), Arc::clone(&api.sessions), path.clone());
    let told = offload(move || {
        let mut told = match files.history(&volume, &at) {
            Ok(versions) => tell_versions(&files, versions, FILE_HISTORY_HASHED_LEN_MAX),
            Err(FilesError::NotFound { .. }) => {
                vec![Told { metadata: files.announced(&volume, &at)?, is_hashed: true }]
            }
            Err(error) => return Err(error.into()),
        };
        // Only the first one is of now.
        mark(&sessions, &volume, told.get_mut(..1).unwrap_or_default())?;
        Ok::<_, ApiError>(told)
    });
    let told = told.await?;
    if wants_ddl(&call.request) {
        return Ok(ddl(text(&told)?));
    }
    let versions: Vec<Value> = told.iter().map(file).collect();
    let json = json!({ "file_path": path.to_string(), "versions": versions });
    Ok(Response::json(Status::OK, format!("{json}\n")))
}

/// Says of files as they are now what sync sessions have under way at their paths. Blocks.
fn mark(sessions: &SessionService, volume: &VolumeName, told: &mut [Told]) -> Result<(), SessionError> {
    let paths: Vec<&[u8]> = told.iter().map(|told| &*told.metadata.name).collect();
    let under_way = sessions.under_way(volume, &paths)?;
    for (told, status) in told.iter_mut().zip(under_way) {
        let shown = &mut told.metadata.sync_state.status;
        *shown = match (*shown, status) {
            (SyncStatus::Deleted, _) | (_, None) => *shown,
            (_, Some(status)) => status,
        };
    }
    Ok(())
}

/// Describes versions in order. Reads at most `hashed_len_max` bytes for hashes: a version that would go beyond has none this time.
/// What was read is kept, so the next request gets further. Blocks.
fn tell_versions(files: &FileService, versions: Vec<FileInfo>, hashed_len_max: u64) -> Vec<Told> {
    let mut left = hashed_len_max;
    let mut read = HashMap::<ContentId, Option<ChunkHash>>::new();
    let describe_one = |info: FileInfo| {
        let Some(id) = info.content().filter(|_| info.file_hash.is_none()) else {
            return describe(files, info);
        };
        if let Some(hash) = read.get(&id) {
            return Told::new(info, *hash);
        }
        let Some(rest) = left.checked_sub(info.size()) else { return Told::new(info, None) };
        left = rest;
        let hash = hash_of(files, &info);
        read.insert(id, hash);
        Told::new(info, hash)
    };
    versions.into_iter().map(describe_one).collect()
}

/// Reads what a request says of files.
async fn body(call: Call) -> Result<Vec<Said>, ApiError> {
    let body = call.body.collect(METADATA_BODY_LEN_MAX).await?;
    let said = offload(move || read(&body)).await?;
    if said.len() > METADATA_RECORDS_MAX {
        return Err(ApiError::TooManyRecords { count: said.len(), max: METADATA_RECORDS_MAX });
    }
    Ok(said)
}

fn path_of(call: &Call) -> Result<FilePath, ApiError> {
    Ok(FilePath::from_bytes(call.params.get_bytes("path").unwrap_or_default())?)
}

async fn tell(api: &Api, info: FileInfo) -> Told {
    let files = Arc::clone(&api.files);
    offload(move || describe(&files, info)).await
}

/// Describes a version, with the hash of its bytes if that can be had. Blocks, perhaps for reading the file.
pub(super) fn describe(files: &FileService, info: FileInfo) -> Told {
    let hash = hash_of(files, &info);
    Told::new(info, hash)
}

fn hash_of(files: &FileService, info: &FileInfo) -> Option<ChunkHash> {
    let hash = files.file_hash(info).inspect_err(|error| {
        tracing::warn!(path = %info.path, error = %crate::report::chain(error), "a file's hash is not known");
    });
    hash.ok()
}

/// One file as it is, several as a list.
fn reply(status: Status, told: &[Told]) -> Response {
    let json = match told {
        [one] => file(one),
        several => json!({ "files": several.iter().map(file).collect::<Vec<_>>() }),
    };
    Response::json(status, format!("{json}\n"))
}

fn ddl(text: String) -> Response {
    Response::full(Status::OK, DDL_TYPE, text)
}

#[cfg(test)]
mod tests;
