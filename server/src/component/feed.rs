//! What happens, for people and browsers: every event of the bus as a line of JSON, kept for a while.
//!
//! ```text
//! bus ─► queue (bounded) ─► the feed's thread: path looked up, JSON made ─► ring (bounded) ─► each listener's place in it
//! ```
//!
//! Events of files are told again from the changes of past commits that the store keeps, so that a listener which comes back misses
//! none of them, also after a restart of the server: [`Mark`] says up to where it has heard of a volume's commits.
//!
//! Policy when full: publishers never wait. A full queue drops the newest events and the ring gets a `gap` in their place; a listener
//! that is slower than the ring is long loses the oldest ones and is told so by a `gap`, then goes on. Event ids are
//! `BOOT-NUMBER-MARK`: numbers grow by one without holes, and begin anew with another BOOT when the server starts.
//! The end of the server is the last event that a listener gets; its start is told to those that come back from before it.
//! Invariant: a listener sees the events that it wants in order, each once, or a `gap` where some are missing.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dfs_shared::event::Event;
use dfs_shared::event::kinds::server::{ServerShuttingDown, ServerStarted};
use dfs_shared::ids::VolumeName;
use dfs_shared::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::limits::{FEED_BYTES_MAX, FEED_EVENTS_MAX, FEED_LISTENERS_MAX, FEED_PIECE_LEN};
use crate::metadata::MetadataStore;

mod happened;
mod listener;
mod mark;
mod past;
mod place;

pub use happened::{FeedJoined, KINDS};
pub use listener::{Listener, Since, Wanted};
pub use mark::Mark;
use past::Past;

/// The name of the event that stands for missing ones.
pub const GAP: &str = "gap";

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    kind: &'static str,
    volume: Option<VolumeName>,
    /// Which file event of which commit it is; `None` for all others.
    mark: Option<Mark>,
    /// One line of JSON.
    data: String,
}

/// The events of one server since it started, as far as they are kept.
pub struct Feed {
    boot: u64,
    ring: Mutex<Ring>,
    /// The number of the next event; listeners wait for it to change.
    next: watch::Sender<u64>,
    listeners: AtomicUsize,
    /// Told whenever a listener leaves.
    left: Notify,
    /// Whether the end of the server is in the ring: listeners leave behind it.
    is_ended: AtomicBool,
    /// Events that found the queue full and are not told as a gap yet.
    dropped: AtomicU64,
    /// Where changes of past commits are read, once the feed has joined the bus.
    store: OnceLock<Arc<dyn MetadataStore>>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The number of the first entry.
    first: u64,
    /// All file events of later revisions are here.
    floors: HashMap<VolumeName, Revision>,
    /// The start of this server, once it is in the ring; kept for listeners that come back from before it.
    begun: Option<Entry>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("boot", &self.boot).finish_non_exhaustive()
    }
}

/// Where a listener begins.
struct Start {
    /// The number of the first event of the ring.
    at: u64,
    /// What it has missed for certain or perhaps.
    gap: Option<Entry>,
    /// The start of the server that came after all that it has heard.
    begun: Option<Entry>,
    /// What is told before the ring.
    past: Option<Past>,
    /// How far the listener has heard of the volume's commits.
    mark: Mark,
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
            left: Notify::new(),
            is_ended: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            store: OnceLock::new(),
        }
    }

    /// Adds an event and wakes the listeners.
    pub(crate) fn add(&self, entry: Entry) {
        let is_end = entry.kind == ServerShuttingDown::NAME;
        let dropped = self.dropped.swap(0, Ordering::AcqRel);
        let mut ring = self.ring.lock();
        if dropped > 0 {
            ring.push(gap(Some(dropped), "the server was too busy to tell all events"));
        }
        ring.push(entry);
        let next = ring.next();
        drop(ring);
        self.is_ended.fetch_or(is_end, Ordering::AcqRel);
        self.next.send_replace(next);
    }

    /// Waits until the connection of every listener has taken the server's end, which makes it leave; `longest` bounds the wait for those
    /// that do not take what they are sent. Tells whether all have left.
    pub async fn farewell(&self, longest: Duration) -> bool {
        let all_left = async {
            loop {
                // Made before the look, so that who leaves in between is heard of.
                let left = self.left.notified();
                if self.listeners.load(Ordering::Acquire) == 0 {
                    return;
                }
                left.await;
            }
        };
        tokio::time::timeout(longest, all_left).await.is_ok()
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
        let start = self.place(&wanted, since);
        Some(Listener::new(Arc::clone(self), wanted, start, self.next.subscribe()))
    }

    fn place(&self, wanted: &Wanted, since: &Since) -> Start {
        let ring = self.ring.lock();
        let start = self.place_in(&ring, wanted, since);
        let is_from_before = matches!(*since, Since::Event { boot, .. } if boot != self.boot);
        let begun = ring.begun.as_ref().filter(|begun| is_from_before && wanted.takes(begun)).cloned();
        Start { begun, ..start }
    }

    fn place_in(&self, ring: &Ring, wanted: &Wanted, since: &Since) -> Start {
        let newest = Mark::end_of(wanted.newest);
        let begin = |at, gap, mark| Start { at, gap, begun: None, past: None, mark };
        match *since {
            Since::Now => begin(ring.next(), None, newest),
            Since::Event { boot, number, mark }
                if boot == self.boot && number.saturating_add(1) >= ring.first =>
            {
                let mark = mark.unwrap_or(Mark::end_of(Revision::ZERO));
                begin(number.saturating_add(1).min(ring.next()), None, mark)
            }
            Since::Event { mark: Some(mark), .. } => self.behind(ring, wanted, mark),
            Since::Event { boot, .. } if boot != self.boot => {
                begin(ring.next(), Some(gap(None, "the server was started anew since that event")), newest)
            }
            // What was lost since then is told when the listener reads.
            Since::Event { number, .. } => {
                begin(number.saturating_add(1), None, Mark::end_of(Revision::ZERO))
            }
            Since::Revision { since } => self.behind(ring, wanted, Mark::end_of(since)),
        }
    }

    /// Finds what follows the file events up to a mark: first what the ring does not have, from the store.
    fn behind(&self, ring: &Ring, wanted: &Wanted, mark: Mark) -> Start {
        let floor = ring.floors.get(&wanted.volume).copied().unwrap_or(wanted.newest);
        let in_ring = Mark::end_of(floor);
        let from = mark.max(in_ring);
        let is_later =
            |entry: &Entry| entry.volume.as_ref() == Some(&wanted.volume) && entry.mark > Some(from);
        let at = ring.entries.iter().position(is_later);
        let at = at.map_or(ring.next(), |at| ring.first + at as u64);
        if mark >= in_ring || !wanted.takes_files() {
            return Start { at, gap: None, begun: None, past: None, mark };
        }
        match self.store.get() {
            Some(_) => Start { at, gap: None, begun: None, past: Some(Past::new(mark, floor)), mark },
            None => {
                let gap = Some(gap(None, "the events of earlier revisions are not kept"));
                Start { at, gap, begun: None, past: None, mark }
            }
        }
    }

    /// Takes the next events from `at` on, as the stream has them; `None` when there is none yet. `mark` follows the file events
    /// of the volume; those up to `told` were told before.
    fn take(&self, wanted: &Wanted, at: &mut u64, mark: &mut Mark, told: Mark) -> Option<Bytes> {
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
            let own = entry.mark.filter(|_| entry.volume.as_ref() == Some(&wanted.volume));
            *mark = own.map_or(*mark, |own| own.max(*mark));
            if wanted.takes(entry) && own.is_none_or(|own| own > told) {
                write_event(&mut text, Some((self.boot, *at, *mark)), entry);
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
        if let (Some(volume), Some(mark)) = (&entry.volume, entry.mark)
            && !self.floors.contains_key(volume)
        {
            self.floors.insert(volume.clone(), Revision(mark.revision.0.saturating_sub(1)));
        }
        if entry.kind == ServerStarted::NAME {
            self.begun = Some(entry.clone());
        }
        self.bytes += entry.data.len();
        self.entries.push_back(entry);
        while self.entries.len() > FEED_EVENTS_MAX || self.bytes > FEED_BYTES_MAX && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.first += 1;
            self.bytes -= oldest.data.len();
            if let (Some(volume), Some(mark)) = (oldest.volume, oldest.mark) {
                let floor = self.floors.entry(volume).or_insert(mark.revision);
                *floor = mark.revision.max(*floor);
            }
        }
        debug_assert!(self.bytes <= FEED_BYTES_MAX || self.entries.len() == 1);
    }
}

/// Makes the event that stands for missing ones.
fn gap(missed: Option<u64>, reason: &str) -> Entry {
    let data = serde_json::json!({ "type": GAP, "missed": missed, "reason": reason }).to_string();
    Entry { kind: GAP, volume: None, mark: None, data }
}

/// Writes an event as the stream has it: `data` is one line, so it needs no escapes.
fn write_event(out: &mut String, id: Option<(u64, u64, Mark)>, entry: &Entry) {
    let written = match id {
        Some((boot, number, mark)) => {
            write!(out, "id: {boot:x}-{number}-{mark}\nevent: {}\ndata: {}\n\n", entry.kind, entry.data)
        }
        None => write!(out, "event: {}\ndata: {}\n\n", entry.kind, entry.data),
    };
    written.expect("a string takes everything");
}

#[cfg(test)]
mod tests;
