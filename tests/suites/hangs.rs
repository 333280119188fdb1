//! Programs that wait for a server that says nothing: they can be interrupted, nobody else waits, and unmounting works.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::log::Log;
use dfs_tests::machine::Need;
use dfs_tests::process::{self, Daemon};
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, run, user};
use rustix::process::Signal;

/// Far less than what a fetch may take (30 s), and enough for a busy machine.
const PROMPTLY: Duration = Duration::from_secs(10);

/// What a read may take in all: the kernel may ask a second time, for one page, when reading ahead failed.
const READ_DEADLINE: Duration = Duration::from_secs(2 * 30 + 10);

const MAPPING: &str = "
import mmap, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
file = open(sys.argv[1])
mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[5]
";

const DIRECT: &str = "
import mmap, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.readv(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), [mmap.mmap(-1, 1 << 20)])
";

/// Programs that read the file named last in every way that a program can.
const READERS: [&[&str]; 4] =
    [&["cat"], &["python3", "-c", DIRECT], &["python3", "-c", MAPPING], &["cp", "-t", "."]];

/// Two mounts; the second one knows of `large` and has no byte of it, and the server says nothing more.
fn silent(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2).needs(&[Need::Program("python3")]), |cluster| {
        fs::write(cluster.a().join("large"), Random::new(42).bytes(8 << 20))?;
        fs::write(cluster.a().join("small"), b"small")?;
        cluster.settle()?;
        ensure!(fs::read(cluster.b().join("small"))? == b"small");
        cluster.server.signal(Signal::STOP)?;
        test(cluster)?;
        cluster.server.signal(Signal::CONT)?;
        eventually("it is read when the server goes on", || {
            Ok(fs::read(cluster.b().join("large")).is_ok_and(|bytes| bytes.len() >= 8 << 20))
        })
    });
}

/// Starts a reader and waits until it waits for the mount.
fn start_reader(cluster: &Cluster, words: &[&str]) -> Result<Daemon> {
    let file = cluster.b().join("large");
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&file).current_dir(cluster.scratch("copies")?);
    let mut reader = Daemon::spawn(words[0], &mut command, &Log::default())?;
    let process = format!("/proc/{}", reader.id());
    eventually("the reader has the file open and waits", || {
        ensure!(reader.is_running()?, "it ended: {}", reader.log().text());
        let stat = fs::read_to_string(format!("{process}/stat"))?;
        let opened = fs::read_dir(format!("{process}/fd"))?.flatten();
        let has_file = opened.filter_map(|link| fs::read_link(link.path()).ok()).any(|path| path == file);
        Ok(has_file && (stat.contains(") S ") || stat.contains(") D ")))
    })?;
    Ok(reader)
}

// S47
#[test]
fn a_reader_that_waits_for_a_silent_server_is_ended_by_a_signal_at_once() {
    silent(|cluster| {
        for words in READERS {
            for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
                let mut reader = start_reader(cluster, words)?;
                reader.signal(signal)?;
                let ended = reader.wait_exit(PROMPTLY);
                let status = ended.with_context(|| format!("{} after {signal:?}", words[0]))?;
                ensure!(status.signal() == Some(signal.as_raw()), "{} ended with {status}", words[0]);
            }
        }
        Ok(())
    });
}

/// ETIMEDOUT, or EHOSTUNREACH once the mount knows that nobody answers.
fn is_clear(said: &str) -> bool {
    said.contains("timed out") || said.contains("No route to host")
}

// S13
#[test]
fn a_read_from_a_silent_server_ends_with_an_error_within_its_deadline() {
    silent(|cluster| {
        let mut reader = start_reader(cluster, READERS[0])?;
        let status = reader.wait_exit(READ_DEADLINE)?;
        ensure!(reader.log().wait_end(PROMPTLY), "its output ends");
        let said = reader.log().text();
        ensure!(status.code() == Some(1) && is_clear(&said), "{status}: {said}");
        Ok(())
    });
}

// S47
#[test]
fn nobody_else_waits_while_a_reader_waits_for_a_silent_server() {
    silent(|cluster| {
        let _readers = [start_reader(cluster, READERS[0])?, start_reader(cluster, READERS[1])?];
        for script in [
            "df .",
            "ls -la",
            "stat large",
            "cat small",
            "echo new > new && cat new",
            "mkdir directory && mv new directory/moved && rm -r directory",
            "chmod 600 large && touch -d 2001-02-03 large && ln large link && mv large moved && mv moved large",
            "echo at the end >> link",
            "getfattr -n user.dfs.state large",
        ] {
            process::shell(cluster.b(), script, PROMPTLY).with_context(|| script.to_owned())?;
        }
        let status = cluster.mounts[1].status()?;
        ensure!(status.is_object(), "{status}");
        Ok(())
    });
}

// S47
#[test]
fn a_mount_whose_readers_wait_can_be_unmounted_and_killed() {
    silent(|cluster| {
        for how in ["umount", "SIGKILL"] {
            let mut readers = Vec::new();
            for words in &READERS[..2] {
                readers.push(start_reader(cluster, words)?);
            }
            let root = cluster.b().display().to_string();
            if how == "umount" {
                let umount = cluster.mounts[1].dfs(&["umount", &root])?;
                ensure!(umount.status.success(), "{umount:?}");
            } else {
                cluster.mounts[1].kill();
            }
            for mut reader in readers {
                let status = reader.wait_exit(READ_DEADLINE).with_context(|| how.to_owned())?;
                ensure!(!status.success(), "{how}: nobody gave the reader its bytes");
            }
            if how == "umount" {
                cluster.mounts[1].wait_stopped()?;
            }
            cluster.mounts[1].start()?;
            ensure!(fs::read(cluster.b().join("small"))? == b"small", "after {how}");
        }
        Ok(())
    });
}

#[test]
fn all_of_this_holds_for_an_ordinary_user() -> Result<()> {
    user::rerun_suite_as_ordinary_user("all_of_this_holds_for_an_ordinary_user")
}
