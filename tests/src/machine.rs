//! What this machine can do, and honest skips where it can't.
//!
//! A skipped test says so by name on stderr (past the harness's capture), adds a line to the file that
//! `DFS_TESTS_SKIP_LOG` names, and is a failure under `DFS_TESTS_REQUIRE_ALL=1`, which CI sets.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Something a test can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Mounting a FUSE filesystem, as whoever runs the tests.
    Fuse,
    /// Being root: chown, device nodes, mounting a tmpfs.
    Root,
    /// A program on `PATH`.
    Program(&'static str),
    /// Python with its sqlite3 module.
    PythonSqlite,
    /// Python that makes virtual environments.
    PythonVenv,
    /// A free TCP port that the product fixes by itself.
    FreePort(u16),
}

/// Every need that some suite has, for the summary.
pub const ALL: [Need; 19] = [
    Need::Fuse,
    Need::Root,
    Need::Program("fusermount3"),
    Need::Program("cp"),
    Need::Program("git"),
    Need::Program("rsync"),
    Need::Program("tar"),
    Need::Program("cargo"),
    Need::Program("curl"),
    Need::Program("openssl"),
    Need::Program("python3"),
    Need::Program("wrk"),
    Need::Program("mount"),
    Need::Program("cc"),
    Need::Program("make"),
    Need::Program("inotifywait"),
    Need::PythonSqlite,
    Need::PythonVenv,
    Need::FreePort(8080),
];

/// Why `need` is not met here; `None` when it is.
#[must_use]
pub fn lacking(need: Need) -> Option<String> {
    match need {
        Need::Fuse => fuse_lacking(),
        Need::Root => (!is_root()).then(|| String::from("not root")),
        Need::Program(name) => (!has_program(name)).then(|| format!("no program {name}")),
        Need::PythonSqlite => {
            (!runs("python3", &["-c", "import sqlite3"])).then(|| "no python3 with sqlite3".into())
        }
        Need::PythonVenv => {
            (!runs("python3", &["-c", "import venv, ensurepip"])).then(|| "no python3 with venv".into())
        }
        Need::FreePort(port) => std::net::TcpListener::bind(("127.0.0.1", port))
            .err()
            .map(|error| format!("port {port} is not free: {error}")),
    }
}

/// Says that the running test is skipped because of the first unmet need; false when all are met.
///
/// # Panics
/// Under `DFS_TESTS_REQUIRE_ALL=1`, where a skip is a failure.
#[must_use]
pub fn skip_for(test: &str, needs: &[Need]) -> bool {
    let Some(reason) = needs.iter().find_map(|need| lacking(*need)) else { return false };
    skip(test, &reason);
    true
}

/// Says that `test` is skipped and why.
///
/// # Panics
/// Under `DFS_TESTS_REQUIRE_ALL=1`, where a skip is a failure.
pub fn skip(test: &str, reason: &str) {
    leave_out(test, reason);
    assert!(!requires_all(), "{test} would be skipped ({reason}), and DFS_TESTS_REQUIRE_ALL is set");
}

/// Says that the running test is skipped if `need` is not met, where no run has to meet it; false when it is met.
#[must_use]
pub fn leaves_out(test: &str, need: Need) -> bool {
    lacking(need).map(|reason| leave_out(test, &reason)).is_some()
}

fn leave_out(test: &str, reason: &str) {
    let line = format!("skipped: {test}: {reason}");
    say(&line);
    if let Some(path) = std::env::var_os("DFS_TESTS_SKIP_LOG")
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _unwritable = writeln!(file, "{line}");
    }
}

/// Whether a skip is a failure in this run.
#[must_use]
pub fn requires_all() -> bool {
    std::env::var_os("DFS_TESTS_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// Writes a line where the test harness does not hide it.
pub fn say(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

/// Whether the tests run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A number that the environment may scale, with the value that CI uses as default.
#[must_use]
pub fn scale(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Where `PATH` has a program.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn has_program(name: &str) -> bool {
    find_program(name).is_some()
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// As root also opens `/dev/fuse` to all, as distributions have it, so that ordinary users can mount.
fn fuse_lacking() -> Option<String> {
    let device = "/dev/fuse";
    let Ok(metadata) = std::fs::metadata(device) else { return Some(format!("no {device}")) };
    if is_root() && metadata.permissions().mode() & 0o666 != 0o666 {
        let open_to_all = std::fs::Permissions::from_mode(0o666);
        let _read_only = std::fs::set_permissions(device, open_to_all);
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
        return Some(format!("{device}: {error}"));
    }
    (!is_root() && !has_program("fusermount3")).then(|| "no fusermount3 (Debian: fuse3)".into())
}
