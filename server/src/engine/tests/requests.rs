//! Requests and their bodies: keep-alive, pipelining, uploads, refusals.

use super::*;

on_every_engine! {
    async fn several_requests_are_answered_on_one_connection(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
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

    async fn pipelined_requests_are_answered_in_order(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
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

    async fn a_chunked_upload_arrives_whole(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
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

    async fn a_handler_that_does_not_read_holds_its_peer_back(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
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

    async fn continue_is_sent_when_the_handler_wants_the_body(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
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

    async fn a_short_body_that_nobody_wanted_is_read_past(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let mut client = fixture.connect().await;
        client.send("POST /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf").await;
        assert_eq!(client.expect(200).await, "ignored");
        client.send("halfGET /hello HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn malformed_input_is_answered_and_closes(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
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

    async fn a_malformed_body_reaches_the_handler_as_an_error(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        for body in ["zz\r\n", "1\r\nx\r\nzz\r\n"] {
            let mut client = fixture.connect().await;
            client
                .send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
                .await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("bad_body"), "{answer}");
        }
    }

    async fn a_body_over_the_limit_is_413_and_the_answer_is_not_lost(engine: Engine) {
        let config = EngineConfig { body_len_max: 64 << 20, ..EngineConfig::default() };
        let fixture = Fixture::start(engine, config.clone()).await;
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

    async fn a_panic_is_500_and_the_connection_goes_on(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let mut client = fixture.connect().await;
        client.get("/panic").await;
        assert!(client.expect(500).await.contains("internal"));
        client.get("/hello").await;
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn connections_over_the_limit_wait_for_a_free_place(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig { connections_max: 1, ..EngineConfig::default() }).await;
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
}
