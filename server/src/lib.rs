//! The dfs server as a library; `main.rs` is the only place that joins its parts.

pub mod access;
pub mod api;
pub mod backup;
pub mod blocking;
pub mod check;
pub mod chunk_store;
pub mod component;
pub mod config;
pub mod data_dir;
pub mod engine;
pub mod files;
pub mod gc;
pub mod http;
pub mod limits;
pub mod metadata;
pub mod report;
pub mod router;
pub mod server;
pub mod sessions;
pub mod sync;

pub use server::{Config, Server, StartError, start};
