//! Request targets (RFC 9112, 3.2): which form, which path, which query; percent-decoding, once.
//!
//! Bytes above 0x7f are taken as they are, since clients send unencoded UTF-8 paths; controls, space and `#` are refused.

use bytes::Bytes;
use memchr::memchr;

use super::error::HttpError;
use super::head::letters_digits_and;
use super::method::Method;

/// The parts of a request target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Path as sent, without query.
    pub(super) raw_path: Bytes,
    /// Path, percent-decoded once.
    pub(super) path: Bytes,
    /// Decoded pairs of the query, in order.
    pub(super) query: Vec<(Bytes, Bytes)>,
}

/// Splits and decodes a request target in origin, absolute or asterisk form.
pub(super) fn parse_target(raw: &Bytes, method: Method) -> Result<Target, HttpError> {
    let is_bad = |byte: u8| byte <= b' ' || byte == 0x7f || byte == b'#';
    // Without an early end, so that the compiler looks at many bytes at once; bad targets are rare.
    if raw.is_empty() || raw.iter().fold(false, |any, byte| any | is_bad(*byte)) {
        return Err(HttpError::Target);
    }
    if raw.as_ref() == b"*" {
        return match method {
            Method::Options => Ok(Target { raw_path: raw.clone(), path: raw.clone(), query: Vec::new() }),
            _ => Err(HttpError::Target),
        };
    }
    let start = if raw[0] == b'/' { 0 } else { authority_end(raw)? };
    let end = memchr(b'?', &raw[start..]).map_or(raw.len(), |at| start + at);
    let raw_path = if start == end { Bytes::from_static(b"/") } else { raw.slice(start..end) };
    let path = percent_decode(&raw_path, false).ok_or(HttpError::Target)?;
    if memchr(0, &path).is_some() {
        return Err(HttpError::Target);
    }
    let query = if end < raw.len() { parse_query(&raw.slice(end + 1..))? } else { Vec::new() };
    Ok(Target { raw_path, path, query })
}

/// Returns where the path of an absolute-form target starts.
fn authority_end(raw: &[u8]) -> Result<usize, HttpError> {
    let scheme_len = ["http://", "https://"]
        .iter()
        .find(|scheme| {
            raw.len() > scheme.len() && raw[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes())
        })
        .map(|scheme| scheme.len())
        .ok_or(HttpError::Target)?;
    let authority_len = raw[scheme_len..]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(raw.len() - scheme_len);
    if !is_authority(&raw[scheme_len..scheme_len + authority_len]) || authority_len == 0 {
        return Err(HttpError::Target);
    }
    Ok(scheme_len + authority_len)
}

/// Tells whether a value is a host with an optional port; userinfo is refused.
pub(super) fn is_authority(value: &[u8]) -> bool {
    value.iter().all(|byte| AUTHORITY[usize::from(*byte)])
}

const AUTHORITY: [bool; 256] = letters_digits_and(b"-._~:[]%!$&'()*+,;=");

fn parse_query(raw: &Bytes) -> Result<Vec<(Bytes, Bytes)>, HttpError> {
    let mut pairs = Vec::new();
    let mut start = 0;
    while start < raw.len() {
        let end = raw[start..].iter().position(|byte| *byte == b'&').map_or(raw.len(), |at| start + at);
        if start < end {
            let split = raw[start..end].iter().position(|byte| *byte == b'=').map_or(end, |at| start + at);
            let value_start = (split + 1).min(end);
            let name = percent_decode(&raw.slice(start..split), true).ok_or(HttpError::Target)?;
            let value = percent_decode(&raw.slice(value_start..end), true).ok_or(HttpError::Target)?;
            pairs.push((name, value));
        }
        start = end + 1;
    }
    Ok(pairs)
}

/// Decodes `%XX` once, and `+` as space where the text is a form's; `None` for bad encoding. Shares `raw` if it can.
pub(crate) fn percent_decode(raw: &Bytes, plus_is_space: bool) -> Option<Bytes> {
    if memchr(b'%', raw).is_none() && !(plus_is_space && memchr(b'+', raw).is_some()) {
        return Some(raw.clone());
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => hex_digit(*rest.next()?)? << 4 | hex_digit(*rest.next()?)?,
            b'+' if plus_is_space => b' ',
            other => *other,
        });
    }
    Some(decoded.into())
}

/// Returns the value of a hexadecimal digit.
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &'static str) -> Result<Target, HttpError> {
        parse_target(&Bytes::from_static(raw.as_bytes()), Method::Get)
    }

    #[test]
    fn paths_are_decoded_once() {
        let target = parse("/a%20b/%2541?x=%2B+y&&flag&e=&=v&x=2").unwrap();
        assert_eq!(target.path, "/a b/%41");
        assert_eq!(target.raw_path, "/a%20b/%2541");
        let pairs: Vec<_> = target.query.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
        let expected: [(&[u8], &[u8]); 5] =
            [(b"x", b"+ y"), (b"flag", b""), (b"e", b""), (b"", b"v"), (b"x", b"2")];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn every_form_is_told_apart() {
        assert_eq!(parse("http://h:80/p?q=1").unwrap().path, "/p");
        assert_eq!(parse("http://h").unwrap().path, "/");
        assert_eq!(parse("HTTP://h?q").unwrap().query.len(), 1);
        assert_eq!(parse_target(&Bytes::from_static(b"*"), Method::Options).unwrap().path, "*");
        assert_eq!(parse("/\u{e9}").unwrap().path, "/\u{e9}");
    }

    #[test]
    fn malformed_targets_are_refused() {
        for raw in [
            "",
            "*",
            "a",
            "/%",
            "/%4",
            "/%zz",
            "/%00",
            "/a#b",
            "/a\tb",
            "/\u{7f}",
            "http://",
            "http:///x",
            "http://u@h/",
            "ftp://h/",
            "/?a=%g1",
            "h:80",
        ] {
            assert_eq!(parse(raw), Err(HttpError::Target), "{raw:?}");
        }
    }
}
