//! The policy `last-write-wins` on real mounts: the later content keeps the name whichever mount arrives first, and the other one
//! can be restored from the history.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::Mount;
use dfs_tests::{Cluster, Setup, ops, run};

use super::{expect, listing, meet};

const POLICY: [&str; 2] = ["--on-conflict", "last-write-wins"];

/// How a version comes to be under the name `f.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Edit,
    SaveByRename,
    Create,
}

/// What two mounts did, and which of them did it later. The first one arrives first.
struct Case {
    how: [How; 2],
    later: usize,
}

impl Case {
    fn all() -> Vec<Self> {
        use How::{Create, Edit, SaveByRename};
        let how = [[Edit, Edit], [Edit, SaveByRename], [SaveByRename, Edit], [SaveByRename; 2], [Create; 2]];
        how.into_iter().flat_map(|how| [0, 1].map(|later| Self { how, later })).collect()
    }

    fn directory(&self, root: &Path) -> PathBuf {
        root.join(format!("{:?}, {:?}, {} later", self.how[0], self.how[1], ["first", "second"][self.later]))
    }

    fn file(&self, root: &Path) -> PathBuf {
        self.directory(root).join("f.txt")
    }

    /// What a mount writes: of a length that tells the versions of a case apart; large where both sides edit.
    fn bytes(&self, mount: usize) -> Vec<u8> {
        let text = format!("from {mount} of {:?}\n", self.how);
        let times = if self.how == [How::Edit; 2] { 60_000 } else { 1 };
        [text.repeat(times).into_bytes(), vec![b'.'; mount]].concat()
    }

    fn write(&self, root: &Path, mount: usize) -> Result<()> {
        let (file, bytes) = (self.file(root), self.bytes(mount));
        // Years ago, so that nothing else has these times.
        let secs = 1_000_000_000 + if self.later == mount { 60 } else { 0 };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let target =
            if self.how[mount] == How::SaveByRename { file.with_extension("new") } else { file.clone() };
        ops::write_synced(&target, &bytes)?;
        fs::File::options().write(true).open(&target)?.set_modified(time)?;
        if target != file {
            fs::rename(&target, &file)?;
        }
        Ok(())
    }
}

fn json(mount: &Mount, arguments: &[&str]) -> Result<serde_json::Value> {
    let output = mount.dfs(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "dfs {arguments:?}: {}: {said}", output.status);
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// Returns the bytes of the version of a file that has this length and is not the current one.
fn restored(cluster: &Cluster, file: &Path, len: usize) -> Result<Vec<u8>> {
    let mount = &cluster.mounts[0];
    let path = file.to_string_lossy();
    let listed = json(mount, &["history", &path, "--json"])?;
    let versions = listed["versions"].as_array().context("versions")?;
    let mut past = versions.iter().filter(|version| version["state"] != "current" && version["size"] == len);
    let found = past.next().with_context(|| format!("no version of {len} bytes: {listed:#}"))?;
    ensure!(past.next().is_none(), "it is kept once: {listed:#}");
    ensure!(versions[0]["state"] == "current", "the newest is the current one: {listed:#}");
    let (id, to) = (format!("r{}", found["revision"]), cluster.directory().join("restored"));
    json(mount, &["restore", &path, "--version", &id, "--to", &to.to_string_lossy()])?;
    let bytes = fs::read(&to)?;
    fs::remove_file(&to)?;
    Ok(bytes)
}

fn last_writes(crash: bool) {
    run(&Setup::mounts(2).through_proxies().mount_arguments(&POLICY), |cluster| {
        for case in Case::all() {
            fs::create_dir(case.directory(cluster.a()))?;
            if case.how[0] != How::Create {
                fs::write(case.file(cluster.a()), "base")?;
            }
        }
        cluster.expect_equal_trees()?;
        cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::cut);
        for case in Case::all() {
            case.write(cluster.a(), 0)?;
            case.write(cluster.b(), 1)?;
        }
        meet(cluster, crash)?;
        if crash {
            // Whatever it has done by now: it goes on from there.
            cluster.mounts[1].kill();
            cluster.mounts[1].start()?;
        }
        cluster.expect_equal_trees()?;
        for case in Case::all() {
            let (later, earlier) = (case.bytes(case.later), case.bytes(1 - case.later));
            let directory = case.directory(cluster.a());
            let check = || -> Result<()> {
                ensure!(ops::names(&directory)? == [b"f.txt"], "{:?}", ops::names(&directory)?);
                ensure!(fs::read(case.file(cluster.a()))? == later, "the earlier version is under the name");
                let found = restored(cluster, &case.file(cluster.a()), earlier.len())?;
                ensure!(found == earlier, "the earlier version came back as {} bytes", found.len());
                Ok(())
            };
            check().with_context(|| directory.display().to_string())?;
        }
        let open =
            json(&cluster.mounts[1], &["conflicts", "list", &cluster.b().to_string_lossy(), "--json"])?;
        ensure!(open["conflicts"] == serde_json::json!([]), "nothing is left to be decided: {open}");
        Ok(())
    });
}

// S40
#[test]
fn the_later_version_wins_in_both_orders_and_the_earlier_one_is_restored_from_history() {
    last_writes(false);
}

// S40
#[test]
fn the_later_version_wins_after_crashes_of_the_second_mount_and_the_earlier_one_is_restored() {
    last_writes(true);
}

// S40
#[test]
fn no_mount_shows_a_version_that_lost_after_the_one_that_won() {
    run(&Setup::mounts(2).through_proxies().mount_arguments(&POLICY), |cluster| {
        let case = Case { how: [How::Edit, How::SaveByRename], later: 0 };
        fs::create_dir(case.directory(cluster.a()))?;
        fs::write(case.file(cluster.a()), "base")?;
        cluster.expect_equal_trees()?;
        cluster.proxies[1].cut();
        case.write(cluster.a(), 0)?;
        case.write(cluster.b(), 1)?;
        cluster.mounts[0].wait_synced()?;
        let (file, ended) = (case.file(cluster.a()), AtomicBool::new(false));
        let seen = std::thread::scope(|scope| {
            let reader = scope.spawn(|| -> Result<BTreeSet<Vec<u8>>> {
                let mut seen = BTreeSet::new();
                while !ended.load(Ordering::Acquire) {
                    seen.insert(fs::read(&file)?);
                    // Often enough to see what is there for a moment, and not all that the mount does.
                    std::thread::park_timeout(Duration::from_millis(2));
                }
                Ok(seen)
            });
            cluster.proxies[1].restore();
            let settled = cluster.expect_equal_trees();
            ended.store(true, Ordering::Release);
            settled.and_then(|_| reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?)
        })?;
        ensure!(seen == BTreeSet::from([case.bytes(0)]), "{} versions were seen", seen.len());
        ensure!(restored(cluster, &file, case.bytes(1).len())? == case.bytes(1));
        Ok(())
    });
}

// S16
#[test]
fn where_the_last_write_wins_an_edit_survives_a_later_deletion_in_both_orders() {
    run(&Setup::mounts(2).through_proxies().mount_arguments(&POLICY), |cluster| {
        for name in ["edited first", "removed first"] {
            fs::write(cluster.a().join(name), "base")?;
        }
        cluster.expect_equal_trees()?;
        cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::cut);
        fs::write(cluster.a().join("edited first"), "edited")?;
        fs::write(cluster.b().join("removed first"), "edited")?;
        fs::remove_file(cluster.b().join("edited first"))?;
        fs::remove_file(cluster.a().join("removed first"))?;
        cluster.proxies[0].restore();
        cluster.mounts[0].wait_synced()?;
        cluster.proxies[1].restore();
        cluster.expect_equal_trees()?;
        expect(&listing(cluster.a())?, &[("edited first", "edited"), ("removed first", "edited")])
    });
}
