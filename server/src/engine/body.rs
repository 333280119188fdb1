//! The request body as a handler pulls it: whole and at hand, or piece by piece from the engine with back-pressure.
//!
//! Needs no runtime: an engine feeds the channel from wherever its socket is.

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use crate::http::{Headers, Response, Status};

/// Why a request body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than the handler or the server allows: 413.
    #[error("the request body is over the limit")]
    TooLarge,
    /// The body's framing is malformed: 400.
    #[error("the request body is malformed")]
    Malformed,
    /// The peer closed the connection inside the body; nobody reads an answer.
    #[error("the peer went away inside the request body")]
    Disconnected,
    /// The body came too slowly: 408.
    #[error("the request body came too slowly")]
    TimedOut,
}

impl BodyError {
    /// Returns the status that answers this failure.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::TooLarge => Status::CONTENT_TOO_LARGE,
            Self::Malformed | Self::Disconnected => Status::BAD_REQUEST,
            Self::TimedOut => Status::REQUEST_TIMEOUT,
        }
    }

    /// Returns the response that answers this failure.
    #[must_use]
    pub fn response(self) -> Response {
        let code = match self {
            Self::TooLarge => "body_too_large",
            Self::Malformed => "bad_body",
            Self::Disconnected => "cut_short",
            Self::TimedOut => "body_timeout",
        };
        Response::error(self.status(), code, &self.to_string())
    }
}

/// The body of one request. Dropping it leaves the rest to the engine, which reads past it or closes.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    len_hint: usize,
    trailers: Trailers,
}

#[derive(Debug)]
enum Trailers {
    AtHand(Headers),
    /// Come from the engine before the channel of pieces ends.
    Later(oneshot::Receiver<Headers>),
}

#[derive(Debug)]
enum Source {
    Whole(Bytes),
    Pieces { pieces: mpsc::Receiver<Result<Bytes, BodyError>>, wanted: Option<oneshot::Sender<()>> },
}

/// Most bytes reserved ahead for a body whose length the peer merely claims.
const RESERVE_LEN_MAX: usize = 1 << 20;

impl RequestBody {
    /// Makes a body without bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// Makes a body that is at hand.
    #[must_use]
    pub const fn whole(bytes: Bytes) -> Self {
        Self { source: Source::Whole(bytes), len_hint: 0, trailers: Trailers::AtHand(Headers::new()) }
    }

    /// Sets the trailers of a body that is at hand.
    #[must_use]
    pub fn with_trailers(mut self, trailers: Headers) -> Self {
        self.trailers = Trailers::AtHand(trailers);
        self
    }

    /// Makes a body that comes through a channel; `wanted` fires at the first call of `next`, for `100 Continue`. Its
    /// trailers come before the channel of pieces ends.
    pub(crate) fn pieces(
        pieces: mpsc::Receiver<Result<Bytes, BodyError>>,
        wanted: Option<oneshot::Sender<()>>,
        trailers: oneshot::Receiver<Headers>,
        len: Option<u64>,
    ) -> Self {
        let len_hint = len.map_or(0, |len| usize::try_from(len).unwrap_or(usize::MAX));
        Self { source: Source::Pieces { pieces, wanted }, len_hint, trailers: Trailers::Later(trailers) }
    }

    /// Returns the next piece of the body, never empty; `None` after its end. Waits for the peer.
    ///
    /// # Errors
    /// The body is too large, malformed, cut short or too slow; after an error the next call returns `None`.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        match &mut self.source {
            Source::Whole(bytes) if bytes.is_empty() => None,
            Source::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Source::Pieces { pieces, wanted } => {
                if let Some(wanted) = wanted.take() {
                    let _ = wanted.send(());
                }
                pieces.recv().await
            }
        }
    }

    /// Returns the trailers that followed the body: the fields that a trailer may be, never merged with the header's. Empty
    /// before the body's end, and at the second call.
    pub fn trailers(&mut self) -> Headers {
        match &mut self.trailers {
            Trailers::AtHand(_) if matches!(&self.source, Source::Whole(bytes) if !bytes.is_empty()) => {
                Headers::new()
            }
            Trailers::AtHand(trailers) => std::mem::take(trailers),
            Trailers::Later(trailers) => trailers.try_recv().unwrap_or_default(),
        }
    }

    /// Collects the body; copies nothing if it came in one piece.
    ///
    /// # Errors
    /// As [`RequestBody::next`]; [`BodyError::TooLarge`] also as soon as it is longer than `limit` bytes.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, BodyError> {
        if self.len_hint > limit {
            return Err(BodyError::TooLarge);
        }
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(BodyError::TooLarge);
        }
        let Some(second) = self.next().await.transpose()? else { return Ok(first) };
        let mut all =
            BytesMut::with_capacity(self.len_hint.min(RESERVE_LEN_MAX).max(first.len() + second.len()));
        all.extend_from_slice(&first);
        drop(first);
        let mut piece = Some(second);
        while let Some(bytes) = piece {
            if all.len() + bytes.len() > limit {
                return Err(BodyError::TooLarge);
            }
            all.extend_from_slice(&bytes);
            piece = self.next().await.transpose()?;
        }
        Ok(all.freeze())
    }
}
