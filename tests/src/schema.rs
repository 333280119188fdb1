//! Checks JSON values against the schemas of an OpenAPI description.
//!
//! Knows the keywords that the description uses and refuses every other one, so none is passed over. Stricter than JSON
//! Schema in one thing: a field that a schema does not describe is an error, unless it says `additionalProperties`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// A description and the schemas in it.
#[derive(Debug)]
pub struct Description {
    document: Value,
}

impl Description {
    /// Takes a description apart.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn new(text: &str) -> Result<Self> {
        Ok(Self { document: serde_json::from_str(text).context("the description is no JSON")? })
    }

    /// The whole document.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// What a value that may be a reference stands for.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value> {
        let Some(reference) = value.get("$ref") else { return Ok(value) };
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
        let target = pointer.and_then(|pointer| self.document.pointer(pointer));
        self.resolve(target.with_context(|| format!("{reference} leads nowhere"))?)
    }

    /// Checks a value; `at` says where it stands.
    ///
    /// # Errors
    /// With what does not fit.
    pub fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<()> {
        self.check_parts(schema, value, at)?;
        let Value::Object(fields) = value else { return Ok(()) };
        let mut known = BTreeSet::new();
        if self.gather(schema, &mut known)? {
            return Ok(());
        }
        match fields.keys().find(|name| !known.contains(name.as_str())) {
            Some(name) => bail!("{at} has the field `{name}`, which is not described"),
            None => Ok(()),
        }
    }

    /// Gathers the fields that a schema describes; tells whether it lets in others, or leaves that to alternatives that
    /// have been checked.
    fn gather<'a>(&'a self, schema: &'a Value, known: &mut BTreeSet<&'a str>) -> Result<bool> {
        let schema = self.resolve(schema)?;
        let fields = schema.get("properties").and_then(Value::as_object);
        known.extend(fields.into_iter().flat_map(Map::keys).map(String::as_str));
        let mut is_open = schema.get("additionalProperties") == Some(&Value::Bool(true));
        is_open |= schema.get("oneOf").is_some();
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            is_open |= self.gather(part, known)?;
        }
        Ok(is_open)
    }

    fn check_parts(&self, schema: &Value, value: &Value, at: &str) -> Result<()> {
        let keywords = self.resolve(schema)?.as_object().with_context(|| format!("{at}: no schema"))?;
        for (keyword, rule) in keywords {
            match keyword.as_str() {
                "description" | "default" | "additionalProperties" => {}
                "allOf" => {
                    for part in list(rule)? {
                        self.check_parts(part, value, at)?;
                    }
                }
                "oneOf" => {
                    let all: Vec<_> = list(rule)?.iter().map(|one| self.check(one, value, at)).collect();
                    let fitting = all.iter().filter(|one| one.is_ok()).count();
                    ensure!(fitting == 1, "{at} fits {fitting} of the alternatives: {all:?} {value}");
                }
                "properties" => self.check_fields(rule, value, at)?,
                "required" => {
                    let is_there = |name: &Value| name.as_str().is_some_and(|name| value.get(name).is_some());
                    let missing = list(rule)?.iter().find(|name| !is_there(name));
                    ensure!(missing.is_none(), "{at} lacks {missing:?}: {value}");
                }
                "items" => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{number}]"))?;
                    }
                }
                _ => ensure!(holds(keyword, rule, value)?, "{at} is {value}, and {keyword} is {rule}"),
            }
        }
        Ok(())
    }

    fn check_fields(&self, schemas: &Value, value: &Value, at: &str) -> Result<()> {
        for (name, schema) in schemas.as_object().context("properties are an object")? {
            if let Some(field) = value.get(name) {
                self.check(schema, field, &format!("{at}.{name}"))?;
            }
        }
        Ok(())
    }
}

fn list(rule: &Value) -> Result<&Vec<Value>> {
    rule.as_array().with_context(|| format!("{rule} is no list"))
}

/// Whether a keyword about one value holds. A keyword about another type than the value's does.
fn holds(keyword: &str, rule: &Value, value: &Value) -> Result<bool> {
    let number = |rule: &Value| rule.as_u64().with_context(|| format!("{rule} is no number"));
    Ok(match keyword {
        "type" => match rule {
            Value::Array(types) => types.iter().any(|one| is_of(one, value)),
            one => is_of(one, value),
        },
        "enum" => list(rule)?.contains(value),
        "const" => rule == value,
        "minimum" => {
            let least = number(rule)?;
            !value.is_number() || value.as_u64().is_some_and(|value| value >= least)
        }
        "maximum" => {
            let most = number(rule)?;
            !value.is_number() || value.as_u64().is_some_and(|value| value <= most)
        }
        "minLength" => value
            .as_str()
            .map_or(Ok(true), |text| Ok::<_, anyhow::Error>(text.len() as u64 >= number(rule)?))?,
        "maxItems" => value
            .as_array()
            .map_or(Ok(true), |items| Ok::<_, anyhow::Error>(items.len() as u64 <= number(rule)?))?,
        "pattern" => value.as_str().map_or(Ok(true), |text| matches(rule, text))?,
        "format" => {
            ensure!(rule == "date-time", "the format {rule} is not known");
            value.as_str().is_none_or(is_date_time)
        }
        _ => bail!("the keyword {keyword} is not known"),
    })
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

/// The patterns that the description uses.
fn matches(pattern: &Value, text: &str) -> Result<bool> {
    let is_lower_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Ok(match pattern.as_str().unwrap_or_default() {
        "^[0-9a-f]{64}$" => text.len() == 64 && is_lower_hex(text),
        "^sha256:[0-9a-f]{1,64}$" => text
            .strip_prefix("sha256:")
            .is_some_and(|digits| (1..=64).contains(&digits.len()) && is_lower_hex(digits)),
        "^(sha256:)?[0-9a-fA-F]{64}$" => {
            let digits = text.strip_prefix("sha256:").unwrap_or(text);
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        "^[a-z0-9_]+$" => {
            !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        }
        _ => bail!("the pattern {pattern} is not known"),
    })
}

/// Whether a text has the form of RFC 3339.
fn is_date_time(text: &str) -> bool {
    let form = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        form.get(range).is_some_and(|bytes| bytes.iter().all(u8::is_ascii_digit))
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let parts = [0..4, 5..7, 8..10, 11..13, 14..16, 17..19];
    let zone = text.get(19..).unwrap_or_default();
    let zone =
        zone.strip_prefix('.').map_or(zone, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    marks.iter().all(|(at, mark)| form.get(*at) == Some(mark))
        && parts.into_iter().all(digits)
        && (zone == "Z" || zone.len() == 6 && zone.starts_with(['+', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_found_and_what_fits_is_not() {
        let description = Description::new(
            r##"{"s": {"File": {"type": "object", "required": ["path"], "properties": {
                "path": {"type": "string", "minLength": 1}, "size": {"type": ["integer", "null"], "minimum": 1},
                "at": {"type": "string", "format": "date-time"}, "state": {"enum": ["a", "b"]}}}}}"##,
        )
        .unwrap();
        let file = json!({"$ref": "#/s/File"});
        let check = |schema: &Value, value: Value| description.check(schema, &value, "it");
        let more = json!({"allOf": [file, {"type": "object", "properties": {"more": {"const": 1}}}]});
        let one = json!({"oneOf": [file, {"type": "null"}]});
        let all = json!({"type": "array", "items": file, "maxItems": 1});
        for (schema, value) in [
            (&file, json!({"path": "x", "size": null, "at": "2024-01-15T10:30:00.5Z", "state": "a"})),
            (&file, json!({"path": "x", "size": 1, "at": "2024-01-15T10:30:00+01:00"})),
            (&more, json!({"path": "x", "more": 1})),
            (&one, json!(null)),
            (&one, json!({"path": "x"})),
            (&all, json!([{"path": "x"}])),
        ] {
            check(schema, value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
        }
        for (schema, value) in [
            (&file, json!({"size": 1})),
            (&file, json!({"path": ""})),
            (&file, json!({"path": "x", "size": 0})),
            (&file, json!({"path": "x", "size": "1"})),
            (&file, json!({"path": "x", "at": "yesterday"})),
            (&file, json!({"path": "x", "state": "c"})),
            (&file, json!({"path": "x", "other": 1})),
            (&file, json!([])),
            (&more, json!({"path": "x", "more": 2})),
            (&more, json!({"path": "x", "other": 1})),
            (&one, json!(7)),
            (&all, json!([{"path": 1}])),
            (&all, json!([{"path": "x"}, {"path": "x"}])),
            (&json!({"unknown": 1}), json!(1)),
            (&json!({"$ref": "#/nowhere"}), json!(1)),
        ] {
            assert!(check(schema, value.clone()).is_err(), "{value}");
        }
    }
}
