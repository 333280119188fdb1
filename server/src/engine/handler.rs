//! The contract between every engine and whatever answers requests.

use std::future::Future;

use super::body::RequestBody;
use crate::http::{Request, Response};

/// Answers requests. Cancelled only when a connection is aborted after the drain time: a peer that goes away does not
/// stop a handler that is already at work.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; called when its head is complete, the body is pulled through `body`.
    fn handle(&self, request: Request, body: RequestBody) -> impl Future<Output = Response> + Send;
}
