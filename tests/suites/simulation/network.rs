//! The simulated network: every call is delayed, lost, repeated or cut off as the seed says.
//!
//! A request on its way belongs to the network: it arrives although the mount that sent it was killed or gave up
//! waiting. Calls overtake each other; frames of one stream do not, as on a TCP connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs_mountd::remote::{ChunkStream, FrameStream, Remote, RemoteError, RemoteFuture, UploadOf};
use dfs_server::component::Pushed;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::ClientId;
use dfs_shared::lineage::{Known, State};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::RecordKey;
use dfs_shared::wire::decode_frame;
use dfs_shared::wire::history::{HistoryReply, HistoryRequest};
use dfs_shared::wire::messages::{
    CommitReply, MerkleReply, RecordsReply, RegisterReply, RegisterRequest, StreamFrame, WhoamiReply,
};
use dfs_shared::wire::report::{ReportReply, ReportRequest};
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::server::SimServer;
use dfs_tests::random::Random;

/// How long a caller waits for an answer that does not come, in milliseconds.
const DEADLINE_MS: u64 = 3_000;
/// How long a mount takes to find that its stream is dead, in milliseconds.
const SILENCE_MS: u64 = 2_000;

/// The network of one run.
pub(crate) struct Network {
    server: Arc<SimServer>,
    random: Mutex<Random>,
    delay_ms_max: u64,
    loss_permille: Mutex<u64>,
    /// Counts the cuts of every mount: odd while it is cut off.
    cuts: Vec<watch::Sender<u64>>,
}

/// What becomes of one call.
struct Fate {
    there: Duration,
    back: Duration,
    lost_there: bool,
    lost_back: bool,
    again: Option<Duration>,
}

impl Network {
    /// Joins `mounts` mounts with a server.
    #[must_use]
    pub(crate) fn new(
        server: Arc<SimServer>,
        seed: u64,
        mounts: usize,
        delay_ms_max: u64,
        loss_permille: u64,
    ) -> Self {
        let cuts = (0..mounts).map(|_| watch::channel(0).0).collect();
        let random = Mutex::new(Random::new(seed ^ 0x6e65_7477_6f72_6b00));
        Self { server, random, delay_ms_max, loss_permille: Mutex::new(loss_permille), cuts }
    }

    /// Cuts a mount off, or joins it again.
    pub(crate) fn cut(&self, mount: usize, is_cut: bool) {
        self.cuts[mount].send_if_modified(|count| {
            let change = (*count % 2 == 1) != is_cut;
            *count += u64::from(change);
            change
        });
    }

    /// Loses and repeats nothing any more, and waits until every mount knows whether it still has its connection.
    pub(crate) async fn calm(&self) {
        *self.loss_permille.lock() = 0;
        (0..self.cuts.len()).for_each(|mount| self.cut(mount, false));
        sleep(Duration::from_millis(SILENCE_MS + self.delay_ms_max + 1)).await;
    }

    fn is_cut(&self, mount: usize) -> bool {
        *self.cuts[mount].borrow() % 2 == 1
    }

    fn delay(&self, random: &mut Random) -> Duration {
        // Mostly quick, sometimes slow: what is slow is overtaken.
        let max = if random.below(4) == 0 { self.delay_ms_max } else { self.delay_ms_max / 8 };
        Duration::from_micros(random.below(max * 1000 + 200))
    }

    fn fate(&self) -> Fate {
        let mut random = self.random.lock();
        let loss = *self.loss_permille.lock();
        let (there, back) = (self.delay(&mut random), self.delay(&mut random));
        let mut hit = || random.below(1000) < loss;
        let (lost_there, lost_back, repeated) = (hit(), hit(), hit());
        let later = Duration::from_millis(random.below(4 * self.delay_ms_max + 1000));
        Fate { there, back, lost_there, lost_back, again: repeated.then_some(later) }
    }

    fn frame_delay(&self) -> Duration {
        let mut random = self.random.lock();
        self.delay(&mut random)
    }
}

/// One mount's way to the server.
#[derive(Clone)]
pub(crate) struct Link {
    network: Arc<Network>,
    mount: usize,
}

impl Link {
    /// Makes the way of a mount.
    #[must_use]
    pub(crate) fn new(network: Arc<Network>, mount: usize) -> Self {
        Self { network, mount }
    }

    fn unreachable(&self) -> RemoteError {
        let source = Arc::new(std::io::Error::other("cut off"));
        RemoteError::Unreachable { server: self.name(), source }
    }

    fn call<T: Send + 'static>(
        &self,
        work: impl Fn(&SimServer) -> Result<T, RemoteError> + Send + 'static,
    ) -> RemoteFuture<'_, T> {
        let (reply, replied) = oneshot::channel();
        let link = self.clone();
        async move {
            if link.network.is_cut(link.mount) {
                sleep(link.network.frame_delay()).await;
                return Err(link.unreachable());
            }
            let (carrier, server) = (link.clone(), link.name());
            tokio::spawn(async move { carrier.carry(work, reply).await });
            match tokio::time::timeout(Duration::from_millis(DEADLINE_MS), replied).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Err(RemoteError::Disconnected { server }),
                Err(_) => Err(RemoteError::TimedOut { server, after_ms: DEADLINE_MS }),
            }
        }
        .boxed()
    }

    async fn carry<T>(
        self,
        work: impl Fn(&SimServer) -> Result<T, RemoteError>,
        reply: oneshot::Sender<Result<T, RemoteError>>,
    ) {
        let Network { server, .. } = &*self.network;
        let fate = self.network.fate();
        sleep(fate.there).await;
        if fate.lost_there || self.network.is_cut(self.mount) {
            // The caller finds out when it has waited long enough, or at once where the connection breaks.
            if fate.lost_back {
                sleep(Duration::from_millis(2 * DEADLINE_MS)).await;
            }
            return;
        }
        let done = work(server);
        sleep(fate.back).await;
        if !fate.lost_back && !self.network.is_cut(self.mount) {
            let _ = reply.send(done);
        } else {
            drop(reply);
        }
        if let Some(later) = fate.again {
            sleep(later).await;
            drop(work(server));
        }
    }

    /// Brings frames until the mount is cut off, the server ends or the seed says so.
    async fn follow(
        self,
        mut stream: super::server::Stream,
        frames: mpsc::UnboundedSender<Result<StreamFrame, RemoteError>>,
    ) {
        let mut cuts = self.network.cuts[self.mount].subscribe();
        cuts.mark_unchanged();
        for frame in stream.first.clone() {
            let _ = frames.send(Ok(frame));
        }
        loop {
            let next = tokio::select! {
                biased;
                _ = cuts.changed() => break,
                () = frames.closed() => return,
                next = stream.pushed.next() => next,
            };
            let frame = match next {
                Some(Pushed::Commit { revision, .. }) if revision <= stream.revision => continue,
                Some(Pushed::Commit { frame, .. } | Pushed::Quota { frame }) => {
                    decode_frame(&frame).ok().flatten().map(|(frame, _)| frame)
                }
                Some(Pushed::Lagged) => Some(StreamFrame::Lagged),
                None => None,
            };
            let Some(frame) = frame else { break };
            tokio::select! {
                biased;
                _ = cuts.changed() => break,
                () = sleep(self.network.frame_delay()) => {}
            }
            if frames.send(Ok(frame)).is_err() {
                return;
            }
        }
        let silence = self.network.random.lock().below(SILENCE_MS);
        sleep(Duration::from_millis(silence)).await;
        let _ = frames.send(Err(RemoteError::Disconnected { server: self.name() }));
    }
}

impl Remote for Link {
    fn register(&self, request: RegisterRequest) -> RemoteFuture<'_, RegisterReply> {
        self.call(move |server| server.register(request.clone()))
    }

    fn commit(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.call(move |server| server.commit(&request))
    }

    fn past(&self, request: Bytes) -> RemoteFuture<'_, CommitReply> {
        self.call(move |server| server.past(&request))
    }

    fn lineage(&self, seen: Vec<State>) -> RemoteFuture<'_, Known> {
        self.call(move |server| server.lineage(seen.clone()))
    }

    // As of a server that does not know it yet: it tells people, and changes nothing.
    fn whoami(&self, _: ClientId) -> RemoteFuture<'_, WhoamiReply> {
        let (code, message) = ("not_found".to_owned(), String::new());
        Box::pin(async { Err(RemoteError::Refused { status: 404, code, message }) })
    }

    fn report(&self, request: ReportRequest) -> RemoteFuture<'_, ReportReply> {
        self.call(move |server| server.report(request.clone()))
    }

    fn missing(&self, hashes: Vec<ChunkHash>, _of: Option<UploadOf>) -> RemoteFuture<'_, Vec<ChunkHash>> {
        self.call(move |server| server.missing(hashes.clone()))
    }

    fn put_chunks(&self, chunks: Vec<(ChunkHash, Bytes)>, _of: Option<UploadOf>) -> RemoteFuture<'_, ()> {
        self.call(move |server| server.put_chunks(chunks.clone()))
    }

    fn get_chunks(&self, hashes: Vec<ChunkHash>) -> RemoteFuture<'_, ChunkStream> {
        let call = self
            .call(move |server| Ok(hashes.iter().map(|hash| server.get_chunk(*hash)).collect::<Vec<_>>()));
        async move { Ok(stream::iter(call.await?).boxed()) }.boxed()
    }

    fn contents(&self, contents: Vec<ContentId>) -> RemoteFuture<'_, Vec<Option<Manifest>>> {
        self.call(move |server| server.contents(contents.clone()))
    }

    fn records(&self, keys: Vec<RecordKey>) -> RemoteFuture<'_, RecordsReply> {
        self.call(move |server| server.records(keys.clone()))
    }

    fn merkle(&self, prefixes: Vec<Vec<u8>>) -> RemoteFuture<'_, MerkleReply> {
        self.call(move |server| server.merkle(prefixes.clone()))
    }

    fn history(&self, _request: HistoryRequest) -> RemoteFuture<'_, HistoryReply> {
        let (code, message) = ("not_built".to_owned(), "the simulated mounts ask for no history".to_owned());
        async move { Err(RemoteError::Refused { status: 501, code, message }) }.boxed()
    }

    fn stream(&self, client: ClientId) -> RemoteFuture<'_, FrameStream> {
        let link = self.clone();
        let opened = self.call(move |server| server.stream(client.clone()));
        async move {
            let stream = opened.await?;
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(link.follow(stream, sender));
            let frames = stream::unfold(receiver, |mut receiver| async {
                let frame = receiver.recv().await?;
                Some((frame, receiver))
            });
            Ok(frames.boxed())
        }
        .boxed()
    }

    fn name(&self) -> String {
        "simulated".to_owned()
    }
}
