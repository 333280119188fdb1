//! The mount by itself, without a server: real mounts in a temporary directory, ordinary system calls.
//!
//! Each test is skipped with a printed reason where `/dev/fuse` cannot be used.

#![allow(clippy::unwrap_used, reason = "a failure is what a test is for")]

#[path = "fuse_local/kit.rs"]
mod kit;

#[path = "fuse_local/attributes.rs"]
mod attributes;
#[path = "fuse_local/bytes.rs"]
mod bytes;
#[path = "fuse_local/mounting.rs"]
mod mounting;
#[path = "fuse_local/names.rs"]
mod names;
#[path = "fuse_local/posix.rs"]
mod posix;
#[path = "fuse_local/remote.rs"]
mod remote;
#[path = "fuse_local/restart.rs"]
mod restart;
