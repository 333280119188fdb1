//! One `dfs-mount` process with its mount point, state and cache directory.
//!
//! Invariant: when it is dropped the process is gone and nothing is mounted on its mount point.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::log::Log;
use crate::process::{self, Daemon};
use crate::server::isolate;
use crate::{binaries, machine};

/// How long a mount may take until it is usable.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a clean unmount may take.
pub const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How long a killed process may take to end before its mount is taken away by force.
const KILLED_DEADLINE: Duration = Duration::from_secs(5);
/// How long `dfs wait` may take in tests of ordinary size.
pub const SYNC_DEADLINE: Duration = Duration::from_secs(90);

const COMMAND_DEADLINE: Duration = Duration::from_secs(20);

/// A mount, running or not.
pub struct Mount {
    name: String,
    directory: PathBuf,
    root: PathBuf,
    server: Option<String>,
    /// More arguments of `dfs-mount`; a change counts from the next start.
    pub arguments: Vec<String>,
    daemon: Option<Daemon>,
    logs: Vec<Log>,
}

impl Mount {
    /// A mount that is not started yet, with everything it writes under `directory`; `server` is
    /// `host:port`, or `None` for a mount with an embedded one.
    #[must_use]
    pub fn new(directory: &Path, name: &str, server: Option<String>) -> Mount {
        let root = directory.join(name);
        let directory = directory.to_owned();
        Mount {
            name: name.to_owned(),
            directory,
            root,
            server,
            arguments: vec![],
            daemon: None,
            logs: vec![],
        }
    }

    /// Starts it and waits for its ready line.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "mount {} runs already", self.name);
        let log = Log::default();
        self.logs.push(log.clone());
        let daemon = Daemon::spawn(&format!("dfs-mount {}", self.name), &mut self.command()?, &log)?;
        self.daemon = Some(daemon);
        let ready = format!("mounted {}", self.root.display());
        log.wait_for("ready line of dfs-mount", READY_DEADLINE, |line| line.contains(&ready).then_some(()))?;
        ensure!(is_mounted(&self.root), "{} says it is mounted, the kernel does not", self.root.display());
        Ok(())
    }

    /// The command that starts it.
    ///
    /// # Errors
    /// When the program can't be built.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binaries::program("dfs-mount")?);
        command.arg(&self.root);
        if let Some(server) = &self.server {
            command.arg("--server").arg(server);
            command.arg("--state-dir").arg(self.state_dir()).arg("--cache-dir").arg(self.cache_dir());
            command.arg("--client-name").arg(format!("host-{}", self.name));
        }
        command.args(&self.arguments);
        isolate(&mut command, &self.directory);
        Ok(command)
    }

    /// Runs `dfs-mount` with these directories where it is expected to refuse.
    ///
    /// # Errors
    /// When it does not end by itself in time.
    pub fn start_refused(&self) -> Result<Output> {
        let output = process::output(&mut self.command()?, READY_DEADLINE)?;
        ensure!(!output.status.success(), "dfs-mount ended with 0 where it should refuse");
        Ok(output)
    }

    /// SIGKILL; the mount point stays dead until the next start or [`Mount::detach`].
    pub fn kill(&mut self) {
        if let Some(daemon) = &self.daemon {
            let _gone_already = daemon.signal(Signal::KILL);
        }
        if let Some(mut daemon) = self.daemon.take()
            && daemon.wait_exit(KILLED_DEADLINE).is_err()
        {
            // The kernel holds one of its threads until a program has an answer, and nothing ended the connection (S43, N15).
            let _result = Command::new("umount").arg("-f").arg(&self.root).output();
            let what = format!("{}: killed, and neither gone nor ended by its guardian", self.root.display());
            assert!(std::thread::panicking() || !rustix::process::geteuid().is_root(), "{what}");
            machine::say(&what);
        }
    }

    /// SIGKILL if need be, and takes the mount point away.
    pub fn detach(&mut self) {
        self.daemon = None;
        unmount_lazily(&self.root);
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("the mount does not run")?.signal(signal)
    }

    /// Sends `signal` and wants a clean unmount with exit code 0.
    ///
    /// # Errors
    /// When it ends otherwise, or not in time, or the mount point is still there.
    pub fn stop_with(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        self.wait_stopped()
    }

    /// SIGTERM, see [`Mount::stop_with`].
    ///
    /// # Errors
    /// See [`Mount::stop_with`].
    pub fn stop(&mut self) -> Result<()> {
        self.stop_with(Signal::TERM)
    }

    /// Waits for a clean end that someone else asked for.
    ///
    /// # Errors
    /// When it ends otherwise, or not in time, or the mount point is still there.
    pub fn wait_stopped(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the mount does not run")?;
        let status = daemon.wait_exit(STOP_DEADLINE)?;
        ensure!(status.success(), "dfs-mount {} ended with {status}", self.name);
        ensure!(!is_mounted(&self.root), "{} is still mounted", self.root.display());
        Ok(())
    }

    /// A clean stop and a new start.
    ///
    /// # Errors
    /// When either fails.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Runs `dfs ARGUMENTS`, whatever its exit code.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn dfs(&self, arguments: &[&str]) -> Result<Output> {
        self.dfs_within(arguments, COMMAND_DEADLINE)
    }

    fn dfs_within(&self, arguments: &[&str], deadline: Duration) -> Result<Output> {
        let mut command = Command::new(binaries::program("dfs")?);
        isolate(&mut command, &self.directory);
        process::output(command.args(arguments), deadline)
    }

    /// `dfs status MOUNT --json`.
    ///
    /// # Errors
    /// When it fails or is not JSON.
    pub fn status(&self) -> Result<Value> {
        let output = self.dfs(&["status", &self.root.to_string_lossy(), "--json"])?;
        ensure!(output.status.success(), "dfs status: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("dfs status --json")
    }

    /// The Merkle root that the mount's tree has.
    ///
    /// # Errors
    /// When it does not say.
    pub fn merkle_root(&self) -> Result<String> {
        let status = self.status()?;
        let root = status["merkle_root"].as_str().with_context(|| format!("no merkle_root in {status}"))?;
        Ok(root.to_owned())
    }

    /// `dfs wait MOUNT`: until everything written before is on the server.
    ///
    /// # Errors
    /// When that fails or takes too long.
    pub fn wait_synced(&self) -> Result<()> {
        self.wait_synced_within(SYNC_DEADLINE)
    }

    /// [`Mount::wait_synced`] with a deadline of its own.
    ///
    /// # Errors
    /// When that fails or takes too long.
    pub fn wait_synced_within(&self, deadline: Duration) -> Result<()> {
        let seconds = deadline.as_secs().to_string();
        let arguments = ["wait", &self.root.to_string_lossy(), "--timeout", &seconds];
        let output = self.dfs_within(&arguments, deadline + COMMAND_DEADLINE)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("dfs wait for {}: {}: {said}; status: {:?}", self.name, output.status, self.status());
        }
        Ok(())
    }

    /// The mount point.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the mount.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Where its journal and un-uploaded content are.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join(format!("{}.state", self.name))
    }

    /// Where fetched content is.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.directory.join(format!("{}.cache", self.name))
    }

    /// Whether the kit has started it and not ended it.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.daemon.is_some()
    }

    /// The process id while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::id)
    }

    /// Whether it has said `text` since it was first started.
    #[must_use]
    pub fn has_said(&self, text: &str) -> bool {
        self.logs.iter().any(|log| log.contains(text))
    }

    /// The last line that it said.
    #[must_use]
    pub fn last_line(&self) -> String {
        self.logs.last().map(|log| log.tail(1)).unwrap_or_default()
    }

    /// The end of what it said, for a failure.
    #[must_use]
    pub fn tail(&self) -> String {
        self.logs.iter().rev().take(2).rev().map(|log| log.tail(60)).collect::<Vec<_>>().join("\n--\n")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Unmounting first lets the process answer what is still waiting; the kill is for when it does not.
        unmount_lazily(&self.root);
        self.daemon = None;
        unmount_lazily(&self.root);
    }
}

/// Whether something is mounted exactly on `path`.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    let wanted = path.to_string_lossy();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted))
}

/// Takes away whatever is mounted on `path`, also a dead mount and one that is in use.
pub fn unmount_lazily(path: &Path) {
    for _stacked in 0..4 {
        if !is_mounted(path) {
            return;
        }
        let mut command = if machine::is_root() {
            let mut command = Command::new("umount");
            command.arg("-l");
            command
        } else {
            let mut command = Command::new("fusermount3");
            command.args(["-u", "-z"]);
            command
        };
        let _still_there = process::output(command.arg(path), COMMAND_DEADLINE);
    }
}
