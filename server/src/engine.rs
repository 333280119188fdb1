//! Engines: they own the sockets and run the HTTP machine under one [`Handler`].
//!
//! ```text
//!                      session (one connection as a future; the same everywhere) ── tls
//!                         │ Socket
//!          ┌──────────────┴─────────────┐
//!      event_loop                reactor + executor
//!        (tokio)                  │             │
//!                            thread_pool     blocking
//! ```

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use tokio::runtime::Runtime;

mod blocking;
mod body;
mod config;
mod event_loop;
mod executor;
mod handler;
mod pool;
mod reactor;
mod scratch;
mod session;
mod thread_pool;
mod tls;

pub use body::{BodyError, RequestBody};
pub use config::EngineConfig;
pub use handler::Handler;
pub use tls::{Tls, TlsError};

/// How connections are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// A task for each connection, on tokio.
    #[default]
    Async,
    /// A bounded number of threads over all connections.
    ThreadPool,
    /// One request at a time.
    Blocking,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Async, Self::ThreadPool, Self::Blocking];

    /// Returns its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::ThreadPool => "thread-pool",
            Self::Blocking => "blocking",
        }
    }
}

/// What an engine is to do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Limits.
    pub config: EngineConfig,
    /// Threads that serve connections; `None` takes one for each core. The blocking engine has one.
    pub threads: Option<usize>,
    /// Speaks TLS, with this certificate.
    pub tls: Option<Arc<Tls>>,
}

impl Options {
    /// Makes the TLS side of a new connection, if it has one.
    fn session(&self) -> Result<Option<tls::TlsSession>, NoSession> {
        self.tls.as_ref().map(|tls| tls.session().ok_or(NoSession)).transpose()
    }
}

/// A TLS session cannot begin; it was logged.
#[derive(Debug)]
struct NoSession;

/// How an engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not end within the drain time.
    pub aborted: usize,
}

/// An engine that has all it needs from the system.
#[derive(Debug)]
pub struct Prepared {
    parts: Parts,
    options: Options,
    /// Last: dropping it waits for blocking work under way.
    runtime: Runtime,
}

#[derive(Debug)]
enum Parts {
    Loop(tokio::net::TcpListener),
    Pool(pool::Pool),
}

/// Takes what an engine needs from the system, so that nothing can fail once it serves.
///
/// # Errors
/// The system gives no threads, or the listener cannot be watched.
pub fn prepare(engine: Engine, listener: TcpListener, options: Options) -> io::Result<Prepared> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_name("dfs-server").enable_all();
    match (engine, options.threads) {
        (Engine::Async, Some(threads)) => drop(builder.worker_threads(threads)),
        (Engine::Async, None) => {}
        // Only for the timers and background tasks of handlers.
        (Engine::ThreadPool | Engine::Blocking, _) => drop(builder.worker_threads(1)),
    }
    let runtime = builder.build()?;
    listener.set_nonblocking(true)?;
    let parts = match engine {
        Engine::Async => {
            let _entered = runtime.enter();
            Parts::Loop(tokio::net::TcpListener::from_std(listener)?)
        }
        Engine::ThreadPool => {
            Parts::Pool(pool::Pool::start(thread_pool::plan(options.threads), listener, runtime.handle())?)
        }
        Engine::Blocking => Parts::Pool(pool::Pool::start(blocking::plan(), listener, runtime.handle())?),
    };
    Ok(Prepared { parts, options, runtime })
}

impl Prepared {
    /// Serves connections until `shutdown` completes, then drains: no new connection, requests in flight finish, idle
    /// connections close, event streams end; after the drain time the rest is cut. Blocks, also for blocking work that
    /// handlers have under way at the end.
    pub fn serve<H: Handler>(self, handler: Arc<H>, shutdown: impl Future<Output = ()> + Send) -> Drained {
        match self.parts {
            Parts::Loop(listener) => {
                self.runtime.block_on(event_loop::serve(listener, handler, self.options, shutdown))
            }
            Parts::Pool(pool) => pool.serve(handler, self.options, &self.runtime, shutdown),
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

#[cfg(test)]
mod tests;
