//! Text to lines of tokens.
//!
//! A text that came through `curl -d` has lost its line breaks but not the spaces that began its lines. So in a text
//! without any line break a line begins at each key and each `-`, and the spaces before it are its indentation.

use super::diagnostic::Sink;
use super::token::{Line, Span, Token, TokenKind};

/// Cuts a text into lines that have something in them. What cannot be read is reported and left out.
pub(super) fn lines(text: &str, sink: &mut Sink<'_>) -> Vec<Line> {
    let is_flat = !text.trim_end_matches(['\n', '\r']).contains('\n');
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, sink };
    if is_flat { lexer.flat() } else { lexer.lines() }
}

struct Lexer<'a, 's, 't> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    sink: &'s mut Sink<'t>,
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

impl Lexer<'_, '_, '_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn lines(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        while self.at < self.bytes.len() {
            let start = self.at;
            self.skip(b' ');
            let indent = self.at - start;
            if self.peek() == Some(b'\t') {
                let span = Span { start: self.at, end: self.at + 1 };
                self.sink.expected(span, "a tab at the beginning of a line", "spaces");
                self.at = self.text[self.at..].find('\n').map_or(self.bytes.len(), |end| self.at + end);
            }
            let mut tokens = Vec::new();
            while let Some(byte) = self.peek() {
                if byte == b'\n' {
                    self.at += 1;
                    break;
                }
                tokens.extend(self.next(byte, false));
            }
            if !tokens.is_empty() {
                lines.push(Line { indent, tokens });
            }
        }
        lines
    }

    fn flat(&mut self) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let mut spaces = 0;
        while let Some(byte) = self.peek() {
            if byte == b' ' {
                let start = self.at;
                self.skip(b' ');
                spaces = self.at - start;
                continue;
            }
            let Some(token) = self.next(byte, true) else { continue };
            let indent = std::mem::take(&mut spaces);
            let is_key = matches!(token.kind, TokenKind::Word(_)) && self.peek() == Some(b':');
            let begins = token.kind == TokenKind::Dash || is_key;
            match lines.last_mut() {
                Some(line)
                    if !begins || line.tokens.last().is_some_and(|last| last.kind == TokenKind::Dash) =>
                {
                    line.tokens.push(token);
                }
                _ => lines.push(Line { indent, tokens: vec![token] }),
            }
        }
        lines
    }

    fn skip(&mut self, byte: u8) {
        while self.peek() == Some(byte) {
            self.at += 1;
        }
    }

    /// Takes one token, or skips what is none.
    fn next(&mut self, byte: u8, is_flat: bool) -> Option<Token> {
        let start = self.at;
        let kind = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                self.at += 1;
                return None;
            }
            b'#' => {
                self.comment(is_flat);
                return None;
            }
            b':' => {
                self.at += 1;
                TokenKind::Colon
            }
            b'"' => self.string(),
            b'0'..=b'9' => self.number(),
            b'-' if matches!(self.bytes.get(start + 1), None | Some(b' ' | b'\n' | b'\r')) => {
                self.at += 1;
                TokenKind::Dash
            }
            byte if is_word_start(byte) => self.word(),
            _ => {
                let found = self.text[start..].chars().next().unwrap_or(' ');
                self.at += found.len_utf8();
                let span = Span { start, end: self.at };
                self.sink.expected(span, format!("unexpected character `{found}`"), "a key, a value or `-`");
                TokenKind::Broken
            }
        };
        Some(Token { kind, span: Span { start, end: self.at } })
    }

    fn comment(&mut self, is_flat: bool) {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte != b'\n') {
            self.at += 1;
        }
        if is_flat && !self.text[start..self.at].trim_end().is_empty() && self.text[start..].contains(':') {
            let span = Span { start, end: start + 1 };
            let message = "a comment hides the rest of a text without line breaks";
            self.sink.expected(
                span,
                message,
                "the text with its line breaks (`curl --data-binary` keeps them)",
            );
        }
    }

    fn word(&mut self) -> TokenKind {
        let start = self.at;
        while self.peek().is_some_and(is_word) {
            self.at += 1;
        }
        TokenKind::Word(self.text[start..self.at].to_owned())
    }

    fn number(&mut self) -> TokenKind {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        if let Ok(number) = digits.parse() {
            return TokenKind::Number(number);
        }
        let span = Span { start, end: self.at };
        self.sink.expected(span, "the number is too large", format!("at most {}", u64::MAX));
        TokenKind::Broken
    }

    /// Takes a string in quotes. It ends on its line.
    fn string(&mut self) -> TokenKind {
        let start = self.at;
        self.at += 1;
        let mut value = Vec::new();
        loop {
            match self.peek() {
                None | Some(b'\n') => {
                    let span = Span { start, end: self.at };
                    self.sink.expected(span, "the string does not end on its line", "`\"`");
                    return TokenKind::Broken;
                }
                Some(b'"') => {
                    self.at += 1;
                    return TokenKind::Text(value);
                }
                Some(b'\\') => self.escape(&mut value),
                Some(byte) => {
                    value.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, value: &mut Vec<u8>) {
        let start = self.at;
        self.at += 1;
        let simple = match self.peek() {
            Some(b'"') => Some(b'"'),
            Some(b'\\') => Some(b'\\'),
            Some(b'n') => Some(b'\n'),
            Some(b'r') => Some(b'\r'),
            Some(b't') => Some(b'\t'),
            _ => None,
        };
        if let Some(byte) = simple {
            value.push(byte);
            self.at += 1;
            return;
        }
        let byte = (self.peek() == Some(b'x')).then(|| self.text.get(start + 2..start + 4)).flatten();
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                value.push(byte);
                self.at = start + 4;
            }
            None => {
                let span = Span { start, end: start + 2 };
                self.sink.expected(
                    span,
                    "unknown escape",
                    r#"`\"`, `\\`, `\n`, `\r`, `\t` or `\x` and two digits"#,
                );
            }
        }
    }
}
