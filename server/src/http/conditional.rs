//! Conditional requests (RFC 9110, section 13): whether a request's conditions on a representation's `ETag` hold.
//!
//! Only entity tags, which is all that a change needs; [`super::Representation`] adds the dates for downloads.

use super::headers::Headers;
use super::method::Method;

/// A representation's name: different bytes, different tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag(String);

impl EntityTag {
    /// Makes a strong tag of an opaque text; anything but visible ASCII without quotes is left out of it.
    #[must_use]
    pub fn strong(opaque: &str) -> Self {
        let opaque: String = opaque.chars().filter(|char| char.is_ascii_graphic() && *char != '"').collect();
        Self(format!("\"{opaque}\""))
    }

    /// Returns it as a header has it, in quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a request's conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Go on.
    Holds,
    /// 304: the client has this representation.
    NotModified,
    /// 412: the client means another representation.
    Failed,
}

impl Precondition {
    /// Evaluates `If-Match` and then `If-None-Match` (section 13.2.2); `current` is `None` where nothing is there.
    #[must_use]
    pub fn of(method: &Method, headers: &Headers, current: Option<&EntityTag>) -> Self {
        if if_match_holds(headers, current) == Some(false) {
            return Self::Failed;
        }
        match if_none_match_holds(headers, current) {
            None | Some(true) => Self::Holds,
            Some(false) if matches!(method, Method::Get | Method::Head) => Self::NotModified,
            Some(false) => Self::Failed,
        }
    }

    /// Tells whether a `Range` counts: only if the representation that `If-Range` names is the current one (section 13.1.5).
    /// A date there never counts, as it would have to be known to be strong.
    #[must_use]
    pub fn range_counts(headers: &Headers, current: &EntityTag) -> bool {
        let mut values = headers.get_all("If-Range");
        match (values.next(), values.next()) {
            (None, _) => true,
            (Some(value), None) => value == current.as_str().as_bytes(),
            (Some(_), Some(_)) => false,
        }
    }
}

/// Evaluates `If-Match`; `None` if there is none.
pub(super) fn if_match_holds(headers: &Headers, current: Option<&EntityTag>) -> Option<bool> {
    headers.contains("If-Match").then(|| matches(headers, "If-Match", current, Comparison::Strong))
}

/// Evaluates `If-None-Match`; `None` if there is none.
pub(super) fn if_none_match_holds(headers: &Headers, current: Option<&EntityTag>) -> Option<bool> {
    headers.contains("If-None-Match").then(|| !matches(headers, "If-None-Match", current, Comparison::Weak))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn matches(headers: &Headers, name: &str, current: Option<&EntityTag>, comparison: Comparison) -> bool {
    let Some(current) = current else { return false };
    headers.get_all(name).any(|value| {
        value.trim_ascii() == b"*"
            || tags(value).any(|tag| match tag {
                Tag { weak: true, .. } if comparison == Comparison::Strong => false,
                Tag { quoted, .. } => quoted == current.as_str().as_bytes(),
            })
    })
}

struct Tag<'a> {
    weak: bool,
    /// With its quotes.
    quoted: &'a [u8],
}

/// The entity tags of a list; it ends at the first thing that is none. A tag may hold commas.
fn tags(mut rest: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', tail @ ..] = rest {
            rest = tail;
        }
        let (weak, text) = match rest {
            [b'W', b'/', tail @ ..] => (true, tail),
            _ => (false, rest),
        };
        let [b'"', opaque @ ..] = text else { return None };
        let len = opaque.iter().position(|byte| *byte == b'"')?;
        let (quoted, tail) = text.split_at(len + 2);
        rest = tail;
        Some(Tag { weak, quoted })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, name: &'static str, value: &'static str, current: Option<&str>) -> Precondition {
        let mut headers = Headers::new();
        headers.append(name, value);
        Precondition::of(method, &headers, current.map(EntityTag::strong).as_ref())
    }

    #[test]
    fn if_none_match_compares_weakly_and_says_304_to_readers_only() {
        for (value, current, matches) in [
            (r#""a""#, Some("a"), true),
            (r#"W/"a""#, Some("a"), true),
            (r#""b", W/"x,y" ,"a""#, Some("a"), true),
            (r#""x,y""#, Some("x,y"), true),
            ("*", Some("a"), true),
            ("*", None, false),
            (r#""a""#, None, false),
            (r#""b""#, Some("a"), false),
            ("a", Some("a"), false),
            (r#"garbage, "a""#, Some("a"), false),
            (r#""a"#, Some("a"), false),
        ] {
            let (read, write) = match matches {
                true => (Precondition::NotModified, Precondition::Failed),
                false => (Precondition::Holds, Precondition::Holds),
            };
            assert_eq!(of(&Method::Get, "If-None-Match", value, current), read, "{value}");
            assert_eq!(of(&Method::Head, "If-None-Match", value, current), read, "{value}");
            assert_eq!(of(&Method::Put, "If-None-Match", value, current), write, "{value}");
        }
    }

    #[test]
    fn if_match_compares_strongly() {
        for (value, current, expected) in [
            (r#""a""#, Some("a"), Precondition::Holds),
            (r#"W/"a""#, Some("a"), Precondition::Failed),
            (r#""b""#, Some("a"), Precondition::Failed),
            ("*", Some("a"), Precondition::Holds),
            ("*", None, Precondition::Failed),
        ] {
            assert_eq!(of(&Method::Put, "If-Match", value, current), expected, "{value}");
        }
    }

    #[test]
    fn a_range_counts_only_for_the_representation_that_it_was_asked_of() {
        let current = EntityTag::strong("a");
        let mut headers = Headers::new();
        assert!(Precondition::range_counts(&headers, &current));
        headers.append("If-Range", r#""a""#);
        assert!(Precondition::range_counts(&headers, &current));
        for other in [r#"W/"a""#, r#""b""#, "Sun, 06 Nov 1994 08:49:37 GMT"] {
            headers.set("If-Range", other);
            assert!(!Precondition::range_counts(&headers, &current), "{other}");
        }
    }

    #[test]
    fn a_tag_never_breaks_its_header() {
        assert_eq!(EntityTag::strong("a\"b\r\n c").as_str(), "\"abc\"");
    }
}
