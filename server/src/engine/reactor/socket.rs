//! Sockets of the standard library, made ready by the reactor.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags};

use super::{Direction, Reactor, Source};
use crate::engine::executor::Busy;
use crate::engine::scratch::with_scratch;
use crate::engine::session::Socket;
use crate::limits;

/// A socket of either kind with its registration, which it gives back when it is dropped.
#[derive(Debug)]
pub(in crate::engine) struct Watched<T> {
    inner: T,
    source: Arc<Source>,
    reactor: Arc<Reactor>,
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.reactor.remove(&self.source);
    }
}

impl Watched<TcpListener> {
    /// Watches a listener that does not block.
    pub(in crate::engine) fn listener(listener: TcpListener, reactor: &Arc<Reactor>) -> io::Result<Self> {
        let source = reactor.add(&listener)?;
        Ok(Self { inner: listener, source, reactor: Arc::clone(reactor) })
    }

    pub(in crate::engine) fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let mut accepted = None;
        let accept = || match self.inner.accept() {
            Ok(pair) => {
                accepted = Some(pair);
                Ok(0)
            }
            Err(error) => Err(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::INVAL)),
        };
        let tried = self.source.poll_io(context, Direction::Read, accept, 0);
        tried.map_ok(|_| accepted.expect("an accept that succeeded has brought a connection"))
    }

    pub(in crate::engine) fn poll_deadline(&self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.reactor.poll_deadline(&self.source, context, deadline)
    }
}

/// One connection.
#[derive(Debug)]
pub(in crate::engine) struct PoolSocket {
    watched: Watched<TcpStream>,
    busy: Busy,
    operations: u32,
}

impl PoolSocket {
    /// Watches a new connection.
    pub(in crate::engine) fn new(stream: TcpStream, reactor: &Arc<Reactor>, busy: Busy) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Without it only latency is lost.
        let _ = stream.set_nodelay(true);
        let source = reactor.add(&stream)?;
        let watched = Watched { inner: stream, source, reactor: Arc::clone(reactor) };
        Ok(Self { watched, busy, operations: 0 })
    }

    fn poll_io(
        &mut self,
        context: &mut Context<'_>,
        direction: Direction,
        mut operation: impl FnMut(&TcpStream) -> rustix::io::Result<usize>,
        len_max: usize,
    ) -> Poll<io::Result<usize>> {
        if self.operations >= limits::HTTP_TURN_OPERATIONS_MAX {
            self.operations = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Watched { inner, source, .. } = &self.watched;
        let polled = source.poll_io(context, direction, || operation(inner), len_max);
        self.operations = if polled.is_pending() { 0 } else { self.operations + 1 };
        polled
    }
}

impl Socket for PoolSocket {
    fn poll_read(&mut self, context: &mut Context<'_>, slice: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = slice.len();
        let read = |stream: &TcpStream| Ok(rustix::net::recv(stream, &mut *slice, RecvFlags::empty())?.0);
        self.poll_io(context, Direction::Read, read, len)
    }

    fn poll_read_buf(&mut self, context: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let room = (buffer.capacity() - buffer.len()).clamp(1, scratch.len());
            let read = self.poll_read(context, &mut scratch[..room]);
            if let Poll::Ready(Ok(len)) = read {
                buffer.extend_from_slice(&scratch[..len]);
            }
            read
        })
    }

    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        // One slice is the usual case, and its system call the cheaper one.
        let write = |stream: &TcpStream| match slices {
            [slice] => rustix::net::send(stream, slice, SendFlags::NOSIGNAL),
            slices => rustix::io::writev(stream, slices),
        };
        self.poll_io(context, Direction::Write, write, len)
    }

    fn poll_send_file(
        &mut self,
        context: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let send = |stream: &TcpStream| rustix::fs::sendfile(stream, file, Some(&mut *offset), len);
        // Fewer may also mean the end of the file.
        self.poll_io(context, Direction::Write, send, 0)
    }

    fn set_corked(&mut self, corked: bool) {
        // Without it only packets are lost.
        let _ = rustix::net::sockopt::set_tcp_cork(&self.watched.inner, corked);
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.watched.reactor.poll_deadline(&self.watched.source, context, deadline)
    }

    fn end(&mut self) {
        // The peer may have closed already; there is nobody left to tell.
        let _ = self.watched.inner.shutdown(Shutdown::Write);
    }

    fn set_busy(&mut self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }
}
