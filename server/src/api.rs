//! The routes: HTTP in, the sync service below, HTTP out.
//!
//! | route | |
//! |---|---|
//! | `POST /sync/{volume}/register`, `commit`, `missing`, `contents`, `records`, `merkle` | one message in, one out |
//! | `PUT /sync/{volume}/chunks`, `POST /sync/{volume}/chunks/get` | batches of chunk frames |
//! | `GET /sync/{volume}/stream` | the event stream |
//! | `GET /api/info`, `/health`, `/ready`, `/metrics` | for people and their tools |
//!
//! Every route has a row in `access::need`, and [`auth`] lets requests in by it. Leaves every rule to `sync`. Invariant: an error leaves as JSON with the status of [`status`].

use std::sync::Arc;
use std::time::Instant;

use dfs_shared::ids::VolumeName;

use crate::access::Registry;
use crate::component::{Metrics, Notifier};
use crate::http::Method;
use crate::router::{Call, Router};
use crate::sync::SyncService;

mod auth;
mod chunks;
mod info;
mod messages;
pub mod status;
mod stream;

use status::ApiError;

/// What all handlers share.
#[derive(Debug)]
pub struct Api {
    /// The sync service.
    pub sync: Arc<SyncService>,
    /// Hands out the event streams.
    pub notifier: Arc<Notifier>,
    /// Counts, if the component is there.
    pub metrics: Option<Arc<Metrics>>,
    /// Who may do what.
    pub access: Arc<Registry>,
    /// The engine's name, for `/api/info`.
    pub engine: &'static str,
    /// When the server started.
    pub started: Instant,
}

/// Builds the table of routes.
#[must_use]
pub fn router(api: Arc<Api>) -> Router<Api> {
    let metrics = api.metrics.clone();
    let guard = auth::TokenGuard(Arc::clone(&api.access));
    let router = Router::new(api)
        .guard(guard)
        .route(Method::Post, "/sync/{volume}/register", messages::register)
        .route(Method::Post, "/sync/{volume}/commit", messages::commit)
        .route(Method::Post, "/sync/{volume}/missing", messages::missing)
        .route(Method::Post, "/sync/{volume}/contents", messages::contents)
        .route(Method::Post, "/sync/{volume}/records", messages::records)
        .route(Method::Post, "/sync/{volume}/merkle", messages::merkle)
        .route(Method::Put, "/sync/{volume}/chunks", chunks::put)
        .route(Method::Post, "/sync/{volume}/chunks/get", chunks::get)
        .route(Method::Get, "/sync/{volume}/stream", stream::open)
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
