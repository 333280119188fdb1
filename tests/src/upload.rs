//! Files brought to a server without a mount: one sync session each.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http;

/// Bytes of one part.
const PART_LEN: usize = 4 << 20;

/// Uploads a file; it is there when this returns. `path` is sent as it is: no byte that a query would need encoded.
///
/// # Errors
/// When the server refuses any step.
pub fn upload(port: u16, path: &str, content: &[u8]) -> Result<()> {
    let post = |route: &str, body: &[u8]| -> Result<Value> {
        let reply = http::request(port, "POST", &format!("/api/{route}"), &[], body)?;
        ensure!(reply.status == 200, "{route}: {} {}", reply.status, reply.text());
        reply.json()
    };
    let ask = |route: &str, body: &Value| post(route, body.to_string().as_bytes());
    let client =
        ask("register", &json!({ "client_name": "uploader", "platform": "linux" }))?["client_id"].take();
    let session = ask("sync/start", &json!({ "client_id": client }))?["session_id"].take();
    let file =
        json!({ "file_path": path, "hash": format!("sha256:{}", sha256(content)), "size": content.len() });
    ask("sync/diff", &json!({ "session_id": session, "local_snapshot": [file] }))?;
    let id = session.as_str().context("no session")?;
    let parts: Vec<_> = content.chunks(PART_LEN).collect();
    for (number, part) in parts.iter().enumerate() {
        let (total, hash) = (parts.len(), sha256(part));
        let query = format!("session_id={id}&file_path={path}&chunk_index={number}&total_chunks={total}");
        post(&format!("file/upload_chunk?{query}&chunk_hash={hash}"), part)?;
    }
    let whole = json!({ "session_id": session, "file_path": path, "expected_hash": sha256(content) });
    ask("file/upload_complete", &whole)?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
