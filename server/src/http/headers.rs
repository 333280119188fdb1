//! Header fields: an ordered list with case-insensitive names.
//!
//! Values are bytes (RFC 9110, 5.5 allows obs-text); no value ever holds CR, LF or NUL, wherever it came from.

use bytes::Bytes;

/// An ordered list of header fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    fields: Vec<(Bytes, Bytes)>,
}

impl Headers {
    /// Makes an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { fields: Vec::new() }
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { fields: Vec::with_capacity(capacity) }
    }

    /// Appends a field that the parser has checked.
    pub(super) fn push_checked(&mut self, name: Bytes, value: Bytes) {
        self.fields.push((name, value));
    }

    /// Appends a field; control bytes in the value become spaces, so that a value can never end its line.
    pub fn append(&mut self, name: &'static str, value: impl Into<Bytes>) {
        let mut value = value.into();
        // Without an early end, so that the compiler looks at many bytes at once.
        if value.iter().fold(false, |any, byte| any | is_control(*byte)) {
            value = value.iter().map(|byte| if is_control(*byte) { b' ' } else { *byte }).collect();
        }
        self.fields.push((Bytes::from_static(name.as_bytes()), value));
    }

    /// Replaces every field of this name by one.
    pub fn set(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.fields.retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
        self.append(name, value);
    }

    /// Returns the first value of this name if it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Returns the first value of this name.
    #[must_use]
    pub fn get_bytes<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Iterates over the values of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }

    /// Tells whether a field of this name is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get_bytes(name).is_some()
    }

    /// Iterates over all fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Returns the number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Tells whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Tells whether a comma-separated list value has this token, ignoring case.
pub(super) fn list_has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_order_is_kept() {
        let mut headers = Headers::new();
        headers.append("Accept", "a");
        headers.append("accept", "b");
        headers.append("Host", "h");
        assert_eq!(headers.get("ACCEPT"), Some("a"));
        assert_eq!(headers.get_all("accept").collect::<Vec<_>>(), [b"a", b"b"]);
        headers.set("aCCept", "c");
        assert_eq!(headers.get_all("accept").collect::<Vec<_>>(), [b"c"]);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn a_value_can_not_end_its_line() {
        let mut headers = Headers::new();
        headers.append("Location", "/a\r\nX: y\0");
        assert_eq!(headers.get("location"), Some("/a  X: y "));
    }

    #[test]
    fn a_list_is_searched_by_token() {
        assert!(list_has_token(b"a, Keep-Alive ,b", "keep-alive"));
        assert!(!list_has_token(b"keep-alives", "keep-alive"));
    }
}
