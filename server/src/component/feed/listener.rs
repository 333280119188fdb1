//! One listener's place in the feed.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dfs_shared::event::Event;
use dfs_shared::event::kinds::server::{FileAdded, FileDeleted, FileModified};
use dfs_shared::ids::VolumeName;
use dfs_shared::revision::Revision;
use tokio::sync::watch;

use super::mark::Mark;
use super::past::{Past, Read};
use super::{Entry, Feed, GAP, Start, write_event};
use crate::blocking::offload;

/// Which events a listener wants. It gets gaps in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Their names; `None` for all.
    pub kinds: Option<BTreeSet<String>>,
    /// Their volume; events without one are taken too.
    pub volume: VolumeName,
    /// The volume's newest revision.
    pub newest: Revision,
}

/// Where a listener begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// With what happens from now on.
    Now,
    /// Behind an event.
    Event {
        /// Which start of the server.
        boot: u64,
        /// Its number.
        number: u64,
        /// How far the volume's commits were told with it, if the id says so.
        mark: Option<Mark>,
    },
    /// Behind a commit.
    Revision {
        /// The commit.
        since: Revision,
    },
}

impl Since {
    /// Reads an event id as the stream has it.
    #[must_use]
    pub fn from_id(text: &str) -> Option<Self> {
        let (boot, rest) = text.split_once('-')?;
        let (number, mark) = match rest.split_once('-') {
            Some((number, mark)) => (number, Some(Mark::from_text(mark)?)),
            None => (rest, None),
        };
        let (boot, number) = (u64::from_str_radix(boot, 16).ok()?, number.parse().ok()?);
        Some(Self::Event { boot, number, mark })
    }
}

impl Wanted {
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let is_kind = self.kinds.as_ref().is_none_or(|kinds| kinds.contains(entry.kind));
        let is_volume = entry.volume.as_ref().is_none_or(|volume| *volume == self.volume);
        entry.kind == GAP || is_kind && is_volume
    }

    /// Tells whether events about files that a commit changed are wanted.
    pub(super) fn takes_files(&self) -> bool {
        let names = [FileAdded::NAME, FileModified::NAME, FileDeleted::NAME];
        self.kinds.as_ref().is_none_or(|kinds| names.iter().any(|name| kinds.contains(*name)))
    }
}

/// A listener. Dropping it ends its listening.
#[derive(Debug)]
pub struct Listener {
    feed: Arc<Feed>,
    place: Arc<Place>,
    wanted: Wanted,
    at: u64,
    /// What is told before anything else.
    first: VecDeque<Entry>,
    past: Option<Past>,
    /// How far the volume's commits were told.
    mark: Mark,
    /// How far they were told from the past.
    told: Mark,
    next: watch::Receiver<u64>,
}

impl Listener {
    pub(super) fn new(feed: Arc<Feed>, wanted: Wanted, start: Start, next: watch::Receiver<u64>) -> Self {
        let Start { at, gap, begun, past, mark } = start;
        let first = gap.into_iter().chain(begun).collect();
        let place = Arc::new(Place(Arc::clone(&feed)));
        Self { feed, place, wanted, at, first, past, mark, told: Mark::end_of(Revision::ZERO), next }
    }

    /// Waits for the next events that are wanted; returns them as the stream has them, `None` once the server's end was told. Nothing is
    /// lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        let events = self.next_events().await?;
        Some(Bytes::from_owner(Held { events, _place: Arc::clone(&self.place) }))
    }

    async fn next_events(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.pop_front() {
            let mut text = String::new();
            write_event(&mut text, None, &first);
            return Some(text.into());
        }
        while let Some(past) = self.past {
            let (feed, wanted) = (Arc::clone(&self.feed), self.wanted.clone());
            let Read { text, mark, rest } = offload(move || feed.read_past(&wanted, past)).await;
            (self.mark, self.told, self.past) = (mark, mark, rest);
            if !text.is_empty() {
                return Some(text.into());
            }
        }
        loop {
            // Seen before the ring is read, so that what comes in between wakes.
            self.next.borrow_and_update();
            // Known before the ring is read: then the end is in it.
            let is_ended = self.feed.is_ended.load(Ordering::Acquire);
            let taken = self.feed.take(&self.wanted, &mut self.at, &mut self.mark, self.told);
            if taken.is_some() || is_ended {
                return taken;
            }
            let waited = self.next.changed().await;
            waited.expect("the feed holds the sender, and the listener the feed");
        }
    }
}

/// A place among the listeners, left when the listener and all that it was handed are gone.
#[derive(Debug)]
struct Place(Arc<Feed>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_waiters();
    }
}

/// Events on their way to the peer, which count as a listener until the connection has taken them: others may stand in between.
struct Held {
    events: Bytes,
    _place: Arc<Place>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.events
    }
}
