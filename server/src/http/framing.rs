//! What the head says about the body and the connection (RFC 9112, 6 and 9; RFC 9110, 10.1.1).
//!
//! Anything that two implementations could read differently is refused: that is what request smuggling lives on.

use super::error::HttpError;
use super::headers::{Headers, list_has_token};
use super::request::Version;
use super::target::is_authority;

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

impl BodyFraming {
    /// Returns the length if it is known.
    pub(super) fn len(self) -> Option<u64> {
        match self {
            Self::Length(len) => Some(len),
            Self::Chunked => None,
        }
    }
}

/// What a request's head says beyond the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framing {
    /// The body's framing.
    pub(super) body: BodyFraming,
    /// The peer wants to send further requests.
    pub(super) keep_alive: bool,
    /// The peer waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// The peer takes trailers behind a chunked response.
    pub(super) takes_trailers: bool,
}

/// Reads the framing of a request.
pub(super) fn of_request(version: Version, headers: &Headers) -> Result<Framing, HttpError> {
    let mut seen = Seen::default();
    for (name, value) in headers.iter() {
        match name.len() {
            2 if name.eq_ignore_ascii_case(b"te") => seen.takes_trailers |= list_has_token(value, "trailers"),
            4 if name.eq_ignore_ascii_case(b"host") => seen.host(value)?,
            6 if name.eq_ignore_ascii_case(b"expect") => seen.expect(value)?,
            10 if name.eq_ignore_ascii_case(b"connection") => seen.connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => seen.content_length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => seen.transfer_encoding(value)?,
            _ => {}
        }
    }
    seen.judge(version)
}

#[derive(Debug, Default)]
struct Seen {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    takes_trailers: bool,
}

impl Seen {
    fn host(&mut self, value: &[u8]) -> Result<(), HttpError> {
        self.hosts += 1;
        if self.hosts == 1 && is_authority(value) { Ok(()) } else { Err(HttpError::Host) }
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HttpError::Expectation);
        }
        self.expects_continue = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        self.close |= list_has_token(value, "close");
        self.keep_alive |= list_has_token(value, "keep-alive");
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if self.length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(HttpError::ContentLength);
        }
        let digits = std::str::from_utf8(value).expect("digits are ASCII");
        // Too many digits for the type is well-formed and over every limit.
        self.length = Some(digits.parse().unwrap_or(u64::MAX));
        Ok(())
    }

    /// Takes one `chunked` and nothing else: other codings are not implemented, twice or not last is malformed.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), HttpError> {
        if self.chunked {
            return Err(HttpError::TransferEncoding);
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        let others = value.len() - last.len();
        let repeated = last.eq_ignore_ascii_case(b"chunked") && list_has_token(&value[..others], "chunked");
        if last.eq_ignore_ascii_case(b"chunked") && !repeated {
            Err(HttpError::TransferCoding)
        } else {
            Err(HttpError::TransferEncoding)
        }
    }

    fn judge(self, version: Version) -> Result<Framing, HttpError> {
        if self.hosts == 0 && version == Version::Http11 {
            return Err(HttpError::Host);
        }
        if self.chunked && (self.length.is_some() || version == Version::Http10) {
            return Err(HttpError::TransferEncoding);
        }
        let body =
            if self.chunked { BodyFraming::Chunked } else { BodyFraming::Length(self.length.unwrap_or(0)) };
        let keep_alive = !self.close && (version == Version::Http11 || self.keep_alive);
        let has_body = body != BodyFraming::Length(0);
        let expects_continue = self.expects_continue && version == Version::Http11 && has_body;
        Ok(Framing { body, keep_alive, expects_continue, takes_trailers: self.takes_trailers })
    }
}
