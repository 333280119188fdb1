//! What remote changes do to open files and to the kernel's caches.
//!
//! Nothing here talks to the kernel: invalidations go into a channel that `fuse` empties on a thread of its own,
//! because the kernel may wait for one of the handlers while it invalidates.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::NodeKind;
use parking_lot::Mutex;

use super::answers::Forget;
use super::open::Mode;
use super::{Caller, Fs, FsError};
use crate::cache::{Backing, HoldGuard, OpenFiles};
use crate::limits::SETTLE_MS_MAX;
use crate::tree::{Effect, EffectSink, Ino, LocalNode};

/// Something that the kernel has to forget.
#[derive(Debug, Clone)]
pub enum Invalidation {
    /// Where a name leads, and what the directory lists.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// A node's attributes.
    Attributes {
        /// The node.
        ino: Ino,
    },
    /// A node's attributes and the pages of its content.
    Data {
        /// The node.
        ino: Ino,
    },
    /// Nothing: whoever holds the other end hears when everything before has been forgotten.
    Barrier(SyncSender<()>),
}

/// The sending end; without a receiver (nothing mounted) there is nothing to forget.
#[derive(Default)]
pub(super) struct InvalidationSender(Mutex<Option<Sender<Invalidation>>>);

impl InvalidationSender {
    pub(super) fn send(&self, invalidation: Invalidation) {
        if let Some(sender) = &*self.0.lock() {
            // A failure means that the mount is gone.
            let _ = sender.send(invalidation);
        }
    }
}

/// The kernel's caches, for what has to be done to them inside a handler. Nothing here waits for another handler.
pub trait KernelCaches: Send + Sync {
    /// Makes the kernel forget a node's attributes, and distrust answers about them that are on their way.
    fn forget_attributes(&self, node: Ino);
    /// Makes the kernel forget a directory's attributes, as [`Self::forget_attributes`], and the names in it.
    fn forget_names(&self, dir: Ino);
    /// Gives the kernel the whole content of a file of which it has no pages. Returns whether it took them.
    fn give_pages(&self, node: Ino, content: &[u8]) -> bool;
}

impl Fs {
    /// Sets whose caches are to be kept right; `None` once the mount is gone.
    pub fn set_kernel_caches(&self, caches: Option<Box<dyn KernelCaches>>) {
        *self.kernel.write() = caches;
    }

    /// A change that the kernel asked for has changed attributes of a node other than those that the answer carries. To be called
    /// after the tree has it, before the answer.
    ///
    /// The kernel forgets them by itself, but without this it would believe an answer that was on its way while the change was
    /// made, and show the state before it for ever: only what we make it forget makes it distrust answers to earlier questions.
    pub(super) fn attributes_changed(&self, node: Ino) {
        if let Some(kernel) = &*self.kernel.read() {
            kernel.forget_attributes(node);
        }
    }

    /// A name in a directory was changed by something that `caller` asked for. `kind` is that of what it leads or led to.
    pub(super) fn names_changed(&self, dir: Ino, kind: NodeKind, caller: Caller) {
        self.told_tree();
        match (self.answers.change(dir, caller.thread), kind) {
            (Forget::Names, _) => {
                if let Some(kernel) = &*self.kernel.read() {
                    kernel.forget_names(dir);
                }
            }
            // The kernel itself forgets times and lengths, but not how many directories there are.
            (Forget::Attributes, _) | (Forget::Nothing, NodeKind::Directory) => self.attributes_changed(dir),
            (Forget::Nothing, _) => {}
        }
        self.touched.dir(dir);
    }

    /// Returns what the kernel has to forget from now on. An earlier receiver gets nothing more.
    pub fn invalidations(&self) -> Receiver<Invalidation> {
        let (sender, receiver) = channel();
        *self.invalidations.0.lock() = Some(sender);
        receiver
    }

    /// Ends the stream of [`Self::invalidations`].
    pub fn end_invalidations(&self) {
        *self.invalidations.0.lock() = None;
    }

    fn content_came(&self, node: NodeId, ino: Ino) {
        let mut drop_pages = true;
        if let Some(open) = self.open_file(ino) {
            let mut inner = open.inner.lock();
            let is_own = inner.backing.as_ref().and_then(|backing| backing.node()) == Some(node);
            match inner.mode {
                Some(Mode::Passthrough) => {
                    // The kernel reads the old backing file until the last handle is gone.
                    inner.superseded = true;
                    drop_pages = false;
                    if let Some(backing) = inner.backing.as_ref().filter(|_| inner.writers > 0 && is_own)
                        && let Err(error) = self.supersede(backing, node)
                    {
                        tracing::error!(%error, "later writes to a replaced file may be lost");
                    }
                }
                Some(Mode::Cached) if is_own => match self.newest(node) {
                    Some(backing) => {
                        backing.use_it();
                        if let Some(old) = inner.backing.replace(backing) {
                            if inner.writers > 0 {
                                self.keep_late_writes(&old);
                            }
                            old.unuse();
                        }
                    }
                    None => inner.superseded = true,
                },
                Some(Mode::Cached) => inner.superseded = true,
                None => {}
            }
        }
        if drop_pages {
            self.versions.lock().outdate(ino);
            self.invalidations.send(Invalidation::Data { ino });
        }
    }

    /// Bytes that were written between the last look and the new version become a conflict copy.
    fn keep_late_writes(&self, old: &Arc<Backing>) {
        let kept = self.cache.supersede(old).map_err(FsError::from).and_then(|()| self.rescue(old));
        if let Err(error) = kept {
            tracing::error!(%error, "late writes to a replaced file may be lost");
        }
    }

    fn supersede(&self, backing: &Backing, node: NodeId) -> Result<(), FsError> {
        self.cache.supersede(backing)?;
        self.unmark_open(node)?;
        Ok(())
    }

    fn newest(&self, node: NodeId) -> Option<Arc<Backing>> {
        let node = self.tree.node_by_id(node).ok().flatten()?;
        self.cache.backing(&node).ok()
    }

    fn removed(&self, node: LocalNode) {
        let ino = node.ino;
        let is_open = self.open_file(ino).is_some();
        if is_open {
            let orphan = LocalNode { entries: 0, ..node.clone() };
            self.orphans.lock().insert(ino, orphan);
        }
        if self.cache.discard(&node) && !is_open {
            self.bell.ring();
        }
        self.invalidations.send(Invalidation::Attributes { ino });
    }

    fn forked(&self, from: Ino, to_node: NodeId) {
        let known = self.tree.node(from).ok().flatten().map(|from| from.id);
        if let Some(from) = known {
            self.mark_moved(from, to_node);
        }
        let Some(open) = self.open_file(from) else {
            if let Some(from) = known {
                self.cache.forked(from, to_node);
            }
            return;
        };
        let mut inner = open.inner.lock();
        if let Some(from) = inner.backing.as_ref().and_then(|backing| backing.node()) {
            self.cache.forked(from, to_node);
        }
        // The handles go on with the local bytes; the name leads to the server's once they are closed.
        inner.superseded = true;
    }
}

impl EffectSink for Fs {
    fn settle(&self) {
        let (sender, passed) = sync_channel(1);
        self.invalidations.send(Invalidation::Barrier(sender));
        // Without a mount the sender is gone, and nothing has to be forgotten.
        let _ = passed.recv_timeout(Duration::from_millis(SETTLE_MS_MAX));
    }

    fn effects(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Entry { parent, name } => {
                    self.invalidations.send(Invalidation::Entry { parent, name })
                }
                Effect::Attributes { ino } => self.invalidations.send(Invalidation::Attributes { ino }),
                Effect::Content { node, ino } => self.content_came(node, ino),
                Effect::Removed { node } => self.removed(*node),
                Effect::Forked { from, to: _, to_node, name: _ } => self.forked(from, to_node),
            }
        }
    }
}

impl OpenFiles for Fs {
    fn notice(&self, nodes: &[NodeId]) {
        let _hold = self.hold.read();
        for node in nodes {
            let Ok(Some(node)) = self.tree.node_by_id(*node) else { continue };
            if let Err(error) = self.notice_open(node.ino).and_then(|()| self.notice_unsent(&node)) {
                tracing::warn!(node = %node.id, %error, "a change of a file could not be looked at");
            }
        }
        let lingering: Vec<_> = self.lingering.lock().clone();
        for backing in lingering {
            if backing.node().is_some_and(|node| nodes.contains(&node))
                && let Err(error) =
                    backing.file().map_err(FsError::from).and_then(|_| self.notice_backing(&backing))
            {
                tracing::warn!(%error, "a change of a mapped file could not be looked at");
            }
        }
    }

    fn is_being_written(&self, node: NodeId) -> bool {
        let Ok(Some(node)) = self.tree.node_by_id(node) else { return false };
        if self.open_file(node.ino).is_some_and(|open| open.has_writers()) {
            return true;
        }
        // Between the creation of a file and its first handle only the mark tells. Closed files that could be mapped
        // keep theirs.
        let lingers = |backing: &Arc<crate::cache::Backing>| backing.node() == Some(node.id);
        self.is_marked(node.id) && !self.lingering.lock().iter().any(lingers)
    }

    fn hold(&self) -> HoldGuard<'_> {
        HoldGuard::new(self.hold.write())
    }
}
