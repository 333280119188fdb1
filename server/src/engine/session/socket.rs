//! What a session needs from an engine's socket: tries that say "not yet" and wake the task later, and one timer.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;

/// One connected socket of an engine. Every `Pending` has registered the task's waker.
pub(in crate::engine) trait Socket: Send {
    /// Reads into a slice; 0 is the peer's end.
    fn poll_read(&mut self, context: &mut Context<'_>, slice: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Reads into the spare room of a buffer, which has some; 0 is the peer's end.
    fn poll_read_buf(&mut self, context: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Writes some of these slices.
    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Sends up to `len` bytes of a file from `offset`, without a copy through user space; 0 is the end of the file.
    /// Advances `offset`.
    fn poll_send_file(
        &mut self,
        context: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        len: usize,
    ) -> Poll<io::Result<usize>>;

    /// Holds back what fills no packet, or sends it. For a moment: after 200 ms the system sends it anyway.
    fn set_corked(&mut self, corked: bool);

    /// Waits for a point in time; only the deadline polled last counts.
    fn poll_deadline(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()>;

    /// Ends our side; the peer reads what was written and then the end.
    fn end(&mut self);

    /// Says whether a request is being answered, for engines that stay with one.
    fn set_busy(&mut self, _busy: bool) {}
}
