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

/// `dfs` without a mount point, from a directory inside a mount.
fn inside(directory: &std::path::Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries::program("dfs")?);
    process::output(command.args(arguments).current_dir(directory), Duration::from_secs(30))
}

#[test]
fn status_and_wait_without_an_argument_are_about_the_mount_of_the_working_directory() {
    run(&Setup::mounts(2), |cluster| {
        for mount in &cluster.mounts {
            let below = mount.path("below");
            std::fs::create_dir_all(&below)?;
            let output = inside(&below, &["status"])?;
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{output:?}");
            ensure!(
                said.contains(&*mount.root().to_string_lossy()),
                "{} is not in:\n{said}",
                below.display()
            );
            ensure!(inside(&below, &["wait", "--timeout", "20"])?.status.success());
        }
        let elsewhere = inside(std::path::Path::new("/"), &["status"])?;
        let said = String::from_utf8_lossy(&elsewhere.stderr);
        ensure!(!elsewhere.status.success(), "two mounts and none named: {elsewhere:?}");
        for mount in &cluster.mounts {
            ensure!(said.contains(&*mount.root().to_string_lossy()), "names what there is:\n{said}");
        }
        Ok(())
    });
}
