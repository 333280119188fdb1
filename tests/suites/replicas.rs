//! Which mounts hold which version of a file, as the API tells it, and the events of what mounts and server did, also after a
//! restart of the server.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use dfs_tests::http::get;
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, run};
use serde_json::Value;

/// The replicas of a file as (client's name or `server`, version), in order.
fn replicas(cluster: &Cluster, path: &str) -> Result<Vec<(String, u64)>> {
    let file = get(cluster.server.port(), &format!("/api/metadata/get/{path}"))?.json()?;
    shown(&file)
}

fn shown(file: &Value) -> Result<Vec<(String, u64)>> {
    let replicas = file["replicas"].as_array().with_context(|| format!("no replicas: {file}"))?;
    let mut shown = Vec::new();
    for replica in replicas {
        let node = replica["node"].as_str().context("node")?;
        // A client's id is its name and a suffix.
        let name = node.rsplit_once('-').map_or(node, |(name, _)| name);
        shown.push((name.to_owned(), replica["version"].as_u64().context("version")?));
    }
    Ok(shown)
}

fn expect(cluster: &Cluster, path: &str, wanted: &[(&str, u64)]) -> Result<()> {
    let wanted: Vec<(String, u64)> =
        wanted.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect();
    let mut last = Vec::new();
    let reached = eventually(&format!("{path} is held by {wanted:?}"), || {
        last = replicas(cluster, path)?;
        Ok(last == wanted)
    });
    reached.with_context(|| format!("last seen: {last:?}"))
}

#[test]
fn replicas_name_who_holds_which_version_until_it_is_fetched_or_evicted() {
    run(&Setup::mounts(2).through_proxies(), |cluster| {
        let (one, two) = (Random::new(401).bytes(300_000), Random::new(402).bytes(300_000));
        fs::write(cluster.a().join("large"), &one)?;
        cluster.settle()?;
        expect(cluster, "large", &[("server", 1), ("host-a", 1)])?;
        ensure!(fs::read(cluster.b().join("large"))? == one, "b reads another content");
        expect(cluster, "large", &[("server", 1), ("host-a", 1), ("host-b", 1)])?;
        // A small file comes with the event that tells of it.
        fs::write(cluster.a().join("small"), b"small")?;
        expect(cluster, "small", &[("server", 1), ("host-a", 1), ("host-b", 1)])?;

        cluster.proxies[1].cut();
        fs::write(cluster.a().join("large"), &two)?;
        cluster.mounts[0].wait_synced()?;
        expect(cluster, "large", &[("server", 2), ("host-a", 2), ("host-b", 1)])?;
        let port = cluster.server.port();
        let history = get(port, "/api/metadata/history/large")?.json()?;
        let of = |index: usize| shown(&history["versions"][index]);
        ensure!(of(0)? == [("server".to_owned(), 2), ("host-a".to_owned(), 2)], "{history}");
        ensure!(of(1)? == [("host-b".to_owned(), 1)], "{history}");
        let list = get(port, "/api/metadata/list?prefix=large")?.json()?;
        ensure!(shown(&list["files"][0])?.len() == 3, "{list}");
        let accept = [("Accept", "text/x-dfs-ddl")];
        let ddl = dfs_tests::http::request(port, "GET", "/api/metadata/get/large", &accept, b"")?.text();
        ensure!(ddl.contains("node: \"host-b-") && ddl.contains("        version: 1"), "{ddl}");
        cluster.proxies[1].restore();
        ensure!(fs::read(cluster.b().join("small"))? == b"small", "b is cut off from its own bytes");
        eventually("b reads the new version", || Ok(fs::read(cluster.b().join("large"))? == two))?;
        expect(cluster, "large", &[("server", 2), ("host-a", 2), ("host-b", 2)])?;

        let evicted = cluster.mounts[1].dfs(&["evict", &cluster.b().join("large").display().to_string()])?;
        ensure!(evicted.status.success(), "{}", String::from_utf8_lossy(&evicted.stderr));
        expect(cluster, "large", &[("server", 2), ("host-a", 2)])?;

        // What was told survives a restart of the server and of a mount, and a removed client is forgotten.
        cluster.server.stop()?;
        cluster.server.start()?;
        expect(cluster, "small", &[("server", 1), ("host-a", 1), ("host-b", 1)])?;
        cluster.mounts[1].stop()?;
        expect(cluster, "small", &[("server", 1), ("host-a", 1), ("host-b", 1)])?;
        let mut remove = cluster.server.command()?;
        let file = get(cluster.server.port(), "/api/metadata/get/small")?.json()?;
        let b = file["replicas"][2]["node"].as_str().context("no b")?;
        let removed = remove.args(["client", "remove", b]).output()?;
        ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        expect(cluster, "small", &[("server", 1), ("host-a", 1)])?;
        // It registers again, and tells everything anew.
        cluster.mounts[1].start()?;
        expect(cluster, "small", &[("server", 1), ("host-a", 1), ("host-b", 1)])
    });
}

/// Reads the feed with curl until `wanted` is in it or the deadline passes; returns what came.
fn listen(cluster: &Cluster, query: &str, last: Option<&str>, wanted: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:{}/api/events{query}", cluster.server.port());
    let mut curl = Command::new("curl");
    curl.args(["-sSN", "--max-time", "20", &url]);
    if let Some(last) = last {
        curl.args(["-H", &format!("Last-Event-ID: {last}")]);
    }
    let mut child = curl.stdout(Stdio::piped()).spawn().context("curl")?;
    let mut told = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().context("its output")?);
    let outcome = loop {
        match std::io::BufRead::read_line(&mut out, &mut told) {
            Ok(0) => break Err(anyhow::anyhow!("{wanted} did not come: {told}")),
            Ok(_) if told.contains(wanted) && told.ends_with("\n\n") => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.into()),
        }
    };
    child.kill()?;
    child.wait()?;
    outcome.map(|()| told)
}

/// The names and paths of the events about files, in order.
fn files(told: &str) -> Vec<String> {
    let data = told.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let named = events.filter(|event| {
        ["file", "symlink"].iter().any(|kind| event["kind"] == *kind) || event["kind"].is_null()
    });
    let named = named.filter(|event| {
        event["type"]
            .as_str()
            .is_some_and(|name| ["FileAdded", "FileModified", "FileDeleted"].contains(&name))
    });
    named
        .map(|event| {
            format!("{} {}", event["type"].as_str().unwrap_or("?"), event["path"].as_str().unwrap_or("?"))
        })
        .collect()
}

fn last_id(told: &str) -> Result<&str> {
    told.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().context("no id")
}

#[test]
fn a_listener_that_comes_back_after_a_restart_misses_no_file_event() {
    run(&Setup::mounts(1), |cluster| {
        cluster.settle()?;
        let start = cluster.server.info()?["revision"].as_u64().context("revision")?;
        fs::write(cluster.a().join("one"), b"1")?;
        cluster.settle()?;
        let first = listen(cluster, &format!("?since={start}"), None, "\"path\":\"one\"")?;
        ensure!(files(&first) == ["FileAdded one"], "{first}");
        let seen = last_id(&first)?.to_owned();
        for name in ["two", "three"] {
            fs::write(cluster.a().join(name), name)?;
            cluster.settle()?;
        }
        fs::remove_file(cluster.a().join("one"))?;
        cluster.settle()?;
        cluster.server.kill();
        cluster.server.start()?;
        fs::write(cluster.a().join("four"), b"4")?;
        cluster.settle()?;
        let wanted = ["FileAdded two", "FileAdded three", "FileDeleted one", "FileAdded four"];
        let types = "types=FileAdded,FileModified,FileDeleted";
        let last = "\"path\":\"four\"";
        let by_id = listen(cluster, &format!("?{types}"), Some(&seen), last)?;
        ensure!(files(&by_id) == wanted && !by_id.contains("event: gap"), "{by_id}");
        let by_revision = listen(cluster, &format!("?{types}&since={start}"), None, last)?;
        ensure!(files(&by_revision)[1..] == wanted && !by_revision.contains("event: gap"), "{by_revision}");
        // Also in the middle of what is told again.
        let middle =
            by_revision.lines().filter_map(|line| line.strip_prefix("id: ")).nth(1).context("ids")?;
        let rest = listen(cluster, &format!("?{types}"), Some(middle), last)?;
        ensure!(files(&rest) == wanted[1..], "{rest}");
        // An id that says nothing of commits is a gap, not silence.
        let unknown = listen(cluster, "", Some("abc-7"), "event: gap")?;
        ensure!(files(&unknown).is_empty(), "{unknown}");
        Ok(())
    });
}

#[test]
fn what_mounts_do_is_told_as_what_sessions_do() {
    run(&Setup::mounts(2), |cluster| {
        cluster.settle()?;
        let port = cluster.server.port();
        let url = format!("http://127.0.0.1:{port}/api/events");
        let log = cluster.directory().join("events");
        let file = fs::File::create(&log)?;
        let mut curl = Command::new("curl").args(["-sSN", "--max-time", "60", &url]).stdout(file).spawn()?;
        let told = || fs::read_to_string(&log).context("the events");
        let outcome = (|| {
            eventually("curl listens", || Ok(told()?.contains("dfs events")))?;
            let bytes = Random::new(403).bytes(3_000_000);
            fs::write(cluster.a().join("large file"), &bytes)?;
            eventually("b reads it", || {
                Ok(fs::read(cluster.b().join("large file")).is_ok_and(|read| read == bytes))
            })?;
            for wanted in [
                "event: SyncStarted",
                "event: FileUploadStarted",
                "event: FileChunkReceived",
                "event: FileUploadCompleted",
                "event: SyncCompleted",
                "event: FileDownloadCompleted",
            ] {
                eventually(wanted, || Ok(told()?.contains(wanted)))?;
            }
            let told = told()?;
            for name in
                ["FileUploadStarted", "FileChunkReceived", "FileUploadCompleted", "FileDownloadCompleted"]
            {
                let data = told.lines().filter(|line| line.contains(&format!("\"type\":\"{name}\"")));
                for event in data {
                    ensure!(
                        event.contains("\"path\":\"large file\"") && event.contains("\"client\":\""),
                        "{event}"
                    );
                }
            }
            let at = |name: &str| told.find(&format!("event: {name}")).unwrap_or(0);
            ensure!(at("FileUploadStarted") < at("FileChunkReceived"), "{told}");
            ensure!(at("FileChunkReceived") < at("FileUploadCompleted"), "{told}");
            ensure!(at("FileUploadCompleted") < at("FileDownloadCompleted"), "{told}");
            Ok(())
        })();
        curl.kill()?;
        curl.wait()?;
        outcome
    });
}
