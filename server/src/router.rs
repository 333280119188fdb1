//! Routes: method and pattern to handler, over one shared state; request ids, compression of large
//! JSON, the access log and the hook for metrics.
//!
//! A pattern is `/literal/{param}/…`, at its end `{rest...}` for everything left (at least one byte). Literals win over
//! params, params over the rest. Matching splits the path as sent and decodes each segment once, so `%2F` in a
//! param is data and never a separator. HEAD is answered by GET's handler, OPTIONS from the table.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::access::Grant;
use crate::engine::{Handler, RequestBody};
use crate::http::{ContentCoding, Method, Request, Response, Status};

mod compress;
mod pattern;
mod request_id;
mod revoke;

use pattern::Tree;
pub use request_id::RequestId;
use request_id::RequestIds;

/// Pattern that observers see for requests that match no route.
pub const UNMATCHED: &str = "unmatched";

/// One call of a route.
#[derive(Debug)]
pub struct Call {
    /// The request's head.
    pub request: Request,
    /// The request's body.
    pub body: RequestBody,
    /// What the pattern's params matched.
    pub params: Params,
    /// The id that log lines and the `X-Request-Id` header carry.
    pub id: RequestId,
    /// What it is allowed.
    pub grant: Grant,
}

/// What the guard decides on: a request that has found its route.
#[derive(Debug)]
pub struct Guarded<'a> {
    /// The request's head.
    pub request: &'a Request,
    /// The route's pattern.
    pub pattern: &'static str,
    /// What the pattern's params matched.
    pub params: &'a Params,
    /// The request's id.
    pub id: &'a RequestId,
}

/// Decides whether a request is let in.
pub trait Guard: Send + Sync {
    /// Returns what the request is allowed, or the answer that refuses it.
    ///
    /// # Errors
    /// The answer.
    fn admit(&self, request: &Guarded<'_>) -> Result<Grant, Response>;

    /// Returns the answer to a request whose grant ended while it was under way.
    fn revoked(&self, request: &RequestId, pattern: &'static str) -> Response;
}

impl Call {
    /// Returns a path param if it is text.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }
}

/// What the params of a pattern matched, each percent-decoded once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    values: Vec<(&'static str, Bytes)>,
}

impl Params {
    /// Returns a param if it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Returns a param's bytes.
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        self.values.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_ref())
    }
}

/// What the observer learns about each answered request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The method.
    pub method: Method,
    /// The route's pattern, or [`UNMATCHED`]: never the path, so that it can be a metric's label.
    pub pattern: &'static str,
    /// The status answered.
    pub status: Status,
    /// From the complete request head to the response's head.
    pub duration: Duration,
}

type BoxFuture = Pin<Box<dyn Future<Output = Response> + Send>>;
type RouteHandler<S> = Box<dyn Fn(Arc<S>, Call) -> BoxFuture + Send + Sync>;
type Observer = Box<dyn Fn(&Outcome) + Send + Sync>;

/// A table of routes over a shared state; a [`Handler`] for any engine.
pub struct Router<S> {
    state: Arc<S>,
    tree: Tree,
    routes: Vec<Route<S>>,
    observer: Option<Observer>,
    guard: Option<Box<dyn Guard>>,
    ids: RequestIds,
}

struct Route<S> {
    pattern: &'static str,
    handlers: Vec<(Method, RouteHandler<S>)>,
}

impl<S> Route<S> {
    fn handler(&self, method: Method) -> Option<&RouteHandler<S>> {
        let find =
            |wanted| self.handlers.iter().find(|(method, _)| *method == wanted).map(|(_, handler)| handler);
        find(method).or_else(|| if method == Method::Head { find(Method::Get) } else { None })
    }

    fn allow(&self) -> String {
        let mut methods: Vec<_> = self.handlers.iter().map(|(method, _)| method.as_str()).collect();
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        if !methods.contains(&"OPTIONS") {
            methods.push("OPTIONS");
        }
        methods.sort_unstable();
        methods.join(", ")
    }
}

impl<S: Send + Sync + 'static> Router<S> {
    /// Makes a router without routes.
    #[must_use]
    pub fn new(state: Arc<S>) -> Self {
        Self {
            state,
            tree: Tree::default(),
            routes: Vec::new(),
            observer: None,
            guard: None,
            ids: RequestIds::new(),
        }
    }

    /// Adds a route.
    ///
    /// # Panics
    /// If the pattern is malformed, or the same method and pattern were added before: the table is part of the program.
    #[must_use]
    pub fn route<F, R>(mut self, method: Method, pattern: &'static str, handler: F) -> Self
    where
        F: Fn(Arc<S>, Call) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let index = self.tree.insert(pattern, self.routes.len());
        if index == self.routes.len() {
            self.routes.push(Route { pattern, handlers: Vec::new() });
        }
        let route = &mut self.routes[index];
        assert_eq!(route.pattern, pattern, "two patterns that match the same paths");
        assert!(
            route.handlers.iter().all(|(other, _)| *other != method),
            "{method} {pattern} is added twice"
        );
        route.handlers.push((method, Box::new(move |state, call| Box::pin(handler(state, call)))));
        self
    }

    /// Sets the hook that is called once for each answered request.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Outcome) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Sets who decides whether a request is let in; without a guard each is.
    #[must_use]
    pub fn guard(mut self, guard: impl Guard + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// Lists all routes.
    pub fn routes(&self) -> impl Iterator<Item = (Method, &'static str)> {
        self.routes.iter().flat_map(|route| route.handlers.iter().map(|(method, _)| (*method, route.pattern)))
    }

    /// Runs a handler if the guard lets the request in, and no longer than it does.
    async fn run(
        &self,
        handler: &RouteHandler<S>,
        pattern: &'static str,
        request: Request,
        body: RequestBody,
        params: Params,
        id: RequestId,
    ) -> Response {
        let Some(guard) = &self.guard else {
            let call = Call { request, body, params, id, grant: Grant::everything() };
            return handler(Arc::clone(&self.state), call).await;
        };
        let grant = match guard.admit(&Guarded { request: &request, pattern, params: &params, id: &id }) {
            Ok(grant) => grant,
            Err(refusal) => return refusal,
        };
        let call = Call { request, body, params, id: id.clone(), grant: grant.clone() };
        match revoke::unless_revoked(&grant, handler(Arc::clone(&self.state), call)).await {
            Some(response) => revoke::cut_when_revoked(&grant, response),
            None => guard.revoked(&id, pattern),
        }
    }

    /// Finds and runs a route; returns its pattern with the response.
    async fn dispatch(&self, request: Request, body: RequestBody, id: RequestId) -> (&'static str, Response) {
        if request.method == Method::Options && request.raw_path.as_ref() == b"*" {
            return (UNMATCHED, Response::new(Status::NO_CONTENT));
        }
        let Some((index, values)) = self.tree.find(&request.raw_path) else {
            return (
                UNMATCHED,
                Response::error(Status::NOT_FOUND, "no_route", "there is nothing at this path"),
            );
        };
        let route = &self.routes[index];
        let response = match route.handler(request.method) {
            Some(handler) => self.run(handler, route.pattern, request, body, Params { values }, id).await,
            None if request.method == Method::Options => {
                Response::new(Status::NO_CONTENT).with_header("Allow", route.allow())
            }
            None => {
                let message = format!("{} is not allowed here", request.method);
                Response::error(Status::METHOD_NOT_ALLOWED, "method_not_allowed", &message)
                    .with_header("Allow", route.allow())
            }
        };
        (route.pattern, response)
    }
}

impl<S: Send + Sync + 'static> Handler for Router<S> {
    async fn handle(&self, request: Request, body: RequestBody) -> Response {
        let started = Instant::now();
        let id = self.ids.next(&request.headers);
        let (method, path, peer) = (request.method, request.path.clone(), request.peer);
        let accepted = ContentCoding::preferred(&request.headers);
        let (pattern, response) = self.dispatch(request, body, id.clone()).await;
        let mut response = compress::compress(accepted, response).await;
        response.headers.append("X-Request-Id", id.clone().into_bytes());
        let outcome = Outcome { method, pattern, status: response.status, duration: started.elapsed() };
        log_access(&outcome, &id, &path, peer);
        if let Some(observer) = &self.observer {
            observer(&outcome);
        }
        response
    }
}

impl<S> std::fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| route.pattern)).finish()
    }
}

/// Writes the access line: failures of the server are warnings, refusals information, the rest is for debugging.
fn log_access(outcome: &Outcome, id: &RequestId, path: &Bytes, peer: Option<std::net::SocketAddr>) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "dfs_server::access",
                request_id = id.as_str(),
                method = outcome.method.as_str(),
                path = %path.escape_ascii(),
                route = outcome.pattern,
                status = outcome.status.code(),
                duration_us = u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX),
                peer = peer.map(tracing::field::display),
                "request"
            )
        };
    }
    match outcome.status.code() {
        500.. => line!(warn),
        400..500 => line!(info),
        _ => line!(debug),
    }
}

#[cfg(test)]
mod tests;
