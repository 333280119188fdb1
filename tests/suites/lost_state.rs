//! State directories that were lost, restored from an older copy, or copied, on real mounts.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::Mount;
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, ops, process, run};

const LEN: usize = 300_000;

/// Makes `to` what `from` is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.try_exists()? {
        fs::remove_dir_all(to)?;
    }
    process::succeed(Command::new("cp").arg("-a").arg(from).arg(to), Duration::from_secs(30)).map(drop)
}

fn is_told(mount: &Mount, part: &str) -> Result<bool> {
    Ok(mount.status()?["notices"].to_string().contains(part))
}

/// Bytes of file `n`: every other one is a hole but for its beginning.
fn bytes(n: usize) -> Vec<u8> {
    let mut bytes = Random::new(n as u64).bytes(LEN);
    if !n.is_multiple_of(2) {
        bytes[100..].fill(0);
    }
    bytes
}

fn make(path: &Path, n: usize) -> Result<()> {
    let (file, bytes) = (fs::File::create_new(path)?, bytes(n));
    let written = if n.is_multiple_of(2) { LEN } else { 100 };
    file.write_all_at(&bytes[..written], 0)?;
    Ok(file.set_len(LEN as u64)?)
}

// S50
#[test]
fn a_mount_whose_state_directory_was_lost_starts_anew_and_says_so() {
    run(&Setup::mounts(2), |cluster| {
        for n in 0..8 {
            make(&cluster.a().join(format!("f{n}")), n)?;
        }
        cluster.settle()?;
        for n in 0..8 {
            ensure!(fs::read(cluster.b().join(format!("f{n}")))? == bytes(n), "f{n} before");
        }
        cluster.server.stop()?;
        fs::write(cluster.b().join("never sent"), b"the only copy")?;
        cluster.mounts[1].stop()?;
        // The tree goes, and with it what everything was named: what had been fetched and written stays.
        fs::remove_dir_all(cluster.mounts[1].state_dir().join("tree"))?;
        cluster.server.start()?;
        cluster.mounts[1].start()?;
        for n in (0..8).rev() {
            fs::write(cluster.b().join(format!("new {n}")), [])?;
            ensure!(
                fs::read(cluster.b().join(format!("f{n}")))? == bytes(n),
                "f{n} has bytes of another one"
            );
            ensure!(
                fs::read(cluster.b().join(format!("new {n}")))?.is_empty(),
                "new {n} has bytes of before"
            );
        }
        ensure!(is_told(&cluster.mounts[1], "was lost")?, "{}", cluster.mounts[1].status()?);
        let lost = cluster.mounts[1].state_dir().join("lost");
        ensure!(is_told(&cluster.mounts[1], &lost.to_string_lossy())?, "{}", cluster.mounts[1].status()?);
        let kept =
            fs::read_dir(&lost)?.map(|entry| Ok(fs::read(entry?.path())?)).collect::<Result<Vec<_>>>()?;
        ensure!(kept.contains(&b"the only copy".to_vec()), "what was never sent is set aside");
        cluster.expect_equal_trees()?;
        ensure!(ops::names(cluster.a())?.len() == 16, "{:?}", ops::names(cluster.a())?);
        Ok(())
    });
}

// S50
#[test]
fn a_mount_restored_from_an_older_copy_replaces_nothing_that_it_does_not_know() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.b().join("edited"), b"before")?;
        fs::write(cluster.b().join("left alone"), b"before")?;
        cluster.settle()?;
        cluster.mounts[1].stop()?;
        let kept = cluster.directory().join("kept");
        let of = |cluster: &Cluster| [cluster.mounts[1].state_dir(), cluster.mounts[1].cache_dir()];
        fs::create_dir(&kept)?;
        for (place, from) in ["state", "cache"].iter().zip(of(cluster)) {
            copy(&from, &kept.join(place))?;
        }
        cluster.mounts[1].start()?;
        fs::write(cluster.b().join("edited"), b"after the copy")?;
        fs::write(cluster.b().join("left alone"), b"after the copy")?;
        make(&cluster.b().join("made after the copy"), 0)?;
        cluster.settle()?;
        cluster.mounts[1].stop()?;
        for (place, to) in ["state", "cache"].iter().zip(of(cluster)) {
            copy(&kept.join(place), &to)?;
        }
        cluster.server.stop()?;
        cluster.mounts[1].start()?;
        // On top of what it knows.
        fs::write(cluster.b().join("edited"), b"after the restore")?;
        cluster.server.start()?;
        // Its numbers meet those of what it forgot.
        for n in 0..6 {
            fs::write(cluster.b().join(format!("new {n}")), format!("{n}"))?;
            cluster.mounts[1].wait_synced()?;
        }
        eventually("it says what happened", || {
            let says = |part| is_told(&cluster.mounts[1], part);
            Ok(says("copy of another mount's")? || says("older than what was written from it")?)
        })?;
        cluster.expect_equal_trees()?;
        let names = ops::names(cluster.a())?;
        ensure!(names.len() == 10, "{names:?}");
        let copy = names.iter().find(|name| name.starts_with(b"edited (conflict"));
        let copy = OsStr::from_bytes(copy.with_context(|| format!("no conflict copy: {names:?}"))?);
        ensure!(fs::read(cluster.a().join("edited"))? == b"after the copy");
        ensure!(fs::read(cluster.a().join(copy))? == b"after the restore");
        ensure!(fs::read(cluster.b().join("left alone"))? == b"after the copy");
        ensure!(fs::read(cluster.b().join("made after the copy"))? == bytes(0));
        Ok(())
    });
}

// S50
#[test]
fn two_mounts_from_copies_of_one_state_directory_lose_nothing_of_each_other() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.a().join("shared"), b"before")?;
        cluster.settle()?;
        cluster.mounts.iter_mut().try_for_each(Mount::stop)?;
        let [one, other] = &cluster.mounts[..] else { unreachable!() };
        copy(&one.state_dir(), &other.state_dir())?;
        copy(&one.cache_dir(), &other.cache_dir())?;
        cluster.mounts.iter_mut().try_for_each(Mount::start)?;
        for round in 0..5 {
            for (name, root) in [("a", cluster.a()), ("b", cluster.b())] {
                fs::write(root.join(format!("{name} {round}")), name)?;
            }
            cluster.mounts.iter().try_for_each(Mount::wait_synced)?;
        }
        cluster.expect_equal_trees()?;
        ensure!(ops::names(cluster.a())?.len() == 11, "{:?}", ops::names(cluster.a())?);
        let told = |mount| is_told(mount, "copy of another mount's");
        ensure!(told(&cluster.mounts[0])? || told(&cluster.mounts[1])?, "neither says it");
        Ok(())
    });
}
