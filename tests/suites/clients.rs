//! The same work by clients that this project did not write, on each engine, plain and under TLS: register, compare, upload in
//! chunks, publish, list, download whole and in part, delete, errors. And as many small requests as wrk can make.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::binaries::workspace;
use dfs_tests::certificate;
use dfs_tests::engine::{on_every_engine, on_every_engine_with};
use dfs_tests::machine::Need;
use dfs_tests::process;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(60);
const CURL: Need = Need::Program("curl");
const PYTHON: Need = Need::Program("python3");
const WRK: Need = Need::Program("wrk");
const OPENSSL: Need = Need::Program("openssl");

/// Runs a test on each engine; it is told the server's URL, which is `https` in a second round.
fn plain_and_under_tls(name: &str, needs: &[Need], test: impl Fn(&str, &Path) -> Result<()>) {
    on_every_engine(name, needs, |server, directory| {
        test(&format!("http://127.0.0.1:{}", server.port()), directory)
    });
    let needs = [needs, &[OPENSSL]].concat();
    on_every_engine_with(name, &needs, certificate::server_arguments, |server, directory| {
        test(&format!("https://127.0.0.1:{}", server.port()), directory)
    });
}

/// What curl and Python are told of the certificate.
fn trusting(command: &mut Command, directory: &Path) {
    process::quiet_environment(command);
    command.current_dir(directory);
    for name in ["CURL_CA_BUNDLE", "SSL_CERT_FILE"] {
        command.env(name, directory.join("used.pem"));
    }
}

#[test]
fn curl_works_through_a_whole_session() {
    plain_and_under_tls("curl_works_through_a_whole_session", &[CURL, PYTHON], |url, directory| {
        let page = std::fs::read_to_string(workspace().join("docs/SESSIONS.md"))?;
        let blocks: String =
            page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let commands = blocks.replace("http://127.0.0.1:8080", url);
        let more = "curl --head $SERVER/api/file/download/docs/notes.txt | grep -i '^etag'\n\
                    curl --compressed $SERVER/api/metadata/list | grep notes.txt\n\
                    curl --http1.0 $SERVER/api/metadata/history/docs/notes.txt | grep '\"version\":1'\n\
                    curl -X DELETE $SERVER/api/metadata/delete/docs/notes.txt\n\
                    test \"$(command curl -s -o /dev/null -w '%{http_code}' $SERVER/api/metadata/get/docs/notes.txt)\" = 404\n";
        let script = format!(
            "set -euo pipefail\ncurl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{commands}{more}"
        );
        let mut command = Command::new("bash");
        trusting(command.args(["-c", &script]), directory);
        let said = process::succeed(&mut command, DEADLINE)?;
        ensure!(said.contains("\"state\":\"Complete\"") && said.contains("event: FileAdded"), "{said}");
        Ok(())
    });
}

const PYTHON_CLIENT: &str = r#"
import hashlib, http.client, json, os, sys, urllib.error, urllib.parse, urllib.request
url = urllib.parse.urlsplit(sys.argv[1])
kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
connection = kind(url.hostname, url.port, timeout=20)
def ask(method, path, body=None, status=200, headers={}):
    if isinstance(body, dict): body = json.dumps(body)
    connection.request(method, path, body=body, headers=headers)
    reply = connection.getresponse()
    data = reply.read()
    assert reply.status == status, (method, path, reply.status, data)
    return reply, data
def asked(*arguments, **named): return json.loads(ask(*arguments, **named)[1])
content = os.urandom(3_000_000)
whole = hashlib.sha256(content).hexdigest()
parts = [content[at:at + 1_000_000] for at in range(0, len(content), 1_000_000)]
client = asked("POST", "/api/register", {"client_name": "python"})["client_id"]
session = asked("POST", "/api/sync/start", {"client_id": client})["session_id"]
used = connection.sock
planned = asked("POST", "/api/sync/diff", {"session_id": session, "local_snapshot": [
    {"file_path": "a b/é", "hash": whole, "size": len(content)}]})
assert planned["files_to_upload"] == ["a b/é"], planned
for number in (2, 0, 1):
    query = urllib.parse.urlencode({"session_id": session, "file_path": "a b/é", "chunk_index": number,
        "total_chunks": 3, "chunk_hash": hashlib.sha256(parts[number]).hexdigest()})
    # With a length, and chunked from an iterator.
    body = parts[number] if number else iter([parts[number][:7], parts[number][7:]])
    asked("POST", "/api/file/upload_chunk?" + query, body)
done = asked("POST", "/api/file/upload_complete", {"session_id": session, "file_path": "a b/é", "expected_hash": whole})
assert done["hash"] == "sha256:" + whole and done["version"] == 1, done
path = urllib.parse.quote("a b/é")
reply, data = ask("GET", "/api/file/download/" + path)
assert data == content
assert ask("GET", "/api/file/download/" + path, status=206, headers={"Range": "bytes=-5"})[1] == content[-5:]
ask("GET", "/api/file/download/" + path, status=304, headers={"If-None-Match": reply.headers["ETag"]})
assert connection.sock is used, "the connection was not kept"
with urllib.request.urlopen(sys.argv[1] + "/api/metadata/list?prefix=a") as reply:
    assert [file["file_path"] for file in json.load(reply)["files"]] == ["a b/é"]
request = urllib.request.Request(sys.argv[1] + "/api/metadata/delete/" + path, method="DELETE")
with urllib.request.urlopen(request) as reply:
    assert json.load(reply)["sync_state"] == "deleted"
try:
    urllib.request.urlopen(sys.argv[1] + "/api/file/download/" + path)
    assert False, "a deleted file is there"
except urllib.error.HTTPError as error:
    assert error.code == 410 and json.load(error)["error"]["code"] == "file_deleted"
print("served")
"#;

#[test]
fn http_client_and_urllib_work_through_a_whole_session() {
    plain_and_under_tls("http_client_and_urllib_work_through_a_session", &[PYTHON], |url, directory| {
        std::fs::write(directory.join("client.py"), PYTHON_CLIENT)?;
        let mut command = Command::new("python3");
        trusting(command.args(["client.py", url]), directory);
        let said = process::succeed(&mut command, DEADLINE)?;
        ensure!(said.trim() == "served", "{said}");
        Ok(())
    });
}

#[test]
fn reqwest_works_through_a_whole_session() {
    // Fails only if another test of this process has chosen the same provider before.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    plain_and_under_tls("reqwest_works_through_a_whole_session", &[], |url, directory| {
        let mut client = reqwest::Client::builder().timeout(DEADLINE);
        if url.starts_with("https") {
            let pem = std::fs::read(directory.join("used.pem"))?;
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        runtime.block_on(with_reqwest(&client.build()?, url))
    });
}

async fn post(client: &reqwest::Client, url: String, body: Value) -> Result<Value> {
    let reply = client.post(&url).body(body.to_string()).send().await?;
    let (status, text) = (reply.status(), reply.text().await?);
    ensure!(status == 200, "{url}: {status} {text}");
    Ok(serde_json::from_str(&text)?)
}

async fn with_reqwest(client: &reqwest::Client, url: &str) -> Result<()> {
    let content = dfs_tests::random::Random::new(500).bytes(2_500_000);
    let sha256 = |bytes: &[u8]| {
        Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let route = |path: &str| format!("{url}/api/{path}");
    let registered = post(client, route("register"), json!({"client_name": "reqwest"})).await?;
    let started = post(client, route("sync/start"), json!({"client_id": registered["client_id"]})).await?;
    let session = started["session_id"].as_str().context("a session")?;
    let local = json!([{"file_path": "file", "hash": sha256(&content), "size": content.len()}]);
    post(client, route("sync/diff"), json!({"session_id": session, "local_snapshot": local})).await?;
    let parts: Vec<&[u8]> = content.chunks(1_000_000).collect();
    let uploads = parts.iter().enumerate().map(|(number, part)| {
        let query = format!(
            "session_id={session}&file_path=file&chunk_index={number}&total_chunks={}&chunk_hash={}",
            parts.len(),
            sha256(part)
        );
        let url = route(&format!("file/upload_chunk?{query}"));
        let request = client.post(url).body(part.to_vec());
        tokio::spawn(async move { request.send().await.map(|reply| reply.status().as_u16()) })
    });
    // All at once, on connections of their own.
    for upload in uploads.collect::<Vec<_>>() {
        ensure!(upload.await?? == 200, "a chunk");
    }
    let complete = json!({"session_id": session, "file_path": "file", "expected_hash": sha256(&content)});
    let done = post(client, route("file/upload_complete"), complete).await?;
    ensure!(done["size"] == content.len(), "{done}");
    let whole = client.get(route("file/download/file")).send().await?;
    ensure!(whole.bytes().await? == content, "the download");
    let part = client.get(route("file/download/file")).header("Range", "bytes=1000-1999").send().await?;
    ensure!(part.status() == 206 && part.bytes().await? == content[1000..2000], "a part");
    let gone = client.delete(route("metadata/delete/file")).send().await?;
    ensure!(gone.status() == 200, "{gone:?}");
    let after = client.get(route("file/download/file")).send().await?;
    ensure!(after.status() == 410, "{after:?}");
    Ok(())
}

/// Sixteen requests in one write.
const WRK_PIPELINE: &str = r#"
local all
init = function() all = string.rep(wrk.format("GET"), 16) end
request = function() return all end
"#;

#[test]
fn wrk_meets_no_error_with_many_connections_and_a_pipeline() {
    let name = "wrk_meets_no_error_with_many_connections_and_a_pipeline";
    plain_and_under_tls(name, &[WRK], |url, directory| {
        let script = directory.join("pipelined.lua");
        std::fs::write(&script, WRK_PIPELINE)?;
        let script = script.display().to_string();
        for more in [&[][..], &["-s", &script]] {
            let mut command = Command::new("wrk");
            command.args(["-t2", "-c32", "-d1s"]).args(more).arg(format!("{url}/health"));
            process::quiet_environment(&mut command);
            let said = process::succeed(&mut command, DEADLINE)?;
            let failed = ["Non-2xx", "Socket errors"].iter().any(|text| said.contains(text));
            ensure!(!failed && said.contains("Requests/sec"), "{url} {more:?}: {said}");
            let count =
                said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
            ensure!(count > Some(32), "{url} {more:?}: {said}");
        }
        Ok(())
    });
}
