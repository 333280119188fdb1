//! Trailers between a peer and a handler.

use super::*;

/// Sends a request's body back as a stream, and its trailers behind it.
pub(super) async fn send_back(mut body: RequestBody) -> Response {
    assert!(body.trailers().is_empty(), "there are no trailers before the end");
    let mut pieces = Vec::new();
    while let Some(piece) = body.next().await {
        pieces.push(piece);
    }
    let (sender, items) = mpsc::channel(1);
    let (trailers, later) = oneshot::channel();
    tokio::spawn(async move {
        for piece in pieces {
            sender.send(Ok(piece.unwrap().into())).await.unwrap();
        }
        trailers.send(body.trailers()).unwrap();
    });
    Response::new(Status::OK).with_body(Body::Stream(items)).with_trailers(later)
}

on_every_engine! {
    async fn trailers_reach_the_handler_and_the_peer_that_takes_them(engine: Engine) {
        let fixture = Fixture::start(engine, EngineConfig::default()).await;
        let body = "2\r\nab\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n";
        let head = "POST /trailers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
        let mut client = fixture.connect().await;
        client.send(&format!("{head}TE: trailers\r\nExpect: 100-continue\r\n\r\n")).await;
        assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(body).await;
        assert!(client.read_until("\r\n\r\n").await.contains("Transfer-Encoding: chunked"));
        assert_eq!(client.read_until("\r\n\r\n").await, "2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n");

        client.send(&format!("{head}\r\n{body}")).await;
        client.read_until("\r\n\r\n").await;
        assert_eq!(client.read_until("0\r\n\r\n").await, "2\r\nab\r\n0\r\n\r\n");
    }
}
