//! Every engine as a process, used by clients that this project did not write, and by peers that are slow on purpose.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::chunk_files::{ChunkFile, chunk_files, flip_bit};
use dfs_tests::engine::{ENGINES, on_every_engine};
use dfs_tests::log::Log;
use dfs_tests::machine::{Need, say, scale};
use dfs_tests::process::Daemon;
use dfs_tests::random::Random;
use dfs_tests::server::Server;
use dfs_tests::upload::upload;
use dfs_tests::{Setup, eventually, http, process, run};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CURL: Need = Need::Program("curl");
const PYTHON: Need = Need::Program("python3");
/// A client that is not served by then is one that others hold up.
const SERVED_WITHIN: &str = "5";
const DEADLINE: Duration = Duration::from_secs(60);

fn curl(server: &Server, arguments: &[&str], path: &str) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", SERVED_WITHIN]).args(arguments);
    command.arg(format!("http://127.0.0.1:{}{path}", server.port()));
    process::quiet_environment(&mut command);
    process::succeed(&mut command, DEADLINE)
}

fn is_served(server: &Server) -> Result<()> {
    let status = curl(server, &["-o", "/dev/null", "-w", "%{http_code}"], "/health")?;
    ensure!(status == "200", "/health: {status}");
    Ok(())
}

fn connect(server: &Server) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn python(server: &Server, directory: &Path, script: &str) -> Result<String> {
    let path = directory.join("client.py");
    std::fs::write(&path, script)?;
    let mut command = Command::new("python3");
    command.arg(&path).arg(server.port().to_string());
    process::quiet_environment(&mut command);
    process::succeed(&mut command, DEADLINE)
}

#[test]
fn the_server_names_its_engine() -> Result<()> {
    for engine in ENGINES {
        let directory = tempfile::tempdir()?;
        let mut server = Server::new(directory.path(), vec!["--engine".into(), engine.into()]);
        server.start()?;
        ensure!(server.info()?["engine"] == engine, "{engine}: {}", server.info()?);
        server.stop()?;
    }
    Ok(())
}

#[test]
fn curl_keeps_its_connection_reads_heads_and_uploads() {
    on_every_engine("curl_keeps_its_connection_reads_heads_and_uploads", &[CURL], |server, directory| {
        let url = format!("http://127.0.0.1:{}/health", server.port());
        let connects = "%{num_connects}\n";
        let twice = curl(server, &["-o", "/dev/null", "-o", "/dev/null", "-w", connects, &url], "/api/info")?;
        ensure!(twice.trim_end() == "1\n0", "new connections for two requests: {twice:?}");
        let head = curl(server, &["--head"], "/health")?;
        ensure!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: "), "{head}");
        let code = ["-w", "%{http_code}", "-o", "/dev/null", "-X", "PUT"];
        let large = directory.join("large");
        std::fs::write(&large, vec![0_u8; 3 << 20])?;
        let data = format!("@{}", large.display());
        // No frame has these bytes; with a length and `Expect: 100-continue`, and chunked.
        for framing in ["X-None: x", "Transfer-Encoding: chunked"] {
            let upload = ["-H", framing, "-H", "Expect: 100-continue", "--data-binary", &data];
            let status = curl(server, &[&code[..], &upload[..]].concat(), "/sync/main/chunks")?;
            ensure!(status == "400", "{framing}: {status}");
        }
        let bad = curl(server, &["--http1.0", "-w", "%{http_code}", "-o", "/dev/null"], "/no/such")?;
        ensure!(bad == "404", "{bad}");
        is_served(server)
    });
}

#[test]
fn http_client_and_urllib_of_python_are_served() {
    on_every_engine("http_client_and_urllib_of_python_are_served", &[PYTHON], |server, directory| {
        let said = python(
            server,
            directory,
            r#"
import http.client, json, sys, threading, urllib.error, urllib.request
port = int(sys.argv[1])
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
for _ in range(100):
    connection.request("GET", "/api/info")
    reply = connection.getresponse()
    assert reply.status == 200 and json.load(reply)["engine"]
socket = connection.sock
connection.request("HEAD", "/metrics")
assert connection.getresponse().read() == b""
connection.request("PUT", "/sync/main/chunks", body=iter([b"\xff" * 1000] * 50), encode_chunked=True,
                   headers={"Transfer-Encoding": "chunked"})
reply = connection.getresponse()
assert reply.status == 400 and "error" in json.load(reply), reply.status
assert connection.sock in (socket, None)
def client():
    for _ in range(25):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            assert b"TYPE" in reply.read()
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/no/such", timeout=10)
        assert False
    except urllib.error.HTTPError as error:
        assert error.code == 404 and json.load(error)["error"]["code"] == "no_route"
failed = []
def guarded():
    try: client()
    except BaseException as error: failed.append(error)
threads = [threading.Thread(target=guarded) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
assert not failed, failed
print("served")
"#,
        )?;
        ensure!(said.trim() == "served", "{said}");
        Ok(())
    });
}

/// A download of many chunks: whole, in ranges over their edges, and with chunks that are damaged, cut or gone.
#[test]
fn a_download_comes_from_the_files_of_its_chunks_and_never_from_damaged_ones() {
    let name = "a_download_comes_from_the_files_of_its_chunks_and_never_from_damaged_ones";
    on_every_engine(name, &[CURL], |server, directory| {
        let content = Random::new(610).bytes(12 << 20);
        upload(server.port(), "large", &content)?;
        let chunks = chunk_files(server.data())?;
        ensure!(chunks.len() > 3, "{} chunks", chunks.len());
        let body = directory.join("body");
        let to = body.display().to_string();
        let route = "/api/file/download/large";
        for (range, expected) in [
            (None, &content[..]),
            (Some("0-0"), &content[..1]),
            (Some("65537-9437184"), &content[65_537..=9_437_184]),
            (Some("12582000-"), &content[12_582_000..]),
            (Some("-7000001"), &content[content.len() - 7_000_001..]),
        ] {
            let arguments = [&["-o", &to][..], &range.map_or(vec![], |range| vec!["-r", range])].concat();
            curl(server, &arguments, route)?;
            ensure!(std::fs::read(&body)? == expected, "{range:?}");
        }
        let head = curl(server, &["--head"], route)?;
        ensure!(head.contains(&format!("Content-Length: {}\n", content.len())), "{head}");
        let damages: [fn(&ChunkFile) -> Result<()>; 3] = [
            flip_bit,
            |chunk| Ok(std::fs::File::options().write(true).open(&chunk.path)?.set_len(70_000)?),
            |chunk| Ok(std::fs::remove_file(&chunk.path)?),
        ];
        for (index, damage) in damages.into_iter().enumerate() {
            let kept =
                chunks.iter().map(|chunk| std::fs::read(&chunk.path)).collect::<Result<Vec<_>, _>>()?;
            let middle =
                content.windows(64).position(|window| window == &kept[index][..64]).context("no chunk")?;
            damage(&chunks[index])?;
            ensure!(curl(server, &["-o", &to], route).is_err(), "a damaged file looked whole");
            let got = std::fs::read(&body)?;
            ensure!(
                got.len() <= middle && content.starts_with(&got),
                "{} bytes, damage at {middle}",
                got.len()
            );
            for (chunk, bytes) in chunks.iter().zip(kept) {
                std::fs::write(&chunk.path, bytes)?;
            }
            curl(server, &["-o", &to], route)?;
            ensure!(std::fs::read(&body)? == content, "it was put right");
        }
        Ok(())
    });
}

#[test]
fn many_idle_connections_cost_others_nothing() {
    let limit = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let free = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit.saturating_sub(512));
    let count = scale("DFS_TESTS_IDLE_CONNECTIONS", 10_000).min(free);
    if count < 10_000 {
        say(&format!(
            "many_idle_connections_cost_others_nothing: {count} connections, as many as the limit allows"
        ));
    }
    on_every_engine("many_idle_connections_cost_others_nothing", &[CURL], |server, _| {
        let mut idle = Vec::new();
        for index in 0..count {
            let mut stream = connect(server).with_context(|| format!("connection {index}"))?;
            if index % 100 == 0 {
                stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")?;
                read_until(&mut stream, b"\r\n\r\n")?;
            }
            idle.push(stream);
        }
        for _ in 0..10 {
            is_served(server)?;
        }
        let last = idle.last_mut().context("there are connections")?;
        last.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")?;
        ensure!(read_until(last, b"\r\n\r\n")?.starts_with(b"HTTP/1.1 200 "), "the last idle connection");
        server.stop()
    });
}

#[test]
fn slow_peers_cost_others_nothing() {
    on_every_engine("slow_peers_cost_others_nothing", &[CURL], |server, _| {
        let mut slow = Vec::new();
        for index in 0..96 {
            let mut stream = connect(server)?;
            let begun: &[u8] = match index % 3 {
                0 => b"GET /health HTTP/1.1\r\nHo",
                1 => b"PUT /sync/main/chunks HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nhalf",
                _ => b"GET /sync/main/stream HTTP/1.1\r\nHost: h\r\n\r\n",
            };
            stream.write_all(begun)?;
            slow.push(stream);
        }
        for _ in 0..3 {
            is_served(server)?;
        }
        drop(slow);
        is_served(server)
    });
}

#[test]
fn a_client_that_stops_reading_costs_others_nothing_and_memory_stays() {
    on_every_engine("a_client_that_stops_reading_costs_others_nothing", &[CURL], |server, _| {
        let before = resident_kib(server)?;
        let requests = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
        let mut deaf = Vec::new();
        for _ in 0..4 {
            let stream = connect(server)?;
            stream.set_nonblocking(true)?;
            // Until the server takes no more: it waits for us to read its answers.
            loop {
                match (&stream).write(requests.as_bytes()) {
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        if is_stuck(&stream)? {
                            break;
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            deaf.push(stream);
        }
        is_served(server)?;
        let grown = resident_kib(server)?.saturating_sub(before);
        ensure!(grown < 64 * 1024, "memory grew by {grown} KiB");
        Ok(())
    });
}

/// Whether a socket takes nothing for a while.
fn is_stuck(stream: &TcpStream) -> Result<bool> {
    let mut wanted = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::OUT)];
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    Ok(rustix::event::poll(&mut wanted, Some(&patience))? == 0)
}

fn resident_kib(server: &Server) -> Result<u64> {
    let id = server.id().context("the server runs")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn sigterm_ends_idle_connections_and_event_streams_and_exits_with_0() {
    on_every_engine("sigterm_ends_idle_connections_and_event_streams", &[], |server, _| {
        let (mut idle, mut stream) = (connect(server)?, connect(server)?);
        idle.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")?;
        read_until(&mut idle, b"\r\n\r\n")?;
        stream.write_all(b"GET /sync/main/stream HTTP/1.1\r\nHost: h\r\n\r\n")?;
        let head = read_until(&mut stream, b"\r\n\r\n")?;
        ensure!(head.starts_with(b"HTTP/1.1 200 "), "{}", head.escape_ascii());
        server.stop()?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).context("the stream's end")?;
        ensure!(rest.ends_with(b"0\r\n\r\n"), "the stream is cut: {}", rest.escape_ascii());
        idle.read_to_end(&mut rest).context("the idle connection's end")?;
        ensure!(http::get(server.port(), "/health").is_err(), "nobody listens any more");
        Ok(())
    });
}

/// A curl that prints the events of a server; it listens by now.
fn listen(server: &Server, query: &str) -> Result<(Daemon, Log)> {
    let log = Log::default();
    let mut command = Command::new("curl");
    command.args(["-sSN", &format!("http://127.0.0.1:{}/api/events{query}", server.port())]);
    process::quiet_environment(&mut command);
    let curl = Daemon::spawn("curl", &mut command, &log)?;
    log.wait_for("the first line of the events", DEADLINE, |line| line.contains("dfs events").then_some(()))?;
    Ok((curl, log))
}

#[test]
fn event_streams_are_told_of_the_servers_end_and_who_comes_back_of_its_start() {
    on_every_engine("event_streams_are_told_of_the_servers_end", &[CURL], |server, _| {
        let (all, picky) = (listen(server, "")?, listen(server, "?types=FileAdded")?);
        let some = listen(server, "?types=ServerStarted,ServerShuttingDown")?;
        server.stop()?;
        for (name, (mut curl, log)) in [("all", all), ("some", some), ("picky", picky)] {
            let status = curl.wait_exit(DEADLINE)?;
            ensure!(status.success(), "{name}: the stream is cut: {status}");
            ensure!(log.wait_end(DEADLINE), "{name}: the output goes on");
            let told = log.text();
            let is_told = told.matches("event: ServerShuttingDown").count() == 1
                && told.trim_end().lines().last().is_some_and(|line| line.starts_with("data: "));
            ensure!(is_told == (name != "picky"), "{name}: {told}");
            if name == "all" {
                let id = told.lines().filter_map(|line| line.strip_prefix("id: ")).next_back();
                comes_back(server, id.context("an id")?)?;
            }
        }
        let components_heard = server.has_said("serving") && server.has_said("shutting down");
        ensure!(components_heard, "the logger is a component too");
        ensure!(!server.has_said("were not told of the server's end"), "the end waited for a listener");
        Ok(())
    });
}

/// Starts the server again and comes back behind the last event.
fn comes_back(server: &mut Server, last: &str) -> Result<()> {
    server.start()?;
    let (_curl, log) = listen(server, &format!("?since={last}"))?;
    log.wait_for("the start", DEADLINE, |line| line.contains("event: ServerStarted").then_some(()))?;
    ensure!(!log.contains("event: gap"), "nothing was missed: {}", log.text());
    Ok(())
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> Result<Vec<u8>> {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(end) {
        ensure!(stream.read(&mut byte)? == 1, "the end came early: {}", received.escape_ascii());
        received.push(byte[0]);
    }
    Ok(received)
}

fn mounts_share_a_tree_over(engine: &str) {
    run(&Setup::mounts(2).server_arguments(&["--engine", engine]), |cluster| {
        std::fs::create_dir(cluster.a().join("directory"))?;
        let large: Vec<u8> =
            (0..5 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(cluster.a().join("directory/large"), &large)?;
        let seen = cluster.b().join("directory/large");
        eventually("the file of a is read in b", || {
            Ok(std::fs::read(&seen).is_ok_and(|bytes| bytes == large))
        })?;
        std::fs::write(cluster.b().join("answer"), "from b")?;
        cluster.expect_equal_trees()?;
        cluster.server.stop()?;
        cluster.server.start()?;
        std::fs::write(cluster.a().join("later"), "after a restart")?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn mounts_share_a_tree_over_the_async_engine() {
    mounts_share_a_tree_over("async");
}

#[test]
fn mounts_share_a_tree_over_the_thread_pool_engine() {
    mounts_share_a_tree_over("thread-pool");
}

#[test]
fn mounts_share_a_tree_over_the_blocking_engine() {
    mounts_share_a_tree_over("blocking");
}
