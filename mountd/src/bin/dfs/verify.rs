//! `dfs verify`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dfs_mountd::control::client;
use dfs_mountd::control::{Request, VerifyLine};
use dfs_mountd::engine::verify::{Finding, Verified};
use serde_json::json;

use super::{FAILED, Failure, bytes, print, print_json};

/// How often progress is told where no terminal shows it.
const TOLD: Duration = Duration::from_secs(10);

/// Arguments of `dfs verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArguments {
    /// Mount point, or a file or directory in it: then only the bytes below are compared
    path: Option<PathBuf>,
    /// Name what is damaged and leave it as it is
    #[arg(long)]
    no_repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Names may hold anything; a terminal must not.
fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `dfs verify`
pub(crate) fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let found = client::find(arguments.path.as_deref())?;
    let request = Request::Verify { path: found.relative.clone(), repair: !arguments.no_repair };
    let mut findings = Vec::new();
    let mut progress = Progress { told: Instant::now(), is_shown: false };
    let verified = client::verify(&found, &request, &mut |line| {
        match line {
            VerifyLine::Progress { files, bytes } => progress.tell(files, bytes),
            VerifyLine::Found(finding) if arguments.json => findings.push(finding),
            VerifyLine::Found(finding) => {
                progress.clear();
                let mut out = io::stdout().lock();
                writeln!(out, "{}", describe(&finding))?;
            }
            VerifyLine::Verified(_) | VerifyLine::Error(_) => {}
        }
        Ok(())
    })?;
    progress.clear();
    if arguments.json {
        print_json(&json!({ "findings": findings, "verified": verified }))?;
    } else {
        print(&summary(&verified))?;
    }
    match verified.damaged - verified.repaired {
        0 => Ok(()),
        left => Err(Failure::Other(FAILED, format!("damage was found, and {left} of it was not repaired"))),
    }
}

fn describe(finding: &Finding) -> String {
    let name = if finding.path.is_empty() { "the mount" } else { &finding.path };
    let many = match (finding.bytes, finding.offset) {
        (0, _) => String::new(),
        (len, Some(at)) => format!(" ({}, from byte {at})", bytes(len)),
        (len, None) => format!(" ({})", bytes(len)),
    };
    let (place, what) = (&finding.place, shown(&finding.what));
    format!("{}: damaged in the {place}: {what}{many}: {}", shown(name), shown(&finding.outcome))
}

fn summary(verified: &Verified) -> String {
    let mut lines =
        vec![format!("  bytes      {} files, {} compared", verified.files, bytes(verified.bytes))];
    let left_out = [
        (verified.unnamed, "were changed here and are not named yet"),
        (verified.being_written, "are being written"),
        (verified.unknown, "have a manifest that only the server knows"),
    ];
    for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0) {
        lines.push(format!("  left out   {count} files that {why}"));
    }
    if verified.tree_compared {
        lines.push("  tree       compared with itself".to_owned());
        lines.push(match (verified.server_revision, verified.server_not_compared.as_str()) {
            (Some(revision), _) => format!("  server     equal at revision {revision}"),
            (None, "") => "  server     differs".to_owned(),
            (None, why) => format!("  server     not compared: {}", shown(why)),
        });
    }
    lines.push(match (verified.damaged, verified.repaired) {
        (0, _) => "  damage     none".to_owned(),
        (found, repaired) => format!("  damage     {found} found, {repaired} repaired"),
    });
    lines.join("\n")
}

/// Tells on stderr how far it is: over the same line on a terminal, now and then elsewhere.
struct Progress {
    told: Instant,
    is_shown: bool,
}

impl Progress {
    fn tell(&mut self, files: u64, len: u64) {
        let mut err = io::stderr();
        if err.is_terminal() {
            self.is_shown = true;
            let _ = write!(err, "\r{files} files, {} compared  ", bytes(len));
        } else if self.told.elapsed() >= TOLD {
            self.told = Instant::now();
            let _ = writeln!(err, "{files} files, {} compared", bytes(len));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
