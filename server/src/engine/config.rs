//! What an engine may spend on its peers: counts, lengths and waits.

use std::time::Duration;

use crate::limits;

/// Limits of one engine; the defaults are those of [`limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most connections at once; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// Largest request body in bytes.
    pub body_len_max: u64,
    /// Longest wait for a complete request head.
    pub head_timeout: Duration,
    /// Longest wait for progress of a request body.
    pub body_timeout: Duration,
    /// Longest silence between two requests of a connection.
    pub idle_timeout: Duration,
    /// Longest wait for a peer to take any bytes.
    pub write_timeout: Duration,
    /// Longest wait for requests in flight once the server stops.
    pub drain_timeout: Duration,
    /// Longest wait for the peer's end after an error was answered.
    pub linger_timeout: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            connections_max: limits::HTTP_CONNECTIONS_MAX,
            body_len_max: limits::HTTP_BODY_LEN_MAX,
            head_timeout: Duration::from_millis(limits::HTTP_HEAD_TIMEOUT_MS),
            body_timeout: Duration::from_millis(limits::HTTP_BODY_TIMEOUT_MS),
            idle_timeout: Duration::from_millis(limits::HTTP_IDLE_TIMEOUT_MS),
            write_timeout: Duration::from_millis(limits::HTTP_WRITE_TIMEOUT_MS),
            drain_timeout: Duration::from_millis(limits::HTTP_DRAIN_TIMEOUT_MS),
            linger_timeout: Duration::from_millis(limits::HTTP_LINGER_TIMEOUT_MS),
        }
    }
}
