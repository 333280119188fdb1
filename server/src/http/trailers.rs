//! Trailer fields (RFC 9110, 6.5): which fields may stand behind a body.

/// Fields that frame, route, authenticate, modify or describe a message: whoever has them needs them before its body
/// (section 6.5.1). In lower case, ordered.
const HEADERS_ONLY: [&str; 45] = [
    "accept-encoding",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Tells whether a field may be a trailer; one that may not is dropped, whoever sent it.
pub(super) fn may_be_trailer(name: &[u8]) -> bool {
    !HEADERS_ONLY.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_a_reader_needs_before_the_body_are_no_trailers() {
        for name in
            ["Content-Length", "TRANSFER-ENCODING", "host", "Authorization", "If-Match", "Vary", "Trailer"]
        {
            assert!(!may_be_trailer(name.as_bytes()), "{name}");
        }
        for name in ["Content-Digest", "X-Checksum", "Server-Timing", "ETag"] {
            assert!(may_be_trailer(name.as_bytes()), "{name}");
        }
    }
}
