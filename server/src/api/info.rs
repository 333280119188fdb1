//! What people and their tools ask: information, health, metrics.

use std::sync::Arc;

use serde_json::json;

use super::status::{ApiError, answer};
use super::{Api, volume_asked};
use crate::blocking::offload;
use crate::http::{Response, Status};
use crate::router::Call;

/// `GET /api/info?volume=NAME`
pub(super) async fn info(api: Arc<Api>, call: Call) -> Response {
    answer(try_info(&api, &call).await)
}

async fn try_info(api: &Api, call: &Call) -> Result<Response, ApiError> {
    let name = volume_asked(call)?;
    let sync = Arc::clone(&api.sync);
    let info = offload(move || sync.info(&name)).await?;
    let json = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "volume": info.volume.name.as_str(),
        "volume_id": info.volume.id.to_string(),
        "revision": info.volume.revision.0,
        "merkle_root": info.volume.root.to_string(),
        "records": info.records,
        "used_bytes": info.volume.used,
        "quota_bytes": info.volume.quota,
        "engine": api.engine,
        "uptime_s": api.started.elapsed().as_secs(),
    });
    Ok(Response::json(Status::OK, format!("{json}\n")))
}

/// `GET /health`: the process answers.
pub(super) async fn health(_: Arc<Api>, _: Call) -> Response {
    Response::json(Status::OK, &b"{\"status\":\"ok\"}\n"[..])
}

/// `GET /ready`: the metadata store takes writes, too.
pub(super) async fn ready(api: Arc<Api>, _: Call) -> Response {
    let checked = api.sync.check().await.map_err(ApiError::from);
    answer(checked.map(|()| Response::json(Status::OK, &b"{\"status\":\"ready\"}\n"[..])))
}

/// `GET /metrics`: Prometheus text.
pub(super) async fn metrics(api: Arc<Api>, _: Call) -> Response {
    match &api.metrics {
        Some(metrics) => {
            let text = metrics.render(api.notifier.subscribers());
            Response::full(Status::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        None => {
            Response::error(Status::NOT_FOUND, "no_metrics", "this server runs without the metrics component")
        }
    }
}
