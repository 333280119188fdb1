//! Talks to a running mount.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dfs_mountd::control::client::{self, ClientError};
use dfs_mountd::control::{Code, Explanation, MountStatus, Request};

#[path = "dfs/conflicts.rs"]
mod conflicts;
#[path = "dfs/history.rs"]
mod history;
#[path = "dfs/pin.rs"]
mod pin;
#[path = "dfs/umount.rs"]
mod umount;
#[path = "dfs/verify.rs"]
mod verify;

/// Exit codes of docs/CONFIGURATION.md.
const FAILED: u8 = 1;
const NOT_FOUND: u8 = 3;
const UNREACHABLE: u8 = 5;

/// Talks to a running dfs mount.
#[derive(Debug, Parser)]
#[command(
    name = "dfs",
    version,
    after_help = "Example:\n  dfs status          how the mount stands to its server\n  dfs wait            \
                  returns when everything written before is on the server"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is pending, how old the oldest is, speed, conflicts
    Status {
        /// Mount point, or a path in it [default: the mount around, or the only one]
        path: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Go on printing
        #[arg(long)]
        watch: bool,
    },
    /// Returns when everything written before is on the server
    Wait {
        /// Mount point, or a path in it
        path: Option<PathBuf>,
        /// Give up after this many seconds: exit code 1, or 5 if the server cannot be reached
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<f64>,
    },
    /// Where a file stands, and why it is not on the server
    Explain {
        /// The file
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Removes a file's bytes from this machine; they are fetched again when they are read
    Evict {
        /// The file
        path: PathBuf,
    },
    /// Ends a mount
    Umount {
        /// Mount point, or a path in it
        path: PathBuf,
        /// First wait until everything is on the server
        #[arg(long, conflicts_with = "force")]
        flush: bool,
        /// Also when its process does not answer
        #[arg(long)]
        force: bool,
    },
    /// Lists the versions of a file, or what was removed from a directory
    History(history::HistoryArguments),
    /// Makes an old version of a file the newest one
    Restore(history::RestoreArguments),
    /// Lists, compares and decides conflicts
    #[command(subcommand)]
    Conflicts(conflicts::Conflicts),
    /// Takes both versions of a conflict as they are: two ordinary files from now on
    Resolve {
        /// The file or its conflict copy
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Keeps files on this machine: fetches them, also later versions, and never evicts them
    Pin(pin::PinArguments),
    /// Removes a pin, so that bytes may be evicted again
    Unpin(pin::UnpinArguments),
    /// Compares mount, cache and server, names what is damaged and repairs what has a good copy
    Verify(verify::VerifyArguments),
}

/// Why a command failed.
enum Failure {
    Client(ClientError),
    Other(u8, String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

fn main() -> ExitCode {
    let failure = match run(Arguments::parse().command) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let (code, message) = match failure {
        Failure::Other(code, message) => (code, message),
        Failure::Client(error) => (code_of(&error), error.to_string()),
    };
    eprintln!("dfs: {message}");
    ExitCode::from(code)
}

fn code_of(error: &ClientError) -> u8 {
    match error {
        ClientError::NothingMounted | ClientError::NotMounted { .. } => NOT_FOUND,
        ClientError::Path { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
        ClientError::Path { .. } | ClientError::Ambiguous { .. } => FAILED,
        ClientError::Dead { .. } | ClientError::Attribute { .. } | ClientError::Socket { .. } => FAILED,
        ClientError::Refused(failure) => match failure.code {
            Code::Failed | Code::BadRequest | Code::TimedOut => FAILED,
            Code::NotFound => NOT_FOUND,
            Code::Offline => UNREACHABLE,
        },
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Status { path, json, watch } => status(path.as_deref(), json, watch),
        Command::Wait { path, timeout } => wait(path.as_deref(), timeout),
        Command::Explain { path, json } => explain(&path, json),
        Command::Evict { path } => {
            let found = client::find(Some(&path))?;
            let request = Request::Evict { path: found.relative.clone() };
            client::ask::<serde_json::Value>(&found, &request)?;
            Ok(())
        }
        Command::Umount { path, flush, force } => umount::run(&path, flush, force),
        Command::History(arguments) => history::history(&arguments),
        Command::Restore(arguments) => history::restore(&arguments),
        Command::Conflicts(command) => conflicts::run(command),
        Command::Resolve { paths } => conflicts::resolve(&paths),
        Command::Pin(arguments) => pin::pin(&arguments),
        Command::Unpin(arguments) => pin::unpin(&arguments),
        Command::Verify(arguments) => verify::verify(&arguments),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Other(FAILED, format!("cannot print: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn print_json(of: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(of);
    print(&text.map_err(|error| Failure::Other(FAILED, error.to_string()))?)
}

fn status(path: Option<&Path>, json: bool, watch: bool) -> Result<(), Failure> {
    let found = client::find(path)?;
    let mut last = None;
    loop {
        let status: MountStatus = client::ask(&found, &Request::Status)?;
        if last.as_ref() != Some(&status) {
            if json {
                print_json(&status)?;
            } else {
                print(&describe(&status))?;
            }
        }
        if !watch {
            return Ok(());
        }
        last = Some(status);
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn describe(status: &MountStatus) -> String {
    let sync = &status.sync;
    let mut lines =
        vec![format!("{} (volume {}, server {})", status.mount_point, status.volume, sync.server)];
    let reason = if sync.reason.is_empty() { String::new() } else { format!(": {}", sync.reason) };
    lines.push(format!("  state      {}{reason}", sync.state));
    lines.push(match sync.pending {
        0 => "  pending    nothing: everything is on the server".to_owned(),
        count => format!(
            "  pending    {}{count} changes, {}; the oldest is {:.1} s old",
            if sync.pending_is_at_least { "at least " } else { "" },
            bytes(sync.pending_bytes),
            sync.oldest_pending_ms.unwrap_or(0) as f64 / 1000.0
        ),
    });
    for upload in &sync.uploads {
        lines.push(format!(
            "  upload     {}: {}, {} of {}",
            upload.path,
            upload.state,
            bytes(upload.done),
            bytes(upload.total)
        ));
    }
    lines.extend(sync.no_room.iter().map(|file| format!("  no room    {}: {}", file.path, file.reason)));
    for stuck in &sync.stuck {
        lines.push(format!("  stuck      {}: {}", stuck.path, stuck.reason));
    }
    lines.extend(sync.notices.iter().map(|notice| format!("  note       {notice}")));
    lines.push(match sync.open_conflicts {
        0 => "  conflicts  none".to_owned(),
        open => format!("  conflicts  {open} to be decided: `dfs conflicts list`"),
    });
    let limit =
        |rate: Option<u64>| rate.map_or_else(String::new, |rate| format!(" (at most {}/s)", bytes(rate)));
    lines.push(format!(
        "  traffic    {} up{}, {} down{}",
        bytes(sync.uploaded_bytes),
        limit(sync.limit_up),
        bytes(sync.downloaded_bytes),
        limit(sync.limit_down)
    ));
    if let Some(limit) = sync.quota {
        lines.push(format!("  quota      {} of {} used on the server", bytes(sync.used), bytes(limit)));
    }
    lines.push(format!("  cache      {} on disk", bytes(sync.cache_bytes)));
    if sync.pins > 0 {
        let missing = match sync.pinned_missing_bytes {
            0 => "all of it is here".to_owned(),
            missing => format!("{} not here yet", bytes(missing)),
        };
        lines.push(format!("  pinned     {} files and directories, {missing}", sync.pins));
    }
    lines.push(format!("  revision   {}", sync.revision));
    lines.join("\n")
}

fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{count} B")
}

fn wait(path: Option<&Path>, timeout: Option<f64>) -> Result<(), Failure> {
    let found = client::find(path)?;
    let timeout_ms = match timeout {
        Some(seconds) if seconds >= 0.0 && seconds.is_finite() => Some((seconds * 1000.0) as u64),
        Some(_) => return Err(Failure::Other(2, "--timeout wants a number of seconds".to_owned())),
        None => None,
    };
    client::ask::<serde_json::Value>(&found, &Request::Wait { timeout_ms })?;
    Ok(())
}

fn explain(path: &Path, json: bool) -> Result<(), Failure> {
    let found = client::find(Some(path))?;
    let answer: Explanation = client::ask(&found, &Request::Explain { path: found.relative.clone() })?;
    if json {
        return print_json(&answer);
    }
    let here = if answer.here { "all of it is here" } else { "not all of it is here" };
    let pinned = match answer.pinned_by.as_deref() {
        None => String::new(),
        Some("") => ", pinned by the mount point".to_owned(),
        Some(by) if by.as_bytes() == found.relative => ", pinned".to_owned(),
        Some(by) => format!(", pinned by {by}"),
    };
    let size = bytes(answer.size);
    print(&format!("{}: {}: {} ({size}, {here}{pinned})", path.display(), answer.state, answer.text))
}
