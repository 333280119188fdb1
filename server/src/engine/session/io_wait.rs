//! One connection's socket, plain or under TLS, with its one timer and the server's stop signal: every wait on a peer
//! goes through here.
//!
//! Reads and writes are tried before the timer is touched, so the fast path costs no timer. All methods can be
//! dropped at any await: a read that was reported is in the buffer, a written byte has left the output.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::watch;

use super::socket::Socket;
use crate::engine::tls::TlsSession;
use crate::http::Output;
use crate::limits;

/// How a wait for the peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// This many bytes came, at least one.
    Data(usize),
    /// The peer ended its side.
    End,
    /// The deadline passed.
    TimedOut,
    /// The server stops.
    Stopped,
    /// The connection is broken.
    Broken,
}

/// The connection is broken, or its peer takes no bytes: nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What became of a try to send a piece of a file.
#[derive(Debug)]
pub(super) enum SentFile {
    /// This many bytes left for the socket without passing through here.
    Direct(u64),
    /// These bytes were read and have to be written like any others: there is no direct way under TLS.
    Read(Bytes),
}

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Io<S> {
    socket: S,
    tls: Option<Box<TlsSession>>,
    stop: Stop,
    told_to_stop: watch::Receiver<bool>,
    stopped: bool,
    /// Whom a stop wakes.
    waker: Option<Waker>,
    write_timeout: Duration,
}

/// Most slices that one write takes.
const SLICES_MAX: usize = 16;

impl<S: Socket> Io<S> {
    pub(super) fn new(
        socket: S,
        tls: Option<TlsSession>,
        mut stop: watch::Receiver<bool>,
        write_timeout: Duration,
    ) -> Self {
        let told_to_stop = stop.clone();
        let stop = Box::pin(async move {
            // A dropped sender is a stop too.
            let _ = stop.wait_for(|stopped| *stopped).await;
        });
        Self {
            socket,
            tls: tls.map(Box::new),
            stop,
            told_to_stop,
            stopped: false,
            waker: None,
            write_timeout,
        }
    }

    /// Reads once into `buffer`, or only waits for the rest without one; with `stoppable` the stop signal ends the
    /// wait, but never hides data.
    pub(super) async fn read(
        &mut self,
        mut buffer: Option<&mut BytesMut>,
        deadline: Option<Instant>,
        stoppable: bool,
    ) -> ReadEnd {
        poll_fn(|context| {
            if let Some(buffer) = buffer.as_mut() {
                let read = match &mut self.tls {
                    None => self.socket.poll_read_buf(context, buffer),
                    Some(tls) => tls.poll_read(context, &mut self.socket, buffer),
                };
                match read {
                    Poll::Ready(Ok(0)) => return Poll::Ready(ReadEnd::End),
                    Poll::Ready(Ok(len)) => return Poll::Ready(ReadEnd::Data(len)),
                    Poll::Ready(Err(_)) => return Poll::Ready(ReadEnd::Broken),
                    Poll::Pending => {}
                }
            }
            if stoppable && self.poll_stopped(context) {
                return Poll::Ready(ReadEnd::Stopped);
            }
            match deadline {
                Some(deadline) => self.socket.poll_deadline(context, deadline).map(|()| ReadEnd::TimedOut),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn poll_stopped(&mut self, context: &mut Context<'_>) -> bool {
        let is_registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if self.stopped || (is_registered && !self.is_told_to_stop()) {
            return self.stopped;
        }
        self.stopped = self.stop.as_mut().poll(context).is_ready();
        self.waker = Some(context.waker().clone());
        self.stopped
    }

    /// Tells whether the server stops, without waiting.
    pub(super) async fn is_stopped(&mut self) -> bool {
        poll_fn(|context| Poll::Ready(self.poll_stopped(context))).await
    }

    /// Tells whether the server stops, without a look at whoever waits for it.
    pub(super) fn is_told_to_stop(&self) -> bool {
        // It is sent once; a dropped sender is a stop too.
        self.told_to_stop.has_changed().unwrap_or(true)
    }

    /// Says whether a request is being answered.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.socket.set_busy(busy);
    }

    /// Writes everything; every write has to move at least one byte within the write timeout.
    pub(super) async fn flush(&mut self, output: &mut Output) -> Result<(), Gone> {
        while output.has_remaining() {
            let written = self.write_once(|tls, socket, context| {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = output.chunks_vectored(&mut slices);
                match tls {
                    None => socket.poll_write(context, &slices[..count]),
                    Some(tls) => tls.poll_write(context, socket, &slices[..count]),
                }
            });
            let written = written.await?;
            output.advance(written);
        }
        if self.tls.as_ref().is_some_and(|tls| tls.has_unsent()) {
            let flushed = self.write_once(|tls, socket, context| match tls {
                // The one flush counts as progress of its own.
                Some(tls) => tls.poll_flush(context, socket).map_ok(|()| 1),
                None => Poll::Ready(Ok(1)),
            });
            flushed.await?;
        }
        Ok(())
    }

    /// Tries a write until it moves bytes or the write timeout has passed.
    async fn write_once(
        &mut self,
        mut write: impl FnMut(Option<&mut TlsSession>, &mut S, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Result<usize, Gone> {
        let mut deadline = None;
        let (tls, socket, timeout) = (&mut self.tls, &mut self.socket, self.write_timeout);
        let written = poll_fn(|context| {
            if let Poll::Ready(written) = write(tls.as_deref_mut(), socket, context) {
                return Poll::Ready(written.map_err(|_| Gone));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + timeout);
            socket.poll_deadline(context, deadline).map(|()| Err(Gone))
        });
        match written.await? {
            0 => Err(Gone),
            written => Ok(written),
        }
    }

    /// Sends a piece of a file, at most `len` bytes from `offset`; what was written before has to be flushed.
    pub(super) async fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<SentFile, Gone> {
        if self.tls.is_some() {
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(limits::HTTP_READ_LEN);
            let mut piece = vec![0; len];
            let read = rustix::io::pread(file, &mut piece, offset).map_err(|error| {
                tracing::error!("cannot read the file of a response: {error}");
                Gone
            })?;
            if read == 0 {
                return Err(Gone);
            }
            piece.truncate(read);
            return Ok(SentFile::Read(piece.into()));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(limits::HTTP_SENDFILE_LEN);
        let mut at = offset;
        let sent =
            self.write_once(|_, socket, context| socket.poll_send_file(context, file, &mut at, len)).await?;
        Ok(SentFile::Direct(sent as u64))
    }

    /// Holds back what fills no packet until it is told otherwise.
    pub(super) fn set_corked(&mut self, corked: bool) {
        self.socket.set_corked(corked);
    }

    /// Ends our side; the peer reads what was written and then the end.
    pub(super) async fn end(&mut self) {
        if self.tls.as_mut().is_some_and(|tls| tls.close()) {
            // The peer may have closed already; there is nobody left to tell.
            let _ = self.flush(&mut Output::default()).await;
        }
        self.socket.end();
    }
}
