//! The HTTP client with its pool of connections, thrown away as a whole once one of them turns out to be dead.
//!
//! Connections that a router forgot are silent, and each looks as good as new: tried one after the other, they would cost a
//! time-out each. Invariant: once a request has failed on a connection, no later request uses one that was made before.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use reqwest::{Certificate, Client};

use super::AddressError;
use crate::limits::{CONNECT_TIMEOUT_MS, IDLE_CONNECTIONS_MAX, UNSENT_MS_MAX};
use crate::remote::RemoteError;

/// How connections are made and given up.
#[derive(Debug)]
pub(super) struct Settings {
    /// The only certificates that a server's may be signed by; `None`: the system's.
    pub(super) trusted: Option<Vec<Certificate>>,
    /// Longest silence inside a request.
    pub(super) silence: Duration,
}

#[derive(Debug)]
struct Current {
    generation: u64,
    client: Client,
}

/// The client in use.
#[derive(Debug)]
pub(super) struct Pool {
    settings: Settings,
    current: RwLock<Current>,
}

impl Pool {
    pub(super) fn new(settings: Settings) -> Result<Arc<Self>, AddressError> {
        let client = client(&settings).map_err(|source| AddressError::Client { source })?;
        Ok(Arc::new(Self { settings, current: RwLock::new(Current { generation: 0, client }) }))
    }

    /// Returns the client for a request to `server`, and what its answer is read with.
    pub(super) fn line(self: &Arc<Self>, server: &str) -> (Client, Line) {
        let current = self.current.read();
        let line = Line { server: server.to_owned(), pool: Arc::clone(self), generation: current.generation };
        (current.client.clone(), line)
    }

    /// Tells whether a line's connections are those in use.
    #[cfg(test)]
    pub(super) fn is_current(&self, line: &Line) -> bool {
        self.current.read().generation == line.generation
    }

    /// Throws the connections of a generation away, unless that was done already. Requests under way on them go on.
    fn discard(&self, generation: u64) {
        let mut current = self.current.write();
        if current.generation != generation {
            return;
        }
        match client(&self.settings) {
            Ok(client) => *current = Current { generation: generation + 1, client },
            Err(error) => tracing::error!("cannot make a new HTTP client, the old one stays in use: {error}"),
        }
    }
}

fn client(settings: &Settings) -> Result<Client, reqwest::Error> {
    // An error means that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder();
    if let Some(trusted) = &settings.trusted {
        builder = builder.tls_certs_only(trusted.clone());
    }
    builder
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .tcp_user_timeout(Duration::from_millis(UNSENT_MS_MAX))
        .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
        .read_timeout(settings.silence)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .user_agent(concat!("dfs-mount/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What an answer comes on: the server, and the connections that are given up when it does not come.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) server: String,
    pool: Arc<Pool>,
    generation: u64,
}

impl Line {
    /// Says what went wrong. Unless no connection could be made, the others are as dead as this one.
    pub(super) fn failed(&self, error: reqwest::Error) -> RemoteError {
        if error.is_connect() {
            return self.unreachable(error);
        }
        self.pool.discard(self.generation);
        if error.is_timeout() {
            return self.timed_out(self.pool.settings.silence);
        }
        self.unreachable(error)
    }

    /// Says that nothing came for so long.
    pub(super) fn silent(&self, after: Duration) -> RemoteError {
        self.pool.discard(self.generation);
        self.timed_out(after)
    }

    fn timed_out(&self, after: Duration) -> RemoteError {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        RemoteError::TimedOut { server: self.server.clone(), after_ms }
    }

    fn unreachable(&self, error: reqwest::Error) -> RemoteError {
        RemoteError::Unreachable { server: self.server.clone(), source: root_cause(error.without_url()) }
    }
}

/// Returns the innermost cause, which is what people want to know; the layers around it say little.
fn root_cause(error: reqwest::Error) -> Arc<dyn std::error::Error + Send + Sync> {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(text))
}
