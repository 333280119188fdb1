//! Keeps this mount and the server in step: sends what is journaled, applies what is pushed, fetches what is read.
//!
//! ```text
//!   journal ─wake─► commit loop ─► plan (pure) ─► one request at a time ─► acknowledge ─► journal shrinks
//!                       │ large contents
//!                       └────► upload tasks ─► Tree::set_content ─wake─► commit loop
//!
//!   Offline ──registered──► Reconciling ──roots are equal──► Online ──stream ends──► Offline
//!      │                                                        │ events, in order
//!      └── another volume ──► Stopped                           └─► Tree::apply ─► effects ─► fs
//! ```
//!
//! Owns one runtime and the tasks in it. Leaves what records mean to `tree`, bytes to `cache`, and travelling
//! to `remote`. Invariants:
//! - Whatever changes the base (applying, acknowledging) holds `Shared::base`.
//! - At most one commit is in flight; it is stored before it is sent and settled before anything is applied
//!   after a reconnection, so that this mount never meets its own change as somebody else's.
//! - Events are hints: losing all of them costs a reconciliation and nothing else.

mod apply;
mod barrier;
mod commit;
mod conflict;
mod connection;
mod download;
mod events;
mod filing;
mod hash;
mod identity;
mod lineage;
mod manifests;
mod merge;
mod outcome;
mod pending;
mod pin;
pub mod plan;
mod quota;
mod reconcile;
mod report;
mod request;
mod retry;
mod shared;
pub mod status;
mod tasks;
#[cfg(test)]
mod tests;
mod upload;
pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use dfs_shared::event::kinds::mount::FileModified;
use dfs_shared::event::{EventBus, SubscribeOptions, Subscription};
use dfs_shared::ids::NodeId;
use dfs_shared::record::RecordKey;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};

use crate::cache::{Cache, Fetch, FetchDone, OpenFiles, ServerBarrier};
use crate::clock::Clock;
use crate::limits::SETTLE_MS_MAX;
use crate::remote::Remote;
use crate::tree::{EffectSink, Tree, TreeError};
pub use conflict::MergeError;
pub use pin::{PinError, PinProgress};
pub use shared::Connection;
use shared::Shared;
pub use status::Status;
use tasks::{Tasks, off_thread};
use verify::{Scope, Verified, VerifyError, VerifyEvent};

/// Wakes the engine when something was journaled. Made before the tree, whose callback it becomes.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Returns the callback for `Tree::open`.
    #[must_use]
    pub fn callback(&self) -> Box<dyn Fn() + Send + Sync> {
        let notify = Arc::clone(&self.0);
        Box::new(move || notify.notify_one())
    }

    /// Lets the engine look for work.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// What an engine works with.
pub struct Parts {
    /// The local tree.
    pub tree: Arc<Tree>,
    /// The bytes of files.
    pub cache: Arc<Cache>,
    /// The server.
    pub remote: Arc<dyn Remote>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Woken by the tree's journal.
    pub wake: Wake,
    /// Human name of this mount, usually the host's.
    pub client_name: String,
    /// Takes nothing from here to the server: changes stay in the journal.
    pub read_only: bool,
    /// Spreads the pauses between attempts, so that many mounts do not come back in step.
    pub seed: u64,
}

/// What keeps a change from being on the server, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Its content is on the way.
    Uploading(String),
    /// The volume's quota leaves no room for it.
    NoRoom(String),
    /// The server does not take it.
    Stuck(String),
}

/// Why the engine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system gives no threads.
    #[error("cannot start the threads of the sync engine")]
    Threads {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The local tree failed.
    #[error("cannot read the local tree")]
    Tree {
        /// Why.
        #[from]
        source: TreeError,
    },
}

/// The sync engine. Dropping it stops it; what is not on the server yet stays in the journal.
pub struct Engine {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    subscription: parking_lot::Mutex<Option<Subscription>>,
}

impl Engine {
    /// Makes an engine and its threads; it does nothing before [`Self::start`] but fetch.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(parts: Parts) -> Result<Arc<Self>, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("dfs-engine")
            .enable_all()
            .build()
            .map_err(|source| StartError::Threads { source })?;
        let shared = Self::shared(parts, Tasks::new(runtime.handle().clone()))?;
        Ok(Arc::new(Self { shared, runtime: Some(runtime), subscription: parking_lot::Mutex::new(None) }))
    }

    /// As [`Self::new`], with its tasks on a runtime of the caller's; dropping the engine aborts them. On a runtime of one
    /// thread everything happens on that thread.
    ///
    /// # Errors
    /// [`StartError::Tree`].
    pub fn on_runtime(parts: Parts, runtime: tokio::runtime::Handle) -> Result<Arc<Self>, StartError> {
        let shared = Self::shared(parts, Tasks::new(runtime))?;
        Ok(Arc::new(Self { shared, runtime: None, subscription: parking_lot::Mutex::new(None) }))
    }

    fn shared(parts: Parts, tasks: Tasks) -> Result<Arc<Shared>, TreeError> {
        let shared = Shared::new(parts, tasks)?;
        identity::look(&shared)?;
        Ok(shared)
    }

    /// Starts to sync. `sink` hears what remote changes do; `open` coordinates with open files; the bus tells
    /// of files that were closed or written.
    pub fn start(&self, sink: Arc<dyn EffectSink>, open: Arc<dyn OpenFiles>, bus: &EventBus) {
        self.shared.join(sink, open);
        let wake = self.shared.wake.clone();
        let listen = bus.subscribe(SubscribeOptions::new("sync engine"), move |_: &FileModified| wake.wake());
        match listen {
            Ok(subscription) => *self.subscription.lock() = Some(subscription),
            Err(error) => tracing::warn!(%error, "closing a file will not wake the sync engine"),
        }
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(connection::run(Arc::clone(&shared)));
        self.shared.tasks.spawn(report::run(Arc::clone(&shared)));
        self.shared.tasks.spawn(pin::run(Arc::clone(&shared)));
        self.shared.tasks.spawn(commit::run(shared));
    }

    /// Tells people, in the log and in `dfs status`, which files lost bytes that had been written here.
    pub fn notice_lost(&self, files: &[NodeId]) {
        let Some((first, others)) = files.split_first() else { return };
        let path = status::path_of(&self.shared, &RecordKey::Node(*first));
        let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        self.shared.notice(format!(
            "{path}{others}: what was written here last had not reached the disk when the machine stopped, and is lost; \
             look at them, and at `dfs history` for what the server has"
        ));
    }

    /// Returns the runtime that the engine's tasks run on.
    #[must_use]
    pub fn runtime(&self) -> tokio::runtime::Handle {
        self.shared.tasks.runtime()
    }

    /// Returns how the mount stands to its server. Reads the journal.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn status(&self) -> Result<Status, TreeError> {
        status::snapshot(&self.shared)
    }

    /// Compares mount, cache and server, and puts damage right if `is_repairing`. Ends early when the receiver of the events is
    /// dropped.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn verify(
        &self,
        scope: Scope,
        is_repairing: bool,
        events: mpsc::Sender<VerifyEvent>,
    ) -> Result<Verified, VerifyError> {
        let verified = verify::verify(&self.shared, scope, is_repairing, events).await?;
        self.settle_effects().await;
        Ok(verified)
    }

    /// Waits until what was applied so far is what the kernel shows; a second at most.
    pub async fn settle_effects(&self) {
        let settled = async {
            drop(self.shared.base.lock().await);
            if let Some(sink) = self.shared.sink().cloned() {
                off_thread(move || sink.settle()).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(SETTLE_MS_MAX), settled).await;
    }

    /// Returns the connection's state and its changes.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.shared.connection.subscribe()
    }

    /// Waits until everything that was changed before the call is on the server, and the kernel shows what that changed here;
    /// `false` when `timeout` passes first.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub async fn wait(&self, timeout: Option<Duration>) -> Result<bool, TreeError> {
        let reached = barrier::wait(&self.shared, timeout).await?;
        self.settle_effects().await;
        Ok(reached)
    }

    /// Returns why a file's change is not on the server, as far as the engine knows.
    #[must_use]
    pub fn explain(&self, node: NodeId) -> Option<Obstacle> {
        let uploading = self.shared.uploads.explain(node).map(Obstacle::Uploading);
        let no_room = || self.shared.quota.explain(&self.shared, node).map(Obstacle::NoRoom);
        uploading.or_else(no_room).or_else(|| self.shared.stuck_reason(node).map(Obstacle::Stuck))
    }

    /// Says in words that the server's disk has no room, if what was sent last found none.
    #[must_use]
    pub fn server_full(&self) -> Option<String> {
        self.shared.server_full()
    }

    /// Merges the two versions of a conflict, by its copy, if that is clean. Asks the server for what both sides had before, and
    /// returns when the kernel shows the result.
    ///
    /// # Errors
    /// [`MergeError`]; nothing is changed then.
    pub async fn merge_conflict(&self, copy: NodeId) -> Result<(), MergeError> {
        conflict::merge_asked(&self.shared, copy).await?;
        self.settle_effects().await;
        Ok(())
    }

    /// Pins a file or directory, durably: what of it is not here is fetched in the background. Blocks on the disk.
    ///
    /// # Errors
    /// [`TreeError`], as of [`Tree::pin`].
    pub fn pin(&self, node: NodeId) -> Result<(), TreeError> {
        pin::pin(&self.shared, node)
    }

    /// Waits until everything that is pinned at or below a node is here. Ends early when the receiver of `progress` is dropped.
    ///
    /// # Errors
    /// [`PinError`].
    pub async fn wait_pinned(
        &self,
        node: NodeId,
        progress: mpsc::Sender<PinProgress>,
    ) -> Result<(), PinError> {
        pin::wait(&self.shared, node, progress).await
    }

    /// Stops all tasks and waits for them for a moment.
    pub fn stop(&self) {
        self.shared.stopping.send_replace(true);
    }
}

impl Fetch for Engine {
    fn fetch(&self, node: NodeId, range: std::ops::Range<u64>, done: FetchDone) {
        download::fetch(&self.shared, node, range, done);
    }
}

impl crate::cache::Progress for Engine {
    fn is_uploading(&self, node: NodeId) -> bool {
        self.shared.uploads.is_active(node)
    }

    fn is_conflict(&self, node: NodeId) -> bool {
        self.shared.tree.is_marked_conflict(node)
    }

    fn is_sending(&self) -> bool {
        self.shared.online().is_some() && !self.shared.read_only
    }
}

impl ServerBarrier for Engine {
    fn reached(&self, done: FetchDone) {
        barrier::reached(&self.shared, done);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        self.shared.tasks.abort();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
