//! Limits of requests that only a whole server has, at the limit and one past it.

use dfs_shared::limits::{MESSAGE_LEN_MAX, QUERY_ITEMS_MAX};
use serde_json::{Value, json};

use super::*;
use crate::limits::{
    CLIENT_NAME_LEN_MAX, IMPORT_LEN_MAX, METADATA_BODY_LEN_MAX, METADATA_RECORDS_MAX, QUERY_LEN_MAX,
    SMALL_BODY_LEN_MAX, SNAPSHOT_LEN_MAX, UPLOAD_BODY_LEN_MAX, UPLOAD_CHUNK_LEN_MAX,
};

/// Asks whether a body of so many bytes may be sent; returns the status of the answer, which may be "100 Continue".
fn may_send(server: &Server, method: &str, path: &str, len: usize) -> u16 {
    let mut stream = connect(server);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    head_of(&mut BufReader::new(stream)).0
}

fn json_of(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, body) = ask(server, method, path, body.as_bytes());
    (status, serde_json::from_slice(&body).unwrap())
}

#[test]
fn every_route_takes_a_body_of_its_limit_and_none_that_is_longer() {
    let (_dir, server) = running();
    let client = register(&server).client;
    let (_, started) =
        json_of(&server, "POST", "/api/sync/start", &json!({ "client_id": client.as_str() }).to_string());
    let raw = format!(
        "/api/file/upload_chunk?session_id={}&file_path=f&chunk_index=0&total_chunks=1&chunk_hash={}",
        started["session_id"].as_str().unwrap(),
        ChunkHash::of(b"x"),
    );
    let table = [
        ("POST", "/api/register", SMALL_BODY_LEN_MAX),
        ("POST", "/api/sync/start", SMALL_BODY_LEN_MAX),
        ("POST", "/api/sync/diff", SNAPSHOT_LEN_MAX),
        ("POST", "/api/file/upload_chunk", UPLOAD_BODY_LEN_MAX),
        ("POST", &raw, UPLOAD_CHUNK_LEN_MAX),
        ("POST", "/api/file/upload_complete", SMALL_BODY_LEN_MAX),
        ("POST", "/api/metadata/add", METADATA_BODY_LEN_MAX),
        ("PUT", "/api/metadata/update", METADATA_BODY_LEN_MAX),
        ("POST", "/api/metadata/import", IMPORT_LEN_MAX),
        ("POST", "/sync/main/register", QUERY_LEN_MAX),
        ("POST", "/sync/main/commit", MESSAGE_LEN_MAX),
        ("POST", "/sync/main/past", MESSAGE_LEN_MAX),
        ("POST", "/sync/main/report", QUERY_LEN_MAX),
        ("POST", "/sync/main/lineage", QUERY_LEN_MAX),
        ("POST", "/sync/main/whoami", QUERY_LEN_MAX),
        ("POST", "/sync/main/missing", QUERY_LEN_MAX),
        ("POST", "/sync/main/contents", QUERY_LEN_MAX),
        ("POST", "/sync/main/records", QUERY_LEN_MAX),
        ("POST", "/sync/main/merkle", QUERY_LEN_MAX),
        ("POST", "/sync/main/history", SMALL_BODY_LEN_MAX),
        ("POST", "/sync/main/chunks/get", QUERY_LEN_MAX),
    ];
    for (method, path, len) in table {
        assert_eq!(may_send(&server, method, path, len), 100, "{method} {path}");
        assert_eq!(may_send(&server, method, path, len + 1), 413, "{method} {path}");
    }
    let described: std::collections::BTreeSet<_> =
        table.iter().map(|(_, path, _)| path.replace("main", "{volume}")).collect();
    let takes_a_body = |(method, pattern): &(Method, &'static str)| {
        matches!(method.as_str(), "POST" | "PUT")
            && !(method.as_str() == "PUT" && pattern.ends_with("/chunks"))
    };
    let left: Vec<_> =
        routes().into_iter().filter(takes_a_body).filter(|(_, path)| !described.contains(*path)).collect();
    assert!(left.is_empty(), "routes without a row here: {left:?}");
}

#[test]
fn texts_of_a_registration_are_bounded_at_the_limit_and_one_past_it() {
    let (_dir, server) = running();
    let longest = "x".repeat(CLIENT_NAME_LEN_MAX);
    let register = |name: &str, platform: &str| {
        let body = json!({ "client_name": name, "platform": platform }).to_string();
        let (status, answer) = json_of(&server, "POST", "/api/register", &body);
        (status, answer["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(register(&longest, &longest), (200, String::new()));
    for (name, platform, field) in
        [(&*format!("{longest}x"), "linux", "client_name"), ("c", &format!("{longest}x"), "platform")]
    {
        let (status, message) = register(name, platform);
        assert!(status == 400 && message.contains(field), "{field}: {status} {message}");
    }
}

#[test]
fn records_of_one_request_are_bounded_at_the_limit_and_one_past_it() {
    let (_dir, server) = running();
    register(&server);
    let record = |number: usize| {
        format!(
            "file_metadata:\n  name: \"f{number}\"\n  version: 1\n  size: 0\n  hash: \"sha256:1\"\n  \
             last_modified: \"2024-01-15T10:30:00Z\"\n  owner: \"o\"\n  sync_state:\n    status: \"synced\"\n"
        )
    };
    let text: String = (0..METADATA_RECORDS_MAX).map(record).collect();
    // The first record is refused for its hash, and nothing is written.
    for (method, path) in [("POST", "/api/metadata/add"), ("PUT", "/api/metadata/update")] {
        let (status, answer) = json_of(&server, method, path, &text);
        assert_ne!(answer["error"]["code"], "too_many", "{method} {path}: {status} {answer}");
        let (status, answer) =
            json_of(&server, method, path, &format!("{text}{}", record(METADATA_RECORDS_MAX)));
        assert_eq!((status, &answer["error"]["code"]), (413, &json!("too_many")), "{method} {path}");
    }
}

#[test]
fn chunks_of_one_download_are_bounded_at_the_limit_and_one_past_it() {
    let (_dir, server) = running();
    register(&server);
    let get = |count| {
        let hashes = vec![ChunkHash::of(b"nowhere"); count];
        ask(&server, "POST", "/sync/main/chunks/get", &encode(&ChunksRequest { hashes }))
    };
    let (status, body) = get(QUERY_ITEMS_MAX);
    assert_eq!((status, body.len()), (200, QUERY_ITEMS_MAX * CHUNK_HEADER_LEN));
    assert_eq!(get(QUERY_ITEMS_MAX + 1).0, 413);
}
