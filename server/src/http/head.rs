//! The request head, line by line (RFC 9112, 2 to 5), as strictly as the grammar stands.
//!
//! Lines are judged in order and as soon as they are complete, and lengths are judged so that a line that is over its
//! limit is refused alike before and after its end came: the verdict never depends on how the input was split.
//! Nothing is copied: the parts of a [`Request`] share the received block.

use std::ops::Range;

use bytes::{Buf, BytesMut};
use memchr::{memchr, memrchr};

use super::error::HttpError;
use super::framing::{self, Framing};
use super::headers::Headers;
use super::method::Method;
use super::request::{Request, Version};
use super::target::parse_target;
use crate::limits;

/// Longest request line with its CRLF: the longest target, a method, a version and their separators.
const LINE_LEN_MAX: usize = limits::HTTP_TARGET_LEN_MAX + 64;

/// The parser's place within the head of the next request; offsets count from the start of the buffer.
#[derive(Debug, Default)]
pub(super) struct HeadParser {
    /// Bytes known to hold no line end after `line_start`.
    scanned: usize,
    /// Where the line that is not yet complete starts.
    line_start: usize,
    empty_lines: usize,
    line: Option<RequestLine>,
    fields: Vec<(Range<usize>, Range<usize>)>,
}

#[derive(Debug)]
struct RequestLine {
    method: Method,
    target: Range<usize>,
    version: Version,
    /// Where the header section starts.
    end: usize,
}

impl HeadParser {
    /// Tells whether a part of a request line was received.
    pub(super) fn has_begun(&self, buffer: &[u8]) -> bool {
        self.line.is_some() || !(buffer.is_empty() || buffer == b"\r")
    }

    /// Takes the next head off the buffer; `None` until it is complete.
    pub(super) fn parse(&mut self, buffer: &mut BytesMut) -> Result<Option<(Request, Framing)>, HttpError> {
        loop {
            let Some(line_end) = memchr(b'\n', &buffer[self.scanned..]) else {
                self.scanned = buffer.len();
                self.check_len(buffer.len() + 1)?;
                return Ok(None);
            };
            let next = self.scanned + line_end + 1;
            self.check_len(next)?;
            let line = self.line_start..next - 1;
            let content = strip_cr(&buffer[line.clone()])?;
            let content = line.start..line.start + content;
            if self.line.is_none() && content.is_empty() {
                self.skip_empty_line(buffer)?;
                continue;
            }
            self.scanned = next;
            self.line_start = next;
            if self.line.is_none() {
                self.line = Some(parse_request_line(buffer, content, next)?);
            } else if content.is_empty() {
                return self.finish(buffer).map(Some);
            } else {
                if self.fields.len() == limits::HTTP_HEADERS_MAX {
                    return Err(HttpError::HeadersTooLarge);
                }
                let (name, value) = parse_field(&buffer[content.clone()])?;
                self.fields.push((shift(name, content.start), shift(value, content.start)));
            }
        }
    }

    /// Refuses a line or section that is longer than allowed; `end` is the least offset behind its line end.
    fn check_len(&self, end: usize) -> Result<(), HttpError> {
        match &self.line {
            None if end > LINE_LEN_MAX => Err(HttpError::TargetTooLong),
            Some(line) if end - line.end > limits::HTTP_HEADERS_LEN_MAX => Err(HttpError::HeadersTooLarge),
            _ => Ok(()),
        }
    }

    fn skip_empty_line(&mut self, buffer: &mut BytesMut) -> Result<(), HttpError> {
        buffer.advance(2);
        self.scanned = 0;
        self.empty_lines += 1;
        if self.empty_lines > limits::HTTP_EMPTY_LINES_MAX { Err(HttpError::RequestLine) } else { Ok(()) }
    }

    /// Builds the request of a complete head and makes the parser ready for the next one.
    fn finish(&mut self, buffer: &mut BytesMut) -> Result<(Request, Framing), HttpError> {
        let line = self.line.take().expect("the header section follows a request line");
        let head = buffer.split_to(self.line_start).freeze();
        let mut headers = Headers::with_capacity(self.fields.len());
        for (name, value) in self.fields.drain(..) {
            headers.push_checked(head.slice(name), head.slice(value));
        }
        (self.scanned, self.line_start, self.empty_lines) = (0, 0, 0);
        let raw_target = head.slice(line.target);
        let target = parse_target(&raw_target, line.method)?;
        let framing = framing::of_request(line.version, &headers)?;
        let request = Request {
            method: line.method,
            version: line.version,
            path: target.path,
            raw_path: target.raw_path,
            raw_target,
            query: target.query,
            headers,
            content_length: framing.body.len(),
            peer: None,
        };
        Ok((request, framing))
    }
}

/// Returns the length of a line without its CR; refuses a line without one and a CR anywhere else.
pub(super) fn strip_cr(line: &[u8]) -> Result<usize, HttpError> {
    match memchr(b'\r', line) {
        Some(at) if at + 1 == line.len() => Ok(at),
        _ => Err(HttpError::BareLineEnd),
    }
}

fn parse_request_line(buffer: &[u8], content: Range<usize>, end: usize) -> Result<RequestLine, HttpError> {
    let line = &buffer[content.clone()];
    let method_end = memchr(b' ', line).ok_or(HttpError::RequestLine)?;
    let target_end = memrchr(b' ', line).ok_or(HttpError::RequestLine)?;
    if method_end == 0
        || target_end <= method_end + 1
        || !line[..method_end].iter().all(|byte| is_token(*byte))
    {
        return Err(HttpError::RequestLine);
    }
    let version = parse_version(&line[target_end + 1..])?;
    let method = Method::from_token(&line[..method_end]).ok_or(HttpError::Method)?;
    let target = content.start + method_end + 1..content.start + target_end;
    if target.len() > limits::HTTP_TARGET_LEN_MAX {
        return Err(HttpError::TargetTooLong);
    }
    Ok(RequestLine { method, target, version, end })
}

fn parse_version(text: &[u8]) -> Result<Version, HttpError> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            if *major == b'1' {
                Ok(Version::Http11)
            } else {
                Err(HttpError::Version)
            }
        }
        _ => Err(HttpError::RequestLine),
    }
}

/// Splits a field line without its CRLF into name and value, without the spaces around the value.
pub(super) fn parse_field(line: &[u8]) -> Result<(Range<usize>, Range<usize>), HttpError> {
    let colon = line.iter().position(|byte| !is_token(*byte)).ok_or(HttpError::Header)?;
    // Without an early end, so that the compiler looks at many bytes at once; bad values are rare.
    let is_content = line[colon + 1..].iter().fold(true, |all, byte| all & is_field_content(*byte));
    if colon == 0 || line[colon] != b':' || !is_content {
        return Err(HttpError::Header);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[colon + 1..];
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |at| at + 1);
    Ok((0..colon, colon + 1 + start..colon + 1 + end))
}

/// Tells whether a byte may stand in a token (RFC 9110, 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = letters_digits_and(b"!#$%&'*+-.^_`|~");

/// A table of the ASCII letters and digits and these marks, by byte.
pub(super) const fn letters_digits_and(marks: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
}

/// Tells whether a byte may stand in a field value (RFC 9110, 5.5).
pub(super) const fn is_field_content(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
