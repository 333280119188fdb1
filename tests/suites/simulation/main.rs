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
    let (first, count) = (seed(), schedules());
    eprintln!("schedules {first} to {}", first + count - 1);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let script = Script::random(first + number);
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

#[test]
fn a_script_survives_being_written_down() -> Result<()> {
    let script = Script::random(7);
    ensure!(script.to_string().parse::<Script>()? == script);
    Ok(())
}
