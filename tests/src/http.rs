//! A raw HTTP/1.1 client for tests: it can send what a well-behaved client never would.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Status line and header lines.
    pub head: String,
    /// The body with any chunked framing removed.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET path` on a connection of its own.
///
/// # Errors
/// When no whole reply comes.
pub fn get(port: u16, path: &str) -> Result<Reply> {
    request(port, "GET", path, &[], b"")
}

/// One request on a connection of its own.
///
/// # Errors
/// When no whole reply comes.
pub fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
    let mut message = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        message += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method != "GET" {
        message += &format!("Content-Length: {}\r\n", body.len());
    }
    message += "\r\n";
    let mut bytes = message.into_bytes();
    bytes.extend_from_slice(body);
    let reply = raw(port, &bytes, false)?;
    parse(&reply).with_context(|| format!("{method} {path}"))
}

/// Sends exactly `bytes`, optionally ends the sending side, and reads until the server closes.
///
/// # Errors
/// When the connection fails or the server neither answers nor closes in time.
pub fn raw(port: u16, bytes: &[u8], end: bool) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // The server may refuse and close before it has read everything; its reply is what counts.
    let _refused_early = stream.write_all(bytes);
    if end {
        stream.shutdown(Shutdown::Write).context("end the request")?;
    }
    let mut reply = Vec::new();
    match stream.read_to_end(&mut reply) {
        Ok(_) => Ok(reply),
        Err(_) if !reply.is_empty() => Ok(reply),
        Err(error) => Err(error).context("read the reply"),
    }
}

/// Takes a reply apart.
///
/// # Errors
/// When it is not an HTTP/1.1 reply.
pub fn parse(bytes: &[u8]) -> Result<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("no end of head")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    let rest = &bytes[end + 4..];
    let lower = head.to_ascii_lowercase();
    let body = if lower.contains("transfer-encoding: chunked") { unchunk(rest)? } else { rest.to_vec() };
    Ok(Reply { status, head, body })
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").context("chunk size line")?;
        let text = std::str::from_utf8(&rest[..line])?;
        let size = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16)?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        if rest.len() < size + 2 {
            bail!("chunk cut short");
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}
