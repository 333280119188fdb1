//! Responses that are a part of a file.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use super::*;
use crate::http::{BodyFile, FilePart, Piece};

/// A file whose every byte tells where it stands.
fn file(len: usize) -> (Arc<File>, Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    (Arc::new(file), bytes)
}

fn part(file: &Arc<File>, offset: usize, len: usize) -> FilePart {
    FilePart { file: file.clone(), offset: offset as u64, len: len as u64 }
}

/// Bytes, parts of files and bytes again; and what a peer should get.
fn pieces(file: &Arc<File>, bytes: &[u8]) -> (Vec<Piece>, Vec<u8>) {
    let text = |text: &'static str| Piece::from(Bytes::from_static(text.as_bytes()));
    let parts =
        vec![part(file, 100, 300_000), part(file, 0, 0), part(file, 7, 1), part(file, 1 << 20, 1 << 20)];
    let pieces = vec![text("head"), Piece::Files(parts), text(""), text("between"), Piece::Files(Vec::new())];
    let last = vec![Piece::Files(vec![part(file, 0, bytes.len())]), text("end")];
    let expected =
        [b"head", &bytes[100..300_100], &bytes[7..8], &bytes[1 << 20..2 << 20], b"between", bytes, b"end"];
    (pieces.into_iter().chain(last).collect(), expected.concat())
}

/// A file that was changed since its body was made.
#[derive(Debug)]
struct Changed(Arc<File>);

impl AsFd for Changed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl BodyFile for Changed {
    fn is_unchanged(&self) -> bool {
        false
    }
}

on_every_engine! {
    async fn bytes_and_parts_of_files_come_in_order_whatever_delimits_the_body(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (file, bytes) = file(3 << 20);
        let (all, expected) = pieces(&file, &bytes);
        let len = expected.len() as u64;
        let send = |producer: mpsc::Sender<StreamItem>| {
            let all = all.clone();
            tokio::spawn(async move {
                for piece in all {
                    producer.send(Ok(piece)).await.unwrap();
                }
            })
        };
        let mut client = fixture.connect().await;
        send(fixture.stream(|items| Body::Sized(len, items)));
        client.get("/body").await;
        assert!(client.response().await.1 == expected, "by its length");
        send(fixture.stream(Body::Stream));
        client.get("/body").await;
        client.read_until("\r\n\r\n").await;
        assert!(client.chunked().await == expected, "in chunks");
        send(fixture.stream(Body::Stream));
        client.send("GET /body HTTP/1.0\r\nHost: h\r\n\r\n").await;
        client.read_until("\r\n\r\n").await;
        soon(client.stream.read_to_end(&mut client.received)).await.unwrap();
        assert!(client.received == expected, "to the end of the connection");
    }

    async fn a_piece_of_files_beyond_the_announced_length_sends_none_of_it(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (file, _) = file(1000);
        let producer = fixture.stream(|items| Body::Sized(1000, items));
        producer.send(Ok(Piece::Files(vec![part(&file, 0, 999), part(&file, 0, 2)]))).await.unwrap();
        let mut client = fixture.connect().await;
        client.get("/body").await;
        client.read_until("\r\n\r\n").await;
        let _reset_or_end = soon(client.stream.read_to_end(&mut client.received)).await;
        assert!(client.received.len() <= 999);
    }

    async fn a_file_that_was_changed_while_it_was_sent_never_looks_whole(engine: Engine) {
        for sized in [true, false] {
            let fixture = Fixture::start(engine, EngineConfig::default()).await;
            let (file, bytes) = file(100_000);
            let producer = fixture.stream(|items| if sized { Body::Sized(200_000, items) } else { Body::Stream(items) });
            let changed = FilePart { file: Arc::new(Changed(Arc::clone(&file))), offset: 0, len: 100_000 };
            producer.send(Ok(Piece::Files(vec![changed, part(&file, 0, 100_000)]))).await.unwrap();
            drop(producer);
            let mut client = fixture.connect().await;
            client.get("/body").await;
            client.read_until("\r\n\r\n").await;
            let _reset_or_end = soon(client.stream.read_to_end(&mut client.received)).await;
            assert!(client.received.len() < 150_000 && !client.received.ends_with(b"\r\n"), "{}", bytes.len());
        }
    }

    async fn a_peer_that_does_not_read_its_files_ends_their_producer(engine: Engine) {
        let config = EngineConfig { write_timeout: short(), drain_timeout: SOON, ..EngineConfig::default() };
        let mut fixture = Fixture::start(engine, config).await;
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let file = Arc::new(file);
        let producer = fixture.stream(|items| Body::Sized(u64::MAX, items));
        let mut client = fixture.connect().await;
        client.get("/body").await;
        let piece = || Ok(Piece::Files(vec![part(&file, 0, 1 << 20)]));
        let produced = async { while producer.send(piece()).await.is_ok() {} };
        soon(produced).await;
        fixture.stop();
        assert_eq!(fixture.drained().await, Drained { aborted: 0 });
        assert_eq!(Arc::strong_count(&file), 1);
    }

    async fn a_part_of_a_file_is_sent_byte_for_byte(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (file, bytes) = file(5 << 20);
        let mut client = fixture.connect().await;
        for (offset, len) in [(0, bytes.len()), (0, 1), (1, 70_001), (3 << 20, 2 << 20), (4097, 0)] {
            let part = FilePart { file: file.clone(), offset: offset as u64, len: len as u64 };
            *fixture.script.body.lock() = Some(Body::File(part));
            client.get("/body").await;
            let (head, body) = client.response().await;
            assert!(head.contains(&format!("\r\nContent-Length: {len}\r\n")), "{head}");
            assert!(body == bytes[offset..offset + len], "{offset} {len}");
        }
        client.get("/hello").await;
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn head_of_a_file_sends_none_of_it(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (file, _) = file(100_000);
        *fixture.script.body.lock() = Some(Body::File(FilePart { file, offset: 0, len: 100_000 }));
        let mut client = fixture.connect().await;
        client.send("HEAD /body HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(client.read_until("\r\n\r\n").await.contains("Content-Length: 100000\r\n"));
        client.get("/hello").await;
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn a_file_that_is_shorter_than_announced_breaks_the_connection(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (file, _) = file(100_000);
        *fixture.script.body.lock() = Some(Body::File(FilePart { file, offset: 0, len: 100_001 }));
        let mut client = fixture.connect().await;
        client.get("/body").await;
        client.read_until("\r\n\r\n").await;
        let mut body = Vec::new();
        let _reset_or_end = soon(client.stream.read_to_end(&mut body)).await;
        assert!(client.received.len() + body.len() <= 100_000);
    }

    async fn a_peer_that_does_not_read_its_file_is_given_up(engine: Engine) {
        let config = EngineConfig { write_timeout: short(), drain_timeout: SOON, ..EngineConfig::default() };
        let mut fixture = Fixture::start(engine, config).await;
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        let weak = Arc::new(file);
        let part = FilePart { file: weak.clone(), offset: 0, len: 1 << 30 };
        *fixture.script.body.lock() = Some(Body::File(part));
        let mut client = fixture.connect().await;
        client.get("/body").await;
        client.read_until("\r\n\r\n").await;
        fixture.stop();
        assert_eq!(fixture.drained().await, Drained { aborted: 0 });
        assert_eq!(Arc::strong_count(&weak), 1);
    }
}
