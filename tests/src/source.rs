//! Reads Rust sources far enough to tell which module refers to which.
//!
//! It knows comments, strings, paths and `use` groups, not the language; test modules are left out, because
//! tests may look anywhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One source file.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path relative to the workspace.
    pub path: PathBuf,
    /// Module path below the crate's root; empty for `lib.rs` and `main.rs`.
    pub module: Vec<String>,
    /// The text as it stands.
    pub text: String,
}

/// A path as the source names it, made absolute where it began with `crate`, `self` or `super`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Line number, from 1.
    pub line: usize,
    /// For example `["crate", "tree", "journal"]` or `["tokio", "net", "TcpListener"]`.
    pub path: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Mark(char),
}

/// Every source file of the crate in `directory`, which is relative to `workspace`, but the files of
/// tests and their kits: these may look anywhere.
///
/// # Errors
/// When one can't be read.
pub fn source_files(workspace: &Path, directory: &str) -> Result<Vec<SourceFile>> {
    let root = workspace.join(directory).join("src");
    let mut files = Vec::new();
    for path in crate::ops::files_below(&root)? {
        let is_test = path.strip_prefix(&root)?.components().any(|part| {
            let name = part.as_os_str();
            name == "tests.rs" || name == "tests" || name == "kit.rs"
        });
        if is_test || path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let module = module_of(path.strip_prefix(&root)?);
        files.push(SourceFile { path: path.strip_prefix(workspace)?.to_owned(), module, text });
    }
    Ok(files)
}

fn module_of(relative: &Path) -> Vec<String> {
    let without = relative.with_extension("");
    let mut module: Vec<String> =
        without.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if matches!(module.as_slice(), [only] if only == "lib" || only == "main") {
        module.clear();
    }
    module
}

impl SourceFile {
    /// Everything that the file refers to outside its test modules.
    #[must_use]
    pub fn references(&self) -> BTreeSet<Reference> {
        let tokens = without_test_modules(&tokens(&self.text));
        let mut found = BTreeSet::new();
        let mut at = 0;
        while at < tokens.len() {
            let begins = matches!(tokens[at].1, Token::Word(_))
                && tokens.get(at + 1).is_some_and(|next| next.1 == Token::PathSeparator)
                && (at == 0 || tokens[at - 1].1 != Token::PathSeparator);
            if begins {
                let mut paths = Vec::new();
                let line = tokens[at].0;
                at = read_path(&tokens, at, &[], &mut paths);
                found.extend(paths.into_iter().map(|path| Reference { line, path: self.absolute(path) }));
            } else {
                at += 1;
            }
        }
        found
    }

    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let mut base: Vec<String> = self.module.clone();
        let mut rest = path.as_slice();
        match rest.first().map(String::as_str) {
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => return path,
        }
        let mut whole = vec![String::from("crate")];
        whole.extend(base);
        whole.extend_from_slice(rest);
        whole
    }
}

/// Reads the path or group that begins at `at`; returns where it ends.
fn read_path(
    tokens: &[(usize, Token)],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(|token| &token.1) {
            Some(Token::Word(word)) => {
                path.push(word.clone());
                at += 1;
            }
            Some(Token::Mark('{')) => return read_group(tokens, at + 1, &path, paths),
            Some(Token::Mark('*')) => {
                at += 1;
                break;
            }
            _ => break,
        }
        if tokens.get(at).is_none_or(|token| token.1 != Token::PathSeparator) {
            break;
        }
        at += 1;
    }
    paths.push(path);
    at
}

fn read_group(
    tokens: &[(usize, Token)],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    while at < tokens.len() && tokens[at].1 != Token::Mark('}') {
        at = match &tokens[at].1 {
            Token::Word(_) => read_path(tokens, at, prefix, paths),
            Token::Mark('*') => {
                paths.push(prefix.to_vec());
                at + 1
            }
            _ => at + 1,
        };
        // `name as other` inside a group: the other name is no path.
        while at < tokens.len() && !matches!(tokens[at].1, Token::Mark(',' | '}')) {
            at += 1;
        }
        if at < tokens.len() && tokens[at].1 == Token::Mark(',') {
            at += 1;
        }
    }
    at + 1
}

fn without_test_modules(tokens: &[(usize, Token)]) -> Vec<(usize, Token)> {
    let pattern = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let shown = |token: &Token| match token {
        Token::Word(word) => word.clone(),
        Token::Mark(mark) => mark.to_string(),
        Token::PathSeparator => String::from("::"),
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_test = tokens.len() - at > pattern.len()
            && pattern.iter().zip(&tokens[at..]).all(|(wanted, token)| *wanted == shown(&token.1));
        if !is_test {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        while at < tokens.len() {
            let mark = &tokens[at].1;
            at += 1;
            match mark {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                Token::Mark(';') if depth == 0 => break,
                _ => continue,
            }
            if depth == 0 {
                break;
            }
        }
    }
    kept
}

/// Words, path separators and single marks with their lines; comments, strings and characters are dropped.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let start = at;
        let letter = text[at];
        let next = text.get(at + 1).copied().unwrap_or('\0');
        match letter {
            '/' if next == '/' => at = end_of_line(&text, at),
            '/' if next == '*' => at = end_of_comment(&text, at + 2),
            '"' => at = end_of_string(&text, at + 1),
            'r' | 'b' if raw_hashes(&text, at).is_some() => {
                let (quote, hashes) = raw_hashes(&text, at).unwrap_or((at, 0));
                at = end_of_raw_string(&text, quote + 1, hashes);
            }
            '\'' => at = end_of_character(&text, at),
            _ if letter.is_alphanumeric() || letter == '_' => {
                while at < text.len() && (text[at].is_alphanumeric() || text[at] == '_') {
                    at += 1;
                }
                tokens.push((line, Token::Word(text[start..at].iter().collect())));
            }
            ':' if next == ':' => {
                tokens.push((line, Token::PathSeparator));
                at += 2;
            }
            _ => {
                if !letter.is_whitespace() {
                    tokens.push((line, Token::Mark(letter)));
                }
                at += 1;
            }
        }
        at = at.min(text.len());
        line += text[start..at].iter().filter(|letter| **letter == '\n').count();
    }
    tokens
}

fn end_of_line(text: &[char], at: usize) -> usize {
    text[at..].iter().position(|letter| *letter == '\n').map_or(text.len(), |length| at + length)
}

fn end_of_comment(text: &[char], mut at: usize) -> usize {
    let mut depth = 1;
    while at < text.len() && depth > 0 {
        match (text[at], text.get(at + 1)) {
            ('*', Some('/')) => {
                depth -= 1;
                at += 1;
            }
            ('/', Some('*')) => {
                depth += 1;
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    at
}

fn end_of_string(text: &[char], mut at: usize) -> usize {
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// For `r"`, `r#"`, `br##"`: where the quote is and how many hashes close it.
fn raw_hashes(text: &[char], at: usize) -> Option<(usize, usize)> {
    if at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_') {
        return None;
    }
    let mut next = at + usize::from(text[at] == 'b');
    if text.get(next) != Some(&'r') {
        return None;
    }
    next += 1;
    let hashes = text[next..].iter().take_while(|letter| **letter == '#').count();
    (text.get(next + hashes) == Some(&'"')).then_some((next + hashes, hashes))
}

fn end_of_raw_string(text: &[char], mut at: usize, hashes: usize) -> usize {
    while at < text.len() {
        let closes = text[at] == '"'
            && text.len() - at > hashes
            && text[at + 1..=at + hashes].iter().all(|letter| *letter == '#');
        at += 1;
        if closes {
            return at + hashes;
        }
    }
    at
}

/// A character literal is skipped whole, a lifetime only up to its name.
fn end_of_character(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => {
            let close = text[(at + 3).min(text.len())..].iter().position(|letter| *letter == '\'');
            close.map_or(text.len(), |length| at + 3 + length + 1)
        }
        (_, Some('\'')) => at + 3,
        _ => at + 1,
    }
}
