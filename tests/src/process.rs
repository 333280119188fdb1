//! A child process with captured output and a deadline for everything.
//!
//! Invariant: a process that is dropped is ended by its own process id and reaped.

use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::log::Log;

/// A running child.
pub struct Daemon {
    name: String,
    child: Child,
    log: Log,
}

impl Daemon {
    /// Starts `command` with its output captured in `log`.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Log) -> Result<Daemon> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        if let Some(stream) = child.stdout.take() {
            log.capture(stream);
        }
        if let Some(stream) = child.stderr.take() {
            log.capture(stream);
        }
        Ok(Daemon { name: name.to_owned(), child, log: log.clone() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        kill_process(id, signal).with_context(|| format!("signal {signal:?} to {}", self.name))
    }

    /// SIGKILL, and waits until the kernel has taken the process away.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Past the deadline.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait for a child")? {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                bail!("{} has not ended within {:.1} s", self.name, deadline.as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("look at a child")?.is_none())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end within `deadline` and returns its output whatever its exit code.
///
/// # Errors
/// When it can't be started, does not end in time (it is killed then), or leaves something behind that holds its output.
pub fn output(command: &mut Command, deadline: Duration) -> Result<Output> {
    let (out, err) = (Log::default(), Log::default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    if let Some(stream) = child.stdout.take() {
        out.capture(stream);
    }
    if let Some(stream) = child.stderr.take() {
        err.capture(stream);
    }
    let mut daemon = Daemon { name: format!("{command:?}"), child, log: err.clone() };
    let status = daemon.wait_exit(deadline).with_context(|| format!("it said:\n{}", err.tail(20)))?;
    let ended = out.wait_end(deadline) && err.wait_end(deadline);
    ensure!(ended, "{command:?} ended, but something that it started keeps its output open");
    Ok(Output { status, stdout: out.text().into_bytes(), stderr: err.text().into_bytes() })
}

/// Runs a program and wants exit code 0.
///
/// # Errors
/// With the program's own words otherwise.
pub fn succeed(command: &mut Command, deadline: Duration) -> Result<String> {
    let output = output(command, deadline)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// Runs a shell script in `directory` (with `set -eu`) and wants exit code 0.
///
/// # Errors
/// With the script's own words otherwise.
pub fn shell(directory: &std::path::Path, script: &str, deadline: Duration) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(directory);
    quiet_environment(&mut command);
    succeed(&mut command, deadline)
}

/// Takes away what the caller's environment would change in a program under test.
pub fn quiet_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let kept = text == "CARGO_HOME" || text.starts_with("CARGO_HTTP") || text.starts_with("CARGO_NET");
        let foreign = ["CARGO", "RUST", "DFS_", "GIT_", "LD_LIBRARY_PATH"];
        if foreign.iter().any(|prefix| text.starts_with(prefix)) && !kept && text != "RUSTUP_HOME" {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "tester")
            .env(format!("GIT_{role}_EMAIL"), "tester@localhost");
    }
}
