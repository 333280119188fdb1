//! `/api/sync/*`: sync sessions of clients without a mount. The rules are in `sessions`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::ddl::{FileHash, SyncStatus};
use dfs_shared::hash::MerkleHash;
use dfs_shared::ids::ClientId;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::fields::{AtMost, JsonObject, field, from_json, need, query, session_id};
use super::json::{Told, file};
use super::status::{ApiError, answer};
use super::{Api, volume_asked};
use crate::access::{Access, Grant};
use crate::blocking::{beside, offload};
use crate::files::FilePath;
use crate::http::{Body, Response, Status, StreamError, StreamItem};
use crate::limits::{
    CHUNK_PIECE_LEN, CHUNK_PIECES_MAX, SMALL_BODY_LEN_MAX, SNAPSHOT_FILES_MAX, SNAPSHOT_LEN_MAX,
};
use crate::metadata::sessions::{SessionId, SessionRow};
use crate::router::Call;
use crate::sessions::diff::{Action, LocalFile, Plan};
use crate::sessions::state::State;
use crate::sessions::{SessionError, SessionService};

#[derive(Debug, Deserialize)]
struct Start {
    client_id: Option<String>,
    /// Whether the reply brings the server's files.
    #[serde(default = "yes")]
    with_snapshot: bool,
}

fn yes() -> bool {
    true
}

/// Checks that the caller's token is good for a session's volume. A session of another one looks as if it were not there.
pub(super) async fn check_session(
    api: &Api,
    grant: &Grant,
    id: SessionId,
    access: Access,
) -> Result<(), ApiError> {
    let sessions = Arc::clone(&api.sessions);
    let row = offload(move || sessions.status(&id)).await?;
    if grant.allows(&row.volume, access) {
        return Ok(());
    }
    tracing::warn!(
        target: "dfs_server::audit",
        token = grant.token().map(tracing::field::display),
        session = %id,
        reason = "session of another volume",
        status = 404,
        "refused"
    );
    Err(SessionError::NotFound { session: id.to_string() }.into())
}

/// `POST /api/sync/start?volume=NAME`
pub(super) async fn start(api: Arc<Api>, call: Call) -> Response {
    answer(try_start(&api, call).await)
}

async fn try_start(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_asked(&call)?;
    let request: Start = from_json(&call.body.collect(SMALL_BODY_LEN_MAX).await?)?;
    let client = ClientId::new(&need(request.client_id, "client_id")?)
        .map_err(|error| field("client_id", error.to_string()))?;
    let row = api.sessions.start(&volume, &client).await?;
    if !request.with_snapshot {
        return Ok(Response::json(Status::OK, format!("{}\n", status_json(&row))));
    }
    let (pieces, body) = mpsc::channel(CHUNK_PIECES_MAX);
    let sessions = Arc::clone(&api.sessions);
    beside(move || {
        if let Err(error) = send_snapshot(&sessions, &row, &pieces) {
            let reason = crate::report::chain(&error);
            tracing::error!(session = %row.id, error = %reason, "cannot send a snapshot");
            let _ = pieces.blocking_send(Err(StreamError { reason }));
        }
    });
    Ok(Response::new(Status::OK)
        .with_header("Content-Type", "application/json")
        .with_body(Body::Stream(body)))
}

/// Sends the reply file by file, ahead of the peer by [`CHUNK_PIECES_MAX`] pieces.
fn send_snapshot(
    sessions: &SessionService,
    row: &SessionRow,
    pieces: &mpsc::Sender<StreamItem>,
) -> Result<(), SessionError> {
    let head = status_json(row).to_string();
    let head = head.strip_suffix('}').expect("an object ends with a brace");
    let mut piece = format!("{head},\"server_snapshot\":[").into_bytes();
    let mut is_first = true;
    let volume = sessions.each_file(&row.volume, &mut |info| {
        let hash = sessions.hash(&info)?;
        piece.extend_from_slice(if is_first { b"\n" } else { b",\n" });
        is_first = false;
        piece.extend_from_slice(file(&Told::new(info, hash)).to_string().as_bytes());
        if piece.len() < CHUNK_PIECE_LEN {
            return Ok(ControlFlow::Continue(()));
        }
        // A failed send means that the peer is gone.
        let sent = pieces.blocking_send(Ok(Bytes::from(std::mem::take(&mut piece)).into()));
        Ok(if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let tail = format!("],\"revision\":{},\"merkle_root\":\"{}\"}}\n", volume.revision.0, volume.root);
    piece.extend_from_slice(tail.as_bytes());
    let _ = pieces.blocking_send(Ok(Bytes::from(piece).into()));
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Diff<'a, const FILES_MAX: usize> {
    session_id: Option<Cow<'a, str>>,
    #[serde(alias = "snapshot")]
    local_snapshot: Option<AtMost<JsonObject<LocalJson>, FILES_MAX>>,
    merkle_root: Option<Cow<'a, str>>,
}

/// A file as a client describes it; other fields of FileMetadata are ignored.
#[derive(Debug, Deserialize)]
struct LocalJson {
    file_path: Option<String>,
    hash: Option<String>,
    #[serde(default)]
    size: u64,
    version: Option<u64>,
    sync_state: Option<StateJson>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`sync_state` is a word, or a JSON object with a `status`")]
enum StateJson {
    Word(String),
    Object(JsonObject<StatusJson>),
}

#[derive(Debug, Deserialize)]
struct StatusJson {
    status: String,
}

/// `POST /api/sync/diff`
pub(super) async fn diff(api: Arc<Api>, call: Call) -> Response {
    answer(try_diff(&api, call).await)
}

async fn try_diff(api: &Api, call: Call) -> Result<Response, ApiError> {
    let body = call.body.collect(SNAPSHOT_LEN_MAX).await?;
    let (id, root, local) = offload(move || read_diff::<SNAPSHOT_FILES_MAX>(&body)).await?;
    check_session(api, &call.grant, id, Access::Read).await?;
    let diffed = api.sessions.diff(id, local, root).await?;
    let paths = |action| paths(&diffed.plan, action);
    let json = json!({
        "session_id": id.to_string(),
        "state": diffed.state.as_str(),
        "files_to_upload": paths(Action::Upload),
        "files_to_download": paths(Action::Download),
        "files_to_delete_remote": paths(Action::DeleteRemote),
        "files_to_delete_local": paths(Action::DeleteLocal),
        "conflicts": paths(Action::Conflict),
        "revision": diffed.revision.0,
        "merkle_root": diffed.root.to_string(),
    });
    Ok(Response::json(Status::OK, format!("{json}\n")))
}

type DiffRequest = (SessionId, Option<MerkleHash>, BTreeMap<Vec<u8>, LocalFile>);

fn read_diff<const FILES_MAX: usize>(body: &[u8]) -> Result<DiffRequest, ApiError> {
    let request: Diff<'_, FILES_MAX> = from_json(body)?;
    let id = session_id(&need(request.session_id, "session_id")?)?;
    let root = request.merkle_root.as_deref().map(|text| {
        MerkleHash::from_hex(text).ok_or_else(|| field("merkle_root", "is no hash: 64 hexadecimal digits"))
    });
    let root = root.transpose()?;
    let files = match (request.local_snapshot, root) {
        (Some(files), _) if files.count > FILES_MAX => {
            return Err(ApiError::TooManyFiles { count: files.count, max: FILES_MAX });
        }
        (Some(files), _) => files.items,
        (None, Some(_)) => Vec::new(),
        (None, None) => return Err(ApiError::FieldMissing { name: "local_snapshot" }),
    };
    let mut local = BTreeMap::new();
    for JsonObject(file) in files {
        let text = need(file.file_path.as_deref(), "file_path")?;
        let path = FilePath::from_text(text)
            .map_err(|error| field("file_path", format!("`{text}` is a {error}")))?;
        if local.insert(path.to_bytes(), local_file(&file, text)?).is_some() {
            return Err(field("local_snapshot", format!("has `{path}` twice")));
        }
    }
    Ok((id, root, local))
}

fn local_file(file: &LocalJson, path: &str) -> Result<LocalFile, ApiError> {
    let hash = match file.hash.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let with_prefix = if text.contains(':') { text.to_owned() } else { format!("sha256:{text}") };
            let hash = FileHash::from_text(&with_prefix);
            hash.ok_or_else(|| field("hash", format!("of `{path}` is no SHA-256")))?.sha256()
        }
    };
    let status = match &file.sync_state {
        None => None,
        Some(StateJson::Word(word) | StateJson::Object(JsonObject(StatusJson { status: word }))) => {
            let status = SyncStatus::from_word(word);
            Some(status.ok_or_else(|| {
                let why = "must be one of synced, modified, syncing, conflict, deleted";
                field("sync_state", format!("of `{path}` is `{word}`, {why}"))
            })?)
        }
    };
    // Versions begin at 1: 0 says that the server has none.
    let version = file.version.filter(|version| *version > 0);
    Ok(LocalFile { version, size: file.size, hash, status })
}

fn paths(plan: &Plan, action: Action) -> Vec<String> {
    let wanted = plan.iter().filter(|(_, planned)| planned.action == action);
    wanted.filter_map(|(path, _)| FilePath::from_bytes(path).ok()).map(|path| path.to_string()).collect()
}

/// `GET /api/sync/status?session_id=ID`
pub(super) async fn status(api: Arc<Api>, call: Call) -> Response {
    answer(try_status(&api, &call).await)
}

async fn try_status(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let id = session_id(query(call, "session_id")?)?;
    check_session(api, &call.grant, id, Access::Read).await?;
    let sessions = Arc::clone(&api.sessions);
    let row = offload(move || sessions.status(&id)).await?;
    Ok(Response::json(Status::OK, format!("{}\n", status_json(&row))))
}

fn status_json(row: &SessionRow) -> Value {
    json!({
        "session_id": row.id.to_string(),
        "client_id": row.client.as_str(),
        "volume": row.volume.as_str(),
        "state": State::from_number(row.state).map(State::as_str),
        "files_pending": row.transfers + row.conflicts,
        "bytes_pending": row.bytes_left,
        "files_in_conflict": row.conflicts,
        "bytes_staged": row.staged,
        "files_synced": row.files_synced,
        "bytes_synced": row.bytes_synced,
        "last_error": row.last_error,
        "expires_at": expires_at(row),
    })
}

fn expires_at(row: &SessionRow) -> String {
    let secs = row.heard.secs.saturating_add(crate::limits::SESSION_SILENCE_S_MAX);
    dfs_shared::ddl::ModifiedAt::from(dfs_shared::time::Timestamp { secs, nanos: 0 }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_snapshot_are_bounded_at_the_limit_and_one_past_it() {
        let read = |files: &str| {
            let id = "0".repeat(32);
            read_diff::<2>(format!(r#"{{"session_id":"{id}","local_snapshot":[{files}]}}"#).as_bytes())
        };
        let files = r#"{"file_path":"a"},{"file_path":"b"}"#;
        assert_eq!(read(files).unwrap().2.len(), 2);
        let refused = read(&format!(r#"{files},{{"file_path":"c"}},{{}}"#));
        assert!(matches!(refused, Err(ApiError::TooManyFiles { count: 4, max: 2 })), "{refused:?}");
        let bad = read(&format!(r#"{files},"#));
        assert!(matches!(bad, Err(ApiError::Json { .. })), "{bad:?}");
    }
}
