//! The runtime's socket as a session wants it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::engine::session::Socket;

#[derive(Debug)]
pub(super) struct LoopSocket {
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    /// Whom the timer wakes.
    waker: Option<Waker>,
}

impl LoopSocket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, timer: Box::pin(tokio::time::sleep(Duration::ZERO)), armed: None, waker: None }
    }

    fn arm(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline.into());
        self.armed = Some(deadline);
    }
}

impl Socket for LoopSocket {
    fn poll_read(&mut self, context: &mut Context<'_>, slice: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(slice);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_read_buf(&mut self, context: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(buffer)).poll(context)
    }

    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // One slice is the usual case, and its system call the cheaper one.
        match slices {
            [slice] => Pin::new(&mut self.stream).poll_write(context, slice),
            slices => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        }
    }

    fn poll_send_file(
        &mut self,
        context: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            let send = || Ok(rustix::fs::sendfile(&self.stream, file, Some(&mut *offset), len)?);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn set_corked(&mut self, corked: bool) {
        // Without it only packets are lost.
        let _ = rustix::net::sockopt::set_tcp_cork(&self.stream, corked);
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // A timer that rings too early is set again then: deadlines move later with every request, and few are reached.
        if self.armed.is_none_or(|armed| armed > deadline) {
            self.arm(deadline);
        } else if !self.timer.is_elapsed()
            && self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
        {
            return Poll::Pending;
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.arm(deadline);
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn end(&mut self) {
        // The peer may have closed already; there is nobody left to tell. Completes at once: it is one system call.
        let mut context = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut context);
    }
}
