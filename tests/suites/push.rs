//! A change travels by the event stream alone, also after the stream was cut or went silent.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dfs_tests::machine::say;
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, eventually_within, run};

/// A change on one machine should be there in milliseconds; a poller with any sane interval would miss this.
const PUSHED_MEDIAN_MAX: Duration = Duration::from_millis(150);
/// A connection that died without a word is noticed by its missing heartbeats.
const SILENCE_DEADLINE: Duration = Duration::from_secs(90);

fn through_proxies(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2).through_proxies(), test);
}

fn arrives(cluster: &Cluster, name: &str, from: usize, to: usize) -> Result<Duration> {
    arrives_within(cluster, name, from, to, dfs_tests::wait::ARRIVAL_DEADLINE)
}

fn arrives_within(
    cluster: &Cluster,
    name: &str,
    from: usize,
    to: usize,
    deadline: Duration,
) -> Result<Duration> {
    let text = format!("{name} from {from}");
    fs::write(cluster.mounts[from].path(name), &text)?;
    let start = Instant::now();
    let there = cluster.mounts[to].path(name);
    eventually_within(deadline, &format!("{name} from {from} is read in {to}"), || {
        Ok((fs::read(&there)? == text.as_bytes()).then_some(()))
    })?;
    Ok(start.elapsed())
}

// S6
#[test]
fn changes_are_pushed_within_milliseconds() {
    run(&Setup::mounts(2), |cluster| {
        let mut times = Vec::new();
        for round in 0..60 {
            let name = format!("file {}", round % 7);
            times.push(arrives(cluster, &name, round % 2, (round + 1) % 2)?);
        }
        times.sort();
        say(&format!("pushed: median {:?}, slowest {:?}", times[30], times[59]));
        ensure!(times[30] < PUSHED_MEDIAN_MAX, "the median is {:?}", times[30]);
        Ok(())
    });
}

// S6
#[test]
fn an_idle_mount_asks_nothing() {
    through_proxies(|cluster| {
        arrives(cluster, "file", 0, 1)?;
        cluster.settle()?;
        eventually("b has told what it holds", || {
            let file = dfs_tests::http::get(cluster.server.port(), "/api/metadata/get/file")?;
            Ok(file.text().contains("host-b"))
        })?;
        let before = (cluster.proxies[1].passed(), cluster.proxies[1].accepted());
        // Nothing is synchronised by this pause: the silence itself is observed.
        std::thread::sleep(Duration::from_secs(4));
        let after = (cluster.proxies[1].passed(), cluster.proxies[1].accepted());
        ensure!(after.0.up == before.0.up && after.1 == before.1, "it asked: {before:?} → {after:?}");
        ensure!(after.0.down - before.0.down < 1000, "more than heartbeats came: {before:?} → {after:?}");
        arrives(cluster, "file", 0, 1)?;
        Ok(())
    });
}

// S8
#[test]
fn a_change_made_while_the_stream_was_cut_arrives_when_it_is_back() {
    through_proxies(|cluster| {
        arrives(cluster, "before", 0, 1)?;
        cluster.proxies[1].cut();
        fs::write(cluster.a().join("during"), b"made while b was away")?;
        fs::write(cluster.a().join("before"), b"changed while b was away")?;
        cluster.mounts[0].wait_synced()?;
        ensure!(!cluster.b().join("during").try_exists()?, "it can't be there yet");
        cluster.proxies[1].restore();
        eventually("b reads both", || {
            Ok(fs::read(cluster.b().join("during"))? == b"made while b was away"
                && fs::read(cluster.b().join("before"))? == b"changed while b was away")
        })?;
        arrives(cluster, "after", 0, 1)?;
        arrives(cluster, "back", 1, 0)?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S8
#[test]
fn a_stream_cut_again_and_again_loses_no_change() {
    through_proxies(|cluster| {
        let mut random = Random::new(31);
        for round in 0..12 {
            fs::write(cluster.a().join(format!("a {round}")), random.bytes(3000))?;
            fs::write(cluster.b().join(format!("b {round}")), random.bytes(300_000))?;
            let proxy = &cluster.proxies[round % 2];
            proxy.cut();
            proxy.restore();
        }
        let tree = cluster.expect_equal_trees()?;
        ensure!(tree.len() == 25, "{} names", tree.len());
        Ok(())
    });
}

#[test]
fn a_stream_that_went_silent_is_noticed_and_replaced() {
    through_proxies(|cluster| {
        arrives(cluster, "before", 0, 1)?;
        cluster.proxies[1].stall();
        arrives_within(cluster, "after", 0, 1, SILENCE_DEADLINE)?;
        arrives_within(cluster, "back", 1, 0, SILENCE_DEADLINE)?;
        Ok(())
    });
}

#[test]
fn a_server_restart_is_survived_by_both_mounts() {
    run(&Setup::mounts(2), |cluster| {
        for round in 0..3 {
            arrives(cluster, &format!("before {round}"), 0, 1)?;
            if round % 2 == 0 {
                cluster.server.kill();
            } else {
                cluster.server.stop()?;
            }
            fs::write(cluster.a().join(format!("away a {round}")), b"a")?;
            fs::write(cluster.b().join(format!("away b {round}")), b"b")?;
            cluster.server.start()?;
            arrives(cluster, &format!("after {round}"), 1, 0)?;
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn a_mount_that_joins_late_has_everything() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.mounts[0].start()?;
        dfs_tests::fixture::write_small_tree(&cluster.a().join("tree"), &mut Random::new(32))?;
        cluster.mounts[0].wait_synced()?;
        cluster.mounts[1].start()?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn three_mounts_agree() {
    run(&Setup::mounts(3), |cluster| {
        for round in 0..30 {
            let from = round % 3;
            fs::write(cluster.mounts[from].path(&format!("file {round}")), vec![b'x'; round * 1000])?;
            arrives(cluster, "shared", from, (from + 1) % 3)?;
            arrives(cluster, "shared", (from + 1) % 3, (from + 2) % 3)?;
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}
