//! Responses: status, headers and one of the kinds of body.
//!
//! Framing headers (`Content-Length`, `Transfer-Encoding`, `Connection`, `Date`) belong to the machine: it writes them
//! itself and skips those that a handler sets.

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use super::headers::Headers;
use super::status::Status;

/// Why a streamed body ends before its end; the peer sees a broken connection, never a short body that looks whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the response body broke off: {reason}")]
pub struct StreamError {
    /// What happened, for the log.
    pub reason: String,
}

/// One piece of a streamed body. Empty ones are skipped.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Parts of files, one behind the other, sent as [`Body::File`] is.
    Files(Vec<FilePart>),
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

/// One item of a streamed body.
pub type StreamItem = Result<Piece, StreamError>;

/// A response's body. Streams are bounded channels: the producer waits when the peer is slow, and its `send` fails
/// (and `closed()` returns) as soon as the peer is gone or the server stops.
#[derive(Debug, Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// A body in memory.
    Full(Bytes),
    /// A finite body of unknown length: chunked, every item flushed at once, ends when all senders are dropped.
    Stream(Receiver<StreamItem>),
    /// A finite body of known length in bytes: ends after exactly that many, fewer break the connection.
    Sized(u64, Receiver<StreamItem>),
    /// A stream without an end of its own: chunked, every item flushed at once; ended cleanly at shutdown and as soon
    /// as the peer closes its sending side. What event streams use.
    Events(Receiver<StreamItem>),
    /// A part of a file, sent from disk to socket without a copy through user space where the socket is plain. A file
    /// that is shorter breaks the connection.
    File(FilePart),
}

/// An open file that bodies are sent from.
pub trait BodyFile: AsFd + Debug + Send + Sync {
    /// Tells whether it still is what it was when the body was made. Asked after the last byte of a part was handed to
    /// the socket; a file that is not breaks the connection, so that the body never looks whole.
    fn is_unchanged(&self) -> bool {
        true
    }
}

impl BodyFile for File {}

/// A part of an open file.
#[derive(Debug, Clone)]
pub struct FilePart {
    /// The file; it may be shared by responses: its position is neither used nor moved.
    pub file: Arc<dyn BodyFile>,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: Status,
    /// The header fields, without those of framing.
    pub headers: Headers,
    /// The body.
    pub body: Body,
    /// Where the trailers of a [`Body::Stream`] come from, if it has any.
    pub trailers: Option<oneshot::Receiver<Headers>>,
}

impl Response {
    /// Makes a response without headers and body.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self { status, headers: Headers::new(), body: Body::Empty, trailers: None }
    }

    /// Makes a response with a body in memory.
    #[must_use]
    pub fn full(status: Status, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        debug_assert!(!content_type.bytes().any(|byte| byte.is_ascii_control()), "{content_type:?}");
        let mut headers = Headers::with_capacity(2);
        headers
            .push_checked(Bytes::from_static(b"Content-Type"), Bytes::from_static(content_type.as_bytes()));
        Self { status, headers, body: Body::Full(body.into()), trailers: None }
    }

    /// Makes a plain text response.
    #[must_use]
    pub fn text(status: Status, text: impl Into<Bytes>) -> Self {
        Self::full(status, "text/plain; charset=utf-8", text)
    }

    /// Makes a JSON response of text that is already JSON.
    #[must_use]
    pub fn json(status: Status, json: impl Into<Bytes>) -> Self {
        Self::full(status, "application/json", json)
    }

    /// Makes the API's error body: `{"error": {"code": ..., "message": ...}}`.
    #[must_use]
    pub fn error(status: Status, code: &str, message: &str) -> Self {
        let value = serde_json::json!({ "error": { "code": code, "message": message } });
        Self::json(status, format!("{value}\n"))
    }

    /// Appends a header; control bytes in the value become spaces.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Bytes>) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Announces trailers behind a [`Body::Stream`]. Its producer sends them before it drops the stream's sender. A peer that
    /// did not say `TE: trailers` does not get them; what no trailer may be (RFC 9110, 6.5.1) is left out.
    #[must_use]
    pub fn with_trailers(mut self, trailers: oneshot::Receiver<Headers>) -> Self {
        self.trailers = Some(trailers);
        self
    }

    /// Replaces the body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}
