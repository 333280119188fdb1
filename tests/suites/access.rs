//! Access tokens with real processes: made, listed, scoped, revoked; what is refused and what is logged of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::http::{self, Reply};
use dfs_tests::log::Log;
use dfs_tests::process::{self, Daemon};
use dfs_tests::random::Random;
use dfs_tests::server::{Server, isolate};
use dfs_tests::upload::upload;
use dfs_tests::{Cluster, Setup, binaries, eventually, run};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `dfs-server ARGUMENTS` on the data directory of a server, which may be running.
fn command(server: &Server, home: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries::program("dfs-server")?);
    isolate(&mut command, home);
    process::output(command.args(arguments).arg("--data-dir").arg(server.data()), DEADLINE)
}

fn succeed(server: &Server, home: &Path, arguments: &[&str]) -> Result<String> {
    let output = command(server, home, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn create(cluster: &Cluster, volume: &str, access: &str) -> Result<String> {
    let arguments = ["token", "create", "--volume", volume, "--access", access, "--name", "a test"];
    let token = succeed(&cluster.server, cluster.directory(), &arguments)?;
    ensure!(token.starts_with("dfs_") && token.lines().count() == 1, "not a token");
    Ok(token)
}

/// The id inside a token.
fn id(token: &str) -> &str {
    token.split('_').nth(1).unwrap_or_default()
}

fn revoke(cluster: &Cluster, token: &str) -> Result<()> {
    let said = succeed(&cluster.server, cluster.directory(), &["token", "revoke", id(token)])?;
    ensure!(said.contains("revoked"), "{said}");
    Ok(())
}

/// Waits until the server has heard that tokens are needed.
fn wait_closed(cluster: &Cluster) -> Result<()> {
    let port = cluster.server.port();
    eventually("a call without a token is refused", || Ok(http::get(port, "/api/info")?.status == 401))
}

fn ask(cluster: &Cluster, method: &str, path: &str, token: &str) -> Result<Reply> {
    let value = format!("Bearer {token}");
    http::request(cluster.server.port(), method, path, &[("Authorization", &value)], b"")
}

fn token_file(cluster: &Cluster, name: &str, token: &str, mode: u32) -> Result<PathBuf> {
    let path = cluster.directory().join(name);
    let _not_there = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
    writeln!(file, "{token}")?;
    Ok(path)
}

#[test]
fn a_token_is_printed_once_listed_without_its_secret_and_revoked() {
    run(&Setup::mounts(0), |cluster| {
        let (server, home) = (&cluster.server, cluster.directory());
        ensure!(http::get(server.port(), "/api/info")?.status == 200, "open while no token was made");
        let token = create(cluster, "main", "read")?;
        wait_closed(cluster)?;
        ensure!(ask(cluster, "GET", "/api/info", &token)?.status == 200, "the token is good");
        for open in ["/health", "/ready"] {
            ensure!(http::get(server.port(), open)?.status == 200, "{open} needs no token");
        }
        ensure!(http::get(server.port(), "/metrics")?.status == 401, "metrics need one");
        ensure!(ask(cluster, "GET", "/metrics", &token)?.status == 200, "of any kind");

        let listed = succeed(server, home, &["token", "list"])?;
        let secret = token.rsplit('_').next().context("a secret")?;
        ensure!(listed.contains(id(&token)) && listed.contains("a test") && !listed.contains(secret));
        revoke(cluster, &token)?;
        eventually("the token is refused", || Ok(ask(cluster, "GET", "/api/info", &token)?.status == 401))?;
        ensure!(http::get(server.port(), "/api/info")?.status == 401, "the last one gone opens nothing");
        ensure!(succeed(server, home, &["token", "list"])?.contains("revoked"), "it stays listed");

        let unknown = command(server, home, &["token", "revoke", "0123456789abcdef"])?;
        ensure!(unknown.status.code() == Some(3), "{unknown:?}");
        let absent = command(server, home, &["token", "create", "--volume", "none", "--access", "read"])?;
        ensure!(absent.status.code() == Some(3), "{absent:?}");
        Ok(())
    });
}

#[test]
fn a_token_is_good_for_its_volume_and_access_and_refusals_are_logged_without_it() {
    run(&Setup::mounts(0), |cluster| {
        succeed(&cluster.server, cluster.directory(), &["volume", "create", "other"])?;
        let reader = create(cluster, "main", "read")?;
        let other = create(cluster, "other", "admin")?;
        eventually("both are known", || {
            let known =
                |token: &str| Ok::<_, anyhow::Error>(ask(cluster, "GET", "/metrics", token)?.status == 200);
            Ok(known(&reader)? && known(&other)?)
        })?;
        let status = |method: &str, path: &str, token: &str| {
            Ok::<_, anyhow::Error>(ask(cluster, method, path, token)?.status)
        };
        ensure!(status("GET", "/api/info?volume=main", &reader)? == 200);
        ensure!(status("GET", "/api/info?volume=other", &reader)? == 403, "a volume that is there");
        ensure!(status("GET", "/api/info?volume=absent", &reader)? == 403, "and one that is not");
        ensure!(status("GET", "/api/info?volume=other", &other)? == 200);
        ensure!(status("POST", "/sync/main/commit", &reader)? == 403, "a reader writes nothing");
        ensure!(status("PUT", "/sync/main/chunks", &reader)? == 403);
        ensure!(status("POST", "/sync/main/commit", &other)? == 403);

        let (right, last) = reader.split_at(reader.len() - 1);
        let wrong = if last == "0" { "1" } else { "0" };
        let refused = ask(cluster, "GET", "/api/info", &format!("{right}{wrong}"))?;
        let none = http::get(cluster.server.port(), "/api/info")?;
        ensure!(refused.status == 401 && refused.body == none.body, "a wrong secret and none look the same");
        ensure!(none.head.to_lowercase().contains("www-authenticate: bearer"), "{}", none.head);

        let headers = [("Authorization", &*format!("Bearer {reader}")), ("X-Request-Id", "audited-1")];
        http::request(cluster.server.port(), "POST", "/sync/main/commit", &headers, b"")?;
        eventually("the audit line", || Ok(cluster.server.has_said("audited-1")))?;
        let log = cluster.server.tail();
        let line = log.lines().find(|line| line.contains("audited-1") && line.contains("audit"));
        let line = line.with_context(|| format!("no audit line in\n{log}"))?;
        for part in [id(&reader), "/sync/{volume}/commit", "127.0.0.1:", "not allowed"] {
            ensure!(line.contains(part), "{part} is not in {line}");
        }
        for token in [&reader, &other] {
            let secret = token.rsplit('_').next().context("a secret")?;
            ensure!(!cluster.server.has_said(secret), "the log shows a secret");
        }
        Ok(())
    });
}

/// One call with a token and a JSON body; the status and what the answer says.
fn send(cluster: &Cluster, (method, path): (&str, &str), token: &str, body: &Value) -> Result<(u16, Value)> {
    let value = format!("Bearer {token}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("Authorization", &*value)];
    let reply = http::request(cluster.server.port(), method, path, &headers, body.as_bytes())?;
    // A download answers with bytes.
    Ok((reply.status, reply.json().unwrap_or(Value::Null)))
}

#[test]
fn a_session_of_another_volume_looks_absent_on_every_route() {
    run(&Setup::mounts(0), |cluster| {
        succeed(&cluster.server, cluster.directory(), &["volume", "create", "other"])?;
        let (own, foreign) = (create(cluster, "main", "write")?, create(cluster, "other", "admin")?);
        eventually("both are known", || {
            let known =
                |token: &str| Ok::<_, anyhow::Error>(ask(cluster, "GET", "/metrics", token)?.status == 200);
            Ok(known(&own)? && known(&foreign)?)
        })?;
        let client = send(cluster, ("POST", "/api/register"), &own, &json!({"client_name": "laptop1"}))?.1;
        let started =
            send(cluster, ("POST", "/api/sync/start"), &own, &json!({"client_id": client["client_id"]}))?.1;
        let session = started["session_id"].as_str().context("no session")?;
        // SHA-256 of `x`, which is 78 in hexadecimal digits.
        let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let diff =
            json!({"session_id": session, "local_snapshot": [{"file_path": "f", "hash": hash, "size": 1}]});
        let chunk = json!({"session_id": session, "file_path": "f", "chunk_index": 0, "total_chunks": 1,
                           "data": "78", "chunk_hash": hash});
        let raw = format!("file_path=f&chunk_index=0&total_chunks=1&chunk_hash={hash}");
        let complete = json!({"session_id": session, "file_path": "f", "expected_hash": hash});
        let calls = [
            ("POST", "/api/sync/diff", String::new(), &diff),
            ("GET", "/api/sync/status", format!("session_id={session}"), &Value::Null),
            ("POST", "/api/file/upload_chunk", String::new(), &chunk),
            ("POST", "/api/file/upload_chunk", format!("session_id={session}&{raw}"), &json!("x")),
            ("POST", "/api/file/upload_complete", String::new(), &complete),
            ("GET", "/api/file/download/f", format!("session_id={session}"), &Value::Null),
        ];
        // Before the session has a plan and after it: no state tells that it is there.
        for _ in 0..2 {
            for (method, path, query, body) in &calls {
                let target = format!("{path}?volume=other&{query}");
                let (status, said) = send(cluster, (method, &target), &foreign, body)?;
                ensure!(status == 404, "{method} {target}: {status} {said}");
                ensure!(said["error"]["code"] == "session_not_found", "{method} {target}: {said}");
                let target = format!("{path}?{query}");
                ensure!(send(cluster, (method, &target), &foreign, body)?.0 == 403, "{method} {target}");
            }
            let planned = send(cluster, ("POST", "/api/sync/diff"), &own, &diff)?;
            ensure!(planned.0 == 200 && planned.1["files_to_upload"] == json!(["f"]), "{planned:?}");
        }
        ensure!(send(cluster, ("POST", "/api/file/upload_chunk"), &own, &chunk)?.0 == 200, "its own token");
        ensure!(
            send(cluster, ("POST", "/api/file/upload_complete"), &own, &complete)?.0 == 200,
            "its own token"
        );
        eventually("the audit line", || Ok(cluster.server.has_said("session of another volume")))
    });
}

#[test]
fn revoking_a_token_cuts_its_open_event_stream_and_no_other() {
    run(&Setup::mounts(0), |cluster| {
        let tokens = [create(cluster, "main", "read")?, create(cluster, "main", "read")?];
        wait_closed(cluster)?;
        eventually("both are known", || {
            let known =
                |token: &str| Ok::<_, anyhow::Error>(ask(cluster, "GET", "/metrics", token)?.status == 200);
            Ok(known(&tokens[0])? && known(&tokens[1])?)
        })?;
        let mut streams = Vec::new();
        for token in &tokens {
            let header = token_file(cluster, "header", &format!("Authorization: Bearer {token}"), 0o600)?;
            let mut curl = Command::new("curl");
            let url = format!("http://127.0.0.1:{}/sync/main/stream?client=c", cluster.server.port());
            // `-v` tells when the answer's head has come.
            curl.args(["-sSvN", "-o", "/dev/null", "-H"]).arg(format!("@{}", header.display())).arg(url);
            let log = Log::default();
            let stream = Daemon::spawn("curl", &mut curl, &log)?;
            log.wait_for("head of the stream", DEADLINE, |line| line.contains("200 OK").then_some(()))?;
            streams.push(stream);
        }
        revoke(cluster, &tokens[0])?;
        streams[0].wait_exit(DEADLINE)?;
        ensure!(streams[1].is_running()?, "the other one goes on");
        Ok(())
    });
}

#[test]
fn revoking_a_token_cuts_its_download() {
    run(&Setup::mounts(0), |cluster| {
        // Far more than the buffers of a connection hold.
        let content = Random::new(76).bytes(48 << 20);
        upload(cluster.server.port(), "large", &content)?;
        let token = create(cluster, "main", "read")?;
        wait_closed(cluster)?;
        let is_good = || Ok(ask(cluster, "GET", "/api/info", &token)?.status == 200);
        eventually("the token is known", is_good)?;
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.server.port()))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let route = "/api/file/download/large";
        write!(stream, "GET {route} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n")?;
        let mut got = vec![0; 100_000];
        stream.read_exact(&mut got)?;
        revoke(cluster, &token)?;
        eventually("the token is known as revoked", || Ok(!is_good()?))?;
        // The end may come as a reset.
        let _either = stream.read_to_end(&mut got);
        ensure!(got.len() < content.len(), "all of it was sent");
        Ok(())
    });
}

#[test]
fn beyond_loopback_a_server_starts_only_with_a_token_or_the_flag() {
    run(&Setup::mounts(0), |cluster| {
        cluster.server.stop()?;
        let start = |cluster: &Cluster| -> Result<Command> {
            let mut command = Command::new(binaries::program("dfs-server")?);
            isolate(&mut command, cluster.directory());
            command.args(["--listen", "0.0.0.0:0", "--data-dir"]).arg(cluster.server.data());
            Ok(command)
        };
        let refused = process::output(&mut start(cluster)?, DEADLINE)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(4), "{refused:?}");
        ensure!(said.contains("token create") && said.contains("--insecure-no-auth"), "{said}");
        create(cluster, "main", "write")?;
        let log = Log::default();
        let _server = Daemon::spawn("dfs-server", &mut start(cluster)?, &log)?;
        log.wait_for("ready line", DEADLINE, |line| line.contains("listening on").then_some(()))
    });
}

#[test]
fn a_mount_takes_its_token_from_a_file_that_only_its_owner_reads() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        let token = create(cluster, "main", "write")?;
        wait_closed(cluster)?;
        let refused = cluster.mounts[0].start_refused()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(4) && said.contains("--token-file"), "{said}");

        let open = token_file(cluster, "open", &token, 0o644)?;
        cluster.mounts[0].arguments = vec!["--token-file".to_owned(), open.display().to_string()];
        let refused = cluster.mounts[0].start_refused()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(4) && said.contains("chmod 600"), "{said}");

        let file = token_file(cluster, "token", &token, 0o600)?;
        for mount in &mut cluster.mounts {
            mount.arguments = vec!["--token-file".to_owned(), file.display().to_string()];
            mount.start()?;
        }
        std::fs::write(cluster.mounts[0].path("shared"), "text")?;
        cluster.mounts[0].wait_synced()?;
        cluster.mounts[1].wait_synced()?;
        eventually("the file is in the other mount", || Ok(cluster.mounts[1].path("shared").exists()))?;
        let listed = process::succeed(Command::new("ps").args(["-eo", "args"]), DEADLINE)?;
        ensure!(listed.contains("dfs-mount") && !listed.contains(&token), "ps shows the token");

        revoke(cluster, &token)?;
        let state = |cluster: &Cluster| Ok::<_, anyhow::Error>(cluster.mounts[0].status()?["state"].clone());
        eventually("the mount says that its token is refused", || Ok(state(cluster)? == "refused: token"))?;
        std::fs::write(cluster.mounts[0].path("offline"), "goes on")?;
        let next = create(cluster, "main", "write")?;
        std::fs::write(&file, next)?;
        cluster.mounts[0].wait_synced()?;
        eventually("online again", || Ok(state(cluster)? == "online"))
    });
}
