//! Keeps a panic of one handler from taking its connection's answer away.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::http::{Response, Status};

/// Runs a handler; a panic is answered with 500. The panic hook has already reported where it happened.
pub(super) async fn guarded(handler: impl Future<Output = Response>) -> Response {
    let mut handler = pin!(handler);
    poll_fn(|context| {
        // After a panic the future is only dropped, never polled again.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(_) => {
                tracing::error!("a request handler panicked");
                let message = "the server failed inside this request";
                Poll::Ready(Response::error(Status::INTERNAL_SERVER_ERROR, "internal", message))
            }
        }
    })
    .await
}
