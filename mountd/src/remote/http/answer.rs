//! What a server answers: read within bounds, decoded, or turned into an error.

use bytes::{Bytes, BytesMut};
use dfs_shared::wire::{WireError, decode};
use futures_util::StreamExt;
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::pool::Line;
use crate::limits::{ERROR_BODY_LEN_MAX, REPLY_LEN_MAX, REPLY_MESSAGE_LEN_MAX};
use crate::remote::RemoteError;

/// What is expected, and how many bytes of it are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// Its name, for people.
    pub(super) what: &'static str,
    /// Most bytes.
    pub(super) len_max: usize,
}

impl Expected {
    /// A few fields.
    pub(super) fn fields(what: &'static str) -> Self {
        Self { what, len_max: REPLY_LEN_MAX }
    }

    /// A list of so many items of at most so many bytes.
    pub(super) fn items(what: &'static str, count: usize, item_len_max: usize) -> Self {
        let len_max = count.saturating_mul(item_len_max).saturating_add(REPLY_LEN_MAX);
        Self { what, len_max: len_max.min(REPLY_MESSAGE_LEN_MAX) }
    }

    /// As much as the protocol allows.
    pub(super) fn message(what: &'static str) -> Self {
        Self { what, len_max: REPLY_MESSAGE_LEN_MAX }
    }
}

/// Reads a whole body, unless it is too long.
pub(super) async fn collect(
    line: &Line,
    response: Response,
    expected: Expected,
) -> Result<Bytes, RemoteError> {
    let Expected { what, len_max } = expected;
    let too_long = || RemoteError::TooLong { server: line.server.clone(), what, len_max };
    if response.content_length().is_some_and(|len| len > len_max as u64) {
        return Err(too_long());
    }
    let mut pieces = response.bytes_stream();
    let mut body = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| line.failed(error))?;
        if body.len() + piece.len() > len_max {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// Reads and decodes a message.
pub(super) async fn message<R: DeserializeOwned>(
    line: &Line,
    response: Response,
    expected: Expected,
) -> Result<R, RemoteError> {
    let body = collect(line, response, expected).await?;
    decode(&body).map_err(|error| wire_error(&line.server, expected.what, error))
}

pub(super) fn wire_error(server: &str, what: &'static str, error: WireError) -> RemoteError {
    let server = server.to_owned();
    match error {
        WireError::UnknownVersion { .. } => RemoteError::VersionMismatch { message: error.to_string() },
        WireError::TooLong { .. } => RemoteError::TooLong { server, what, len_max: REPLY_MESSAGE_LEN_MAX },
        // The decoder says more: that a list is too long, for one.
        WireError::Damaged { ref source } => {
            RemoteError::Damaged { server, what, why: format!("{error}: {source}") }
        }
        WireError::NotAMessage | WireError::TrailingBytes { .. } => {
            RemoteError::Damaged { server, what, why: error.to_string() }
        }
    }
}

/// Lets a successful answer pass and turns any other into an error.
pub(super) async fn check_status(line: &Line, response: Response) -> Result<Response, RemoteError> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let expected = Expected { what: "error", len_max: ERROR_BODY_LEN_MAX };
    let body = collect(line, response, expected).await.unwrap_or_default();
    let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let field = |name: &str| parsed["error"][name].as_str().map(str::to_owned);
    let code = field("code").unwrap_or_else(|| "unknown".to_owned());
    let message = field("message").unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    Err(match code.as_str() {
        "volume_not_found" => RemoteError::VolumeNotFound { message },
        "unknown_version" => RemoteError::VersionMismatch { message },
        _ => RemoteError::Refused { status: status.as_u16(), code, message },
    })
}
