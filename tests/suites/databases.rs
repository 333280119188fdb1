//! Databases in a mount: what they called committed is there after a crash of the program and of the mount.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::log::Log;
use dfs_tests::machine::{self, Need};
use dfs_tests::process::{self, Daemon};
use dfs_tests::{Cluster, Setup, run, user, wait};
use rustix::process::Signal;

const DEADLINE: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 3;
const ROWS_PER_COMMIT: u64 = 20;

/// Says the number of each transaction once it is committed.
const WRITER: &str = "
import sqlite3, sys
connection = sqlite3.connect('rows.db', isolation_level=None)
assert connection.execute(f'pragma journal_mode={sys.argv[1]}').fetchone()[0] == sys.argv[1]
connection.execute('pragma synchronous=full')
connection.execute('create table if not exists t(batch integer, v text)')
batch = connection.execute('select coalesce(max(batch), 0) from t').fetchone()[0]
while True:
    batch += 1
    connection.execute('begin')
    connection.executemany('insert into t values (?, ?)', [(batch, str(batch) * 300) for _ in range(20)])
    connection.execute('commit')
    print(batch, flush=True)
";

/// Prints the last transaction and the number of rows.
const CHECK: &str = "
import sqlite3
connection = sqlite3.connect('rows.db')
assert connection.execute('pragma integrity_check').fetchone()[0] == 'ok'
print(*connection.execute('select max(batch), count(*) from t').fetchone())
";

fn check(directory: &Path) -> Result<(u64, u64)> {
    let mut command = Command::new("python3");
    let said = process::succeed(command.args(["-c", CHECK]).current_dir(directory), DEADLINE)?;
    let (last, rows) = said.trim().split_once(' ').context("two numbers")?;
    Ok((last.parse()?, rows.parse()?))
}

/// Writes with sqlite until some commits are done, kills the writer or the mount, and checks what is there.
fn sqlite_round(cluster: &mut Cluster, mode: &str, round: u64) -> Result<()> {
    let directory = cluster.a().join(mode);
    fs::create_dir_all(&directory)?;
    let log = Log::default();
    let mut command = Command::new("python3");
    command.args(["-c", WRITER, mode]).current_dir(&directory);
    let mut writer = Daemon::spawn("writer", &mut command, &log)?;
    let commits = 5 + 3 * round;
    let mut seen = 0;
    wait::eventually_within(DEADLINE, "transactions are committed", || {
        seen = log.text().lines().filter(|line| line.parse::<u64>().is_ok()).count() as u64;
        ensure!(writer.is_running()?, "the writer ended: {}", log.text());
        Ok((seen >= commits).then_some(()))
    })?;
    let kills_mount = round % 2 == 1;
    if kills_mount {
        cluster.mounts[0].kill();
    }
    writer.kill();
    ensure!(log.wait_end(DEADLINE), "its output ends");
    if kills_mount {
        cluster.mounts[0].start()?;
    }
    let said = log.text().lines().filter_map(|line| line.parse::<u64>().ok()).max().context("a commit")?;
    let (last, rows) = check(&directory)?;
    ensure!(last >= said, "{mode}: transaction {said} was committed, and the last one there is {last}");
    ensure!(rows == last * ROWS_PER_COMMIT, "{mode}: {rows} rows of {last} transactions");
    Ok(())
}

// S2
#[test]
fn sqlite_has_what_it_committed_when_it_or_the_mount_is_killed() {
    run(&Setup::mounts(2).needs(&[Need::PythonSqlite]), |cluster| {
        for mode in ["delete", "wal"] {
            for round in 0..ROUNDS {
                sqlite_round(cluster, mode, round)?;
            }
        }
        cluster.expect_equal_trees()?;
        for mode in ["delete", "wal"] {
            ensure!(check(&cluster.b().join(mode))? == check(&cluster.a().join(mode))?, "{mode} in b");
        }
        Ok(())
    });
}

/// Where PostgreSQL's programs are: Debian keeps the server's out of `PATH`.
fn postgres_programs() -> Option<PathBuf> {
    if let Some(program) = machine::find_program("initdb") {
        let program = fs::canonicalize(program).ok()?;
        return Some(program.parent()?.to_owned());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").is_file())
}

/// A database cluster of PostgreSQL; its server refuses to be root's.
struct Postgres {
    programs: PathBuf,
    sockets: PathBuf,
}

impl Postgres {
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = if machine::is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        process::quiet_environment(&mut command);
        command.current_dir(&self.sockets).env("PGHOST", &self.sockets).env("PGUSER", "tester");
        command.env("PGDATABASE", "postgres");
        command
    }

    fn succeed(&self, program: &str, arguments: &[&str]) -> Result<String> {
        process::succeed(self.command(program).args(arguments), DEADLINE)
    }

    fn start(&self, data: &Path) -> Result<Daemon> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(data).args(["-c", "listen_addresses="]);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.sockets.display()));
        let log = Log::default();
        let mut server = Daemon::spawn("postgres", &mut command, &log)?;
        wait::eventually_within(DEADLINE, "postgres accepts connections", || {
            ensure!(server.is_running()?, "postgres ended: {}", log.text());
            let status = process::output(&mut self.command("pg_isready"), DEADLINE)?.status;
            Ok(status.success().then_some(()))
        })?;
        Ok(server)
    }

    /// Every account's balance is what its history adds up to.
    fn expect_balance(&self) -> Result<u64> {
        let query = "select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)
            and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history),
            (select count(*) from pgbench_history)";
        let said = self.succeed("psql", &["-qAt", "-c", query])?;
        let (is_balanced, transactions) = said.trim().split_once('|').context("two columns")?;
        ensure!(is_balanced == "t", "balances and history differ: {said}");
        Ok(transactions.parse()?)
    }
}

fn stop(mut server: Daemon, signal: Signal) -> Result<()> {
    server.signal(signal)?;
    server.wait_exit(DEADLINE).map(drop)
}

fn postgres(cluster: &mut Cluster) -> Result<()> {
    let programs = postgres_programs().context("PostgreSQL")?;
    user::open_to_all(cluster.directory())?;
    let (sockets, data) = (cluster.scratch("s")?, cluster.a().join("data"));
    fs::create_dir(&data)?;
    for directory in [&sockets, &data] {
        if machine::is_root() {
            chown(directory, Some(user::NOBODY), Some(user::NOBODY))?;
        }
    }
    let postgres = Postgres { programs, sockets };
    let here = data.display().to_string();
    let options =
        ["-D", &here, "-U", "tester", "-A", "trust", "--locale=C", "-E", "UTF8", "--data-checksums"];
    postgres.succeed("initdb", &options)?;

    let mut server = postgres.start(&data)?;
    postgres.succeed("pgbench", &["-i", "-q", "-s", "1"])?;
    postgres.succeed("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "50"])?;
    // As a crash: the others end when the first process is gone, and the next start recovers.
    server.kill();
    let server = wait::eventually_within(DEADLINE, "it starts again", || postgres.start(&data).map(Some))?;
    ensure!(postgres.expect_balance()? == 200, "the transactions that were committed");
    postgres.succeed("psql", &["-q", "-c", "vacuum full", "-c", "reindex database postgres"])?;
    postgres.succeed("pgbench", &["-n", "-c", "2", "-t", "10"])?;
    ensure!(postgres.expect_balance()? == 220);
    stop(server, Signal::INT)?;
    postgres.succeed("pg_checksums", &["--check", "-D", &here])?;

    cluster.expect_equal_trees()?;
    let there = cluster.b().join("data");
    let server = postgres.start(&there)?;
    ensure!(postgres.expect_balance()? == 220, "in the other mount");
    stop(server, Signal::INT)?;
    cluster.expect_equal_trees()?;
    Ok(())
}

// S2
#[test]
fn postgres_is_made_works_crashes_recovers_and_goes_on_in_the_other_mount() {
    let name = "postgres_is_made_works_crashes_recovers_and_goes_on_in_the_other_mount";
    if postgres_programs().is_none() {
        return machine::skip(name, "no PostgreSQL (Debian: postgresql)");
    }
    run(&Setup::mounts(2), postgres);
}

#[test]
fn all_of_this_works_for_an_ordinary_user() -> Result<()> {
    user::rerun_suite_as_ordinary_user("all_of_this_works_for_an_ordinary_user")
}
