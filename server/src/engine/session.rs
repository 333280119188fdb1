//! One connection as one future: it drives the HTTP machine between its socket and the handler.
//!
//! The same on every engine: an engine brings a [`Socket`] and polls the future.
//!
//! ```text
//! wait for a head ─► handler (the body is fed to it meanwhile) ─► response ─► read past the rest ─┐
//!       ▲                                                                                         │
//!       └──────────────────── keep-alive ─────────────────────────────────────────────────────────┘
//! ```

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot, watch};

use super::tls::TlsSession;
use super::{BodyError, EngineConfig, Handler, RequestBody};
use crate::http::{Connection, Event, Headers, HttpDate, HttpError, Output, Request, Response, Status};
use crate::limits;

mod guard;
mod io_wait;
mod respond;
mod socket;

use guard::guarded;
use io_wait::{Gone, Io, ReadEnd};
pub(super) use socket::Socket;

/// A request's body pieces on their way to the handler.
type Pieces = mpsc::Sender<Result<Bytes, BodyError>>;

/// What a connection holds between the socket and the handler.
struct Session<'a, S> {
    io: Io<S>,
    machine: Connection,
    output: Output,
    config: &'a EngineConfig,
    date: (u64, HttpDate),
    /// Time has passed since the date was read: this end has waited for something.
    has_waited: bool,
    peer: SocketAddr,
}

/// What came instead of a request.
enum NoRequest {
    /// Nothing: the connection ends without an answer.
    Quiet,
    /// Something that is answered with this, last.
    Refuse(Response),
}

/// How a connection came to its last response.
enum Ending {
    /// Nothing is left to read.
    Settled,
    /// The peer may still be sending.
    Unread,
}

/// Serves one connection to its end.
pub(super) async fn serve<S: Socket, H: Handler>(
    socket: S,
    tls: Option<TlsSession>,
    peer: SocketAddr,
    handler: &H,
    config: &EngineConfig,
    stop: watch::Receiver<bool>,
) {
    let mut session = Session {
        io: Io::new(socket, tls, stop, config.write_timeout),
        machine: Connection::new(config.body_len_max),
        output: Output::default(),
        config,
        date: (0, HttpDate::from_unix_seconds(0)),
        has_waited: true,
        peer,
    };
    match session.run(handler).await {
        Ok(Ending::Settled) => session.io.end().await,
        Ok(Ending::Unread) => session.linger().await,
        // Dropping the socket is all that is left.
        Err(Gone) => {}
    }
}

impl<S: Socket> Session<'_, S> {
    async fn run<H: Handler>(&mut self, handler: &H) -> Result<Ending, Gone> {
        let mut head_wait = self.config.head_timeout;
        loop {
            let response = match self.next_request(head_wait).await {
                Ok(request) => {
                    self.io.set_busy(true);
                    self.handle(handler, request).await?
                }
                Err(NoRequest::Quiet) => {
                    self.io.flush(&mut self.output).await?;
                    return Ok(Ending::Settled);
                }
                Err(NoRequest::Refuse(response)) => response,
            };
            if self.io.is_told_to_stop() {
                self.machine.close_after_response();
            }
            self.respond(response).await?;
            // The answers to requests that came together leave together.
            if !self.machine.has_next() || self.output.remaining() >= limits::HTTP_READ_LEN {
                self.io.flush(&mut self.output).await?;
            }
            if self.machine.keeps_alive() {
                self.discard_body().await;
            }
            self.io.set_busy(false);
            let unread = self.machine.has_unread();
            if !self.machine.next_cycle() {
                return Ok(if unread { Ending::Unread } else { Ending::Settled });
            }
            head_wait = self.config.idle_timeout;
        }
    }

    /// Waits for the next request head; a connection without one for `idle` ends quietly.
    async fn next_request(&mut self, idle: Duration) -> Result<Request, NoRequest> {
        let mut idle_deadline = None;
        let mut head_deadline = None;
        loop {
            match self.machine.next_event() {
                Ok(Event::Request(mut request)) => {
                    request.peer = Some(self.peer);
                    return Ok(*request);
                }
                Ok(Event::NeedMore) => {}
                Ok(_) => return Err(NoRequest::Quiet),
                Err(error) => return Err(NoRequest::Refuse(self.refusal(error))),
            }
            if self.io.flush(&mut self.output).await.is_err() {
                return Err(NoRequest::Quiet);
            }
            self.has_waited = true;
            let begun = self.machine.has_begun_head();
            if begun && head_deadline.is_none() {
                head_deadline = Some(Instant::now() + self.config.head_timeout);
            }
            let deadline = match head_deadline {
                Some(deadline) => deadline,
                None => *idle_deadline.get_or_insert_with(|| Instant::now() + idle),
            };
            match self.io.read(Some(self.machine.read_buffer()), Some(deadline), !begun).await {
                ReadEnd::Data(_) => {}
                ReadEnd::End => self.machine.receive_end(),
                ReadEnd::TimedOut if begun => {
                    let message = "the request head came too slowly";
                    return Err(NoRequest::Refuse(Response::error(
                        Status::REQUEST_TIMEOUT,
                        "head_timeout",
                        message,
                    )));
                }
                ReadEnd::TimedOut | ReadEnd::Stopped | ReadEnd::Broken => return Err(NoRequest::Quiet),
            }
        }
    }

    fn refusal(&self, error: HttpError) -> Response {
        tracing::debug!(peer = %self.peer, code = error.code(), "request refused: {error}");
        Response::error(error.status(), error.code(), &error.to_string())
    }

    /// Runs the handler; its body is given whole if it is already here, otherwise fed as it comes.
    async fn handle<H: Handler>(&mut self, handler: &H, request: Request) -> Result<Response, Gone> {
        let mut first = None;
        loop {
            match self.machine.next_event() {
                Ok(Event::Body(bytes)) if first.is_none() => first = Some(Ok(bytes)),
                Ok(Event::Body(bytes)) => {
                    return self.handle_fed(handler, request, [first, Some(Ok(bytes))]).await;
                }
                Ok(Event::NeedMore) => return self.handle_fed(handler, request, [first, None]).await,
                Ok(_) => {
                    let bytes = first.and_then(Result::ok).unwrap_or_default();
                    let body = RequestBody::whole(bytes).with_trailers(self.machine.trailers().clone());
                    return self.finish(guarded(handler.handle(request, body))).await;
                }
                Err(error) => {
                    return self.handle_fed(handler, request, [first, Some(Err(body_error(error)))]).await;
                }
            }
        }
    }

    /// Runs a handler that has all it needs. Earlier answers are not held back by one that waits.
    async fn finish(&mut self, handler: impl Future<Output = Response>) -> Result<Response, Gone> {
        let mut handler = pin!(handler);
        let tried = poll_fn(|context| Poll::Ready(handler.as_mut().poll(context))).await;
        if let Poll::Ready(response) = tried {
            return Ok(response);
        }
        self.has_waited = true;
        self.io.flush(&mut self.output).await?;
        Ok(handler.await)
    }

    /// Runs the handler while its body comes; `ahead` is what was already taken from the machine.
    async fn handle_fed<H: Handler>(
        &mut self,
        handler: &H,
        request: Request,
        ahead: [Option<Result<Bytes, BodyError>>; 2],
    ) -> Result<Response, Gone> {
        self.has_waited = true;
        self.io.flush(&mut self.output).await?;
        let (pieces, receiver) = mpsc::channel(limits::HTTP_BODY_PIECES_MAX);
        for piece in ahead.into_iter().flatten() {
            pieces.try_send(piece).expect("the channel has room for two pieces");
        }
        let (wanted, first_pull) = oneshot::channel();
        let (at_end, trailers) = oneshot::channel();
        let body = RequestBody::pieces(receiver, Some(wanted), trailers, request.content_length);
        let mut response = pin!(guarded(handler.handle(request, body)));
        tokio::select! {
            biased;
            response = &mut response => Ok(response),
            () = self.feed(pieces, first_pull, at_end) => Ok(response.await),
        }
    }

    /// Feeds the body to the handler until its end, or until the handler lets go of it. Waits while the
    /// handler does not keep up. May be dropped at any await: what was not fed stays in the machine or was not wanted.
    async fn feed(
        &mut self,
        pieces: Pieces,
        first_pull: oneshot::Receiver<()>,
        at_end: oneshot::Sender<Headers>,
    ) {
        let mut first_pull = Some(first_pull);
        let mut pace = Pace::new(self.config.body_timeout);
        loop {
            let piece = match self.machine.next_event() {
                Ok(Event::Body(bytes)) => Ok(bytes),
                Ok(Event::NeedMore) => {
                    if self.machine.needs_continue() {
                        let Some(pulled) = first_pull.take() else { return };
                        if pulled.await.is_err() {
                            return;
                        }
                        self.machine.send_continue(&mut self.output);
                        // A peer that is gone shows itself at the read below.
                        let _ = self.io.flush(&mut self.output).await;
                    }
                    match self.read_body(&mut pace).await {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    }
                }
                Ok(_) => {
                    // Before `pieces` is dropped: whoever sees the end of the body finds the trailers.
                    let _ = at_end.send(self.machine.trailers().clone());
                    return;
                }
                Err(error) => Err(body_error(error)),
            };
            let failed = piece.is_err();
            if pieces.send(piece).await.is_err() || failed {
                return;
            }
        }
    }

    /// Reads once for a body that has to keep its pace.
    async fn read_body(&mut self, pace: &mut Pace) -> Result<(), BodyError> {
        let started = Instant::now();
        match self.io.read(Some(self.machine.read_buffer()), Some(started + pace.budget), false).await {
            ReadEnd::Data(len) => {
                pace.advance(len, started.elapsed());
                Ok(())
            }
            ReadEnd::End => {
                self.machine.receive_end();
                Ok(())
            }
            ReadEnd::TimedOut => {
                self.machine.close_after_response();
                Err(BodyError::TimedOut)
            }
            ReadEnd::Stopped | ReadEnd::Broken => {
                self.machine.close_after_response();
                Err(BodyError::Disconnected)
            }
        }
    }

    /// Reads past the rest of a body that the handler did not want; what can not be read leaves the machine closed.
    async fn discard_body(&mut self) {
        let mut pace = Pace::new(self.config.body_timeout);
        loop {
            match self.machine.next_event() {
                Ok(Event::Body(_)) => {}
                Ok(Event::NeedMore) => {
                    if self.read_body(&mut pace).await.is_err() {
                        return;
                    }
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Returns the current date's text, made anew once a second; the clock is read once for requests that came together.
    fn date(&mut self) -> HttpDate {
        if !std::mem::take(&mut self.has_waited) {
            return self.date.1;
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since_epoch.as_secs();
        if self.date.0 != seconds {
            self.date = (seconds, HttpDate::from_unix_seconds(seconds));
        }
        self.date.1
    }

    /// Ends the connection, but reads past what the peer still sends for a while: closing a socket with unread bytes
    /// resets it, and a reset can destroy the answer on its way (RFC 9112, 9.6).
    async fn linger(&mut self) {
        self.io.end().await;
        let deadline = Instant::now() + self.config.linger_timeout;
        let mut scratch = BytesMut::with_capacity(limits::HTTP_READ_LEN);
        while let ReadEnd::Data(_) = self.io.read(Some(&mut scratch), Some(deadline), true).await {
            scratch.clear();
        }
    }
}

/// How fast a request body has to come: a minimum of bytes for each timeout spent waiting for it. Time that the
/// handler takes does not count.
struct Pace {
    timeout: Duration,
    budget: Duration,
    len: usize,
}

impl Pace {
    fn new(timeout: Duration) -> Self {
        Self { timeout, budget: timeout, len: 0 }
    }

    fn advance(&mut self, len: usize, waited: Duration) {
        self.len += len;
        if self.len >= limits::HTTP_BODY_PROGRESS_LEN_MIN {
            (self.len, self.budget) = (0, self.timeout);
        } else {
            self.budget = self.budget.saturating_sub(waited);
        }
    }
}

/// Returns what a handler learns of a violation inside its body.
fn body_error(error: HttpError) -> BodyError {
    match error {
        HttpError::BodyTooLarge => BodyError::TooLarge,
        HttpError::CutShort => BodyError::Disconnected,
        HttpError::RequestLine
        | HttpError::BareLineEnd
        | HttpError::Target
        | HttpError::TargetTooLong
        | HttpError::Method
        | HttpError::Version
        | HttpError::Header
        | HttpError::HeadersTooLarge
        | HttpError::Host
        | HttpError::ContentLength
        | HttpError::TransferEncoding
        | HttpError::TransferCoding
        | HttpError::Chunk
        | HttpError::Expectation => BodyError::Malformed,
    }
}
