//! `/api/metadata/export` and `/api/metadata/import`: the metadata of many files in the metadata language.
//!
//! Invariants: both answers are made while they are sent, so memory is bounded whatever the number of files; an import
//! changes nothing unless all of its text is good, and then does what `add` does, record by record.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::ddl;
use dfs_shared::ids::VolumeName;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{mark, new_file, tell_page};
use crate::api::json::{DDL_TYPE, Told, read};
use crate::api::status::{self, ApiError, answer};
use crate::api::{Api, volume_asked};
use crate::blocking::{beside, offload};
use crate::files::{Added, FileService, NewFile, Page};
use crate::http::{Body, Response, Status, StreamError, StreamItem};
use crate::limits::{CHUNK_PIECES_MAX, FILE_PAGE_HASHED_LEN_MAX, FILE_PAGE_LEN_DEFAULT, IMPORT_LEN_MAX};
use crate::report::chain;
use crate::router::Call;
use crate::sessions::{SessionError, SessionService};

/// `GET /api/metadata/export?prefix=`
pub(in crate::api) async fn export(api: Arc<Api>, call: Call) -> Response {
    answer(try_export(&api, &call).await)
}

async fn try_export(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let volume = volume_asked(call)?;
    let prefix = Bytes::copy_from_slice(call.request.query_bytes("prefix").unwrap_or_default());
    let (files, name, begin) = (Arc::clone(&api.files), volume.clone(), prefix.clone());
    // The first page before the head: what is wrong with the request is an answer of its own.
    let first = offload(move || files.list(&name, &begin, FILE_PAGE_LEN_DEFAULT, None)).await?;
    let (pieces, body) = mpsc::channel(CHUNK_PIECES_MAX);
    let (files, sessions) = (Arc::clone(&api.files), Arc::clone(&api.sessions));
    beside(move || {
        if let Err(error) = send_all(&files, &sessions, (&volume, &prefix), first, &pieces) {
            let reason = chain(&error);
            tracing::error!(%volume, error = %reason, "an export was broken off");
            let _ = pieces.blocking_send(Err(StreamError { reason }));
        }
    });
    Ok(Response::new(Status::OK).with_header("Content-Type", DDL_TYPE).with_body(Body::Stream(body)))
}

/// Sends page after page, ahead of the peer by [`CHUNK_PIECES_MAX`] pages. Blocks.
fn send_all(
    files: &FileService,
    sessions: &SessionService,
    (volume, prefix): (&VolumeName, &[u8]),
    first: Page,
    pieces: &mpsc::Sender<StreamItem>,
) -> Result<(), SessionError> {
    let mut page = first;
    loop {
        let (mut told, cursor) = tell_page(files, page, FILE_PAGE_HASHED_LEN_MAX);
        mark(sessions, volume, &mut told)?;
        let text: String = told.iter().map(record).collect();
        // A failed send means that the peer is gone.
        if !text.is_empty() && pieces.blocking_send(Ok(Bytes::from(text).into())).is_err() {
            return Ok(());
        }
        let Some(cursor) = cursor else { return Ok(()) };
        page = files.list(volume, prefix, FILE_PAGE_LEN_DEFAULT, Some(&cursor))?;
    }
}

/// Prints a record. One whose hash cannot be known is a comment: it could not be imported, and must not be missed.
fn record(told: &Told) -> String {
    if told.is_hashed {
        return ddl::print(std::slice::from_ref(&told.metadata));
    }
    let text = ddl::print_without_hash(&told.metadata);
    let lines = text.lines().map(|line| format!("# {line}\n"));
    std::iter::once("# The hash of this file cannot be known: damaged, or too long.\n".to_owned())
        .chain(lines)
        .collect()
}

/// `POST /api/metadata/import`
pub(in crate::api) async fn import(api: Arc<Api>, call: Call) -> Response {
    answer(try_import(&api, call).await)
}

async fn try_import(api: &Arc<Api>, call: Call) -> Result<Response, ApiError> {
    let volume = volume_asked(&call)?;
    let body = call.body.collect(IMPORT_LEN_MAX).await?;
    let read_all = move || read(&body)?.into_iter().map(new_file).collect::<Result<Vec<_>, ApiError>>();
    let news = offload(read_all).await?;
    let (sync, name) = (Arc::clone(&api.sync), volume.clone());
    offload(move || sync.volume(&name)).await?;
    let (pieces, body) = mpsc::channel(CHUNK_PIECES_MAX);
    tokio::spawn(import_all(Arc::clone(&api.files), volume, news, pieces));
    Ok(Response::new(Status::OK)
        .with_header("Content-Type", "application/json")
        .with_body(Body::Stream(body)))
}

/// Adds record after record and tells of each. Goes on after one that is refused; stops when the server itself fails, or
/// when the peer is gone.
async fn import_all(
    files: Arc<FileService>,
    volume: VolumeName,
    news: Vec<NewFile>,
    pieces: mpsc::Sender<StreamItem>,
) {
    let mut counts: BTreeMap<&str, usize> =
        ["made", "announced", "unchanged", "refused"].into_iter().map(|word| (word, 0)).collect();
    let mut left = news.len();
    let mut before = "{\"files\":[\n";
    for new in news {
        let path = new.path.to_string();
        left -= 1;
        let (word, line, is_failure) = match files.add(&volume, new).await {
            Ok(Added::Made(info)) => ("made", json!({ "version": info.version }), false),
            Ok(Added::Same(info)) => ("unchanged", json!({ "version": info.version }), false),
            Ok(Added::Announced(metadata)) => ("announced", json!({ "version": metadata.version }), false),
            Err(error) => {
                let (line, is_failure) = refusal(error.into());
                ("refused", line, is_failure)
            }
        };
        *counts.entry(word).or_default() += 1;
        let piece = format!("{before}{}", line_of(&path, word, line));
        before = ",\n";
        if pieces.send(Ok(Bytes::from(piece).into())).await.is_err() {
            tracing::warn!(%volume, left, "an import ended early: its client is gone");
            return;
        }
        if is_failure {
            break;
        }
    }
    let counts = counts.iter().map(|(word, count)| format!("\"{word}\":{count},")).collect::<String>();
    let _ = pieces.send(Ok(Bytes::from(format!("],{counts}\"left\":{left}}}\n")).into())).await;
}

fn line_of(path: &str, word: &str, mut line: Value) -> Value {
    line["file_path"] = path.into();
    line["result"] = word.into();
    line
}

/// Describes why a record was not added, and whether that is the server's own failure.
fn refusal(error: ApiError) -> (Value, bool) {
    let (status, code) = status::status(&error);
    let is_failure = status.code() >= 500;
    if is_failure {
        tracing::error!(code, error = %chain(&error), "an import was ended");
    }
    (json!({ "error": { "code": code, "message": chain(&error) } }), is_failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;
    use crate::files::FilesError;

    #[test]
    fn a_file_without_a_known_hash_is_a_comment_of_the_export() {
        let text = "file_metadata:\n  name: \"a\\nb\"\n  version: 1\n  size: 1\n  hash: \"sha256:1\"\n  \
                    last_modified: \"2024-01-15T10:30:00Z\"\n  owner: \"o\"\n  sync_state:\n    status: \"synced\"\n";
        let metadata = ddl::parse(text).unwrap().remove(0);
        let known = Told { metadata: metadata.clone(), is_hashed: true };
        assert_eq!(record(&known), text);
        let unknown = record(&Told { metadata, is_hashed: false });
        assert!(unknown.lines().all(|line| line.starts_with('#')) && unknown.contains("a\\nb"), "{unknown}");
        assert!(!unknown.contains("sha256"), "{unknown}");
        let both = json::read([unknown.as_bytes(), text.as_bytes()].concat().as_slice()).unwrap();
        assert_eq!(both.len(), 1);
    }

    #[test]
    fn only_the_servers_own_failures_end_an_import() {
        let path = crate::files::FilePath::from_bytes(b"a").unwrap();
        let (line, is_failure) = refusal(FilesError::Exists { path: path.clone() }.into());
        assert_eq!((line["error"]["code"].as_str(), is_failure), (Some("exists"), false));
        assert!(refusal(FilesError::Contended { path, tries: 1 }.into()).1);
    }
}
