//! The HTTP client against servers that answer wrongly, late or not at all.

use std::net::SocketAddr;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn volume() -> VolumeName {
    VolumeName::new("main").expect("a name")
}

/// Answers every connection's first request with `answer` and closes.
async fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let mut seen = Vec::new();
            while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                if peer.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = peer.write_all(&answer).await;
        }
    });
    address
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn remote(servers: &[String]) -> HttpRemote {
    HttpRemote::new(servers, volume(), TokenSource::none(), None).expect("addresses")
}

/// An address on which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn addresses_are_completed_or_refused_with_what_was_given() {
    assert_eq!(base_url("host:8080").expect("good"), "http://host:8080");
    assert_eq!(base_url("http://[::1]:1/").expect("good"), "http://[::1]:1");
    for bad in ["", "http://", "ftp://x", "a b", "host:port", "host/path", "http://u@host", "host?x"] {
        let error = base_url(bad).expect_err(bad);
        assert!(error.to_string().contains(bad), "{error}");
    }
    assert_eq!(base_url("https://x:1/").expect("an address"), "https://x:1");
}

#[tokio::test]
async fn the_next_server_is_tried_when_the_first_cannot_be_reached() {
    let reply = encode(&MissingReply { missing: vec![ChunkHash::of(b"x")] });
    let server = serve(ok(&reply)).await;
    let remote = remote(&[nobody(), server.to_string()]);
    assert_eq!(remote.missing(vec![], None).await.expect("an answer"), [ChunkHash::of(b"x")]);
    assert_eq!(remote.name(), format!("http://{server}"));
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_can_be_tried_again() {
    let error = remote(&[nobody(), nobody()]).missing(vec![], None).await.expect_err("nobody");
    assert!(matches!(error, RemoteError::Unreachable { .. }) && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn errors_carry_the_code_and_message_of_the_server() {
    let body = r#"{"error":{"code":"volume_not_found","message":"no volume x"}}"#;
    let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let server = serve(answer.into()).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("refused");
    assert!(
        matches!(&error, RemoteError::VolumeNotFound { message } if message == "no volume x"),
        "{error:?}"
    );
    let answer = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let server = serve(answer.into()).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("refused");
    assert!(matches!(&error, RemoteError::Refused { status: 503, message, .. } if message == "busy"));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn chunks_are_hashed_and_marks_are_told_apart() {
    let frame = |hash, body, bytes: &[u8]| [&ChunkHeader { hash, body }.encode()[..], bytes].concat();
    let (good, gone, bad) = (ChunkHash::of(b"good"), ChunkHash::of(b"gone"), ChunkHash::of(b"bad"));
    let body = [
        frame(gone, ChunkBody::Absent, b""),
        frame(good, ChunkBody::Bytes(4), b"good"),
        frame(bad, ChunkBody::Corrupt, b""),
        frame(good, ChunkBody::Bytes(4), b"evil"),
    ];
    let server = serve(ok(&body.concat())).await;
    let remote = remote(&[server.to_string()]);
    let chunks = remote.get_chunks(vec![gone, good, bad, good, good]).await.expect("a stream");
    let found: Vec<_> = chunks.collect().await;
    assert_eq!(found.len(), 4, "a wrong chunk ends the stream: {found:?}");
    assert!(matches!(&found[0], Err(RemoteError::AbsentChunk { hash }) if *hash == gone));
    assert!(matches!(&found[1], Ok((hash, bytes)) if *hash == good && bytes == "good"));
    assert!(matches!(&found[2], Err(RemoteError::CorruptChunk { hash }) if *hash == bad));
    assert!(matches!(&found[3], Err(RemoteError::Damaged { .. })));
}

#[tokio::test]
async fn an_answer_of_another_version_is_named_and_a_cut_one_is_damaged() {
    let mut reply = encode(&MissingReply { missing: vec![] });
    reply[5] = 9;
    let server = serve(ok(&reply)).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("another version");
    assert!(matches!(error, RemoteError::VersionMismatch { .. }), "{error:?}");
    let server = serve(ok(b"dfs")).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("damaged");
    assert!(matches!(error, RemoteError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn the_event_stream_ends_with_an_error_and_not_with_silence() {
    let hello = dfs_shared::wire::messages::StreamFrame::Lagged;
    let body = dfs_shared::wire::encode_frame(&hello);
    let server = serve(ok(&body)).await;
    let frames =
        remote(&[server.to_string()]).stream(ClientId::new("c").expect("an id")).await.expect("a stream");
    let frames: Vec<_> = frames.collect().await;
    assert!(
        matches!(&frames[..], [Ok(frame), Err(RemoteError::Disconnected { .. })] if *frame == hello),
        "{frames:?}"
    );
}
