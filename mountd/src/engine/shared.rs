//! What the engine's tasks share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::record::RecordKey;
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use tokio::sync::{Mutex, Notify, watch};

use super::conflict::Merges;
use super::download::Downloads;
use super::manifests::Manifests;
use super::pin::Pinned;
use super::quota::Waiting;
use super::report::Reports;
use super::tasks::Tasks;
pub(super) use super::tasks::blocking;
use super::upload::Uploads;
use super::{Parts, Wake};
use crate::cache::{Cache, CacheError, OpenFiles};
use crate::clock::Clock;
use crate::limits::{MANIFEST_CHUNKS_KEPT, NOTICES_KEPT, RECONNECT_GRACE_MS};
use crate::remote::{Remote, RemoteError};
use crate::tree::apply::Conflict;
use crate::tree::{Effect, EffectSink, Membership, Tree, TreeError};

/// How the mount stands to its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// The server is not there, or answers with errors. Everything local goes on.
    Offline {
        /// Since when.
        since: Timestamp,
        /// What the last attempt met with; empty before the first.
        why: String,
    },
    /// Connected, and finding out what differs.
    Reconciling,
    /// Connected and in step, but for what is on its way.
    Online {
        /// The id that the server knows this mount by.
        client: ClientId,
    },
    /// Syncing would do harm, so it was given up until the next start.
    Stopped {
        /// Why, and what to do.
        why: String,
    },
}

/// Why a task cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// The server.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The local tree.
    #[error("the local tree failed")]
    Tree(#[from] TreeError),
    /// The cache.
    #[error("the cache failed")]
    Cache(#[from] CacheError),
    /// The two sides cannot be brought together.
    #[error("{0}")]
    Diverged(String),
    /// Syncing would do harm.
    #[error("{0}")]
    Stop(String),
    /// The connection was given up by another task.
    #[error("the connection was lost")]
    Lost,
}

impl EngineError {
    pub(super) fn is_server_full(&self) -> bool {
        matches!(self, Self::Remote(error) if error.is_server_full())
    }
}

/// A change that the server does not take.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) seqs: BTreeSet<u64>,
    pub(super) keys: BTreeSet<RecordKey>,
    pub(super) count: u32,
    pub(super) why: String,
    pub(super) stuck: bool,
    /// The server will never take it as it is.
    pub(super) invalid: bool,
}

/// What the engine's tasks share.
pub(super) struct Shared {
    pub(super) tree: Arc<Tree>,
    pub(super) cache: Arc<Cache>,
    pub(super) remote: Arc<dyn Remote>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) wake: Wake,
    pub(super) client_name: String,
    pub(super) read_only: bool,
    pub(super) tasks: Tasks,
    pub(super) seed: u64,
    sink: OnceLock<Arc<dyn EffectSink>>,
    open: OnceLock<Arc<dyn OpenFiles>>,
    pub(super) connection: watch::Sender<Connection>,
    /// Wakes those who wait for the server, in the order in which they came.
    pub(super) went_online: Notify,
    pub(super) stopping: watch::Sender<bool>,
    /// Tells the connection's task that another task found it broken.
    pub(super) broken: Notify,
    /// Held by whoever changes the base. Holds the revision of the newest own commit that was acknowledged.
    pub(super) base: Mutex<Revision>,
    /// Held from storing a commit to having settled it.
    pub(super) sending: Mutex<()>,
    /// Number of the newest commit that was settled.
    pub(super) settled: watch::Sender<u64>,
    /// The revision up to which every event is in the base.
    pub(super) applied: watch::Sender<Revision>,
    /// Counts what has left the journal or been acknowledged, to wake those who wait for it.
    pub(super) progress: watch::Sender<u64>,
    pub(super) uploads: Uploads,
    pub(super) merges: Merges,
    pub(super) downloads: Downloads,
    pub(super) manifests: Manifests,
    pub(super) reports: Reports,
    pub(super) pinned: Pinned,
    /// Changes that wait for room.
    pub(super) quota: Waiting,
    /// By the first journal group of the change.
    pub(super) refused: parking_lot::Mutex<BTreeMap<u64, Refused>>,
    /// Why the server does not accept the access token, while it does not.
    pub(super) token_refused: parking_lot::Mutex<Option<String>>,
    /// The server's disk had no room for the last commit.
    pub(super) is_server_full: AtomicBool,
    pub(super) conflict_count: AtomicU64,
    /// Tells that the server went back and is not in step with this mount again.
    pub(super) went_back: AtomicBool,
    /// What happened that people should know of, the newest last.
    pub(super) notices: parking_lot::Mutex<VecDeque<String>>,
    /// What time the server's clock told, and how long this machine had been on then.
    pub(super) server_clock: parking_lot::Mutex<Option<(Timestamp, Duration)>>,
    membership: parking_lot::Mutex<()>,
}

impl Shared {
    /// Does work until the engine stops.
    pub(super) async fn until_stopped(&self, work: impl Future<Output = ()>) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = work => {}
        }
    }

    pub(super) fn new(parts: Parts, tasks: Tasks) -> Result<Arc<Self>, TreeError> {
        let membership = parts.tree.membership()?;
        let settled = match parts.tree.in_flight()? {
            Some(_) => membership.commit.saturating_sub(1),
            None => membership.commit,
        };
        let since = parts.clock.now();
        Ok(Arc::new(Self {
            tree: parts.tree,
            cache: parts.cache,
            remote: parts.remote,
            clock: parts.clock,
            wake: parts.wake,
            client_name: parts.client_name,
            read_only: parts.read_only,
            tasks,
            seed: parts.seed,
            sink: OnceLock::new(),
            open: OnceLock::new(),
            connection: watch::channel(Connection::Offline { since, why: String::new() }).0,
            went_online: Notify::new(),
            stopping: watch::channel(false).0,
            broken: Notify::new(),
            base: Mutex::new(Revision::ZERO),
            sending: Mutex::new(()),
            settled: watch::channel(settled).0,
            applied: watch::channel(Revision::ZERO).0,
            progress: watch::channel(0).0,
            uploads: Uploads::default(),
            merges: Merges::default(),
            downloads: Downloads::default(),
            manifests: Manifests::new(MANIFEST_CHUNKS_KEPT),
            reports: Reports::default(),
            pinned: Pinned::default(),
            quota: Waiting::default(),
            refused: parking_lot::Mutex::default(),
            token_refused: parking_lot::Mutex::default(),
            is_server_full: AtomicBool::new(false),
            conflict_count: AtomicU64::new(0),
            went_back: AtomicBool::new(false),
            notices: parking_lot::Mutex::default(),
            membership: parking_lot::Mutex::default(),
            server_clock: parking_lot::Mutex::default(),
        }))
    }

    /// Takes those whom the engine talks to and who were made after it.
    pub(super) fn join(&self, sink: Arc<dyn EffectSink>, open: Arc<dyn OpenFiles>) {
        let _ = self.sink.set(sink);
        let _ = self.open.set(open);
    }

    pub(super) fn sink(&self) -> Option<&Arc<dyn EffectSink>> {
        self.sink.get()
    }

    pub(super) fn open_files(&self) -> Option<&Arc<dyn OpenFiles>> {
        self.open.get()
    }

    /// Returns the client id while online.
    pub(super) fn online(&self) -> Option<ClientId> {
        match &*self.connection.borrow() {
            Connection::Online { client } => Some(client.clone()),
            Connection::Offline { .. } | Connection::Reconciling | Connection::Stopped { .. } => None,
        }
    }

    pub(super) fn is_offline(&self) -> bool {
        matches!(*self.connection.borrow(), Connection::Offline { .. } | Connection::Stopped { .. })
    }

    /// Tells whether the server is away for longer than it takes to start it again.
    pub(super) fn is_away(&self) -> bool {
        match &*self.connection.borrow() {
            Connection::Offline { since, .. } => {
                let away = self.clock.now().as_millis().saturating_sub(since.as_millis());
                // Less than nothing: the clock was set back, and tells nothing.
                !(0..RECONNECT_GRACE_MS).contains(&away)
            }
            Connection::Stopped { .. } => true,
            Connection::Reconciling | Connection::Online { .. } => false,
        }
    }

    /// Says in words that the server's disk has no room, if what was sent last found none.
    pub(super) fn server_full(&self) -> Option<String> {
        let is_full = self.is_server_full.load(Ordering::Relaxed) || self.uploads.is_server_full();
        is_full.then(|| {
            "there is no room on the server's disk; what was changed here waits, and is sent when there is".to_owned()
        })
    }

    /// Keeps in mind whether an error was about the access token.
    pub(super) fn note_token(&self, error: &EngineError) {
        let refused = match error {
            EngineError::Remote(remote) => remote.token_refused().map(|_| chain(error)),
            EngineError::Tree(_) | EngineError::Cache(_) | EngineError::Diverged(_) => None,
            EngineError::Stop(_) | EngineError::Lost => None,
        };
        *self.token_refused.lock() = refused;
    }

    /// Waits until the engine is online.
    pub(super) async fn wait_online(&self) {
        loop {
            let mut went_online = std::pin::pin!(self.went_online.notified());
            went_online.as_mut().enable();
            if self.online().is_some() {
                return;
            }
            went_online.await;
        }
    }

    /// Waits until the engine is not online any more.
    pub(super) async fn wait_lost(&self) {
        let mut connection = self.connection.subscribe();
        let lost = |connection: &Connection| !matches!(connection, Connection::Online { .. });
        let _ = connection.wait_for(lost).await;
    }

    /// Changes what is remembered about the server, and returns it.
    pub(super) fn update_membership(
        &self,
        change: impl FnOnce(&mut Membership),
    ) -> Result<Membership, TreeError> {
        let _alone = self.membership.lock();
        let old = self.tree.membership()?;
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            self.tree.set_membership(&new)?;
        }
        Ok(new)
    }

    pub(super) fn note_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    pub(super) fn note_conflicts(&self, found: Vec<Conflict>) {
        for conflict in found {
            tracing::warn!(name = %conflict.name, copy = %conflict.copy, "conflict: both versions were kept");
            self.conflict_count.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.report_conflict(&conflict) {
                tracing::debug!(%error, "a conflict is not told to the server");
            }
        }
    }

    /// Changes the tree where open files and the kernel have to hear of it: what was written to `nodes` is noticed before, and what
    /// is written meanwhile after the effects have been taken. Blocks.
    pub(super) fn change_files<T, E>(
        &self,
        nodes: &[NodeId],
        change: impl FnOnce() -> Result<(T, Vec<Effect>), E>,
    ) -> Result<T, E> {
        let open = self.open_files();
        if let Some(open) = open {
            open.notice(nodes);
        }
        let hold = open.map(|open| open.hold());
        let (changed, effects) = change()?;
        if let Some(sink) = self.sink() {
            sink.effects(effects);
        }
        drop(hold);
        Ok(changed)
    }

    /// Says something that people should know of, in the log and in `dfs status`.
    pub(super) fn notice(&self, text: String) {
        tracing::warn!("{text}");
        let mut notices = self.notices.lock();
        if notices.back() == Some(&text) {
            return;
        }
        notices.push_back(text);
        if notices.len() > NOTICES_KEPT {
            notices.pop_front();
        }
    }

    /// Returns why the server does not take what was changed of a node.
    pub(super) fn stuck_reason(&self, node: NodeId) -> Option<String> {
        let refused = self.refused.lock();
        refused
            .values()
            .find(|refused| refused.keys.contains(&RecordKey::Node(node)))
            .map(|found| found.why.clone())
    }
}

/// Returns an error with its causes, for people.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
