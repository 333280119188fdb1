//! The routes: HTTP in, the sync service below, HTTP out.
//!
//! | route | |
//! |---|---|
//! | `POST /sync/{volume}/register`, `lineage`, `whoami`, `commit`, `past`, `missing`, `contents`, `records`, `merkle`, `history` | one message in, one out |
//! | `PUT /sync/{volume}/chunks`, `POST /sync/{volume}/chunks/get` | batches of chunk frames |
//! | `GET /sync/{volume}/stream` | the event stream |
//! | `POST /api/register`, `/api/sync/*`, `/api/file/*` | sync sessions and files, for clients without a mount |
//! | `GET /api/events` | what happens, as server-sent events |
//! | `/api/metadata/add`, `update`, `get`, `list`, `delete`, `history`, `export`, `import` | files by path, JSON or the metadata language |
//! | `GET /api/info`, `/api/openapi.json`, `/health`, `/ready`, `/metrics` | for people and their tools |
//!
//! Every route has a row in `access::need`, and `auth` lets requests in by it. Leaves every
//! rule to `sync` and `files`. Invariant: an error leaves as JSON with the status of [`status`].

use std::sync::Arc;
use std::time::Instant;

use dfs_shared::event::EventBus;
use dfs_shared::ids::VolumeName;

use crate::access::Registry;
use crate::component::{Feed, Metrics, Notifier};
use crate::files::FileService;
use crate::http::{Method, Request};
use crate::router::{Call, Router};
use crate::sessions::SessionService;
use crate::sync::SyncService;

mod ahead;
mod auth;
mod chunks;
mod events;
mod fields;
mod file;
mod info;
mod json;
mod messages;
mod metadata;
mod openapi;
mod outgoing;
mod register;
mod session;
pub mod status;
mod stream;
mod upload_name;

pub use openapi::OPENAPI;
use status::ApiError;

/// What all handlers share.
#[derive(Debug)]
pub struct Api {
    /// The sync service.
    pub sync: Arc<SyncService>,
    /// Sync sessions, and the files that they work on.
    pub sessions: Arc<SessionService>,
    /// What has happened, for `/api/events`.
    pub feed: Arc<Feed>,
    /// Carries what handlers tell.
    pub bus: EventBus,
    /// Files by path.
    pub files: Arc<FileService>,
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
        .route(Method::Post, "/sync/{volume}/lineage", messages::lineage)
        .route(Method::Post, "/sync/{volume}/whoami", messages::whoami)
        .route(Method::Post, "/sync/{volume}/commit", messages::commit)
        .route(Method::Post, "/sync/{volume}/past", messages::past)
        .route(Method::Post, "/sync/{volume}/missing", chunks::missing)
        .route(Method::Post, "/sync/{volume}/report", messages::report)
        .route(Method::Post, "/sync/{volume}/contents", messages::contents)
        .route(Method::Post, "/sync/{volume}/records", messages::records)
        .route(Method::Post, "/sync/{volume}/merkle", messages::merkle)
        .route(Method::Post, "/sync/{volume}/history", messages::history)
        .route(Method::Put, "/sync/{volume}/chunks", chunks::put)
        .route(Method::Post, "/sync/{volume}/chunks/get", chunks::get)
        .route(Method::Get, "/sync/{volume}/stream", stream::open)
        .route(Method::Post, "/api/register", register::register)
        .route(Method::Post, "/api/sync/start", session::start)
        .route(Method::Post, "/api/sync/diff", session::diff)
        .route(Method::Get, "/api/sync/status", session::status)
        .route(Method::Post, "/api/file/upload_chunk", file::upload_chunk)
        .route(Method::Post, "/api/file/upload_complete", file::upload_complete)
        .route(Method::Get, "/api/file/download/{path...}", file::download)
        .route(Method::Get, "/api/events", events::open)
        .route(Method::Post, "/api/metadata/add", metadata::add)
        .route(Method::Put, "/api/metadata/update", metadata::update)
        .route(Method::Get, "/api/metadata/get/{path...}", metadata::get)
        .route(Method::Get, "/api/metadata/list", metadata::list)
        .route(Method::Delete, "/api/metadata/delete/{path...}", metadata::delete)
        .route(Method::Get, "/api/metadata/history/{path...}", metadata::history)
        .route(Method::Get, "/api/metadata/export", metadata::export)
        .route(Method::Post, "/api/metadata/import", metadata::import)
        .route(Method::Get, "/api/info", info::info)
        .route(Method::Get, "/api/openapi.json", openapi::openapi)
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

/// The name of a volume that the query asks for.
fn name_asked(request: &Request) -> &str {
    request.query("volume").unwrap_or(DEFAULT_VOLUME)
}

/// Reads the volume's name from the query.
fn volume_asked(call: &Call) -> Result<VolumeName, ApiError> {
    VolumeName::new(name_asked(&call.request)).map_err(|source| ApiError::VolumeName { source })
}
