//! TLS on every engine, with curl and Python as clients and certificates that openssl makes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::engine::on_every_engine_with;
use dfs_tests::machine::{Need, skip_for};
use dfs_tests::mount::Mount;
use dfs_tests::server::{Server, isolate};
use dfs_tests::{binaries, certificate, eventually, http, process};
use rustix::process::Signal;

const NEEDS: [Need; 3] = [Need::Program("openssl"), Need::Program("curl"), Need::Program("python3")];
const DEADLINE: Duration = Duration::from_secs(60);

fn with_tls(name: &str, test: impl Fn(&mut Server, &Path) -> Result<()>) {
    on_every_engine_with(name, &NEEDS, certificate::server_arguments, test);
}

fn curl(server: &Server, directory: &Path, arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10"]).args(arguments).current_dir(directory);
    command.arg(format!("https://127.0.0.1:{}/api/info", server.port()));
    process::quiet_environment(&mut command);
    process::output(&mut command, DEADLINE)
}

fn is_served(server: &Server, directory: &Path) -> Result<()> {
    let output = curl(server, directory, &["--cacert", "used.pem"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && said.contains("merkle_root"), "{output:?}");
    Ok(())
}

#[test]
fn curl_that_knows_the_certificate_is_served_and_one_that_does_not_refuses() {
    with_tls("curl_that_knows_the_certificate_is_served", |server, directory| {
        ensure!(
            server.has_said(&format!("listening on https://127.0.0.1:{}", server.port())),
            "the ready line"
        );
        is_served(server, directory)?;
        let refused = curl(server, directory, &[])?;
        ensure!(refused.status.code() == Some(60), "curl takes an unknown certificate: {refused:?}");
        for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["--http1.0"], &["--http1.1"]] {
            let output = curl(server, directory, &[&["--cacert", "used.pem"], version].concat())?;
            ensure!(output.status.success(), "{version:?}: {output:?}");
        }
        // A body that does not fit one record.
        let large = directory.join("large");
        fs::write(&large, vec![b'x'; 3 << 20])?;
        let upload = ["--cacert", "used.pem", "-X", "PUT", "-w", "%{http_code}", "--data-binary", "@large"];
        let output = curl(server, directory, &upload)?;
        ensure!(String::from_utf8_lossy(&output.stdout).ends_with("405"), "{output:?}");
        is_served(server, directory)
    });
}

#[test]
fn a_peer_that_does_not_speak_tls_is_refused_and_others_are_served() {
    with_tls("a_peer_that_does_not_speak_tls_is_refused", |server, directory| {
        let reply = http::raw(server.port(), b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n", false);
        ensure!(!reply.is_ok_and(|reply| reply.starts_with(b"HTTP/")), "plain HTTP was answered");
        is_served(server, directory)
    });
}

#[test]
fn a_new_certificate_is_used_after_sighup_and_open_connections_go_on() {
    with_tls("a_new_certificate_is_used_after_sighup", |server, directory| {
        certificate::make(directory, "next", 99)?;
        let script = directory.join("client.py");
        fs::write(
            &script,
            r#"
import http.client, os, shutil, signal, ssl, sys, time
port, server, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
at = lambda name: os.path.join(directory, name)
context = ssl.create_default_context(cafile=at("used.pem"))
context.load_verify_locations(at("next.pem"))
def connect():
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    connection.connect()
    return connection, int(connection.sock.getpeercert()["serialNumber"], 16)
def ask(connection):
    connection.request("GET", "/health")
    reply = connection.getresponse()
    assert reply.status == 200
    reply.read()
old, serial = connect()
ask(old)
assert serial == 7, serial
used = old.sock
shutil.copyfile(at("next.key"), at("used.key"))
shutil.copyfile(at("next.pem"), at("used.pem"))
os.kill(server, signal.SIGHUP)
end = time.monotonic() + 20
while True:
    new, serial = connect()
    ask(new)
    if serial == 99: break
    assert time.monotonic() < end, "the old certificate is still in use"
ask(old)
assert old.sock is used, "the old connection was dropped"
print("served")
"#,
        )?;
        let mut command = Command::new("python3");
        command.arg(&script).arg(server.port().to_string());
        command.arg(server.id().context("the server runs")?.to_string()).arg(directory);
        process::quiet_environment(&mut command);
        let said = process::succeed(&mut command, DEADLINE)?;
        ensure!(said.trim() == "served", "{said}");

        fs::write(directory.join("used.pem"), "no certificate")?;
        server.signal(Signal::HUP)?;
        eventually("the server says that the old certificate stays", || {
            Ok(server.has_said("the old certificate stays in use"))
        })?;
        fs::copy(directory.join("next.pem"), directory.join("used.pem"))?;
        is_served(server, directory)?;
        server.stop()
    });
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() -> Result<()> {
    if skip_for("files_that_cannot_be_used_are_refused_by_name", &NEEDS) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    certificate::make(directory.path(), "one", 1)?;
    certificate::make(directory.path(), "two", 2)?;
    fs::write(directory.path().join("empty.pem"), "")?;
    for (certificate, key, named) in [
        ("missing.pem", "one.key", "missing.pem"),
        ("one.pem", "missing.key", "missing.key"),
        ("empty.pem", "one.key", "empty.pem"),
        ("one.pem", "empty.pem", "empty.pem"),
        ("one.pem", "two.key", "two.key"),
    ] {
        let mut command = Command::new(binaries::program("dfs-server")?);
        isolate(&mut command, directory.path());
        command.args(["--listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key]);
        let output = process::output(&mut command, DEADLINE)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains(named), "{certificate} {key}: {output:?}");
    }
    Ok(())
}

#[test]
fn a_mount_that_knows_the_certificate_works_and_one_that_does_not_says_why() {
    const NEEDS: [Need; 2] = [Need::Program("openssl"), Need::Fuse];
    let arguments = |directory: &Path| {
        certificate::make(directory, "other", 8)?;
        certificate::server_arguments(directory)
    };
    on_every_engine_with(
        "a_mount_that_knows_the_certificate_works",
        &NEEDS,
        arguments,
        |server, directory| {
            let address = format!("https://127.0.0.1:{}", server.port());
            let ca = |name: &str| vec!["--ca".to_owned(), directory.join(name).display().to_string()];
            let mut mount = Mount::new(directory, "m", Some(address.clone()));
            mount.arguments = ca("used.pem");
            mount.start()?;
            fs::write(mount.path("file"), b"over TLS")?;
            mount.wait_synced()?;
            mount.stop()?;

            let mut stranger = Mount::new(directory, "stranger", Some(address.clone()));
            stranger.arguments = ca("other.pem");
            stranger.start()?;
            let reason = stranger.status()?["reason"].to_string();
            ensure!(reason.contains("certificate"), "{reason}");
            stranger.stop()?;

            let mut wrong = Mount::new(directory, "wrong", Some(address));
            wrong.arguments = ca("used.key");
            let output = wrong.start_refused()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2) && said.contains("used.key"), "{output:?}");
            Ok(())
        },
    );
}
