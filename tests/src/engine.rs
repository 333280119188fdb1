//! One server on each engine, without mounts, for suites that speak HTTP to it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::{self, Need};
use crate::server::Server;

/// The names of all engines.
pub const ENGINES: [&str; 3] = ["async", "thread-pool", "blocking"];

/// Starts a server on each engine in turn and runs the test on it, with a directory for files of the test's own; skips
/// by name where the machine lacks something.
///
/// # Panics
/// When the test fails, after the server's log.
pub fn on_every_engine(name: &str, needs: &[Need], test: impl Fn(&mut Server, &Path) -> Result<()>) {
    on_every_engine_with(name, needs, |_| Ok(Vec::new()), test);
}

/// [`on_every_engine`] with more arguments for the server, made when its directory exists.
///
/// # Panics
/// When the test fails, after the server's log.
pub fn on_every_engine_with(
    name: &str,
    needs: &[Need],
    arguments: impl Fn(&Path) -> Result<Vec<String>>,
    test: impl Fn(&mut Server, &Path) -> Result<()>,
) {
    if machine::skip_for(name, needs) {
        return;
    }
    for engine in ENGINES {
        let mut server = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
            let directory =
                tempfile::Builder::new().prefix("dfs-").tempdir().context("directory of this test")?;
            let mut all = vec![String::from("--engine"), engine.to_owned()];
            all.extend(arguments(directory.path())?);
            let server = server.insert(Server::new(directory.path(), all));
            server.start()?;
            test(server, directory.path())
        }));
        let tail = || server.as_ref().map_or_else(String::new, Server::tail);
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{name} on {engine}: {error:#}\n{}", tail()),
            Err(panic) => {
                machine::say(&format!("{name} on {engine}: panicked\n{}", tail()));
                resume_unwind(panic)
            }
        }
    }
}
