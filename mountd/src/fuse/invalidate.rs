//! The thread that makes the kernel forget what changed elsewhere, and what handlers do to the kernel's caches by themselves.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::fs::{Invalidation, KernelCaches};
use crate::tree::Ino;

/// What may be done to the kernel's caches while it waits for an answer of ours.
pub(super) struct Caches(pub(super) Notifier);

impl KernelCaches for Caches {
    fn forget_attributes(&self, node: Ino) {
        // A failure means that the kernel does not know the node.
        let _ = self.0.inval_inode(INodeNo(node.0), -1, 0);
    }

    fn forget_names(&self, dir: Ino) {
        // As above. Whoever changes a name has the directory to itself, so nobody holds one of its pages.
        let _ = self.0.inval_inode(INodeNo(dir.0), 0, 0);
    }

    fn give_pages(&self, node: Ino, content: &[u8]) -> bool {
        self.0.store(INodeNo(node.0), 0, content).is_ok()
    }
}

/// Starts the thread. It ends when the sending end is dropped.
pub(super) fn start(queue: Receiver<Invalidation>, notifier: Notifier) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("dfs-invalidate".to_owned()).spawn(move || {
        for invalidation in queue {
            if let Err(error) = forget(&notifier, &invalidation) {
                // ENOENT, which only means that the kernel did not know it, is no error to fuser.
                tracing::debug!(?invalidation, %error, "the kernel did not take an invalidation");
            }
        }
    })
}

fn forget(notifier: &Notifier, invalidation: &Invalidation) -> io::Result<()> {
    match invalidation {
        Invalidation::Entry { parent, name } => {
            notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes()))?;
            // The kernel drops its listing only for names that it knew.
            notifier.inval_inode(INodeNo(parent.0), 0, 0)
        }
        Invalidation::Attributes { ino } => notifier.inval_inode(INodeNo(ino.0), -1, 0),
        Invalidation::Data { ino } => notifier.inval_inode(INodeNo(ino.0), 0, 0),
        Invalidation::Barrier(passed) => {
            // Who asked may have given up.
            let _ = passed.try_send(());
            Ok(())
        }
    }
}
