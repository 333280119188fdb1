//! One connection's socket with its one timer and the server's stop signal: every wait on a peer goes through here.
//!
//! Reads and writes are tried before the timer is touched, so the fast path costs no timer. All methods can be
//! dropped at any await: a read that was reported is in the buffer, a written byte has left the output.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::http::Output;

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

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Io<S> {
    stream: S,
    timer: Pin<Box<Sleep>>,
    stop: Stop,
    stopped: bool,
    write_timeout: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    pub(super) fn new(stream: S, mut stop: watch::Receiver<bool>, write_timeout: Duration) -> Self {
        let stop = Box::pin(async move {
            // A dropped sender is a stop too.
            let _ = stop.wait_for(|stopped| *stopped).await;
        });
        Self {
            stream,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            stop,
            stopped: false,
            write_timeout,
        }
    }

    /// Reads once into `buffer`, or only waits for the rest without one; with `stoppable` the stop signal ends the
    /// wait, but never hides data.
    pub(super) async fn read(
        &mut self,
        buffer: Option<&mut BytesMut>,
        deadline: Option<Instant>,
        stoppable: bool,
    ) -> ReadEnd {
        let mut armed = false;
        let stream = &mut self.stream;
        let mut read = pin!(async move {
            match buffer {
                Some(buffer) => stream.read_buf(buffer).await,
                None => std::future::pending().await,
            }
        });
        let (timer, stop, stopped) = (&mut self.timer, &mut self.stop, &mut self.stopped);
        poll_fn(|context| {
            match read.as_mut().poll(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(ReadEnd::End),
                Poll::Ready(Ok(len)) => return Poll::Ready(ReadEnd::Data(len)),
                Poll::Ready(Err(_)) => return Poll::Ready(ReadEnd::Broken),
                Poll::Pending => {}
            }
            if stoppable && (*stopped || stop.as_mut().poll(context).is_ready()) {
                *stopped = true;
                return Poll::Ready(ReadEnd::Stopped);
            }
            if let Some(deadline) = deadline {
                if !armed {
                    timer.as_mut().reset(deadline);
                    armed = true;
                }
                if timer.as_mut().poll(context).is_ready() {
                    return Poll::Ready(ReadEnd::TimedOut);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Tells whether the server stops, without waiting.
    pub(super) async fn is_stopped(&mut self) -> bool {
        if !self.stopped {
            let stop = &mut self.stop;
            self.stopped = poll_fn(|context| Poll::Ready(stop.as_mut().poll(context).is_ready())).await;
        }
        self.stopped
    }

    /// Writes everything; every write has to move at least one byte within the write timeout.
    pub(super) async fn flush(&mut self, output: &mut Output) -> Result<(), Gone> {
        while output.has_remaining() {
            let mut armed = false;
            let (timer, timeout) = (&mut self.timer, self.write_timeout);
            let mut write = pin!(self.stream.write_buf(output));
            let written = poll_fn(|context| {
                if let Poll::Ready(written) = write.as_mut().poll(context) {
                    return Poll::Ready(written.map_err(|_| Gone));
                }
                if !armed {
                    timer.as_mut().reset(Instant::now() + timeout);
                    armed = true;
                }
                timer.as_mut().poll(context).map(|()| Err(Gone))
            })
            .await?;
            if written == 0 {
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// Ends our side; the peer reads what was written and then the end.
    pub(super) async fn end(&mut self) {
        // The peer may have closed already; there is nobody left to tell.
        let _ = self.stream.shutdown().await;
    }
}
