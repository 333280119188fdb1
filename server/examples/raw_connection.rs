//! The HTTP machine without an engine: one request over one socket of the standard library, driven by hand.
//!
//! [`Connection`] never sees the socket. Whoever drives it reads bytes into its buffer, takes events until it needs more,
//! and writes what it has encoded. The engines do the same with many sockets, timeouts and a handler.
//!
//! `cargo run -p dfs-server --example raw_connection`, then `curl -d text http://127.0.0.1:PORT/any/path`

#![expect(clippy::print_stdout, reason = "a program that says where it listens")]

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Result, bail};
use bytes::Buf;
use dfs_server::http::{BodyLength, Connection, Event, Headers, Output, Request, Status};

const BODY_LEN_MAX: u64 = 1 << 20;

fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on {}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let mut machine = Connection::new(BODY_LEN_MAX);
    let mut output = Output::default();

    let mut head: Option<Request> = None;
    let mut body = Vec::new();
    loop {
        match machine.next_event() {
            Ok(Event::Request(request)) => head = Some(*request),
            Ok(Event::Body(piece)) => body.extend_from_slice(&piece),
            // The machine understood everything up to the end of the request's body.
            Ok(Event::EndOfMessage) => break,
            Ok(Event::NeedMore) => {
                // A peer may wait for this before it sends its body; it is nothing for all others.
                machine.send_continue(&mut output);
                flush(&mut stream, &mut output)?;
                receive(&mut stream, &mut machine)?;
            }
            Ok(Event::Paused | Event::Closed) => bail!("the peer went away without a request"),
            Err(error) => {
                // The one answer that is still possible: the machine adds `Connection: close` by itself.
                let reason = format!("{error}\n");
                respond(&mut machine, error.status(), reason.into_bytes(), &mut output)?;
                return flush(&mut stream, &mut output);
            }
        }
    }
    let Some(request) = head else { bail!("a body without a head") };
    let path = request.path.escape_ascii();
    let answer =
        format!("{} {path} with {} fields and {} bytes\n", request.method, request.headers.len(), body.len());
    // Without this the connection would be kept for a next request: `next_cycle` begins it.
    machine.close_after_response();
    respond(&mut machine, Status::OK, answer.into_bytes(), &mut output)?;
    flush(&mut stream, &mut output)
}

/// Encodes a whole response: head, body, end.
fn respond(machine: &mut Connection, status: Status, body: Vec<u8>, output: &mut Output) -> Result<()> {
    let mut headers = Headers::new();
    headers.append("Content-Type", "text/plain; charset=utf-8");
    // The machine has no clock: an engine passes the date here.
    machine.send_head(status, &headers, BodyLength::Known(body.len() as u64), None, output);
    machine.send_data(body.into(), output)?;
    machine.send_end(output)?;
    Ok(())
}

/// Reads once; however few bytes come, the machine goes on where it was.
fn receive(stream: &mut TcpStream, machine: &mut Connection) -> Result<()> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece)? {
        0 => machine.receive_end(),
        len => machine.receive(&piece[..len]),
    }
    Ok(())
}

/// Writes what was encoded; large bodies stand in blocks of their own, which one system call takes together.
fn flush(stream: &mut TcpStream, output: &mut Output) -> Result<()> {
    while output.has_remaining() {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = output.chunks_vectored(&mut slices);
        let written = stream.write_vectored(&slices[..count])?;
        output.advance(written);
    }
    Ok(())
}
