//! Streamed responses: at once, to the end, and not a moment longer than somebody reads them.

use super::*;

fn item(text: &'static str) -> StreamItem {
    Ok(Bytes::from_static(text.as_bytes()).into())
}

on_every_engine! {
    async fn a_streamed_item_reaches_the_peer_before_the_next_one_is_made(engine: Engine) {
        for make in [Body::Stream, Body::Events] {
            let fixture = Fixture::start(engine, EngineConfig::default()).await;
            let producer = fixture.stream(make);
            let mut client = fixture.connect().await;
            client.get("/body").await;
            assert!(client.read_until("\r\n\r\n").await.contains("Transfer-Encoding: chunked"));
            for _ in 0..3 {
                producer.send(item("event")).await.unwrap();
                assert_eq!(client.read_until("\r\n").await, "5\r\n");
                assert_eq!(client.read_until("\r\n").await, "event\r\n");
            }
            drop(producer);
            assert_eq!(client.read_until("\r\n\r\n").await, "0\r\n\r\n");
            client.get("/hello").await;
            assert_eq!(client.expect(200).await, "hello");
        }
    }

    async fn a_sized_stream_is_sent_with_its_length(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let len = 5 * (3 << 20);
        let producer = fixture.stream(|items| Body::Sized(len, items));
        let mut client = fixture.connect().await;
        client.get("/body").await;
        let producing = tokio::spawn(async move {
            for _ in 0..5 {
                producer.send(Ok(Bytes::from(vec![b'x'; 3 << 20]).into())).await.unwrap();
            }
        });
        assert_eq!(client.expect(200).await.len() as u64, len);
        producing.await.unwrap();
        client.get("/hello").await;
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn a_broken_stream_never_looks_whole(engine: Engine) {
        let error = || Err(crate::http::StreamError { reason: "disk".to_owned() });
        for (make, ending) in [
            (Box::new(Body::Stream) as Box<dyn FnOnce(_) -> Body>, Some(error())),
            (Box::new(|items| Body::Sized(10, items)), Some(error())),
            (Box::new(|items| Body::Sized(10, items)), None),
        ] {
            let fixture = Fixture::start(engine, EngineConfig::default()).await;
            let producer = fixture.stream(make);
            producer.send(item("part")).await.unwrap();
            if let Some(ending) = ending {
                producer.send(ending).await.unwrap();
            }
            drop(producer);
            let mut client = fixture.connect().await;
            client.get("/body").await;
            let answer = client.rest().await;
            assert!(!answer.ends_with("0\r\n\r\n") && !answer.ends_with("part      "), "{answer}");
        }
    }

    async fn a_peer_that_resets_ends_its_stream_though_nothing_is_sent(engine: Engine) {
        for make in [Body::Stream, Body::Events, |items| Body::Sized(100, items)] {
            let fixture = Fixture::start(engine, EngineConfig::default()).await;
            let producer = fixture.stream(make);
            let mut client = fixture.connect().await;
            client.get("/body").await;
            producer.send(item("begun")).await.unwrap();
            client.read_until("begun").await;
            // A reset, as a process that is killed with unread bytes makes it.
            client.stream.set_zero_linger().unwrap();
            drop(client);
            soon(producer.closed()).await;
        }
    }

    async fn a_peer_that_closes_ends_its_stream_though_nothing_is_sent(engine: Engine) {
        for make in [Body::Stream, Body::Events] {
            let fixture = Fixture::start(engine, EngineConfig::default()).await;
            let producer = fixture.stream(make);
            let mut client = fixture.connect().await;
            client.get("/body").await;
            client.read_until("\r\n\r\n").await;
            drop(client);
            soon(producer.closed()).await;
        }
    }

    async fn a_half_closed_peer_still_gets_its_finite_answer(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let producer = fixture.stream(|items| Body::Sized(8, items));
        let mut client = fixture.connect().await;
        client.get("/body").await;
        client.stream.shutdown().await.unwrap();
        client.read_until("\r\n\r\n").await;
        producer.send(item("half")).await.unwrap();
        assert_eq!(client.read_until("half").await, "half");
        producer.send(item("half")).await.unwrap();
        assert_eq!(client.rest().await, "half");

        let mut client = fixture.connect().await;
        client.get("/wait").await;
        client.stream.shutdown().await.unwrap();
        soon(fixture.script.entered.notified()).await;
        fixture.script.go_on.notify_one();
        assert_eq!(client.expect(200).await, "waited");
    }

    async fn head_of_a_stream_has_no_body_and_stops_its_producer(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let producer = fixture.stream(|items| Body::Sized(8, items));
        let mut client = fixture.connect().await;
        client.send("HEAD /body HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(client.read_until("\r\n\r\n").await.contains("Content-Length: 8\r\n"));
        soon(producer.closed()).await;
        client.get("/hello").await;
        assert_eq!(client.expect(200).await, "hello");
    }

    async fn a_peer_that_reads_nothing_is_given_up(engine: Engine) {
        let config = EngineConfig { write_timeout: short(), ..EngineConfig::default() };
        let fixture = Fixture::start(engine, config).await;
        let producer = fixture.stream(Body::Stream);
        let mut client = fixture.connect().await;
        client.get("/body").await;
        let produced = async { while producer.send(Ok(Bytes::from(vec![0; 1 << 20]).into())).await.is_ok() {} };
        soon(produced).await;
    }
}
