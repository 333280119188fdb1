//! Compares the engines with each other and with hyper: small replies with keep-alive, and pipelined.
//!
//! All servers stand ready in this process and are measured in turn, several rounds, so that whatever else the machine
//! does meets all of them; medians are printed. Clients are plain blocking threads.
//!
//! `cargo run --release -p dfs-server --example http_engines [ROUNDS [SECONDS [CLIENTS]]]`
//!
//! With `serve NAME` it is one of them alone, until its input ends: `tests/benches/run http` measures them as processes.

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_server::engine::{Engine, Handler, Options, RequestBody, prepare};
use dfs_server::http::{Request, Response, Status};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPLY: &[u8] = b"Hello, World!";
const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const PIPELINE: usize = 16;

struct Hello;

impl Handler for Hello {
    async fn handle(&self, _: Request, _: RequestBody) -> Response {
        Response::text(Status::OK, Bytes::from_static(REPLY))
    }
}

fn start_engine(engine: Engine) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let prepared = prepare(engine, listener, Options::default())?;
    // Serves until the program ends.
    std::thread::spawn(move || prepared.serve(Arc::new(Hello), std::future::pending()));
    Ok(address)
}

fn start_hyper() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    std::thread::spawn(move || runtime.block_on(serve_hyper(listener)));
    Ok(address)
}

async fn serve_hyper(listener: TcpListener) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let service = service_fn(|_| async {
                let reply = hyper::Response::builder().header("content-type", "text/plain; charset=utf-8");
                Ok::<_, Infallible>(
                    reply.body(Full::new(Bytes::from_static(REPLY))).expect("constant headers"),
                )
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            // A client that ends its connection is no failure here.
            let _ended = server.pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Asks until `over`; returns how many replies came.
fn client(address: SocketAddr, depth: usize, over: &AtomicBool) -> Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let requests = REQUEST.repeat(depth);
    let mut buffer = vec![0; 64 * 1024];
    stream.write_all(REQUEST)?;
    let reply_len = stream.read(&mut buffer)?;
    ensure!(
        buffer[..reply_len].ends_with(REPLY),
        "the reply is not whole: {}",
        buffer[..reply_len].escape_ascii()
    );
    let mut replies = 0;
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&requests)?;
        stream.read_exact(&mut buffer[..reply_len * depth]).context("read replies")?;
        replies += depth as u64;
    }
    ensure!(buffer[..reply_len * depth].ends_with(REPLY), "replies of different lengths");
    Ok(replies)
}

/// Returns replies per second.
fn measure(address: SocketAddr, clients: usize, depth: usize, time: Duration) -> Result<f64> {
    let over = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || client(address, depth, &over))
        })
        .collect();
    std::thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    let mut replies = 0;
    for thread in threads {
        replies += thread.join().map_err(|_| anyhow::anyhow!("a client failed"))??;
    }
    Ok(replies as f64 / start.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Serves as one of the peers until the input ends.
fn serve(name: &str) -> Result<()> {
    let engine = Engine::ALL.into_iter().find(|engine| engine.name() == name);
    let address = match engine {
        Some(engine) => start_engine(engine)?,
        None => {
            ensure!(name == "hyper", "no server is named {name}");
            start_hyper()?
        }
    };
    println!("serving on {address}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|word| word == "serve").is_some() {
        return serve(&arguments.next().context("serve which one?")?);
    }
    let mut number = |default: f64| arguments.next().map_or(Ok(default), |text| text.parse::<f64>());
    let (rounds, seconds, clients) = (number(5.0)? as usize, number(1.0)?, number(8.0)? as usize);
    ensure!(rounds > 0 && clients > 0 && seconds > 0.0, "rounds, seconds and clients have to be positive");
    let mut peers = Vec::new();
    for engine in Engine::ALL {
        peers.push((engine.name(), start_engine(engine)?));
    }
    peers.push(("hyper", start_hyper()?));
    let time = Duration::from_secs_f64(seconds);
    println!("{rounds} rounds of {seconds} s, {clients} connections, medians in replies per second");
    for (what, depth) in [("keep-alive", 1), ("pipelined", PIPELINE)] {
        let mut figures = vec![Vec::new(); peers.len()];
        for round in 0..rounds {
            // Each round begins with another one.
            for turn in 0..peers.len() {
                let index = (round + turn) % peers.len();
                figures[index].push(measure(peers[index].1, clients, depth, time)?);
            }
        }
        for ((name, _), figures) in peers.iter().zip(&mut figures) {
            println!("{what:<11} {name:<12} {:>10.0}", median(figures));
        }
    }
    Ok(())
}
