//! Ends what is under way when its grant ends: handlers that wait, and streamed bodies.
//!
//! Invariant: a response whose grant has ended sends no further item but the one that the connection may hold
//! already, and its producer is told to stop.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::sync::mpsc::{self, Receiver};

use crate::access::Grant;
use crate::blocking::detach;
use crate::http::{Body, Response, StreamError, StreamItem};

/// Runs a handler until its grant ends; `None` when that came first.
///
/// A handler that waits for the rest of a body is dropped. What it has handed to a store is done all the same, as it is
/// when a peer goes away.
pub(super) async fn unless_revoked<T>(grant: &Grant, work: impl Future<Output = T>) -> Option<T> {
    if !grant.is_revocable() {
        return Some(work.await);
    }
    if grant.has_ended() {
        return None;
    }
    let mut work = pin!(work);
    // Most handlers are done at once and need no watch.
    if let Poll::Ready(value) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(value);
    }
    tokio::select! {
        // First the grant: a handler that is always ready must not win against it.
        biased;
        () = grant.revoked() => None,
        value = &mut work => Some(value),
    }
}

/// Puts a valve before a streamed body that closes when the grant ends.
pub(super) fn cut_when_revoked(grant: &Grant, mut response: Response) -> Response {
    if !grant.is_revocable() {
        return response;
    }
    let valve = |items| through_valve(grant.clone(), items);
    response.body = match response.body {
        // A part of a file is on its way to the socket already.
        body @ (Body::Empty | Body::Full(_) | Body::File(_)) => body,
        Body::Stream(items) => Body::Stream(valve(items)),
        Body::Sized(len, items) => Body::Sized(len, valve(items)),
        Body::Events(items) => Body::Events(valve(items)),
    };
    response
}

fn through_valve(grant: Grant, mut items: Receiver<StreamItem>) -> Receiver<StreamItem> {
    // One: the producer's own queue is the buffer.
    let (passed, body) = mpsc::channel(1);
    detach(async move {
        let pass = async {
            while let Some(item) = items.recv().await {
                if passed.send(item).await.is_err() {
                    return;
                }
            }
        };
        let cut = tokio::select! {
            biased;
            () = grant.revoked() => true,
            () = passed.closed() => false,
            () = pass => false,
        };
        drop(items);
        if cut {
            let reason = "its access token was revoked".to_owned();
            // A cut body must not look whole, so the end waits for room for this mark; a peer that does not read is
            // given up by the engine's own deadline.
            let _ = passed.send(Err(StreamError { reason })).await;
        }
    });
    body
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use dfs_shared::ids::{VolumeId, VolumeName};
    use dfs_shared::time::Timestamp;

    use super::*;
    use crate::access::{Access, AccessToken, Need, Registry, TokenId};
    use crate::blocking::block_on;
    use crate::http::Piece;
    use crate::metadata::MetadataStore;
    use crate::metadata::sqlite::SqliteStore;

    struct Rig {
        _dir: tempfile::TempDir,
        store: Arc<dyn MetadataStore>,
        registry: Registry,
    }

    /// A registry that is open, and its grant, which ends with the first token.
    fn rig() -> (Rig, Grant) {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let registry = Registry::open(Arc::clone(&store), true).unwrap();
        let grant = registry.check(std::iter::empty(), Need::Server(Access::Read), None).unwrap();
        (Rig { _dir: dir, store, registry }, grant)
    }

    impl Rig {
        fn revoke(&self) {
            let volume = VolumeName::new("a").unwrap();
            let token = AccessToken {
                id: TokenId::from_bytes([1; 8]),
                digest: [0; 32],
                volume: volume.clone(),
                access: Access::Read,
                name: String::new(),
                created: Timestamp::default(),
                revoked: None,
            };
            let made = self.store.write(1, move |tx| {
                tx.create_volume(&volume, VolumeId::generate())?;
                tx.put_token(&token)
            });
            made.wait().unwrap();
            self.registry.reload().unwrap();
        }
    }

    #[test]
    fn a_handler_that_waits_is_dropped_when_its_grant_ends() {
        let (rig, grant) = rig();
        assert_eq!(block_on(unless_revoked(&grant, async { 7 })), Some(7));
        rig.revoke();
        assert_eq!(block_on(unless_revoked(&grant, std::future::pending::<()>())), None);
        assert_eq!(block_on(unless_revoked(&grant, async { 7 })), None, "not even one that is done at once");
    }

    #[test]
    fn a_stream_passes_until_its_grant_ends_and_then_breaks() {
        let (rig, grant) = rig();
        let (producer, items) = mpsc::channel(4);
        let response = Response::new(crate::http::Status::OK).with_body(Body::Events(items));
        let Body::Events(mut body) = cut_when_revoked(&grant, response).body else { panic!("another body") };
        producer.try_send(Ok(Bytes::from_static(b"one").into())).unwrap();
        assert!(matches!(block_on(body.recv()).unwrap(), Ok(Piece::Bytes(bytes)) if bytes == "one"));
        rig.revoke();
        assert!(block_on(body.recv()).unwrap().is_err());
        assert!(block_on(body.recv()).is_none());
        block_on(producer.closed());
    }

    #[test]
    fn a_stream_that_ends_by_itself_ends_whole() {
        let (_rig, grant) = rig();
        let (producer, items) = mpsc::channel(4);
        producer.try_send(Ok(Bytes::from_static(b"all").into())).unwrap();
        drop(producer);
        let response = Response::new(crate::http::Status::OK).with_body(Body::Stream(items));
        let Body::Stream(mut body) = cut_when_revoked(&grant, response).body else { panic!("another body") };
        assert!(matches!(block_on(body.recv()).unwrap(), Ok(Piece::Bytes(bytes)) if bytes == "all"));
        assert!(block_on(body.recv()).is_none());
    }
}
