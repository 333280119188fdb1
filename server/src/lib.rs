//! The dfs server as a library; `main.rs` is the only place that joins its parts.

pub mod engine;
pub mod http;
pub mod limits;
pub mod router;
