//! From the bus into the feed: one queue for all kinds of events, so that their order is kept, and the thread behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use dfs_shared::ddl::ModifiedAt;
use dfs_shared::event::kinds::server::{
    FileAdded, FileChunkReceived, FileConflictDetected, FileConflictResolved, FileDeleted,
    FileDownloadCompleted, FileModified, FileUploadCompleted, FileUploadStarted, ServerShuttingDown,
    ServerStarted, SyncCompleted, SyncFailed, SyncStarted,
};
use dfs_shared::event::{Event, EventBus, SubscribeError, SubscribeOptions, Subscription};
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::record::RecordKey;
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use serde_json::{Value, json};

use super::mark::Mark;
use super::place::{NO_REVISION, Places, kind};
use super::{Entry, Feed};
use crate::component::changes::Change;
use crate::files::FilePath;
use crate::limits::FEED_QUEUE_MAX;
use crate::metadata::{MetadataError, MetadataStore};
use crate::sync::FileChange;

macro_rules! happened {
    ($($event:ident),+ $(,)?) => {
        /// An event on its way into the feed.
        pub(super) enum Happened {
            $($event($event),)+
        }

        $(impl From<$event> for Happened {
            fn from(event: $event) -> Self {
                Self::$event(event)
            }
        })+

        /// The names of all events of the feed, besides `gap`.
        pub const KINDS: &[&str] = &[$($event::NAME),+];

        fn subscribe(feed: &Arc<Feed>, bus: &EventBus, queue: &SyncSender<(Timestamp, Happened)>) -> Result<Vec<Subscription>, SubscribeError> {
            Ok(vec![$(listen::<$event>(feed, bus, queue)?),+])
        }
    };
}

happened!(
    FileAdded,
    FileModified,
    FileDeleted,
    FileUploadStarted,
    FileChunkReceived,
    FileUploadCompleted,
    FileDownloadCompleted,
    SyncStarted,
    SyncCompleted,
    SyncFailed,
    FileConflictDetected,
    FileConflictResolved,
    ServerStarted,
    ServerShuttingDown,
);

impl Happened {
    /// Takes a change of a past commit.
    pub(super) fn of_change(change: FileChange, volume: VolumeName, revision: Revision) -> Self {
        match Change::new(change, volume, revision) {
            Change::Added(event) => event.into(),
            Change::Modified(event) => event.into(),
            Change::Deleted(event) => event.into(),
        }
    }

    /// The volume and the commit of an event about a file that a commit changed.
    fn commit(&self) -> Option<(&VolumeName, Revision)> {
        match self {
            Self::FileAdded(event) => Some((&event.volume, event.revision)),
            Self::FileModified(event) => Some((&event.volume, event.revision)),
            Self::FileDeleted(event) => Some((&event.volume, event.revision)),
            _ => None,
        }
    }
}

/// Counts the file events of each volume's newest commit.
#[derive(Default)]
struct Marks(HashMap<VolumeName, Mark>);

impl Marks {
    fn next(&mut self, event: &Happened) -> Option<Mark> {
        let (volume, revision) = event.commit()?;
        let index = match self.0.get(volume) {
            Some(mark) if mark.revision == revision => mark.index.saturating_add(1),
            Some(_) | None => 0,
        };
        let mark = Mark { revision, index };
        self.0.insert(volume.clone(), mark);
        Some(mark)
    }
}

/// Keeps a feed on the bus; dropping it takes the feed off and ends its thread.
#[derive(Debug)]
pub struct FeedJoined {
    subscriptions: Vec<Subscription>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FeedJoined {
    fn drop(&mut self) {
        // The handlers hold the queue; its end ends the thread.
        self.subscriptions.clear();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread of the event feed panicked");
        }
    }
}

impl Feed {
    /// Joins the bus until the returned handle is dropped. Publishers only put their event into a queue.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn join(
        self: &Arc<Self>,
        bus: &EventBus,
        store: Arc<dyn MetadataStore>,
    ) -> Result<FeedJoined, SubscribeError> {
        let (queue, events) = mpsc::sync_channel(FEED_QUEUE_MAX);
        let subscriptions = subscribe(self, bus, &queue)?;
        // A feed joins once; a second store would be the same one.
        let _ = self.store.set(Arc::clone(&store));
        let feed = Arc::clone(self);
        let run = move || {
            let (mut places, mut marks) = (Places::default(), Marks::default());
            for (at, event) in events {
                let mark = marks.next(&event);
                match entry(&*store, &mut places, at, event) {
                    Ok(entry) => feed.add(Entry { mark, ..entry }),
                    Err(error) => {
                        feed.dropped.fetch_add(1, Ordering::AcqRel);
                        tracing::warn!(error = %crate::report::chain(&error), "an event is not told");
                    }
                }
            }
        };
        let name = "dfs-feed".to_owned();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(run);
        let thread = thread.map_err(|source| SubscribeError::Thread { name, source })?;
        Ok(FeedJoined { subscriptions, thread: Some(thread) })
    }
}

fn listen<E: Event + Into<Happened>>(
    feed: &Arc<Feed>,
    bus: &EventBus,
    queue: &SyncSender<(Timestamp, Happened)>,
) -> Result<Subscription, SubscribeError> {
    let (feed, queue) = (Arc::clone(feed), queue.clone());
    bus.subscribe(SubscribeOptions::new("feed"), move |event: &E| {
        let at = Timestamp::from(SystemTime::now());
        match queue.try_send((at, event.clone().into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                feed.dropped.fetch_add(1, Ordering::AcqRel);
            }
        }
    })
}

pub(super) fn entry(
    store: &dyn MetadataStore,
    places: &mut Places,
    at: Timestamp,
    event: Happened,
) -> Result<Entry, MetadataError> {
    let (kind, volume, revision, mut data) = told(store, places, event)?;
    data["type"] = kind.into();
    data["time"] = ModifiedAt::from(at).to_string().into();
    if let Some(volume) = &volume {
        data["volume"] = volume.as_str().into();
    }
    if let Some(revision) = revision {
        data["revision"] = revision.0.into();
    }
    Ok(Entry { kind, volume, mark: None, data: data.to_string() })
}

type Told = (&'static str, Option<VolumeName>, Option<Revision>, Value);

fn told(store: &dyn MetadataStore, places: &mut Places, event: Happened) -> Result<Told, MetadataError> {
    let simple = |kind, volume, data| Ok((kind, Some(volume), None, data));
    match event {
        Happened::FileAdded(e) => {
            let name = (e.parent, e.name.as_bytes());
            named(store, places, FileAdded::NAME, (e.volume, e.revision), e.node, name)
        }
        Happened::FileDeleted(e) => {
            let name = (e.parent, e.name.as_bytes());
            named(store, places, FileDeleted::NAME, (e.volume, e.revision), e.node, name)
        }
        Happened::FileModified(e) => {
            let path = text(places.node(store, (&e.volume, e.revision), e.node)?);
            let kind = kind(store, &e.volume, e.node)?;
            let data = json!({ "path": path, "node": e.node.to_string(), "kind": kind, "size": e.size });
            Ok((FileModified::NAME, Some(e.volume), Some(e.revision), data))
        }
        Happened::FileUploadStarted(e) => {
            let client = e.client.as_ref().map(|client| client.as_str().to_owned());
            let data = json!({ "path": text(e.path), "client": client, "size": e.size });
            simple(FileUploadStarted::NAME, e.volume, data)
        }
        Happened::FileChunkReceived(e) => {
            let data = json!({ "path": text(e.path), "chunk": e.chunk.to_string(), "size": e.len });
            simple(FileChunkReceived::NAME, e.volume, with_client(data, e.client.as_ref()))
        }
        Happened::FileUploadCompleted(e) => uploaded(store, places, e),
        Happened::FileDownloadCompleted(e) => {
            let data = json!({ "path": text(e.path), "size": e.size });
            simple(FileDownloadCompleted::NAME, e.volume, with_client(data, e.client.as_ref()))
        }
        Happened::SyncStarted(e) => {
            let data = json!({ "client": e.client.as_str(), "round": e.round.as_str() });
            simple(SyncStarted::NAME, e.volume, data)
        }
        Happened::SyncCompleted(e) => {
            let data = json!({
                "client": e.client.as_str(),
                "round": e.round.as_str(),
                "files_synced": e.accepted,
                "refused": e.refused,
            });
            Ok((SyncCompleted::NAME, Some(e.volume), Some(e.revision), data))
        }
        Happened::SyncFailed(e) => {
            let data = json!({ "client": e.client.as_str(), "round": e.round.as_str(), "reason": e.reason });
            simple(SyncFailed::NAME, e.volume, data)
        }
        Happened::FileConflictDetected(e) => {
            let data = conflict(store, places, &e.volume, e.path, e.key)?;
            simple(FileConflictDetected::NAME, e.volume, with_client(data, Some(&e.client)))
        }
        Happened::FileConflictResolved(e) => {
            let mut data = conflict(store, places, &e.volume, e.path, e.key)?;
            data["copy"] = text(e.copy).into();
            simple(FileConflictResolved::NAME, e.volume, with_client(data, Some(&e.client)))
        }
        Happened::ServerStarted(e) => {
            Ok((ServerStarted::NAME, None, None, json!({ "address": e.address.to_string() })))
        }
        Happened::ServerShuttingDown(ServerShuttingDown) => {
            Ok((ServerShuttingDown::NAME, None, None, json!({})))
        }
    }
}

fn uploaded(
    store: &dyn MetadataStore,
    places: &mut Places,
    event: FileUploadCompleted,
) -> Result<Told, MetadataError> {
    let path = match (event.path, event.node) {
        (None, Some(node)) => places.node_now(store, &event.volume, node)?,
        (path, _) => path,
    };
    let data = json!({ "path": text(path), "size": event.size });
    let data = with_client(data, event.client.as_ref());
    Ok((FileUploadCompleted::NAME, Some(event.volume), None, data))
}

fn named(
    store: &dyn MetadataStore,
    places: &mut Places,
    event: &'static str,
    (volume, revision): (VolumeName, Revision),
    node: NodeId,
    (parent, name): (NodeId, &[u8]),
) -> Result<Told, MetadataError> {
    let path = text(places.name_in(store, (&volume, revision), parent, name)?);
    let kind = kind(store, &volume, node)?;
    let name = text(Some(name.to_vec()));
    let data = json!({ "path": path, "name": name, "node": node.to_string(), "kind": kind });
    Ok((event, Some(volume), Some(revision), data))
}

fn conflict(
    store: &dyn MetadataStore,
    places: &mut Places,
    volume: &VolumeName,
    path: Option<Vec<u8>>,
    key: Option<RecordKey>,
) -> Result<Value, MetadataError> {
    let found = match (path, key) {
        (Some(path), _) => Some(path),
        (None, Some(RecordKey::Node(node))) => places.node_now(store, volume, node)?,
        (None, Some(RecordKey::Entry { parent, name })) => {
            places.name_in(store, (volume, NO_REVISION), parent, name.as_bytes())?
        }
        (None, None) => None,
    };
    Ok(json!({ "path": text(found) }))
}

fn with_client(mut data: Value, client: Option<&ClientId>) -> Value {
    data["client"] = client.map(ClientId::as_str).into();
    data
}

/// A path as the API writes it.
fn text(path: Option<Vec<u8>>) -> Option<String> {
    path.and_then(|path| FilePath::from_bytes(&path).ok()).map(|path| path.to_string())
}

#[cfg(test)]
mod tests;
