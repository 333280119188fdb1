//! `dfs verify`: compares mount, cache and server, names what is damaged and puts right what somebody has a good copy of.
//!
//! ```text
//! tree: its tables with each other ─► server: Merkle walk of the base ─► cache: each file's bytes with its manifest
//!                                          │ differs                          │ damaged, and the server has it, and nobody uses it
//!                                          └─► taken from the server          └─► forgotten ─► fetched anew ─► compared once more
//! ```
//!
//! Reads beside everything else: files are read without a lock, and what was read counts only if neither the file nor what
//! the tree says of it changed meanwhile. Invariant: bytes that the server does not have are never touched.

mod repair;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::download::manifest_of;
use super::shared::{EngineError, Shared, chain};
use super::tasks::off_thread;
use crate::cache::{Bytes, Claim, Claimed, Found, compare};
use crate::limits::{VERIFY_FILES_AT_ONCE, VERIFY_READS_MAX, VERIFY_TELL_MS};
use repair::Damage;

/// What is to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The tree, the server and all bytes that are here.
    All,
    /// The bytes of the files below a directory, whose path has no slash at either end.
    Below(Vec<u8>),
    /// The bytes of one file.
    File(NodeId),
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which file or directory, under the mount point; empty for what belongs to none.
    pub path: String,
    /// Where: `cache` (fetched bytes), `state` (bytes written here), `tree` or `server`.
    pub place: String,
    /// What is wrong, in words.
    pub what: String,
    /// Where in the file the first damaged bytes are.
    pub offset: Option<u64>,
    /// How many bytes are damaged: whole chunks.
    pub bytes: u64,
    /// Tells whether it has been put right.
    pub repaired: bool,
    /// What was done, or why nothing was.
    pub outcome: String,
}

/// What was looked at, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Files whose bytes were compared.
    pub files: u64,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Files that were changed here and have no name yet, so that nothing tells what they should be.
    pub unnamed: u64,
    /// Files that were being written.
    pub being_written: u64,
    /// Files whose manifest is not here and could not be asked for.
    pub unknown: u64,
    /// Findings.
    pub damaged: u64,
    /// Those of them that have been put right.
    pub repaired: u64,
    /// Tells whether the tables of the tree were compared with each other.
    pub tree_compared: bool,
    /// The revision at which mount and server were found to be equal; `None` if they were not compared, or differ.
    pub server_revision: Option<u64>,
    /// Why they were not compared; empty if they were.
    pub server_not_compared: String,
}

/// What is told while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyEvent {
    /// So far.
    Progress {
        /// Files.
        files: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Something is damaged.
    Found(Finding),
}

/// Why verifying ended early.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store, the disk or a task failed.
    #[error("verifying failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// Whoever asked is gone.
    #[error("nobody waits for the answer any more")]
    Abandoned,
}

impl<E: Into<EngineError>> From<E> for VerifyError {
    fn from(error: E) -> Self {
        Self::Failed { reason: chain(&error.into()) }
    }
}

/// One run.
struct Run {
    shared: Arc<Shared>,
    is_repairing: bool,
    events: mpsc::Sender<VerifyEvent>,
    seen: Arc<Seen>,
    result: Verified,
}

/// Counts what was read, and tells readers on other threads to stop.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    is_over: AtomicBool,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.seen.is_over.store(true, Ordering::Relaxed);
    }
}

/// Verifies, and repairs if `is_repairing`. Ends early when the receiver of the events is dropped.
pub(super) async fn verify(
    shared: &Arc<Shared>,
    scope: Scope,
    is_repairing: bool,
    events: mpsc::Sender<VerifyEvent>,
) -> Result<Verified, VerifyError> {
    let seen = Arc::new(Seen::default());
    let mut run = Run { shared: Arc::clone(shared), is_repairing, events, seen, result: Verified::default() };
    if scope == Scope::All {
        run.tree().await?;
        run.server().await?;
    }
    match &scope {
        Scope::File(node) => run.file(*node).await?,
        Scope::All => run.files(&[]).await?,
        Scope::Below(path) => run.files(path).await?,
    }
    run.result.bytes = run.seen.bytes.load(Ordering::Relaxed);
    Ok(std::mem::take(&mut run.result))
}

/// What a comparison of one file came to.
enum Compared {
    Nothing,
    Good,
    Unnamed,
    BeingWritten,
    Unknown,
    Damaged(Damage),
}

impl Run {
    /// The tables of the tree say the same, and the Merkle tree is that of the records.
    async fn tree(&mut self) -> Result<(), VerifyError> {
        let tree = Arc::clone(&self.shared.tree);
        let audit = self.telling(off_thread(move || tree.audit())).await?;
        self.result.tree_compared = true;
        for what in audit? {
            self.found(Finding {
                path: String::new(),
                place: "tree".to_owned(),
                what,
                offset: None,
                bytes: 0,
                repaired: false,
                outcome:
                    "not repaired: once `dfs wait` says that everything is on the server, mount with a new \
                          --state-dir"
                        .to_owned(),
            })
            .await?;
        }
        Ok(())
    }

    async fn files(&mut self, below: &[u8]) -> Result<(), VerifyError> {
        let mut after = None;
        loop {
            let nodes = self.shared.tree.files_with_content(after, VERIFY_FILES_AT_ONCE)?;
            let Some(last) = nodes.last() else { return Ok(()) };
            after = Some(*last);
            for node in nodes {
                if below.is_empty() || self.is_below(node, below)? {
                    self.file(node).await?;
                }
            }
            self.tell().await?;
        }
    }

    fn is_below(&self, node: NodeId, directory: &[u8]) -> Result<bool, VerifyError> {
        let path = self.shared.tree.path_of(node)?;
        let rest = path.as_deref().and_then(|path| path.strip_prefix(directory));
        Ok(rest.is_some_and(|rest| rest.first() == Some(&b'/')))
    }

    async fn file(&mut self, node: NodeId) -> Result<(), VerifyError> {
        let damage = match self.compare(node).await? {
            Compared::Nothing => return Ok(()),
            Compared::Good => {
                self.result.files += 1;
                return Ok(());
            }
            Compared::Unnamed => {
                self.result.unnamed += 1;
                return Ok(());
            }
            Compared::BeingWritten => {
                self.result.being_written += 1;
                return Ok(());
            }
            Compared::Unknown => {
                self.result.unknown += 1;
                return Ok(());
            }
            Compared::Damaged(damage) => damage,
        };
        self.result.files += 1;
        let (repaired, outcome) = self.repair(&damage).await?;
        self.found(damage.finding(&self.shared, repaired, outcome)).await
    }

    /// Compares a file's bytes with its manifest; again if it changed while it was read.
    async fn compare(&self, node: NodeId) -> Result<Compared, VerifyError> {
        for _ in 0..VERIFY_READS_MAX {
            let shared = Arc::clone(&self.shared);
            let claim = off_thread(move || shared.cache.claim(node)).await?;
            let claimed = match claim {
                Claim::Nothing => return Ok(Compared::Nothing),
                Claim::Unnamed => return Ok(Compared::Unnamed),
                Claim::Missing { row, path } => {
                    return Ok(Compared::Damaged(Damage::missing(node, row, &path)));
                }
                Claim::Bytes(claimed) => claimed,
            };
            let Some(content) = claimed.row.content else { return Ok(Compared::Nothing) };
            let Ok(manifest) = manifest_of(&self.shared, node, content).await else {
                return Ok(Compared::Unknown);
            };
            let (found, claimed) = self.read(claimed, manifest).await?;
            if found.is_cut_off {
                return Err(VerifyError::Abandoned);
            }
            if !found.is_damaged() {
                return Ok(Compared::Good);
            }
            if self.shared.cache.still_stands(node, &claimed)? {
                return Ok(Compared::Damaged(Damage::of(node, claimed.row, found)));
            }
        }
        Ok(Compared::BeingWritten)
    }

    async fn read(&self, claimed: Claimed, manifest: Arc<Manifest>) -> Result<(Found, Claimed), VerifyError> {
        let seen = Arc::clone(&self.seen);
        let work = off_thread(move || {
            let source = Source { claimed: &claimed, seen: &seen };
            let found = compare(&manifest, claimed.present.as_ref(), &source);
            (found, claimed)
        });
        self.telling(work).await
    }

    /// Waits for work and tells how far it is meanwhile.
    async fn telling<T>(&self, work: impl Future<Output = T>) -> Result<T, VerifyError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(Duration::from_millis(VERIFY_TELL_MS)) => self.tell().await?,
            }
        }
    }

    async fn tell(&self) -> Result<(), VerifyError> {
        let (files, bytes) = (self.result.files, self.seen.bytes.load(Ordering::Relaxed));
        self.send(VerifyEvent::Progress { files, bytes }).await
    }

    async fn found(&mut self, finding: Finding) -> Result<(), VerifyError> {
        tracing::warn!(path = %finding.path, what = %finding.what, outcome = %finding.outcome, "damage was found");
        self.result.damaged += 1;
        self.result.repaired += u64::from(finding.repaired);
        self.send(VerifyEvent::Found(finding)).await
    }

    async fn send(&self, event: VerifyEvent) -> Result<(), VerifyError> {
        self.events.send(event).await.map_err(|_| VerifyError::Abandoned)
    }
}

/// The bytes of a claim as they are read.
struct Source<'a> {
    claimed: &'a Claimed,
    seen: &'a Seen,
}

impl Bytes for Source<'_> {
    fn len(&self) -> u64 {
        self.claimed.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.claimed.read_at(buffer, offset)
    }

    fn data_from(&self, offset: u64) -> Option<u64> {
        self.claimed.data_from(offset)
    }

    fn compared(&self, len: u64) -> bool {
        self.seen.bytes.fetch_add(len, Ordering::Relaxed);
        !self.seen.is_over.load(Ordering::Relaxed)
    }
}
