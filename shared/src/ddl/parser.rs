//! Lines of tokens to the AST: recursive descent by indentation.
//!
//! ```text
//! block(n)  = { field(n) } | { item(n) }            all at indentation n
//! field(n)  = word ":" ( value | block(m > n) | nothing )
//! item(n)   = "-" ( value | field(c) { field(c) } )  c: the column of the item's first key
//! value     = string | word | number
//! ```
//!
//! A line that does not fit is reported and skipped, and the next one is looked at.

use super::ast::{Document, Field, Value, ValueKind};
use super::diagnostic::Sink;
use super::token::{Line, Span, Token, TokenKind};
use crate::limits::DDL_DEPTH_MAX;

/// Reads a whole text.
pub(super) fn parse(lines: &[Line], sink: &mut Sink<'_>) -> Document {
    let mut parser = Parser { lines: lines.to_vec(), at: 0, sink };
    let mut records = Vec::new();
    while let Some(line) = parser.lines.get(parser.at) {
        let indent = line.indent;
        if indent > 0 && !records.is_empty() {
            let span = line.tokens[0].span;
            parser.sink.expected(span, "this line belongs to nothing", "a record at the beginning of a line");
        }
        records.extend(parser.fields(indent, 0));
        if parser.lines.get(parser.at).is_some_and(|line| line.tokens[0].kind == TokenKind::Dash) {
            parser.refuse("an item of a list outside of a list", "a key");
        }
    }
    Document { records }
}

struct Parser<'s, 't> {
    lines: Vec<Line>,
    at: usize,
    sink: &'s mut Sink<'t>,
}

impl Parser<'_, '_> {
    fn refuse(&mut self, message: &str, expected: &str) {
        if let Some(line) = self.lines.get(self.at) {
            self.sink.expected(line.tokens[0].span, message, expected);
        }
        self.at += 1;
    }

    /// Takes fields at exactly this indentation; deeper lines that no field asked for are reported.
    fn fields(&mut self, indent: usize, depth: usize) -> Vec<Field> {
        let mut fields = Vec::new();
        while let Some(line) = self.lines.get(self.at) {
            if line.indent < indent || line.tokens[0].kind == TokenKind::Dash {
                break;
            }
            if line.indent > indent {
                self.refuse("the line is indented more than the one it follows", "the same indentation");
                continue;
            }
            let line = line.clone();
            self.at += 1;
            fields.extend(self.field(&line, 0, indent, depth));
        }
        fields
    }

    /// Takes the field that starts at a token of a line; lines below that are deeper than `indent` are its value.
    fn field(&mut self, line: &Line, first: usize, indent: usize, depth: usize) -> Option<Field> {
        let Some(Token { kind: TokenKind::Word(key), span: key_span }) = line.tokens.get(first) else {
            let found = &line.tokens[first.min(line.tokens.len() - 1)];
            if found.kind == TokenKind::Broken {
                return None;
            }
            self.sink.expected(
                found.span,
                format!("{} where a key should be", found.kind.describe()),
                "a key",
            );
            return None;
        };
        let Some(Token { kind: TokenKind::Colon, span: colon }) = line.tokens.get(first + 1) else {
            self.sink.expected(key_span.after(), format!("no `:` behind `{key}`"), "`:`");
            return None;
        };
        let value = match line.tokens.get(first + 2) {
            Some(token) => {
                self.nothing_behind(line, first + 3);
                self.scalar(token)
            }
            None => self.below(*colon, indent, depth),
        };
        Some(Field { key: key.clone(), key_span: *key_span, value })
    }

    fn nothing_behind(&mut self, line: &Line, from: usize) {
        if let Some(extra) = line.tokens.get(from) {
            let message = format!("{} behind the value", extra.kind.describe());
            self.sink.expected(extra.span, message, "the end of the line");
        }
    }

    fn scalar(&mut self, token: &Token) -> Value {
        let kind = match &token.kind {
            TokenKind::Broken => ValueKind::Broken,
            TokenKind::Text(text) => ValueKind::Text(text.clone()),
            TokenKind::Word(word) => ValueKind::Text(word.clone().into_bytes()),
            TokenKind::Number(number) => ValueKind::Number(*number),
            other @ (TokenKind::Colon | TokenKind::Dash) => {
                self.sink.expected(
                    token.span,
                    format!("{} where a value should be", other.describe()),
                    "a value",
                );
                ValueKind::Broken
            }
        };
        Value { kind, span: token.span }
    }

    /// Takes the block below a key.
    fn below(&mut self, key: Span, indent: usize, depth: usize) -> Value {
        let Some(line) = self.lines.get(self.at).filter(|line| line.indent > indent) else {
            return Value { kind: ValueKind::Nothing, span: key.after() };
        };
        let (inner, span) = (line.indent, line.tokens[0].span);
        if depth + 1 >= DDL_DEPTH_MAX {
            self.sink.error(span, format!("fields within fields, more than {DDL_DEPTH_MAX} deep"));
            while self.lines.get(self.at).is_some_and(|line| line.indent > indent) {
                self.at += 1;
            }
            return Value { kind: ValueKind::Broken, span };
        }
        let kind = if line.tokens[0].kind == TokenKind::Dash {
            ValueKind::List(self.items(inner, depth + 1))
        } else {
            ValueKind::Map(self.fields(inner, depth + 1))
        };
        Value { kind, span }
    }

    fn items(&mut self, indent: usize, depth: usize) -> Vec<Value> {
        let mut items = Vec::new();
        while let Some(line) = self.lines.get(self.at) {
            if line.indent < indent {
                break;
            }
            if line.indent > indent || line.tokens[0].kind != TokenKind::Dash {
                self.refuse("this line is no item of the list", "`-` at the list's indentation");
                continue;
            }
            let line = line.clone();
            self.at += 1;
            items.push(self.item(&line, depth));
        }
        items
    }

    fn item(&mut self, line: &Line, depth: usize) -> Value {
        let dash = line.tokens[0].span;
        let Some(first) = line.tokens.get(1) else {
            return Value { kind: ValueKind::Nothing, span: dash.after() };
        };
        if line.tokens.get(2).is_none_or(|second| second.kind != TokenKind::Colon) {
            self.nothing_behind(line, 2);
            return self.scalar(first);
        }
        // Further fields of the item stand below its first key.
        let column = line.indent + (first.span.start - dash.start);
        let mut fields: Vec<Field> = self.field(line, 1, column, depth).into_iter().collect();
        fields.extend(self.fields_of_item(line.indent, column, depth));
        Value { kind: ValueKind::Map(fields), span: first.span }
    }

    fn fields_of_item(&mut self, dash: usize, column: usize, depth: usize) -> Vec<Field> {
        match self.lines.get(self.at) {
            Some(line) if line.indent > dash && line.tokens[0].kind != TokenKind::Dash => {
                let indent = line.indent;
                if indent != column {
                    let span = line.tokens[0].span;
                    let expected = format!("{column} spaces before it");
                    self.sink.expected(
                        span,
                        "the field does not stand below the first one of its item",
                        expected,
                    );
                }
                self.fields(indent, depth)
            }
            _ => Vec::new(),
        }
    }
}
