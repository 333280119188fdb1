//! The chunked transfer coding, receiving side (RFC 9112, 7.1).
//!
//! ```text
//! SizeLine ─ n > 0 ─► Data ─ n bytes ─► DataEnd ─ CRLF ─► SizeLine
//!     └───── n = 0 ─► Trailers ─ empty line ─► Done
//! ```
//!
//! Extensions are checked and dropped, trailers checked, bounded and kept, without those that no trailer may be.

use bytes::{Buf, Bytes, BytesMut};

use super::error::HttpError;
use super::head::{is_field_content, is_token, parse_field, strip_cr};
use super::headers::Headers;
use super::target::hex_digit;
use super::trailers::may_be_trailer;
use crate::limits;

/// Most hexadecimal digits of a size: those of 64 bits.
const SIZE_DIGITS_MAX: usize = 16;

/// The decoder's place within the coding.
#[derive(Debug)]
pub(super) struct ChunkedDecoder {
    state: State,
    /// Bytes that the body may still bring.
    allowance: u64,
    trailers: Headers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SizeLine,
    Data { left: u64 },
    DataEnd,
    Trailers { len: usize },
    Done,
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A piece of the body.
    Data(Bytes),
    /// The end of the body.
    End,
    /// More input is needed.
    NeedMore,
}

impl ChunkedDecoder {
    /// Makes a decoder of a body of at most `len_max` bytes.
    pub(super) fn new(len_max: u64) -> Self {
        Self { state: State::SizeLine, allowance: len_max, trailers: Headers::new() }
    }

    /// Returns the trailers; complete at the end of the body.
    pub(super) fn take_trailers(&mut self) -> Headers {
        std::mem::take(&mut self.trailers)
    }

    /// Takes the next piece off the buffer.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, HttpError> {
        loop {
            match self.state {
                State::SizeLine => {
                    let Some(line) = take_line(buffer, limits::HTTP_CHUNK_LINE_LEN_MAX)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    let size = parse_size(&line)?;
                    self.allowance = self.allowance.checked_sub(size).ok_or(HttpError::BodyTooLarge)?;
                    self.state =
                        if size == 0 { State::Trailers { len: 0 } } else { State::Data { left: size } };
                }
                State::Data { left } => {
                    if buffer.is_empty() {
                        return Ok(Decoded::NeedMore);
                    }
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data { left } };
                    return Ok(Decoded::Data(buffer.split_to(len).freeze()));
                }
                State::DataEnd => {
                    if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                        return Err(HttpError::Chunk);
                    }
                    if buffer.len() < 2 {
                        return Ok(Decoded::NeedMore);
                    }
                    buffer.advance(2);
                    self.state = State::SizeLine;
                }
                State::Trailers { len } => {
                    let Some(line) = take_line(buffer, limits::HTTP_TRAILERS_LEN_MAX - len)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    if line.is_empty() {
                        self.state = State::Done;
                    } else {
                        self.state = State::Trailers { len: len + line.len() + 2 };
                        self.take_trailer(line.freeze())?;
                    }
                }
                State::Done => return Ok(Decoded::End),
            }
        }
    }

    fn take_trailer(&mut self, line: Bytes) -> Result<(), HttpError> {
        let (name, value) = parse_field(&line).map_err(|_| HttpError::Chunk)?;
        if may_be_trailer(&line[name.clone()]) {
            if self.trailers.len() == limits::HTTP_HEADERS_MAX {
                return Err(HttpError::Chunk);
            }
            self.trailers.push_checked(line.slice(name), line.slice(value));
        }
        Ok(())
    }
}

/// Takes a line off the buffer, without its CRLF; refuses one that is longer with it than `len_max` bytes.
fn take_line(buffer: &mut BytesMut, len_max: usize) -> Result<Option<BytesMut>, HttpError> {
    let window = &buffer[..buffer.len().min(len_max)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if buffer.len() >= len_max { Err(HttpError::Chunk) } else { Ok(None) };
    };
    let mut line = buffer.split_to(end + 1);
    line.truncate(end);
    let len = strip_cr(&line)?;
    line.truncate(len);
    Ok(Some(line))
}

fn parse_size(line: &[u8]) -> Result<u64, HttpError> {
    let digits = line.iter().position(|byte| hex_digit(*byte).is_none()).unwrap_or(line.len());
    if digits == 0 || digits > SIZE_DIGITS_MAX {
        return Err(HttpError::Chunk);
    }
    if !are_extensions(&line[digits..]) {
        return Err(HttpError::Chunk);
    }
    let value = |byte: &u8| u64::from(hex_digit(*byte).expect("counted as a digit above"));
    Ok(line[..digits].iter().fold(0, |size, byte| size << 4 | value(byte)))
}

/// Tells whether this is a row of `;name`, `;name=token` and `;name="quoted"` (section 7.1.1), spaces around the marks.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(name) = skip_spaces(rest).strip_prefix(b";") else { return false };
        let Some(after) = skip_token(skip_spaces(name)) else { return false };
        let value = skip_spaces(after).strip_prefix(b"=").map(skip_spaces);
        let end = match value {
            None => Some(after),
            Some([b'"', text @ ..]) => skip_quoted(text),
            Some(token) => skip_token(token),
        };
        let Some(end) = end else { return false };
        rest = end;
    }
    true
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let len = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[len..]
}

/// Returns what follows a token; `None` if there is none.
fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let len = text.iter().take_while(|byte| is_token(**byte)).count();
    if len == 0 { None } else { Some(&text[len..]) }
}

/// Returns what follows a quoted string whose first quote is behind us; `None` if it does not end.
fn skip_quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] if is_field_content(*byte) => rest,
            [b'\\', ..] => return None,
            [byte, rest @ ..] if is_field_content(*byte) => rest,
            _ => return None,
        };
    }
}
