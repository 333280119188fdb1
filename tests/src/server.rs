//! One `dfs-server` process with its data directory, on a port that it keeps over restarts.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::log::Log;
use crate::process::Daemon;
use crate::{binaries, http, wait};

/// How long a server may take until it accepts connections.
pub const READY_DEADLINE: Duration = Duration::from_secs(20);
/// How long a server may take to drain after SIGTERM.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// A server, running or not.
pub struct Server {
    data: PathBuf,
    environment: PathBuf,
    arguments: Vec<String>,
    port: u16,
    daemon: Option<Daemon>,
    logs: Vec<Log>,
}

impl Server {
    /// A server that is not started yet, with everything it writes under `directory`.
    #[must_use]
    pub fn new(directory: &Path, arguments: Vec<String>) -> Server {
        let data = directory.join("data");
        let environment = directory.to_owned();
        Server { data, environment, arguments, port: 0, daemon: None, logs: Vec::new() }
    }

    /// Starts it and waits for its ready line.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the server runs already");
        let log = Log::default();
        self.logs.push(log.clone());
        let daemon = Daemon::spawn("dfs-server", &mut self.command()?, &log)?;
        self.daemon = Some(daemon);
        self.port = log.wait_for("ready line of dfs-server", READY_DEADLINE, port_in_ready_line)?;
        Ok(())
    }

    /// The command that starts it.
    ///
    /// # Errors
    /// When the program can't be built.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binaries::program("dfs-server")?);
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--data-dir").arg(&self.data).args(&self.arguments);
        isolate(&mut command, &self.environment);
        Ok(command)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it is not running or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let mut daemon = self.daemon.take().context("the server does not run")?;
        daemon.signal(Signal::TERM)?;
        daemon.wait_exit(DRAIN_DEADLINE)
    }

    /// SIGTERM, and wants exit code 0.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.terminate()?;
        ensure!(status.success(), "dfs-server ended with {status} after SIGTERM");
        Ok(())
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::id)
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("the server does not run")?.signal(signal)
    }

    /// The port that it has, or had.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Whether the kit has started it and not ended it.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.daemon.is_some()
    }

    /// `GET /api/info`.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn info(&self) -> Result<Value> {
        http::get(self.port, "/api/info")?.json()
    }

    /// The Merkle root of its volume.
    ///
    /// # Errors
    /// When it does not say.
    pub fn merkle_root(&self) -> Result<String> {
        let info = self.info()?;
        let root = info["merkle_root"].as_str().with_context(|| format!("no merkle_root in {info}"))?;
        Ok(root.to_owned())
    }

    /// The value of a metric, summed over its labels.
    ///
    /// # Errors
    /// When there is no such metric.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = http::get(self.port, "/metrics")?.text();
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "no metric {name}");
        Ok(values.iter().sum())
    }

    /// Whether it has said `text` since it was first started.
    #[must_use]
    pub fn has_said(&self, text: &str) -> bool {
        self.logs.iter().any(|log| log.contains(text))
    }

    /// The end of what it said, for a failure.
    #[must_use]
    pub fn tail(&self) -> String {
        self.logs.iter().rev().take(2).rev().map(|log| log.tail(60)).collect::<Vec<_>>().join("\n--\n")
    }

    /// Waits until it answers `/health`.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_healthy(&self) -> Result<()> {
        wait::eventually("/health answers 200", || Ok(http::get(self.port, "/health")?.status == 200))
    }
}

/// Keeps a program's defaults inside `directory` and the caller's settings out.
pub fn isolate(command: &mut Command, directory: &Path) {
    crate::process::quiet_environment(command);
    command.env("HOME", directory);
    for (name, folder) in [
        ("XDG_DATA_HOME", "xdg-data"),
        ("XDG_STATE_HOME", "xdg-state"),
        ("XDG_CACHE_HOME", "xdg-cache"),
        ("XDG_CONFIG_HOME", "xdg-config"),
        ("XDG_RUNTIME_DIR", "xdg-run"),
    ] {
        command.env(name, directory.join(folder));
    }
    command.current_dir(directory);
}

fn port_in_ready_line(line: &str) -> Option<u16> {
    let url = line.split_once("listening on ")?.1;
    let rest =
        url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?.strip_prefix("127.0.0.1:")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}
