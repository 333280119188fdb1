//! `dfs history` and `dfs restore`.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_mountd::control::client::{self, Found};
use dfs_mountd::control::{Explanation, HistoryPage, Request, Version, VersionId};
use serde_json::json;
use time::OffsetDateTime;

use super::{FAILED, Failure, bytes, print, print_json};

/// How long a restore waits until what is at the path now is on the server, in milliseconds.
const SETTLE_MS: u64 = 120_000;
/// Blocks of zeros of this length become holes.
const BLOCK_LEN: usize = 64 * 1024;
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(500);

/// Arguments of `dfs history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArguments {
    /// The file, also one that was removed
    path: PathBuf,
    /// List the files that were removed from this directory
    #[arg(long)]
    deleted: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `dfs restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArguments {
    /// The file, also one that was removed
    path: PathBuf,
    /// Which version: a number or a revision (r17), as `dfs history` lists them [default of a removed file: its last one]
    #[arg(long, value_name = "N")]
    version: Option<VersionId>,
    /// Write it there instead, to a new file
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
}

fn failed(attempted: &str, path: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Other(FAILED, format!("cannot {attempted} {}: {error}", path.display()))
}

/// Seconds since 1970 as people read them.
fn date(secs: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(secs) {
        Ok(at) => {
            let (date, time) = (at.date(), at.time());
            format!(
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
                date.year(),
                u8::from(date.month()),
                date.day(),
                time.hour(),
                time.minute(),
                time.second()
            )
        }
        Err(_) => format!("@{secs}"),
    }
}

/// Names may hold anything; a terminal must not.
fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `dfs history`
pub(crate) fn history(arguments: &HistoryArguments) -> Result<(), Failure> {
    let found = client::find_past(&arguments.path)?;
    if arguments.deleted {
        return deleted(&found, &arguments.path, arguments.json);
    }
    let page: HistoryPage = client::ask(&found, &Request::History { path: found.relative.clone() })?;
    if arguments.json {
        return print_json(
            &json!({ "path": arguments.path.display().to_string(), "versions": page.versions }),
        );
    }
    print(&format!(
        "{:>7}  {:<10}  {:<20}  {:>10}  {:<8}  WHO",
        "VERSION", "REVISION", "WHEN", "SIZE", "STATE"
    ))?;
    for version in &page.versions {
        print(&format!(
            "{:>7}  {:<10}  {:<20}  {:>10}  {:<8}  {}",
            version.version,
            format!("r{}", version.revision),
            date(version.mtime_s),
            bytes(version.size),
            version.state,
            shown(version.author.as_deref().unwrap_or("-"))
        ))?;
    }
    Ok(())
}

fn deleted(found: &Found, path: &Path, is_json: bool) -> Result<(), Failure> {
    let (mut all, mut after) = (Vec::new(), Some(Vec::new()));
    while let Some(names_before) = after {
        let request = Request::Removed { path: found.relative.clone(), after: names_before };
        let page: HistoryPage = client::ask(found, &request)?;
        after = page.next;
        if is_json {
            all.extend(page.removed);
            continue;
        }
        for removed in page.removed {
            let slash = if removed.is_directory { "/" } else { "" };
            print(&format!(
                "{:<20}  {:>10}  {:<16}  {}{slash}",
                date(removed.removed_s),
                bytes(removed.size),
                shown(removed.by.as_deref().unwrap_or("-")),
                shown(&removed.name)
            ))?;
        }
    }
    if is_json {
        print_json(&json!({ "path": path.display().to_string(), "removed": all }))?;
    }
    Ok(())
}

/// `dfs restore`
pub(crate) fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    let path = &arguments.path;
    let found = client::find_past(path)?;
    if path.is_dir() {
        return Err(Failure::Other(FAILED, format!("{} is a directory: name a file", path.display())));
    }
    if let Some(to) = arguments.to.as_deref().filter(|to| to.symlink_metadata().is_ok()) {
        return Err(Failure::Other(
            FAILED,
            format!("{} exists already: name a new file with --to", to.display()),
        ));
    }
    if arguments.to.is_none() && path.symlink_metadata().is_ok() {
        settle(&found)?;
    }
    // Fetched whole before anything is changed: half a version never stands at the path.
    let mut spool = Spool::new()?;
    let request = Request::Version { path: found.relative.clone(), version: arguments.version };
    let mut told = Instant::now();
    let version = client::fetch(&found, &request, &mut |version, piece| {
        spool.add(piece)?;
        if told.elapsed() >= TOLD && io::stderr().is_terminal() {
            told = Instant::now();
            let _ = write!(io::stderr(), "\r{} of {}  ", bytes(spool.len), bytes(version.size));
        }
        Ok(())
    })?;
    let target = arguments.to.as_deref().unwrap_or(path);
    write_to(target, &mut spool, &version)?;
    print(&format!(
        "{}: version {} (r{}), {}",
        target.display(),
        version.version,
        version.revision,
        bytes(version.size)
    ))
}

/// Waits until what stands at the path is on the server, so that it is in the history when it is replaced.
fn settle(found: &Found) -> Result<(), Failure> {
    // Says at once when there is no server, or nothing to restore.
    client::ask::<HistoryPage>(found, &Request::History { path: found.relative.clone() })?;
    let explain = Request::Explain { path: found.relative.clone() };
    let state: Explanation = client::ask(found, &explain)?;
    if state.state != "synced" {
        client::ask::<serde_json::Value>(found, &Request::Wait { timeout_ms: Some(SETTLE_MS) })?;
    }
    Ok(())
}

/// Makes the bytes the newest version of a file, by an ordinary write.
fn write_to(target: &Path, spool: &mut Spool, version: &Version) -> Result<(), Failure> {
    if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed("make", parent))?;
    }
    let is_new = target.symlink_metadata().is_err();
    let mut options = OpenOptions::new();
    options.write(true).create_new(is_new);
    let file = options.open(target).map_err(failed("write", target))?;
    spool.copy_to(&file).map_err(failed("write", target))?;
    if is_new {
        let mode = Permissions::from_mode(version.mode & 0o7777);
        file.set_permissions(mode).map_err(failed("set the mode of", target))?;
    }
    file.sync_all().map_err(failed("write", target))
}

/// Bytes on their way, in a file without a name.
struct Spool {
    file: File,
    len: u64,
}

impl Spool {
    fn new() -> Result<Self, Failure> {
        let directory = std::env::temp_dir();
        let name = format!(".dfs-restore-{}-{}", std::process::id(), uuid::Uuid::now_v7());
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create_new(true).open(&path).map_err(failed("make", &path))?;
        std::fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(Self { file, len: 0 })
    }

    fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        if piece.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(piece, self.len)?;
        }
        self.len += piece.len() as u64;
        self.file.set_len(self.len)
    }

    /// Writes over a file from its beginning; blocks of zeros become holes.
    fn copy_to(&mut self, target: &File) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        // Emptied first: what is a hole in the version must not show older bytes.
        target.set_len(0)?;
        let (mut at, mut block) = (0, vec![0; BLOCK_LEN]);
        loop {
            let len = self.file.read(&mut block)?;
            if len == 0 {
                return target.set_len(self.len);
            }
            if block[..len].iter().any(|byte| *byte != 0) {
                target.write_all_at(&block[..len], at)?;
            }
            at += len as u64;
        }
    }
}
