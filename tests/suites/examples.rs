//! The server's examples as processes, with the real curl.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::engine::ENGINES;
use dfs_tests::log::Log;
use dfs_tests::machine::{self, Need};
use dfs_tests::process::{Daemon, quiet_environment, succeed};
use dfs_tests::{binaries, http};
use rustix::process::Signal;

const CURL: Need = Need::Program("curl");
const DEADLINE: Duration = Duration::from_secs(20);

/// An example under way, and where it listens.
struct Example {
    daemon: Daemon,
    log: Log,
    port: u16,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Result<Example> {
        let mut command = Command::new(binaries::example(name)?);
        quiet_environment(&mut command);
        command.args(arguments);
        let log = Log::default();
        let daemon = Daemon::spawn(name, &mut command, &log)?;
        let port = log.wait_for("where it listens", DEADLINE, |line| {
            line.strip_prefix("listening on 127.0.0.1:")?.trim().parse().ok()
        })?;
        Ok(Example { daemon, log, port })
    }

    /// What curl prints, as lines: without the last line's end.
    fn curl(&self, arguments: &[&str], path: &str) -> Result<String> {
        let mut command = Command::new("curl");
        quiet_environment(&mut command);
        command.args(["-sS", "--max-time", "10"]).args(arguments);
        succeed(command.arg(format!("http://127.0.0.1:{}{path}", self.port)), DEADLINE)
    }
}

#[test]
fn a_raw_connection_answers_its_one_request_and_ends() -> Result<()> {
    if machine::skip_for("a_raw_connection_answers_its_one_request_and_ends", &[CURL]) {
        return Ok(());
    }
    let mut example = Example::start("raw_connection", &[])?;
    let said = example.curl(&["-i", "-H", "Expect: 100-continue", "-d", "text"], "/any/pa%20th")?;
    ensure!(said.contains("HTTP/1.1 200 OK\n") && said.contains("Connection: close\n"), "{said}");
    ensure!(said.contains("POST /any/pa th with ") && said.ends_with(" and 4 bytes"), "{said}");
    ensure!(example.daemon.wait_exit(DEADLINE)?.success(), "{}", example.log.tail(9));

    let mut example = Example::start("raw_connection", &[])?;
    let refused = http::parse(&http::raw(example.port, b"GET / HTTP/1.1\r\n\r\n", false)?)?;
    ensure!(refused.status == 400, "a request without Host: {}", refused.head);
    ensure!(example.daemon.wait_exit(DEADLINE)?.success(), "{}", example.log.tail(9));
    Ok(())
}

#[test]
fn the_routes_answer_on_every_engine() -> Result<()> {
    if machine::skip_for("the_routes_answer_on_every_engine", &[CURL]) {
        return Ok(());
    }
    for engine in ENGINES {
        let mut example = Example::start("routes", &[engine])?;
        let said = example.curl(&["-i"], "/hello/w%C3%B6rld")?;
        ensure!(said.contains("\nServer: routes\n"), "{engine}: no middleware: {said}");
        ensure!(said.ends_with("hello w\u{f6}rld, number 1"), "{engine}: {said}");
        ensure!(example.curl(&[], "/hello/again")?.ends_with("number 2"), "{engine}: no shared state");
        let file = example.curl(&[], "/files/a/b%20c//%2e")?;
        ensure!(file == "the file a/b c//.", "{engine}: {file}");
        ensure!(example.curl(&["-d", "some text"], "/echo")? == "some text", "{engine}");
        let refused = example.curl(&["-i", "-X", "DELETE"], "/echo")?;
        ensure!(refused.starts_with("HTTP/1.1 405 "), "{engine}: {refused}");
        ensure!(refused.contains("\nAllow: OPTIONS, POST\n"), "{engine}: {refused}");
        ensure!(example.curl(&["-i"], "/none")?.starts_with("HTTP/1.1 404 "), "{engine}");
        ensure!(example.log.contains("DELETE /echo 405"), "{engine}: {}", example.log.tail(9));
        example.daemon.signal(Signal::INT)?;
        ensure!(example.daemon.wait_exit(DEADLINE)?.success(), "{engine}: {}", example.log.tail(9));
    }
    Ok(())
}

#[test]
fn the_documentation_names_every_example() -> Result<()> {
    let directory = binaries::workspace().join("server/examples");
    let page = std::fs::read_to_string(binaries::workspace().join("docs/HTTP.md"))?;
    for name in ["raw_connection", "routes", "http_engines"] {
        ensure!(directory.join(name).with_extension("rs").is_file(), "no example {name}");
        page.contains(&format!("`{name}`"))
            .then_some(())
            .with_context(|| format!("HTTP.md does not name {name}"))?;
    }
    Ok(())
}
