//! The kernel's side: decodes requests, calls `fs`, encodes replies. The only door to `fuser`.
//!
//! Owns mounting and unmounting, the protocol's settings, errno numbers, the thread that invalidates kernel caches, and the end of
//! reads whose program is killed.
//! Has no semantics of its own.
//!
//! Invariants:
//! - Every request is answered, also when a handler panics (with EIO).
//! - No handler sends an invalidation: the kernel may hold, while it invalidates, what the handler's caller waits for.
//! - Entries, attributes and negative entries are cached for ever; what changes elsewhere is invalidated.

mod adapter;
mod convert;
mod errno;
mod guardian;
mod invalidate;
mod mount;
mod point;
mod waiting;
mod warm;

pub use guardian::guard;
pub use mount::{MountError, MountOptions, Mounted, mount};
