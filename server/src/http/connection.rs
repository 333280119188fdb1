//! One HTTP/1.1 connection, server side, as two coupled state machines without socket and clock (RFC 9112, 9).
//!
//! ```text
//! receiving:  Head ─ request ─► Length | Chunked ─ end of message ─► Done ┐
//!               ▲                   │ HttpError, early end                ├─ next_cycle ─► Head | Closed
//!               └───────────────────┼──────────────────────────────────── │
//!                                   ▼                                     │
//!                                 Closed (nothing more is read)           │
//! sending:    Idle ─ request ─► Pending ─ send_head ─► Body ─ send_end ─► Done ┘
//! ```
//!
//! The engine puts what it read into [`Connection::read_buffer`], takes events until [`Event::NeedMore`], and writes
//! whatever stands in the [`Output`]. A pipelined request stays in the buffer until [`Connection::next_cycle`]: one
//! request is answered at a time, in order. After an [`HttpError`] the one response still possible closes.

use bytes::{Bytes, BytesMut};

use super::chunked::{ChunkedDecoder, Decoded};
use super::encode::{self, BodyLength, HeadContext};
use super::error::HttpError;
use super::framing::BodyFraming;
use super::head::HeadParser;
use super::headers::Headers;
use super::method::Method;
use super::output::Output;
use super::request::{Request, Version};
use super::status::Status;
use crate::limits;

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A complete request head.
    Request(Box<Request>),
    /// A piece of the body, never empty.
    Body(Bytes),
    /// The end of the request, body included.
    EndOfMessage,
    /// Nothing until more input comes.
    NeedMore,
    /// Nothing until the response is complete and [`Connection::next_cycle`] was called.
    Paused,
    /// The peer ended the connection between two requests, or an error ended it.
    Closed,
}

/// A response body that is not what its head announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response body differs from its announced length by {left} bytes")]
pub struct BodyLengthError {
    /// Bytes that are missing; 0 if there are too many.
    pub left: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Connection {
    buffer: BytesMut,
    ended: bool,
    receiving: Receiving,
    sending: Sending,
    head: HeadParser,
    body_len_max: u64,
    context: HeadContext,
    continue_due: bool,
    trailers: Headers,
}

#[derive(Debug)]
enum Receiving {
    Head,
    Length { left: u64 },
    Chunked(ChunkedDecoder),
    Done,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Idle,
    Pending,
    Body(Coding),
    Done,
}

/// How the response's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// By its length, of which this is left.
    Length { left: u64 },
    /// By chunks.
    Chunked,
    /// By the end of the connection (HTTP/1.0).
    UntilClose,
    /// There is none, whatever the handler sends (HEAD, 204, 304).
    Skipped,
}

impl Connection {
    /// Makes the machine of a new connection that refuses bodies of more than `body_len_max` bytes.
    #[must_use]
    pub fn new(body_len_max: u64) -> Self {
        Self {
            buffer: BytesMut::new(),
            ended: false,
            receiving: Receiving::Head,
            sending: Sending::Idle,
            head: HeadParser::default(),
            body_len_max,
            context: HeadContext::default(),
            continue_due: false,
            trailers: Headers::new(),
        }
    }

    /// Takes received bytes in by copying them.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the buffer to append received bytes to, with room for them.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        let wanted = match &self.receiving {
            Receiving::Length { left } => {
                usize::try_from(*left).unwrap_or(usize::MAX).clamp(HEAD_READ_LEN, limits::HTTP_READ_LEN)
            }
            Receiving::Chunked(_) => limits::HTTP_READ_LEN,
            Receiving::Head | Receiving::Done | Receiving::Closed => HEAD_READ_LEN,
        };
        if self.buffer.capacity() - self.buffer.len() < wanted / 2 {
            self.buffer.reserve(wanted);
        }
        &mut self.buffer
    }

    /// Tells whether the peer ended its side.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns how many received bytes were not yet made into events.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes in that the peer ended its side.
    pub fn receive_end(&mut self) {
        self.ended = true;
    }

    /// Tells whether the peer has begun a request whose head is not yet complete.
    #[must_use]
    pub fn has_begun_head(&self) -> bool {
        matches!(self.receiving, Receiving::Head) && self.head.has_begun(&self.buffer)
    }

    /// Returns the next event.
    ///
    /// # Errors
    /// The peer violated HTTP or ended inside a request; every later call returns [`Event::Closed`].
    pub fn next_event(&mut self) -> Result<Event, HttpError> {
        match self.advance() {
            Ok(Event::NeedMore) if self.ended => {
                let between = matches!(self.receiving, Receiving::Head) && !self.head.has_begun(&self.buffer);
                self.close();
                if between { Ok(Event::Closed) } else { Err(HttpError::CutShort) }
            }
            Ok(event) => Ok(event),
            Err(error) => {
                self.close();
                Err(error)
            }
        }
    }

    fn advance(&mut self) -> Result<Event, HttpError> {
        match &mut self.receiving {
            Receiving::Head => {
                let Some((request, framing)) = self.head.parse(&mut self.buffer)? else {
                    return Ok(Event::NeedMore);
                };
                self.context = HeadContext {
                    is_head: request.method == Method::Head,
                    is_http10: request.version == Version::Http10,
                    keep_alive: framing.keep_alive,
                    takes_trailers: framing.takes_trailers,
                };
                self.sending = Sending::Pending;
                self.continue_due = framing.expects_continue;
                self.receiving = match framing.body {
                    BodyFraming::Length(len) if len > self.body_len_max => {
                        return Err(HttpError::BodyTooLarge);
                    }
                    BodyFraming::Length(left) => Receiving::Length { left },
                    BodyFraming::Chunked => Receiving::Chunked(ChunkedDecoder::new(self.body_len_max)),
                };
                Ok(Event::Request(Box::new(request)))
            }
            Receiving::Length { left: 0 } => {
                self.receiving = Receiving::Done;
                Ok(Event::EndOfMessage)
            }
            Receiving::Length { .. } if self.buffer.is_empty() => Ok(Event::NeedMore),
            Receiving::Length { left } => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= len as u64;
                Ok(Event::Body(self.buffer.split_to(len).freeze()))
            }
            Receiving::Chunked(decoder) => match decoder.decode(&mut self.buffer)? {
                Decoded::Data(bytes) => Ok(Event::Body(bytes)),
                Decoded::NeedMore => Ok(Event::NeedMore),
                Decoded::End => {
                    self.trailers = decoder.take_trailers();
                    self.receiving = Receiving::Done;
                    Ok(Event::EndOfMessage)
                }
            },
            Receiving::Done => Ok(Event::Paused),
            Receiving::Closed => Ok(Event::Closed),
        }
    }

    /// Returns the trailers of the current request, without those that no trailer may be; there are none before
    /// [`Event::EndOfMessage`]. They are never merged into the header fields.
    #[must_use]
    pub fn trailers(&self) -> &Headers {
        &self.trailers
    }

    fn close(&mut self) {
        self.receiving = Receiving::Closed;
        self.context.keep_alive = false;
        self.continue_due = false;
    }

    /// Makes the response to the current request the last one.
    pub fn close_after_response(&mut self) {
        self.context.keep_alive = false;
    }

    /// Tells whether the peer waits for `100 Continue` and has not begun its body.
    #[must_use]
    pub fn needs_continue(&self) -> bool {
        self.continue_due && self.sending == Sending::Pending && self.buffer.is_empty()
    }

    /// Encodes `100 Continue` if the peer waits for it.
    pub fn send_continue(&mut self, output: &mut Output) {
        if self.needs_continue() {
            output.put(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.continue_due = false;
    }

    /// Encodes the head of the final response. An unread request body that is not sure to be short closes.
    pub fn send_head(
        &mut self,
        status: Status,
        headers: &Headers,
        length: BodyLength,
        date: Option<&super::HttpDate>,
        output: &mut Output,
    ) {
        debug_assert!(self.sending != Sending::Done && !matches!(self.sending, Sending::Body(_)));
        let body_is_bounded = match &self.receiving {
            Receiving::Done | Receiving::Head => true,
            Receiving::Length { left: 0 } => true,
            Receiving::Length { left } => *left <= limits::HTTP_DISCARD_LEN_MAX && !self.needs_continue(),
            Receiving::Chunked(_) | Receiving::Closed => false,
        };
        self.context.keep_alive &= body_is_bounded && self.sending == Sending::Pending;
        let coding = encode::response_head(status, headers, length, self.context, date, output);
        self.context.keep_alive &= coding != Coding::UntilClose;
        self.sending = Sending::Body(coding);
    }

    /// Encodes a piece of the response's body.
    ///
    /// # Errors
    /// The body is longer than announced; nothing was encoded.
    pub fn send_data(&mut self, bytes: Bytes, output: &mut Output) -> Result<(), BodyLengthError> {
        let Sending::Body(coding) = &mut self.sending else { return Ok(()) };
        match coding {
            Coding::Skipped => {}
            _ if bytes.is_empty() => {}
            Coding::UntilClose => output.put_shared(bytes),
            Coding::Chunked => {
                output.put_number(bytes.len() as u64, 16);
                output.put(b"\r\n");
                output.put_shared(bytes);
                output.put(b"\r\n");
            }
            Coding::Length { left } => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(BodyLengthError { left: 0 })?;
                output.put_shared(bytes);
            }
        }
        Ok(())
    }

    /// Begins a piece of the body that the engine itself sends, past the output or through [`Connection::put_aside`]:
    /// exactly `len` bytes, at least one, then [`Connection::end_aside`].
    ///
    /// # Errors
    /// The body is longer than announced; nothing was encoded.
    pub fn begin_aside(&mut self, len: u64, output: &mut Output) -> Result<(), BodyLengthError> {
        let Sending::Body(coding) = &mut self.sending else { return Err(BodyLengthError { left: 0 }) };
        match coding {
            Coding::Skipped => return Err(BodyLengthError { left: 0 }),
            Coding::UntilClose => {}
            Coding::Chunked => {
                output.put_number(len, 16);
                output.put(b"\r\n");
            }
            Coding::Length { left } => *left = left.checked_sub(len).ok_or(BodyLengthError { left: 0 })?,
        }
        Ok(())
    }

    /// Encodes bytes of a piece that was begun aside, where there is no way past the output.
    pub fn put_aside(&mut self, bytes: Bytes, output: &mut Output) {
        output.put_shared(bytes);
    }

    /// Ends a piece that was begun aside, when all of it was sent.
    pub fn end_aside(&mut self, output: &mut Output) {
        if self.sending == Sending::Body(Coding::Chunked) {
            output.put(b"\r\n");
        }
    }

    /// Encodes the end of the response.
    ///
    /// # Errors
    /// The body is shorter than announced; the connection has to be broken.
    pub fn send_end(&mut self, output: &mut Output) -> Result<(), BodyLengthError> {
        self.send_end_with(&Headers::new(), output)
    }

    /// Encodes the end of the response and its trailers. They are left out where the peer does not take any, or the body
    /// is not chunked: no response may depend on them.
    ///
    /// # Errors
    /// As [`Connection::send_end`].
    pub fn send_end_with(&mut self, trailers: &Headers, output: &mut Output) -> Result<(), BodyLengthError> {
        if let Sending::Body(coding) = self.sending {
            match coding {
                Coding::Length { left } if left > 0 => return Err(BodyLengthError { left }),
                Coding::Chunked if self.context.takes_trailers => encode::last_chunk(trailers, output),
                Coding::Chunked => output.put(b"0\r\n\r\n"),
                Coding::Length { .. } | Coding::UntilClose | Coding::Skipped => {}
            }
        }
        self.sending = Sending::Done;
        Ok(())
    }

    /// Tells whether the response has no body for the peer, whatever the handler made.
    #[must_use]
    pub fn skips_body(&self) -> bool {
        self.sending == Sending::Body(Coding::Skipped)
    }

    /// Tells whether every announced byte of the response's body was encoded.
    #[must_use]
    pub fn is_body_full(&self) -> bool {
        matches!(self.sending, Sending::Body(Coding::Length { left: 0 }) | Sending::Done)
    }

    /// Goes on to the next request; `false` if the connection has to close instead. Both sides of the current exchange
    /// have to be complete.
    pub fn next_cycle(&mut self) -> bool {
        let complete = self.sending == Sending::Done && matches!(self.receiving, Receiving::Done);
        if !complete || !self.context.keep_alive {
            self.receiving = Receiving::Closed;
            return false;
        }
        self.receiving = Receiving::Head;
        self.sending = Sending::Idle;
        self.trailers = Headers::new();
        self.context = HeadContext::default();
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * HEAD_READ_LEN {
            // An idle connection does not keep the room of the upload before.
            self.buffer = BytesMut::new();
        }
        true
    }

    /// Tells whether the connection goes on and bytes of a further request are here already.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.keeps_alive() && matches!(self.receiving, Receiving::Done) && !self.buffer.is_empty()
    }

    /// Tells whether the peer may still be sending, or has sent what was not made into events.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.ended && (!matches!(self.receiving, Receiving::Done) || !self.buffer.is_empty())
    }

    /// Tells whether the response leaves the connection usable once the request's body was read past.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        self.context.keep_alive && !matches!(self.receiving, Receiving::Closed)
    }
}

/// Room for a request head: a few hundred bytes usually.
const HEAD_READ_LEN: usize = 8 * 1024;
