//! What a GET or HEAD of one representation is answered with: conditions first, then the range (RFC 9110, 13.2.2).
//!
//! The one place that knows the order. A route says what it has, asks [`Representation::answer`], takes the head from
//! [`Representation::head`] and adds the bytes that the answer names:
//!
//! ```text
//! If-Match ─ absent ─► If-Unmodified-Since ─► If-None-Match ─ absent ─► If-Modified-Since ─► If-Range ─► Range
//!    │ false                  │ earlier            │ one of them               │ not since      │ another   │
//!    └────────── 412 ─────────┘                    └────────── 304 ────────────┘                └─► 200   200, 206, 416
//! ```

use super::conditional::{EntityTag, Precondition, if_match_holds, if_none_match_holds};
use super::date::HttpDate;
use super::headers::Headers;
use super::method::Method;
use super::range::ByteRange;
use super::response::Response;
use super::status::Status;

/// What is known of a representation before its first byte is read.
#[derive(Debug, Clone, Copy)]
pub struct Representation<'a> {
    /// Its length in bytes.
    pub len: u64,
    /// Its strong tag: other bytes, another tag.
    pub tag: &'a EntityTag,
    /// When it last changed, in seconds since the Unix epoch, not after now; `None` if that is not known or before 1970.
    pub modified: Option<u64>,
}

/// What a request for a representation is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200 with everything.
    Whole,
    /// 206 with the bytes `start..end`, at least one.
    Part {
        /// First byte.
        start: u64,
        /// Byte behind the last one.
        end: u64,
    },
    /// 304: the client has it.
    NotModified,
    /// 412: the client means another one.
    PreconditionFailed,
    /// 416: nothing of the range is there.
    RangeNotSatisfiable,
}

impl Answer {
    /// Returns the status.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Whole => Status::OK,
            Self::Part { .. } => Status::PARTIAL_CONTENT,
            Self::NotModified => Status::NOT_MODIFIED,
            Self::PreconditionFailed => Status::PRECONDITION_FAILED,
            Self::RangeNotSatisfiable => Status::RANGE_NOT_SATISFIABLE,
        }
    }
}

impl Representation<'_> {
    /// Decides what a request with these headers is answered with.
    ///
    /// `method` is GET or HEAD; any other one has its conditions judged, and never gets a part or a 304. A range
    /// counts for GET only (section 14.2); several ranges get the whole; a date that is none is no condition.
    #[must_use]
    pub fn answer(&self, method: Method, headers: &Headers) -> Answer {
        let reads = matches!(method, Method::Get | Method::Head);
        let unmodified = || self.is_unmodified_since(headers, "If-Unmodified-Since");
        if if_match_holds(headers, Some(self.tag)).or_else(unmodified) == Some(false) {
            return Answer::PreconditionFailed;
        }
        match if_none_match_holds(headers, Some(self.tag)) {
            Some(false) if reads => return Answer::NotModified,
            Some(false) => return Answer::PreconditionFailed,
            Some(true) => {}
            None if reads && self.is_unmodified_since(headers, "If-Modified-Since") == Some(true) => {
                return Answer::NotModified;
            }
            None => {}
        }
        if method != Method::Get || !Precondition::range_counts(headers, self.tag) {
            return Answer::Whole;
        }
        match ByteRange::of(headers, self.len) {
            ByteRange::Whole => Answer::Whole,
            ByteRange::Part { start, end } => Answer::Part { start, end },
            ByteRange::Unsatisfiable => Answer::RangeNotSatisfiable,
        }
    }

    /// Makes the response of an answer: status, `ETag`, `Last-Modified`, `Accept-Ranges`, `Content-Range`, and for errors
    /// the JSON body. The body of `Whole` and `Part` is left to the caller, who adds `Content-Type` too; a HEAD's `Whole`
    /// is complete, its `Content-Length` tells the length.
    #[must_use]
    pub fn head(&self, answer: Answer) -> Response {
        let response = match answer {
            Answer::PreconditionFailed => {
                let message = "the file is another one than the request's conditions name";
                return Response::error(answer.status(), "precondition_failed", message);
            }
            Answer::RangeNotSatisfiable => {
                let message = format!("the range is not within the file's {} bytes", self.len);
                return Response::error(answer.status(), "range_not_satisfiable", &message)
                    .with_header("Content-Range", format!("bytes */{}", self.len));
            }
            Answer::NotModified => return self.tagged(answer),
            Answer::Whole => self.tagged(answer).with_header("Content-Length", self.len.to_string()),
            Answer::Part { start, end } => self
                .tagged(answer)
                .with_header("Content-Length", (end - start).to_string())
                .with_header("Content-Range", format!("bytes {start}-{}/{}", end - 1, self.len)),
        };
        let response = response.with_header("Accept-Ranges", "bytes");
        match self.modified.map(HttpDate::from_unix_seconds) {
            Some(date) => response.with_header("Last-Modified", date.as_bytes().to_vec()),
            None => response,
        }
    }

    fn tagged(&self, answer: Answer) -> Response {
        Response::new(answer.status()).with_header("ETag", self.tag.as_str().to_owned())
    }

    /// Tells whether nothing changed since the date in this field; `None` without the field, a date or a time of change.
    fn is_unmodified_since(&self, headers: &Headers, name: &str) -> Option<bool> {
        let mut values = headers.get_all(name);
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let since = HttpDate::parse(value)?;
        let modified = i64::try_from(self.modified?).unwrap_or(i64::MAX);
        Some(modified <= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";
    const MODIFIED: u64 = 784_111_777;
    const RANGE: (&str, &str) = ("Range", "bytes=2-4");
    const PART: Answer = Answer::Part { start: 2, end: 5 };

    fn answer(method: Method, fields: &[(&'static str, &'static str)]) -> Answer {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name, *value);
        }
        let tag = EntityTag::strong("a");
        Representation { len: 10, tag: &tag, modified: Some(MODIFIED) }.answer(method, &headers)
    }

    #[test]
    fn conditions_are_judged_in_their_order_and_before_the_range() {
        type Row = (&'static [(&'static str, &'static str)], Answer);
        let table: [Row; 25] = [
            (&[], Answer::Whole),
            (&[RANGE], PART),
            (&[("Range", "bytes=10-")], Answer::RangeNotSatisfiable),
            (&[("Range", "bytes=0-1,3-4")], Answer::Whole),
            (&[("If-Match", "\"a\""), RANGE], PART),
            (&[("If-Match", "\"b\""), RANGE], Answer::PreconditionFailed),
            // A tag goes before a date, whatever the date says.
            (&[("If-Match", "\"a\""), ("If-Unmodified-Since", BEFORE)], Answer::Whole),
            (&[("If-Match", "\"b\""), ("If-Unmodified-Since", AFTER)], Answer::PreconditionFailed),
            (&[("If-Unmodified-Since", BEFORE)], Answer::PreconditionFailed),
            (&[("If-Unmodified-Since", AT)], Answer::Whole),
            (&[("If-Unmodified-Since", AFTER), RANGE], PART),
            (&[("If-None-Match", "\"b\""), ("If-Modified-Since", AFTER)], Answer::Whole),
            (&[("If-None-Match", "W/\"a\""), ("If-Modified-Since", BEFORE)], Answer::NotModified),
            (&[("If-Modified-Since", BEFORE)], Answer::Whole),
            (&[("If-Modified-Since", AT)], Answer::NotModified),
            (&[("If-Modified-Since", AFTER), RANGE], Answer::NotModified),
            (&[("If-Modified-Since", "yesterday")], Answer::Whole),
            (&[("If-Modified-Since", AT), ("If-Modified-Since", AT)], Answer::Whole),
            // The earlier step decides.
            (&[("If-Match", "\"b\""), ("If-None-Match", "\"a\"")], Answer::PreconditionFailed),
            (&[("If-Match", "*"), ("If-None-Match", "\"a\"")], Answer::NotModified),
            (&[("If-Unmodified-Since", BEFORE), ("If-None-Match", "\"a\"")], Answer::PreconditionFailed),
            (&[("If-Range", "\"a\""), RANGE], PART),
            (&[("If-Range", "\"b\""), RANGE], Answer::Whole),
            (&[("If-Range", "\"b\""), ("Range", "bytes=10-")], Answer::Whole),
            (&[("If-Range", AT), RANGE], Answer::Whole),
        ];
        for (fields, expected) in table {
            assert_eq!(answer(Method::Get, fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_get_has_ranges_and_only_readers_have_304() {
        assert_eq!(answer(Method::Head, &[("Range", "bytes=2-4")]), Answer::Whole);
        assert_eq!(answer(Method::Head, &[("Range", "bytes=99-")]), Answer::Whole);
        assert_eq!(answer(Method::Head, &[("If-None-Match", "\"a\"")]), Answer::NotModified);
        assert_eq!(answer(Method::Head, &[("If-Modified-Since", AT)]), Answer::NotModified);
        assert_eq!(answer(Method::Put, &[("If-None-Match", "\"a\"")]), Answer::PreconditionFailed);
        assert_eq!(answer(Method::Put, &[("If-Modified-Since", AT)]), Answer::Whole);
    }

    #[test]
    fn dates_are_no_conditions_where_the_time_of_change_is_not_known() {
        let tag = EntityTag::strong("a");
        let unknown = Representation { len: 10, tag: &tag, modified: None };
        for name in ["If-Modified-Since", "If-Unmodified-Since"] {
            let mut headers = Headers::new();
            headers.append(name, AT);
            assert_eq!(unknown.answer(Method::Get, &headers), Answer::Whole, "{name}");
        }
        assert!(!unknown.head(Answer::Whole).headers.contains("Last-Modified"));
    }

    #[test]
    fn every_answer_has_its_head() {
        let tag = EntityTag::strong("a");
        let it = Representation { len: 10, tag: &tag, modified: Some(MODIFIED) };
        type Row = (Answer, u16, &'static [(&'static str, &'static str)]);
        let table: [Row; 5] = [
            (
                Answer::Whole,
                200,
                &[
                    ("ETag", "\"a\""),
                    ("Content-Length", "10"),
                    ("Accept-Ranges", "bytes"),
                    ("Last-Modified", AT),
                ],
            ),
            (
                PART,
                206,
                &[
                    ("ETag", "\"a\""),
                    ("Content-Length", "3"),
                    ("Content-Range", "bytes 2-4/10"),
                    ("Accept-Ranges", "bytes"),
                    ("Last-Modified", AT),
                ],
            ),
            (Answer::NotModified, 304, &[("ETag", "\"a\"")]),
            (Answer::PreconditionFailed, 412, &[("Content-Type", "application/json")]),
            (
                Answer::RangeNotSatisfiable,
                416,
                &[("Content-Type", "application/json"), ("Content-Range", "bytes */10")],
            ),
        ];
        for (answer, code, fields) in table {
            let response = it.head(answer);
            assert_eq!(response.status.code(), code);
            let sent: Vec<_> = response.headers.iter().collect();
            let expected: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            assert_eq!(sent, expected, "{code}");
        }
    }
}
