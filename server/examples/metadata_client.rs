//! A client of the metadata routes with nothing but a TCP connection: makes a text of the metadata language, sends it, lists,
//! changes, reads the history and removes what it made.
//!
//! `cargo run -p dfs-server --example metadata_client -- 127.0.0.1:8080`; a test runs it against a server of its own.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use dfs_shared::ddl::{self, FileHash, FileMetadata, ModifiedAt, SyncState};
use dfs_shared::hash::ChunkHash;
use serde_json::{Value, json};

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    run(&address, &mut std::io::stdout().lock())
}

/// Does all of it and tells what the server answers.
pub(crate) fn run(address: &str, out: &mut impl Write) -> Result<()> {
    // An empty file is the one whose content every server has.
    let metadata = FileMetadata {
        name: b"examples/made by a client.txt".to_vec(),
        version: 1,
        size: 0,
        hash: FileHash::from(ChunkHash::of(b"")),
        last_modified: ModifiedAt::from_text("2024-01-15T10:30:00Z").context("a time")?,
        owner: "ann".to_owned(),
        sync_state: SyncState::default(),
    };
    let text = ddl::print(std::slice::from_ref(&metadata));
    writeln!(out, "adding\n{text}")?;
    let (status, added) = ask(address, "POST", "/api/metadata/add", "", &text)?;
    ensure!(status == 200 || status == 201, "{status}: {added}");

    let path = "/api/metadata/list?prefix=examples/";
    let (status, listed) = ask(address, "GET", path, "Accept: text/x-dfs-ddl\r\n", "")?;
    ensure!(status == 200, "{status}: {listed}");
    // The language's own parser reads what the server prints.
    let files = ddl::parse(&listed).map_err(|found| anyhow::anyhow!("{found:?}"))?;
    for file in &files {
        let name = String::from_utf8_lossy(&file.name);
        writeln!(out, "{name}: version {}, owner {}", file.version, file.owner)?;
    }
    ensure!(files.iter().any(|file| file.name == metadata.name), "the file is not listed: {listed}");

    let change = json!({ "file_path": "examples/made by a client.txt", "version": 1, "owner": "bob" });
    let (status, changed) = ask(address, "PUT", "/api/metadata/update", "", &change.to_string())?;
    ensure!(status == 200, "{status}: {changed}");

    let name = "examples/made%20by%20a%20client.txt";
    let (status, history) = ask(address, "GET", &format!("/api/metadata/history/{name}"), "", "")?;
    ensure!(status == 200, "{status}: {history}");
    let history: Value = serde_json::from_str(&history)?;
    for version in history["versions"].as_array().context("versions")? {
        writeln!(
            out,
            "version {} of {} at {}",
            version["version"], version["owner"], version["last_modified"]
        )?;
    }

    let (status, removed) = ask(address, "DELETE", &format!("/api/metadata/delete/{name}"), "", "")?;
    ensure!(status == 200, "{status}: {removed}");
    writeln!(out, "removed")?;
    Ok(())
}

/// Sends one request on a connection of its own; returns the status and the body.
fn ask(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").context("the answer has no head")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
