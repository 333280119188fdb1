//! The dfs mount as a library; the binaries wire its parts.

pub mod cache;
pub mod clock;
pub mod config;
pub mod control;
pub mod engine;
pub mod fs;
pub mod fuse;
pub mod limits;
pub mod remote;
pub mod tree;
