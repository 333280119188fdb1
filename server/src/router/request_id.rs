//! Request ids: the peer's own if it sent a sane one, otherwise unique over restarts and servers.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use crate::http::Headers;

/// Longest id taken over from a peer in bytes.
const ID_LEN_MAX: usize = 64;

/// The id of one request: ASCII letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Bytes);

impl RequestId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id is ASCII by construction")
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The source of ids: 8 hexadecimal digits drawn at start, 8 counted.
#[derive(Debug)]
pub(super) struct RequestIds {
    prefix: u32,
    counter: AtomicU32,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        let random = uuid::Uuid::now_v7().as_u128();
        Self { prefix: (random & u128::from(u32::MAX)) as u32, counter: AtomicU32::new(0) }
    }

    /// Returns the id of a request with these headers.
    pub(super) fn next(&self, headers: &Headers) -> RequestId {
        let taken = headers.get_bytes("x-request-id").filter(|value| is_sane(value));
        RequestId(match taken {
            Some(value) => Bytes::copy_from_slice(value),
            None => self.generate(),
        })
    }

    fn generate(&self) -> Bytes {
        let number = u64::from(self.prefix) << 32 | u64::from(self.counter.fetch_add(1, Ordering::Relaxed));
        let mut digits = [0_u8; 16];
        for (at, digit) in digits.iter_mut().enumerate() {
            let nibble = (number >> (60 - 4 * at) & 0xf) as usize;
            *digit = b"0123456789abcdef"[nibble];
        }
        Bytes::copy_from_slice(&digits)
    }
}

fn is_sane(value: &[u8]) -> bool {
    (1..=ID_LEN_MAX).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_differ_and_sane_ids_of_the_peer_are_kept() {
        let ids = RequestIds::new();
        let mut headers = Headers::new();
        assert_ne!(ids.next(&headers), ids.next(&headers));
        assert_eq!(ids.next(&headers).as_str().len(), 16);
        headers.set("X-Request-Id", "abc-1");
        assert_eq!(ids.next(&headers).as_str(), "abc-1");
        headers.set("X-Request-Id", "a b");
        assert_eq!(ids.next(&headers).as_str().len(), 16);
    }
}
