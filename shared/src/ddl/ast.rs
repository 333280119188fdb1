//! What the parser makes of a text: keys, values and lists, each with its place; what they mean is `check`'s.

use super::token::Span;

/// A text: its top-level fields, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Document {
    pub(super) records: Vec<Field>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Value,
}

/// What stands behind a key or a dash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) kind: ValueKind,
    pub(super) span: Span,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// Nothing at all.
    Nothing,
    /// A string, in quotes or one word.
    Text(Vec<u8>),
    /// A number.
    Number(u64),
    /// Fields, one below the other.
    Map(Vec<Field>),
    /// Items with dashes.
    List(Vec<Value>),
    /// Something that was reported already.
    Broken,
}

impl ValueKind {
    /// What to call it in a message.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Map(_) => "fields",
            Self::List(_) => "a list",
            Self::Broken => "something unreadable",
        }
    }
}
