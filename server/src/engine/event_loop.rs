//! The asynchronous engine: one tokio task per connection, any number of them.
//!
//! Bounded everywhere: connections by a semaphore (the kernel's backlog holds the others), memory by the machine's
//! limits, waits by [`EngineConfig`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::{EngineConfig, Handler};
use crate::limits;

mod connection;
mod guard;
mod io_wait;
mod respond;

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
    let config = Arc::new(config);
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            (slot, stream, peer) = accept(&listener, &slots) => {
                let (handler, config, stopped) = (Arc::clone(&handler), Arc::clone(&config), stopped.clone());
                connections.spawn(async move {
                    connection::serve(stream, peer, &*handler, &config, stopped).await;
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    // Every connection may have ended already.
    let _ = stop.send(true);
    drain(connections, config.drain_timeout).await
}

/// Waits for a free slot and a connection.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it only latency is lost.
                let _ = stream.set_nodelay(true);
                return (slot, stream, peer);
            }
            Err(error) if is_peers_failure(&error) => {}
            Err(error) => {
                tracing::warn!("can not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(limits::HTTP_ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Tells whether an accept failed only for the one connection, which is gone.
fn is_peers_failure(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn drain(mut connections: JoinSet<()>, timeout: Duration) -> Drained {
    let mut over = pin!(tokio::time::sleep(timeout));
    loop {
        tokio::select! {
            biased;
            ended = connections.join_next() => match ended {
                Some(ended) => report(ended),
                None => return Drained { aborted: 0 },
            },
            () = &mut over => {
                let aborted = connections.len();
                tracing::warn!(aborted, "connections cut at the end of the drain time");
                connections.shutdown().await;
                return Drained { aborted };
            }
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a connection's task failed: {error}");
    }
}

#[cfg(test)]
mod tests;
