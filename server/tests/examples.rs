//! The examples that need a server, run against one.

use dfs_server::server::{Config, start};

#[allow(dead_code, reason = "its own `main` is of no use here")]
#[path = "../examples/metadata_client.rs"]
mod metadata_client;

#[test]
fn the_metadata_client_makes_lists_changes_and_removes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("data"))).unwrap();
    let mut said = Vec::new();
    metadata_client::run(&server.addr().to_string(), &mut said).unwrap();
    let said = String::from_utf8(said).unwrap();
    for line in ["  name: \"examples/made by a client.txt\"", "version 1 of \"bob\"", "removed"] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    server.shutdown();
}
