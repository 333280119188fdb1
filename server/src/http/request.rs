//! A request's head as handlers see it. All parts share the bytes that came from the peer.

use std::net::SocketAddr;

use bytes::Bytes;

use super::headers::Headers;
use super::method::Method;

/// The minor version of HTTP/1 that the peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, and later minor versions, which are answered as 1.1.
    Http11,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The version.
    pub version: Version,
    /// The path, percent-decoded once; arbitrary bytes without NUL.
    pub path: Bytes,
    /// The path as sent, without query.
    pub raw_path: Bytes,
    /// The request target as sent.
    pub raw_target: Bytes,
    /// The query's pairs, decoded, in order.
    pub query: Vec<(Bytes, Bytes)>,
    /// The header fields.
    pub headers: Headers,
    /// The length of the body in bytes if it is known before it is read; 0 without a body.
    pub content_length: Option<u64>,
    /// The peer's address, set by the engine.
    pub peer: Option<SocketAddr>,
}

impl Request {
    /// Returns the first query value of this name if it is text.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Returns the first query value of this name.
    #[must_use]
    pub fn query_bytes(&self, name: &str) -> Option<&[u8]> {
        self.query.iter().find(|(other, _)| other == name.as_bytes()).map(|(_, value)| value.as_ref())
    }

    /// Returns the first header value of this name if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}
