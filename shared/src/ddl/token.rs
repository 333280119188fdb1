//! The pieces that a line is made of.

/// A half-open range of bytes of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// The place just behind this one.
    pub(super) fn after(self) -> Self {
        Self { start: self.end, end: self.end }
    }
}

/// What a piece is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Letters, digits, `_` and `-`, not beginning with a digit: a key, or a value without quotes.
    Word(String),
    /// A decimal number.
    Number(u64),
    /// A string in quotes, its escapes resolved.
    Text(Vec<u8>),
    /// `:`
    Colon,
    /// `-` before an item of a list.
    Dash,
    /// Something unreadable that was reported already.
    Broken,
}

impl TokenKind {
    /// What to call it in a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Number(number) => format!("the number {number}"),
            Self::Text(_) => "a string".to_owned(),
            Self::Colon => "`:`".to_owned(),
            Self::Dash => "`-`".to_owned(),
            Self::Broken => "something unreadable".to_owned(),
        }
    }
}

/// A piece and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Span,
}

/// A line with something in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Spaces before the first token.
    pub(super) indent: usize,
    /// At least one.
    pub(super) tokens: Vec<Token>,
}
