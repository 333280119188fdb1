//! `/api/metadata/…`: what is known of files, by path, for people and their tools.
//!
//! Leaves every rule to `files`. The volume is the query parameter `volume`.

use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::ddl::{FileHash, FileMetadata, ModifiedAt, SyncStatus};
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};
use serde_json::{Value, json};

use super::json::{DDL_TYPE, Said, Told, file, read, text, wants_ddl};
use super::status::{ApiError, answer};
use super::{Api, volume_asked};
use crate::blocking::offload;
use crate::files::{Added, FileInfo, FilePath, FileService, FilesError, MetadataChange, NewFile, Page};
use crate::http::{Response, Status};
use crate::limits::{
    FILE_PAGE_HASHED_LEN_MAX, FILE_PAGE_LEN_DEFAULT, FILE_PAGE_LEN_MAX, METADATA_BODY_LEN_MAX,
    METADATA_RECORDS_MAX,
};
use crate::router::Call;

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
    let files = Arc::clone(&api.files);
    let told = offload(move || match files.find(&volume, &path) {
        Ok(info) => Ok(describe(&files, info)),
        Err(FilesError::NotFound { .. }) => {
            files.announced(&volume, &path).map(|metadata| Told { metadata, is_hashed: true })
        }
        Err(error) => Err(error),
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
    let files = Arc::clone(&api.files);
    let listed = offload(move || {
        let page = files.list(&volume, &prefix, limit, cursor.as_deref())?;
        Ok::<_, FilesError>(tell_page(&files, page, FILE_PAGE_HASHED_LEN_MAX))
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
    let (files, name, at) = (Arc::clone(&api.files), volume, path.clone());
    let told = offload(move || match files.history(&name, &at) {
        Ok(versions) => Ok(versions.into_iter().map(|info| describe(&files, info)).collect::<Vec<_>>()),
        Err(FilesError::NotFound { .. }) => {
            files.announced(&name, &at).map(|metadata| vec![Told { metadata, is_hashed: true }])
        }
        Err(error) => Err(error),
    });
    let told = told.await?;
    if wants_ddl(&call.request) {
        return Ok(ddl(text(&told)?));
    }
    let versions: Vec<Value> = told.iter().map(file).collect();
    let json = json!({ "file_path": path.to_string(), "versions": versions });
    Ok(Response::json(Status::OK, format!("{json}\n")))
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
    let hash = files.file_hash(&info).inspect_err(|error| {
        tracing::warn!(path = %info.path, error = %crate::report::chain(error), "a file's hash is not known");
    });
    Told::new(info, hash.ok())
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
mod tests {
    use dfs_shared::event::EventBus;
    use dfs_shared::manifest::{ChunkRef, Manifest};
    use dfs_shared::wire::messages::SmallChunk;

    use super::*;
    use crate::blocking::block_on;
    use crate::chunk_store::DiskStore;
    use crate::files::{NewContent, Publish};
    use crate::metadata::MetadataStore;
    use crate::metadata::memory::MemoryStore;
    use crate::sync::SyncService;

    /// A file of two chunks with three bytes, whose hash nobody has told.
    fn file_of_three_bytes(name: &str) -> Publish {
        let chunks: [&[u8]; 2] = [name.as_bytes(), b"23"];
        let chunk = |bytes: &[u8]| ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
        let small = |bytes: &[u8]| SmallChunk { hash: ChunkHash::of(bytes), bytes: bytes.to_vec() };
        let manifest = Manifest { chunk_log2: 14, chunks: chunks.map(chunk).to_vec() };
        Publish {
            path: FilePath::from_bytes(name.as_bytes()).unwrap(),
            content: NewContent { manifest, file_hash: None, small_chunks: chunks.map(small).to_vec() },
            mtime: None,
            owner: None,
            author: ClientId::new(AUTHOR).unwrap(),
            expected_version: None,
        }
    }

    #[test]
    fn a_page_for_which_too_much_was_read_ends_early_and_goes_on_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new());
        let chunks = Arc::new(DiskStore::open(dir.path()).unwrap());
        let sync = Arc::new(SyncService::new(Arc::clone(&store), chunks, EventBus::new()));
        let volume = VolumeName::new("main").unwrap();
        block_on(sync.ensure_volume(&volume)).unwrap();
        let files = Arc::new(FileService::new(sync, store));
        let told = |cursor: Option<&str>, hashed_len_max| {
            let page = files.list(&volume, b"", 10, cursor).unwrap();
            let (told, cursor) = tell_page(&files, page, hashed_len_max);
            assert!(told.iter().all(|told| told.is_hashed));
            (told.len(), cursor)
        };
        // A hash that was read once is known from then on, so each attempt has files of its own.
        for name in ["a", "b", "c"] {
            block_on(files.publish(&volume, file_of_three_bytes(name))).unwrap();
        }
        let (count, cursor) = told(None, 5);
        assert_eq!((count, cursor.is_some()), (2, true));
        assert_eq!(told(cursor.as_deref(), 5), (1, None));
        for name in ["d", "e", "f"] {
            block_on(files.publish(&volume, file_of_three_bytes(name))).unwrap();
        }
        assert_eq!(told(None, 6), (6, None), "only the last one is past the limit");
    }
}
