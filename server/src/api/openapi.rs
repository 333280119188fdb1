//! `GET /api/openapi.json`: the description of the public routes, written by hand beside them.
//!
//! Invariant: it names every route that is not under `/sync/`, and no other; a test compares it with the router's table, and
//! a suite compares real answers with its schemas. The routes under `/sync/` are the mounts' and speak no JSON.

use std::sync::Arc;

use super::Api;
use crate::http::{Response, Status};
use crate::router::Call;

/// The description, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// `GET /api/openapi.json`
pub(super) async fn openapi(_: Arc<Api>, _: Call) -> Response {
    Response::json(Status::OK, OPENAPI)
}
