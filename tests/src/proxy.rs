//! A TCP proxy between a mount and its server: a network that can be cut, stalled, slowed and measured.
//!
//! Invariant: bytes pass unchanged and in order, or the connection ends; it never invents any.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const BUFFER_LEN: usize = 16 * 1024;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Bytes that passed, by direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// From the mount to the server.
    pub up: u64,
    /// From the server to the mount.
    pub down: u64,
}

struct Inner {
    target_port: u16,
    is_open: AtomicBool,
    is_ended: AtomicBool,
    /// Connections of an older generation than this no longer move a byte.
    stalled_below: AtomicU64,
    generation: AtomicU64,
    bytes_per_second: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    accepted: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
    next_free: Mutex<Instant>,
}

/// A running proxy; it ends when dropped.
pub struct Proxy {
    inner: Arc<Inner>,
    address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port and forwards to `target_port` on the loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(target_port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("proxy port")?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner {
            target_port,
            is_open: AtomicBool::new(true),
            is_ended: AtomicBool::new(false),
            stalled_below: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            streams: Mutex::new(Vec::new()),
            next_free: Mutex::new(Instant::now()),
        });
        let accepting = inner.clone();
        std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Proxy { inner, address })
    }

    /// The port that mounts connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.inner.is_open.store(false, Ordering::SeqCst);
        self.inner.close_all();
    }

    /// Lets new connections through again, at full speed.
    pub fn restore(&self) {
        self.inner.is_open.store(true, Ordering::SeqCst);
    }

    /// Present connections go silent without an end, as behind a router that forgot them; new ones work.
    pub fn stall(&self) {
        let next = self.inner.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.inner.stalled_below.store(next, Ordering::SeqCst);
    }

    /// Limits both directions together; 0 is no limit.
    pub fn limit_bytes_per_second(&self, bytes: u64) {
        self.inner.bytes_per_second.store(bytes, Ordering::SeqCst);
    }

    /// Bytes that passed since the start.
    #[must_use]
    pub fn passed(&self) -> Passed {
        Passed { up: self.inner.up.load(Ordering::SeqCst), down: self.inner.down.load(Ordering::SeqCst) }
    }

    /// Connections accepted since the start, refused ones included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.inner.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.is_ended.store(true, Ordering::SeqCst);
        self.cut();
        let _wakes_accept = TcpStream::connect(self.address);
    }
}

impl Inner {
    fn close_all(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _closed_already = stream.shutdown(Shutdown::Both);
        }
    }

    fn keep(&self, stream: &TcpStream) {
        if let Ok(copy) = stream.try_clone() {
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
    }

    /// Waits for this many bytes' turn under the limit.
    fn pace(&self, length: usize) {
        let rate = self.bytes_per_second.load(Ordering::SeqCst);
        if rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(length as f64 / rate as f64);
        let turn = {
            let mut next_free = self.next_free.lock().unwrap_or_else(PoisonError::into_inner);
            *next_free = (*next_free).max(Instant::now()) + cost;
            *next_free
        };
        std::thread::sleep(turn.saturating_duration_since(Instant::now()));
    }
}

fn accept(listener: &TcpListener, inner: &Arc<Inner>) {
    for stream in listener.incoming() {
        if inner.is_ended.load(Ordering::SeqCst) {
            return;
        }
        inner.accepted.fetch_add(1, Ordering::SeqCst);
        let Ok(stream) = stream else { continue };
        if !inner.is_open.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", inner.target_port)) else {
            continue;
        };
        let _unsupported = (stream.set_nodelay(true), server.set_nodelay(true));
        inner.keep(&stream);
        inner.keep(&server);
        let generation = inner.generation.load(Ordering::SeqCst);
        let (Ok(from_mount), Ok(to_server)) = (stream.try_clone(), server.try_clone()) else { continue };
        let (up, down) = (inner.clone(), inner.clone());
        std::thread::spawn(move || pump(from_mount, to_server, &up, &up.up, generation));
        std::thread::spawn(move || pump(server, stream, &down, &down.down, generation));
        // A cut that came between the check and keep() must not leave this pair alive.
        if !inner.is_open.load(Ordering::SeqCst) {
            inner.close_all();
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, inner: &Inner, counter: &AtomicU64, generation: u64) {
    let mut buffer = [0; BUFFER_LEN];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(length) if length > 0 => length,
            _ => break,
        };
        while generation < inner.stalled_below.load(Ordering::SeqCst) {
            if inner.is_ended.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        inner.pace(length);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        counter.fetch_add(length as u64, Ordering::SeqCst);
    }
    if generation >= inner.stalled_below.load(Ordering::SeqCst) {
        let _closed_already = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
    }
}
