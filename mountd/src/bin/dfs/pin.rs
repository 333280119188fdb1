//! `dfs pin` and `dfs unpin`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_mountd::control::client;
use dfs_mountd::control::{PinLine, Request, Unpinned};

use super::{Failure, bytes, print};

/// How often progress is told where no terminal shows it.
const TOLD: Duration = Duration::from_secs(10);

/// Arguments of `dfs pin`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  dfs pin ~/sync/music    all of it, and what is put there later, can be read \
                        without the server"
)]
pub(crate) struct PinArguments {
    /// Files, and directories with all that is below them, now and later
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Do not wait until everything is here
    #[arg(long)]
    no_wait: bool,
}

/// Arguments of `dfs unpin`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArguments {
    /// What was pinned
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

fn ask(path: &Path, wait: bool, progress: &mut Progress) -> Result<(), Failure> {
    let found = client::find(Some(path))?;
    let request = Request::Pin { path: found.relative.clone(), wait };
    client::pin(&found, &request, &mut |line| {
        if let PinLine::Progress { files, bytes, is_at_least } = line {
            progress.tell(files, bytes, is_at_least);
        }
    })?;
    Ok(())
}

/// `dfs pin`
pub(crate) fn pin(arguments: &PinArguments) -> Result<(), Failure> {
    let mut progress = Progress { told: Instant::now(), is_shown: false };
    // All are pinned, whatever becomes of fetching the first.
    for path in &arguments.paths {
        ask(path, false, &mut progress)?;
    }
    for path in &arguments.paths {
        if arguments.no_wait {
            print(&format!("{}: pinned; what is missing is fetched in the background", path.display()))?;
            continue;
        }
        let asked = ask(path, true, &mut progress);
        progress.clear();
        asked?;
        print(&format!("{}: pinned, and all of it is here", path.display()))?;
    }
    Ok(())
}

/// `dfs unpin`
pub(crate) fn unpin(arguments: &UnpinArguments) -> Result<(), Failure> {
    for path in &arguments.paths {
        let found = client::find(Some(path))?;
        let request = Request::Unpin { path: found.relative.clone() };
        let unpinned: Unpinned = client::ask(&found, &request)?;
        print(&match unpinned.still_by.as_deref() {
            None => format!("{}: not pinned any more", path.display()),
            Some(above) => {
                let above = if above.is_empty() { "the mount point" } else { above };
                format!("{}: its own pin is gone; {above} is pinned above it", path.display())
            }
        })?;
    }
    Ok(())
}

/// Tells on stderr how far it is: over the same line on a terminal, now and then elsewhere.
struct Progress {
    told: Instant,
    is_shown: bool,
}

impl Progress {
    fn tell(&mut self, files: u64, len: u64, is_at_least: bool) {
        let many = if is_at_least { "at least " } else { "" };
        let text = format!("{many}{files} files, {} to be fetched", bytes(len));
        let mut err = io::stderr();
        if err.is_terminal() {
            self.is_shown = true;
            let _ = write!(err, "\r{text}\x1b[K");
        } else if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            let _ = writeln!(err, "{text}");
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
