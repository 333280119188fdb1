//! The served OpenAPI description beside real answers: each route, with success and with every error that it names.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_shared::wire::messages::{RegisterReply, RegisterRequest};
use dfs_shared::wire::{CONTENT_TYPE, decode, encode};
use dfs_tests::engine::on_every_engine;
use dfs_tests::http::{self, Reply};
use dfs_tests::schema::Description;
use dfs_tests::server::{Server, isolate};
use dfs_tests::{binaries, eventually, process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(20);

/// A server, its description, and what of it was seen.
struct Checked<'s> {
    server: &'s Server,
    description: Description,
    seen: BTreeSet<(String, String, u16)>,
}

/// One request. The path of the description stands before what is put into it and the query.
struct Ask<'a> {
    method: &'a str,
    path: &'a str,
    with: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Vec<u8>,
}

fn ask<'a>(method: &'a str, path: &'a str, with: &'a str) -> Ask<'a> {
    Ask { method, path, with, headers: &[], body: Vec::new() }
}

impl Ask<'_> {
    fn json(self, body: &Value) -> Self {
        Self { body: body.to_string().into_bytes(), ..self }
    }

    /// The path as it is sent: `{path}` is replaced by what stands before the `?`.
    fn target(&self) -> String {
        let (path, query) = self.with.split_once('?').unwrap_or((self.with, ""));
        let path = self.path.replace("{path}", path);
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }
}

impl<'s> Checked<'s> {
    fn new(server: &'s Server) -> Result<Self> {
        let description = Description::new(&http::get(server.port(), "/api/openapi.json")?.text())?;
        Ok(Self { server, description, seen: BTreeSet::new() })
    }

    fn operation(&self, method: &str, path: &str) -> Result<&Value> {
        let operation = &self.description.document()["paths"][path][method.to_lowercase()];
        ensure!(operation.is_object(), "{method} {path} is not described");
        Ok(operation)
    }

    /// Sends a request, wants this status and checks all of it.
    fn wants(&mut self, status: u16, ask: Ask<'_>) -> Result<Reply> {
        let target = ask.target();
        let reply = http::request(self.server.port(), ask.method, &target, ask.headers, &ask.body)?;
        ensure!(
            reply.status == status,
            "{} {target}: {} is not {status}: {}",
            ask.method,
            reply.status,
            reply.text()
        );
        self.check(&ask, &reply).with_context(|| format!("{} {target}: {status}", ask.method))?;
        self.seen.insert((ask.method.to_owned(), ask.path.to_owned(), status));
        Ok(reply)
    }

    fn json(&mut self, status: u16, ask: Ask<'_>) -> Result<Value> {
        self.wants(status, ask)?.json()
    }

    fn check(&self, ask: &Ask<'_>, reply: &Reply) -> Result<()> {
        let operation = self.operation(ask.method, ask.path)?;
        self.check_query(ask, operation)?;
        if reply.status < 300
            && let Some((_, label)) = ask.headers.iter().find(|(name, _)| *name == "Content-Type")
        {
            let media_type = label.split(';').next().unwrap_or_default().to_ascii_lowercase();
            let body = self.description.resolve(&operation["requestBody"])?;
            ensure!(body["content"][media_type].is_object(), "a body of the type {label} is not described");
        }
        if reply.status < 300 && ask.body.starts_with(b"{") {
            let body = self.description.resolve(&operation["requestBody"])?;
            let schema = &body["content"]["application/json"]["schema"];
            self.description.check(schema, &serde_json::from_slice(&ask.body)?, "request")?;
        }
        let response = self.description.resolve(&operation["responses"][reply.status.to_string()])?;
        check_answer(&self.description, response, reply)
    }

    fn check_query(&self, ask: &Ask<'_>, operation: &Value) -> Result<()> {
        let mut known = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            known.insert(self.description.resolve(parameter)?["name"].as_str().unwrap_or_default());
        }
        let query = ask.with.split_once('?').map_or("", |(_, query)| query);
        for name in query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty())
        {
            ensure!(known.contains(name), "the parameter {name} is not described");
        }
        Ok(())
    }

    /// Fails unless every answer that the description names was seen.
    fn expect_all_seen(&self) -> Result<()> {
        let mut unseen = Vec::new();
        for (path, methods) in self.description.document()["paths"].as_object().context("paths")? {
            for (method, operation) in methods.as_object().context("methods")? {
                for status in operation["responses"].as_object().context("responses")?.keys() {
                    let Ok(number) = status.parse() else { continue };
                    if !self.seen.contains(&(method.to_uppercase(), path.clone(), number)) {
                        unseen.push(format!("{method} {path}: {status}"));
                    }
                }
            }
        }
        ensure!(unseen.is_empty(), "described and not seen: {unseen:#?}");
        Ok(())
    }
}

fn check_answer(description: &Description, response: &Value, reply: &Reply) -> Result<()> {
    ensure!(response.is_object(), "the status is not described");
    let label = header(reply, "content-type");
    let Some(contents) = response.get("content") else {
        ensure!(reply.body.is_empty(), "a body is not described: {}", reply.text());
        return Ok(());
    };
    let content = contents.get(label.split(';').next().unwrap_or_default());
    let content = content.with_context(|| format!("the type `{label}` is not described"))?;
    match content.get("schema") {
        Some(schema) if label == "application/json" => description.check(schema, &reply.json()?, "answer"),
        _ => Ok(()),
    }
}

fn header(reply: &Reply, name: &str) -> String {
    let lines = reply.head.lines().filter_map(|line| line.split_once(": "));
    let mut found =
        lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned());
    found.next_back().unwrap_or_default()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_answer_is_as_the_description_says() {
    on_every_engine("every_answer_is_as_the_description_says", &[], |server, home| {
        let mut api = Checked::new(server)?;
        operations(&mut api)?;
        sessions(&mut api)?;
        downloads(&mut api)?;
        metadata(&mut api)?;
        quota(&mut api, home)?;
        api.expect_all_seen()?;
        tokens(&api, home)
    });
}

fn operations(api: &mut Checked<'_>) -> Result<()> {
    for path in ["/health", "/ready", "/metrics", "/api/openapi.json"] {
        api.wants(200, ask("GET", path, ""))?;
    }
    let info = "/api/info";
    api.wants(200, ask("GET", info, ""))?;
    api.wants(400, ask("GET", info, "?volume=a%20b"))?;
    api.wants(404, ask("GET", info, "?volume=none"))?;
    let events = "/api/events";
    api.wants(400, ask("GET", events, "?types=None"))?;
    api.wants(404, ask("GET", events, "?volume=none"))?;
    // The stream has no end, so its head is read alone.
    let mut stream = TcpStream::connect(("127.0.0.1", api.server.port()))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /api/events?since=0 HTTP/1.1\r\nHost: h\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "the head of the stream ended");
        head.push(byte[0]);
    }
    let reply = Reply { body: Vec::new(), ..http::parse(&[&head[..], b"0\r\n\r\n"].concat())? };
    ensure!(reply.status == 200, "{}", reply.head);
    api.check(&ask("GET", events, "?since=0"), &reply)?;
    api.seen.insert(("GET".to_owned(), events.to_owned(), 200));
    Ok(())
}

const REGISTER: &str = "/api/register";
const START: &str = "/api/sync/start";
const DIFF: &str = "/api/sync/diff";
const STATUS: &str = "/api/sync/status";
const CHUNK: &str = "/api/file/upload_chunk";
const COMPLETE: &str = "/api/file/upload_complete";
const NO_SESSION: &str = "00000000000000000000000000000000";

fn text(value: &Value, name: &str) -> Result<String> {
    Ok(value[name].as_str().with_context(|| format!("no {name} in {value}"))?.to_owned())
}

fn start(api: &mut Checked<'_>, client: &str) -> Result<String> {
    let started = api.json(200, ask("POST", START, "").json(&json!({"client_id": client})))?;
    text(&started, "session_id")
}

/// Registers with the message that mounts send; the id is as good as one that was given in JSON.
fn register_as_mounts_do(api: &mut Checked<'_>) -> Result<()> {
    let request = RegisterRequest { client_name: "laptop2".to_owned(), client: None, uid: 0, gid: 0 };
    let labels = [CONTENT_TYPE, "Application/X-DFS; charset=binary"];
    for label in labels {
        let headers = [("Content-Type", label)];
        let message = |body| Ask { headers: &headers, body, ..ask("POST", REGISTER, "") };
        let reply = api.wants(200, message(encode(&request)))?;
        ensure!(header(&reply, "content-type") == CONTENT_TYPE, "{}", reply.head);
        let registered: RegisterReply = decode(&reply.body)?;
        start(api, registered.client.as_str())?;
        let refused = api.json(400, message(br#"{"client_name": "laptop2"}"#.to_vec()))?;
        ensure!(refused["error"]["code"] == "not_a_message", "{refused}");
    }
    // Without the label it is meant to be JSON.
    let refused = api.json(400, Ask { body: encode(&request), ..ask("POST", REGISTER, "") })?;
    ensure!(refused["error"]["code"] == "bad_json", "{refused}");
    Ok(())
}

/// Uploads `dir/file` in two chunks.
fn sessions(api: &mut Checked<'_>) -> Result<()> {
    let post = |path| ask("POST", path, "");
    let none = json!({});
    for (path, other) in [(REGISTER, "?volume=none"), (START, "?volume=none")] {
        api.wants(400, post(path).json(&none))?;
        let known = json!({"client_name": "laptop1", "client_id": "laptop1-1", "platform": "linux"});
        api.wants(404, ask("POST", path, other).json(&known))?;
    }
    let client =
        api.json(200, post(REGISTER).json(&json!({"client_name": "laptop1", "platform": "linux"})))?;
    let client = text(&client, "client_id")?;
    let session = start(api, &client)?;
    register_as_mounts_do(api)?;

    let gone = json!({"session_id": NO_SESSION, "local_snapshot": []});
    api.wants(400, post(DIFF).json(&none))?;
    api.wants(404, post(DIFF).json(&gone))?;
    api.wants(400, ask("GET", STATUS, ""))?;
    api.wants(404, ask("GET", STATUS, &format!("?session_id={NO_SESSION}")))?;

    let halves: [&[u8]; 2] = [b"first half, ", b"second half"];
    let whole = halves.concat();
    let chunk = |session: &str, number: usize, bytes: &[u8], hash: &str| {
        json!({"session_id": session, "file_path": "dir/file", "chunk_index": number, "total_chunks": 2,
               "data": hex(bytes), "chunk_hash": hash})
    };
    let first = chunk(&session, 0, halves[0], &sha256(halves[0]));
    api.wants(409, post(CHUNK).json(&first)).context("before the diff")?;
    let local = json!([{"file_path": "dir/file", "hash": sha256(&whole), "size": whole.len(), "version": null,
                        "sync_state": "modified"}]);
    let diff = json!({"session_id": session, "local_snapshot": local});
    api.wants(200, post(DIFF).json(&diff))?;
    api.wants(200, post(CHUNK).json(&first))?;
    api.wants(400, post(CHUNK).json(&none))?;
    api.wants(404, post(CHUNK).json(&chunk(NO_SESSION, 0, b"x", &sha256(b"x"))))?;
    api.wants(422, post(CHUNK).json(&chunk(&session, 1, b"x", &sha256(b"y"))))?;
    let complete = |session: &str, hash: &str| json!({"session_id": session, "file_path": "dir/file", "expected_hash": hash});
    api.wants(409, post(COMPLETE).json(&complete(&session, &sha256(&whole)))).context("a half")?;
    let hash = sha256(halves[1]);
    let query =
        format!("?session_id={session}&file_path=dir/file&chunk_index=1&total_chunks=2&chunk_hash={hash}");
    let raw = Ask { body: halves[1].to_vec(), ..ask("POST", CHUNK, &query) };
    api.wants(200, raw)?;
    api.wants(413, Ask { body: vec![0; (16 << 20) + 1], ..ask("POST", CHUNK, &query) })?;
    api.wants(400, post(COMPLETE).json(&none))?;
    api.wants(404, post(COMPLETE).json(&complete(NO_SESSION, &sha256(&whole))))?;
    api.wants(422, post(COMPLETE).json(&complete(&session, &sha256(b"other"))))?;
    api.wants(200, post(COMPLETE).json(&complete(&session, &sha256(&whole))))?;
    let status = api.json(200, ask("GET", STATUS, &format!("?session_id={session}")))?;
    ensure!(status["state"] == "Complete", "{status}");
    api.wants(409, post(DIFF).json(&diff)).context("a complete session")?;
    api.wants(409, ask("GET", "/api/file/download/{path}", &format!("dir/file?session_id={session}")))?;

    for _ in 0..64 {
        let start = json!({"client_id": client, "with_snapshot": false});
        let reply = http::request(api.server.port(), "POST", START, &[], start.to_string().as_bytes())?;
        if reply.status != 200 {
            break;
        }
    }
    api.wants(429, post(START).json(&json!({"client_id": client})))?;
    Ok(())
}

fn downloads(api: &mut Checked<'_>) -> Result<()> {
    let get = |with| ask("GET", "/api/file/download/{path}", with);
    let whole = api.wants(200, get("dir/file?version=1"))?;
    ensure!(whole.body == b"first half, second half", "{}", whole.text());
    let tag = header(&whole, "etag");
    for (status, header) in [
        (206, ("Range", "bytes=0-4")),
        (304, ("If-None-Match", &*tag)),
        (412, ("If-Match", "\"other\"")),
        (416, ("Range", "bytes=999-")),
    ] {
        api.wants(status, Ask { headers: &[header], ..get("dir/file") })?;
    }
    api.wants(400, get("dir/file?version=x"))?;
    api.wants(404, get("none"))?;
    api.wants(201, ask("POST", ADD, "").json(&json!({"file_path": "gone", "size": 0})))?;
    api.wants(200, ask("DELETE", "/api/metadata/delete/{path}", "gone"))?;
    api.wants(410, get("gone"))?;
    Ok(())
}

const ADD: &str = "/api/metadata/add";
const UPDATE: &str = "/api/metadata/update";

fn metadata(api: &mut Checked<'_>) -> Result<()> {
    let add = |body: &Value| ask("POST", ADD, "").json(body);
    let update = |body: &Value| ask("PUT", UPDATE, "").json(body);
    let content = json!({"file_path": "copy", "hash": sha256(b"first half, second half"), "size": 23, "owner": "ann",
                         "last_modified": "2024-01-15T10:30:00Z"});
    api.wants(201, add(&content))?;
    api.wants(200, add(&content))?;
    let unknown = json!({"file_path": "later", "hash": sha256(b"later"), "size": 5});
    api.wants(202, add(&unknown))?;
    api.wants(400, add(&json!({})))?;
    api.wants(404, ask("POST", ADD, "?volume=none").json(&content))?;
    api.wants(409, add(&json!({"file_path": "copy", "size": 0})))?;
    let record = |number: usize| {
        format!(
            "file_metadata:\n  name: \"{number}\"\n  version: 1\n  size: 1\n  hash: \"sha256:1\"\n  \
             last_modified: \"2024-01-15T10:30:00Z\"\n"
        )
    };
    // Several records are answered as a list.
    let several = (0..2).map(record).collect::<String>().into_bytes();
    api.wants(202, Ask { body: several, ..ask("POST", ADD, "") })?;
    let many = (0..1001).map(record).collect::<String>().into_bytes();
    api.wants(413, Ask { body: many.clone(), ..ask("POST", ADD, "") })?;
    api.wants(413, Ask { body: many, ..ask("PUT", UPDATE, "") })?;

    api.wants(200, update(&json!({"file_path": "copy", "version": 1, "owner": "bob"})))?;
    api.wants(400, update(&json!({"file_path": "copy", "size": "x"})))?;
    api.wants(404, update(&json!({"file_path": "none"})))?;
    api.wants(409, update(&json!({"file_path": "copy", "version": 9})))?;
    api.wants(422, update(&json!({"file_path": "copy", "hash": sha256(b"unknown"), "size": 7})))?;

    let ddl = [("Accept", "text/x-dfs-ddl")];
    for path in ["/api/metadata/get/{path}", "/api/metadata/history/{path}"] {
        api.wants(200, ask("GET", path, "copy"))?;
        api.wants(200, Ask { headers: &ddl, ..ask("GET", path, "copy") })?;
        api.wants(400, ask("GET", path, "a/../copy"))?;
        api.wants(404, ask("GET", path, "none"))?;
        api.wants(409, ask("GET", path, "dir"))?;
    }
    let list = "/api/metadata/list";
    api.wants(200, ask("GET", list, "?prefix=c&limit=1"))?;
    let page = api.json(200, ask("GET", list, "?limit=1"))?;
    let cursor = text(&page, "cursor")?;
    api.wants(200, ask("GET", list, &format!("?cursor={cursor}")))?;
    api.wants(200, Ask { headers: &ddl, ..ask("GET", list, "?prefix=copy") })?;
    api.wants(400, ask("GET", list, "?limit=0"))?;
    api.wants(404, ask("GET", list, "?volume=none"))?;
    let export = "/api/metadata/export";
    let text = api.wants(200, ask("GET", export, "?prefix=copy"))?;
    api.wants(400, ask("GET", export, "?prefix=../"))?;
    api.wants(404, ask("GET", export, "?volume=none"))?;
    let import = "/api/metadata/import";
    let imported = api.json(200, Ask { body: text.body, ..ask("POST", import, "") })?;
    ensure!(imported["unchanged"] == 1, "{imported}");
    let refused = api.json(200, ask("POST", import, "").json(&json!({"file_path": "copy", "size": 0})))?;
    ensure!(refused["refused"] == 1 && refused["files"][0]["error"]["code"] == "exists", "{refused}");
    api.wants(400, Ask { body: b"file_metadata:\n  name: 1\n".to_vec(), ..ask("POST", import, "") })?;
    api.wants(404, ask("POST", import, "?volume=none").json(&content))?;
    api.wants(413, Ask { body: vec![b'#'; (32 << 20) + 1], ..ask("POST", import, "") })?;
    let delete = "/api/metadata/delete/{path}";
    api.wants(400, ask("DELETE", delete, "a/../copy"))?;
    api.wants(404, ask("DELETE", delete, "none"))?;
    api.wants(409, ask("DELETE", delete, "dir"))?;
    Ok(())
}

/// What makes files longer is refused in a volume whose quota is reached, and succeeds once it is not.
fn quota(api: &mut Checked<'_>, home: &Path) -> Result<()> {
    let data = api.server.data().to_owned();
    let set = |limit: &str| {
        let mut command = Command::new(binaries::program("dfs-server")?);
        isolate(&mut command, home);
        command.args(["volume", "quota", "main", limit, "--data-dir"]).arg(&data);
        process::succeed(&mut command, DEADLINE)
    };
    set("1")?;
    let known = json!({"file_path": "second copy", "hash": sha256(b"first half, second half"), "size": 23});
    api.wants(
        201,
        ask("POST", ADD, "").json(&json!({"file_path": "empty", "size": 0, "hash": sha256(b"")})),
    )?;
    let longer = json!({"file_path": "empty", "hash": sha256(b"first half, second half"), "size": 23});
    let client =
        api.json(200, ask("POST", REGISTER, "").json(&json!({"client_name": "q", "platform": "linux"})))?;
    let session = start(api, &text(&client, "client_id")?)?;
    let here = json!([{"file_path": "uploaded", "hash": sha256(b"bytes"), "size": 5}]);
    api.wants(200, ask("POST", DIFF, "").json(&json!({"session_id": session, "local_snapshot": here})))?;
    let chunk = json!({
        "session_id": session, "file_path": "uploaded", "chunk_index": 0, "total_chunks": 1, "data": hex(b"bytes"),
        "chunk_hash": sha256(b"bytes"),
    });
    api.wants(200, ask("POST", CHUNK, "").json(&chunk))?;
    let complete = json!({"session_id": session, "file_path": "uploaded", "expected_hash": sha256(b"bytes")});
    for (method, path, body) in
        [("POST", ADD, &known), ("PUT", UPDATE, &longer), ("POST", COMPLETE, &complete)]
    {
        let refused = api.json(507, ask(method, path, "").json(body))?;
        ensure!(refused["error"]["code"] == "quota_exceeded", "{refused}");
    }
    api.wants(200, ask("GET", "/api/info", ""))?;
    set("none")?;
    api.wants(200, ask("POST", COMPLETE, "").json(&complete))?;
    Ok(())
}

/// Once there is a token, every route that names one as needed asks for it, and no other.
fn tokens(api: &Checked<'_>, home: &Path) -> Result<()> {
    let port = api.server.port();
    let mut command = Command::new(binaries::program("dfs-server")?);
    isolate(&mut command, home);
    command
        .args(["token", "create", "--volume", "main", "--access", "read", "--data-dir"])
        .arg(api.server.data());
    process::succeed(&mut command, DEADLINE)?;
    eventually("a call without a token is refused", || Ok(http::get(port, "/api/info")?.status == 401))?;
    let error = &api.description.document()["components"]["responses"]["Error"];
    for (path, methods) in api.description.document()["paths"].as_object().context("paths")? {
        for (method, operation) in methods.as_object().context("methods")? {
            let is_open = operation.get("security") == Some(&json!([]));
            let method = method.to_uppercase();
            let reply = http::request(port, &method, &path.replace("{path}", "file"), &[], b"")?;
            ensure!((reply.status == 401) != is_open, "{method} {path}: {}", reply.status);
            if !is_open {
                check_answer(&api.description, error, &reply)?;
            }
        }
    }
    Ok(())
}
