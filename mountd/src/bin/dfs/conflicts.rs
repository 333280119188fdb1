//! `dfs conflicts` and `dfs resolve`: the mount tells of conflicts, everything else is done on its files.
//!
//! Invariant: what is taken becomes the file in one change, a rename or a removal, so that no moment shows neither version. Merging
//! is the mount's: it knows what both sides had before.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use dfs_mountd::control::client::{self, Found};
use dfs_mountd::control::{Conflict, ConflictList, Request};
use dfs_mountd::limits::DIFF_LEN_MAX;

use super::{FAILED, Failure, NOT_FOUND, print, print_json};

/// What can be done with conflicts.
#[derive(Debug, Subcommand)]
pub(super) enum Conflicts {
    /// Which files are there in two versions, whose they are and since when
    List {
        /// Mount point, or a directory or file in it [default: the mount around, or the only one]
        path: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Prints what differs between the server's version and the local one
    Diff {
        /// Files or their conflict copies
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Makes one version the file and removes the other
    Take {
        /// Which version
        #[arg(value_enum)]
        version: Version,
        /// Files or their conflict copies; with --all mount points or directories
        paths: Vec<PathBuf>,
        /// Every conflict in the mount, or under the paths
        #[arg(long)]
        all: bool,
    },
    /// Merges both versions of a text, where they changed different lines, and removes the conflict copy
    Merge {
        /// Files or their conflict copies; with --all mount points or directories
        paths: Vec<PathBuf>,
        /// Every conflict in the mount, or under the paths
        #[arg(long)]
        all: bool,
    },
}

/// One of the two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Version {
    /// What was made in this mount: the conflict copy
    Local,
    /// What the server had: the file under its name
    Remote,
}

pub(super) fn run(command: Conflicts) -> Result<(), Failure> {
    match command {
        Conflicts::List { path, json } => list(path.as_deref(), json),
        Conflicts::Diff { paths } => paths.iter().try_for_each(|path| diff(path)),
        Conflicts::Take { version, paths, all } => take(version, &paths, all),
        Conflicts::Merge { paths, all } => merge(&paths, all),
    }
}

/// A conflict and the mount that it is in.
struct Open {
    point: PathBuf,
    conflict: Conflict,
}

impl Open {
    fn path(&self) -> PathBuf {
        in_mount(&self.point, &self.conflict.path)
    }

    fn copy(&self) -> PathBuf {
        in_mount(&self.point, &self.conflict.copy_path)
    }
}

fn in_mount(point: &Path, relative: &[u8]) -> PathBuf {
    point.join(OsString::from_vec(relative.to_vec()))
}

fn ask(found: &Found) -> Result<Vec<Open>, Failure> {
    let list: ConflictList = client::ask(found, &Request::Conflicts)?;
    let open = |conflict| Open { point: found.point.clone(), conflict };
    Ok(list.conflicts.into_iter().map(open).collect())
}

/// Returns the conflicts of which a version is a path, or below it.
fn under(path: Option<&Path>) -> Result<Vec<Open>, Failure> {
    let found = client::find(path)?;
    let is_under = |path: &[u8]| {
        let rest = path.strip_prefix(found.relative.as_slice());
        found.relative.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    let mut open = ask(&found)?;
    open.retain(|open| is_under(&open.conflict.path) || is_under(&open.conflict.copy_path));
    Ok(open)
}

/// Returns the conflicts of one file, given by either version.
fn of(path: &Path) -> Result<Vec<Open>, Failure> {
    let found = client::find(Some(path))?;
    let mut open = ask(&found)?;
    let is_copy = open.iter().any(|open| open.conflict.copy_path == found.relative);
    open.retain(|open| match is_copy {
        true => open.conflict.copy_path == found.relative,
        false => open.conflict.path == found.relative,
    });
    if open.is_empty() {
        let message = format!("{}: no conflict here; `dfs conflicts list` shows them", path.display());
        return Err(Failure::Other(NOT_FOUND, message));
    }
    Ok(open)
}

/// Returns the only conflict of a file.
fn only(path: &Path) -> Result<Open, Failure> {
    let mut open = of(path)?;
    match (open.pop(), open.len()) {
        (Some(only), 0) => Ok(only),
        (_, more) => {
            let message =
                format!("{}: {} conflict copies: name the one that is meant", path.display(), more + 1);
            Err(Failure::Other(FAILED, message))
        }
    }
}

fn list(path: Option<&Path>, json: bool) -> Result<(), Failure> {
    let open = under(path)?;
    if json {
        let describe = |open: &Open| {
            serde_json::json!({
                "path": open.path().to_string_lossy(),
                "copy": open.copy().to_string_lossy(),
                "host": open.conflict.host,
                "at_ms": open.conflict.at_ms,
                "manual": open.conflict.manual,
            })
        };
        return print_json(
            &serde_json::json!({ "conflicts": open.iter().map(describe).collect::<Vec<_>>() }),
        );
    }
    for open in &open {
        let at = time::OffsetDateTime::from_unix_timestamp(open.conflict.at_ms.div_euclid(1000));
        let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        let (path, copy, host) = (open.path(), open.copy(), &open.conflict.host);
        print(&format!("{}\n  since {date} {hour:02}:{minute:02}:{second:02} UTC", path.display()))?;
        print(&format!("  the version of {host} is {}", copy.display()))?;
    }
    if open.is_empty() {
        print("no conflicts")?;
    }
    Ok(())
}

fn diff(path: &Path) -> Result<(), Failure> {
    for open in of(path)? {
        let (original, copy) = (open.path(), open.copy());
        let (Some(old), Some(new)) = (read_text(&original)?, read_text(&copy)?) else {
            print(&format!(
                "{} and {} differ and are not both short texts",
                original.display(),
                copy.display()
            ))?;
            continue;
        };
        let mut options = diffy::DiffOptions::new();
        options.set_original_filename(original.to_string_lossy().into_owned());
        options.set_modified_filename(copy.to_string_lossy().into_owned());
        print(options.create_patch(&old, &new).to_string().trim_end_matches('\n'))?;
    }
    Ok(())
}

/// Reads a text; `None` if it is none, or a long one.
fn read_text(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |error| Failure::Other(FAILED, format!("cannot read {}: {error}", path.display()));
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > DIFF_LEN_MAX {
        return Ok(None);
    }
    let text = String::from_utf8(fs::read(path).map_err(failed)?).ok();
    Ok(text.filter(|text| !text.contains('\0')))
}

/// Returns the conflicts that are meant: those of the paths, or all under them.
fn chosen(paths: &[PathBuf], all: bool) -> Result<Vec<Open>, Failure> {
    match (all, paths.is_empty()) {
        (false, true) => Err(Failure::Other(2, "name the files, or give --all".to_owned())),
        (true, true) => under(None),
        (true, false) => Ok(join(paths.iter().map(|path| under(Some(path))).collect::<Result<_, _>>()?)),
        (false, false) => {
            Ok(join(paths.iter().map(|path| Ok(vec![only(path)?])).collect::<Result<_, Failure>>()?))
        }
    }
}

fn merge(paths: &[PathBuf], all: bool) -> Result<(), Failure> {
    let (mut failures, mut worst) = (Vec::new(), 0);
    for open in chosen(paths, all)? {
        let found = client::find(Some(&open.point))?;
        let request = Request::Merge { copy: open.conflict.copy.clone() };
        match client::ask::<serde_json::Value>(&found, &request) {
            Ok(_) => print(&format!("{}: merged", open.path().display()))?,
            Err(error) => {
                worst = worst.max(super::code_of(&error));
                failures.push(format!("{}: not merged: {error}", open.copy().display()));
            }
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::Other(worst, failures.join("\ndfs: "))),
    }
}

fn take(version: Version, paths: &[PathBuf], all: bool) -> Result<(), Failure> {
    let chosen = chosen(paths, all)?;
    let mut failures = Vec::new();
    for open in &chosen {
        let others = chosen.iter().filter(|other| other.conflict.path == open.conflict.path).count();
        let done = match version {
            Version::Local if others > 1 => Err("several conflict copies: name the one to take".to_owned()),
            Version::Local => replace(&open.copy(), &open.path()),
            Version::Remote => remove(&open.copy()),
        };
        match done {
            Ok(()) => print(&format!("{}: took the {} version", open.path().display(), name(version)))?,
            Err(why) => failures.push(format!("{}: {why}", open.path().display())),
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::Other(FAILED, failures.join("\ndfs: "))),
    }
}

fn name(version: Version) -> &'static str {
    match version {
        Version::Local => "local",
        Version::Remote => "remote",
    }
}

/// Joins lists that may overlap.
fn join(lists: Vec<Vec<Open>>) -> Vec<Open> {
    let mut all: Vec<Open> = lists.into_iter().flatten().collect();
    all.sort_by(|one, other| one.conflict.copy_path.cmp(&other.conflict.copy_path));
    all.dedup_by(|one, other| one.copy() == other.copy());
    all
}

const BY_HAND: &str = "move or remove one of the two yourself";

fn replace(copy: &Path, original: &Path) -> Result<(), String> {
    fs::rename(copy, original).map_err(|error| format!("cannot take its place: {error}; {BY_HAND}"))
}

fn remove(copy: &Path) -> Result<(), String> {
    let failed = |error| format!("cannot remove {}: {error}; {BY_HAND}", copy.display());
    match fs::symlink_metadata(copy).map_err(failed)?.is_dir() {
        true => fs::remove_dir(copy).map_err(failed),
        false => fs::remove_file(copy).map_err(failed),
    }
}

/// Both versions stay, and nobody is reminded of them any more.
pub(super) fn resolve(paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let found = client::find(Some(path))?;
        let copies = of(path)?.into_iter().map(|open| open.conflict.copy).collect();
        client::ask::<serde_json::Value>(&found, &Request::Resolve { copies })?;
    }
    Ok(())
}
