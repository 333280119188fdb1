//! Peers that are slow on purpose.

use super::*;

/// Sends a byte every now and then until the answer came.
async fn trickle(mut client: Client) -> String {
    let (mut reader, mut writer) = client.stream.split();
    let mut answer = String::new();
    let write = async {
        loop {
            let _ = writer.write_all(b"A").await;
            tokio::time::sleep(short() / 10).await;
        }
    };
    let read = async {
        tokio::select! {
            read = reader.read_to_string(&mut answer) => drop(read),
            () = write => {}
        }
    };
    soon(read).await;
    answer
}

on_every_engine! {
    async fn a_head_that_trickles_in_is_408(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig { head_timeout: short(), ..EngineConfig::default() }).await;
        let mut client = fixture.connect().await;
        client.send("GET /hello HTTP/1.1\r\nHost: h\r\n").await;
        let answer = trickle(client).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("Connection: close"), "{answer}");
    }

    async fn a_connection_without_a_request_ends_quietly(engine: Engine) {
        let config = EngineConfig { head_timeout: short(), ..EngineConfig::default() };
        let fixture = Fixture::start(engine, config).await;
        assert_eq!(fixture.connect().await.rest().await, "");
    }

    async fn an_idle_connection_ends_quietly_after_its_last_answer(engine: Engine) {
        let config = EngineConfig { idle_timeout: short(), ..EngineConfig::default() };
        let fixture = Fixture::start(engine, config).await;
        let mut client = fixture.connect().await;
        client.get("/hello").await;
        assert_eq!(client.expect(200).await, "hello");
        assert_eq!(client.rest().await, "");
    }

    async fn a_body_that_stalls_is_408(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig { body_timeout: short(), ..EngineConfig::default() }).await;
        let mut client = fixture.connect().await;
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
    }

    async fn a_body_that_trickles_in_is_408(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig { body_timeout: short(), ..EngineConfig::default() }).await;
        let mut client = fixture.connect().await;
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n").await;
        assert!(trickle(client).await.starts_with("HTTP/1.1 408 "));
    }

    async fn a_slow_handler_does_not_time_its_peer_out(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig { body_timeout: short(), ..EngineConfig::default() }).await;
        let mut client = fixture.connect().await;
        client.send("POST /late HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
        let early = tokio::time::timeout(3 * short(), client.stream.readable()).await;
        assert!(early.is_err(), "answered before the handler went on");
        fixture.script.go_on.notify_one();
        assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("body").await;
        assert_eq!(client.expect(200).await, "body");
    }
}
