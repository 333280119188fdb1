//! What can be wrong around a mount: each a clear error, and nothing lost.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::chunk_files::{chunk_files, flip_bit};
use dfs_tests::machine::Need;
use dfs_tests::mount::{self, Mount};
use dfs_tests::ops::expect_error;
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, eventually_within, ops, process, run};
use rustix::io::Errno;

const MIB: usize = 1 << 20;

/// Exit code 32 is "mount failed", as mount(8) has it.
const MOUNT_FAILED: i32 = 32;

fn refused_with(output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().context("it was killed")?;
    ensure!([1, 2, 3, 4, 5, MOUNT_FAILED].contains(&code), "exit code {code}: {said}");
    for word in words {
        ensure!(said.contains(word), "the message does not name {word}: {said}");
    }
    ensure!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
    ensure!(said.lines().count() <= 12, "the message is long:\n{said}");
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_said_and_the_mount_works_all_the_same() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        cluster.server.stop()?;
        cluster.mounts[0].start()?;
        let port = cluster.server.port().to_string();
        let mount = &cluster.mounts[0];
        fs::write(mount.path("file"), b"offline")?;
        ensure!(fs::read(mount.path("file"))? == b"offline", "read back");
        let state = ops::state(&mount.path("file"))?;
        ensure!(state != "synced" && state != "remote", "{state} without a server");
        eventually("the log names the server that is not there", || Ok(mount.has_said(&port)))?;
        cluster.server.start()?;
        eventually("it is synced by itself", || Ok(ops::state(&mount.path("file"))? == "synced"))
    });
}

#[test]
fn a_volume_that_does_not_exist_is_refused_by_name() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        cluster.mounts[0].arguments.extend(["--volume".into(), "no-such-volume".into()]);
        let output = cluster.mounts[0].start_refused()?;
        refused_with(&output, &["no-such-volume"])?;
        ensure!(!mount::is_mounted(cluster.a()), "nothing is mounted");
        Ok(())
    });
}

#[test]
fn a_volume_name_that_is_none_is_refused() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        for name in ["../other", "", "a/b", "a b\n"] {
            cluster.mounts[0].arguments = vec!["--volume".into(), name.into()];
            refused_with(&cluster.mounts[0].start_refused()?, &["volume"])?;
        }
        Ok(())
    });
}

#[test]
fn a_mount_point_that_is_a_file_is_refused() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        fs::write(cluster.a(), b"a file")?;
        let output = cluster.mounts[0].start_refused()?;
        refused_with(&output, &[&cluster.a().to_string_lossy(), "directory"])?;
        ensure!(fs::read(cluster.a())? == b"a file", "it is left alone");
        Ok(())
    });
}

#[test]
fn a_mount_point_that_is_not_empty_is_refused() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        fs::create_dir(cluster.a())?;
        fs::write(cluster.a().join("precious"), b"data")?;
        let output = cluster.mounts[0].start_refused()?;
        refused_with(&output, &[&cluster.a().to_string_lossy(), "empty"])?;
        ensure!(fs::read(cluster.a().join("precious"))? == b"data", "it is left alone");
        Ok(())
    });
}

#[test]
fn a_mount_point_that_is_missing_is_made() {
    run(&Setup::mounts(0), |cluster| {
        let below = cluster.directory().join("not/there/yet");
        fs::create_dir_all(&below)?;
        let mut mount = Mount::new(&below, "m", Some(format!("127.0.0.1:{}", cluster.server.port())));
        mount.start()?;
        fs::write(mount.path("file"), b"x")?;
        mount.stop()
    });
}

#[test]
fn a_dead_mount_is_cleaned_up_by_the_next_start_and_nothing_is_lost() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.a().join("file"), b"acknowledged")?;
        cluster.mounts[0].kill();
        let dead = fs::read(cluster.a().join("file"));
        expect_error("reading a dead mount", Errno::NOTCONN, dead)?;
        cluster.mounts[0].start()?;
        ensure!(fs::read(cluster.a().join("file"))? == b"acknowledged", "it is there");
        ensure!(cluster.mounts[0].has_said("dead"), "the log says that a dead mount was cleaned up");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S28
#[test]
fn a_state_directory_in_use_is_refused_with_the_name_of_its_user() {
    run(&Setup::mounts(1), |cluster| {
        let first = cluster.a().to_string_lossy().into_owned();
        let state = cluster.mounts[0].state_dir().to_string_lossy().into_owned();
        let server = format!("127.0.0.1:{}", cluster.server.port());
        let mut command = Command::new(dfs_tests::binaries::program("dfs-mount")?);
        dfs_tests::server::isolate(&mut command, cluster.directory());
        command.arg(cluster.directory().join("second")).args(["--server", &server, "--state-dir", &state]);
        let output = process::output(&mut command, mount::READY_DEADLINE)?;
        mount::unmount_lazily(&cluster.directory().join("second"));
        refused_with(&output, &[&first])?;
        // Whoever uses the cache directory alone removes what it does not know from it.
        let cache = cluster.mounts[0].cache_dir().to_string_lossy().into_owned();
        let mut command = Command::new(dfs_tests::binaries::program("dfs-mount")?);
        dfs_tests::server::isolate(&mut command, cluster.directory());
        command.arg(cluster.directory().join("second")).args(["--server", &server, "--cache-dir", &cache]);
        let output = process::output(&mut command, mount::READY_DEADLINE)?;
        mount::unmount_lazily(&cluster.directory().join("second"));
        refused_with(&output, &[&first, "--cache-dir"])?;
        fs::write(cluster.a().join("file"), b"x").context("the first goes on")?;
        cluster.settle()
    });
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        let mount = &cluster.mounts[0];
        let mut command = mount.command()?;
        // It takes nothing, as a file on a full disk.
        let full = File::options().write(true).open("/dev/full")?;
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).spawn()?;
        let work = || {
            eventually("it is mounted", || Ok(mount::is_mounted(mount.root())))?;
            fs::write(mount.path("file"), b"bytes")?;
            mount.wait_synced()?;
            let output = mount.dfs(&["umount", &mount.root().to_string_lossy()])?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        let worked = work();
        if worked.is_err() {
            mount::unmount_lazily(mount.root());
            process.kill()?;
        }
        let status = process.wait()?;
        worked.and_then(|()| status.success().then_some(()).context("it ended badly"))
    });
}

/// Starts two mounts, the first with state and cache on a disk of so many MiB.
fn start_on_a_small_disk(cluster: &mut Cluster, size_mib: u64) -> Result<SmallDisk> {
    let state = cluster.mounts[0].state_dir();
    let disk = SmallDisk::mount(&state, size_mib)?;
    std::os::unix::fs::symlink(state.join("cache"), cluster.mounts[0].cache_dir())?;
    fs::create_dir(state.join("cache"))?;
    cluster.mounts[0].start()?;
    cluster.mounts[1].start()?;
    Ok(disk)
}

// S26
#[test]
fn a_full_disk_under_the_state_directory_is_enospc_and_goes_on_when_there_is_room() {
    let needs = [Need::Root, Need::Program("mount")];
    run(&Setup::mounts(2).needs(&needs).unstarted(), |cluster| {
        let disk = start_on_a_small_disk(cluster, 512)?;
        let kept = Random::new(61).bytes(2 * MIB);
        fs::write(cluster.a().join("kept"), &kept)?;
        cluster.settle()?;
        cluster.server.kill();

        let ballast = disk.fill_up_to(8 * MIB as u64)?;
        let mut acknowledged = Vec::new();
        let error = loop {
            let name = format!("file {}", acknowledged.len());
            let bytes = Random::new(acknowledged.len() as u64).bytes(MIB);
            match ops::write_synced(&cluster.a().join(&name), &bytes) {
                Ok(()) => acknowledged.push((name, bytes)),
                Err(error) => break error,
            }
            ensure!(acknowledged.len() < 64, "a full disk takes everything");
        };
        let is_full = |error: &std::io::Error| error.raw_os_error() == Some(Errno::NOSPC.raw_os_error());
        ensure!(error.downcast_ref::<std::io::Error>().is_some_and(is_full), "ENOSPC is due: {error:#}");
        ensure!(fs::read(cluster.a().join("kept"))? == kept, "reading goes on");

        fs::remove_file(ballast)?;
        let after = cluster.a().join("after");
        eventually("writing goes on by itself", || Ok(ops::write_synced(&after, b"room again").is_ok()))?;
        cluster.server.start()?;
        cluster.settle()?;
        for (name, bytes) in &acknowledged {
            ensure!(fs::read(cluster.b().join(name))? == *bytes, "{name} was acknowledged and is not in b");
        }
        ensure!(fs::read(cluster.b().join("after"))? == b"room again", "after");
        cluster.compare_trees()?;
        cluster.mounts[0].stop()?;
        drop(disk);
        Ok(())
    });
}

/// Writes a file until the disk is full.
fn fill_by(path: &Path) -> Result<()> {
    // What was removed before is free a moment later.
    eventually("a file can be made", || Ok(File::create(path).is_ok()))?;
    let mut file = File::options().write(true).open(path)?;
    let bytes = Random::new(62).bytes(MIB);
    for _ in 0..1024 {
        if let Err(error) = file.write_all(&bytes) {
            return ops::expect_error("a full disk", Errno::NOSPC, Err::<(), _>(error));
        }
    }
    anyhow::bail!("the disk takes everything")
}

// S26
#[test]
fn a_disk_that_is_filled_again_and_again_gives_room_back_to_whoever_removes_and_the_mount_starts_on_it() {
    let needs = [Need::Root, Need::Program("mount")];
    run(&Setup::mounts(2).needs(&needs).unstarted(), |cluster| {
        let disk = start_on_a_small_disk(cluster, 256)?;
        cluster.server.kill();
        let hog = cluster.a().join("hog");
        for round in 0..8 {
            fill_by(&hog)?;
            fs::remove_file(&hog).with_context(|| format!("removing in round {round}"))?;
        }
        fill_by(&hog)?;
        cluster.mounts[0].kill();
        cluster.mounts[0].start().context("a start on a full disk")?;
        fs::remove_file(&hog).context("removing after a start on a full disk")?;
        let after = cluster.a().join("after");
        eventually("writing goes on by itself", || Ok(ops::write_synced(&after, b"room again").is_ok()))?;
        cluster.server.start()?;
        cluster.settle()?;
        cluster.compare_trees()?;
        cluster.mounts[0].stop()?;
        drop(disk);
        Ok(())
    });
}

// S26
#[test]
fn more_than_the_disk_holds_can_be_written_while_the_server_takes_it() {
    let needs = [Need::Root, Need::Program("mount")];
    run(&Setup::mounts(2).needs(&needs).unstarted(), |cluster| {
        let disk = start_on_a_small_disk(cluster, 256)?;
        let bytes = |number: u64| Random::new(number).bytes(4 * MIB);
        for number in 0..100 {
            let path = cluster.a().join(format!("file {number}"));
            fs::write(&path, bytes(number)).with_context(|| format!("file {number} of 4 MiB"))?;
        }
        cluster.settle()?;
        for number in [0, 50, 99] {
            ensure!(fs::read(cluster.b().join(format!("file {number}")))? == bytes(number), "file {number}");
        }
        cluster.mounts[0].stop()?;
        drop(disk);
        Ok(())
    });
}

// S49
#[test]
fn changes_wait_for_a_full_disk_of_the_server_and_go_on_when_there_is_room() {
    let needs = [Need::Root, Need::Program("mount")];
    run(&Setup::mounts(2).needs(&needs).unstarted(), |cluster| {
        cluster.server.kill();
        let disk = SmallDisk::mount(cluster.server.data(), 128)?;
        cluster.server.start()?;
        cluster.mounts[0].start()?;
        cluster.mounts[1].start()?;
        let bytes = |number: u64| Random::new(number).bytes(8 * MIB);
        fs::write(cluster.a().join("first"), bytes(0))?;
        cluster.settle()?;

        let ballast = disk.fill_up_to(12 * MIB as u64)?;
        for number in 1..6 {
            ops::write_synced(&cluster.a().join(format!("file {number}")), &bytes(number))?;
        }
        ops::write_synced(&cluster.a().join("small"), b"few bytes go on")?;
        eventually("what is small arrives", || Ok(cluster.b().join("small").exists()))?;
        eventually("it is said why the others wait", || {
            let reason = cluster.mounts[0].status()?["reason"].as_str().unwrap_or_default().to_owned();
            Ok(reason.contains("no room on the server's disk"))
        })?;
        for number in 1..6 {
            ensure!(
                fs::read(cluster.a().join(format!("file {number}")))? == bytes(number),
                "file {number} is here"
            );
        }
        ensure!(fs::read(cluster.b().join("first"))? == bytes(0), "reading goes on");
        // Both come back to it while it is full, and what is only there can be read.
        let is = |mount: &Mount, state: &str| Ok(mount.status()?["state"] == state);
        cluster.server.kill();
        eventually("a is without the server", || is(&cluster.mounts[0], "offline"))?;
        cluster.server.start()?;
        eventually("a is let in", || is(&cluster.mounts[0], "online"))?;
        eventually("b is let in", || is(&cluster.mounts[1], "online"))?;
        cluster.mounts[1].dfs(&["evict", &cluster.b().join("first").to_string_lossy()])?;
        ensure!(fs::read(cluster.b().join("first"))? == bytes(0), "b reads on");

        fs::remove_file(ballast)?;
        cluster.settle()?;
        for number in 1..6 {
            ensure!(fs::read(cluster.b().join(format!("file {number}")))? == bytes(number), "file {number}");
        }
        cluster.compare_trees()?;
        cluster.mounts.iter_mut().try_for_each(Mount::stop)?;
        cluster.server.stop()?;
        drop(disk);
        Ok(())
    });
}

/// A small filesystem of its own, taken away when dropped.
struct SmallDisk {
    point: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(point: &Path, size_mib: u64) -> Result<SmallDisk> {
        fs::create_dir_all(point)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "dfs-tests"]).arg(point);
        process::succeed(&mut command, Duration::from_secs(20))?;
        Ok(SmallDisk { point: point.to_owned() })
    }

    /// Takes space until only about `left` bytes are free; returns the file that holds it.
    fn fill_up_to(&self, left: u64) -> Result<std::path::PathBuf> {
        let space = rustix::fs::statvfs(self.point.as_path())?;
        let free = space.f_bavail * space.f_frsize;
        let path = self.point.join("ballast");
        let ballast = File::create(&path)?;
        let length = free.saturating_sub(left);
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length).context("ballast")?;
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        mount::unmount_lazily(&self.point);
    }
}

// S27
#[test]
fn a_corrupt_chunk_on_the_servers_disk_is_never_served_and_named() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.mounts[0].start()?;
        let bytes = Random::new(62).bytes(6 * MIB);
        fs::write(cluster.a().join("file"), &bytes)?;
        fs::write(cluster.a().join("other"), Random::new(63).bytes(1000))?;
        cluster.settle()?;
        let chunks = chunk_files(cluster.server.data())?;
        ensure!(!chunks.is_empty(), "no chunk files under {}", cluster.server.data().display());
        chunks.iter().try_for_each(flip_bit)?;

        cluster.mounts[1].start()?;
        let there = cluster.b().join("file");
        eventually("b lists it", || Ok(fs::metadata(&there)?.len() == 6 * MIB as u64))?;
        expect_error("reading it in b", Errno::IO, fs::read(&there))?;
        eventually("a log names a corrupt chunk", || {
            let named = |hash: &str| cluster.server.has_said(hash) || cluster.mounts[1].has_said(hash);
            Ok(chunks.iter().any(|chunk| named(&chunk.hash)))
        })?;
        ensure!(fs::read(cluster.a().join("file"))? == bytes, "a has its own copy");
        ensure!(fs::read(cluster.b().join("other"))? == Random::new(63).bytes(1000), "others are fine");

        for chunk in chunk_files(cluster.server.data())? {
            if chunks.iter().any(|flipped| flipped.path == chunk.path) {
                flip_bit(&chunk)?;
            }
        }
        eventually_within(Duration::from_secs(60), "b reads it once the disk is repaired", || {
            Ok((fs::read(&there)? == bytes).then_some(()))
        })
    });
}

#[test]
fn a_corrupt_chunk_is_healed_by_whoever_uploads_it_again() {
    run(&Setup::mounts(2), |cluster| {
        let bytes = Random::new(64).bytes(2 * MIB);
        fs::write(cluster.a().join("file"), &bytes)?;
        cluster.settle()?;
        let chunks = chunk_files(cluster.server.data())?;
        for chunk in &chunks {
            fs::remove_file(&chunk.path).with_context(|| format!("lose {}", chunk.path.display()))?;
        }
        let there = cluster.b().join("file");
        ensure!(fs::read(&there).is_err(), "lost chunks can't be read");
        fs::write(cluster.a().join("again"), &bytes)?;
        eventually_within(Duration::from_secs(60), "b reads both", || {
            Ok((fs::read(cluster.b().join("again"))? == bytes && fs::read(&there)? == bytes).then_some(()))
        })
    });
}

#[test]
fn writers_in_a_killed_mount_get_an_error_and_not_silence() {
    run(&Setup::mounts(1), |cluster| {
        let mut file = File::create(cluster.a().join("file"))?;
        file.write_all(b"before")?;
        cluster.mounts[0].kill();
        ensure!(File::create(cluster.a().join("new")).is_err(), "a dead mount takes nothing");
        // The open file may still reach its backing file; closing it must not hang either way.
        let _either = file.write_all(b"after");
        drop(file);
        cluster.mounts[0].start()?;
        let bytes = fs::read(cluster.a().join("file"))?;
        ensure!(bytes.starts_with(b"before"), "{bytes:?}");
        Ok(())
    });
}
