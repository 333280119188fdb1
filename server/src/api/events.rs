//! `GET /api/events?types=A,B&since=ID`: what happens, as server-sent events.
//!
//! `since` is a revision (a number: everything that commits after it did to files) or the id of an event (`BOOT-NUMBER-MARK`;
//! browsers send it by themselves as `Last-Event-ID` when they come back). What is not kept any more is a `gap`
//! event, after which a listener should look again at what it shows. Silence is filled with comments.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_shared::limits::HEARTBEAT_INTERVAL_MS;
use dfs_shared::revision::Revision;
use tokio::sync::mpsc;

use super::fields::field;
use super::status::{ApiError, answer};
use super::{Api, volume_asked};
use crate::blocking::offload;
use crate::component::{KINDS, Listener, Since, Wanted};
use crate::http::{Body, Response, Status, StreamItem};
use crate::limits::FEED_LISTENERS_MAX;
use crate::router::Call;

/// `GET /api/events?types=A,B&since=ID&volume=NAME`
pub(super) async fn open(api: Arc<Api>, call: Call) -> Response {
    answer(try_open(&api, &call).await)
}

async fn try_open(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let volume = volume_asked(call)?;
    let kinds = call.request.query("types").filter(|types| !types.is_empty()).map(kinds).transpose()?;
    let (sync, name) = (Arc::clone(&api.sync), volume.clone());
    let current = offload(move || sync.volume(&name)).await?.revision;
    let since = match call.request.query("since").or_else(|| call.request.header("Last-Event-ID")) {
        None | Some("") => Since::Now,
        Some(text) => since(text)?,
    };
    let listener = api.feed.listen(Wanted { kinds, volume, newest: current }, &since);
    let listener = listener.ok_or(ApiError::TooManyListeners { max: FEED_LISTENERS_MAX })?;
    let (pieces, body) = mpsc::channel(1);
    // Tells the peer at once that it is connected, and browsers how soon to come back.
    let hello = Bytes::from_static(b": dfs events\nretry: 1000\n\n");
    pieces.try_send(Ok(hello.into())).expect("an empty channel has room for one");
    tokio::spawn(forward(listener, pieces));
    Ok(Response::new(Status::OK)
        .with_header("Content-Type", "text/event-stream")
        .with_header("Cache-Control", "no-store")
        .with_body(Body::Events(body)))
}

/// Checks the names, so that a misspelt one is not silence for ever.
fn kinds(text: &str) -> Result<BTreeSet<String>, ApiError> {
    let names: BTreeSet<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| !KINDS.contains(&name.as_str())) {
        Some(name) => Err(field("types", format!("has `{name}`: there are {}", KINDS.join(", ")))),
        None => Ok(names),
    }
}

fn since(text: &str) -> Result<Since, ApiError> {
    if let Ok(since) = text.parse() {
        return Ok(Since::Revision { since: Revision(since) });
    }
    let why = "is neither a revision (a number) nor the id of an event (BOOT-NUMBER-MARK)";
    Since::from_id(text).ok_or_else(|| field("since", why))
}

async fn forward(mut listener: Listener, pieces: mpsc::Sender<StreamItem>) {
    let silence = Duration::from_millis(HEARTBEAT_INTERVAL_MS);
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(silence, listener.next()) => next,
            () = pieces.closed() => return,
        };
        let Some(piece) = next.unwrap_or(Some(Bytes::from_static(b": still here\n\n"))) else { return };
        if pieces.send(Ok(piece.into())).await.is_err() {
            return;
        }
    }
}
