//! Whole-system simulation: several mounts and a server as their real code, in one thread, in simulated time, over a
//! simulated network and simulated disks. Everything comes from one seed.
//!
//! ```text
//! Script (seed, steps) ─► World: steps ─► Fs, Tree, Cache, Engine of each mount ─► Link ─► Network ─► SimServer: SyncService
//!                           │ after every step: trees, Merkle trees, what is shown        delays, loses, repeats, cuts off
//!                           └ at rest: equal trees, nothing finished is lost
//! ```
//!
//! Invariant: a script comes to the same whenever and wherever it runs.

mod chunks;
mod mount;
mod network;
mod oracle;
mod script;
mod server;
mod shrink;
mod world;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use dfs_tests::random::seed;

use script::Script;
use shrink::shrink;
use world::World;

/// Runs a script on this thread.
fn run(script: &Script) -> Result<Vec<String>> {
    let dir = tempfile::tempdir_in(memory()).context("a directory")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("a runtime")?;
    runtime.block_on(async { World::new(script, dir.path())?.run(script).await })
}

/// Where backing files are: in memory if there is such a place.
fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

fn schedules() -> u64 {
    std::env::var("DFS_TESTS_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

#[test]
fn random_schedules_end_in_equal_trees_and_lose_nothing() -> Result<()> {
    run_many(seed(), schedules(), Script::random)
}

// S48
#[test]
fn random_schedules_in_a_volume_with_a_quota_end_in_equal_trees_and_lose_nothing() -> Result<()> {
    run_many(seed(), schedules() / 4, |seed| Script::random(seed).with_quotas())
}

/// Runs the scripts of many seeds, on all processors; shortens the first that fails.
fn run_many(first: u64, count: u64, script: impl Fn(u64) -> Script + Sync) -> Result<()> {
    eprintln!("schedules {first} to {}", first + count - 1);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let script = script(first + number);
            if let Err(error) = run(&script) {
                failed.store(true, Ordering::Relaxed);
                let short = shrink(&script, |script| run(script).is_err());
                let why = run(&short).err().map_or_else(String::new, |why| format!("{why:#}"));
                bail!("schedule {}: {error:#}\n\nshortened:\n{short}\n{why}", first + number);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    eprintln!(
        "{} schedules in {:.1} s",
        next.load(Ordering::Relaxed).min(count),
        begun.elapsed().as_secs_f64()
    );
    outcomes.into_iter().collect()
}

/// For whoever looks for a bug: `DFS_TESTS_SCRIPT` names a file with a script; `RUST_LOG` says what is logged meanwhile.
#[test]
fn the_script_that_was_given_comes_to_rest_and_loses_nothing() -> Result<()> {
    let Some(path) = std::env::var_os("DFS_TESTS_SCRIPT") else { return Ok(()) };
    let script = std::fs::read_to_string(path)?.parse()?;
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    for line in run(&script)? {
        eprintln!("{line}");
    }
    Ok(())
}

#[test]
fn a_script_comes_to_the_same_every_time() -> Result<()> {
    for number in 0..30 {
        let script = Script::random(number);
        let (one, two) = (run(&script), run(&script));
        match (one, two) {
            (Ok(one), Ok(two)) => ensure!(one == two, "seed {number}: {one:#?}\n{two:#?}"),
            (one, two) => ensure!(one.is_err() == two.is_err(), "seed {number}: {one:?} and {two:?}"),
        }
    }
    Ok(())
}

/// Found at seed 1001705: a file was renamed between the two questions of a mount's reconciliation.
#[test]
fn a_file_renamed_while_a_mount_reconciles_is_never_without_a_name() -> Result<()> {
    let script = "seed 1001705 mounts 3 delay 200 loss 0
        2 1 mkdir c a/b 1 1
        29 1 write d/b d/d/d 1 1
        8 2 save b d 1 1
        15 0 write d d/a 1 1
        17 1 mkdir b/b d 1 1
        18 1 read a/c/d d/b 1 1
        20 0 chmod a/d d/b 1 1
        9 1 save d/d a 1 1
        7 1 mkdir a/c b/b 1 1
        16 2 open c/d a/c/c 1 1
        7 1 rename b b 1 1
        8 1 heal d d/c/d 1 1
        12 0 open b/b c/c/d 1 1
        23 1 truncate d c/d/d 1 1
        10 0 write d/b c/b 1 1
        22 1 put a/d c 1 1
        12 0 open d d 1 1
        10 2 rename b a 1 1
        19 1 full b c/d/d 1 1
        25 1 close c c 1 1";
    run(&script.parse()?).map(drop)
}

/// Found at seed 1009645: the event of a file came after the reply to a commit that took its name, which it had given up.
#[test]
fn an_event_older_than_an_own_commit_makes_no_file_without_a_name() -> Result<()> {
    let script = "seed 1009645 mounts 2 delay 200 loss 0
        30 1 rename c c 1 1
        16 0 write b/a/a b 1 1
        24 0 rename a c 1 1
        8 0 heal b b/a 1 1
        21 0 put a b/b 1 1
        14 1 chmod c/c/b b/b 1 1
        17 0 edit b/a b/c/b 1 1
        28 1 write b a 1 1
        19 0 rename b/c/c b 1 1
        15 0 write a b/c 1 1
        29 1 write c/c/a b/a 1 1
        5 1 read c b 1 1
        3 0 symlink c/c a 1 1
        14 1 unlink c/a/a b 1 1
        27 1 spare c b/c 1 1
        3 0 unlink b b 1 1
        9 0 exchange b b/c/a 1 1
        7 1 save a a 1 1
        16 1 write c/b/c a/c 1 1
        8 0 unlink c/a b 1 1
        4 1 chmod b/a b/c/c 1 1
        3 1 evict a/a/b c 1 1
        9 0 unlink b/c/b c/c 1 1
        4 1 edit c/b a 1 1
        8 1 link a b/b/c 1 1
        10 1 read c/a b 1 1
        14 1 mkdir a/b/a c 1 1
        26 1 open b a/b 1 1
        15 1 read a/c/b a/b 1 1
        25 0 spare a/a b/b 1 1
        24 0 rmdir a c/c/c 1 1
        25 0 rename a a/b 1 1
        16 1 rmdir a b/a 1 1
        16 0 write a/a/b c/c 1 1
        3 1 rename b/b a/c 1 1
        4 1 rename a b 1 1
        25 0 write c a 1 1
        13 0 save a/a c 1 1
        4 0 symlink b a/a 1 1
        5 1 xattr c/c a 1 1
        4 1 unlink a/b/c a/a/c 1 1
        9 0 write b a/b 1 1
        23 1 save a/a/a c/b 1 1
        6 0 rename c/c a/b 1 1";
    run(&script.parse()?).map(drop)
}

/// Found at seed 309119091: bytes that a mount had sent from an open file were edited elsewhere before it was closed.
#[test]
fn an_edit_of_what_an_open_file_holds_replaces_it() -> Result<()> {
    let script = "seed 309119091 mounts 2 delay 2 loss 0
        0 0 write a a/b/a 1 1
        188 1 mkdir a a 1 1
        88 0 mkdir a a/b/a 1 1
        253 0 put a a/a 1 1
        390 0 open a a/b 1 1
        322 1 spare a b 1 1
        357 0 put b a 1 1
        85 1 xattr a b/b 1 1
        392 1 edit a a/a/a 1 1";
    run(&script.parse()?).map(drop)
}

/// Found at seed 10069856: a file was removed while a program wrote to it, and a rename on another mount kept it.
#[test]
fn what_is_written_to_a_removed_file_that_another_mount_keeps_is_kept_beside_it() -> Result<()> {
    let script = "seed 10069856 mounts 2 delay 200 loss 0
        302 0 write b b 1 1
        5000 0 open b a 1 1
        140 0 unlink b a 1 1
        0 1 rename b a 1 1
        0 0 put a/b/b a/a 1 1
        380 1 symlink a/a b/b 1 1";
    run(&script.parse()?).map(drop)
}

/// Found at seed 510137625: of the simulation itself. What is left of a file that is cut can have the bytes of an older version.
#[test]
fn a_file_that_is_cut_does_not_look_like_one_that_went_back() -> Result<()> {
    let script = "seed 510137625 mounts 3 delay 2 loss 0
        0 2 write b a 1 1
        24 2 edit b b/a 115 210
        18 1 truncate b a/a/a 3 59";
    run(&script.parse()?).map(drop)
}

/// Found at seed 10133473: each of two mounts took another one of a file's two names away.
#[test]
fn a_file_whose_last_two_names_go_on_two_mounts_keeps_one() -> Result<()> {
    let script = "seed 10133473 mounts 2 delay 200 loss 0
        0 0 write d - 1 1
        0 0 link d c 1 1
        5000 1 unlink d - 1 1
        0 0 save c - 1 1";
    run(&script.parse()?).map(drop)
}

/// Found at seed 20000662: a conflict copy was to be sent whose bytes a power loss had taken.
#[test]
fn a_file_whose_bytes_the_power_took_keeps_nobody_waiting() -> Result<()> {
    let script = "seed 20000662 mounts 2 delay 20 loss 30
        0 0 mkdir a a/b/a 1 1
        18 1 edit b/a/b a/a 1 1
        12 1 put b/b b 1 1
        16 1 mkdir b a 1 1
        13 1 edit a/b b/a 1 1
        25 1 mkdir b b/b 1 1
        17 1 rename b a/b/b 1 1
        6 0 write a/a a/b 1 1
        28 1 write a a 1 1
        19 0 rmdir b b/a 1 1
        27 1 write a/a b 1 1
        29 1 power b/b/a a 146 248";
    run(&script.parse()?).map(drop)
}

/// Found at seed 400023222: the server lacked the bytes of a change that a power loss had taken while it was being sent.
#[test]
fn what_a_power_loss_took_is_not_uploaded_for_ever() -> Result<()> {
    let script = "seed 400023222 mounts 2 delay 2 loss 0
        0 1 save a b/b 1 1
        0 0 write b b 1 1
        130 0 write a c/c 1 1
        51 1 unlink a b 1 1
        107 0 cut b/c/c c/c 1 1
        0 0 write a a 1 1
        375 0 sync c/a b/a/c 1 1
        0 0 power c/b c/a/c 13 91";
    run(&script.parse()?).map(drop)
}

/// Found at seed 500269326: a file became a conflict copy between a write and the fsync of the same handle.
#[test]
fn what_was_synced_after_a_conflict_is_in_the_copy_after_a_power_loss() -> Result<()> {
    let script = "seed 500269326 mounts 3 delay 2 loss 0
        0 0 write a b/b/b 1 1
        107 2 open a a 1 1
        0 0 write a b 1 1
        0 2 put b a/b 1 1
        3 2 fsync a/a a 1 1
        0 2 power a/b b 1 1";
    run(&script.parse()?).map(drop)
}

/// Found at seed 500414695: everything was at rest, and then a mount found out that its connection had been cut.
#[test]
fn a_connection_that_was_cut_before_the_rest_is_missed_before_files_are_looked_at() -> Result<()> {
    let script = "seed 500414695 mounts 2 delay 200 loss 150 policy last-write-wins
        66 0 kill b b/b 1 1
        306 0 write b/d/b c/a/b 1 1
        223 1 put d a 1 1
        73 0 save d d/a/d 28 34
        290 1 write c/c a/b 1 1
        333 0 put d/d/b d/b 1 1
        232 0 xattr a/b d/b 1 1
        375 1 cut b b/a/a 1 1
        284 1 read d d 121 31";
    run(&script.parse()?).map(drop)
}

#[test]
fn the_patch_with_broken_rules_applies() -> Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let checked = std::process::Command::new("git")
        .args(["apply", "--check", "tests/suites/simulation/broken_rules.patch"])
        .current_dir(root)
        .output()
        .context("git")?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    Ok(())
}

#[test]
fn a_script_survives_being_written_down() -> Result<()> {
    let script = Script::random(7);
    ensure!(script.to_string().parse::<Script>()? == script);
    Ok(())
}
