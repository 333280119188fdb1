//! One list of tests for every engine, on real sockets, with a raw client that sees every byte.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Drained, Engine, EngineConfig, Handler, Options, RequestBody, prepare};
use crate::http::{Body, Request, Response, Status, StreamItem};

/// Makes each of these tests one for every engine.
macro_rules! on_every_engine {
    ($(async fn $name:ident($engine:ident: Engine) $body:block)*) => {
        $(async fn $name($engine: Engine) $body)*
        on_every_engine!(@on on_async Async $($name)*);
        on_every_engine!(@on on_thread_pool ThreadPool $($name)*);
        on_every_engine!(@on on_blocking Blocking $($name)*);
    };
    (@on $module:ident $engine:ident $($name:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Engine::$engine).await;
            })*
        }
    };
}

mod files;
mod requests;
mod shutdown;
mod streams;
mod timeouts;
mod trailers;
mod writes;

/// Longest wait of any step; a test that reaches it fails.
const SOON: Duration = Duration::from_secs(10);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("this should have happened soon")
}

/// A handler that does what the path names.
#[derive(Default)]
struct Script {
    /// What the stream routes answer with.
    body: Mutex<Option<Body>>,
    /// Fires when `/wait` was entered.
    entered: Notify,
    /// Lets `/wait` and `/late` go on.
    go_on: Notify,
}

impl Handler for Script {
    async fn handle(&self, request: Request, body: RequestBody) -> Response {
        match request.path.as_ref() {
            b"/hello" => Response::text(Status::OK, "hello"),
            b"/echo" => echo(body).await,
            b"/late" => {
                self.go_on.notified().await;
                echo(body).await
            }
            b"/wait" => {
                self.entered.notify_one();
                self.go_on.notified().await;
                Response::text(Status::OK, "waited")
            }
            b"/body" => Response::new(Status::OK).with_body(self.body.lock().take().unwrap()),
            b"/ignore" => Response::text(Status::OK, "ignored"),
            b"/trailers" => trailers::send_back(body).await,
            b"/panic" => panic!("as asked"),
            _ => Response::new(Status::NOT_FOUND),
        }
    }
}

async fn echo(body: RequestBody) -> Response {
    match body.collect(ECHO_LEN_MAX).await {
        Ok(bytes) => Response::full(Status::OK, "application/octet-stream", bytes),
        Err(error) => error.response(),
    }
}

const ECHO_LEN_MAX: usize = 32 << 20;

struct Fixture {
    address: SocketAddr,
    script: Arc<Script>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Drained>,
}

impl Fixture {
    async fn start(engine: Engine, config: EngineConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script::default());
        let (stop, stopped) = oneshot::channel();
        let prepared = prepare(engine, listener, Options { config, threads: Some(2), tls: None }).unwrap();
        let handler = Arc::clone(&script);
        let server = tokio::task::spawn_blocking(move || {
            prepared.serve(handler, async move {
                let _ = stopped.await;
            })
        });
        Self { address, script, stop: Some(stop), server }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), received: Vec::new() }
    }

    /// Sets what `/body` answers with and returns its producer.
    fn stream(&self, make: impl FnOnce(mpsc::Receiver<StreamItem>) -> Body) -> mpsc::Sender<StreamItem> {
        let (sender, receiver) = mpsc::channel(4);
        *self.script.body.lock() = Some(make(receiver));
        sender
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn drained(self) -> Drained {
        soon(self.server).await.unwrap()
    }
}

fn short() -> Duration {
    Duration::from_millis(50)
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    async fn send(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.unwrap();
    }

    async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    }

    /// Reads up to and with this text.
    async fn read_until(&mut self, end: &str) -> String {
        loop {
            let found = self.received.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.received.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.received, rest)).unwrap();
            }
            let len = soon(self.stream.read_buf(&mut self.received)).await.unwrap();
            assert!(len > 0, "the end came before {end:?}, after {}", self.received.escape_ascii());
        }
    }

    /// Reads a response with a known length; returns head and body.
    async fn response(&mut self) -> (String, Vec<u8>) {
        let head = self.read_until("\r\n\r\n").await;
        let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let len: usize = len.expect("a response has a length").parse().unwrap();
        while self.received.len() < len {
            assert!(
                soon(self.stream.read_buf(&mut self.received)).await.unwrap() > 0,
                "the body is cut short"
            );
        }
        let rest = self.received.split_off(len);
        (head, std::mem::replace(&mut self.received, rest))
    }

    /// Reads a chunked body without trailers.
    async fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_until("\r\n").await;
            let len = usize::from_str_radix(line.trim(), 16).unwrap();
            while self.received.len() < len + 2 {
                assert!(soon(self.stream.read_buf(&mut self.received)).await.unwrap() > 0, "cut short");
            }
            let rest = self.received.split_off(len + 2);
            let chunk = std::mem::replace(&mut self.received, rest);
            assert!(chunk.ends_with(b"\r\n"));
            if len == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..len]);
        }
    }

    /// Reads a response of this status; returns its body as text.
    async fn expect(&mut self, status: u16) -> String {
        let (head, body) = self.response().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        String::from_utf8(body).unwrap()
    }

    /// Reads to the end of the connection.
    async fn rest(&mut self) -> String {
        soon(self.stream.read_to_end(&mut self.received)).await.unwrap();
        String::from_utf8(std::mem::take(&mut self.received)).unwrap()
    }
}
