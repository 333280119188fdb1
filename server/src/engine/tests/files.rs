//! Responses that are a part of a file.

use std::io::Write;

use super::*;
use crate::http::FilePart;

/// A file whose every byte tells where it stands.
fn file(len: usize) -> (Arc<std::fs::File>, Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    (Arc::new(file), bytes)
}

on_every_engine! {
    async fn a_part_of_a_file_is_sent_byte_for_byte(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (file, bytes) = file(5 << 20);
        let mut client = fixture.connect().await;
        for (offset, len) in [(0, bytes.len()), (0, 1), (1, 70_001), (3 << 20, 2 << 20), (4097, 0)] {
            let part = FilePart { file: Arc::clone(&file), offset: offset as u64, len: len as u64 };
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
        let part = FilePart { file: Arc::clone(&weak), offset: 0, len: 1 << 30 };
        *fixture.script.body.lock() = Some(Body::File(part));
        let mut client = fixture.connect().await;
        client.get("/body").await;
        client.read_until("\r\n\r\n").await;
        fixture.stop();
        assert_eq!(fixture.drained().await, Drained { aborted: 0 });
        assert_eq!(Arc::strong_count(&weak), 1);
    }
}
