//! One listener's place in the feed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dfs_shared::ids::VolumeName;
use dfs_shared::revision::Revision;
use tokio::sync::watch;

use super::{Entry, Feed, GAP, write_event};

/// Which events a listener wants. It gets gaps in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Their names; `None` for all.
    pub kinds: Option<BTreeSet<String>>,
    /// Their volume; events without one are taken too.
    pub volume: VolumeName,
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
    },
    /// Behind a commit.
    Revision {
        /// The commit.
        since: Revision,
        /// The volume's newest one.
        current: Revision,
    },
}

impl Since {
    /// Reads an event id as the stream has it.
    #[must_use]
    pub fn from_id(text: &str) -> Option<Self> {
        let (boot, number) = text.split_once('-')?;
        Some(Self::Event { boot: u64::from_str_radix(boot, 16).ok()?, number: number.parse().ok()? })
    }
}

impl Wanted {
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let is_kind = self.kinds.as_ref().is_none_or(|kinds| kinds.contains(entry.kind));
        let is_volume = entry.volume.as_ref().is_none_or(|volume| *volume == self.volume);
        entry.kind == GAP || is_kind && is_volume
    }
}

/// A listener. Dropping it ends its listening.
#[derive(Debug)]
pub struct Listener {
    feed: Arc<Feed>,
    wanted: Wanted,
    at: u64,
    gap: Option<Entry>,
    next: watch::Receiver<u64>,
}

impl Listener {
    pub(super) fn new(
        feed: Arc<Feed>,
        wanted: Wanted,
        at: u64,
        gap: Option<Entry>,
        next: watch::Receiver<u64>,
    ) -> Self {
        Self { feed, wanted, at, gap, next }
    }

    /// Waits for the next events that are wanted; returns them as the stream has them.
    pub async fn next(&mut self) -> Bytes {
        if let Some(gap) = self.gap.take() {
            let mut text = String::new();
            write_event(&mut text, None, &gap);
            return text.into();
        }
        loop {
            // Seen before the ring is read, so that what comes in between wakes.
            self.next.borrow_and_update();
            if let Some(events) = self.feed.take(&self.wanted, &mut self.at) {
                return events;
            }
            let waited = self.next.changed().await;
            waited.expect("the feed holds the sender, and the listener the feed");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.feed.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}
