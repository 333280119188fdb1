//! The task that fetches one file's bytes for all who wait for some of them.
//!
//! ```text
//!          ┌──────────── the file has another content now ───────────┐
//!          ▼                                                         │
//! open (manifest, Filler) ─► serve: waiter in, chunk in, deadline ───┘
//!  ▲   │ no answer               │
//!  └───┘ after a pause           │ nobody waits for a while, or an error of the whole file
//!                                ▼
//!                               end: waiters that came too late are served by a new task
//! ```

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::{Arrived, BatchError};
use super::want::{ReadAhead, batches, overlapping};
use super::{Waiter, batch, fetch};
use crate::cache::{CacheError, FetchError, Filler};
use crate::engine::shared::{EngineError, Shared, blocking, chain};
use crate::limits::{DOWNLOAD_LINGER_MS, FETCH_DEADLINE_MS};
use crate::remote::RemoteError;
use crate::tree::TreeError;

/// How often a file is opened anew because it changed, before its readers are told to try again.
const REOPEN_MAX: u32 = 8;
/// How long to let a change settle before the file is opened anew.
const REOPEN_AFTER: Duration = Duration::from_millis(5);

/// Shortest and longest wait before the server is asked again.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

struct File {
    shared: Arc<Shared>,
    node: NodeId,
    waiters: Vec<Waiter>,
    ahead: ReadAhead,
    /// Offsets of chunks on their way.
    coming: HashSet<u64>,
    /// When to ask again after a failure.
    retry_at: Option<Instant>,
    retry_after: Duration,
}

enum Ended {
    Idle,
    Changed,
}

pub(super) async fn run(shared: Arc<Shared>, node: NodeId, mut incoming: mpsc::Receiver<Waiter>) {
    let mut file = File {
        shared: Arc::clone(&shared),
        node,
        waiters: Vec::new(),
        ahead: ReadAhead::default(),
        coming: HashSet::new(),
        retry_at: None,
        retry_after: RETRY_AFTER_MIN,
    };
    let mut changes = 0;
    while changes < REOPEN_MAX {
        file.coming.clear();
        let deadline = Duration::from_millis(FETCH_DEADLINE_MS);
        let opening = tokio::time::timeout(deadline, open(&shared, node));
        match file.attend(&mut incoming, opening).await.unwrap_or(Err(OpenError::Broken)) {
            Ok(Opened::AllHere) => file.finish_all(&Ok(())),
            Ok(Opened::Changed) => {
                changes += 1;
                file.attend(&mut incoming, tokio::time::sleep(REOPEN_AFTER)).await;
                continue;
            }
            Ok(Opened::Filler(filler)) => match file.serve(&mut incoming, filler).await {
                Ended::Idle => break,
                Ended::Changed => {
                    changes += 1;
                    continue;
                }
            },
            Err(OpenError::Broken) => {
                let pause = file.next_pause();
                file.attend(&mut incoming, tokio::time::sleep(pause)).await;
            }
            Err(OpenError::Failed(error)) => file.finish_all(&Err(error)),
        }
        if file.waiters.is_empty() {
            break;
        }
    }
    file.finish_all(&Err(FetchError::Failed { reason: "the file changes all the time".to_owned() }));
    shared.downloads.files.lock().remove(&node);
    incoming.close();
    // Those who came between the last look and the removal get a new task.
    while let Ok(waiter) = incoming.try_recv() {
        if waiter.background {
            super::send(&shared, node, waiter);
        } else {
            fetch(&shared, node, waiter.range, waiter.done);
        }
    }
}

/// What opening a file came to.
enum Opened {
    AllHere,
    /// It got another content meanwhile.
    Changed,
    Filler(Arc<Filler>),
}

/// Why a file was not opened.
pub(in crate::engine) enum OpenError {
    /// The server could not be asked, and may be asked again.
    Broken,
    /// To be told to those who wait.
    Failed(FetchError),
}

impl From<FetchError> for OpenError {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

/// Gets the manifest and prepares the file.
async fn open(shared: &Arc<Shared>, node: NodeId) -> Result<Opened, OpenError> {
    let failed = |error: &dyn std::error::Error| FetchError::Failed { reason: chain(error) };
    let found = shared.tree.node_by_id(node).map_err(|error| failed(&error))?;
    let Some(record) = found.as_ref().and_then(|found| found.live()) else {
        // Removed while somebody has it open: what he reads is still fetched.
        let content = shared.cache.orphan_content(node).ok_or(FetchError::NotFound)?;
        let manifest = manifest_of(shared, node, content).await?;
        return Ok(begin(shared, node, &manifest)?);
    };
    // While the content is changed here, what is missing belongs to the version before.
    let row = shared.tree.content_state(node).map_err(|error| failed(&error))?;
    let changed = found.as_ref().is_some_and(|found| found.dirty_content.is_some());
    let content = if changed { row.and_then(|row| row.content) } else { record.content };
    let Some(content) = content else { return Ok(Opened::AllHere) };
    if shared.cache.is_present(node, &(0..record.size)).map_err(|error| failed(&error))? {
        return Ok(Opened::AllHere);
    }
    let manifest = manifest_of(shared, node, content).await?;
    Ok(begin(shared, node, &manifest)?)
}

/// Gets a content's manifest: pushed, known, or from the server.
pub(in crate::engine) async fn manifest_of(
    shared: &Arc<Shared>,
    node: NodeId,
    content: ContentId,
) -> Result<Arc<Manifest>, OpenError> {
    let failed = |error: &dyn std::error::Error| FetchError::Failed { reason: chain(error) };
    let kept = shared.manifests.get(content);
    let known = shared.tree.manifest(node).map_err(|error| failed(&error))?;
    let known = known.filter(|(id, _)| *id == content).map(|(_, manifest)| Arc::new(manifest));
    if let Some(manifest) = kept.or(known) {
        return Ok(manifest);
    }
    let asked = shared.remote.contents(vec![content]).await.map_err(|error| {
        if error.is_retryable() && !shared.is_away() {
            tracing::debug!(error = chain(&error), "a question about a content broke");
            OpenError::Broken
        } else {
            OpenError::Failed(remote_error(shared, error))
        }
    })?;
    Ok(Arc::new(asked.into_iter().next().flatten().ok_or(FetchError::NotFound)?))
}

fn begin(shared: &Arc<Shared>, node: NodeId, manifest: &Manifest) -> Result<Opened, FetchError> {
    let failed = |error: &dyn std::error::Error| FetchError::Failed { reason: chain(error) };
    match blocking(|| shared.cache.begin_fill(node, manifest)) {
        Ok(filler) => Ok(Opened::Filler(Arc::new(filler))),
        Err(CacheError::Changed) => Ok(Opened::Changed),
        Err(CacheError::Tree { source: TreeError::NoSpace }) => Err(FetchError::NoSpace),
        Err(error) => Err(failed(&error)),
    }
}

fn remote_error(shared: &Shared, error: RemoteError) -> FetchError {
    match error {
        RemoteError::CorruptChunk { hash } => FetchError::Corrupt { chunk: hash },
        RemoteError::AbsentChunk { .. } => FetchError::NotFound,
        error if error.is_unreachable() && shared.is_offline() => FetchError::Offline,
        error @ (RemoteError::TimedOut { .. } | RemoteError::Disconnected { .. }) => {
            tracing::debug!(error = chain(&error), "a download broke");
            FetchError::TimedOut
        }
        RemoteError::Unreachable { .. } => FetchError::Offline,
        error => FetchError::Failed { reason: chain(&EngineError::from(error)) },
    }
}

impl File {
    /// Waits for something while readers come and give up.
    async fn attend<T>(&mut self, incoming: &mut mpsc::Receiver<Waiter>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let deadline = self.waiters.iter().map(|waiter| waiter.deadline).min();
            tokio::select! {
                biased;
                done = &mut work => {
                    // The first reader may not have been taken yet.
                    while let Ok(waiter) = incoming.try_recv() {
                        self.waiters.push(waiter);
                    }
                    return done;
                }
                Some(waiter) = incoming.recv() => self.waiters.push(waiter),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.expire();
                }
            }
        }
    }

    /// How long to wait before the next try.
    fn next_pause(&mut self) -> Duration {
        let pause = self.retry_after;
        self.retry_after = (pause * 2).min(RETRY_AFTER_MAX);
        pause
    }

    async fn serve(&mut self, incoming: &mut mpsc::Receiver<Waiter>, filler: Arc<Filler>) -> Ended {
        let (sender, mut arrived) = mpsc::unbounded_channel();
        let waiting = std::mem::take(&mut self.waiters);
        for waiter in waiting {
            self.take(waiter, &filler, &sender);
        }
        loop {
            let linger = Instant::now() + Duration::from_millis(DOWNLOAD_LINGER_MS);
            let next_deadline = self.waiters.iter().map(|waiter| waiter.deadline).min();
            let timer = next_deadline.into_iter().chain(self.retry_at).min().unwrap_or(linger);
            tokio::select! {
                biased;
                waiter = incoming.recv() => match waiter {
                    Some(waiter) => self.take(waiter, &filler, &sender),
                    None => return Ended::Idle,
                },
                Some(first) = arrived.recv() => {
                    if self.arrived(first) {
                        return Ended::Changed;
                    }
                    while let Ok(next) = arrived.try_recv() {
                        if self.arrived(next) {
                            return Ended::Changed;
                        }
                    }
                    self.finish_ready(&filler);
                }
                () = tokio::time::sleep_until(timer) => {
                    if self.waiters.is_empty() && self.coming.is_empty() {
                        return Ended::Idle;
                    }
                    self.expire();
                    if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                        self.retry_at = None;
                        self.ask_for_waiters(&filler, &sender);
                    }
                }
            }
            if filler.is_whole() {
                if let Err(error) = self.shared.report_download(self.node) {
                    tracing::debug!(%error, "a download is not told to the server");
                }
                self.finish_all(&Ok(()));
                return Ended::Idle;
            }
        }
    }

    fn take(&mut self, waiter: Waiter, filler: &Arc<Filler>, sender: &mpsc::UnboundedSender<Arrived>) {
        let wanted = if waiter.background { waiter.range.clone() } else { self.ahead.extend(&waiter.range) };
        self.ask(&wanted, filler, sender);
        self.waiters.push(waiter);
        self.finish_ready(filler);
    }

    fn ask_for_waiters(&mut self, filler: &Arc<Filler>, sender: &mpsc::UnboundedSender<Arrived>) {
        let ranges: Vec<_> = self.waiters.iter().map(|waiter| waiter.range.clone()).collect();
        for range in ranges {
            self.ask(&range, filler, sender);
        }
    }

    fn ask(
        &mut self,
        range: &std::ops::Range<u64>,
        filler: &Arc<Filler>,
        sender: &mpsc::UnboundedSender<Arrived>,
    ) {
        let missing = filler.missing();
        let wanted: Vec<_> =
            overlapping(&missing, range).filter(|(at, _)| !self.coming.contains(at)).collect();
        self.coming.extend(wanted.iter().map(|(at, _)| *at));
        for chunks in batches(wanted) {
            let (shared, filler) = (Arc::clone(&self.shared), Arc::clone(filler));
            self.shared.tasks.spawn(batch::run(shared, self.node, filler, chunks, sender.clone()));
        }
    }

    /// Takes note of a chunk; `true` if the file has another content now.
    fn arrived(&mut self, arrived: Arrived) -> bool {
        let (place, error) = match arrived {
            Arrived::Here((at, _)) => {
                self.coming.remove(&at);
                self.retry_after = RETRY_AFTER_MIN;
                return false;
            }
            Arrived::Failed(place, error) => (place, error),
        };
        self.coming.remove(&place.0);
        let range = place.0..place.0.saturating_add(place.1.len);
        let error = match error {
            BatchError::Changed => return true,
            BatchError::NoSpace => FetchError::NoSpace,
            BatchError::Local(reason) => FetchError::Failed { reason },
            BatchError::Remote(error) if error.is_retryable() && !self.shared.is_away() => {
                self.retry_at = Some(Instant::now() + self.next_pause());
                return false;
            }
            BatchError::Remote(error) => remote_error(&self.shared, error),
        };
        let (failed, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.range.start < range.end && range.start < waiter.range.end);
        self.waiters = waiting;
        failed.into_iter().for_each(|waiter| (waiter.done)(Err(error.clone())));
        false
    }

    /// Answers those whose range is here.
    fn finish_ready(&mut self, filler: &Filler) {
        let missing = filler.missing();
        let is_here = |waiter: &Waiter| overlapping(&missing, &waiter.range).next().is_none();
        let (here, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(is_here);
        self.waiters = waiting;
        here.into_iter().for_each(|waiter| (waiter.done)(Ok(())));
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let (late, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|waiter| waiter.deadline <= now);
        self.waiters = waiting;
        let error = if self.shared.is_offline() { FetchError::Offline } else { FetchError::TimedOut };
        if !late.is_empty() {
            tracing::warn!(node = %self.node, after_ms = FETCH_DEADLINE_MS, "a read gave up waiting for the server");
        }
        late.into_iter().for_each(|waiter| (waiter.done)(Err(error.clone())));
    }

    fn finish_all(&mut self, result: &Result<(), FetchError>) {
        for waiter in std::mem::take(&mut self.waiters) {
            (waiter.done)(result.clone());
        }
    }
}
