//! The routes: HTTP in, the sync service below, HTTP out.
//!
//! | route | |
//! |---|---|
//! | `POST /sync/{volume}/register`, `commit`, `missing`, `contents`, `records`, `merkle` | one message in, one out |
//! | `PUT /sync/{volume}/chunks`, `POST /sync/{volume}/chunks/get` | batches of chunk frames |
//! | `GET /sync/{volume}/stream` | the event stream |
//! | `/api/metadata/add`, `update`, `get`, `list`, `delete`, `history` | files by path, JSON or the metadata language |
//! | `GET /api/info`, `/health`, `/ready`, `/metrics` | for people and their tools |
//!
//! Leaves every rule to `sync` and `files`. Invariant: an error leaves as JSON with the status of [`status`].

use std::sync::Arc;
use std::time::Instant;

use dfs_shared::ids::VolumeName;

use crate::component::{Metrics, Notifier};
use crate::files::FileService;
use crate::http::Method;
use crate::router::{Call, Router};
use crate::sync::SyncService;

mod chunks;
mod info;
mod json;
mod messages;
mod metadata;
pub mod status;
mod stream;

use status::ApiError;

/// What all handlers share.
#[derive(Debug)]
pub struct Api {
    /// The sync service.
    pub sync: Arc<SyncService>,
    /// Files by path.
    pub files: Arc<FileService>,
    /// Hands out the event streams.
    pub notifier: Arc<Notifier>,
    /// Counts, if the component is there.
    pub metrics: Option<Arc<Metrics>>,
    /// The engine's name, for `/api/info`.
    pub engine: &'static str,
    /// When the server started.
    pub started: Instant,
}

/// Builds the table of routes.
#[must_use]
pub fn router(api: Arc<Api>) -> Router<Api> {
    let metrics = api.metrics.clone();
    let router = Router::new(api)
        .route(Method::Post, "/sync/{volume}/register", messages::register)
        .route(Method::Post, "/sync/{volume}/commit", messages::commit)
        .route(Method::Post, "/sync/{volume}/missing", messages::missing)
        .route(Method::Post, "/sync/{volume}/contents", messages::contents)
        .route(Method::Post, "/sync/{volume}/records", messages::records)
        .route(Method::Post, "/sync/{volume}/merkle", messages::merkle)
        .route(Method::Put, "/sync/{volume}/chunks", chunks::put)
        .route(Method::Post, "/sync/{volume}/chunks/get", chunks::get)
        .route(Method::Get, "/sync/{volume}/stream", stream::open)
        .route(Method::Post, "/api/metadata/add", metadata::add)
        .route(Method::Put, "/api/metadata/update", metadata::update)
        .route(Method::Get, "/api/metadata/get/{path...}", metadata::get)
        .route(Method::Get, "/api/metadata/list", metadata::list)
        .route(Method::Delete, "/api/metadata/delete/{path...}", metadata::delete)
        .route(Method::Get, "/api/metadata/history/{path...}", metadata::history)
        .route(Method::Get, "/api/info", info::info)
        .route(Method::Get, "/health", info::health)
        .route(Method::Get, "/ready", info::ready)
        .route(Method::Get, "/metrics", info::metrics);
    match metrics {
        Some(metrics) => router.observe(move |outcome| metrics.request(outcome)),
        None => router,
    }
}

/// Reads the volume's name from the path.
fn volume_of(call: &Call) -> Result<VolumeName, ApiError> {
    let name = call.param("volume").unwrap_or_default();
    VolumeName::new(name).map_err(|source| ApiError::VolumeName { source })
}

/// Volume that requests without one mean.
const DEFAULT_VOLUME: &str = "main";

/// Reads the volume's name from the query.
fn volume_asked(call: &Call) -> Result<VolumeName, ApiError> {
    let name = call.request.query("volume").unwrap_or(DEFAULT_VOLUME);
    VolumeName::new(name).map_err(|source| ApiError::VolumeName { source })
}
