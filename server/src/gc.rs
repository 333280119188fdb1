//! Old history goes, then contents that nothing refers to, then chunks that no content refers to.
//!
//! ```text
//! record, history ──refer to──► content ──refers to──► chunk (row) ──names──► chunk file
//!
//! nothing refers to it: condemned ── grace ──► looked at again: still condemned and unreferred ─► row, then file
//!                           │
//!                           └ a commit that refers to it, or a new upload, reprieves it in its own transaction
//! ```
//!
//! Safe beside commits, uploads and a SIGKILL at any point; docs/adr/0003-condemn-wait-take.md has the argument.
//! Invariant: a row goes before its file, and no file goes while its chunk has a row or an upload.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dfs_shared::time::Timestamp;
use parking_lot::Mutex;

use crate::chunk_store::{ChunkError, ChunkStore};
use crate::limits::{HISTORY_KEEP_S_DEFAULT, HISTORY_VERSIONS_DEFAULT};
use crate::metadata::{MetadataError, MetadataStore};
use crate::sync::Claims;

mod aged;
mod background;
mod collect;
#[cfg(test)]
pub(crate) mod kit;
mod references;
mod request;
mod sweep;
#[cfg(test)]
mod tests;

pub use background::Background;
pub use request::{RequestError, ask};

/// File in the data directory that whoever reads all chunks holds shared, and whoever takes some holds alone.
pub const LOCK_FILE: &str = "gc.lock";

/// One pass condemns a content, the next takes it and condemns its chunks, the third takes them. What uploads and commits leave
/// behind meanwhile waits for the next collection: with them in mind one would not end before they do.
const PASSES_MAX: u32 = 3;

/// How long versions that were replaced or removed are kept: as long as they are within both limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// From the moment when they were replaced; `None`: for ever.
    pub keep: Option<Duration>,
    /// How many of one file; `None`: all.
    pub versions: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        let keep = Some(Duration::from_secs(HISTORY_KEEP_S_DEFAULT));
        Self { keep, versions: Some(HISTORY_VERSIONS_DEFAULT) }
    }
}

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Collected {
    /// Past records that were dropped because they are too old or too many.
    pub versions: u64,
    /// Manifests that were removed.
    pub contents: u64,
    /// Chunks that were removed.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files without a row, and without a reference, that were removed.
    pub orphans: u64,
    /// Chunks that nothing refers to and that are within the grace still.
    pub waiting: u64,
    /// A backup or a check was reading chunks, so none was removed.
    pub is_held_up: bool,
}

/// Why a collection ended early. What it has done stands; the next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The chunk store failed.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// A manifest cannot be read, so it is not known what it refers to.
    #[error(
        "the manifest of content {id} is damaged: nothing is collected before `dfs-server check` has seen to it"
    )]
    Damaged {
        /// The content.
        id: String,
    },
    /// The lock cannot be used.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server stops.
    #[error("stopped on request")]
    Stopped,
}

/// Collects over the stores of one data directory. One at a time; the process holds the data directory.
pub struct Collector {
    metadata: Arc<dyn MetadataStore>,
    chunks: Arc<dyn ChunkStore>,
    claims: Arc<Claims>,
    lock: PathBuf,
    data_dir: PathBuf,
    retention: Retention,
    running: Mutex<()>,
    /// Fewer in tests, so that several passes are made.
    references_max: usize,
    stopping: std::sync::atomic::AtomicBool,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("retention", &self.retention).finish_non_exhaustive()
    }
}

/// Tells of progress: what is being done, and how many of them were seen.
pub type Progress<'a> = dyn FnMut(&'static str, u64) + 'a;

impl Collector {
    /// Joins the stores. `claims` are those of the service that writes chunks in this process, if one does.
    #[must_use]
    pub fn new(
        metadata: Arc<dyn MetadataStore>,
        chunks: Arc<dyn ChunkStore>,
        claims: Arc<Claims>,
        data_dir: &Path,
        retention: Retention,
    ) -> Self {
        Self {
            metadata,
            chunks,
            claims,
            lock: data_dir.join(LOCK_FILE),
            data_dir: data_dir.to_owned(),
            retention,
            running: Mutex::default(),
            references_max: crate::limits::GC_REFERENCES_MAX,
            stopping: false.into(),
        }
    }

    /// Drops old history and collects what nothing referred to when it began, but for what is within `grace`. Blocks, for the
    /// time of reading all records and manifests three times at most.
    ///
    /// # Errors
    /// [`GcError`].
    pub fn run(&self, grace: Duration, progress: &mut Progress<'_>) -> Result<Collected, GcError> {
        let _alone = self.running.lock();
        let at = self.age(now())?;
        let mut done = Collected { versions: self.sweep(at, progress)?, ..Collected::default() };
        self.note_swept()?;
        for _ in 0..PASSES_MAX {
            let pass = self.pass(grace, progress)?;
            done.contents += pass.contents;
            done.chunks += pass.chunks;
            done.bytes += pass.bytes;
            done.orphans += pass.orphans;
            done.waiting = pass.waiting;
            done.is_held_up |= pass.is_held_up;
            if !pass.has_more || done.is_held_up {
                break;
            }
        }
        Ok(done)
    }

    /// Makes a collection under way end at its next page.
    fn stop(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn go_on(&self) -> Result<(), GcError> {
        match self.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(GcError::Stopped),
            false => Ok(()),
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    let secs = at.secs.saturating_sub_unsigned(by.as_secs());
    Timestamp { secs, nanos: at.nanos }
}

/// Opens the lock of a data directory's chunks.
fn open_lock(path: &Path) -> Result<File, GcError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.map_err(|source| GcError::Lock { path: path.to_owned(), source })
}

/// Keeps all chunks of a data directory from being collected until it is dropped. Waits for a collection's current page.
///
/// # Errors
/// [`GcError::Lock`].
pub fn hold_chunks(data_dir: &Path) -> Result<File, GcError> {
    let path = data_dir.join(LOCK_FILE);
    let file = open_lock(&path)?;
    file.lock_shared().map_err(|source| GcError::Lock { path, source })?;
    Ok(file)
}
