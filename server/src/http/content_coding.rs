//! Which content coding a response may have (RFC 9110, 12.5.3).

use super::headers::Headers;

/// A content coding that this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    /// The bytes as they are.
    Identity,
    /// gzip (RFC 1952).
    Gzip,
}

impl ContentCoding {
    /// Returns the coding that a request's `Accept-Encoding` prefers; between equals the smaller one.
    ///
    /// A request that has no such field, or accepts nothing that is known here, gets the bytes as they are, as section
    /// 12.5.3 allows. An item with a malformed weight counts as not listed.
    #[must_use]
    pub fn preferred(headers: &Headers) -> Self {
        let mut weights = Weights::default();
        for value in headers.get_all("Accept-Encoding") {
            value.split(|byte| *byte == b',').for_each(|item| weights.take(item));
        }
        let gzip = weights.gzip.or(weights.any).unwrap_or(0);
        let identity = weights.identity.or(weights.any).unwrap_or(0);
        if gzip > 0 && gzip >= identity { Self::Gzip } else { Self::Identity }
    }
}

/// Weights in thousandths.
#[derive(Default)]
struct Weights {
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    fn take(&mut self, item: &[u8]) {
        let mut parts = item.split(|byte| *byte == b';');
        let coding = parts.next().unwrap_or_default().trim_ascii();
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        let weight = match parts.next() {
            None => Some(1000),
            Some(parameter) => weight(parameter.trim_ascii()),
        };
        let (Some(weight), None) = (weight, parts.next()) else { return };
        if is("gzip") || is("x-gzip") {
            self.gzip = Some(weight);
        } else if is("identity") {
            self.identity = Some(weight);
        } else if is("*") {
            self.any = Some(weight);
        }
    }
}

/// Reads `q=` with a number from 0 to 1 and up to three decimals (section 12.4.2).
fn weight(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), rest @ ..] = parameter else { return None };
    let decimals = match rest {
        [] => rest,
        [b'.', decimals @ ..] if decimals.len() <= 3 && decimals.iter().all(u8::is_ascii_digit) => decimals,
        _ => return None,
    };
    let value =
        [100, 10, 1].iter().zip(decimals).map(|(unit, digit)| unit * u16::from(digit - b'0')).sum::<u16>();
    match (whole, value) {
        (b'0', value) => Some(value),
        (_, 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coding_with_the_higher_weight_is_preferred() {
        use ContentCoding::{Gzip, Identity};
        for (value, expected) in [
            ("gzip", Gzip),
            ("GZIP", Gzip),
            ("x-gzip", Gzip),
            ("br, gzip , deflate", Gzip),
            ("gzip;q=1.0", Gzip),
            ("gzip ; q=0.001", Gzip),
            ("*", Gzip),
            ("identity, gzip", Gzip),
            ("identity;q=0.5, gzip;Q=0.6", Gzip),
            ("identity;q=0, *;q=0.1", Gzip),
            ("", Identity),
            ("br, deflate, zstd", Identity),
            ("identity", Identity),
            ("gzip;q=0", Identity),
            ("gzip;q=0.000", Identity),
            ("gzip;q=0, *", Identity),
            ("*;q=0", Identity),
            ("identity;q=0.6, gzip;q=0.599", Identity),
            ("gzip;q=0.5, *;q=0.6", Identity),
            ("gzip;q=2", Identity),
            ("gzip;q=1.001", Identity),
            ("gzip;q=0.0001", Identity),
            ("gzip;q=", Identity),
            ("gzip;level=9", Identity),
            ("gzip;q=1;q=1", Identity),
            ("gzipped", Identity),
            ("identity;q=0", Identity),
        ] {
            let mut headers = Headers::new();
            headers.append("Accept-Encoding", value);
            assert_eq!(ContentCoding::preferred(&headers), expected, "{value}");
        }
        assert_eq!(ContentCoding::preferred(&Headers::new()), Identity);
        let mut twice = Headers::new();
        twice.append("Accept-Encoding", "br");
        twice.append("Accept-Encoding", "gzip");
        assert_eq!(ContentCoding::preferred(&twice), Gzip);
    }
}
