//! Byte ranges (RFC 9110, section 14): which part of a representation a request asks for.
//!
//! One range for each response: a request for several gets the whole, as section 14.2 allows.

use super::headers::Headers;

/// What a `Range` header comes to for a representation of a known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// No range, or one that is to be ignored: 200 with everything.
    Whole,
    /// 206 with the bytes `start..end`, at least one.
    Part {
        /// First byte.
        start: u64,
        /// Byte behind the last one.
        end: u64,
    },
    /// 416: nothing of it is there.
    Unsatisfiable,
}

impl ByteRange {
    /// Looks at a request's headers; `len` is the representation's length in bytes.
    ///
    /// A header that is malformed, of another unit or for several ranges counts as none (section 14.2).
    #[must_use]
    pub fn of(headers: &Headers, len: u64) -> Self {
        let mut values = headers.get_all("Range");
        match (values.next(), values.next()) {
            (Some(value), None) => {
                std::str::from_utf8(value).map_or(Self::Whole, |value| Self::parse(value, len))
            }
            _ => Self::Whole,
        }
    }

    fn parse(value: &str, len: u64) -> Self {
        let Some((unit, spec)) = value.split_once('=') else { return Self::Whole };
        let Some((first, last)) = spec.trim_matches([' ', '\t']).split_once('-') else { return Self::Whole };
        if !unit.eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        match (digits(first), digits(last)) {
            // The last bytes.
            (Position::None, Position::At(0)) => Self::Unsatisfiable,
            (Position::None, Position::At(count)) if len > 0 => {
                Self::Part { start: len.saturating_sub(count), end: len }
            }
            (Position::None, Position::At(_)) => Self::Unsatisfiable,
            (Position::At(start), Position::None) if start < len => Self::Part { start, end: len },
            (Position::At(start), Position::At(last)) if start > last => Self::Whole,
            (Position::At(start), Position::At(last)) if start < len => {
                Self::Part { start, end: last.saturating_add(1).min(len) }
            }
            (Position::At(_), Position::None | Position::At(_)) => Self::Unsatisfiable,
            (Position::None, Position::None) | (Position::Malformed, _) | (_, Position::Malformed) => {
                Self::Whole
            }
        }
    }
}

enum Position {
    None,
    At(u64),
    Malformed,
}

/// A number too large to be a length is past every end.
fn digits(text: &str) -> Position {
    match text {
        "" => Position::None,
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Position::At(text.parse().unwrap_or(u64::MAX)),
        _ => Position::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64) -> ByteRange {
        ByteRange::Part { start, end }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (value, len, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=3-99", 10, part(3, 10)),
            ("bytes=3-", 10, part(3, 10)),
            ("bytes=9-", 10, part(9, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-99", 10, part(0, 10)),
            ("BYTES= 1-2 ", 10, part(1, 3)),
            ("bytes=0-99999999999999999999999", 10, part(0, 10)),
            ("bytes=10-", 10, ByteRange::Unsatisfiable),
            ("bytes=10-20", 10, ByteRange::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, ByteRange::Unsatisfiable),
            ("bytes=-0", 10, ByteRange::Unsatisfiable),
            ("bytes=0-0", 0, ByteRange::Unsatisfiable),
            ("bytes=-1", 0, ByteRange::Unsatisfiable),
            ("bytes=5-4", 10, ByteRange::Whole),
            ("bytes=-", 10, ByteRange::Whole),
            ("bytes=", 10, ByteRange::Whole),
            ("bytes=a-b", 10, ByteRange::Whole),
            ("bytes=1-2,4-5", 10, ByteRange::Whole),
            ("bytes=+1-2", 10, ByteRange::Whole),
            ("lines=1-2", 10, ByteRange::Whole),
            ("1-2", 10, ByteRange::Whole),
        ] {
            let mut headers = Headers::new();
            headers.append("Range", value);
            assert_eq!(ByteRange::of(&headers, len), expected, "{value} of {len}");
        }
        let mut twice = Headers::new();
        twice.append("Range", "bytes=0-0");
        twice.append("Range", "bytes=1-1");
        assert_eq!(ByteRange::of(&twice, 10), ByteRange::Whole);
        assert_eq!(ByteRange::of(&Headers::new(), 10), ByteRange::Whole);
    }
}
