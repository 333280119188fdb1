//! A volume's quota: growth waits or is refused, nothing acknowledged is lost, and it goes on by itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::Mount;
use dfs_tests::random::Random;
use dfs_tests::upload::upload;
use dfs_tests::{Cluster, Setup, binaries, eventually, ops, process, run};
use rustix::io::Errno;
use serde_json::Value;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// Runs `dfs-server` with a command on the server's data directory, beside it.
fn server(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binaries::program("dfs-server")?);
    command.args(arguments).arg("--data-dir").arg(cluster.server.data());
    let output: Output = process::output(&mut command, COMMAND_DEADLINE)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn set_quota(cluster: &Cluster, limit: &str) -> Result<String> {
    server(cluster, &["volume", "quota", "main", limit])
}

/// Waits until a mount has heard of a quota.
fn hears(mount: &Mount, limit: Option<usize>) -> Result<()> {
    eventually("the mount hears of the quota", || {
        Ok(mount.status()?["quota"] == limit.map_or(Value::Null, |limit| Value::from(limit as u64)))
    })
}

/// The files of which a mount says that they wait for room.
fn waiting(mount: &Mount) -> Result<Vec<String>> {
    let status = mount.status()?;
    let files = status["no_room"].as_array().context("no_room")?;
    Ok(files.iter().filter_map(|file| file["path"].as_str().map(str::to_owned)).collect())
}

fn has_no_space<T>(what: &str, result: io::Result<T>) -> Result<()> {
    ops::expect_error(what, Errno::NOSPC, result)
}

/// Size of the file system and what is left of it, in bytes.
fn space(path: &Path) -> Result<(u64, u64)> {
    let space = rustix::fs::statvfs(path)?;
    Ok((space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize))
}

// S48
#[test]
fn a_file_without_room_waits_over_a_restart_and_a_removal_on_the_other_mount_lets_it_through() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.b().join("old"), Random::new(1).bytes(3 * MIB))?;
        fs::write(cluster.b().join("shrinks"), Random::new(2).bytes(512 * KIB))?;
        cluster.settle()?;
        // What the mount does not hear of while it is away: it takes everything, as without a quota.
        cluster.server.kill();
        set_quota(cluster, "4MiB")?;
        let (waits, small) = (Random::new(3).bytes(2 * MIB), Random::new(4).bytes(256 * KIB));
        fs::write(cluster.a().join("waits"), &waits)?;
        fs::write(cluster.a().join("small"), &small)?;
        cluster.server.start()?;
        eventually(
            "what fits is sent",
            || Ok(fs::read(cluster.b().join("small")).is_ok_and(|b| b == small)),
        )?;
        eventually("the other one waits", || Ok(waiting(&cluster.mounts[0])? == ["waits"]))?;
        let explained = cluster.mounts[0].dfs(&["explain", &cluster.a().join("waits").to_string_lossy()])?;
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        ensure!(explained.contains("quota of 4194304 bytes"), "{explained}");
        ensure!(space(cluster.a())? == (4 * MIB as u64, 0), "{:?}", space(cluster.a())?);

        // No room for more, but everything else works and is sent.
        has_no_space("a new file", fs::write(cluster.a().join("more"), b"more"))?;
        File::options().write(true).open(cluster.a().join("shrinks"))?.set_len(1000)?;
        fs::rename(cluster.a().join("small"), cluster.a().join("renamed"))?;
        fs::create_dir(cluster.a().join("dir"))?;
        eventually("what needs no room is sent", || {
            let b = cluster.b();
            let is_cut = fs::metadata(b.join("shrinks")).is_ok_and(|found| found.len() == 1000);
            Ok(is_cut && b.join("renamed").exists() && b.join("dir").exists() && !b.join("small").exists())
        })?;
        ensure!(!cluster.b().join("waits").exists() && waiting(&cluster.mounts[0])? == ["waits"]);

        cluster.mounts[0].kill();
        cluster.mounts[0].start()?;
        ensure!(fs::read(cluster.a().join("waits"))? == waits, "what was acknowledged is there");
        eventually("it waits again", || Ok(waiting(&cluster.mounts[0])? == ["waits"]))?;
        let mut inside = File::options().write(true).open(cluster.a().join("renamed"))?;
        inside.write_all(b"within its length").context("writing within a file's length")?;
        drop(inside);

        fs::remove_file(cluster.b().join("old"))?;
        eventually("it goes on by itself", || {
            Ok(fs::read(cluster.b().join("waits")).is_ok_and(|b| b == waits))
        })?;
        cluster.settle()?;
        ensure!(waiting(&cluster.mounts[0])?.is_empty());
        fs::remove_file(cluster.a().join("more"))?;
        fs::write(cluster.a().join("more"), b"more").context("there is room")?;
        cluster.settle()?;
        cluster.compare_trees()?;
        ensure!(cluster.mounts[0].status()?["conflicts"] == 0);
        ensure!(server(cluster, &["check"])?.contains("no problems"));
        Ok(())
    });
}

// S48
#[test]
fn writers_fill_a_quota_to_its_end_get_enospc_and_go_on_when_it_is_raised() {
    run(&Setup::mounts(2), |cluster| {
        let disk = space(cluster.a())?;
        ensure!(set_quota(cluster, "4MiB")?.contains("4194304"));
        for mount in &cluster.mounts {
            hears(mount, Some(4 * MIB))?;
        }
        let mut acknowledged = Vec::new();
        let error = loop {
            let name = format!("file {}", acknowledged.len());
            let bytes = Random::new(acknowledged.len() as u64).bytes(300 * KIB);
            match fs::write(cluster.a().join(&name), &bytes) {
                Ok(()) => acknowledged.push((name, bytes)),
                Err(error) => break error,
            }
            ensure!(acknowledged.len() < 64, "a full volume takes everything");
        };
        has_no_space("the last one", Err::<(), _>(error))?;
        ensure!(acknowledged.len() == 4 * MIB / (300 * KIB), "{} files", acknowledged.len());
        let (size, left) = space(cluster.a())?;
        ensure!(size == 4 * MIB as u64 && left < 300 * KIB as u64, "{size} {left}");
        let first = cluster.a().join("file 0");
        let file = File::options().write(true).open(&first)?;
        has_no_space("a longer file", file.set_len(8 * MIB as u64))?;
        let allocate = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 8 * MIB as u64);
        has_no_space("an allocation", allocate.map_err(io::Error::from))?;
        has_no_space("a copy", fs::copy(&first, cluster.a().join("copy")))?;
        fs::remove_file(cluster.a().join("copy"))?;
        let mut end = File::options().append(true).open(&first)?;
        has_no_space("an append", end.write_all(&vec![0; 300 * KIB]))?;
        drop((file, end));
        fs::remove_file(cluster.a().join(format!("file {}", acknowledged.len())))?;
        cluster.settle()?;
        for (name, bytes) in &acknowledged {
            ensure!(fs::read(cluster.b().join(name))? == *bytes, "{name} was acknowledged and is not in b");
        }

        let error =
            upload(cluster.server.port(), "by/program", &vec![7; 400 * KIB]).err().context("no room")?;
        let error = format!("{error:#}");
        ensure!(error.contains("507") && error.contains("quota_exceeded"), "{error}");
        let list = server(cluster, &["volume", "list"])?;
        ensure!(list.contains("quota 4194304"), "{list}");
        let info = cluster.server.info()?;
        let used: usize = acknowledged.iter().map(|(_, bytes)| bytes.len()).sum();
        ensure!(info["used_bytes"] == used && info["quota_bytes"] == 4 * MIB, "{info}");

        set_quota(cluster, "8MiB")?;
        let more = Random::new(99).bytes(2 * MIB);
        let there = cluster.a().join("more");
        eventually("writing goes on by itself", || Ok(fs::write(&there, &more).is_ok()))?;
        upload(cluster.server.port(), "by/program", &vec![7; 400 * KIB])?;
        set_quota(cluster, "none")?;
        hears(&cluster.mounts[0], None)?;
        ensure!(space(cluster.a())?.0 == disk.0, "it is the disk again");
        cluster.settle()?;
        ensure!(fs::read(cluster.b().join("more"))? == more);
        cluster.compare_trees()?;
        Ok(())
    });
}

#[test]
fn a_quota_of_a_volume_that_is_not_there_and_one_that_is_no_size_are_refused() {
    run(&Setup::mounts(1), |cluster| {
        for (arguments, code) in
            [(["volume", "quota", "other", "1GiB"], 3), (["volume", "quota", "main", "lots"], 2)]
        {
            let mut command = Command::new(binaries::program("dfs-server")?);
            command.args(arguments).arg("--data-dir").arg(cluster.server.data());
            let output = process::output(&mut command, COMMAND_DEADLINE)?;
            ensure!(output.status.code() == Some(code), "{arguments:?}: {output:?}");
        }
        Ok(())
    });
}
