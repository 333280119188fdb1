//! Lets requests in or refuses them, before any handler runs.
//!
//! A refusal tells the peer only whether it is let in at all: the same 401 for no token, a wrong and a revoked one,
//! the same 403 for another volume (there or not) and for too little access. The reason goes to the audit log.
//! Invariant: one line on the target `dfs_server::audit` for each refused call, and never a token in it.

use std::sync::Arc;

use dfs_shared::ids::VolumeName;

use super::name_asked;
use crate::access::{Grant, Refusal, Registry, need};
use crate::http::{Request, Response, Status};
use crate::router::{Guard, Guarded, RequestId};

/// The guard of all routes.
#[derive(Debug)]
pub(super) struct TokenGuard(pub(super) Arc<Registry>);

impl Guard for TokenGuard {
    fn admit(&self, request: &Guarded<'_>) -> Result<Grant, Response> {
        admit(&self.0, request)
    }

    fn revoked(&self, id: &RequestId, pattern: &'static str) -> Response {
        tracing::warn!(
            target: "dfs_server::audit",
            request_id = id.as_str(),
            route = pattern,
            reason = "revoked under way",
            status = 401,
            "refused"
        );
        unauthorized()
    }
}

/// Decides about a request that has found its route.
fn admit(registry: &Registry, guarded: &Guarded<'_>) -> Result<Grant, Response> {
    let Guarded { request, pattern, params, id } = *guarded;
    // The path's param, or what routes without one mean.
    let name = if pattern.contains("{volume}") {
        params.get("volume").unwrap_or_default()
    } else {
        name_asked(request)
    };
    let volume = VolumeName::new(name).ok();
    let headers = request.headers.get_all("authorization");
    let need = need(request.method.as_str(), pattern);
    registry.check(headers, need, volume.as_ref()).map_err(|refusal| {
        audit(request, pattern, id, refusal);
        refused(refusal)
    })
}

fn refused(refusal: Refusal) -> Response {
    if refusal.is_forbidden() {
        let challenge = "Bearer realm=\"dfs\", error=\"insufficient_scope\"";
        return Response::error(Status::FORBIDDEN, "forbidden", "the access token does not allow this")
            .with_header("WWW-Authenticate", challenge);
    }
    unauthorized()
}

/// The answer to everybody who has no good token; also when it was revoked while the request was under way.
fn unauthorized() -> Response {
    Response::error(Status::UNAUTHORIZED, "unauthorized", "a valid access token is needed")
        .with_header("WWW-Authenticate", "Bearer realm=\"dfs\"")
}

fn audit(request: &Request, pattern: &'static str, id: &RequestId, refusal: Refusal) {
    tracing::warn!(
        target: "dfs_server::audit",
        request_id = id.as_str(),
        peer = request.peer.map(tracing::field::display),
        method = request.method.as_str(),
        route = pattern,
        token = refusal.token().map(tracing::field::display),
        reason = %refusal,
        status = if refusal.is_forbidden() { 403 } else { 401 },
        "refused"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::token::TokenId;

    #[test]
    fn an_answer_does_not_tell_what_is_wrong_with_a_token() {
        let id = TokenId::from_bytes([1; 8]);
        let body = |refusal| format!("{:?}", refused(refusal));
        let same = [
            Refusal::NoToken,
            Refusal::Malformed,
            Refusal::Unknown,
            Refusal::WrongSecret { id },
            Refusal::Revoked { id },
        ];
        assert!(same.iter().all(|refusal| body(*refusal) == body(Refusal::NoToken)));
        assert_eq!(body(Refusal::OtherVolume { id }), body(Refusal::TooLittle { id }));
        assert_eq!(refused(Refusal::NoToken).status, Status::UNAUTHORIZED);
        assert_eq!(refused(Refusal::TooLittle { id }).status, Status::FORBIDDEN);
        assert!(refused(Refusal::NoToken).headers.contains("WWW-Authenticate"));
    }
}
