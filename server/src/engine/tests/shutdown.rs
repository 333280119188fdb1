//! Graceful shutdown.

use super::*;

on_every_engine! {
    async fn shutdown_finishes_what_is_in_flight_and_closes_the_rest(engine: Engine) {
        let mut fixture = Fixture::start(engine, EngineConfig::default()).await;
        let (mut idle, mut busy, mut watching) =
            (fixture.connect().await, fixture.connect().await, fixture.connect().await);
        idle.get("/hello").await;
        assert_eq!(idle.expect(200).await, "hello");
        let events = fixture.stream(Body::Events);
        watching.get("/body").await;
        watching.read_until("\r\n\r\n").await;
        busy.get("/wait").await;
        soon(fixture.script.entered.notified()).await;

        fixture.stop();
        assert_eq!(idle.rest().await, "");
        assert_eq!(watching.rest().await, "0\r\n\r\n");
        soon(events.closed()).await;
        assert!(TcpStream::connect(fixture.address).await.is_err(), "a new connection is taken");
        fixture.script.go_on.notify_one();
        let (head, body) = busy.response().await;
        assert!(head.contains("Connection: close"), "{head}");
        assert_eq!(body, b"waited");
        assert_eq!(busy.rest().await, "");
        assert_eq!(fixture.drained().await, Drained { aborted: 0 });
    }

    async fn a_finite_stream_is_finished_during_shutdown(engine: Engine) {
        let mut fixture = Fixture::start(engine, EngineConfig::default()).await;
        let producer = fixture.stream(Body::Stream);
        let mut client = fixture.connect().await;
        client.get("/body").await;
        client.read_until("\r\n\r\n").await;
        let mut idle = fixture.connect().await;
        idle.get("/hello").await;
        idle.expect(200).await;
        fixture.stop();
        assert_eq!(idle.rest().await, "");
        producer.send(Ok(Bytes::from_static(b"last").into())).await.unwrap();
        drop(producer);
        assert_eq!(client.rest().await, "4\r\nlast\r\n0\r\n\r\n");
        assert_eq!(fixture.drained().await, Drained { aborted: 0 });
    }

    async fn what_outlasts_the_drain_time_is_cut(engine: Engine) {
        let config = EngineConfig { drain_timeout: short(), ..EngineConfig::default() };
        let mut fixture = Fixture::start(engine, config).await;
        let mut client = fixture.connect().await;
        client.get("/wait").await;
        soon(fixture.script.entered.notified()).await;
        fixture.stop();
        assert_eq!(client.rest().await, "");
        assert_eq!(fixture.drained().await, Drained { aborted: 1 });
    }
}
