//! How a session uses its socket, seen from a socket that is none.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::sync::watch;

use super::*;
use crate::engine::session::{self, Socket};
use crate::http::{FilePart, Piece};

/// Gives its input, then the end; keeps each write apart, and in its place what else is asked of it, in words.
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
        _: BorrowedFd<'_>,
        offset: &mut u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        *offset += len as u64;
        self.writes.lock().push(format!("file {len}").into());
        Poll::Ready(Ok(len))
    }

    fn set_corked(&mut self, corked: bool) {
        self.writes.lock().push(if corked { "corked" } else { "uncorked" }.into());
    }

    fn poll_deadline(&mut self, _: &mut Context<'_>, _: Instant) -> Poll<()> {
        Poll::Pending
    }

    fn end(&mut self) {}
}

#[tokio::test]
async fn a_small_response_is_one_write() {
    let writes = serve("GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!(writes.len(), 1);
    assert!(writes[0].starts_with(b"HTTP/1.1 200 ") && writes[0].ends_with(b"\r\n\r\nhello"));
}

/// Serves what stands in the input; returns what was written, write by write.
async fn serve(input: &'static str) -> Vec<Vec<u8>> {
    serve_script(input, &Script::default()).await
}

async fn serve_script(input: &'static str, script: &Script) -> Vec<Vec<u8>> {
    let writes = Arc::default();
    let socket = Recorded { input: Bytes::from_static(input.as_bytes()), writes: Arc::clone(&writes) };
    let (_stop, stopped) = watch::channel(false);
    let config = EngineConfig::default();
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    soon(session::serve(socket, None, peer, script, &config, stopped)).await;
    std::mem::take(&mut *writes.lock())
}

#[tokio::test]
async fn files_of_one_piece_leave_together_with_the_head_and_nothing_stays_held_back() {
    let script = Script::default();
    let (items, body) = mpsc::channel(1);
    *script.body.lock() = Some(Body::Sized(60, body));
    let file = Arc::new(tempfile::tempfile().unwrap());
    let part = |len| FilePart { file: file.clone(), offset: 0, len };
    items.send(Ok(Piece::Files(vec![part(10), part(20), part(30)]))).await.unwrap();
    drop(items);
    let writes = serve_script("GET /body HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &script).await;
    let words: Vec<_> = writes.iter().map(|write| String::from_utf8_lossy(write)).collect();
    let [first, head, rest @ ..] = &words[..] else { panic!("{words:?}") };
    assert!(first == "corked" && head.starts_with("HTTP/1.1 200 "), "{words:?}");
    assert_eq!(rest, ["file 10", "file 20", "file 30", "uncorked"]);
}

#[tokio::test]
async fn answers_to_requests_that_came_together_leave_together() {
    let writes = serve(concat!(
        "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
        "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
    ))
    .await;
    assert_eq!(writes.len(), 1);
    let text = String::from_utf8(writes.concat()).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text}");
    assert!(text.find("body") < text.rfind("hello"), "{text}");
}

#[tokio::test]
async fn answers_leave_before_the_refusal_of_what_follows_them() {
    let writes = serve("GET /hello HTTP/1.1\r\nHost: h\r\n\r\nbad request\r\n\r\n").await;
    let text = String::from_utf8(writes.concat()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("HTTP/1.1 400 "), "{text}");
}

on_every_engine! {
    async fn an_answer_does_not_wait_for_the_handler_of_the_next_request(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let mut client = fixture.connect().await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        client.send(&[get("/hello"), get("/wait"), get("/hello")].concat()).await;
        assert_eq!(client.expect(200).await, "hello");
        soon(fixture.script.entered.notified()).await;
        fixture.script.go_on.notify_one();
        assert_eq!(client.expect(200).await, "waited");
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn an_answer_does_not_wait_for_the_body_of_the_next_request(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let mut client = fixture.connect().await;
        client.send("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let half = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbo";
        client.send(&format!("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n{half}")).await;
        assert_eq!(client.expect(200).await, "hello");
        assert_eq!(client.expect(200).await, "hello");
        client.send("dyGET /hello HTTP/1.1\r\nHo").await;
        assert_eq!(client.expect(200).await, "body");
        client.send("st: h\r\n\r\n").await;
        assert_eq!(client.expect(200).await, "hello");
    }
}
