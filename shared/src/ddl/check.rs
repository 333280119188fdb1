//! The AST to file metadata: which fields there are, which must be there, and what their values may be.

use super::ast::{Document, Field, Value, ValueKind};
use super::diagnostic::Sink;
use super::metadata::{FileHash, FileMetadata, ModifiedAt, Replica, SyncState, SyncStatus};
use super::token::Span;
use crate::limits::{DDL_RECORDS_MAX, DDL_REPLICAS_MAX};

const RECORD: &str = "file_metadata";
const FIELDS: [&str; 7] = ["name", "version", "size", "hash", "last_modified", "owner", "sync_state"];
const STATE_FIELDS: [&str; 2] = ["status", "replicas"];
const REPLICA_FIELDS: [&str; 2] = ["node", "version"];

/// Returns the records that are whole; what is wrong with the others is reported.
pub(super) fn check(document: &Document, sink: &mut Sink<'_>) -> Vec<FileMetadata> {
    if let Some(extra) = document.records.get(DDL_RECORDS_MAX) {
        sink.error(extra.key_span, format!("more than {DDL_RECORDS_MAX} records"));
    }
    document.records.iter().take(DDL_RECORDS_MAX).filter_map(|field| record(field, sink)).collect()
}

/// The fields of one block, each once and known.
struct Fields<'a> {
    at: Span,
    fields: Vec<&'a Field>,
}

impl<'a> Fields<'a> {
    fn of(what: &str, at: Span, value: &'a Value, known: &[&str], sink: &mut Sink<'_>) -> Option<Self> {
        let fields = match &value.kind {
            ValueKind::Map(fields) => fields,
            ValueKind::Broken => return None,
            other => {
                sink.expected(
                    value.span,
                    format!("{} in {what}", other.describe()),
                    "fields, further to the right",
                );
                return None;
            }
        };
        let mut found: Vec<&Field> = Vec::new();
        for field in fields {
            if !known.contains(&&*field.key) {
                let all = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                sink.expected(field.key_span, format!("unknown field `{}` in {what}", field.key), all);
            } else if found.iter().any(|other| other.key == field.key) {
                sink.error(field.key_span, format!("`{}` a second time in {what}", field.key));
            } else {
                found.push(field);
            }
        }
        Some(Self { at, fields: found })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.iter().find(|field| field.key == key).map(|field| &field.value)
    }

    fn required(&self, key: &str, sink: &mut Sink<'_>) -> Option<&'a Value> {
        let value = self.get(key);
        if value.is_none() {
            sink.error(self.at, format!("the field `{key}` is missing"));
        }
        value
    }

    fn number(&self, key: &str, sink: &mut Sink<'_>) -> Option<u64> {
        let value = self.required(key, sink)?;
        match &value.kind {
            ValueKind::Number(number) => Some(*number),
            _ => refuse(key, value, "a number", sink),
        }
    }

    /// Returns a string without anything that is not UTF-8.
    fn text(&self, key: &str, sink: &mut Sink<'_>) -> Option<(&'a str, &'a Value)> {
        let value = self.required(key, sink)?;
        let text = match &value.kind {
            ValueKind::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        };
        match text {
            Some(text) => Some((text, value)),
            None => refuse(key, value, "a string of UTF-8", sink),
        }
    }
}

fn refuse<T>(key: &str, value: &Value, expected: &str, sink: &mut Sink<'_>) -> Option<T> {
    if value.kind != ValueKind::Broken {
        sink.expected(value.span, format!("{} for `{key}`", value.kind.describe()), expected);
    }
    None
}

fn record(field: &Field, sink: &mut Sink<'_>) -> Option<FileMetadata> {
    if field.key != RECORD {
        sink.expected(field.key_span, format!("unknown record `{}`", field.key), format!("`{RECORD}`"));
        return None;
    }
    let fields = Fields::of("a record", field.key_span, &field.value, &FIELDS, sink)?;
    // All of them before the first `?`: each missing one is reported.
    let name = name(&fields, sink);
    let version = fields.number("version", sink);
    let size = fields.number("size", sink);
    let hash =
        parsed(&fields, "hash", "`sha256:` and up to 64 hexadecimal digits", FileHash::from_text, sink);
    let expected = "a date and time such as `2024-01-15T10:30:00Z`";
    let last_modified = parsed(&fields, "last_modified", expected, ModifiedAt::from_text, sink);
    let owner = match fields.get("owner") {
        Some(_) => fields.text("owner", sink).map(|(owner, _)| owner.to_owned()),
        None => Some(String::new()),
    };
    let sync_state = match fields.get("sync_state") {
        Some(value) => sync_state(value, sink),
        None => Some(SyncState::default()),
    };
    Some(FileMetadata {
        name: name?,
        version: version?,
        size: size?,
        hash: hash?,
        last_modified: last_modified?,
        owner: owner?,
        sync_state: sync_state?,
    })
}

fn name(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Vec<u8>> {
    let value = fields.required("name", sink)?;
    match &value.kind {
        ValueKind::Text(name) if !name.is_empty() => Some(name.clone()),
        _ => refuse("name", value, "a string that is not empty", sink),
    }
}

fn parsed<T>(
    fields: &Fields<'_>,
    key: &str,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
    sink: &mut Sink<'_>,
) -> Option<T> {
    let (text, value) = fields.text(key, sink)?;
    let parsed = parse(text);
    if parsed.is_none() {
        sink.expected(value.span, format!("`{key}` cannot be `{text}`"), expected);
    }
    parsed
}

fn sync_state(value: &Value, sink: &mut Sink<'_>) -> Option<SyncState> {
    let fields = Fields::of("`sync_state`", value.span, value, &STATE_FIELDS, sink)?;
    let words = SyncStatus::ALL.map(|status| format!("`{}`", status.as_str())).join(", ");
    let status = parsed(&fields, "status", &words, SyncStatus::from_word, sink);
    let replicas = match fields.get("replicas") {
        None => Some(Vec::new()),
        Some(Value { kind: ValueKind::Nothing, .. }) => Some(Vec::new()),
        Some(Value { kind: ValueKind::List(items), span }) => {
            if items.len() > DDL_REPLICAS_MAX {
                sink.error(*span, format!("more than {DDL_REPLICAS_MAX} replicas"));
            }
            // Every item is looked at, also behind a bad one.
            let all: Vec<_> = items.iter().take(DDL_REPLICAS_MAX).map(|item| replica(item, sink)).collect();
            all.into_iter().collect()
        }
        Some(other) => refuse("replicas", other, "a list", sink),
    };
    Some(SyncState { status: status?, replicas: replicas? })
}

fn replica(item: &Value, sink: &mut Sink<'_>) -> Option<Replica> {
    let fields = Fields::of("a replica", item.span, item, &REPLICA_FIELDS, sink)?;
    let node = fields.text("node", sink);
    let version = fields.number("version", sink);
    Some(Replica { node: node?.0.to_owned(), version: version? })
}
