//! Where the programs under test are: next to the test executable, brought up to date by cargo once.
//!
//! `DFS_TESTS_BIN_DIR` names another directory (an installed release, or copies for another user).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::process;

/// The programs that this project makes.
pub const PROGRAMS: [&str; 3] = ["dfs-server", "dfs-mount", "dfs"];

const BUILD_DEADLINE: Duration = Duration::from_secs(1800);

/// The path of one of [`PROGRAMS`].
///
/// # Errors
/// When it can't be found or built.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = directory()?.join(name);
    path.is_file().then_some(()).with_context(|| format!("{} is missing", path.display()))?;
    Ok(path)
}

/// The directory that holds them all.
///
/// # Errors
/// When they can't be built.
pub fn directory() -> Result<PathBuf> {
    static DIRECTORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| find_or_build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|text| anyhow!("programs under test: {text}"))
}

/// The path of one of the server's examples.
///
/// # Errors
/// When it can't be found or built.
pub fn example(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let directory = directory()?;
    let build = || -> Result<()> {
        if std::env::var_os("DFS_TESTS_BIN_DIR").is_some() {
            return Ok(());
        }
        build(&directory, &["--package", "dfs-server", "--examples"])
    };
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|text| anyhow!("examples: {text}"))?;
    let path = directory.join("examples").join(name);
    path.is_file().then_some(()).with_context(|| format!("{} is missing", path.display()))?;
    Ok(path)
}

fn find_or_build() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("DFS_TESTS_BIN_DIR") {
        return Ok(PathBuf::from(directory));
    }
    let test = std::env::current_exe().context("path of this test")?;
    let profile = test.parent().and_then(Path::parent).context("target directory of this test")?;
    build(profile, &["--workspace", "--bins"])?;
    Ok(profile.to_owned())
}

/// Brings programs in a profile's directory up to date.
fn build(profile: &Path, what: &[&str]) -> Result<()> {
    let target = profile.parent().context("target directory of this test")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.arg("build").args(what).args(["--quiet", "--manifest-path"]);
    build.arg(workspace().join("Cargo.toml")).arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    process::succeed(&mut build, BUILD_DEADLINE).context("build the programs under test")?;
    Ok(())
}

/// The top of the checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
