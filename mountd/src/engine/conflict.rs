//! Brings two versions that the tree left side by side to one, where the policy says so: merges them, or has the earlier one filed.
//!
//! ```text
//! apply ─► copy beside the original, undecided ─► held back here
//!   merge:           base, local and remote bytes ─► merge (pure)
//!              │ clean: one batch: the original gets the merged text, the copy goes ─► sent as an ordinary edit
//!   last-write-wins: the server keeps the copy's content as a version that was replaced (filing.rs)
//!              │ done: one batch: the copy goes
//!              └ otherwise: decided to keep both ─► the copy is sent as an ordinary file
//! ```
//!
//! Invariant: until the batch both versions are files of the tree, so a crash at any moment loses nothing; the server hears of
//! the copy only when it stays.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::NodeId;
use dfs_shared::limits::SMALL_CONTENT_LEN_MAX;
use dfs_shared::manifest::Manifest;
use dfs_shared::record::NodeKind;
use futures_util::StreamExt;

use super::hash::{Hashed, Opened, content_id, manifest_of, open, small_manifest};
use super::merge::merge;
use super::retry::Backoff;
use super::shared::{EngineError, Shared, blocking, chain};
use crate::limits::{MERGE_ASKED_ATTEMPTS_MAX, MERGE_ATTEMPTS_MAX, MERGE_LEN_MAX};
use crate::remote::RemoteError;
use crate::tree::content::ContentState;
use crate::tree::{Fate, Merged, SyncState, Taken, Undecided};

/// What is going on, by the copy.
pub(super) type Merges = parking_lot::Mutex<BTreeSet<NodeId>>;

/// Starts to decide what is undecided and returns the copies that must not be sent yet.
pub(super) fn hold(shared: &Arc<Shared>) -> BTreeSet<NodeId> {
    let undecided = shared.tree.undecided();
    let held = undecided.iter().map(|undecided| undecided.copy).collect();
    for undecided in undecided {
        if shared.merges.lock().insert(undecided.copy) {
            shared.tasks.spawn(run(Arc::clone(shared), undecided));
        }
    }
    held
}

/// What an attempt came to.
pub(super) enum Step {
    Done,
    KeepBoth(&'static str),
    /// Something changed meanwhile.
    Again,
}

async fn run(shared: Arc<Shared>, undecided: Undecided) {
    let mut backoff = Backoff::new(shared.seed);
    let mut stopping = shared.stopping.subscribe();
    let mut restless = 0;
    loop {
        let step = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            step = attempt(&shared, &undecided) => step,
        };
        let step = match step {
            Ok(Step::Again) if restless >= MERGE_ATTEMPTS_MAX => {
                Ok(Step::KeepBoth("one of them is being written"))
            }
            Ok(Step::Again) => {
                restless += 1;
                Ok(Step::Again)
            }
            step => step,
        };
        match step {
            Ok(Step::Done) => break,
            Ok(Step::KeepBoth(why)) => {
                tracing::warn!(copy = %undecided.copy, why, "conflict: the versions could not be made one; both are kept");
                match shared.tree.keep_both_versions(undecided.copy) {
                    Ok(()) => break,
                    Err(error) => tracing::error!(error = chain(&error), "a conflict cannot be decided"),
                }
            }
            Ok(Step::Again) => {}
            Err(error) => tracing::debug!(error = chain(&error), "a conflict cannot be decided yet"),
        }
        tokio::time::sleep(backoff.next()).await;
        shared.wait_online().await;
    }
    shared.merges.lock().remove(&undecided.copy);
    shared.wake.wake();
}

/// Why two versions are not merged when somebody asks for it. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// There is no such conflict.
    #[error("there is no such conflict")]
    NotFound,
    /// The server cannot be reached.
    #[error("the content that both sides had is on the server, which cannot be reached now")]
    Offline,
    /// They cannot be merged.
    #[error("{why}")]
    NotMerged {
        /// Why.
        why: &'static str,
    },
    /// Something failed.
    #[error("it could not be merged: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl From<EngineError> for MergeError {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Lost => Self::Offline,
            EngineError::Remote(remote) if remote.is_unreachable() => Self::Offline,
            _ => Self::Failed { reason: chain(&error) },
        }
    }
}

impl From<crate::tree::TreeError> for MergeError {
    fn from(error: crate::tree::TreeError) -> Self {
        EngineError::from(error).into()
    }
}

/// Merges the two versions of a conflict that stayed, because somebody asks for it.
pub(super) async fn merge_asked(shared: &Arc<Shared>, copy: NodeId) -> Result<(), MergeError> {
    let not_merged = |why| Err(MergeError::NotMerged { why });
    if shared.read_only {
        return not_merged("the mount is read-only");
    }
    let Some(undecided) = shared.tree.undecided_of(copy) else { return Err(MergeError::NotFound) };
    if undecided.base.is_none() {
        return not_merged("there is no text that both sides had before");
    }
    if shared.tree.names_of(copy)?.len() != 1 {
        return not_merged("the conflict copy has other names, too");
    }
    if undecided.fate != Fate::Stays || !shared.merges.lock().insert(copy) {
        return not_merged("it is being decided already");
    }
    let merged = merge_patiently(shared, &undecided).await;
    shared.merges.lock().remove(&copy);
    merged
}

async fn merge_patiently(shared: &Arc<Shared>, undecided: &Undecided) -> Result<(), MergeError> {
    let mut backoff = Backoff::new(shared.seed);
    for _ in 0..MERGE_ASKED_ATTEMPTS_MAX {
        if shared.is_offline() {
            return Err(MergeError::Offline);
        }
        match merge_both(shared, undecided).await? {
            Step::Done => return Ok(()),
            Step::KeepBoth(why) => return Err(MergeError::NotMerged { why }),
            Step::Again => tokio::time::sleep(backoff.next()).await,
        }
    }
    Err(MergeError::NotMerged { why: "one of the versions is being written or sent" })
}

async fn attempt(shared: &Arc<Shared>, undecided: &Undecided) -> Result<Step, EngineError> {
    match undecided.fate {
        Fate::History => super::filing::file(shared, undecided).await,
        Fate::Merge | Fate::Stays => merge_both(shared, undecided).await,
    }
}

async fn merge_both(shared: &Arc<Shared>, undecided: &Undecided) -> Result<Step, EngineError> {
    let Undecided { copy, original, base, .. } = *undecided;
    let is_open = |node| shared.open_files().is_some_and(|open| open.is_being_written(node));
    if is_open(copy) || is_open(original) {
        return Ok(Step::Again);
    }
    let local = match blocking(|| read(shared, copy))? {
        Local::Text(text) => text,
        Local::Partial => return fetch_rest(shared, copy).await,
        Local::Moving => return Ok(Step::Again),
        Local::Unfit => return Ok(Step::KeepBoth("the local version is no short file")),
    };
    let Some(node) = shared.tree.node_by_id(original)? else {
        return Ok(Step::KeepBoth("the other version is gone"));
    };
    let Some(record) = node.live() else { return Ok(Step::KeepBoth("the other version is gone")) };
    if record.kind != NodeKind::File {
        return Ok(Step::KeepBoth("the other version is no file"));
    }
    let is_changed = match &node.sync {
        SyncState::Changed { base, .. } => node.dirty_content.is_some() || base.content != record.content,
        SyncState::Clean(_) | SyncState::New => node.sync.base_revision().is_none(),
    };
    if is_changed {
        // It was changed here, too, and is being sent.
        return Ok(Step::Again);
    }
    let (Some(base), Some(remote)) = (bytes_of(shared, base).await?, bytes_of(shared, record.content).await?)
    else {
        return Ok(Step::KeepBoth("the server does not have all versions, or they are long"));
    };
    let content = record.content;
    let text = blocking(|| merge(&base, &local.bytes, &remote));
    let Some(text) = text else {
        return Ok(Step::KeepBoth("both changed the same lines, or they are no texts"));
    };
    let (number, local_content) = (local.number, local.content);
    let done = blocking(|| take(shared, undecided, &text, (number, local_content), content))?;
    Ok(if done { Step::Done } else { Step::Again })
}

/// The local version and which one it is.
struct Text {
    bytes: Vec<u8>,
    number: Option<u64>,
    content: Option<ContentId>,
}

enum Local {
    Text(Text),
    Partial,
    Moving,
    Unfit,
}

fn read(shared: &Shared, copy: NodeId) -> Result<Local, EngineError> {
    let source = match open(shared, copy)? {
        Opened::Source(source) => source,
        Opened::Not(Hashed::Partial) => return Ok(Local::Partial),
        Opened::Not(Hashed::Moving) => return Ok(Local::Moving),
        Opened::Not(_) => return Ok(Local::Unfit),
    };
    if source.size > MERGE_LEN_MAX {
        return Ok(Local::Unfit);
    }
    let mut bytes = vec![0; usize::try_from(source.size).expect("a short file")];
    let read = source.file.read_exact_at(&mut bytes, 0);
    if read.is_err() || !source.stood_still() {
        return Ok(Local::Moving);
    }
    let node = shared.tree.node_by_id(copy)?;
    let content = node.and_then(|node| node.live().and_then(|record| record.content));
    Ok(Local::Text(Text { bytes, number: source.number, content }))
}

async fn fetch_rest(shared: &Arc<Shared>, copy: NodeId) -> Result<Step, EngineError> {
    let size = shared.tree.node_by_id(copy)?.and_then(|node| node.live().map(|record| record.size));
    // What cannot be fetched now is asked for again.
    let _ = super::download::fetch_up_to(shared, copy, size.unwrap_or(0)).await;
    Ok(Step::Again)
}

/// Gets a content of the server; `None` if it is long or not there.
async fn bytes_of(shared: &Shared, content: Option<ContentId>) -> Result<Option<Vec<u8>>, EngineError> {
    let Some(content) = content else { return Ok(Some(Vec::new())) };
    let manifest = match shared.manifests.get(content) {
        Some(manifest) => manifest,
        None => match shared.remote.contents(vec![content]).await?.pop().flatten() {
            Some(manifest) => Arc::new(manifest),
            None => return Ok(None),
        },
    };
    if manifest.size() > MERGE_LEN_MAX {
        return Ok(None);
    }
    let wanted: BTreeSet<ChunkHash> =
        manifest.chunks.iter().map(|chunk| chunk.hash).filter(|hash| !hash.is_hole()).collect();
    let mut chunks: HashMap<ChunkHash, Bytes> = HashMap::new();
    let mut stream = shared.remote.get_chunks(wanted.into_iter().collect()).await?;
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok((hash, bytes)) => drop(chunks.insert(hash, bytes)),
            Err(RemoteError::CorruptChunk { .. } | RemoteError::AbsentChunk { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(put_together(&manifest, &chunks))
}

fn put_together(manifest: &Manifest, chunks: &HashMap<ChunkHash, Bytes>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for chunk in &manifest.chunks {
        if chunk.hash.is_hole() {
            bytes.resize(bytes.len() + usize::try_from(chunk.len).ok()?, 0);
        } else {
            bytes.extend_from_slice(chunks.get(&chunk.hash)?);
        }
    }
    Some(bytes)
}

/// Makes the merged text the original's content and removes the copy, if both are still what was merged. Blocks on the disk.
fn take(
    shared: &Shared,
    undecided: &Undecided,
    text: &[u8],
    local: (Option<u64>, Option<ContentId>),
    remote: Option<ContentId>,
) -> Result<bool, EngineError> {
    let prepared = shared.cache.prepare_whole(text)?;
    let manifest = if text.len() as u64 > SMALL_CONTENT_LEN_MAX {
        let file = prepared.file();
        manifest_of(file, text.len() as u64, None).map_err(|source| crate::cache::CacheError::Io {
            action: "read",
            path: std::path::PathBuf::from("a merged text"),
            source,
        })?
    } else {
        small_manifest(text.to_vec()).0
    };
    // The original's bytes get their row now: a download that began would write one later, in the place of the merged text's.
    let Some(node) = shared.tree.node_by_id(undecided.original)?.filter(|node| node.live().is_some()) else {
        return Ok(false);
    };
    let before = shared.cache.backing(&node)?;
    before.file()?;
    let row = ContentState { content: content_id(&manifest), ..prepared.row().clone() };
    let taken = shared.change_files(&[undecided.copy, undecided.original], || {
        let merged =
            Merged { copy: undecided.copy, original: undecided.original, local, remote, manifest: &manifest };
        let taken = shared.tree.take_merged(merged, &row, shared.clock.now())?;
        Ok::<_, EngineError>(match taken {
            Some(Taken { effects, replaced }) => (Some(replaced), effects),
            None => (None, Vec::new()),
        })
    })?;
    let Some(replaced) = taken else { return Ok(false) };
    drop(before);
    prepared.keep();
    if let Some(old) = replaced {
        shared.cache.drop_replaced(&old);
    }
    tracing::info!(original = %undecided.original, "conflict: both versions were merged");
    Ok(true)
}
