//! Which directories were changed here a moment ago, for the kernel's caches.
//!
//! Two things are done for them once nobody is changing anything:
//! - The kernel forgets their attributes once more. An answer that was on its way while a name changed can reach it after
//!   the change and make it believe the older times for ever: a changed name makes it forget a directory's attributes,
//!   but, unlike our asking it to forget, does not make it distrust answers on their way.
//! - They may be listed: the kernel forgets a file's attributes when it is written, and a directory's listing when a
//!   name changes; one listing gives it all of them back, before somebody asks for each by itself. While a listing is
//!   under way every change of a name makes the kernel forget at once, so that the listing never outlives it.
//!
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dfs_shared::ids::NodeId;
use parking_lot::{Condvar, Mutex};

use super::Fs;
use super::effects::Invalidation;
use crate::limits::{TOUCHED_MAX, TOUCHED_QUIET_MS, TOUCHED_SHARE};
use crate::tree::{Cookie, EffectSink, Ino};

/// Makes the kernel forget a node's attributes at once. Safe in a handler: the kernel takes no lock for it that it holds
/// while it waits for an answer.
pub type ForgetNow = Box<dyn Fn(Ino) + Send + Sync>;

/// Directories that were changed and are left alone since.
#[derive(Debug, Default)]
pub struct Quiet {
    /// All of them.
    pub changed: Vec<Ino>,
    /// The paths of those that are worth listing, deepest first.
    pub listing: Vec<Vec<u8>>,
}

/// Collects changed directories while somebody takes them.
#[derive(Default)]
pub(super) struct Touched {
    state: Mutex<State>,
    changed: Condvar,
    /// Set while a listing may be on its way to the kernel.
    is_listing: Arc<AtomicBool>,
    forget_now: OnceLock<ForgetNow>,
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
    /// A name in `dir` was changed: the tree has it, the kernel has no answer yet.
    pub(super) fn dir(&self, dir: Ino) {
        self.attributes(dir);
        self.note(|state| *state.dirs.entry(dir).or_default() += 1);
    }

    /// A node's attributes were changed by something that does not make the kernel distrust answers on their way.
    pub(super) fn attributes(&self, node: Ino) {
        if self.is_listing()
            && let Some(forget_now) = self.forget_now.get()
        {
            forget_now(node);
        }
    }

    pub(super) fn is_listing(&self) -> bool {
        self.is_listing.load(Ordering::SeqCst)
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
    /// Starts to collect changed directories for [`Self::touched_directories`]. Who lists them sets the returned flag before the
    /// kernel asks and clears it once the kernel has the answer.
    pub fn watch_touched(&self, forget_now: ForgetNow) -> Arc<AtomicBool> {
        // A second mount of the same file system would be told of nothing; there is none.
        let _ = self.touched.forget_now.set(forget_now);
        self.touched.state.lock().is_taken = true;
        Arc::clone(&self.touched.is_listing)
    }

    /// Ends the collecting; [`Self::touched_directories`] returns `None` from now on.
    pub fn end_touched(&self) {
        *self.touched.state.lock() = State::default();
        self.touched.changed.notify_all();
    }

    /// Waits until something was changed and then nothing for a moment; `None` once [`Self::end_touched`] was called.
    pub fn touched_directories(&self) -> Option<Quiet> {
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
        let changed = dirs.keys().copied().collect();
        let mut listing: Vec<_> =
            dirs.into_iter().filter_map(|(dir, touches)| self.worth_listing(dir, touches)).collect();
        listing.sort_by_key(|path| std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count()));
        Some(Quiet { changed, listing })
    }

    /// Makes the kernel forget the attributes of directories that were changed, and waits until it has.
    pub fn forget_attributes(&self, directories: &[Ino]) {
        for ino in directories {
            self.invalidations.send(Invalidation::Attributes { ino: *ino });
        }
        EffectSink::settle(self);
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
