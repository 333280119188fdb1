//! Tests as an ordinary user although the whole run is root's.
//!
//! The running test executable and the programs under test are put where everybody may read them, and the
//! executable is started anew as `nobody`, with a home and a temporary directory of its own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{binaries, machine, mount, process};

/// The user and group id of `nobody` on Linux.
pub const NOBODY: u32 = 65_534;

/// Programs that `cargo install` puts where only their owner may read.
const SHARED_TOOLS: [&str; 2] = ["pjdfstest", "fsx"];

const SUITE_DEADLINE: Duration = Duration::from_secs(300);

/// Runs tests of this executable as an ordinary user: all that `arguments` (of the test harness) select.
/// Returns how many passed.
///
/// # Errors
/// When one fails, or none was selected; with the output.
pub fn rerun_as_ordinary_user(arguments: &[&str]) -> Result<usize> {
    ensure!(machine::is_root(), "only root can become an ordinary user");
    let directory = tempfile::Builder::new().prefix("dfs-").tempdir().context("directory for copies")?;
    open_to_all(directory.path())?;
    for name in binaries::PROGRAMS {
        share(&binaries::program(name)?, &directory.path().join(name))?;
    }
    // An ordinary user may not enter root's own directories of programs.
    for name in SHARED_TOOLS {
        if let Some(program) = machine::find_program(name) {
            share(&program, &directory.path().join(name))?;
        }
    }
    let test = directory.path().join("test");
    share(&std::env::current_exe()?, &test)?;
    let home = directory.path().join("h");
    std::fs::create_dir(&home)?;
    chown(&home, Some(NOBODY), Some(NOBODY)).context("give nobody a home")?;
    let mut command = Command::new(&test);
    command.args(arguments).current_dir(&home).uid(NOBODY).gid(NOBODY);
    command.env("HOME", &home).env("TMPDIR", &home).env("DFS_TESTS_BIN_DIR", directory.path());
    // What needs root has run as root already; here it is left out by name.
    command.env_remove("DFS_TESTS_REQUIRE_ALL").env_remove("DFS_TESTS_SKIP_LOG");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", directory.path().display());
    command.env_remove("XDG_RUNTIME_DIR").env("PATH", path);
    let output = process::output(&mut command, SUITE_DEADLINE);
    unmount_below(&home);
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "as an ordinary user: {}\n{said}\n{errors}", output.status);
    let passed = said.split("test result: ok. ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let passed: usize = passed.with_context(|| format!("no result line in:\n{said}"))?;
    ensure!(passed > 0, "no test was selected by {arguments:?}");
    Ok(passed)
}

/// As root runs all tests of this executable but `name`, the one that calls this, as an ordinary user; nothing
/// otherwise, because then they run as one anyway.
///
/// # Errors
/// When one of them fails.
pub fn rerun_suite_as_ordinary_user(name: &str) -> Result<()> {
    let needs = [machine::Need::Fuse, machine::Need::Program("fusermount3")];
    if !machine::is_root() || machine::skip_for(name, &needs) {
        return Ok(());
    }
    rerun_as_ordinary_user(&["--skip", name])?;
    Ok(())
}

/// Lets everybody read and enter a directory.
///
/// # Errors
/// When it is not ours.
pub fn open_to_all(path: &Path) -> Result<()> {
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).with_context(|| format!("open {}", path.display()))
}

fn share(from: &Path, to: &Path) -> Result<()> {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    open_to_all(to)
}

/// A run that was killed at its deadline leaves mounts in the home that we gave it; take those away.
fn unmount_below(home: &Path) {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return };
    let ours: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(home))
        .collect();
    for point in ours {
        mount::unmount_lazily(Path::new(point));
    }
}
