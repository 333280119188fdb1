//! Engines: they own the sockets and run the HTTP machine under one [`Handler`].

mod body;
mod config;
pub mod event_loop;
mod handler;

pub use body::{BodyError, RequestBody};
pub use config::EngineConfig;
pub use handler::Handler;
