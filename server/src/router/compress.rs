//! Compresses JSON that is at hand and worth it, for clients that accept gzip.
//!
//! Only whole JSON answers: a stream would lose its flushes, a download its ranges and its strong tag, and a small body
//! fits in one packet anyway. Works in pieces and lets others run in between, on whatever runs the handler.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::http::{Body, ContentCoding, Headers, Response};
use crate::limits;

/// Compresses a response's body if `accepted` is gzip and the body is JSON, longer than the limit and gets smaller.
///
/// Whatever could have been compressed says `Vary: Accept-Encoding`. A compressed body's tag becomes weak: it names
/// other bytes than the handler's tag.
pub(super) async fn compress(accepted: ContentCoding, mut response: Response) -> Response {
    let bytes = match &response.body {
        Body::Full(bytes) if is_eligible(&response.headers, bytes.len()) => bytes.clone(),
        _ => return response,
    };
    vary(&mut response.headers);
    if accepted == ContentCoding::Identity {
        return response;
    }
    let compressed = gzip(&bytes).await;
    if compressed.len() >= bytes.len() {
        return response;
    }
    response.headers.set("Content-Encoding", "gzip");
    if let Some(tag) = response.headers.get("ETag").filter(|tag| !tag.starts_with("W/")) {
        let weak = format!("W/{tag}");
        response.headers.set("ETag", weak);
    }
    response.with_body(Body::Full(compressed))
}

fn is_eligible(headers: &Headers, len: usize) -> bool {
    let media_type =
        headers.get("Content-Type").and_then(|value| value.split(';').next()).unwrap_or_default();
    let is_fixed = headers.contains("Content-Encoding")
        || headers.contains("Content-Range")
        || headers.contains("Accept-Ranges")
        || has_token(headers, "Cache-Control", "no-transform");
    len > limits::HTTP_UNCOMPRESSED_LEN_MAX
        && media_type.trim().eq_ignore_ascii_case("application/json")
        && !is_fixed
}

fn vary(headers: &mut Headers) {
    if !has_token(headers, "Vary", "*") && !has_token(headers, "Vary", "Accept-Encoding") {
        headers.append("Vary", "Accept-Encoding");
    }
}

fn has_token(headers: &Headers, name: &str, token: &str) -> bool {
    headers.get_all(name).any(|value| {
        value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

async fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    for piece in bytes.chunks(limits::HTTP_COMPRESS_PIECE_LEN) {
        encoder.write_all(piece).expect("a vector takes every byte");
        Yield { yielded: false }.await;
    }
    encoder.finish().expect("a vector takes every byte").into()
}

/// Lets other tasks run once, on any executor.
struct Yield {
    yielded: bool,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::http::Status;

    fn json(len: usize) -> Bytes {
        let mut text = format!("[{}", "\"text\",".repeat(len / 7 + 1));
        text.truncate(len - 1);
        text.push(']');
        text.into()
    }

    fn body(response: &Response) -> &Bytes {
        let Body::Full(bytes) = &response.body else { panic!("not at hand") };
        bytes
    }

    fn unzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    const LEN_MAX: usize = limits::HTTP_UNCOMPRESSED_LEN_MAX;

    #[tokio::test]
    async fn large_json_is_compressed_for_who_accepts_it() {
        for len in [LEN_MAX + 1, 3 * limits::HTTP_COMPRESS_PIECE_LEN + 17] {
            let plain = json(len);
            let response = Response::json(Status::OK, plain.clone()).with_header("ETag", "\"a\"");
            let response = compress(ContentCoding::Gzip, response).await;
            assert_eq!(unzip(body(&response)), plain);
            assert!(body(&response).len() < len / 4);
            assert_eq!(response.headers.get("content-encoding"), Some("gzip"));
            assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
            assert_eq!(response.headers.get("etag"), Some("W/\"a\""));
        }
    }

    #[tokio::test]
    async fn who_does_not_accept_it_gets_the_same_bytes_and_the_reason() {
        let response = Response::json(Status::OK, json(LEN_MAX + 1)).with_header("ETag", "\"a\"");
        let response = compress(ContentCoding::Identity, response).await;
        assert_eq!(body(&response), &json(LEN_MAX + 1));
        assert!(!response.headers.contains("content-encoding"));
        assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
        assert_eq!(response.headers.get("etag"), Some("\"a\""));
    }

    #[tokio::test]
    async fn everything_else_stays_as_it_is() {
        let large = json(LEN_MAX + 1);
        let of = |content_type| Response::full(Status::OK, content_type, large.clone());
        let (_sender, items) = tokio::sync::mpsc::channel(1);
        for response in [
            Response::json(Status::OK, json(LEN_MAX)),
            of("application/x-dfs"),
            of("application/jsonl"),
            of("application/json").with_header("Content-Encoding", "br"),
            of("application/json").with_header("Accept-Ranges", "bytes"),
            of("application/json").with_header("Content-Range", "bytes 0-1/2"),
            of("application/json").with_header("Cache-Control", "private, no-transform"),
            Response::json(Status::OK, "").with_body(Body::Sized(1 << 20, items)),
        ] {
            let before: Vec<_> =
                response.headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            let after = compress(ContentCoding::Gzip, response).await;
            let headers = after.headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
            assert_eq!(headers.collect::<Vec<_>>(), before);
        }
    }

    #[tokio::test]
    async fn what_does_not_get_smaller_is_sent_as_it_is() {
        // Bytes without any pattern (xorshift, Marsaglia 2003).
        let mut state = 1_u64;
        let noise: Bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(LEN_MAX + 1)
        .collect();
        let response = compress(ContentCoding::Gzip, Response::json(Status::OK, noise.clone())).await;
        assert_eq!(body(&response), &noise);
        assert!(!response.headers.contains("content-encoding"));
    }

    #[tokio::test]
    async fn vary_is_said_once() {
        for (said, expected) in
            [("Accept-Encoding", 1), ("accept, accept-encoding", 1), ("*", 1), ("Accept", 2)]
        {
            let response = Response::json(Status::OK, json(LEN_MAX + 1)).with_header("Vary", said);
            let response = compress(ContentCoding::Gzip, response).await;
            assert_eq!(response.headers.get_all("vary").count(), expected, "{said}");
        }
    }
}
