//! `POST /api/register`: a client gets its id. The body is JSON, or by its label the message that mounts send; the answer is alike.

use std::sync::Arc;

use dfs_shared::ids::ClientId;
use dfs_shared::wire::decode;
use dfs_shared::wire::messages::RegisterRequest;
use serde::Deserialize;
use serde_json::json;

use super::fields::{field, from_json, need};
use super::messages::{is_message, reply};
use super::status::{ApiError, answer};
use super::{Api, volume_asked};
use crate::http::{Response, Status};
use crate::limits::{CLIENT_NAME_LEN_MAX, SMALL_BODY_LEN_MAX};
use crate::router::Call;

#[derive(Debug, Deserialize)]
struct Register {
    client_name: Option<String>,
    #[serde(default)]
    platform: String,
    preferred_id: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// `POST /api/register?volume=NAME`
pub(super) async fn register(api: Arc<Api>, call: Call) -> Response {
    answer(try_register(&api, call).await)
}

async fn try_register(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_asked(&call)?;
    let is_message = is_message(&call.request);
    let body = call.body.collect(SMALL_BODY_LEN_MAX).await?;
    if is_message {
        return reply(&api.sync.register(&volume, decode(&body)?).await?);
    }
    let request: Register = from_json(&body)?;
    let client_name = need(request.client_name, "client_name")?;
    for (name, text) in [("client_name", &client_name), ("platform", &request.platform)] {
        if text.len() > CLIENT_NAME_LEN_MAX {
            return Err(field(name, format!("is longer than {CLIENT_NAME_LEN_MAX} bytes")));
        }
    }
    let preferred = request.preferred_id.as_deref().map(ClientId::new).transpose();
    let client = preferred.map_err(|error| field("preferred_id", error.to_string()))?;
    let message = RegisterRequest {
        client_name: client_name.clone(),
        client,
        // Only the first client of a volume names the owner of its root directory.
        uid: request.uid.unwrap_or_else(|| rustix::process::getuid().as_raw()),
        gid: request.gid.unwrap_or_else(|| rustix::process::getgid().as_raw()),
    };
    let registered = api.sync.register(&volume, message).await?;
    api.sessions.note_platform(&volume, &registered.client, &request.platform).await?;
    let json = json!({
        "client_id": registered.client.as_str(),
        "client_name": client_name,
        "platform": request.platform,
        "volume": volume.as_str(),
        "volume_id": registered.volume.to_string(),
        "revision": registered.revision.0,
        "merkle_root": registered.root.to_string(),
        "server_version": registered.server_version,
    });
    Ok(Response::json(Status::OK, format!("{json}\n")))
}
