//! The response head (RFC 9112, 4 and 6): status line, the machine's own framing headers, the handler's headers.

use super::connection::Coding;
use super::date::HttpDate;
use super::headers::Headers;
use super::output::Output;
use super::status::Status;
use super::trailers::may_be_trailer;

/// What the handler knows about the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// The body has this many bytes.
    Known(u64),
    /// The body ends when it ends.
    Unknown,
}

/// What the request says about its response.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeadContext {
    pub(super) is_head: bool,
    pub(super) is_http10: bool,
    pub(super) keep_alive: bool,
    pub(super) takes_trailers: bool,
}

/// Encodes a response head; returns how its body is delimited.
pub(super) fn response_head(
    status: Status,
    headers: &Headers,
    length: BodyLength,
    context: HeadContext,
    date: Option<&HttpDate>,
    output: &mut Output,
) -> Coding {
    if status == Status::OK {
        output.put(b"HTTP/1.1 200 OK\r\n");
    } else {
        output.put(b"HTTP/1.1 ");
        output.put_number(u64::from(status.code()), 10);
        output.put(b" ");
        output.put(status.reason().as_bytes());
        output.put(b"\r\n");
    }
    if let Some(date) = date {
        output.put(b"Date: ");
        output.put(date.as_bytes());
        output.put(b"\r\n");
    }
    let bodiless = status.is_bodiless();
    let skipped = context.is_head || bodiless;
    // A HEAD or 304 without body may tell the length that GET's 200 would have.
    let keeps_length = skipped && length == BodyLength::None && status.code() != 204;
    let announces_trailers = context.takes_trailers && !context.is_http10 && length == BodyLength::Unknown;
    for (name, value) in headers.iter() {
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_kept = match name {
            _ if is_length => keeps_length,
            _ if name.eq_ignore_ascii_case(b"trailer") => announces_trailers,
            _ => !is_framing(name),
        };
        if is_kept {
            put_field(name, value, output);
        }
    }
    let coding = match length {
        _ if bodiless => Coding::Skipped,
        BodyLength::None if keeps_length && headers.contains("content-length") => Coding::Skipped,
        BodyLength::None => put_length(0, output),
        BodyLength::Known(len) => put_length(len, output),
        BodyLength::Unknown if context.is_http10 => Coding::UntilClose,
        BodyLength::Unknown => {
            put_field(b"Transfer-Encoding", b"chunked", output);
            Coding::Chunked
        }
    };
    let coding = if skipped { Coding::Skipped } else { coding };
    if !context.keep_alive || coding == Coding::UntilClose {
        put_field(b"Connection", b"close", output);
    } else if context.is_http10 {
        put_field(b"Connection", b"keep-alive", output);
    }
    output.put(b"\r\n");
    coding
}

/// Encodes the end of a chunked body with those of the fields that may be trailers.
pub(super) fn last_chunk(trailers: &Headers, output: &mut Output) {
    output.put(b"0\r\n");
    for (name, value) in trailers.iter().filter(|(name, _)| may_be_trailer(name)) {
        put_field(name, value, output);
    }
    output.put(b"\r\n");
}

fn is_framing(name: &[u8]) -> bool {
    ["connection", "date", "transfer-encoding", "keep-alive", "upgrade"]
        .iter()
        .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

fn put_length(len: u64, output: &mut Output) -> Coding {
    output.put(b"Content-Length: ");
    output.put_number(len, 10);
    output.put(b"\r\n");
    Coding::Length { left: len }
}

fn put_field(name: &[u8], value: &[u8], output: &mut Output) {
    output.put(name);
    output.put(b": ");
    output.put(value);
    output.put(b"\r\n");
}
