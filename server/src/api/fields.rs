//! Reads what a request brings: JSON bodies, query parameters, ids and hashes in them.
//!
//! Invariant: a refusal names the field.

use std::fmt;
use std::marker::PhantomData;

use dfs_shared::hash::ChunkHash;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::status::ApiError;
use crate::metadata::sessions::SessionId;
use crate::router::Call;

/// Takes a JSON body apart, which has to be an object. Fields that have to be there are `Option`s for [`need`], so that a missing one
/// is named.
pub(super) fn from_json<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, ApiError> {
    let read: Result<JsonObject<T>, _> = serde_json::from_slice(body);
    read.map(|object| object.0).map_err(|error| ApiError::Json { why: error.to_string() })
}

/// A JSON object whose fields are those of `T`. By itself serde also takes an array for a struct and gives each field the item at its
/// place, so every struct inside a body stands in one of these as well.
#[derive(Debug)]
pub(super) struct JsonObject<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = JsonObject<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(JsonObject)
    }
}

/// A list of which only the first `MAX` items are kept: one of two bytes takes a hundred in memory.
#[derive(Debug)]
pub(super) struct AtMost<T, const MAX: usize> {
    /// The first `MAX` items.
    pub(super) items: Vec<T>,
    /// How many the list has.
    pub(super) count: usize,
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(AtMostVisitor(PhantomData))
    }
}

struct AtMostVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMostVisitor<T, MAX> {
    type Value = AtMost<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX {
            let Some(item) = list.next_element()? else { return Ok(AtMost { count: items.len(), items }) };
            items.push(item);
        }
        let mut count = items.len();
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(AtMost { items, count })
    }
}

/// Returns a field that has to be there.
pub(super) fn need<T>(value: Option<T>, name: &'static str) -> Result<T, ApiError> {
    value.ok_or(ApiError::FieldMissing { name })
}

/// Returns a query parameter that has to be there.
pub(super) fn query<'a>(call: &'a Call, name: &'static str) -> Result<&'a str, ApiError> {
    need(call.request.query(name), name)
}

/// Returns a query parameter that is a number.
pub(super) fn query_number(call: &Call, name: &'static str) -> Result<u64, ApiError> {
    query(call, name)?.parse().map_err(|_| field(name, "is no number"))
}

/// Reads a session's id.
pub(super) fn session_id(text: &str) -> Result<SessionId, ApiError> {
    SessionId::from_hex(text).ok_or_else(|| field("session_id", "is no id of a session"))
}

/// Reads a whole SHA-256, with or without `sha256:` in front.
pub(super) fn sha256(name: &'static str, text: &str) -> Result<ChunkHash, ApiError> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    ChunkHash::from_hex(digits).ok_or_else(|| field(name, "is no SHA-256: 64 hexadecimal digits"))
}

/// Says what is wrong with a field.
pub(super) fn field(name: &'static str, why: impl Into<String>) -> ApiError {
    ApiError::BadField { name, why: why.into() }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body<'a> {
        text: Option<Cow<'a, str>>,
        #[serde(default)]
        inner: Vec<JsonObject<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        number: Option<u64>,
    }

    #[test]
    fn a_body_is_an_object_and_so_is_every_struct_in_it() {
        let body: Body<'_> =
            from_json(br#" {"text": "a", "inner": [{"number": 1}, {}], "more": [2]}"#).unwrap();
        assert!(matches!(body.text, Some(Cow::Borrowed("a") | Cow::Owned(_))));
        assert_eq!(body.inner.iter().map(|inner| inner.0.number).collect::<Vec<_>>(), [Some(1), None]);
        let bad: [&[u8]; 8] = [
            b"[]",
            br#"["a"]"#,
            br#" [{"text": "a"}]"#,
            br#""a""#,
            b"1",
            b"null",
            b"true",
            br#"{"inner": [[1]]}"#,
        ];
        for body in bad {
            let refused = from_json::<Body<'_>>(body).unwrap_err().to_string();
            assert!(refused.contains("expected a JSON object"), "{}: {refused}", body.escape_ascii());
        }
        for cut in [&b""[..], b"{", br#"{"text""#, b"{} {}"] {
            assert!(
                matches!(from_json::<Body<'_>>(cut), Err(ApiError::Json { .. })),
                "{}",
                cut.escape_ascii()
            );
        }
    }
}
