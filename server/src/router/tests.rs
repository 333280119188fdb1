//! Tests of the router as a handler.

use std::sync::Mutex;

use super::*;
use crate::http::{Body, Headers, Version};

fn request(method: Method, path: &'static str) -> Request {
    let path = Bytes::from_static(path.as_bytes());
    Request {
        method,
        version: Version::Http11,
        path: path.clone(),
        raw_path: path.clone(),
        raw_target: path,
        query: Vec::new(),
        headers: Headers::new(),
        content_length: Some(0),
        peer: None,
    }
}

fn router(seen: &Arc<Mutex<Vec<Outcome>>>) -> Router<&'static str> {
    let seen = Arc::clone(seen);
    Router::new(Arc::new("state"))
        .route(Method::Get, "/hello/{name}", |state, call| async move {
            Response::text(Status::OK, format!("{state} {}", call.param("name").unwrap()))
        })
        .route(Method::Post, "/hello/{name}", |_, _| async { Response::new(Status::CREATED) })
        .observe(move |outcome| seen.lock().unwrap().push(*outcome))
}

async fn answer(method: Method, path: &'static str) -> (Response, Outcome) {
    let seen = Arc::default();
    let response = router(&seen).handle(request(method, path), RequestBody::empty()).await;
    let outcome = seen.lock().unwrap().pop().unwrap();
    (response, outcome)
}

#[tokio::test]
async fn a_route_gets_its_state_and_params() {
    let (response, outcome) = answer(Method::Get, "/hello/you").await;
    assert!(matches!(&response.body, Body::Full(body) if body == "state you"));
    assert_eq!((outcome.pattern, outcome.status, outcome.method), ("/hello/{name}", Status::OK, Method::Get));
    assert_eq!(response.headers.get("x-request-id").map(str::len), Some(16));
}

#[tokio::test]
async fn head_falls_back_to_get() {
    let (response, outcome) = answer(Method::Head, "/hello/you").await;
    assert_eq!(response.status, Status::OK);
    assert_eq!(outcome.method, Method::Head);
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let (response, outcome) = answer(Method::Delete, "/hello/you").await;
    assert_eq!(response.status, Status::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers.get("allow"), Some("GET, HEAD, OPTIONS, POST"));
    assert_eq!(outcome.pattern, "/hello/{name}");
    let (response, _) = answer(Method::Options, "/hello/you").await;
    assert_eq!(response.status, Status::NO_CONTENT);
    assert_eq!(response.headers.get("allow"), Some("GET, HEAD, OPTIONS, POST"));
    assert_eq!(answer(Method::Options, "*").await.0.status, Status::NO_CONTENT);
}

#[tokio::test]
async fn an_unknown_path_is_404_without_a_label_of_its_own() {
    let (response, outcome) = answer(Method::Get, "/nothing").await;
    assert_eq!(response.status, Status::NOT_FOUND);
    assert_eq!(outcome.pattern, UNMATCHED);
}

#[tokio::test]
async fn large_json_is_compressed_for_a_client_that_accepts_it() {
    let list = format!("[{}1]", "1,".repeat(crate::limits::HTTP_UNCOMPRESSED_LEN_MAX));
    let router = Router::new(Arc::new(list)).route(Method::Get, "/list", |list, _| async move {
        Response::json(Status::OK, String::clone(&list))
    });
    for (accepted, expected) in [("gzip, br", Some("gzip")), ("br", None)] {
        let mut request = request(Method::Get, "/list");
        request.headers.append("Accept-Encoding", accepted);
        let response = router.handle(request, RequestBody::empty()).await;
        assert_eq!(response.headers.get("content-encoding"), expected);
        assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
    }
}
