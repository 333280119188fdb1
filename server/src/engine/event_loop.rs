//! The asynchronous engine: one tokio task per connection, any number of them.
//!
//! Bounded everywhere: connections by a semaphore (the kernel's backlog holds the others), memory by the machine's
//! limits, waits by [`super::EngineConfig`].

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};

use super::{Drained, Handler, Options, is_peers_failure, session};
use crate::limits;

mod socket;

use socket::LoopSocket;

/// Serves connections until `shutdown` completes, then drains.
pub(super) async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> Drained {
    let options = Arc::new(options);
    let slots = Arc::new(Semaphore::new(options.config.connections_max));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            (slot, stream, peer) = accept(&listener, &slots) => {
                let Ok(tls) = options.session() else { continue };
                let (handler, options, stopped) = (Arc::clone(&handler), Arc::clone(&options), stopped.clone());
                connections.spawn(async move {
                    let socket = LoopSocket::new(stream);
                    session::serve(socket, tls, peer, &*handler, &options.config, stopped).await;
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    // Every connection may have ended already.
    let _ = stop.send(true);
    drain(connections, options.config.drain_timeout).await
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
