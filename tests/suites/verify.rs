//! `dfs verify` on real mounts: what is damaged behind the mount's back is named, put right and read right afterwards.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::Mount;
use dfs_tests::random::Random;
use dfs_tests::{Setup, eventually, ops, run};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// What `dfs verify PATH --json` says, with its exit code.
fn verify(mount: &Mount, path: &Path) -> Result<(Option<i32>, Value)> {
    let output = mount.dfs(&["verify", "--json", &path.to_string_lossy()])?;
    let said = serde_json::from_slice(&output.stdout);
    let said = said.with_context(|| format!("dfs verify: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.code(), said))
}

/// Waits until `--no-repair` names these files: the kernel gives handles back a moment after they were closed.
fn named(mount: &Mount, wanted: &[&str]) -> Result<()> {
    eventually("the damage is named", || {
        let output = mount.dfs(&["verify", "--json", "--no-repair", &mount.root().to_string_lossy()])?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let findings = said["findings"].as_array().context("findings")?;
        let mut paths: Vec<_> = findings.iter().filter_map(|found| found["path"].as_str()).collect();
        paths.sort_unstable();
        Ok(output.status.code() == Some(1) && paths == wanted && said["verified"]["repaired"] == 0)
    })
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The backing file of this length below a directory.
fn backing(directory: &Path, len: usize) -> Result<PathBuf> {
    let files = ops::files_below(directory)?;
    let found =
        files.into_iter().find(|path| fs::metadata(path).is_ok_and(|found| found.len() == len as u64));
    found.with_context(|| format!("no backing file of {len} bytes in {}", directory.display()))
}

fn flip(file: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 1], at)?)
}

#[test]
fn damaged_bytes_are_named_and_fetched_anew_online_and_after_the_server_is_back() {
    run(&Setup::mounts(2).through_proxies(), |cluster| {
        let mut random = Random::new(43);
        let (large, small) = (random.bytes(5 * MIB + 1), random.bytes(3001));
        fs::write(cluster.a().join("large"), &large)?;
        fs::write(cluster.a().join("small"), &small)?;
        cluster.settle()?;
        let (a, b) = (&cluster.mounts[0], &cluster.mounts[1]);
        for name in ["large", "small"] {
            fs::read(b.path(name))?;
        }
        for mount in [a, b] {
            let output = mount.dfs(&["verify", &mount.root().to_string_lossy()])?;
            let said = text(&output);
            ensure!(output.status.success() && said.contains("damage     none"), "{said}");
            ensure!(said.contains("2 files") && said.contains("equal at revision"), "{said}");
        }

        // Fetched bytes of `b`, bytes written in `a`, a small file of which the kernel has pages.
        flip(&backing(&b.cache_dir(), large.len())?, 3 * MIB as u64)?;
        flip(&backing(&b.cache_dir(), small.len())?, 17)?;
        flip(&backing(&a.state_dir(), large.len())?, 0)?;
        for (mount, wanted) in [(b, &["large", "small"][..]), (a, &["large"])] {
            named(mount, wanted)?;
            let (code, said) = verify(mount, mount.root())?;
            let findings = said["findings"].as_array().context("findings")?;
            let mut paths: Vec<_> = findings.iter().filter_map(|found| found["path"].as_str()).collect();
            paths.sort_unstable();
            ensure!(code == Some(0) && paths == wanted, "{code:?} {said}");
            ensure!(
                said["verified"]["repaired"] == wanted.len() && findings[0]["bytes"].as_u64() > Some(0),
                "{said}"
            );
            ensure!(
                fs::read(mount.path("large"))? == large && fs::read(mount.path("small"))? == small,
                "read"
            );
            ensure!(ops::state(&mount.path("large"))? == "synced", "what was put right is no change");
        }

        cluster.proxies[1].cut();
        eventually("b knows", || Ok(b.status()?["state"] == "offline"))?;
        flip(&backing(&b.cache_dir(), large.len())?, 4 * MIB as u64)?;
        named(b, &["large"])?;
        let (code, said) = verify(b, &b.path("large"))?;
        ensure!(code == Some(1) && said["findings"][0]["repaired"] == false, "{code:?} {said}");
        let output = b.dfs(&["verify", &b.root().to_string_lossy()])?;
        ensure!(text(&output).contains("server     not compared"), "{}", text(&output));
        let read = fs::read(b.path("large"));
        ensure!(read.as_ref().map_or(true, |read| *read == large), "wrong bytes were read");
        cluster.proxies[1].restore();
        eventually("b is online", || Ok(b.status()?["state"] == "online"))?;
        ensure!(fs::read(b.path("large"))? == large, "read");
        let (code, said) = verify(b, b.root())?;
        ensure!(code == Some(0) && said["verified"]["damaged"] == 0, "{code:?} {said}");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn damage_in_what_only_this_mount_has_is_never_dropped() {
    run(&Setup::mounts(1), |cluster| {
        cluster.server.kill();
        let mount = &cluster.mounts[0];
        fs::write(mount.path("file"), vec![b'x'; 4001])?;
        flip(&backing(&mount.state_dir(), 4001)?, 1)?;
        let output = mount.dfs(&["verify", &mount.root().to_string_lossy()])?;
        let said = text(&output);
        ensure!(said.contains("1 files that were changed here") && output.status.success(), "{said}");
        ensure!(fs::read(mount.path("file"))?.len() == 4001, "it is still here");
        let output = mount.dfs(&["verify", &mount.path("none").to_string_lossy()])?;
        ensure!(output.status.code() == Some(3), "{}", text(&output));
        Ok(())
    });
}
