//! The commands that look after a data directory: check, gc, backup, restore.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use dfs_server::backup;
use dfs_server::check::{self, Problem};
use dfs_server::chunk_store::{ChunkStore, DiskStore};
use dfs_server::config::Span;
use dfs_server::data_dir::{DataDir, DataDirError};
use dfs_server::gc::{self, Collected, Collector};
use dfs_server::limits::GC_GRACE_S_DEFAULT;
use dfs_server::metadata::MetadataStore;
use dfs_server::metadata::sqlite::{DATABASE_FILE, SqliteStore};
use dfs_server::server::Config;
use dfs_server::sync::Claims;

use super::{NotFound, print, say};

/// How often progress is told on a terminal, and where nobody watches.
const TOLD_MS: u128 = 500;
const LOGGED_MS: u128 = 10_000;

/// Tells of long work, now and then.
struct Teller {
    told: Instant,
    every_ms: u128,
}

impl Teller {
    fn new() -> Self {
        let every_ms = if std::io::stderr().is_terminal() { TOLD_MS } else { LOGGED_MS };
        Self { told: Instant::now(), every_ms }
    }

    fn tell(&mut self, what: &str, count: u64) {
        if self.told.elapsed().as_millis() >= self.every_ms {
            self.told = Instant::now();
            say(&format!("{what}: {count}"));
        }
    }
}

/// Refuses a directory without data; none of these commands makes one by a typing error.
fn refuse_nothing(config: &Config) -> anyhow::Result<()> {
    if config.data_dir.join(DATABASE_FILE).exists() {
        return Ok(());
    }
    let at = config.data_dir.display();
    Err(NotFound(format!("there is no data in {at}: name the data directory with --data-dir")).into())
}

fn open(config: &Config) -> anyhow::Result<(SqliteStore, DiskStore)> {
    refuse_nothing(config)?;
    let store = SqliteStore::open(&config.data_dir)?;
    let chunks = config.chunks_in(&config.data_dir);
    // There is none before a server has run.
    let chunks = if chunks.exists() { DiskStore::open_beside(&chunks)? } else { DiskStore::open(&chunks)? };
    Ok((store, chunks))
}

/// `dfs-server check`
pub(super) fn check(config: &Config, is_repair: bool, is_quick: bool) -> anyhow::Result<()> {
    refuse_nothing(config)?;
    let _alone = if is_repair {
        let taken = DataDir::open(&config.data_dir);
        Some(taken.context("--repair needs the data directory for itself")?)
    } else {
        None
    };
    let (store, chunks) = open(config)?;
    let _held = gc::hold_chunks(&config.data_dir)?;
    let mut teller = Teller::new();
    let report = check::check(&store, &chunks, is_quick, &mut |what, count| teller.tell(what, count))?;
    for problem in &report.problems {
        print(&problem.to_string())?;
    }
    let more = report.count - report.problems.len() as u64;
    if more > 0 {
        print(&format!("and {more} more"))?;
    }
    print(&format!(
        "{} records, {} past records, {} chunks ({} bytes) checked; {} chunk files that nothing knows (harmless, gc removes them)",
        report.records, report.versions, report.chunks, report.bytes, report.orphans
    ))?;
    if report.count == 0 {
        return print("no problems");
    }
    if !is_repair {
        anyhow::bail!("{} problems; `dfs-server check --repair` puts right what can be", report.count);
    }
    let repaired = check::repair(&store, &chunks, &report)?;
    print(&format!(
        "{} mended; {} damaged chunks count as missing now, a mount that has them brings them again",
        repaired.mended, repaired.asked_for
    ))?;
    let lost = report.problems.iter().any(|problem| matches!(problem, Problem::FileDamaged { .. }));
    if repaired.left > 0 || lost {
        anyhow::bail!(
            "not everything could be put right: what is named above needs a mount that has it, or a backup"
        );
    }
    Ok(())
}

/// `dfs-server gc`
pub(super) fn gc(config: &Config, grace: Option<Span>) -> anyhow::Result<()> {
    let grace = match grace.map(Span::limit) {
        Some(None) => anyhow::bail!("--grace forever would collect nothing"),
        Some(grace) => grace,
        None => None,
    };
    refuse_nothing(config)?;
    let collected = match DataDir::open(&config.data_dir) {
        Ok(_alone) => {
            let (store, chunks) = open(config)?;
            let chunks: Arc<dyn ChunkStore> = Arc::new(chunks);
            let collector = Collector::new(
                Arc::new(store),
                chunks,
                Arc::<Claims>::default(),
                &config.data_dir,
                config.retention,
            );
            let mut teller = Teller::new();
            collector.run(grace.unwrap_or_default(), &mut |what, count| teller.tell(what, count))?
        }
        Err(DataDirError::InUse { .. }) => {
            say(
                "a server runs on this data directory: it collects, with its own --history-keep and --history-versions",
            );
            let is_alive = || matches!(DataDir::open(&config.data_dir), Err(DataDirError::InUse { .. }));
            gc::ask(&config.data_dir, grace, is_alive)?
        }
        Err(error) => return Err(error.into()),
    };
    tell(&collected, grace)
}

fn tell(collected: &Collected, grace: Option<Duration>) -> anyhow::Result<()> {
    let Collected { versions, contents, chunks, bytes, orphans, waiting, is_held_up } = *collected;
    print(&format!(
        "{versions} old versions dropped; {contents} manifests, {chunks} chunks and {orphans} stray files removed ({bytes} bytes)"
    ))?;
    if waiting > 0 {
        let grace_s = grace.map_or(GC_GRACE_S_DEFAULT, |grace| grace.as_secs());
        print(&format!("{waiting} chunks lost their last reference less than {grace_s} s ago and go later"))?;
    }
    if is_held_up {
        anyhow::bail!("a backup or a check reads the chunks: run gc again when it has ended");
    }
    Ok(())
}

/// `dfs-server backup`
pub(super) fn backup(config: &Config, file: &Path) -> anyhow::Result<()> {
    let (store, chunks) = open(config)?;
    let mut teller = Teller::new();
    let contents =
        backup::create(&store, &chunks, &config.data_dir, file, &mut |what, count| teller.tell(what, count))?;
    print(&format!(
        "{}: {} chunks, {} bytes, and the database",
        file.display(),
        contents.chunks,
        contents.bytes
    ))?;
    if contents.unreadable.is_empty() {
        return Ok(());
    }
    for why in &contents.unreadable {
        print(why)?;
    }
    anyhow::bail!(
        "the backup is written, without the damaged chunks above: `dfs-server check` names their files"
    )
}

/// `dfs-server restore`
pub(super) fn restore(config: &Config, file: &Path) -> anyhow::Result<()> {
    if !file.exists() {
        return Err(NotFound(format!("there is no file {}", file.display())).into());
    }
    let _alone = DataDir::open(&config.data_dir)?;
    let mut teller = Teller::new();
    let mut progress = |what: &'static str, count| teller.tell(what, count);
    let contents =
        backup::restore(file, &config.data_dir, &config.chunks_in(&config.data_dir), &mut progress)?;
    let (store, chunks) = open(config)?;
    // The bytes were hashed on the way.
    let report = check::check(&store as &dyn MetadataStore, &chunks, true, &mut progress)?;
    for problem in &report.problems {
        print(&problem.to_string())?;
    }
    print(&format!(
        "{} restored: {} records, {} chunks ({} bytes)",
        config.data_dir.display(),
        report.records,
        contents.chunks,
        contents.bytes
    ))?;
    match (report.count, contents.unreadable.len()) {
        (0, 0) => Ok(()),
        (problems, chunks) => anyhow::bail!("the backup has {problems} problems and lacks {chunks} chunks"),
    }
}
