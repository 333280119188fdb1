//! The server as a process, and what a peer may send it: signals, a second server, damaged messages.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_tests::process::Daemon;
use dfs_tests::random::Random;
use dfs_tests::server::Server;
use dfs_tests::upload::upload;
use dfs_tests::{Cluster, Setup, eventually, http, process, run};

const COMMIT: &str = "/sync/main/commit";
const MESSAGE: (&str, &str) = ("Content-Type", "application/x-dfs");

fn server_only(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(0), test);
}

#[test]
fn it_says_where_it_listens_and_answers_health_info_and_metrics() {
    server_only(|cluster| {
        let port = cluster.server.port();
        ensure!(http::get(port, "/health")?.status == 200, "/health");
        let info = cluster.server.info()?;
        ensure!(info["merkle_root"].is_string() && info["revision"].is_u64(), "{info}");
        ensure!(info["version"].is_string() && info["engine"].is_string(), "{info}");
        let metrics = http::get(port, "/metrics")?;
        ensure!(metrics.status == 200 && metrics.text().contains("# TYPE"), "{}", metrics.text());
        ensure!(http::get(port, "/no/such/route")?.status == 404, "an unknown route");
        let method = http::request(port, "DELETE", "/health", &[], b"")?;
        ensure!(method.status == 405, "a wrong method: {}", method.status);
        Ok(())
    });
}

#[test]
fn sigterm_drains_and_exits_with_0_while_mounts_are_connected() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.a().join("file"), Random::new(71).bytes(1 << 20))?;
        cluster.server.stop()?;
        ensure!(http::get(cluster.server.port(), "/health").is_err(), "nobody listens any more");
        cluster.server.start()?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S28
#[test]
fn a_second_server_on_one_data_directory_is_refused() {
    server_only(|cluster| {
        let mut command = std::process::Command::new(dfs_tests::binaries::program("dfs-server")?);
        dfs_tests::server::isolate(&mut command, cluster.directory());
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(cluster.server.data());
        let output = process::output(&mut command, Duration::from_secs(20))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "it started");
        ensure!(said.contains(&*cluster.server.data().to_string_lossy()), "{said}");
        cluster.server.wait_healthy()
    });
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    server_only(|cluster| {
        let mut command = std::process::Command::new(dfs_tests::binaries::program("dfs-server")?);
        dfs_tests::server::isolate(&mut command, cluster.directory());
        let address = format!("127.0.0.1:{}", cluster.server.port());
        command.args(["--listen", &address, "--data-dir"]).arg(cluster.scratch("another")?);
        let output = process::output(&mut command, Duration::from_secs(20))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(&address), "{output:?}");
        Ok(())
    });
}

#[test]
fn listening_elsewhere_without_tokens_is_refused() {
    server_only(|cluster| {
        let mut command = std::process::Command::new(dfs_tests::binaries::program("dfs-server")?);
        dfs_tests::server::isolate(&mut command, cluster.directory());
        command.args(["--listen", "0.0.0.0:0", "--data-dir"]).arg(cluster.scratch("open")?);
        let output = process::output(&mut command, Duration::from_secs(20))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(4) && said.contains("insecure"), "{output:?}");
        Ok(())
    });
}

// S3
#[test]
fn a_killed_server_starts_again_with_the_same_root_and_revision() {
    run(&Setup::mounts(1), |cluster| {
        for index in 0..50 {
            fs::write(cluster.a().join(format!("file {index}")), Random::new(index).bytes(20_000))?;
        }
        cluster.settle()?;
        let before = cluster.server.info()?;
        cluster.server.kill();
        cluster.server.start()?;
        let after = cluster.server.info()?;
        ensure!(before["merkle_root"] == after["merkle_root"], "{before} → {after}");
        ensure!(before["revision"] == after["revision"], "{before} → {after}");
        cluster.settle()
    });
}

#[test]
fn a_server_whose_disk_was_copied_holds_everything() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.mounts[0].start()?;
        dfs_tests::fixture::write_small_tree(&cluster.a().join("tree"), &mut Random::new(72))?;
        cluster.settle()?;
        let wanted = cluster.server.merkle_root()?;
        cluster.server.stop()?;
        let copy = cluster.directory().join("copy");
        fs::create_dir(&copy)?;
        dfs_tests::fixture::copy_with_attributes(cluster.server.data(), &copy)?;
        let mut second = Server::new(&copy, Vec::new());
        second.start()?;
        ensure!(second.merkle_root()? == wanted, "another root");
        second.stop()
    });
}

#[test]
fn a_server_with_metadata_in_memory_serves_a_file_and_has_forgotten_it_after_a_restart() {
    server_only(|cluster| {
        let directory = cluster.scratch("memory")?;
        let mut server = Server::new(&directory, vec!["--metadata".to_owned(), "memory".to_owned()]);
        let content = Random::new(73).bytes(3 << 20);
        let volatile = server.data().join("volatile");
        let warnings = |server: &Server| server.tail().matches("nothing survives this process").count();
        let download = |server: &Server| http::get(server.port(), "/api/file/download/file");
        server.start()?;
        ensure!(warnings(&server) == 1, "{}", server.tail());
        upload(server.port(), "file", &content)?;
        ensure!(download(&server)?.body == content, "it serves other bytes");
        ensure!(volatile.join("chunks").is_dir(), "chunks are in the directory that goes");
        server.stop()?;
        ensure!(!volatile.exists(), "its chunks are still there");
        server.start()?;
        ensure!(download(&server)?.status == 404, "the file survived");
        ensure!(warnings(&server) == 2, "{}", server.tail());
        upload(server.port(), "file", &content)?;
        server.kill();
        server.start()?;
        ensure!(download(&server)?.status == 404, "the file survived a kill");
        server.stop()?;
        ensure!(!volatile.exists(), "what a killed server left is still there");
        ensure!(!server.data().join("metadata.sqlite").exists(), "it made a database");
        Ok(())
    });
}

#[test]
fn metadata_in_memory_is_refused_where_something_would_be_lost_or_open() {
    server_only(|cluster| {
        let alone = cluster.scratch("alone")?;
        let chunks = cluster.scratch("chunks")?.display().to_string();
        cluster.server.stop()?;
        let loopback = "127.0.0.1:0";
        let cases: [(&std::path::Path, &[&str], i32, &str); 5] = [
            (cluster.server.data(), &["--listen", loopback], 1, "holds a SQLite database"),
            (&alone, &["--listen", loopback, "--chunks", &chunks], 1, "go with the process"),
            (&alone, &["--listen", "0.0.0.0:0"], 4, "has no access tokens"),
            (&alone, &["check"], 2, "SQLite data directories only"),
            (&alone, &["gc"], 2, "SQLite data directories only"),
        ];
        for (data, arguments, code, why) in cases {
            let mut command = std::process::Command::new(dfs_tests::binaries::program("dfs-server")?);
            dfs_tests::server::isolate(&mut command, cluster.directory());
            command.args(["--metadata", "memory", "--data-dir"]).arg(data).args(arguments);
            let output = process::output(&mut command, Duration::from_secs(20))?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(code) && said.contains(why), "{arguments:?}: {output:?}");
        }
        Ok(())
    });
}

#[test]
fn limits_of_names_pages_and_bodies_hold_at_the_limit_and_one_past_it() {
    // The numbers of server/src/limits.rs.
    const CLIENT_NAME_LEN_MAX: usize = 256;
    const FILE_PAGE_LEN_MAX: usize = 10_000;
    const METADATA_BODY_LEN_MAX: usize = 4 << 20;
    const ACCESS_TOKEN_NAME_LEN_MAX: usize = 128;
    server_only(|cluster| {
        let port = cluster.server.port();
        for (len, status) in [(CLIENT_NAME_LEN_MAX, 200), (CLIENT_NAME_LEN_MAX + 1, 400)] {
            let body = format!(r#"{{"client_name":"{}","platform":"linux"}}"#, "x".repeat(len));
            let reply = http::request(port, "POST", "/api/register", &[], body.as_bytes())?;
            ensure!(reply.status == status, "name of {len}: {}", reply.text());
        }
        for (len, status) in [(FILE_PAGE_LEN_MAX, 200), (FILE_PAGE_LEN_MAX + 1, 400)] {
            let reply = http::get(port, &format!("/api/metadata/list?limit={len}"))?;
            ensure!(reply.status == status, "page of {len}: {}", reply.text());
        }
        // At the limit the text is refused for what it is.
        let add = |body: &[u8]| http::request(port, "POST", "/api/metadata/add", &[], body);
        for (len, is_over) in [(METADATA_BODY_LEN_MAX, false), (METADATA_BODY_LEN_MAX + 1, true)] {
            let reply = add(&vec![b' '; len])?;
            ensure!((reply.status == 413) == is_over, "{len} bytes: {} {}", reply.status, reply.text());
        }
        for (len, is_good) in [(ACCESS_TOKEN_NAME_LEN_MAX, true), (ACCESS_TOKEN_NAME_LEN_MAX + 1, false)] {
            let mut command = std::process::Command::new(dfs_tests::binaries::program("dfs-server")?);
            dfs_tests::server::isolate(&mut command, cluster.directory());
            command.args([
                "token",
                "create",
                "--volume",
                "main",
                "--access",
                "read",
                "--name",
                &"x".repeat(len),
            ]);
            command.arg("--data-dir").arg(cluster.scratch(&format!("tokens {len}"))?);
            let output = process::output(&mut command, Duration::from_secs(20))?;
            ensure!(output.status.success() == is_good, "name of {len}: {output:?}");
        }
        Ok(())
    });
}

/// A well-formed header of a message with some version, and a payload.
fn message(version: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"dfsw".to_vec();
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_message_cut_short_or_damaged_is_refused() {
    server_only(|cluster| {
        let port = cluster.server.port();
        let before = cluster.server.info()?;
        let long = message(1, &[0xFF; 4000]);
        let bodies: [&[u8]; 8] = [
            b"",
            b"d",
            b"dfsw",
            b"dfsw\0",
            b"{\"client\":1}",
            &message(1, b""),
            &message(1, b"\x01\x02\x03"),
            &long,
        ];
        for body in bodies {
            let reply = http::request(port, "POST", COMMIT, &[MESSAGE], body)?;
            ensure!((400..500).contains(&reply.status), "{} for {body:?}", reply.status);
        }
        ensure!(before["revision"] == cluster.server.info()?["revision"], "nothing was committed");
        Ok(())
    });
}

#[test]
fn a_message_of_an_unknown_version_is_refused_by_its_number() {
    server_only(|cluster| {
        for version in [0, 2, 77, u16::MAX] {
            let body = message(version, &[0; 40]);
            let reply = http::request(cluster.server.port(), "POST", COMMIT, &[MESSAGE], &body)?;
            ensure!((400..500).contains(&reply.status), "{} for version {version}", reply.status);
            ensure!(reply.text().contains(&version.to_string()), "{}", reply.text());
        }
        Ok(())
    });
}

#[test]
fn a_body_that_ends_early_or_claims_too_much_harms_nobody() {
    server_only(|cluster| {
        let port = cluster.server.port();
        let head = |length: &str| {
            format!(
                "POST {COMMIT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-dfs\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        let short = http::raw(port, format!("{}dfsw", head("1000")).as_bytes(), true);
        if let Ok(reply) = short
            && !reply.is_empty()
        {
            let status = http::parse(&reply)?.status;
            ensure!((400..500).contains(&status), "{status} for a body cut short");
        }
        for length in ["99999999999999", "-1", "1e3", "18446744073709551616", "5, 6"] {
            let reply = http::parse(&http::raw(port, head(length).as_bytes(), false)?)?;
            ensure!((400..500).contains(&reply.status), "{} for Content-Length: {length}", reply.status);
        }
        let both = format!(
            "POST {COMMIT} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        );
        let reply = http::parse(&http::raw(port, both.as_bytes(), false)?)?;
        ensure!(reply.status == 400, "{} for two framings", reply.status);
        cluster.server.wait_healthy()
    });
}

#[test]
fn garbage_and_endless_heads_are_answered_or_closed() {
    server_only(|cluster| {
        let port = cluster.server.port();
        let endless = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20]].concat();
        for bytes in [&b"\x16\x03\x01\x02\0\x01\0"[..], b"\r\n\r\n\r\n\r\n", b"GET\r\n\r\n", &endless] {
            if let Ok(reply) = http::raw(port, bytes, true)
                && !reply.is_empty()
            {
                let status = http::parse(&reply)?.status;
                ensure!((400..600).contains(&status), "{status} for garbage");
            }
        }
        cluster.server.wait_healthy()
    });
}

#[test]
fn silent_connections_do_not_keep_others_out() {
    server_only(|cluster| {
        let mut silent = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(("127.0.0.1", cluster.server.port()))?;
            stream.write_all(b"GET /health HTT")?;
            silent.push(stream);
        }
        cluster.server.wait_healthy()
    });
}

#[test]
fn a_log_in_json_is_json() {
    run(&Setup::mounts(0).server_arguments(&["--log-format", "json"]), |cluster| {
        cluster.server.stop()?;
        let text = cluster.server.tail();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
        ensure!(!lines.is_empty(), "no JSON line in:\n{text}");
        for line in lines {
            serde_json::from_str::<serde_json::Value>(line)?;
        }
        Ok(())
    });
}

#[test]
fn metrics_count_commits() {
    run(&Setup::mounts(1), |cluster| {
        fs::write(cluster.a().join("file"), b"x")?;
        cluster.settle()?;
        eventually("some dfs_ metric about commits is above 0", || {
            let text = http::get(cluster.server.port(), "/metrics")?.text();
            Ok(text.lines().any(|line| {
                line.starts_with("dfs_") && line.contains("commit") && !line.trim_end().ends_with(" 0")
            }))
        })
    });
}

#[test]
fn environment_variables_stand_in_for_arguments() {
    server_only(|cluster| {
        let log = dfs_tests::log::Log::default();
        let mut command = std::process::Command::new(dfs_tests::binaries::program("dfs-server")?);
        dfs_tests::server::isolate(&mut command, cluster.directory());
        command.env("DFS_LISTEN", "127.0.0.1:0").env("DFS_DATA_DIR", cluster.scratch("by-environment")?);
        let _daemon = Daemon::spawn("dfs-server", &mut command, &log)?;
        log.wait_for("ready line", Duration::from_secs(20), |line| {
            line.contains("listening on http://127.0.0.1:").then_some(())
        })
    });
}
