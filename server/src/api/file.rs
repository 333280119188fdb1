//! `/api/file/*`: files up, in staged chunks, and down, by path.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::fields::{field, from_json, need, query, query_number, session_id, sha256};
use super::json::{Told, file};
use super::session::check_session;
use super::status::{ApiError, answer};
use crate::access::Access;
use crate::blocking::offload;
use crate::files::FilePath;
use crate::http::{Response, Status};
use crate::limits::{SMALL_BODY_LEN_MAX, UPLOAD_BODY_LEN_MAX, UPLOAD_CHUNK_LEN_MAX};
use crate::router::Call;
use crate::sessions::ChunkUpload;

mod download;

pub(super) use download::download;

#[derive(Debug, Deserialize)]
struct ChunkJson<'a> {
    session_id: Option<Cow<'a, str>>,
    file_path: Option<Cow<'a, str>>,
    chunk_index: Option<u64>,
    total_chunks: Option<u64>,
    /// Borrowed from the body: hexadecimal digits need no escapes.
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
    chunk_hash: Option<Cow<'a, str>>,
}

/// `POST /api/file/upload_chunk`: JSON, or the bytes alone with the other fields in the query.
pub(super) async fn upload_chunk(api: Arc<Api>, call: Call) -> Response {
    answer(try_upload_chunk(&api, call).await)
}

async fn try_upload_chunk(api: &Api, call: Call) -> Result<Response, ApiError> {
    let chunk = if call.request.query("session_id").is_some() {
        let session = session_id(query(&call, "session_id")?)?;
        let path = query_path(&call)?;
        let (number, total) = (query_number(&call, "chunk_index")?, query_number(&call, "total_chunks")?);
        let hash = sha256("chunk_hash", query(&call, "chunk_hash")?)?;
        check_session(api, &call.grant, session, Access::Write).await?;
        let bytes = call.body.collect(UPLOAD_CHUNK_LEN_MAX).await?;
        ChunkUpload { session, path, number, total, hash, bytes }
    } else {
        let body = call.body.collect(UPLOAD_BODY_LEN_MAX).await?;
        let chunk = offload(move || read_chunk(&body)).await?;
        check_session(api, &call.grant, chunk.session, Access::Write).await?;
        chunk
    };
    let (path, number) = (chunk.path.clone(), chunk.number);
    let received = api.sessions.upload_chunk(chunk).await?;
    let json = json!({
        "status": "chunk_received",
        "file_path": path.to_string(),
        "chunk_index": number,
        "missing": received.missing,
        "has_more_missing": received.has_more,
    });
    Ok(Response::json(Status::OK, format!("{json}\n")))
}

/// A path in a query is percent-decoded already and may be any bytes.
fn query_path(call: &Call) -> Result<FilePath, ApiError> {
    let bytes = need(call.request.query_bytes("file_path"), "file_path")?;
    FilePath::from_bytes(bytes).map_err(|error| field("file_path", format!("is a {error}")))
}

fn json_path(text: &str) -> Result<FilePath, ApiError> {
    FilePath::from_text(text).map_err(|error| field("file_path", format!("is a {error}")))
}

fn read_chunk(body: &[u8]) -> Result<ChunkUpload, ApiError> {
    let json: ChunkJson<'_> = from_json(body)?;
    let data = need(json.data, "data")?;
    Ok(ChunkUpload {
        session: session_id(&need(json.session_id, "session_id")?)?,
        path: json_path(&need(json.file_path, "file_path")?)?,
        number: need(json.chunk_index, "chunk_index")?,
        total: need(json.total_chunks, "total_chunks")?,
        hash: sha256("chunk_hash", &need(json.chunk_hash, "chunk_hash")?)?,
        bytes: unhex(&data).ok_or_else(|| field("data", "is not hexadecimal: two digits for each byte"))?,
    })
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[derive(Debug, Deserialize)]
struct Complete {
    session_id: Option<String>,
    file_path: Option<String>,
    expected_hash: Option<String>,
}

/// `POST /api/file/upload_complete`
pub(super) async fn upload_complete(api: Arc<Api>, call: Call) -> Response {
    answer(try_upload_complete(&api, call).await)
}

async fn try_upload_complete(api: &Api, call: Call) -> Result<Response, ApiError> {
    let request: Complete = from_json(&call.body.collect(SMALL_BODY_LEN_MAX).await?)?;
    let id = session_id(&need(request.session_id, "session_id")?)?;
    check_session(api, &call.grant, id, Access::Write).await?;
    let path = json_path(&need(request.file_path, "file_path")?)?;
    let hash = sha256("expected_hash", &need(request.expected_hash, "expected_hash")?)?;
    let info = api.sessions.upload_complete(id, &path, hash).await?;
    Ok(Response::json(Status::OK, format!("{}\n", file(&Told::new(info, Some(hash))))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_of_both_cases_are_bytes_and_nothing_else_is() {
        assert_eq!(unhex("00fFa9").as_deref(), Some(&[0, 255, 0xa9][..]));
        assert_eq!(unhex("").as_deref(), Some(&[][..]));
        for bad in ["0", "0g", " 00", "0x00", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
