//! Serving on an [`Executor`]: what the engines `thread-pool` and `blocking` share.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::executor::{Busy, Executor, Patience, Spawner};
use super::reactor::{PoolSocket, Reactor, Watched};
use super::{Drained, Handler, Options, is_peers_failure, session};
use crate::limits;

/// How an engine uses its threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) threads: usize,
    pub(super) patience: Patience,
}

/// The threads of an engine, and its listener.
#[derive(Debug)]
pub(super) struct Pool {
    executor: Executor,
    listener: Watched<TcpListener>,
}

impl Pool {
    /// Starts the threads; handlers may use the timers and the blocking threads of this runtime, no connection runs
    /// on it.
    ///
    /// # Errors
    /// The system gives no threads or no place to watch sockets from.
    pub(super) fn start(plan: Plan, listener: TcpListener, runtime: &Handle) -> io::Result<Self> {
        let executor = Executor::start(plan.name, plan.threads, plan.patience, runtime)?;
        let listener = Watched::listener(listener, executor.reactor())?;
        Ok(Self { executor, listener })
    }

    /// Serves connections until `shutdown` completes, then drains: the listener is closed before any connection is. Blocks.
    pub(super) fn serve<H: Handler>(
        self,
        handler: Arc<H>,
        options: Options,
        runtime: &Runtime,
        shutdown: impl Future<Output = ()>,
    ) -> Drained {
        let Self { mut executor, listener } = self;
        let (stop, stopped) = watch::channel(false);
        let (close, closing) = oneshot::channel();
        let (listener_closed, is_listener_closed) = oneshot::channel();
        let drain_timeout = options.config.drain_timeout;
        let connections_max = u32::try_from(options.config.connections_max).unwrap_or(u32::MAX);
        let acceptor = Acceptor {
            listener,
            slots: Arc::new(Semaphore::new(connections_max as usize)),
            reactor: Arc::clone(executor.reactor()),
            spawner: executor.spawner(),
            handler,
            options: Arc::new(options),
            stopped,
        };
        let slots = Arc::clone(&acceptor.slots);
        let accepting = async move {
            acceptor.run(closing).await;
            // The engine no longer waits only when the drain time is over.
            let _ = listener_closed.send(());
        };
        executor.spawner().spawn(accepting, Busy::default());

        runtime.block_on(shutdown);
        // The tasks that are told may have ended already.
        let _ = close.send(());
        executor.hurry();
        let drain = async {
            let _ = is_listener_closed.await;
            let _ = stop.send(true);
            let _ = slots.acquire_many(connections_max).await;
        };
        let is_over = runtime.block_on(async { tokio::time::timeout(drain_timeout, drain).await }).is_err();
        let aborted = if is_over { connections_max as usize - slots.available_permits() } else { 0 };
        if aborted > 0 {
            tracing::warn!(aborted, "connections cut at the end of the drain time");
        }
        executor.close();
        Drained { aborted }
    }
}

/// The task that takes connections, each into a task of its own.
struct Acceptor<H> {
    listener: Watched<TcpListener>,
    slots: Arc<Semaphore>,
    reactor: Arc<Reactor>,
    spawner: Spawner,
    handler: Arc<H>,
    options: Arc<Options>,
    stopped: watch::Receiver<bool>,
}

impl<H: Handler> Acceptor<H> {
    async fn run(self, mut closing: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                biased;
                _ = &mut closing => return,
                (slot, stream, peer) = self.accept() => self.begin(slot, stream, peer),
            }
        }
    }

    /// Waits for a free slot and a connection.
    async fn accept(&self) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match poll_fn(|context| self.listener.poll_accept(context)).await {
                Ok((stream, peer)) => return (slot, stream, peer),
                Err(error) if is_peers_failure(&error) => {}
                Err(error) => {
                    tracing::warn!("can not accept a connection: {error}");
                    let until = Instant::now() + Duration::from_millis(limits::HTTP_ACCEPT_PAUSE_MS);
                    poll_fn(|context| self.listener.poll_deadline(context, until)).await;
                }
            }
        }
    }

    fn begin(&self, slot: OwnedSemaphorePermit, stream: TcpStream, peer: SocketAddr) {
        let busy = Busy::default();
        let socket = match PoolSocket::new(stream, &self.reactor, Arc::clone(&busy)) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("can not watch a connection: {error}");
                return;
            }
        };
        let Ok(tls) = self.options.session() else { return };
        let (handler, options, stopped) =
            (Arc::clone(&self.handler), Arc::clone(&self.options), self.stopped.clone());
        let connection = async move {
            session::serve(socket, tls, peer, &*handler, &options.config, stopped).await;
            drop(slot);
        };
        self.spawner.spawn(connection, busy);
    }
}
