//! What is wrong with a text, and where.

use std::fmt;

use super::token::Span;

/// A place in a text; both numbers start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One thing that is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What would have been right here.
    pub expected: Option<String>,
    /// The line as it stands in the text.
    pub source_line: String,
    /// How many characters it is about, at least 1.
    pub width: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        write!(f, "line {line}, column {column}: {}", self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        let number = line.to_string();
        write!(f, "\n {number} | {}", self.source_line)?;
        let marks = "^".repeat(self.width);
        write!(f, "\n {:len$} | {:before$}{marks}", "", "", len = number.len(), before = column - 1)
    }
}

impl std::error::Error for Diagnostic {}

/// Gathers what is wrong with one text.
pub(super) struct Sink<'a> {
    text: &'a str,
    found: Vec<(Span, String, Option<String>)>,
}

/// Columns of a source line that are shown around an error.
const SHOWN_MAX: usize = 160;

impl<'a> Sink<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.found.push((span, message.into(), None));
    }

    pub(super) fn expected(&mut self, span: Span, message: impl Into<String>, expected: impl Into<String>) {
        self.found.push((span, message.into(), Some(expected.into())));
    }

    /// Returns everything in the order of the text.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(span, ..)| (span.start, span.end));
        let text = self.text;
        self.found
            .into_iter()
            .map(|(span, message, expected)| diagnostic(text, span, message, expected))
            .collect()
    }
}

fn diagnostic(text: &str, span: Span, message: String, expected: Option<String>) -> Diagnostic {
    let start = floor(text, span.start.min(text.len()));
    let end = floor(text, span.end.clamp(start, text.len()));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[..start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let width = text[start..end.min(line_end)].chars().count().max(1);
    let source_line =
        text[line_start..line_end].trim_end_matches('\r').chars().take(column + SHOWN_MAX).collect();
    Diagnostic { place: Place { line, column }, message, expected, source_line, width: width.min(SHOWN_MAX) }
}

/// The start of the character that a byte belongs to.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
