//! Requests and their bodies: keep-alive, pipelining, uploads, refusals.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;

use super::*;

#[tokio::test]
async fn several_requests_are_answered_on_one_connection() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let mut client = fixture.connect().await;
    for _ in 0..3 {
        client.get("/hello").await;
        let (head, body) = client.response().await;
        assert_eq!(body, b"hello");
        assert!(
            head.contains("\r\nDate: ") && head.contains(" GMT\r\n") && !head.contains("Connection"),
            "{head}"
        );
    }
    client.send("GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.expect(200).await, "hello");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let mut client = fixture.connect().await;
    let post = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
    client
        .send(&format!(
            "{post}oneGET /hello HTTP/1.1\r\nHost: h\r\n\r\n{post}twoGET /no HTTP/1.1\r\nHost: h\r\n\r\n"
        ))
        .await;
    assert_eq!(client.expect(200).await, "one");
    assert_eq!(client.expect(200).await, "hello");
    assert_eq!(client.expect(200).await, "two");
    assert_eq!(client.expect(404).await, "");
}

#[tokio::test]
async fn a_chunked_upload_arrives_whole() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let mut client = fixture.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let piece = "0123456789abcdef".repeat(1000);
    for _ in 0..100 {
        client.send(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }
    client.send("0\r\nTrailer: ignored\r\n\r\n").await;
    assert!(client.expect(200).await == piece.repeat(100));
    client.get("/hello").await;
    assert_eq!(client.expect(200).await, "hello");
}

#[tokio::test]
async fn a_handler_that_does_not_read_holds_its_peer_back() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let mut client = fixture.connect().await;
    let body = "x".repeat(ECHO_LEN_MAX);
    client.send(&format!("POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    let (mut reader, mut writer) = client.stream.split();
    let mut upload = std::pin::pin!(writer.write_all(body.as_bytes()));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut upload).await;
    assert!(early.is_err(), "the server took 32 MiB that no handler asked for");
    fixture.script.go_on.notify_one();
    let download = async {
        let mut received = Vec::new();
        while received.len() < body.len() {
            assert!(reader.read_buf(&mut received).await.unwrap() > 0);
        }
        received
    };
    let (sent, received) = soon(async { tokio::join!(upload, download) }).await;
    sent.unwrap();
    assert!(received.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn continue_is_sent_when_the_handler_wants_the_body() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let expecting = "HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut client = fixture.connect().await;
    client.send(&format!("POST /echo {expecting}")).await;
    assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(client.expect(200).await, "body");

    client.send(&format!("POST /ignore {expecting}")).await;
    let (head, body) = client.response().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Connection: close"), "{head}");
    assert_eq!(body, b"ignored");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_short_body_that_nobody_wanted_is_read_past() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let mut client = fixture.connect().await;
    client.send("POST /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf").await;
    assert_eq!(client.expect(200).await, "ignored");
    client.send("halfGET /hello HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.expect(200).await, "hello");
}

#[tokio::test]
async fn malformed_input_is_answered_and_closes() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    for (input, status) in [
        ("nonsense\r\n", "400 Bad Request"),
        ("GET / HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"),
        ("BREW / HTTP/1.1\r\n\r\n", "501 Not Implemented"),
    ] {
        let mut client = fixture.connect().await;
        client.send(input).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains("Connection: close") && answer.contains("{\"error\":{\"code\":"), "{answer}");
    }
}

#[tokio::test]
async fn a_malformed_body_reaches_the_handler_as_an_error() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    for body in ["zz\r\n", "1\r\nx\r\nzz\r\n"] {
        let mut client = fixture.connect().await;
        client
            .send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
            .await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("bad_body"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_the_answer_is_not_lost() {
    let config = EngineConfig { body_len_max: 64 << 20, ..EngineConfig::default() };
    let fixture = Fixture::start(config.clone()).await;
    for len in [config.body_len_max + 1, ECHO_LEN_MAX as u64 + 1] {
        let mut client = fixture.connect().await;
        client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n")).await;
        // More than the sockets hold: without reading past it the close would reset the connection.
        client.send(&"x".repeat(8 << 20)).await;
        assert!(client.expect(413).await.contains("body_too_large"));
    }
    let mut client = fixture.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n").await;
    assert!(client.expect(413).await.contains("body_too_large"));
}

#[tokio::test]
async fn a_panic_is_500_and_the_connection_goes_on() {
    let fixture = Fixture::start(EngineConfig::default()).await;
    let mut client = fixture.connect().await;
    client.get("/panic").await;
    assert!(client.expect(500).await.contains("internal"));
    client.get("/hello").await;
    assert_eq!(client.expect(200).await, "hello");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_free_place() {
    let fixture = Fixture::start(EngineConfig { connections_max: 1, ..EngineConfig::default() }).await;
    let mut first = fixture.connect().await;
    first.get("/hello").await;
    assert_eq!(first.expect(200).await, "hello");
    let mut second = fixture.connect().await;
    second.get("/hello").await;
    let early = tokio::time::timeout(Duration::from_millis(100), second.stream.readable()).await;
    assert!(early.is_err(), "two connections are served at once");
    drop(first);
    assert_eq!(second.expect(200).await, "hello");
}

/// Counts the writes that pass through.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_small_response_is_one_write() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let (_stop, stopped) = watch::channel(false);
    let (script, config) = (Script::default(), EngineConfig::default());
    near.write_all(b"GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    soon(super::super::connection::serve(Counted(far, Arc::clone(&writes)), peer, &script, &config, stopped))
        .await;
    let mut received = String::new();
    soon(near.read_to_string(&mut received)).await.unwrap();
    assert!(received.ends_with("\r\n\r\nhello"), "{received}");
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}
