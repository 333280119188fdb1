//! The event stream: every commit of a volume to one mount, in order and without a gap.
//!
//! ```text
//! subscribe ─► read revision ─► Hello ─► Committed … ─► Lagged, end      (queue overflowed)
//!                                   └──► Heartbeat after silence          └► peer gone, end
//! ```
//!
//! Who says `quota=1` gets the volume's quota after Hello, and whenever it is set.
//!
//! Subscribing comes before reading the revision, so a commit between the two is in the queue; those
//! that the revision covers already are skipped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_shared::ids::VolumeName;
use dfs_shared::limits::HEARTBEAT_INTERVAL_MS;
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::StreamFrame;
use dfs_shared::wire::{STREAM_CONTENT_TYPE, encode_frame};
use tokio::sync::mpsc;

use super::messages::knows_quota;
use super::status::{ApiError, answer};
use super::{Api, volume_of};
use crate::blocking::offload;
use crate::component::{Pushed, Subscription};
use crate::http::{Body, Response, Status, StreamItem};
use crate::router::Call;

/// `GET /sync/{volume}/stream?client=ID&quota=1`
pub(super) async fn open(api: Arc<Api>, call: Call) -> Response {
    answer(try_open(&api, &call).await)
}

async fn try_open(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let name = volume_of(call)?;
    let client = call.request.query("client");
    let knows_quota = knows_quota(call);
    let client_id = client.and_then(|client| client.parse().ok());
    let subscription = api.notifier.subscribe(&name, client_id, knows_quota);
    let sync = Arc::clone(&api.sync);
    let volume = {
        let name = name.clone();
        offload(move || sync.volume(&name)).await?
    };
    tracing::info!(volume = %name, client = client.unwrap_or("?"), "event stream opened");
    let (frames, body) = mpsc::channel(1);
    let hello = StreamFrame::Hello { volume: volume.id, revision: volume.revision, root: volume.root };
    let mut first = encode_frame(&hello);
    if knows_quota {
        first.extend(encode_frame(&StreamFrame::Quota { limit: volume.quota }));
    }
    frames.try_send(Ok(Bytes::from(first).into())).expect("an empty channel has room for one");
    tokio::spawn(forward(name, volume.revision, subscription, frames));
    Ok(Response::new(Status::OK)
        .with_header("Content-Type", STREAM_CONTENT_TYPE)
        .with_header("Cache-Control", "no-store")
        .with_body(Body::Events(body)))
}

async fn forward(
    volume: VolumeName,
    mut newest: Revision,
    mut subscription: Subscription,
    frames: mpsc::Sender<StreamItem>,
) {
    let silence = Duration::from_millis(HEARTBEAT_INTERVAL_MS);
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(silence, subscription.next()) => next,
            () = frames.closed() => break,
        };
        let frame: Bytes = match next {
            Ok(Some(Pushed::Commit { revision, .. })) if revision <= newest => continue,
            Ok(Some(Pushed::Commit { revision, frame })) => {
                newest = revision;
                frame
            }
            Ok(Some(Pushed::Quota { frame })) => frame,
            Ok(Some(Pushed::Lagged)) => {
                tracing::warn!(%volume, "an event stream is too slow and was cut");
                let _ = frames.send(Ok(Bytes::from(encode_frame(&StreamFrame::Lagged)).into())).await;
                break;
            }
            Ok(None) => break,
            Err(_) => encode_frame(&StreamFrame::Heartbeat { revision: newest }).into(),
        };
        if frames.send(Ok(frame.into())).await.is_err() {
            break;
        }
    }
}
