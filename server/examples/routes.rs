//! A small server: routes with params and a rest, over a shared state, with a middleware around them, on any engine.
//!
//! `cargo run -p dfs-server --example routes [async|thread-pool|blocking]`, then
//!
//! ```text
//! curl http://127.0.0.1:PORT/hello/world          a param
//! curl http://127.0.0.1:PORT/files/a/b%20c        a rest, decoded once
//! curl -d text http://127.0.0.1:PORT/echo         a body
//! curl -i -X DELETE http://127.0.0.1:PORT/echo    405, with Allow
//! ```
//!
//! It ends with Ctrl-C, after the requests under way.

#![expect(clippy::print_stdout, reason = "a program that says where it listens and what it answered")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use dfs_server::engine::{Engine, Handler, Options, RequestBody, prepare};
use dfs_server::http::{Method, Request, Response, Status};
use dfs_server::router::{Call, Router};

const BODY_LEN_MAX: usize = 1 << 20;

/// What all handlers share.
#[derive(Default)]
struct Shared {
    greeted: AtomicU64,
}

async fn hello(shared: Arc<Shared>, call: Call) -> Response {
    let number = shared.greeted.fetch_add(1, Ordering::Relaxed) + 1;
    match call.param("name") {
        Some(name) => Response::text(Status::OK, format!("hello {name}, number {number}\n")),
        None => Response::error(Status::BAD_REQUEST, "name", "a name is text"),
    }
}

async fn file(_: Arc<Shared>, call: Call) -> Response {
    // Paths are bytes on Linux: the rest may be no text.
    let path = call.params.get_bytes("path").unwrap_or_default();
    Response::text(Status::OK, format!("the file {}\n", path.escape_ascii()))
}

async fn echo(_: Arc<Shared>, call: Call) -> Response {
    // The engine feeds the body while it comes; `next` instead of `collect` would take it piece by piece.
    match call.body.collect(BODY_LEN_MAX).await {
        Ok(bytes) => Response::full(Status::OK, "application/octet-stream", bytes),
        Err(error) => error.response(),
    }
}

/// A middleware is a handler around a handler: it sees the request before and the response after.
struct Signed<H>(H);

impl<H: Handler> Handler for Signed<H> {
    async fn handle(&self, request: Request, body: RequestBody) -> Response {
        self.0.handle(request, body).await.with_header("Server", "routes")
    }
}

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| Engine::default().name().to_owned());
    let engine = Engine::ALL.into_iter().find(|engine| engine.name() == name).context("no such engine")?;
    let router = Router::new(Arc::new(Shared::default()))
        .route(Method::Get, "/hello/{name}", hello)
        .route(Method::Get, "/files/{path...}", file)
        .route(Method::Post, "/echo", echo)
        // Called once for each answered request, with the pattern instead of the path: fit for a metric's label.
        .observe(|outcome| {
            println!("{} {} {}", outcome.method, outcome.pattern, outcome.status.code());
        });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on {}", listener.local_addr()?);
    let interrupted = async {
        // Where no signal can be had the server ends at once.
        let _ = tokio::signal::ctrl_c().await;
    };
    let drained = prepare(engine, listener, Options::default())?.serve(Arc::new(Signed(router)), interrupted);
    println!("ended, {} connections cut", drained.aborted);
    Ok(())
}
