//! Uploads of contents that are too large to travel inside a commit. Each file has a task of its own, so that a
//! large one delays nothing else.
//!
//! Invariant: a node is `active` from before its upload starts until its content is on the server and in the
//! tree, or until that has become pointless; the commit loop leaves active nodes alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::NodeId;
use dfs_shared::limits::{QUERY_ITEMS_MAX, SMALL_CONTENT_LEN_MAX};
use dfs_shared::manifest::Manifest;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::hash::{Hashed, Opened, content_id, manifest_of, open};
use super::retry::Backoff;
use super::shared::{EngineError, Shared, chain};
use super::tasks::off_thread;
use crate::cache::HashSource;
use crate::limits::{HASH_TASKS_MAX, UPLOAD_BATCH_LEN, UPLOAD_REQUESTS_MAX};
use crate::remote::{RemoteError, UploadOf};
use crate::tree::journal::NamedContent;

/// The uploads that are going on.
#[derive(Debug)]
pub(super) struct Uploads {
    active: parking_lot::Mutex<BTreeMap<NodeId, Progress>>,
    hash_slots: Semaphore,
    put_slots: Semaphore,
    bytes: std::sync::atomic::AtomicU64,
}

/// How far an upload is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// What it is doing or waiting for.
    pub(super) state: String,
    /// Bytes that had to be uploaded.
    pub(super) total: u64,
    /// Bytes of them that were.
    pub(super) done: u64,
    /// The server's disk had no room for it.
    is_server_full: bool,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            active: parking_lot::Mutex::default(),
            hash_slots: Semaphore::new(HASH_TASKS_MAX),
            put_slots: Semaphore::new(UPLOAD_REQUESTS_MAX),
            bytes: std::sync::atomic::AtomicU64::new(0),
        }
    }
}

impl Uploads {
    pub(super) fn active(&self) -> BTreeSet<NodeId> {
        self.active.lock().keys().copied().collect()
    }

    pub(super) fn is_active(&self, node: NodeId) -> bool {
        self.active.lock().contains_key(&node)
    }

    pub(super) fn progress(&self) -> BTreeMap<NodeId, Progress> {
        self.active.lock().clone()
    }

    pub(super) fn explain(&self, node: NodeId) -> Option<String> {
        let active = self.active.lock();
        active.get(&node).map(|progress| match progress.total {
            0 => progress.state.clone(),
            total => format!("{} ({} of {total} bytes)", progress.state, progress.done),
        })
    }

    pub(super) fn is_server_full(&self) -> bool {
        self.active.lock().values().any(|progress| progress.is_server_full)
    }

    /// Returns how many bytes were uploaded since the start.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn begin(&self, node: NodeId) -> bool {
        let mut active = self.active.lock();
        let new = !active.contains_key(&node);
        if new {
            active.insert(
                node,
                Progress { state: "waiting for its turn to be read".to_owned(), ..Progress::default() },
            );
        }
        new
    }

    fn note(&self, node: NodeId, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.active.lock().get_mut(&node) {
            change(progress);
        }
    }

    fn say(&self, node: NodeId, state: &str) {
        self.note(node, |progress| state.clone_into(&mut progress.state));
    }
}

/// Why a content is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The file changed.
    Changed,
    /// The server says that it lacks what the tree names already.
    Lacking,
}

enum Step {
    Done,
    Again,
}

/// Starts to upload a file that changed, unless that is going on.
pub(super) fn start(shared: &Arc<Shared>, node: NodeId) {
    begin(shared, node, Reason::Changed);
}

/// Starts to upload the content that the tree names, because the server lacks some of it.
pub(super) fn ensure(shared: &Arc<Shared>, node: NodeId) {
    begin(shared, node, Reason::Lacking);
}

fn begin(shared: &Arc<Shared>, node: NodeId, reason: Reason) {
    if shared.uploads.begin(node) {
        shared.tasks.spawn(run(Arc::clone(shared), node, reason));
    }
}

/// Uploads a file and waits for it; `false` if it did not stand still, or is being uploaded already.
pub(super) async fn now(shared: &Arc<Shared>, node: NodeId, reason: Reason) -> Result<bool, EngineError> {
    if !shared.uploads.begin(node) {
        return Ok(false);
    }
    let step = attempt(shared, node, reason).await;
    shared.uploads.active.lock().remove(&node);
    Ok(matches!(step?, Step::Done))
}

async fn run(shared: Arc<Shared>, node: NodeId, reason: Reason) {
    let mut backoff =
        Backoff::new(u64::from_be_bytes(*node.as_bytes().last_chunk().expect("an id has 16 bytes")));
    let mut stopping = shared.stopping.subscribe();
    loop {
        let step = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            step = attempt(&shared, node, reason) => step,
        };
        match step {
            Ok(Step::Done) => break,
            Ok(Step::Again) => tokio::time::sleep(backoff.next()).await,
            Err(error) => {
                let unreachable = matches!(&error, EngineError::Remote(error) if error.is_unreachable());
                shared.uploads.say(node, &format!("waiting to try again: {}", chain(&error)));
                shared.uploads.note(node, |progress| progress.is_server_full = error.is_server_full());
                if !unreachable {
                    tracing::warn!(%node, error = chain(&error), "an upload failed; trying again");
                }
                tokio::time::sleep(backoff.next()).await;
                shared.wait_online().await;
            }
        }
    }
    shared.uploads.active.lock().remove(&node);
    shared.wake.wake();
}

async fn attempt(shared: &Arc<Shared>, node: NodeId, reason: Reason) -> Result<Step, EngineError> {
    let slot = shared.uploads.hash_slots.acquire().await.expect("the semaphore is never closed");
    shared.uploads.say(node, "being read");
    let opened = {
        let shared = Arc::clone(shared);
        off_thread(move || open(&shared, node)).await?
    };
    let source = match opened {
        Opened::Source(source) => source,
        Opened::Not(Hashed::Partial) => {
            drop(slot);
            return fetch_rest(shared, node).await;
        }
        Opened::Not(Hashed::Nothing) => return Ok(Step::Done),
        Opened::Not(_) => return Ok(Step::Again),
    };
    match (reason, source.number) {
        (Reason::Changed, Some(number)) if source.size > SMALL_CONTENT_LEN_MAX => {
            let source = Arc::new(source);
            let manifest = read_manifest(shared, node, &source).await?;
            drop(slot);
            match manifest {
                Some(manifest) => finish(shared, node, &source, number, manifest).await,
                None => Ok(Step::Again),
            }
        }
        // It is small now, or not changed any more, or changed again: the commit loop knows what to do.
        (Reason::Changed, _) | (Reason::Lacking, Some(_)) => Ok(Step::Done),
        (Reason::Lacking, None) if source.size == 0 => Ok(Step::Done),
        (Reason::Lacking, None) => {
            let source = Arc::new(source);
            let Some(manifest) = known_manifest(shared, node, &source).await? else { return Ok(Step::Again) };
            drop(slot);
            upload_chunks(shared, node, &source.file, &manifest).await
        }
    }
}

/// Reads the bytes of a partly fetched file that was changed here: its content can only be named as a whole.
async fn fetch_rest(shared: &Arc<Shared>, node: NodeId) -> Result<Step, EngineError> {
    let Some(found) = shared.tree.node_by_id(node)? else { return Ok(Step::Done) };
    let Some(record) = found.live() else { return Ok(Step::Done) };
    shared.uploads.say(node, "fetching the part that is not here");
    if let Some(error) = super::download::fetch_up_to(shared, node, record.size).await {
        shared.uploads.say(node, &format!("the part that is not here cannot be fetched: {error}"));
    }
    Ok(Step::Again)
}

/// Cuts and names a content; `None` if the file did not stand still.
async fn read_manifest(
    shared: &Arc<Shared>,
    node: NodeId,
    source: &Arc<HashSource>,
) -> Result<Option<Manifest>, EngineError> {
    let previous = shared.tree.manifest(node)?.map(|(_, manifest)| manifest.chunk_log2);
    let source = Arc::clone(source);
    let read = off_thread(move || {
        let manifest = manifest_of(&source.file, source.size, previous);
        (manifest, source.stood_still())
    });
    match read.await {
        (Ok(manifest), true) => Ok(Some(manifest)),
        (Err(error), true) => {
            let path = std::path::PathBuf::from(format!("the backing file of {node}"));
            Err(crate::cache::CacheError::Io { action: "read", path, source: error }.into())
        }
        (_, false) => Ok(None),
    }
}

/// Returns the manifest of the content that the tree names, from the tree or from the bytes.
async fn known_manifest(
    shared: &Arc<Shared>,
    node: NodeId,
    source: &Arc<HashSource>,
) -> Result<Option<Manifest>, EngineError> {
    let content =
        shared.tree.node_by_id(node)?.and_then(|node| node.live().and_then(|record| record.content));
    let Some(content) = content else { return Ok(None) };
    if let Some((_, manifest)) = shared.tree.manifest(node)?.filter(|(id, _)| *id == content) {
        return Ok(Some(manifest));
    }
    let Some(manifest) = read_manifest(shared, node, source).await? else { return Ok(None) };
    if manifest.id() != content {
        shared.uploads.say(node, "its bytes are not those that its name in the tree says");
        return Ok(None);
    }
    shared.tree.put_manifest(node, &manifest)?;
    Ok(Some(manifest))
}

async fn finish(
    shared: &Arc<Shared>,
    node: NodeId,
    source: &Arc<HashSource>,
    number: u64,
    manifest: Manifest,
) -> Result<Step, EngineError> {
    if let Step::Again = upload_chunks(shared, node, &source.file, &manifest).await? {
        return Ok(Step::Again);
    }
    let named = NamedContent { id: node, number, content: content_id(&manifest), manifest };
    let done = shared.tree.set_contents(&[named])?;
    Ok(if done.contains(&node) { Step::Done } else { Step::Again })
}

/// Uploads what the server lacks of a content. `Again` if the file changed while it was read.
async fn upload_chunks(
    shared: &Arc<Shared>,
    node: NodeId,
    file: &Arc<File>,
    manifest: &Manifest,
) -> Result<Step, EngineError> {
    shared.uploads.say(node, "being uploaded");
    let of = upload_of(shared, node, manifest)?;
    let missing = missing_chunks(shared, manifest, of.as_ref()).await?;
    let total = missing.iter().map(|piece| piece.len).sum();
    shared.uploads.note(node, |progress| (progress.total, progress.done) = (total, 0));
    let batches = batches(missing);
    let whole = stream::iter(batches)
        .map(|batch| put_batch(shared, node, file, batch, of.clone()))
        .buffer_unordered(UPLOAD_REQUESTS_MAX)
        .try_fold(true, |all, whole| async move { Ok(all && whole) });
    let whole = whole.await?;
    shared.uploads.note(node, |progress| progress.is_server_full = false);
    Ok(if whole { Step::Done } else { Step::Again })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    hash: ChunkHash,
    offset: u64,
    len: u64,
}

/// Names the file for the server's events; `None` for one that has no path any more.
fn upload_of(shared: &Shared, node: NodeId, manifest: &Manifest) -> Result<Option<UploadOf>, EngineError> {
    let (client, path) = (shared.online(), shared.tree.path_of(node)?);
    let named = client.zip(path);
    Ok(named.map(|(client, path)| UploadOf { client, path, size: manifest.size() }))
}

async fn missing_chunks(
    shared: &Arc<Shared>,
    manifest: &Manifest,
    of: Option<&UploadOf>,
) -> Result<Vec<Piece>, EngineError> {
    let mut seen = HashSet::new();
    let pieces: Vec<Piece> = manifest
        .offsets()
        .filter(|(_, chunk)| !chunk.hash.is_hole() && seen.insert(chunk.hash))
        .map(|(offset, chunk)| Piece { hash: chunk.hash, offset, len: chunk.len })
        .collect();
    let mut missing = Vec::new();
    for (at, asked) in pieces.chunks(QUERY_ITEMS_MAX).enumerate() {
        let hashes = asked.iter().map(|piece| piece.hash).collect();
        let lacking = shared.remote.missing(hashes, of.filter(|_| at == 0).cloned()).await?;
        let lacking: HashSet<ChunkHash> = lacking.into_iter().collect();
        missing.extend(asked.iter().filter(|piece| lacking.contains(&piece.hash)));
    }
    Ok(missing)
}

fn batches(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut batches: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        if piece.len > room || batches.is_empty() {
            batches.push(Vec::new());
            room = UPLOAD_BATCH_LEN as u64;
        }
        room = room.saturating_sub(piece.len);
        batches.last_mut().expect("one was just pushed").push(piece);
    }
    batches
}

/// Reads and uploads some chunks, without hashing them once more; `false` if the file does not hold them any more.
async fn put_batch(
    shared: &Arc<Shared>,
    node: NodeId,
    file: &Arc<File>,
    batch: Vec<Piece>,
    of: Option<UploadOf>,
) -> Result<bool, EngineError> {
    let _slot = shared.uploads.put_slots.acquire().await.expect("the semaphore is never closed");
    let len: u64 = batch.iter().map(|piece| piece.len).sum();
    let file = Arc::clone(file);
    let Some(chunks) = off_thread(move || read_pieces(&file, &batch)).await else { return Ok(false) };
    match shared.remote.put_chunks(chunks, of).await {
        // The server hashes what arrives: the file has changed since it was cut.
        Err(RemoteError::Refused { code, .. }) if code == "hash_mismatch" => return Ok(false),
        done => done?,
    }
    shared.uploads.bytes.fetch_add(len, std::sync::atomic::Ordering::Relaxed);
    shared.uploads.note(node, |progress| progress.done += len);
    Ok(true)
}

fn read_pieces(file: &File, pieces: &[Piece]) -> Option<Vec<(ChunkHash, Bytes)>> {
    let read = |piece: &Piece| {
        let mut bytes = vec![0; usize::try_from(piece.len).ok()?];
        file.read_exact_at(&mut bytes, piece.offset).ok()?;
        Some((piece.hash, Bytes::from(bytes)))
    };
    pieces.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_order_and_their_size_but_for_a_longer_chunk() {
        let piece = |len: u64| Piece { hash: ChunkHash::of(&len.to_be_bytes()), offset: 0, len };
        let max = UPLOAD_BATCH_LEN as u64;
        let pieces = [max, 1, max - 1, 1, 2 * max, 1].map(piece).to_vec();
        let batches = batches(pieces.clone());
        let lens: Vec<Vec<u64>> = batches.iter().map(|batch| batch.iter().map(|p| p.len).collect()).collect();
        assert_eq!(lens, [vec![max], vec![1, max - 1], vec![1], vec![2 * max], vec![1]]);
        assert_eq!(batches.concat(), pieces);
    }
}
