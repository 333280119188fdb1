//! What happens, for people and browsers: every event of the bus as a line of JSON, kept for a while.
//!
//! ```text
//! bus ─► queue (bounded) ─► the feed's thread: path looked up, JSON made ─► ring (bounded) ─► each listener's place in it
//! ```
//!
//! Policy when full: publishers never wait. A full queue drops the newest events and the ring gets a `gap` in their place; a listener
//! that is slower than the ring is long loses the oldest ones and is told so by a `gap`, then goes on. Event ids are
//! `BOOT-NUMBER`: numbers grow by one without holes, and begin anew with another BOOT when the server starts.
//! Invariant: a listener sees the events that it wants in order, each once, or a `gap` where some are missing.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use dfs_shared::ids::VolumeName;
use dfs_shared::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::limits::{FEED_BYTES_MAX, FEED_EVENTS_MAX, FEED_LISTENERS_MAX, FEED_PIECE_LEN};

mod happened;
mod listener;
mod place;

pub use happened::{FeedJoined, KINDS};
pub use listener::{Listener, Since, Wanted};

/// The name of the event that stands for missing ones.
pub const GAP: &str = "gap";

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    kind: &'static str,
    volume: Option<VolumeName>,
    /// The commit that it tells of.
    revision: Option<Revision>,
    /// One line of JSON.
    data: String,
}

/// The events of one server since it started, as far as they are kept.
#[derive(Debug)]
pub struct Feed {
    boot: u64,
    ring: Mutex<Ring>,
    /// The number of the next event; listeners wait for it to change.
    next: watch::Sender<u64>,
    listeners: AtomicUsize,
    /// Events that found the queue full and are not told as a gap yet.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The number of the first entry.
    first: u64,
    /// All file events of later revisions are here.
    floors: HashMap<VolumeName, Revision>,
}

impl Feed {
    /// Makes a feed without events; `boot` differs from start to start of a server.
    #[must_use]
    pub fn new(boot: u64) -> Self {
        Self {
            boot,
            ring: Mutex::default(),
            next: watch::Sender::new(0),
            listeners: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Adds an event and wakes the listeners.
    pub(crate) fn add(&self, entry: Entry) {
        let dropped = self.dropped.swap(0, Ordering::AcqRel);
        let mut ring = self.ring.lock();
        if dropped > 0 {
            ring.push(gap(Some(dropped), "the server was too busy to tell all events"));
        }
        ring.push(entry);
        let next = ring.next();
        drop(ring);
        self.next.send_replace(next);
    }

    /// Begins to listen; the place is taken at once, so that nothing that follows is missed.
    ///
    /// `None` when [`FEED_LISTENERS_MAX`] listen already.
    #[must_use]
    pub fn listen(self: &Arc<Self>, wanted: Wanted, since: &Since) -> Option<Listener> {
        let entered = self.listeners.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < FEED_LISTENERS_MAX).then_some(count + 1)
        });
        entered.ok()?;
        let (at, gap) = self.place(&wanted, since);
        Some(Listener::new(Arc::clone(self), wanted, at, gap, self.next.subscribe()))
    }

    /// Finds where a listener begins, and what it has missed for certain or perhaps.
    fn place(&self, wanted: &Wanted, since: &Since) -> (u64, Option<Entry>) {
        let ring = self.ring.lock();
        match *since {
            Since::Now => (ring.next(), None),
            Since::Event { boot, .. } if boot != self.boot => {
                (ring.next(), Some(gap(None, "the server was started anew since that event")))
            }
            Since::Event { number, .. } => {
                // Events that were lost since then are told when the listener reads.
                (number.saturating_add(1).min(ring.next()), None)
            }
            Since::Revision { since, current } => {
                let covered = match ring.floors.get(&wanted.volume) {
                    Some(floor) => since >= *floor,
                    None => since >= current,
                };
                let is_later = |entry: &Entry| {
                    entry.volume.as_ref() == Some(&wanted.volume) && entry.revision > Some(since)
                };
                let at = ring.entries.iter().position(is_later);
                let at = at.map_or(ring.next(), |at| ring.first + at as u64);
                let gap = (!covered).then(|| gap(None, "the events of earlier revisions are not kept"));
                (at, gap)
            }
        }
    }

    /// Takes the next events from `at` on, as the stream has them; `None` when there is none yet.
    fn take(&self, wanted: &Wanted, at: &mut u64) -> Option<Bytes> {
        let ring = self.ring.lock();
        let mut text = String::new();
        if *at < ring.first {
            let missed = gap(Some(ring.first - *at), "the listener was too slow");
            write_event(&mut text, None, &missed);
            *at = ring.first;
        }
        let from = usize::try_from(*at - ring.first).unwrap_or(usize::MAX);
        for entry in ring.entries.iter().skip(from) {
            if text.len() >= FEED_PIECE_LEN {
                break;
            }
            if wanted.takes(entry) {
                write_event(&mut text, Some((self.boot, *at)), entry);
            }
            *at += 1;
        }
        (!text.is_empty()).then(|| text.into())
    }
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn push(&mut self, entry: Entry) {
        if let (Some(volume), Some(revision)) = (&entry.volume, entry.revision)
            && !self.floors.contains_key(volume)
        {
            self.floors.insert(volume.clone(), Revision(revision.0.saturating_sub(1)));
        }
        self.bytes += entry.data.len();
        self.entries.push_back(entry);
        while self.entries.len() > FEED_EVENTS_MAX || self.bytes > FEED_BYTES_MAX && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.first += 1;
            self.bytes -= oldest.data.len();
            if let (Some(volume), Some(revision)) = (oldest.volume, oldest.revision) {
                let floor = self.floors.entry(volume).or_insert(revision);
                *floor = revision.max(*floor);
            }
        }
        debug_assert!(self.bytes <= FEED_BYTES_MAX || self.entries.len() == 1);
    }
}

/// Makes the event that stands for missing ones.
fn gap(missed: Option<u64>, reason: &str) -> Entry {
    let data = serde_json::json!({ "type": GAP, "missed": missed, "reason": reason }).to_string();
    Entry { kind: GAP, volume: None, revision: None, data }
}

/// Writes an event as the stream has it: `data` is one line, so it needs no escapes.
fn write_event(out: &mut String, id: Option<(u64, u64)>, entry: &Entry) {
    let written = match id {
        Some((boot, number)) => {
            write!(out, "id: {boot:x}-{number}\nevent: {}\ndata: {}\n\n", entry.kind, entry.data)
        }
        None => write!(out, "event: {}\ndata: {}\n\n", entry.kind, entry.data),
    };
    written.expect("a string takes everything");
}

#[cfg(test)]
mod tests;
