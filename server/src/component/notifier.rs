//! Pushes commits to the event streams.
//!
//! Each stream has a bounded queue of frames; a frame is encoded once and shared by all but the committer, who
//! has the records and gets a frame without them. Publishing never waits: a stream whose queue is full is cut and told so, and its mount reconciles.
//! Invariant: a subscription sees every commit from its beginning to its end, in order, without a gap.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use dfs_shared::event::kinds::server::Committed;
use dfs_shared::event::{self, EventBus, SubscribeError, SubscribeOptions};
use dfs_shared::ids::{ClientId, VolumeName};
use dfs_shared::revision::Revision;
use dfs_shared::wire::{encode_frame, encode_frame_sized, messages};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::limits::{STREAM_BYTES_MAX, STREAM_FRAMES_MAX};
use crate::sync::QuotaSet;

/// The open event streams of all volumes.
#[derive(Debug, Default)]
pub struct Notifier {
    volumes: Mutex<HashMap<VolumeName, Vec<Subscriber>>>,
}

#[derive(Debug)]
struct Subscriber {
    client: Option<ClientId>,
    knows_quota: bool,
    frames: mpsc::Sender<Pushed>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: AtomicUsize,
    lagged: AtomicBool,
}

/// One stream's end of its queue. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    frames: mpsc::Receiver<Pushed>,
    state: Arc<State>,
}

/// What a subscription brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// A commit.
    Commit {
        /// Its revision.
        revision: Revision,
        /// The encoded frame.
        frame: Bytes,
    },
    /// The volume's quota was set.
    Quota {
        /// The encoded frame.
        frame: Bytes,
    },
    /// The queue was full and frames were dropped; nothing follows.
    Lagged,
}

impl Pushed {
    fn len(&self) -> usize {
        match self {
            Self::Commit { frame, .. } | Self::Quota { frame } => frame.len(),
            Self::Lagged => 0,
        }
    }
}

/// Encodes as [`messages::StreamFrame`] does, without a copy of the commit.
#[derive(Serialize)]
enum FrameRef<'a> {
    #[expect(dead_code, reason = "keeps the place of the variant before")]
    Hello,
    Committed(&'a messages::Committed),
}

impl Notifier {
    /// Subscribes to the commits of a volume from now on, and to its quota. `client` says whose stream it is.
    #[must_use]
    pub fn subscribe(
        &self,
        volume: &VolumeName,
        client: Option<ClientId>,
        knows_quota: bool,
    ) -> Subscription {
        let (sender, frames) = mpsc::channel(STREAM_FRAMES_MAX);
        let state = Arc::<State>::default();
        let subscriber = Subscriber { client, knows_quota, frames: sender, state: Arc::clone(&state) };
        self.volumes.lock().entry(volume.clone()).or_default().push(subscriber);
        Subscription { frames, state }
    }

    /// Returns how many streams are open.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        let volumes = self.volumes.lock();
        volumes.values().flatten().filter(|subscriber| !subscriber.frames.is_closed()).count()
    }

    /// Joins the bus until the returned subscriptions are dropped. Runs on the publisher's thread: a queue
    /// of its own would only add to the latency.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn join(self: &Arc<Self>, bus: &EventBus) -> Result<Vec<event::Subscription>, SubscribeError> {
        let component = Arc::clone(self);
        let options = SubscribeOptions::new("notifier").priority(100);
        let commits = bus.subscribe(options, move |event: &Committed| component.on_commit(event))?;
        let component = Arc::clone(self);
        let quotas = bus.subscribe(SubscribeOptions::new("notifier"), move |event: &QuotaSet| {
            component.on_quota(event)
        })?;
        Ok(vec![commits, quotas])
    }

    /// Queues a quota for every stream of its volume that knows what one is.
    fn on_quota(&self, event: &QuotaSet) {
        let mut volumes = self.volumes.lock();
        let Some(subscribers) = volumes.get_mut(&event.volume) else { return };
        let frame = Bytes::from(encode_frame(&messages::StreamFrame::Quota { limit: event.limit }));
        subscribers.retain(|subscriber| {
            !subscriber.knows_quota || subscriber.push(Pushed::Quota { frame: frame.clone() })
        });
    }

    /// Queues a commit for every stream of its volume.
    fn on_commit(&self, event: &Committed) {
        let mut volumes = self.volumes.lock();
        let Some(subscribers) = volumes.get_mut(&event.volume) else { return };
        let revision = event.commit.revision;
        let committer = &event.commit.client;
        let (mut whole, mut lean) = (None, None);
        subscribers.retain(|subscriber| {
            let frame = match &subscriber.client {
                Some(client) if client == committer => {
                    lean.get_or_insert_with(|| encoded(&without_records(&event.commit)))
                }
                _ => whole.get_or_insert_with(|| encoded(&event.commit)),
            };
            subscriber.push(Pushed::Commit { revision, frame: frame.clone() })
        });
        if subscribers.is_empty() {
            volumes.remove(&event.volume);
        }
    }
}

fn encoded(commit: &messages::Committed) -> Bytes {
    let len = messages::small_chunks_len(&commit.small_chunks);
    Bytes::from(encode_frame_sized(&FrameRef::Committed(commit), len))
}

/// Returns what the committer needs: it has the records, with the revision from the reply.
fn without_records(commit: &messages::Committed) -> messages::Committed {
    messages::Committed {
        revision: commit.revision,
        root: commit.root,
        client: commit.client.clone(),
        commit: commit.commit,
        records: Vec::new(),
        manifests: Vec::new(),
        small_chunks: Vec::new(),
    }
}

impl Subscriber {
    /// Queues a frame; `false` when the stream is gone or too slow.
    fn push(&self, pushed: Pushed) -> bool {
        let waiting = self.state.waiting_bytes.load(Ordering::Acquire);
        // A frame that is over the limit alone still goes to a stream that keeps up.
        let fits = waiting == 0 || waiting + pushed.len() <= STREAM_BYTES_MAX;
        if fits {
            self.state.waiting_bytes.fetch_add(pushed.len(), Ordering::AcqRel);
            match self.frames.try_send(pushed) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        self.state.lagged.store(true, Ordering::Release);
        false
    }
}

impl Subscription {
    /// Waits for the next commit; `None` at the end.
    pub async fn next(&mut self) -> Option<Pushed> {
        match self.frames.recv().await {
            Some(pushed) => {
                self.state.waiting_bytes.fetch_sub(pushed.len(), Ordering::AcqRel);
                Some(pushed)
            }
            // The notifier drops its end only after it has set the mark.
            None => self.state.lagged.swap(false, Ordering::AcqRel).then_some(Pushed::Lagged),
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_shared::hash::{ChunkHash, MerkleHash};
    use dfs_shared::ids::ClientId;
    use dfs_shared::wire::decode_frame;

    use super::*;
    use crate::blocking::block_on;

    fn volume(name: &str) -> VolumeName {
        VolumeName::new(name).unwrap()
    }

    fn commit(name: &str, revision: u64, len: usize) -> Committed {
        let small = messages::SmallChunk { hash: ChunkHash::HOLE, bytes: vec![0; len] };
        let commit = messages::Committed {
            revision: Revision(revision),
            root: MerkleHash::EMPTY,
            client: ClientId::new("c").unwrap(),
            commit: 1,
            records: Vec::new(),
            manifests: Vec::new(),
            small_chunks: vec![small],
        };
        Committed { volume: volume(name), commit: Arc::new(commit) }
    }

    #[test]
    fn a_frame_is_what_a_mount_decodes() {
        let notifier = Arc::<Notifier>::default();
        let bus = EventBus::new();
        let joined = notifier.join(&bus).unwrap();
        let mut stream = notifier.subscribe(&volume("a"), None, false);
        let sent = commit("a", 7, 3);
        bus.publish(sent.clone());
        let Some(Pushed::Commit { frame, .. }) = block_on(stream.next()) else { panic!("no commit") };
        let (decoded, used) = decode_frame::<messages::StreamFrame>(&frame).unwrap().unwrap();
        assert_eq!(decoded, messages::StreamFrame::Committed((*sent.commit).clone()));
        assert_eq!(used, frame.len());
        drop(joined);
        bus.publish(commit("a", 8, 3));
        drop(notifier);
        assert_eq!(block_on(stream.next()), None);
    }

    #[test]
    fn the_committer_gets_its_own_commit_without_the_records() {
        let notifier = Notifier::default();
        let mut own = notifier.subscribe(&volume("a"), ClientId::new("c").ok(), false);
        let mut other = notifier.subscribe(&volume("a"), ClientId::new("d").ok(), false);
        let sent = commit("a", 7, 3);
        notifier.on_commit(&sent);
        let next = |stream: &mut Subscription| -> messages::StreamFrame {
            match block_on(stream.next()) {
                Some(Pushed::Commit { frame, .. }) => decode_frame(&frame).unwrap().unwrap().0,
                other => panic!("{other:?} instead of a commit"),
            }
        };
        assert_eq!(next(&mut own), messages::StreamFrame::Committed(without_records(&sent.commit)));
        assert_eq!(next(&mut other), messages::StreamFrame::Committed((*sent.commit).clone()));
    }

    fn revision(pushed: Option<Pushed>) -> u64 {
        match pushed {
            Some(Pushed::Commit { revision, .. }) => revision.0,
            other => panic!("{other:?} instead of a commit"),
        }
    }

    #[test]
    fn a_stream_gets_the_commits_of_its_volume_in_order() {
        let notifier = Notifier::default();
        let mut stream = notifier.subscribe(&volume("a"), None, false);
        for revision in 1..=3 {
            notifier.on_commit(&commit("a", revision, 10));
            notifier.on_commit(&commit("b", revision, 10));
        }
        for expected in 1..=3 {
            assert_eq!(revision(block_on(stream.next())), expected);
        }
    }

    #[test]
    fn a_stream_that_is_too_slow_is_told_and_cut_and_the_others_go_on() {
        let notifier = Notifier::default();
        let mut slow = notifier.subscribe(&volume("a"), None, false);
        let mut quick = notifier.subscribe(&volume("a"), None, false);
        for number in 1..=STREAM_FRAMES_MAX as u64 + 1 {
            notifier.on_commit(&commit("a", number, 1));
            assert_eq!(revision(block_on(quick.next())), number);
        }
        for number in 1..=STREAM_FRAMES_MAX as u64 {
            assert_eq!(revision(block_on(slow.next())), number);
        }
        assert_eq!(block_on(slow.next()), Some(Pushed::Lagged));
        assert_eq!(block_on(slow.next()), None);
        assert_eq!(notifier.subscribers(), 1);
    }

    #[test]
    fn waiting_bytes_are_bounded_but_one_large_frame_passes() {
        let notifier = Notifier::default();
        let mut stream = notifier.subscribe(&volume("a"), None, false);
        notifier.on_commit(&commit("a", 1, STREAM_BYTES_MAX + 1));
        notifier.on_commit(&commit("a", 2, 1));
        assert_eq!(revision(block_on(stream.next())), 1);
        assert_eq!(block_on(stream.next()), Some(Pushed::Lagged));
    }

    #[test]
    fn as_many_bytes_as_may_wait_do_and_one_more_is_too_much() {
        let notifier = Notifier::default();
        let mut stream = notifier.subscribe(&volume("a"), None, false);
        let volumes = notifier.volumes.lock();
        let subscriber = &volumes[&volume("a")][0];
        let push = |number, len| {
            subscriber.push(Pushed::Commit { revision: Revision(number), frame: Bytes::from(vec![0; len]) })
        };
        assert!(push(1, 1) && push(2, STREAM_BYTES_MAX - 1));
        assert_eq!(revision(block_on(stream.next())), 1);
        assert!(push(3, 1));
        assert!(!push(4, 1));
    }

    #[test]
    fn a_quota_goes_to_the_streams_of_its_volume_that_know_what_one_is() {
        let notifier = Arc::<Notifier>::default();
        let bus = EventBus::new();
        let joined = notifier.join(&bus).unwrap();
        let mut knows = notifier.subscribe(&volume("a"), None, true);
        let mut old = notifier.subscribe(&volume("a"), None, false);
        for (name, limit) in [("b", None), ("a", Some(7)), ("a", None)] {
            bus.publish(QuotaSet { volume: volume(name), limit });
        }
        bus.publish(commit("a", 1, 1));
        for expected in [Some(7), None] {
            let Some(Pushed::Quota { frame }) = block_on(knows.next()) else { panic!("no quota") };
            let (decoded, _) = decode_frame::<messages::StreamFrame>(&frame).unwrap().unwrap();
            assert_eq!(decoded, messages::StreamFrame::Quota { limit: expected });
        }
        assert_eq!(revision(block_on(knows.next())), 1);
        assert_eq!(revision(block_on(old.next())), 1);
        drop(joined);
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let notifier = Notifier::default();
        drop(notifier.subscribe(&volume("a"), None, false));
        assert_eq!(notifier.subscribers(), 0);
        notifier.on_commit(&commit("a", 1, 1));
        assert!(notifier.volumes.lock().is_empty());
    }
}
