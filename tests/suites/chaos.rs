//! Random work on several mounts while their processes are stopped, continued and killed and their connections are cut: nothing
//! acknowledged is lost or torn, no version that somebody finished is lost, and all agree.
//!
//! ```text
//! every mount:  Worker in a directory of its own ─► exactly what it was told, at every moment
//!               Author in the directory of all   ─► its last version of each name is in the tree or in the history
//! ```
//!
//! The seed is printed; `DFS_TESTS_SEED` repeats a run's choices (not its timing), `DFS_TESTS_ROUNDS` its length.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dfs_tests::machine::{say, scale};
use dfs_tests::mount::Mount;
use dfs_tests::random::{Random, seed};
use dfs_tests::worker::Worker;
use dfs_tests::{Cluster, Setup, ops, run};
use rustix::process::Signal;

const MOUNTS: usize = 3;
/// Rounds between two comparisons of everything with everything.
const ROUNDS_PER_COMPARISON: u64 = 6;
/// Names that all authors write to: few, so that they meet.
const NAMES: [&str; 4] = ["red", "green", "blue", "white"];
const SHARED: &str = "of all";

/// Writes versions of files that others write, too. Each version has a length that no other has.
struct Author {
    directory: PathBuf,
    mount: usize,
    random: Random,
    versions: usize,
    /// The length of its last version of each name, unless a later one may have destroyed it.
    last: BTreeMap<&'static str, usize>,
}

impl Author {
    fn new(directory: PathBuf, mount: usize, random: Random) -> Self {
        Self { directory, mount, random, versions: 0, last: BTreeMap::new() }
    }

    fn step(&mut self) -> Result<()> {
        let name = *self.random.pick(&NAMES);
        self.versions += 1;
        let len = 64 + self.versions * MOUNTS + self.mount;
        let bytes = bytes_of(len);
        // An interrupted version is not finished, and may have taken the place of the one before.
        self.last.remove(name);
        if self.random.below(2) == 0 {
            ops::write_synced(&self.directory.join(name), &bytes)?;
        } else {
            let temporary = self.directory.join(format!(".{}-{}", self.mount, self.versions));
            ops::write_synced(&temporary, &bytes)?;
            fs::rename(&temporary, self.directory.join(name))?;
        }
        self.last.insert(name, len);
        std::thread::sleep(Duration::from_millis(self.random.below(30)));
        Ok(())
    }
}

/// What a version of this length holds.
fn bytes_of(len: usize) -> Vec<u8> {
    format!("{len} ").into_bytes().into_iter().cycle().take(len).collect()
}

/// The lengths of all files of the directory that all write to, each with the right bytes but for those that were interrupted.
fn lengths_in_tree(directory: &Path) -> Result<BTreeSet<usize>> {
    let mut lengths = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let bytes = fs::read(entry?.path())?;
        if bytes == bytes_of(bytes.len()) {
            lengths.insert(bytes.len());
        }
    }
    Ok(lengths)
}

/// The lengths of the versions that the server keeps of a path.
fn lengths_in_history(mount: &Mount, path: &Path) -> Result<BTreeSet<usize>> {
    let output = mount.dfs(&["history", &path.to_string_lossy(), "--json"])?;
    ensure!(output.status.success(), "dfs history: {}", String::from_utf8_lossy(&output.stderr));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let versions = listed["versions"].as_array().context("versions")?;
    Ok(versions.iter().filter_map(|version| usize::try_from(version["size"].as_u64()?).ok()).collect())
}

/// All who work in one mount.
struct Crew {
    worker: Worker,
    author: Author,
}

type Outcome = (Result<()>, Result<()>);

impl Crew {
    /// Works until it is told to stop or something fails.
    fn work(mut self, stop: &AtomicBool) -> (Self, Outcome) {
        let until_stopped = |step: &mut dyn FnMut() -> Result<()>| {
            while !stop.load(Ordering::SeqCst) {
                step()?;
            }
            Ok(())
        };
        let Self { worker, author } = &mut self;
        let outcome = std::thread::scope(|scope| {
            let written = scope.spawn(move || until_stopped(&mut || author.step()));
            let worked = until_stopped(&mut || worker.step());
            (worked, written.join().unwrap_or_else(|_| Err(anyhow!("an author panicked"))))
        });
        (self, outcome)
    }
}

/// What happens to the processes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    FreezeMount(usize),
    FreezeServer,
    Cut(usize),
    Stall(usize),
    KillMount(usize),
    KillServer,
}

impl Disturbance {
    fn random(random: &mut Random) -> Self {
        let mount = random.below(MOUNTS as u64) as usize;
        match random.below(16) {
            0..=2 => Self::FreezeMount(mount),
            3..=4 => Self::FreezeServer,
            5..=8 => Self::Cut(mount),
            9 => Self::Stall(mount),
            10..=13 => Self::KillMount(mount),
            _ => Self::KillServer,
        }
    }

    fn begin(self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::FreezeMount(mount) => cluster.mounts[mount].signal(Signal::STOP)?,
            Self::FreezeServer => cluster.server.signal(Signal::STOP)?,
            Self::Cut(mount) => cluster.proxies[mount].cut(),
            Self::Stall(mount) => cluster.proxies[mount].stall(),
            Self::KillMount(mount) => cluster.mounts[mount].kill(),
            Self::KillServer => cluster.server.kill(),
        }
        Ok(())
    }

    /// Ends what would keep a process from answering at all.
    fn thaw(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::FreezeMount(mount) => cluster.mounts[mount].signal(Signal::CONT),
            Self::FreezeServer => cluster.server.signal(Signal::CONT),
            _ => Ok(()),
        }
    }
}

/// Lets all work, disturbs them, and verifies what the workers were told.
fn round(cluster: &mut Cluster, crews: Vec<Crew>, random: &mut Random) -> Result<Vec<Crew>> {
    let stop = Arc::new(AtomicBool::new(false));
    let begin = |crew: Crew| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || crew.work(&stop))
    };
    let running: Vec<_> = crews.into_iter().map(begin).collect();
    let pause = |random: &mut Random, ms| std::thread::sleep(Duration::from_millis(random.below(ms)));
    let mut disturbances = Vec::new();
    for _ in 0..=random.below(3) {
        pause(random, 200);
        let disturbance = Disturbance::random(random);
        if !disturbances.contains(&disturbance) {
            let is_gone = match disturbance {
                Disturbance::FreezeMount(mount) => !cluster.mounts[mount].is_started(),
                Disturbance::FreezeServer => !cluster.server.is_started(),
                _ => false,
            };
            if !is_gone {
                disturbance.begin(cluster)?;
                disturbances.push(disturbance);
            }
        }
    }
    pause(random, 300);
    for disturbance in &disturbances {
        // What was killed meanwhile cannot be continued.
        let _ = disturbance.thaw(cluster);
    }
    pause(random, 100);
    stop.store(true, Ordering::SeqCst);
    let mut crews = Vec::new();
    for (mount, thread) in running.into_iter().enumerate() {
        let (crew, (worked, written)) = thread.join().map_err(|_| anyhow!("a worker panicked"))?;
        if !disturbances.contains(&Disturbance::KillMount(mount)) {
            let failed = || format!("mount {mount} failed although it lives: {disturbances:?}");
            worked.with_context(failed)?;
            written.with_context(failed)?;
        }
        crews.push(crew);
    }
    cluster.start_again()?;
    for (mount, crew) in crews.iter_mut().enumerate() {
        crew.worker.verify().with_context(|| format!("in mount {mount} after {disturbances:?}"))?;
        // Some stay alone for another round.
        if random.below(3) > 0 {
            cluster.proxies[mount].restore();
        }
    }
    Ok(crews)
}

/// Ends all disturbance and checks what has to hold at rest.
fn compare(cluster: &Cluster, crews: &[Crew]) -> Result<()> {
    cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::restore);
    cluster.expect_equal_trees()?;
    let directory = cluster.mounts[0].path(SHARED);
    let there = lengths_in_tree(&directory)?;
    let mut past = BTreeMap::new();
    for author in crews.iter().map(|crew| &crew.author) {
        for (name, len) in author.last.iter().filter(|(_, len)| !there.contains(len)) {
            if !past.contains_key(name) {
                past.insert(*name, lengths_in_history(&cluster.mounts[0], &directory.join(name))?);
            }
            ensure!(
                past[name].contains(len),
                "mount {}'s last version of {name}, {len} bytes, is neither in the tree ({there:?}) nor in the history ({:?})",
                author.mount,
                past[name]
            );
        }
    }
    Ok(())
}

// S1, S2, S3, S4
#[test]
fn stopped_killed_and_cut_off_at_random_moments_nothing_finished_is_lost_and_all_agree() {
    let (seed, rounds) = (seed(), scale("DFS_TESTS_ROUNDS", 18));
    let setup = Setup::mounts(MOUNTS).through_proxies().server_arguments(&["--history-versions", "0"]);
    run(&setup, |cluster| {
        say(&format!("chaos: DFS_TESTS_SEED={seed}, {rounds} rounds"));
        let mut random = Random::new(seed);
        fs::create_dir(cluster.mounts[0].path(SHARED))?;
        cluster.settle()?;
        let mut crews = Vec::new();
        for mount in 0..MOUNTS {
            let own = cluster.mounts[mount].path(&format!("of {mount}"));
            let worker = Worker::new(own, Random::new(random.next()))?;
            let shared = cluster.mounts[mount].path(SHARED);
            crews.push(Crew { worker, author: Author::new(shared, mount, Random::new(random.next())) });
        }
        for number in 1..=rounds {
            crews = round(cluster, crews, &mut random)
                .with_context(|| format!("DFS_TESTS_SEED={seed}, round {number} of {rounds}"))?;
            if number % ROUNDS_PER_COMPARISON == 0 || number == rounds {
                compare(cluster, &crews)
                    .with_context(|| format!("DFS_TESTS_SEED={seed}, after round {number} of {rounds}"))?;
            }
        }
        Ok(())
    });
}
