//! What crosses the wire: only what changed, resumed where it broke, and small things ahead of large ones.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, eventually_within, fixture, run};

const MIB: u64 = 1 << 20;

fn through_proxies(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2).through_proxies(), test);
}

/// Bytes that one change sends from the first mount to the server.
fn sent_by(cluster: &Cluster, change: impl FnOnce() -> Result<()>) -> Result<u64> {
    cluster.settle()?;
    let before = cluster.proxies[0].passed().up;
    change()?;
    cluster.settle()?;
    Ok(cluster.proxies[0].passed().up - before)
}

#[test]
fn one_changed_byte_sends_one_chunk_and_an_insertion_little_more() {
    through_proxies(|cluster| {
        let path = cluster.a().join("large");
        let first = sent_by(cluster, || fixture::write_random_file(&path, 64 * MIB, 51))?;
        ensure!((64 * MIB..70 * MIB).contains(&first), "the whole file is sent once: {first}");
        let edit = sent_by(cluster, || {
            OpenOptions::new().write(true).open(&path)?.write_all_at(b"!", 20 * MIB)?;
            Ok(())
        })?;
        ensure!(edit <= 2 * MIB, "one byte sent {edit}");
        let insertion = sent_by(cluster, || {
            let mut bytes = fs::read(&path)?;
            bytes.insert(40 << 20, b'!');
            Ok(fs::write(&path, bytes)?)
        })?;
        ensure!(insertion <= 4 * MIB, "an inserted byte sent {insertion}");
        let append = sent_by(cluster, || {
            use std::io::Write;
            Ok(OpenOptions::new().append(true).open(&path)?.write_all(b"appended")?)
        })?;
        ensure!(append <= 4 * MIB, "an appended line sent {append}");
        cluster.compare_trees()?;
        Ok(())
    });
}

// S11
#[test]
fn holes_are_neither_stored_nor_sent() {
    use std::os::unix::fs::MetadataExt;
    through_proxies(|cluster| {
        let (here, there) = (cluster.a().join("sparse"), cluster.b().join("sparse"));
        let sent = sent_by(cluster, || fixture::write_sparse_file(&here, 3 << 30))?;
        ensure!(sent < 16 * MIB, "{sent} bytes were sent for 100 KB of data");
        let before = cluster.proxies[1].passed().down;
        let digest = |path| dfs_tests::snapshot::content_digest(&fs::File::open(path)?);
        ensure!(digest(&here)? == digest(&there)?, "the contents differ");
        let fetched = cluster.proxies[1].passed().down - before;
        ensure!(fetched < 16 * MIB, "{fetched} bytes were fetched");
        let stored = dfs_tests::ops::disk_usage(&cluster.mounts[1].state_dir())?
            + dfs_tests::ops::disk_usage(&cluster.mounts[1].cache_dir()).unwrap_or(0);
        ensure!(stored < 300 * MIB, "b keeps {stored} bytes");
        ensure!(fs::metadata(&here)?.blocks() * 512 < 16 * MIB, "a's file is no longer sparse");
        Ok(())
    });
}

#[test]
fn content_that_the_server_has_is_not_sent_again() {
    through_proxies(|cluster| {
        let path = cluster.a().join("one");
        sent_by(cluster, || fixture::write_random_file(&path, 16 * MIB, 52))?;
        let copy = sent_by(cluster, || {
            fs::copy(&path, cluster.a().join("two"))?;
            Ok(())
        })?;
        ensure!(copy < MIB, "a copy sent {copy}");
        let renamed = sent_by(cluster, || Ok(fs::rename(&path, cluster.a().join("three"))?))?;
        ensure!(renamed < 64 * 1024, "a rename sent {renamed}");
        cluster.compare_trees()?;
        Ok(())
    });
}

// S10
#[test]
fn a_large_upload_never_delays_a_small_save() {
    through_proxies(|cluster| {
        cluster.proxies[0].limit_bytes_per_second(4 * MIB);
        fixture::write_random_file(&cluster.a().join("large"), 48 * MIB, 53)?;
        let start = Instant::now();
        fs::write(cluster.a().join("small"), b"quick")?;
        eventually("the small file is in b", || Ok(fs::read(cluster.b().join("small"))? == b"quick"))?;
        let took = start.elapsed();
        ensure!(
            !cluster.b().join("large").try_exists()? || !is_whole(cluster)?,
            "the large one can't be done"
        );
        ensure!(took < Duration::from_secs(3), "it took {took:?}");
        cluster.proxies[0].limit_bytes_per_second(0);
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

fn is_whole(cluster: &Cluster) -> Result<bool> {
    Ok(fs::metadata(cluster.b().join("large"))?.len() == 48 * MIB)
}

#[test]
fn an_upload_goes_on_where_it_was_cut() {
    through_proxies(|cluster| {
        cluster.settle()?;
        let proxy = &cluster.proxies[0];
        let before = proxy.passed().up;
        proxy.limit_bytes_per_second(16 * MIB);
        fixture::write_random_file(&cluster.a().join("large"), 64 * MIB, 54)?;
        for part in [16, 32, 48] {
            eventually_within(Duration::from_secs(60), "a part is sent", || {
                Ok((proxy.passed().up - before > part * MIB).then_some(()))
            })?;
            proxy.cut();
            proxy.restore();
        }
        proxy.limit_bytes_per_second(0);
        cluster.expect_equal_trees()?;
        let sent = cluster.proxies[0].passed().up - before;
        ensure!(sent < 64 * MIB * 3 / 2, "{sent} bytes were sent for 64 MiB");
        Ok(())
    });
}

#[test]
fn an_upload_goes_on_after_the_mount_was_killed() {
    through_proxies(|cluster| {
        cluster.settle()?;
        let before = cluster.proxies[0].passed().up;
        cluster.proxies[0].limit_bytes_per_second(16 * MIB);
        fixture::write_random_file(&cluster.a().join("large"), 64 * MIB, 55)?;
        eventually_within(Duration::from_secs(60), "half is sent", || {
            Ok((cluster.proxies[0].passed().up - before > 32 * MIB).then_some(()))
        })?;
        cluster.mounts[0].kill();
        cluster.mounts[0].start()?;
        cluster.proxies[0].limit_bytes_per_second(0);
        cluster.expect_equal_trees()?;
        let sent = cluster.proxies[0].passed().up - before;
        ensure!(sent < 64 * MIB * 3 / 2, "{sent} bytes were sent for 64 MiB");
        Ok(())
    });
}

#[test]
fn a_file_created_and_deleted_before_it_was_sent_is_never_sent() {
    through_proxies(|cluster| {
        cluster.settle()?;
        cluster.proxies[0].cut();
        let path = cluster.a().join("short-lived");
        fixture::write_random_file(&path, 16 * MIB, 56)?;
        fs::remove_file(&path)?;
        fs::write(cluster.a().join("lasting"), b"x")?;
        let before = cluster.proxies[0].passed().up;
        cluster.proxies[0].restore();
        cluster.settle()?;
        let sent = cluster.proxies[0].passed().up - before;
        ensure!(sent < MIB, "{sent} bytes were sent");
        Ok(())
    });
}

#[test]
fn ten_thousand_small_files_arrive_in_seconds() {
    let count = dfs_tests::machine::scale("DFS_TESTS_SMALL_FILES", 10_000);
    run(&Setup::mounts(2), |cluster| {
        let mut random = Random::new(57);
        let start = Instant::now();
        for index in 0..count {
            let directory = cluster.a().join(format!("d{:02}", index % 100));
            if index < 100 {
                fs::create_dir(&directory)?;
            }
            fs::write(directory.join(format!("f{index:05}")), random.bytes(4096))?;
        }
        let written = start.elapsed();
        cluster.settle()?;
        dfs_tests::machine::say(&format!(
            "{count} small files: written in {written:?}, settled after {:?}",
            start.elapsed()
        ));
        // A ceiling against collapse on a busy machine; docs/BENCHMARKS.md has the figure itself.
        ensure!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        cluster.compare_trees()?;
        Ok(())
    });
}

#[test]
fn bandwidth_limits_are_shown_and_what_is_sent_and_read_within_them_is_whole() {
    run(&Setup::mounts(2).mount_arguments(&["--limit-up", "2MiB", "--limit-down", "4MiB/s"]), |cluster| {
        let bytes = Random::new(61).bytes(3 << 20);
        fs::write(cluster.a().join("large"), &bytes)?;
        fs::write(cluster.a().join("small"), b"beside it")?;
        cluster.settle()?;
        ensure!(fs::read(cluster.b().join("large"))? == bytes, "read");
        let status = cluster.mounts[0].status()?;
        ensure!(status["limit_up"] == 2 * MIB && status["limit_down"] == 4 * MIB, "{status}");
        let output = cluster.mounts[0].dfs(&["status", &cluster.a().to_string_lossy()])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("up (at most 2.0 MiB/s)"), "{said}");
        let mut refused =
            dfs_tests::mount::Mount::new(cluster.directory(), "slow", Some("127.0.0.1:1".to_owned()));
        refused.arguments = ["--limit-up", "1K"].map(str::to_owned).to_vec();
        let output = refused.start_refused()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains("--limit-up"), "{said}");
        Ok(())
    });
}
