//! The routes that take one message and answer one.

use std::sync::Arc;

use dfs_shared::ids::{NodeId, VolumeName};
use dfs_shared::limits::MESSAGE_LEN_MAX;
use dfs_shared::record::RecordKey;
use dfs_shared::wire::history::HistoryRequest;
use dfs_shared::wire::messages::{GroupOutcome, Refusal, RegisterRequest};
use dfs_shared::wire::report::ReportRequest;
use dfs_shared::wire::{CONTENT_TYPE, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::status::{ApiError, answer};
use super::{Api, volume_of};
use crate::blocking::offload;
use crate::http::{Request, Response, Status};
use crate::limits::{QUERY_LEN_MAX, SMALL_BODY_LEN_MAX};
use crate::router::Call;
use crate::sync::{CheckedRequest, SyncError, SyncService};

/// `POST /sync/{volume}/register`
pub(super) async fn register(api: Arc<Api>, call: Call) -> Response {
    answer(try_register(&api, call).await)
}

async fn try_register(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let request: RegisterRequest = decode(&call.body.collect(QUERY_LEN_MAX).await?)?;
    reply(&api.sync.register(&volume, request).await?)
}

/// `POST /sync/{volume}/commit`
pub(super) async fn commit(api: Arc<Api>, call: Call) -> Response {
    answer(try_commit(&api, call).await)
}

async fn try_commit(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let knows_quota = knows_quota(&call);
    let prepared = prepared(call).await?;
    let mut answer = api.sync.commit(&volume, prepared).await?;
    if !knows_quota {
        answer.outcomes.iter_mut().for_each(without_quota);
    }
    reply(&answer)
}

/// Tells whether the peer knows what a quota is: `quota=1`.
pub(super) fn knows_quota(call: &Call) -> bool {
    call.request.query("quota") == Some("1")
}

/// Says to a mount that knows no quota what it can read: it leaves the change alone until it connects again.
fn without_quota(outcome: &mut GroupOutcome) {
    let GroupOutcome::Refused { reason, current } = outcome else { return };
    let Refusal::OverQuota { limit, used, growth } = reason else { return };
    let why =
        format!("the volume's quota of {limit} bytes is reached: {used} are used, this needs {growth} more");
    let key = current.first().map_or(RecordKey::Node(NodeId::ROOT), |record| record.key.clone());
    *reason = Refusal::Invalid { key, why };
}

/// Reads and checks a commit's message.
async fn prepared(call: Call) -> Result<CheckedRequest, ApiError> {
    let body = call.body.collect(MESSAGE_LEN_MAX).await?;
    // A large commit takes milliseconds to decode and hash: not on a thread that other connections wait for.
    let prepared = if body.len() > OFFLOAD_LEN {
        offload(move || decode(&body).map(SyncService::prepare)).await
    } else {
        decode(&body).map(SyncService::prepare)
    };
    Ok(prepared??)
}

/// `POST /sync/{volume}/past`
pub(super) async fn past(api: Arc<Api>, call: Call) -> Response {
    answer(try_past(&api, call).await)
}

async fn try_past(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let prepared = prepared(call).await?;
    reply(&api.sync.past(&volume, prepared).await?)
}

/// `POST /sync/{volume}/report`
pub(super) async fn report(api: Arc<Api>, call: Call) -> Response {
    answer(try_report(&api, call).await)
}

async fn try_report(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let request: ReportRequest = decode(&call.body.collect(QUERY_LEN_MAX).await?)?;
    reply(&api.sync.report(&volume, request).await?)
}

/// Bodies up to this many bytes are decoded where they arrived: about 0.1 ms.
const OFFLOAD_LEN: usize = 64 * 1024;

/// Defines a handler that only reads.
macro_rules! query {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub(super) async fn $name(api: Arc<Api>, call: Call) -> Response {
            answer(query(&api, call, SyncService::$name).await)
        }
    };
}

query! {
    /// `POST /sync/{volume}/lineage`
    lineage
}
query! {
    /// `POST /sync/{volume}/whoami`
    whoami
}
query! {
    /// `POST /sync/{volume}/contents`
    contents
}
query! {
    /// `POST /sync/{volume}/records`
    records
}
query! {
    /// `POST /sync/{volume}/merkle`
    merkle
}

/// `POST /sync/{volume}/history`
pub(super) async fn history(api: Arc<Api>, call: Call) -> Response {
    answer(try_history(&api, call).await)
}

async fn try_history(api: &Api, call: Call) -> Result<Response, ApiError> {
    let volume = volume_of(&call)?;
    let request: HistoryRequest = decode(&call.body.collect(SMALL_BODY_LEN_MAX).await?)?;
    let files = Arc::clone(&api.files);
    offload(move || reply(&files.past(&volume, &request)?)).await
}

/// Answers a message that only reads.
pub(super) async fn query<Q, R>(
    api: &Api,
    call: Call,
    work: fn(&SyncService, &VolumeName, &Q) -> Result<R, SyncError>,
) -> Result<Response, ApiError>
where
    Q: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
{
    let volume = volume_of(&call)?;
    let request: Q = decode(&call.body.collect(QUERY_LEN_MAX).await?)?;
    let sync = Arc::clone(&api.sync);
    offload(move || reply(&work(&sync, &volume, &request)?)).await
}

/// Tells whether a request's body is labelled as a message, on routes that take JSON as well.
pub(super) fn is_message(request: &Request) -> bool {
    let label = request.header("Content-Type").unwrap_or_default();
    let media_type = label.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(CONTENT_TYPE)
}

/// Encodes an answer.
pub(super) fn reply<R: Serialize>(message: &R) -> Result<Response, ApiError> {
    Ok(Response::full(Status::OK, CONTENT_TYPE, encode(message)))
}
