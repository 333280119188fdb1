//! How a session uses its socket, seen from a socket that is none.

use std::fs::File;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::sync::watch;

use super::*;
use crate::engine::session::{self, Socket};

/// Gives its input, then the end; keeps each write apart.
struct Recorded {
    input: Bytes,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Socket for Recorded {
    fn poll_read(&mut self, _: &mut Context<'_>, slice: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = self.input.len().min(slice.len());
        self.input.copy_to_slice(&mut slice[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_read_buf(&mut self, _: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let input = std::mem::take(&mut self.input);
        buffer.extend_from_slice(&input);
        Poll::Ready(Ok(input.len()))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let len = all.len();
        self.writes.lock().push(all);
        Poll::Ready(Ok(len))
    }

    fn poll_send_file(
        &mut self,
        _: &mut Context<'_>,
        _: &File,
        _: &mut u64,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        unreachable!("no test sends a file here")
    }

    fn poll_deadline(&mut self, _: &mut Context<'_>, _: Instant) -> Poll<()> {
        Poll::Pending
    }

    fn end(&mut self) {}
}

#[tokio::test]
async fn a_small_response_is_one_write() {
    let writes = Arc::default();
    let input = Bytes::from_static(b"GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let socket = Recorded { input, writes: Arc::clone(&writes) };
    let (_stop, stopped) = watch::channel(false);
    let (script, config) = (Script::default(), EngineConfig::default());
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    soon(session::serve(socket, None, peer, &script, &config, stopped)).await;
    let writes = std::mem::take(&mut *writes.lock());
    assert_eq!(writes.len(), 1);
    assert!(writes[0].starts_with(b"HTTP/1.1 200 ") && writes[0].ends_with(b"\r\n\r\nhello"));
}
