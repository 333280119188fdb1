//! Connections that a router forgot: nothing comes on them any more, and new ones work.

use std::sync::atomic::AtomicBool;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::*;

/// Connections that the client keeps before they go silent.
const KEPT: usize = 4;

/// A server whose first connections can go silent.
#[derive(Clone)]
struct Forgotten {
    accepted: Arc<AtomicUsize>,
    is_silent: Arc<AtomicBool>,
    /// Lets the first connections answer only when all of them are there.
    together: Arc<Barrier>,
}

impl Forgotten {
    async fn start() -> (Self, SocketAddr) {
        let (accepted, is_silent) = (Arc::default(), Arc::default());
        let server = Self { accepted, is_silent, together: Arc::new(Barrier::new(KEPT)) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                let number = serving.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().serve(peer, number < KEPT));
            }
        });
        (server, address)
    }

    async fn serve(self, mut peer: TcpStream, is_first: bool) {
        let body = encode(&MissingReply { missing: vec![] });
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut is_new = true;
        while read_request(&mut peer).await {
            if is_first && self.is_silent.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            if is_first && is_new {
                self.together.wait().await;
            }
            is_new = false;
            if peer.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
                return;
            }
        }
    }
}

/// Reads one request with its body; `false` at the end.
async fn read_request(peer: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
            let len =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if seen.len() >= end + 4 + len.unwrap_or(0) {
                return true;
            }
        }
        if peer.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
    }
}

fn impatient(server: SocketAddr, silence: Duration) -> HttpRemote {
    let pool = Pool::new(Settings { trusted: None, silence }).expect("a client");
    HttpRemote { pool, ..remote(&[server.to_string()]) }
}

#[tokio::test]
async fn after_one_request_without_an_answer_no_other_kept_connection_is_tried() {
    let (server, address) = Forgotten::start().await;
    let remote = impatient(address, Duration::from_secs(1));
    let accepted = || server.accepted.load(Ordering::SeqCst);
    for answer in join_all((0..KEPT).map(|_| remote.missing(vec![], None))).await {
        answer.expect("an answer");
    }
    assert_eq!(accepted(), KEPT, "as many connections are kept");
    remote.missing(vec![], None).await.expect("an answer");
    assert_eq!(accepted(), KEPT, "one of them was used");
    server.is_silent.store(true, Ordering::SeqCst);
    let error = remote.missing(vec![], None).await.expect_err("nothing comes");
    assert!(matches!(error, RemoteError::TimedOut { after_ms: 1000, .. }), "{error:?}");
    for _ in 0..2 {
        remote.missing(vec![], None).await.expect("an answer on a new connection");
    }
    assert_eq!(accepted(), KEPT + 1, "the new one is kept");
}

#[tokio::test]
async fn an_answer_that_stops_in_its_middle_gives_up_the_kept_connections_too() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    let remote = impatient(serve(cut).await, Duration::from_secs(1));
    let before = remote.pool.line("").1;
    remote.missing(vec![], None).await.expect_err("half an answer");
    assert!(!remote.pool.is_current(&before));
}

#[tokio::test]
async fn a_silent_event_stream_gives_up_the_kept_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let remote = impatient(listener.local_addr().expect("bound"), Duration::from_secs(3600));
    let serving = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a peer");
        read_request(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await.expect("written");
        peer
    });
    let before = remote.pool.line("").1;
    let mut frames = remote.stream(ClientId::new("c").expect("an id")).await.expect("a stream");
    let _open = serving.await.expect("served");
    // From here on time passes only while everything waits.
    tokio::time::pause();
    let error = frames.next().await.expect("an end with an error").expect_err("nothing comes");
    assert!(matches!(error, RemoteError::TimedOut { .. }), "{error:?}");
    assert!(!remote.pool.is_current(&before));
}

#[tokio::test]
async fn what_is_found_dead_late_does_not_give_up_newer_connections() {
    let pool = impatient(nobody().parse().expect("an address"), Duration::from_secs(1)).pool;
    let (one, other) = (pool.line("").1, pool.line("").1);
    drop(one.silent(Duration::ZERO));
    let newer = pool.line("").1;
    assert!(!pool.is_current(&one) && pool.is_current(&newer));
    drop(other.silent(Duration::ZERO));
    assert!(pool.is_current(&newer));
    drop(newer.silent(Duration::ZERO));
    assert!(!pool.is_current(&newer));
}

#[tokio::test]
async fn a_server_that_nobody_listens_at_costs_no_connections() {
    let remote = impatient(nobody().parse().expect("an address"), Duration::from_secs(1));
    let before = remote.pool.line("").1;
    remote.missing(vec![], None).await.expect_err("nobody");
    assert!(remote.pool.is_current(&before));
}
