//! Which directories hold nodes whose attributes the kernel has forgotten through a local change.
//!
//! The kernel forgets a file's attributes when it is written, and a directory's listing when a name changes; the next
//! `stat` or listing of each then costs a question. `fuse` asks for all of a directory at once as soon as nobody is
//! changing anything. Hints only: losing them costs time.

use std::collections::HashMap;
use std::time::Duration;

use dfs_shared::ids::NodeId;
use parking_lot::{Condvar, Mutex};

use super::Fs;
use crate::limits::{TOUCHED_MAX, TOUCHED_QUIET_MS, TOUCHED_SHARE};
use crate::tree::{Cookie, Ino};

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
}

impl Touched {
    pub(super) fn dir(&self, dir: Ino) {
        self.note(|state| *state.dirs.entry(dir).or_default() += 1);
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

    /// Waits until something was changed and then nothing for a moment; returns the paths of the directories that are worth
    /// listing, deepest first, or `None` once [`Self::end_touched`] was called.
    pub fn touched_directories(&self) -> Option<Vec<Vec<u8>>> {
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
        let mut paths: Vec<_> =
            dirs.into_iter().filter_map(|(dir, touches)| self.worth_listing(dir, touches)).collect();
        // Listing a directory makes the kernel forget its time of access; listing the one above brings it back.
        paths.sort_by_key(|path| std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count()));
        Some(paths)
    }

    /// Tells whether something was changed since the hints were taken: then listing would disturb.
    #[must_use]
    pub fn is_touched_again(&self) -> bool {
        let state = self.touched.state.lock();
        !state.is_taken || !state.dirs.is_empty() || !state.files.is_empty()
    }

    /// Puts directories back that were not listed after all.
    pub fn touch_again(&self, paths: &[Vec<u8>]) {
        for path in paths {
            if let Ok(node) = self.tree.resolve_path(path) {
                self.touched.note(|state| *state.dirs.entry(node.ino).or_default() += TOUCHED_SHARE);
            }
        }
    }

    fn worth_listing(&self, dir: Ino, touches: usize) -> Option<Vec<u8>> {
        let dir = self.tree.node(dir).ok().flatten()?;
        let limit = touches.saturating_mul(TOUCHED_SHARE);
        let entries = self.tree.read_dir(dir.id, Cookie(0), limit.saturating_add(1)).ok()?;
        if entries.len() > limit {
            return None;
        }
        self.tree.path_of(dir.id).ok().flatten()
    }
}
