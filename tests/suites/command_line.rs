//! Help, versions, exit codes and messages of the three programs.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::{Setup, binaries, process, run};

/// A help text fits a screen.
const SCREEN_LINES: usize = 50;

fn program(name: &str, arguments: &[&str]) -> Result<Output> {
    let directory = tempfile::tempdir()?;
    let mut command = Command::new(binaries::program(name)?);
    dfs_tests::server::isolate(&mut command, directory.path());
    process::output(command.args(arguments), Duration::from_secs(20))
}

fn code(output: &Output) -> Result<i32> {
    output.status.code().with_context(|| format!("killed: {output:?}"))
}

#[test]
fn help_fits_a_screen_and_shows_an_example() -> Result<()> {
    for name in binaries::PROGRAMS {
        let output = program(name, &["--help"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(code(&output)? == 0, "{name} --help: {output:?}");
        ensure!(said.to_lowercase().contains("example"), "{name} --help shows no example:\n{said}");
        ensure!(said.lines().count() <= SCREEN_LINES, "{name} --help has {} lines", said.lines().count());
    }
    Ok(())
}

#[test]
fn every_program_tells_its_version() -> Result<()> {
    for name in binaries::PROGRAMS {
        let output = program(name, &["--version"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(code(&output)? == 0 && said.contains(env!("CARGO_PKG_VERSION")), "{name}: {output:?}");
    }
    Ok(())
}

#[test]
fn wrong_usage_is_exit_code_2_and_names_what_is_wrong() -> Result<()> {
    for (name, arguments) in [
        ("dfs-server", &["--no-such-flag"][..]),
        ("dfs-server", &["--listen", "not an address"]),
        ("dfs-server", &["--engine", "steam"]),
        ("dfs-mount", &[]),
        ("dfs-mount", &["/tmp/x", "--no-such-flag"]),
        ("dfs-mount", &["/tmp/x", "--fsync", "never"]),
        ("dfs", &["no-such-command"]),
        ("dfs", &["wait", "--timeout", "soon"]),
    ] {
        let output = program(name, arguments)?;
        ensure!(code(&output)? == 2, "{name} {arguments:?}: {output:?}");
        ensure!(!output.stderr.is_empty(), "{name} {arguments:?} says nothing");
    }
    Ok(())
}

#[test]
fn a_path_that_is_no_mount_is_exit_code_3_and_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_string_lossy().into_owned();
    for command in ["status", "wait", "umount"] {
        let output = program("dfs", &[command, &path])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(code(&output)? == 3, "dfs {command} {path}: {output:?}");
        ensure!(said.contains(&path), "dfs {command} does not name {path}: {said}");
        ensure!(said.lines().count() <= 4, "an error is one or two lines:\n{said}");
    }
    Ok(())
}

#[test]
fn status_without_argument_lists_the_running_mounts() {
    run(&Setup::mounts(2), |cluster| {
        let output = cluster.mounts[0].dfs(&["status"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{output:?}");
        for mount in &cluster.mounts {
            ensure!(
                said.contains(&*mount.root().to_string_lossy()),
                "{} is not in:\n{said}",
                mount.root().display()
            );
        }
        Ok(())
    });
}

#[test]
fn wait_without_argument_waits_for_every_running_mount() {
    run(&Setup::mounts(2), |cluster| {
        for mount in &cluster.mounts {
            std::fs::write(mount.path(&format!("from {}", mount.root().display()).replace('/', "-")), b"x")?;
        }
        let output = cluster.mounts[0].dfs(&["wait", "--timeout", "20"])?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(cluster.mounts.iter().all(|mount| mount.status().is_ok()), "they go on");
        Ok(())
    });
}
