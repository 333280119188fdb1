//! The access token of a mount: where it comes from and that it is never shown.
//!
//! A token comes from a file or the environment, never from an argument, which everybody on the machine can see.
//! Invariant: the token's text leaves this module in the `Authorization` header and in no other way; the file that
//! holds it is refused while others may read it.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::limits::TOKEN_FILE_LEN_MAX;

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read or change the file.
    #[error(
        "the token file {} is open to other users (mode {mode:03o}): run `chmod 600` on it, and make a new token if \
         others may have read it",
        path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no token in it, or something that no header can hold.
    #[error("{origin} holds no token: it is one line, as `dfs-server token create` prints it")]
    Malformed {
        /// The file or variable.
        origin: String,
    },
}

/// A token, ready for the header.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    fn new(text: &str, origin: impl fmt::Display) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed { origin: origin.to_string() });
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the header's value.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// Where a mount's token comes from.
#[derive(Debug, Default)]
pub struct TokenSource {
    file: Option<PathBuf>,
    current: Mutex<Option<Token>>,
}

impl TokenSource {
    /// Sends no token.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes the text of a variable.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn fixed(text: &str, variable: &str) -> Result<Self, TokenError> {
        let token = Token::new(text, format_args!("the variable {variable}"))?;
        Ok(Self { file: None, current: Mutex::new(Some(token)) })
    }

    /// Reads a file now, and again whenever its token is refused. Blocks.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn file(path: PathBuf) -> Result<Self, TokenError> {
        let token = read(&path)?;
        Ok(Self { file: Some(path), current: Mutex::new(Some(token)) })
    }

    /// Returns the token to send.
    #[must_use]
    pub fn get(&self) -> Option<Token> {
        self.current.lock().clone()
    }

    /// Looks for another token after `refused` was refused, and returns it. Blocks for the time of a short read.
    pub(super) fn renew(&self, refused: &Option<Token>) -> Option<Token> {
        let path = self.file.as_ref()?;
        let token = match read(path) {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(%error, "the refused token cannot be read again");
                return None;
            }
        };
        let is_new = refused.as_ref() != Some(&token);
        *self.current.lock() = Some(token.clone());
        is_new.then_some(token)
    }
}

fn read(path: &Path) -> Result<Token, TokenError> {
    let failed = |source| TokenError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    // Of the file that is open, so that nobody can change it in between.
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.by_ref().take(TOKEN_FILE_LEN_MAX).read_to_string(&mut text).map_err(failed)?;
    Token::new(&text, path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        (dir, path)
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_by_name_and_mode() {
        for mode in [0o640, 0o604, 0o620, 0o666] {
            let (_dir, path) = file("dfs_x\n", mode);
            let error = TokenSource::file(path.clone()).expect_err("open to others").to_string();
            assert!(error.contains(&format!("{mode:03o}")) && error.contains("chmod 600"), "{error}");
        }
        let (_dir, path) = file("dfs_x\n", 0o600);
        let token = TokenSource::file(path).expect("private").get().expect("a token");
        assert_eq!(token.header(), "Bearer dfs_x");
        assert!(!format!("{token:?}").contains("dfs_x"));
    }

    #[test]
    fn a_text_that_is_no_token_is_refused_without_showing_it() {
        for bad in ["", "\n", "two words", "a\u{e4}"] {
            let (_dir, path) = file(bad, 0o600);
            assert!(matches!(TokenSource::file(path), Err(TokenError::Malformed { .. })), "{bad}");
            let error = TokenSource::fixed(bad, "DFS_TOKEN").expect_err("bad").to_string();
            assert!(error.contains("DFS_TOKEN"), "{error}");
        }
    }

    #[test]
    fn a_refused_token_is_replaced_only_by_another_one() {
        let (_dir, path) = file("first", 0o600);
        let source = TokenSource::file(path.clone()).expect("a token");
        let first = source.get();
        assert_eq!(source.renew(&first), None);
        std::fs::write(&path, "second").expect("a file");
        let second = source.renew(&first);
        assert!(second.is_some() && second != first);
        assert_eq!(source.get(), second);
        std::fs::remove_file(&path).expect("was there");
        assert_eq!(source.renew(&second), None);
        assert_eq!(source.get(), second, "the last one is kept");
    }
}
