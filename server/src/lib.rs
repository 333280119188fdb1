//! The dfs server as a library; `main.rs` is the only place that joins its parts.
