//! Bandwidth limits: chunks wait for their turn, everything else goes at once.
//!
//! ```text
//! put_chunks, get_chunks ─► Bucket (pure) ─► how long to wait ─► one chunk at a time ─► the server
//! commit ─────────────────► is counted, and never waits, so that chunks give way to it
//! ```
//!
//! A chunk is sent at the speed of the line once those before it are paid for: a connection is never idle in the middle of a
//! request, so that no deadline of either side has to know of the limit. Invariant: in any stretch of time no more chunk bytes are
//! begun than the rate allows in it, but for a burst of `RATE_BURST_MS` and the chunks that are on their way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::ClientId;
use dfs_shared::lineage::{Known, State};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::RecordKey;
use dfs_shared::wire::history::{HistoryReply, HistoryRequest};
use dfs_shared::wire::messages::{
    CommitReply, MerkleReply, RecordsReply, RegisterReply, RegisterRequest, WhoamiReply,
};
use dfs_shared::wire::report::{ReportReply, ReportRequest};
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{ChunkStream, FrameStream, Remote, RemoteError, RemoteFuture, UploadOf};
use crate::limits::RATE_BURST_MS;

/// Most bytes of chunks in a second; `None`: as many as the line takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// To the server.
    pub up: Option<u64>,
    /// From the server.
    pub down: Option<u64>,
}

/// A token bucket, as the time at which what was taken so far is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    rate: u64,
    paid_at: Duration,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid_at: Duration::ZERO }
    }

    fn cost(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes bytes that may wait; returns for how long they have to.
    fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        // What was not used is kept for a moment only.
        let from = self.paid_at.max(now.saturating_sub(Duration::from_millis(RATE_BURST_MS)));
        self.paid_at = from.saturating_add(self.cost(bytes));
        from.saturating_sub(now)
    }

    /// Takes bytes that do not wait. They hold up those that do by no more than `RATE_BURST_MS`.
    fn take_at_once(&mut self, now: Duration, bytes: u64) {
        let from = self.paid_at.max(now.saturating_sub(Duration::from_millis(RATE_BURST_MS)));
        let latest = self.paid_at.max(now + Duration::from_millis(RATE_BURST_MS));
        self.paid_at = from.saturating_add(self.cost(bytes)).min(latest);
    }
}

/// One direction.
#[derive(Debug)]
struct Gate {
    begun: Instant,
    bucket: Option<Mutex<Bucket>>,
}

impl Gate {
    fn new(rate: Option<u64>) -> Self {
        Self { begun: Instant::now(), bucket: rate.map(|rate| Mutex::new(Bucket::new(rate))) }
    }

    async fn pass(&self, bytes: u64) {
        let Some(bucket) = &self.bucket else { return };
        let wait = bucket.lock().take(self.begun.elapsed(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts bytes that came; those who ask next wait for them.
    fn count(&self, bytes: u64) {
        if let Some(bucket) = &self.bucket {
            let _ = bucket.lock().take(self.begun.elapsed(), bytes);
        }
    }

    fn pass_at_once(&self, bytes: u64) {
        if let Some(bucket) = &self.bucket {
            bucket.lock().take_at_once(self.begun.elapsed(), bytes);
        }
    }
}

/// A volume on a server, of whose line no more is taken than is allowed.
pub struct Limited {
    inner: Arc<dyn Remote>,
    rates: Rates,
    up: Gate,
    down: Arc<Gate>,
}

impl Limited {
    /// Limits a remote.
    #[must_use]
    pub fn new(inner: Arc<dyn Remote>, rates: Rates) -> Self {
        Self { inner, rates, up: Gate::new(rates.up), down: Arc::new(Gate::new(rates.down)) }
    }
}

/// Asks for the chunks one by one, each in its turn. What a chunk weighs is known once it is here: the next one waits for it.
fn one_by_one(inner: Arc<dyn Remote>, gate: Arc<Gate>, hashes: Vec<ChunkHash>) -> ChunkStream {
    let state = Some((inner, gate, hashes.into_iter()));
    Box::pin(stream::unfold(state, |state| async {
        let (inner, gate, mut hashes) = state?;
        let hash = hashes.next()?;
        gate.pass(0).await;
        let chunk = match inner.get_chunks(vec![hash]).await {
            Ok(mut chunks) => chunks.next().await?,
            Err(error) => Err(error),
        };
        if let Ok((_, bytes)) = &chunk {
            gate.count(bytes.len() as u64);
        }
        let ends = chunk.as_ref().is_err_and(|error| {
            !matches!(error, RemoteError::CorruptChunk { .. } | RemoteError::AbsentChunk { .. })
        });
        Some((chunk, (!ends).then_some((inner, gate, hashes))))
    }))
}

impl Remote for Limited {
    fn register(&self, request: RegisterRequest) -> RemoteFuture<'_, RegisterReply> {
        self.inner.register(request)
    }

    fn lineage(&self, seen: Vec<State>) -> RemoteFuture<'_, Known> {
        self.inner.lineage(seen)
    }

    fn whoami(&self, client: ClientId) -> RemoteFuture<'_, WhoamiReply> {
        self.inner.whoami(client)
    }

    fn commit(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.up.pass_at_once(request.len() as u64);
        self.inner.commit(request)
    }

    fn past(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.up.pass_at_once(request.len() as u64);
        self.inner.past(request)
    }

    fn missing(&self, hashes: Vec<ChunkHash>, of: Option<UploadOf>) -> RemoteFuture<'_, Vec<ChunkHash>> {
        self.inner.missing(hashes, of)
    }

    fn put_chunks(&self, chunks: Vec<(ChunkHash, Bytes)>, of: Option<UploadOf>) -> RemoteFuture<'_, ()> {
        if self.rates.up.is_none() {
            return self.inner.put_chunks(chunks, of);
        }
        async move {
            for (hash, bytes) in chunks {
                self.up.pass(bytes.len() as u64).await;
                self.inner.put_chunks(vec![(hash, bytes)], of.clone()).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn get_chunks(&self, hashes: Vec<ChunkHash>) -> RemoteFuture<'_, ChunkStream> {
        if self.rates.down.is_none() {
            return self.inner.get_chunks(hashes);
        }
        let (inner, gate) = (Arc::clone(&self.inner), Arc::clone(&self.down));
        async move { Ok(one_by_one(inner, gate, hashes)) }.boxed()
    }

    fn contents(&self, contents: Vec<ContentId>) -> RemoteFuture<'_, Vec<Option<Manifest>>> {
        self.inner.contents(contents)
    }

    fn records(&self, keys: Vec<RecordKey>) -> RemoteFuture<'_, RecordsReply> {
        self.inner.records(keys)
    }

    fn merkle(&self, prefixes: Vec<Vec<u8>>) -> RemoteFuture<'_, MerkleReply> {
        self.inner.merkle(prefixes)
    }

    fn history(&self, request: HistoryRequest) -> RemoteFuture<'_, HistoryReply> {
        self.inner.history(request)
    }

    fn report(&self, request: ReportRequest) -> RemoteFuture<'_, ReportReply> {
        self.inner.report(request)
    }

    fn stream(&self, client: ClientId) -> RemoteFuture<'_, FrameStream> {
        self.inner.stream(client)
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn rates(&self) -> Rates {
        self.rates
    }
}

#[cfg(test)]
mod tests;
