//! Versions that were replaced or removed, from a mount; and the commands that look after a server's data.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::Mount;
use dfs_tests::{Cluster, Setup, binaries, eventually, process, run};
use serde_json::Value;

const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}: {out}{err}", output.status)
}

fn done(mount: &Mount, arguments: &[&str]) -> Result<String> {
    let output = mount.dfs(arguments)?;
    ensure!(output.status.success(), "dfs {arguments:?}: {}", said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn versions(mount: &Mount, path: &Path) -> Result<Vec<Value>> {
    let json: Value = serde_json::from_str(&done(mount, &["history", &text(path), "--json"])?)?;
    Ok(json["versions"].as_array().context("versions")?.clone())
}

/// Runs `dfs-server` with a command on a data directory.
fn care(data: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries::program("dfs-server")?);
    command.args(arguments).arg("--data-dir").arg(data);
    process::output(&mut command, COMMAND_DEADLINE)
}

fn cared(data: &Path, arguments: &[&str]) -> Result<String> {
    let output = care(data, arguments)?;
    ensure!(output.status.success(), "dfs-server {arguments:?}: {}", said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_synced(cluster: &Cluster, path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes)?;
    cluster.mounts[0].wait_synced()
}

// S30
#[test]
fn an_old_version_is_listed_and_restored_as_an_ordinary_change() {
    run(&Setup::mounts(2), |cluster| {
        let (file, there) = (cluster.a().join("file"), cluster.b().join("file"));
        let large = [&vec![0; 300_000][..], &b"first ".repeat(100_000)].concat();
        write_synced(cluster, &file, &large)?;
        write_synced(cluster, &file, b"second")?;
        let mount = &cluster.mounts[0];
        let listed = versions(mount, &file)?;
        ensure!(listed[0]["state"] == "current" && listed[0]["size"] == 6, "{listed:?}");
        ensure!(listed.iter().all(|version| version["author"] == "host-a"), "{listed:?}");
        let old = listed.iter().find(|version| version["size"] == large.len()).context("the first")?;
        let number = old["version"].to_string();
        ensure!(done(mount, &["history", &text(&file)])?.lines().count() == listed.len() + 1);
        let copy = cluster.a().join("copy");
        done(mount, &["restore", &text(&file), "--version", &number, "--to", &text(&copy)])?;
        ensure!(fs::read(&copy)? == large && fs::read(&file)? == b"second", "--to changes nothing else");
        done(mount, &["restore", &text(&file), "--version", &number])?;
        ensure!(fs::read(&file)? == large);
        eventually("it reaches the other mount", || Ok(fs::read(&there)? == large))?;
        cluster.settle()?;
        let now = versions(&cluster.mounts[0], &file)?;
        ensure!(now.iter().any(|version| version["size"] == 6), "what was replaced is kept too: {now:?}");
        let missing = cluster.mounts[0].dfs(&["restore", &text(&file), "--version", "999"])?;
        ensure!(missing.status.code() == Some(3), "{}", said(&missing));
        Ok(())
    });
}

// S31
#[test]
fn removed_files_are_listed_and_come_back_also_with_their_directory() {
    run(&Setup::mounts(1), |cluster| {
        fs::create_dir(cluster.a().join("d"))?;
        let file = cluster.a().join("d/file");
        write_synced(cluster, &file, b"content")?;
        fs::remove_dir_all(cluster.a().join("d"))?;
        cluster.settle()?;
        let mount = &cluster.mounts[0];
        let root = done(mount, &["history", "--deleted", &text(cluster.a())])?;
        ensure!(root.contains("d/"), "{root}");
        let inside = done(mount, &["history", "--deleted", &text(&cluster.a().join("d"))])?;
        ensure!(inside.contains("file"), "{inside}");
        done(mount, &["restore", &text(&file)])?;
        ensure!(fs::read(&file)? == b"content");
        Ok(())
    });
}

// S31
#[test]
fn a_removed_file_comes_back_as_it_was_last_with_its_mode() {
    run(&Setup::mounts(1), |cluster| {
        let file = cluster.a().join("file");
        for text in ["the first", "the second", "the last"] {
            write_synced(cluster, &file, text.as_bytes())?;
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o750))?;
        cluster.settle()?;
        fs::remove_file(&file)?;
        cluster.settle()?;
        done(&cluster.mounts[0], &["restore", &text(&file)])?;
        let found = (fs::read_to_string(&file)?, fs::metadata(&file)?.mode() & 0o7777);
        ensure!(found == ("the last".to_owned(), 0o750), "{found:?}");
        Ok(())
    });
}

// S30
#[test]
fn what_was_not_sent_yet_is_in_the_history_when_an_older_version_takes_its_place() {
    run(&Setup::mounts(1), |cluster| {
        let file = cluster.a().join("file");
        write_synced(cluster, &file, b"one")?;
        let number = versions(&cluster.mounts[0], &file)?[0]["version"].to_string();
        // So much that it is not sent by the time that the old version has come.
        let unsent = dfs_tests::random::Random::new(8).bytes(24 << 20);
        fs::write(&file, &unsent)?;
        done(&cluster.mounts[0], &["restore", &text(&file), "--version", &number])?;
        ensure!(fs::read(&file)? == b"one");
        cluster.settle()?;
        let now = versions(&cluster.mounts[0], &file)?;
        ensure!(now.iter().any(|version| version["size"] == unsent.len()), "{now:?}");
        Ok(())
    });
}

// S30
#[test]
fn versions_before_a_save_by_rename_are_listed_too() {
    run(&Setup::mounts(1), |cluster| {
        let (file, new) = (cluster.a().join("file"), cluster.a().join("new"));
        write_synced(cluster, &file, b"one")?;
        write_synced(cluster, &new, b"three")?;
        fs::rename(&new, &file)?;
        cluster.settle()?;
        let mount = &cluster.mounts[0];
        let listed = versions(mount, &file)?;
        let old = listed.iter().find(|version| version["size"] == 3).context("the one before")?;
        ensure!(old["state"] == "removed", "{old}");
        let id = format!("r{}", old["revision"]);
        done(mount, &["restore", &text(&file), "--version", &id])?;
        ensure!(fs::read(&file)? == b"one");
        Ok(())
    });
}

// S30
#[test]
fn without_a_server_the_history_is_refused_with_exit_code_5() {
    run(&Setup::mounts(1), |cluster| {
        let file = cluster.a().join("file");
        write_synced(cluster, &file, b"one")?;
        cluster.server.kill();
        for arguments in [&["history", &text(&file)][..], &["restore", &text(&file), "--version", "1"]] {
            let refused = cluster.mounts[0].dfs(arguments)?;
            ensure!(refused.status.code() == Some(5), "{}", said(&refused));
            ensure!(!refused.stderr.is_empty(), "and says why");
        }
        ensure!(fs::read(&file)? == b"one");
        Ok(())
    });
}

// S32
#[test]
fn check_gc_backup_and_restore_work_beside_a_running_server() {
    let setup = Setup::mounts(1).server_arguments(&["--history-keep", "0s"]);
    run(&setup, |cluster| {
        let file = cluster.a().join("file");
        write_synced(cluster, &file, &b"old ".repeat(100_000))?;
        write_synced(cluster, &file, &b"new ".repeat(100_000))?;
        let data = cluster.server.data().to_owned();
        let checked = cared(&data, &["check"])?;
        ensure!(checked.contains("no problems"), "{checked}");
        let collected = cared(&data, &["gc", "--grace", "0s"])?;
        ensure!(!collected.contains(" 0 manifests"), "{collected}");
        ensure!(cared(&data, &["check"])?.contains("no problems"));
        let backup = cluster.directory().join("backup.tar");
        cared(&data, &["backup", &text(&backup)])?;
        let refused = care(&data, &["restore", &text(&backup)])?;
        ensure!(refused.status.code() == Some(1), "a directory in use: {}", said(&refused));
        let other = cluster.directory().join("restored");
        cared(&other, &["restore", &text(&backup)])?;
        ensure!(cared(&other, &["check"])?.contains("no problems"));
        ensure!(fs::read(&file)? == b"new ".repeat(100_000));
        let nothing = care(&cluster.directory().join("nothing"), &["check"])?;
        ensure!(nothing.status.code() == Some(3), "{}", said(&nothing));
        Ok(())
    });
}
