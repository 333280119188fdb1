//! SIGKILL of mounts and server at random moments of work: nothing acknowledged is missing or torn, and all agree.
//!
//! The seed is printed; `DFS_TESTS_SEED` repeats a run's choices (not its timing), `DFS_TESTS_KILLS` its length.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use dfs_tests::machine::{Need, say, scale};
use dfs_tests::random::{Random, seed};
use dfs_tests::snapshot::{expect_equal, tree_snapshot};
use dfs_tests::worker::Worker;
use dfs_tests::{Cluster, Setup, fixture, process, run};

const PROGRAM_DEADLINE: Duration = Duration::from_secs(60);
/// Kills between two comparisons of everything with everything.
const KILLS_PER_COMPARISON: u64 = 5;

/// What one thread does in one mount until it is told to stop or its mount is gone.
trait Load: Send {
    /// One acknowledged piece of work.
    fn step(&mut self) -> Result<()>;
    /// Nothing acknowledged is missing or torn.
    fn verify(&mut self) -> Result<()>;
}

impl Load for Worker {
    fn step(&mut self) -> Result<()> {
        Worker::step(self)
    }

    fn verify(&mut self) -> Result<()> {
        Worker::verify(self)
    }
}

/// Ordinary programs: sqlite transactions, git commits, tar and rsync of a tree.
struct Programs {
    directory: PathBuf,
    source: PathBuf,
    rows: u64,
    commits: u64,
    copies: Vec<String>,
    turn: u64,
}

impl Programs {
    fn new(directory: PathBuf, source: PathBuf) -> Result<Programs> {
        fs::create_dir_all(&directory)?;
        let start = "sqlite3 rows.db 'create table t(id integer primary key, v text)'
            mkdir repo; cd repo; git init -q -b main";
        process::shell(&directory, start, PROGRAM_DEADLINE)?;
        Ok(Programs { directory, source, rows: 0, commits: 0, copies: Vec::new(), turn: 0 })
    }

    fn shell(&self, script: &str) -> Result<String> {
        process::shell(&self.directory, script, PROGRAM_DEADLINE)
    }
}

impl Load for Programs {
    fn step(&mut self) -> Result<()> {
        self.turn += 1;
        let turn = self.turn;
        match turn % 4 {
            0 => {
                let insert = "begin; insert into t(v) values (hex(randomblob(2000))); commit;";
                self.shell(&format!("sqlite3 rows.db '{insert}'"))?;
                self.rows += 1;
            }
            1 => {
                let commit = format!(
                    "rm -f .git/*.lock .git/refs/heads/*.lock; echo {turn} > file-{turn}; git add -A"
                );
                self.shell(&format!("cd repo; {commit}; git -c core.fsync=all commit -q -m {turn}"))?;
                self.commits += 1;
            }
            2 => {
                self.shell(&format!(
                    "tar --format=posix -cf - -C '{}' . | (mkdir tar-{turn}; tar xpf - -C tar-{turn})",
                    self.source.display()
                ))?;
                self.copies.push(format!("tar-{turn}"));
            }
            _ => {
                self.shell(&format!("rsync -aH '{}/' rsync-{turn}/", self.source.display()))?;
                self.copies.push(format!("rsync-{turn}"));
                if self.copies.len() > 4 {
                    let oldest = self.copies.remove(0);
                    self.shell(&format!("rm -r {oldest}"))?;
                }
            }
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        let check = "sqlite3 rows.db 'pragma integrity_check; select count(*) from t'";
        let said = self.shell(check)?;
        let mut lines = said.lines();
        ensure!(lines.next() == Some("ok"), "sqlite: {said}");
        let rows: u64 = lines.next().context("no count")?.parse()?;
        ensure!(rows == self.rows || rows == self.rows + 1, "{rows} rows, {} acknowledged", self.rows);
        self.rows = rows;
        let log = "cd repo; git fsck --strict 2>&1; if git rev-parse -q --verify HEAD >/dev/null; \
                   then git rev-list --count HEAD; else echo 0; fi";
        let said = self.shell(log)?;
        let commits: u64 = said.lines().last().context("no count")?.parse()?;
        ensure!(
            commits == self.commits || commits == self.commits + 1,
            "{said}; {} acknowledged",
            self.commits
        );
        self.commits = commits;
        let wanted = tree_snapshot(&self.source)?;
        for copy in &self.copies {
            let path = self.directory.join(copy);
            expect_equal(&self.source, &wanted, &path, &tree_snapshot(&path)?)?;
        }
        Ok(())
    }
}

type Running = JoinHandle<(Box<dyn Load>, Result<()>)>;

fn work(mut load: Box<dyn Load>, stop: Arc<AtomicBool>) -> Running {
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            if let Err(error) = load.step() {
                return (load, Err(error));
            }
        }
        (load, Ok(()))
    })
}

/// Which processes die together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Mount(usize),
    Server,
    All,
}

impl Victim {
    fn takes(self, mount: usize) -> bool {
        self == Victim::Mount(mount) || self == Victim::All
    }
}

fn kill(cluster: &mut Cluster, victim: Victim) {
    if matches!(victim, Victim::Server | Victim::All) {
        cluster.server.kill();
    }
    for (index, mount) in cluster.mounts.iter_mut().enumerate() {
        if victim.takes(index) {
            mount.kill();
        }
    }
}

/// Lets the loads work, kills `victim` in the middle, starts it again and verifies every load.
fn round(
    cluster: &mut Cluster,
    loads: Vec<(usize, Box<dyn Load>)>,
    victim: Victim,
    random: &mut Random,
) -> Result<Vec<(usize, Box<dyn Load>)>> {
    let stop = Arc::new(AtomicBool::new(false));
    let running: Vec<(usize, Running)> =
        loads.into_iter().map(|(mount, load)| (mount, work(load, stop.clone()))).collect();
    std::thread::sleep(Duration::from_millis(10 + random.below(350)));
    kill(cluster, victim);
    if victim == Victim::Server {
        // The mounts go on without it; nothing of that may be lost either.
        std::thread::sleep(Duration::from_millis(random.below(100)));
    }
    stop.store(true, Ordering::SeqCst);
    let mut done = Vec::new();
    for (mount, thread) in running {
        let (load, result) = thread.join().map_err(|_| anyhow!("a load panicked"))?;
        if !victim.takes(mount) {
            result.with_context(|| format!("mount {mount} failed although {victim:?} was killed"))?;
        }
        done.push((mount, load));
    }
    if random.below(4) == 0 {
        // Killed once more while it recovers.
        cluster.start_again()?;
        std::thread::sleep(Duration::from_millis(random.below(60)));
        kill(cluster, victim);
    }
    cluster.start_again()?;
    for (mount, load) in &mut done {
        load.verify().with_context(|| format!("in mount {mount} after {victim:?} was killed"))?;
    }
    Ok(done)
}

fn under_fire(kills: u64, mut make: impl FnMut(&Path, &Cluster, Random) -> Result<Vec<Box<dyn Load>>>) {
    let seed = seed();
    let needs = ["sqlite3", "git", "tar", "rsync"].map(Need::Program);
    run(&Setup::mounts(2).needs(&needs), |cluster| {
        say(&format!("crash: DFS_TESTS_SEED={seed}, {kills} kills"));
        let mut random = Random::new(seed);
        let mut loads = Vec::new();
        for mount in 0..2 {
            let root = cluster.mounts[mount].path(&format!("work of {mount}"));
            fs::create_dir_all(&root)?;
            for load in make(&root, cluster, Random::new(random.next()))? {
                loads.push((mount, load));
            }
        }
        for number in 1..=kills {
            let victims = [Victim::Mount(0), Victim::Mount(1), Victim::Server, Victim::Mount(0), Victim::All];
            let victim = *random.pick(&victims);
            loads = round(cluster, loads, victim, &mut random)
                .with_context(|| format!("DFS_TESTS_SEED={seed}, kill {number} of {kills} ({victim:?})"))?;
            if number % KILLS_PER_COMPARISON == 0 || number == kills {
                cluster
                    .expect_equal_trees()
                    .with_context(|| format!("DFS_TESTS_SEED={seed}, after kill {number} of {kills}"))?;
            }
        }
        for (mount, load) in &mut loads {
            load.verify().with_context(|| format!("in mount {mount} at the end"))?;
        }
        Ok(())
    });
}

// S1, S2, S3, S4
#[test]
fn killed_at_random_moments_of_file_operations_nothing_acknowledged_is_lost() {
    let kills = scale("DFS_TESTS_KILLS", 30);
    under_fire(kills, |root, _, mut random| {
        let more = Random::new(random.next());
        Ok(vec![
            Box::new(Worker::new(root.join("one"), random)?) as Box<dyn Load>,
            Box::new(Worker::new(root.join("two"), more)?),
        ])
    });
}

// S2, S3, S4
#[test]
fn killed_at_random_moments_of_ordinary_programs_nothing_acknowledged_is_lost() {
    let kills = scale("DFS_TESTS_KILLS", 30).div_ceil(3);
    under_fire(kills, |root, cluster, mut random| {
        let source = cluster.scratch("source")?;
        if fs::read_dir(&source)?.next().is_none() {
            fixture::write_small_tree(&source, &mut random)?;
        }
        Ok(vec![Box::new(Programs::new(root.join("programs"), source)?) as Box<dyn Load>])
    });
}

#[test]
fn a_kill_in_the_middle_of_many_commits_leaves_mounts_and_server_agreeing() {
    run(&Setup::mounts(2), |cluster| {
        for attempt in 0..4 {
            let directory = cluster.a().join(format!("burst {attempt}"));
            fs::create_dir(&directory)?;
            for index in 0..400 {
                fs::write(directory.join(format!("file {index}")), format!("{attempt} {index}").repeat(50))?;
            }
            kill(cluster, [Victim::Server, Victim::Mount(0), Victim::All, Victim::Mount(1)][attempt]);
            cluster.start_again()?;
            let names = fs::read_dir(&directory)?.count();
            ensure!(names == 400, "{names} of 400 files are left after kill {attempt}");
        }
        let tree = cluster.expect_equal_trees()?;
        ensure!(tree.len() == 1 + 4 * 401, "{} names", tree.len());
        Ok(())
    });
}
