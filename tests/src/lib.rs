//! Test kit: a server and its mounts as real processes, and what suites need to judge them.
//!
//! Nothing here knows how dfs is built inside; suites see programs, files, HTTP and exit codes.
//! Invariant: whatever a test starts, mounts or writes is gone when the test ends, also after a panic,
//! and only that: the kit ends its own children by process id and unmounts its own mount points.

pub mod binaries;
pub mod certificate;
pub mod chunk_files;
pub mod cluster;
pub mod engine;
pub mod fixture;
pub mod http;
pub mod log;
pub mod machine;
pub mod mount;
pub mod ops;
pub mod process;
pub mod proxy;
pub mod random;
pub mod schema;
pub mod server;
pub mod snapshot;
pub mod source;
pub mod upload;
pub mod user;
pub mod wait;
pub mod worker;

pub use cluster::{Cluster, Setup, run};
pub use wait::{eventually, eventually_within};
