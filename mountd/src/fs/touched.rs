//! Which directories hold nodes whose attributes the kernel has forgotten through a local change, or asks for one by one.
//!
//! The kernel forgets a file's attributes when it is written, and a directory's listing when a name changes; the next
//! `stat` or listing of each then costs a question. `fuse` asks for all of a directory at once as soon as nobody is
//! changing anything. Hints only: losing them costs time.

use std::collections::HashMap;
use std::time::Duration;

use dfs_shared::ids::NodeId;
use parking_lot::{Condvar, Mutex};

use super::Fs;
use crate::limits::{LOOKUPS_BEFORE_LISTING, TOUCHED_MAX, TOUCHED_QUIET_MS, TOUCHED_SHARE};
use crate::tree::{Cookie, Ino};

/// A directory that holds something that was changed here.
#[derive(Debug)]
pub struct TouchedDirectory {
    ino: Ino,
    /// Where it is, from the root.
    pub path: Vec<u8>,
    touches: usize,
}

/// Collects hints while somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Touched {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// Grows with every hint.
    hints: u64,
    dirs: HashMap<Ino, usize>,
    files: HashMap<NodeId, ()>,
    /// How many names of a directory the kernel asked for.
    looked_up: HashMap<Ino, u32>,
}

impl Touched {
    pub(super) fn dir(&self, dir: Ino) {
        self.note(|state| *state.dirs.entry(dir).or_default() += 1);
    }

    /// The kernel asked for a name that exists. Whoever goes through a directory name by name is helped by a listing of it.
    pub(super) fn looked_up(&self, dir: Ino) {
        let mut state = self.state.lock();
        if !state.is_taken {
            return;
        }
        if state.looked_up.len() >= TOUCHED_MAX {
            state.looked_up.clear();
        }
        let count = state.looked_up.entry(dir).or_default();
        *count = count.saturating_add(1);
        let count = *count;
        drop(state);
        if count >= LOOKUPS_BEFORE_LISTING && count.is_power_of_two() {
            self.note(|state| *state.dirs.entry(dir).or_default() += count as usize);
        }
    }

    pub(super) fn file(&self, file: NodeId) {
        self.note(|state| {
            state.files.insert(file, ());
        });
    }

    fn note(&self, note: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        if !state.is_taken || state.dirs.len() + state.files.len() >= TOUCHED_MAX {
            return;
        }
        let first = state.dirs.is_empty() && state.files.is_empty();
        state.hints += 1;
        note(&mut state);
        drop(state);
        if first {
            self.changed.notify_one();
        }
    }
}

impl Fs {
    /// Starts to collect hints for [`Self::touched_directories`].
    pub fn watch_touched(&self) {
        self.touched.state.lock().is_taken = true;
    }

    /// Ends the collecting; [`Self::touched_directories`] returns `None` from now on.
    pub fn end_touched(&self) {
        *self.touched.state.lock() = State::default();
        self.touched.changed.notify_all();
    }

    /// Waits until something was changed and then nothing for a moment; returns the directories that hold it, deepest first, or
    /// `None` once [`Self::end_touched`] was called.
    pub fn touched_directories(&self) -> Option<Vec<TouchedDirectory>> {
        let (mut dirs, files) = {
            let mut state = self.touched.state.lock();
            loop {
                if !state.is_taken {
                    return None;
                }
                let before = state.hints;
                if state.dirs.is_empty() && state.files.is_empty() {
                    self.touched.changed.wait(&mut state);
                    continue;
                }
                self.touched.changed.wait_for(&mut state, Duration::from_millis(TOUCHED_QUIET_MS));
                if state.hints == before && state.is_taken {
                    break;
                }
            }
            (std::mem::take(&mut state.dirs), std::mem::take(&mut state.files))
        };
        for file in files.into_keys() {
            for (parent, _) in self.tree.names_of(file).unwrap_or_default() {
                if let Ok(Some(parent)) = self.tree.node_by_id(parent) {
                    *dirs.entry(parent.ino).or_default() += 1;
                }
            }
        }
        let mut found: Vec<_> = dirs
            .into_iter()
            .filter_map(|(ino, touches)| {
                let node = self.tree.node(ino).ok().flatten()?;
                let path = self.tree.path_of(node.id).ok().flatten()?;
                Some(TouchedDirectory { ino, path, touches })
            })
            .collect();
        // Listing a directory makes the kernel forget its time of access; listing the one above brings it back.
        found.sort_by_key(|dir| std::cmp::Reverse(dir.path.iter().filter(|byte| **byte == b'/').count()));
        Some(found)
    }

    /// Tells whether something was changed since the hints were taken: then listing would disturb.
    #[must_use]
    pub fn is_touched_again(&self) -> bool {
        let state = self.touched.state.lock();
        !state.is_taken || !state.dirs.is_empty() || !state.files.is_empty()
    }

    /// Puts directories back that were not listed after all.
    pub fn touch_again(&self, dirs: &[TouchedDirectory]) {
        for dir in dirs {
            self.touched.note(|state| *state.dirs.entry(dir.ino).or_default() += dir.touches);
        }
    }

    /// Tells whether enough of a directory changed for asking about all of it at once.
    #[must_use]
    pub fn is_worth_listing(&self, dir: &TouchedDirectory) -> bool {
        let limit = dir.touches.saturating_mul(TOUCHED_SHARE);
        let Ok(Some(node)) = self.tree.node(dir.ino) else { return false };
        let entries = self.tree.read_dir(node.id, Cookie(0), limit.saturating_add(1));
        entries.is_ok_and(|entries| entries.len() <= limit)
    }
}
