//! Sync sessions, downloads by path and the event stream, with the real curl beside a mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::binaries::workspace;
use dfs_tests::chunk_files::{chunk_files, flip_bit};
use dfs_tests::log::Log;
use dfs_tests::process::{Daemon, output, quiet_environment, shell};
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, run};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(60);

/// A reply of curl.
struct Reply {
    status: u16,
    body: Vec<u8>,
    /// Whether curl got all of it.
    is_whole: bool,
}

fn curl(cluster: &Cluster, arguments: &[&str], route: &str) -> Result<Reply> {
    let directory = cluster.scratch("curl")?;
    let file = directory.join("body");
    let _none_yet = fs::remove_file(&file);
    let mut command = Command::new("curl");
    quiet_environment(&mut command);
    command.current_dir(&directory).args(["-sS", "-o", "body", "-w", "%{http_code}"]).args(arguments);
    command.arg(url(cluster, route));
    let output = output(&mut command, DEADLINE)?;
    let status = String::from_utf8(output.stdout)?.trim().parse()?;
    let body = if file.exists() { fs::read(&file)? } else { Vec::new() };
    Ok(Reply { status, body, is_whole: output.status.success() })
}

fn url(cluster: &Cluster, route: &str) -> String {
    format!("http://127.0.0.1:{}/api/{route}", cluster.server.port())
}

/// Sends JSON from a file; wants this status and JSON.
fn post(cluster: &Cluster, wanted: u16, route: &str, body: &Value) -> Result<Value> {
    fs::write(cluster.scratch("curl")?.join("request"), body.to_string())?;
    let reply = curl(cluster, &["--data-binary", "@request"], route)?;
    as_json(&reply, wanted, route)
}

fn get(cluster: &Cluster, wanted: u16, route: &str) -> Result<Value> {
    as_json(&curl(cluster, &[], route)?, wanted, route)
}

fn as_json(reply: &Reply, wanted: u16, route: &str) -> Result<Value> {
    let text = String::from_utf8_lossy(&reply.body);
    ensure!(reply.status == wanted, "{route}: {} instead of {wanted}: {text}", reply.status);
    serde_json::from_str(&text).with_context(|| format!("{route}: not JSON: {text}"))
}

fn text(value: &Value, name: &str) -> Result<String> {
    Ok(value[name].as_str().with_context(|| format!("no {name} in {value}"))?.to_owned())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_mount(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(1), test);
}

/// A client with a session; what it asks goes to the cluster's server.
struct Client {
    session: String,
}

impl Client {
    fn start(cluster: &Cluster) -> Result<Client> {
        let request = json!({ "client_name": "laptop1", "platform": "linux", "unknown": 1 });
        let client = text(&post(cluster, 200, "register", &request)?, "client_id")?;
        ensure!(client.starts_with("laptop1-"), "{client}");
        let started = post(cluster, 200, "sync/start", &json!({ "client_id": client }))?;
        ensure!(started["server_snapshot"].is_array() && started["state"] == "Idle", "{started}");
        Ok(Client { session: text(&started, "session_id")? })
    }

    fn diff(&self, cluster: &Cluster, files: &[(&str, &[u8], Option<u64>)]) -> Result<Value> {
        let file = |(path, bytes, version): &(&str, &[u8], Option<u64>)| {
            let hash = format!("sha256:{}", sha256(bytes));
            json!({ "file_path": path, "hash": hash, "size": bytes.len(), "version": version })
        };
        let files: Vec<Value> = files.iter().map(file).collect();
        post(cluster, 200, "sync/diff", &json!({ "session_id": self.session, "local_snapshot": files }))
    }

    fn chunk(&self, path: &str, number: usize, total: usize, bytes: &[u8]) -> Value {
        json!({
            "session_id": self.session, "file_path": path, "chunk_index": number, "total_chunks": total,
            "data": hex(bytes), "chunk_hash": sha256(bytes),
        })
    }

    /// Sends a chunk as JSON; returns what is missing.
    fn put(&self, cluster: &Cluster, path: &str, number: usize, total: usize, bytes: &[u8]) -> Result<Value> {
        let chunk = self.chunk(path, number, total, bytes);
        let mut reply = post(cluster, 200, "file/upload_chunk", &chunk)?;
        ensure!(reply["status"] == "chunk_received", "{reply}");
        Ok(reply["missing"].take())
    }

    /// Sends a chunk as raw bytes; returns what is missing.
    fn put_raw(
        &self,
        cluster: &Cluster,
        path: &str,
        number: usize,
        total: usize,
        bytes: &[u8],
    ) -> Result<Value> {
        fs::write(cluster.scratch("curl")?.join("chunk"), bytes)?;
        let route = format!(
            "file/upload_chunk?session_id={}&file_path={path}&chunk_index={number}&total_chunks={total}&chunk_hash={}",
            self.session,
            sha256(bytes)
        );
        let mut reply = as_json(&curl(cluster, &["--data-binary", "@chunk"], &route)?, 200, &route)?;
        Ok(reply["missing"].take())
    }

    fn complete(&self, cluster: &Cluster, wanted: u16, path: &str, hash: &str) -> Result<Value> {
        let request = json!({ "session_id": self.session, "file_path": path, "expected_hash": hash });
        post(cluster, wanted, "file/upload_complete", &request)
    }

    fn status(&self, cluster: &Cluster) -> Result<Value> {
        get(cluster, 200, &format!("sync/status?session_id={}", self.session))
    }
}

fn appears(path: &Path, wanted: &[u8]) -> Result<()> {
    eventually(&format!("{} has its content", path.display()), || {
        Ok(fs::read(path).ok().as_deref() == Some(wanted))
    })
}

#[test]
fn the_curl_lines_of_the_document_are_a_whole_session() {
    with_mount(|cluster| {
        let page = fs::read_to_string(workspace().join("docs/SESSIONS.md"))?;
        let blocks: Vec<&str> =
            page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        ensure!(blocks.len() == 3, "{} blocks of commands", blocks.len());
        let address = format!("127.0.0.1:{}", cluster.server.port());
        let commands = blocks.concat().replace("127.0.0.1:8080", &address);
        // `timeout` runs a program, not a function of the shell.
        let script = format!("set -eu\ncurl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{commands}");
        let directory = cluster.scratch("document")?;
        let said = shell(&directory, &script, DEADLINE)?;
        ensure!(said.contains("\"files_to_upload\":[\"docs/notes.txt\"]"), "{said}");
        ensure!(said.contains("\"state\":\"Complete\""), "{said}");
        ensure!(said.contains("\"files_to_download\":[\"docs/notes.txt\"]"), "{said}");
        ensure!(said.contains("\"conflicts\":[\"docs/notes.txt\"]"), "{said}");
        ensure!(said.contains("\"version\":3"), "{said}");
        ensure!(said.contains("event: FileAdded"), "{said}");
        appears(&cluster.a().join("docs/notes.txt"), &fs::read(directory.join("second.txt"))?)
    });
}

#[test]
fn the_curl_lines_of_the_readme_list_download_and_upload() {
    with_mount(|cluster| {
        let page = fs::read_to_string(workspace().join("README.md"))?;
        let section = page.split("\n## With curl\n").nth(1).context("no section on curl")?;
        let section = section.split("\n## ").next().unwrap_or_default();
        let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
        let address = format!("127.0.0.1:{}", cluster.server.port());
        let commands = block.context("no commands")?.replace("127.0.0.1:8080", &address);
        let directory = cluster.scratch("readme")?;
        let report = Random::new(302).bytes(200_000);
        fs::write(directory.join("report.pdf"), &report)?;
        fs::write(cluster.a().join("notes.txt"), b"written in the mount")?;
        cluster.settle()?;
        let script = format!("set -eu\ncurl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{commands}");
        let said = shell(&directory, &script, DEADLINE)?;
        ensure!(said.contains("\"file_path\":\"notes.txt\""), "{said}");
        ensure!(fs::read(directory.join("copy.txt"))? == b"written in the mount", "the download");
        appears(&cluster.a().join("report.pdf"), &report)
    });
}

#[test]
fn an_upload_in_odd_order_with_repeats_goes_on_after_the_server_was_killed() {
    with_mount(|cluster| {
        let content = Random::new(301).bytes(5_000_000);
        let parts: Vec<&[u8]> = content.chunks(1_000_000).collect();
        let client = Client::start(cluster)?;
        let diffed = client.diff(cluster, &[("dir/new file.bin", &content, None)])?;
        ensure!(diffed["files_to_upload"] == json!(["dir/new file.bin"]), "{diffed}");
        ensure!(client.put(cluster, "dir/new file.bin", 3, 5, parts[3])? == json!([0, 1, 2, 4]), "after 3");
        let raw = |number: usize| client.put_raw(cluster, "dir/new%20file.bin", number, 5, parts[number]);
        ensure!(raw(0)? == json!([1, 2, 4]), "after 0");
        ensure!(raw(3)? == json!([1, 2, 4]), "after 3 again");
        let early = client.complete(cluster, 409, "dir/new file.bin", &sha256(&content))?;
        ensure!(early["error"]["code"] == "chunks_missing", "{early}");
        cluster.server.kill();
        cluster.server.start()?;
        let status = client.status(cluster)?;
        ensure!(status["state"] == "TransferringFiles" && status["files_pending"] == 1, "{status}");
        for number in [4, 1, 2] {
            client.put_raw(cluster, "dir/new%20file.bin", number, 5, parts[number])?;
        }
        ensure!(!cluster.a().join("dir").exists(), "nothing is seen of half a file");
        let file = client.complete(cluster, 200, "dir/new file.bin", &sha256(&content))?;
        ensure!(file["version"] == 1 && file["size"] == 5_000_000, "{file}");
        ensure!(file["hash"] == format!("sha256:{}", sha256(&content)), "{file}");
        let status = client.status(cluster)?;
        ensure!(status["state"] == "Complete" && status["bytes_synced"] == 5_000_000, "{status}");
        appears(&cluster.a().join("dir/new file.bin"), &content)?;
        let route = "file/download/dir/new%20file.bin";
        let whole = curl(cluster, &[], route)?;
        ensure!(whole.status == 200 && whole.body == content, "the download is another file");
        let part = curl(cluster, &["-r", "999999-1000001"], route)?;
        ensure!(part.status == 206 && part.body == content[999_999..=1_000_001], "the range");
        let end = curl(cluster, &["-r", "-3"], route)?;
        ensure!(end.status == 206 && end.body == content[4_999_997..], "the end");
        ensure!(curl(cluster, &["-r", "5000000-"], route)?.status == 416, "past the end");
        Ok(())
    });
}

#[test]
fn a_wrong_hash_publishes_nothing() {
    with_mount(|cluster| {
        let client = Client::start(cluster)?;
        client.diff(cluster, &[("f", b"right", None)])?;
        client.put(cluster, "f", 0, 1, b"wrong")?;
        let refused = client.complete(cluster, 422, "f", &sha256(b"right"))?;
        ensure!(refused["error"]["code"] == "hash_mismatch", "{refused}");
        let absent = get(cluster, 404, "file/download/f")?;
        ensure!(absent["error"]["code"] == "file_not_found", "{absent}");
        let mut chunk = client.chunk("f", 0, 1, b"right");
        chunk["chunk_hash"] = json!(sha256(b"other"));
        let refused = post(cluster, 422, "file/upload_chunk", &chunk)?;
        ensure!(refused["error"]["code"] == "hash_mismatch", "{refused}");
        client.put(cluster, "f", 0, 1, b"right")?;
        client.complete(cluster, 200, "f", &sha256(b"right"))?;
        appears(&cluster.a().join("f"), b"right")
    });
}

#[test]
fn a_call_in_the_wrong_state_is_a_409_that_names_both_states() {
    with_mount(|cluster| {
        let client = Client::start(cluster)?;
        let early = post(cluster, 409, "file/upload_chunk", &client.chunk("f", 0, 1, b"x"))?;
        let message = text(&early["error"], "message")?;
        ensure!(early["error"]["code"] == "wrong_state", "{early}");
        ensure!(message.contains("Idle") && message.contains("TransferringFiles"), "{message}");
        client.diff(cluster, &[])?;
        ensure!(client.status(cluster)?["state"] == "Complete", "nothing differs");
        let late = post(cluster, 409, "sync/diff", &json!({ "session_id": client.session, "snapshot": [] }))?;
        ensure!(late["error"]["code"] == "wrong_state", "{late}");
        Ok(())
    });
}

#[test]
fn bad_requests_are_told_which_field_is_wrong() {
    with_mount(|cluster| {
        let client = Client::start(cluster)?;
        let id = &client.session;
        let chunk = |field: &str, value: Value| {
            let mut chunk = client.chunk("f", 0, 1, b"x");
            chunk[field] = value;
            ("file/upload_chunk", chunk, field.to_owned())
        };
        for (route, body, field) in [
            ("register", json!({}), "client_name".to_owned()),
            ("register", json!({ "client_name": "a", "preferred_id": "a/b" }), "preferred_id".to_owned()),
            ("sync/start", json!({}), "client_id".to_owned()),
            ("sync/diff", json!({ "local_snapshot": [] }), "session_id".to_owned()),
            ("sync/diff", json!({ "session_id": id }), "local_snapshot".to_owned()),
            ("sync/diff", json!({ "session_id": id, "snapshot": [{}] }), "file_path".to_owned()),
            (
                "sync/diff",
                json!({ "session_id": id, "snapshot": [{ "file_path": "../x" }] }),
                "file_path".to_owned(),
            ),
            (
                "file/upload_complete",
                json!({ "session_id": id, "file_path": "f" }),
                "expected_hash".to_owned(),
            ),
            chunk("session_id", json!("../..")),
            chunk("file_path", json!("a/../b")),
            chunk("data", json!("0g")),
            chunk("data", Value::Null),
            chunk("chunk_hash", json!("abc")),
        ] {
            let refused = post(cluster, 400, route, &body)?;
            ensure!(text(&refused["error"], "message")?.contains(&field), "{field}: {refused}");
        }
        let file = json!(["f", null, 1, null, "modified"]);
        for (route, body) in [
            ("register", json!(["laptop1"])),
            ("sync/start", json!(["laptop1-1"])),
            ("sync/diff", json!([id, []])),
            ("sync/diff", json!({ "session_id": id, "snapshot": [file] })),
            ("file/upload_chunk", json!([id, "f", 0, 1, "78", sha256(b"x")])),
            ("file/upload_complete", json!([id, "f", sha256(b"x")])),
            ("metadata/add", json!(["f", null, 0])),
        ] {
            let refused = post(cluster, 400, route, &body)?;
            let (code, message) = (text(&refused["error"], "code")?, text(&refused["error"], "message")?);
            ensure!(code == "bad_json" && message.contains("JSON object"), "{route}: {refused}");
        }
        let unknown = "0".repeat(32);
        let refused = get(cluster, 404, &format!("sync/status?session_id={unknown}"))?;
        ensure!(refused["error"]["code"] == "session_not_found", "{refused}");
        let refused = post(cluster, 404, "sync/start", &json!({ "client_id": "nobody" }))?;
        ensure!(refused["error"]["code"] == "client_not_found", "{refused}");
        Ok(())
    });
}

#[test]
fn a_file_of_a_mount_is_in_the_snapshot_and_downloads_with_its_versions() {
    with_mount(|cluster| {
        let (first, second) = (b"the first version".to_vec(), Random::new(302).bytes(300_000));
        let path = cluster.a().join("from a mount");
        fs::write(&path, &first)?;
        cluster.settle()?;
        fs::write(&path, &second)?;
        cluster.settle()?;
        let client = Client::start(cluster)?;
        let diffed = client.diff(cluster, &[])?;
        ensure!(diffed["files_to_download"] == json!(["from a mount"]), "{diffed}");
        let route = "file/download/from%20a%20mount";
        let download = curl(cluster, &[], &format!("{route}?session_id={}", client.session))?;
        ensure!(download.body == second, "another content");
        eventually("the session knows of its download", || {
            Ok(client.status(cluster)?["state"] == "Complete")
        })?;
        let versions = get(cluster, 200, "metadata/history/from%20a%20mount")?;
        let old = versions["versions"].as_array().or(versions["files"].as_array()).context("no versions")?;
        let old = old.iter().find(|file| file["size"] == first.len()).context("no first version")?;
        let download = curl(cluster, &[], &format!("{route}?version={}", old["version"]))?;
        ensure!(download.body == first, "{}", String::from_utf8_lossy(&download.body));
        ensure!(curl(cluster, &[], &format!("{route}?version=99"))?.status == 404, "no such version");
        let head = shell(&cluster.scratch("head")?, &format!("curl -sSI {}", url(cluster, route)), DEADLINE)?;
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.trim().to_owned())
        };
        ensure!(header("content-length").as_deref() == Some("300000"), "{head}");
        let tag = header("etag").with_context(|| head.clone())?;
        let same = curl(cluster, &["-H", &format!("If-None-Match: {tag}")], route)?;
        ensure!(same.status == 304 && same.body.is_empty(), "{}", same.status);
        ensure!(curl(cluster, &["-H", "If-Match: \"other\""], route)?.status == 412, "If-Match");
        fs::remove_file(&path)?;
        cluster.settle()?;
        ensure!(curl(cluster, &[], route)?.status == 410, "it is deleted");
        ensure!(curl(cluster, &[], &format!("{route}?version={}", old["version"]))?.body == first, "kept");
        Ok(())
    });
}

#[test]
fn a_damaged_chunk_breaks_the_download_off() {
    with_mount(|cluster| {
        let content = Random::new(303).bytes(2_000_000);
        let client = Client::start(cluster)?;
        client.diff(cluster, &[("f", &content, None)])?;
        client.put(cluster, "f", 0, 1, &content)?;
        client.complete(cluster, 200, "f", &sha256(&content))?;
        for chunk in chunk_files(cluster.server.data())? {
            flip_bit(&chunk)?;
        }
        let broken = curl(cluster, &[], "file/download/f")?;
        ensure!(!broken.is_whole, "a damaged file looked whole");
        ensure!(content.starts_with(&broken.body), "wrong bytes were served");
        Ok(())
    });
}

/// A listener whose lines are in its log.
fn listen(cluster: &Cluster, query: &str) -> Result<(Daemon, Log)> {
    let log = Log::default();
    let mut command = Command::new("curl");
    quiet_environment(&mut command);
    command.current_dir(cluster.directory()).args(["-sSN", &url(cluster, &format!("events{query}"))]);
    let daemon = Daemon::spawn("curl", &mut command, &log)?;
    log.wait_for("the first line of the events", DEADLINE, |line| line.contains("dfs events").then_some(()))?;
    Ok((daemon, log))
}

fn wait_for(log: &Log, kind: &str, path: &str) -> Result<Value> {
    log.wait_for(&format!("{kind} of {path}"), DEADLINE, |line| {
        let data: Value = serde_json::from_str(line.split_once("data: ")?.1).ok()?;
        (data["type"] == kind && data["path"] == path).then_some(data)
    })
}

#[test]
fn a_listener_sees_what_a_mount_does() {
    with_mount(|cluster| {
        let (_curl, log) = listen(cluster, "")?;
        fs::create_dir(cluster.a().join("dir"))?;
        fs::write(cluster.a().join("dir/file"), b"one")?;
        let added = wait_for(&log, "FileAdded", "dir/file")?;
        ensure!(added["kind"] == "file" && added["volume"] == "main", "{added}");
        cluster.settle()?;
        fs::write(cluster.a().join("dir/file"), b"longer")?;
        let modified = wait_for(&log, "FileModified", "dir/file")?;
        ensure!(modified["revision"].as_u64() > added["revision"].as_u64(), "{modified}");
        cluster.settle()?;
        let revision = cluster.server.info()?["revision"].clone();
        fs::remove_file(cluster.a().join("dir/file"))?;
        wait_for(&log, "FileDeleted", "dir/file")?;
        let (_curl, log) = listen(cluster, &format!("?types=FileDeleted&since={revision}"))?;
        wait_for(&log, "FileDeleted", "dir/file")?;
        ensure!(!log.contains("event: gap") && !log.contains("FileAdded"), "{}", log.tail(9));
        let (_curl, log) = listen(cluster, "?since=0-0")?;
        log.wait_for("gap", DEADLINE, |line| line.contains("event: gap").then_some(()))?;
        for bad in ["types=FileAded", "since=yesterday"] {
            ensure!(curl(cluster, &["--max-time", "5"], &format!("events?{bad}"))?.status == 400, "{bad}");
        }
        Ok(())
    });
}

#[test]
fn a_listener_sees_a_session() {
    with_mount(|cluster| {
        let (_curl, log) = listen(cluster, "")?;
        let client = Client::start(cluster)?;
        client.diff(cluster, &[("f", b"x", None)])?;
        client.put(cluster, "f", 0, 1, b"x")?;
        client.complete(cluster, 200, "f", &sha256(b"x"))?;
        curl(cluster, &[], "file/download/f")?;
        for kind in ["FileUploadStarted", "FileChunkReceived", "FileAdded", "FileUploadCompleted"] {
            wait_for(&log, kind, "f")?;
        }
        wait_for(&log, "FileDownloadCompleted", "f")?;
        ensure!(
            log.contains("event: SyncStarted") && log.contains("event: SyncCompleted"),
            "{}",
            log.tail(40)
        );
        Ok(())
    });
}

/// What the metadata routes say of a file's state, which they agree on.
fn sync_state(cluster: &Cluster, path: &str) -> Result<String> {
    let one = get(cluster, 200, &format!("metadata/get/{path}"))?;
    let listed = get(cluster, 200, &format!("metadata/list?prefix={path}"))?;
    let history = get(cluster, 200, &format!("metadata/history/{path}"))?;
    let exported = curl(cluster, &[], &format!("metadata/export?prefix={path}"))?;
    let state = text(&one, "sync_state")?;
    let same = [&listed["files"][0], &history["versions"][0]].iter().all(|file| file["sync_state"] == *state);
    let exported = String::from_utf8(exported.body)?;
    let same = same && exported.contains(&format!("status: \"{state}\""));
    ensure!(same, "{one} {listed} {history} {exported}");
    let old = history["versions"].as_array().into_iter().flatten().skip(1);
    ensure!(old.into_iter().all(|version| version["sync_state"] == "synced"), "{history}");
    Ok(state)
}

#[test]
fn a_file_is_syncing_while_an_upload_of_it_is_under_way_and_in_conflict_until_the_client_decides() {
    with_mount(|cluster| {
        let is = |cluster: &Cluster, path: &str, wanted: &str| {
            let found = sync_state(cluster, path)?;
            ensure!(found == wanted, "{path}: {found} is not {wanted}");
            Ok(())
        };
        for name in ["edited", "disputed"] {
            fs::write(cluster.a().join(name), b"one")?;
        }
        cluster.settle()?;
        let hash = sha256(b"new");
        post(cluster, 202, "metadata/add", &json!({ "file_path": "announced", "hash": hash, "size": 3 }))?;
        is(cluster, "edited", "synced")?;
        is(cluster, "announced", "modified")?;

        let client = Client::start(cluster)?;
        let local: [(&str, &[u8], Option<u64>); 3] =
            [("edited", b"two", Some(1)), ("disputed", b"two", None), ("announced", b"new", None)];
        let plan = client.diff(cluster, &local)?;
        ensure!(plan["conflicts"] == json!(["disputed"]), "{plan}");
        is(cluster, "edited", "synced")?;
        is(cluster, "disputed", "conflict")?;
        for (path, bytes) in [("edited", b"two"), ("announced", b"new"), ("disputed", b"two")] {
            client.put(cluster, path, 0, 1, bytes)?;
        }
        for (path, state) in [("edited", "syncing"), ("announced", "syncing"), ("disputed", "conflict")] {
            is(cluster, path, state)?;
        }
        // Also where nobody was told: the state is the server's, not the session's.
        cluster.server.kill();
        cluster.server.start()?;
        is(cluster, "edited", "syncing")?;
        for (path, bytes) in [("edited", b"two"), ("announced", b"new"), ("disputed", b"two")] {
            client.complete(cluster, 200, path, &sha256(bytes))?;
            is(cluster, path, "synced")?;
        }
        Ok(())
    });
}

#[test]
fn a_conflict_between_a_session_and_a_mount_loses_neither_side() {
    with_mount(|cluster| {
        let path: PathBuf = cluster.a().join("f");
        fs::write(&path, b"one")?;
        cluster.settle()?;
        let client = Client::start(cluster)?;
        let diffed = client.diff(cluster, &[("f", b"of the client", Some(1))])?;
        ensure!(diffed["files_to_upload"] == json!(["f"]), "{diffed}");
        client.put(cluster, "f", 0, 1, b"of the client")?;
        fs::write(&path, b"of the mount")?;
        cluster.settle()?;
        let refused = client.complete(cluster, 409, "f", &sha256(b"of the client"))?;
        ensure!(refused["error"]["code"] == "version_conflict", "{refused}");
        ensure!(client.status(cluster)?["state"] == "ResolvingConflicts", "{}", client.status(cluster)?);
        ensure!(fs::read(&path)? == b"of the mount", "the mount's version is gone");
        let file = client.complete(cluster, 200, "f", &sha256(b"of the client"))?;
        appears(&path, b"of the client")?;
        let version = file["version"].as_u64().context("no version")?;
        let kept = curl(cluster, &[], &format!("file/download/f?version={}", version - 1))?;
        ensure!(kept.body == b"of the mount", "{}", String::from_utf8_lossy(&kept.body));
        Ok(())
    });
}
