//! Paths as the public API has them: checked names from the volume's root.
//!
//! In a URL a path is percent-decoded once by HTTP, so every byte can be written; in JSON it is text, where bytes that
//! are not UTF-8 stand as `%XX`. Invariant: a [`FilePath`] has at least one name, and no name is empty, `.` or `..`.

use std::fmt;

use dfs_shared::name::Name;

use super::FilesError;
use crate::limits::FILE_PATH_LEN_MAX;

/// A path from the volume's root. Sorts name by name, so that a directory's files stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Vec<Name>);

impl FilePath {
    /// Takes the bytes of a path, with or without a `/` in front.
    ///
    /// # Errors
    /// [`FilesError::BadPath`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FilesError> {
        if bytes.len() > FILE_PATH_LEN_MAX {
            return Err(bad(format!("a path has at most {FILE_PATH_LEN_MAX} bytes")));
        }
        let names = bytes.strip_prefix(b"/").unwrap_or(bytes).split(|byte| *byte == b'/');
        let names = names.map(Name::new).collect::<Result<Vec<_>, _>>();
        names.map(Self).map_err(|error| bad(error.to_string()))
    }

    /// Takes a path as JSON has it: `%` and two hexadecimal digits are one byte.
    ///
    /// # Errors
    /// [`FilesError::BadPath`].
    pub fn from_text(text: &str) -> Result<Self, FilesError> {
        Self::from_bytes(&unescape(text))
    }

    /// Returns the names from the root to the file; at least one.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// Returns the bytes, without a `/` in front.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
    }

    /// Returns the last name and the directories before it.
    pub(super) fn split_last(&self) -> (&[Name], &Name) {
        let (name, directories) = self.0.split_last().expect("a path has at least one name");
        (directories, name)
    }

    pub(super) fn from_names(names: Vec<Name>) -> Self {
        debug_assert!(!names.is_empty(), "a path has at least one name");
        Self(names)
    }
}

impl fmt::Display for FilePath {
    /// Writes the path as JSON has it; [`FilePath::from_text`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.to_bytes()))
    }
}

fn bad(why: String) -> FilesError {
    FilesError::BadPath { why }
}

/// Returns the byte that `%` and two hexadecimal digits at the beginning stand for.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn unescape(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some(first) = rest.first() {
        let (byte, len) = escaped(rest).map_or((*first, 1), |byte| (byte, 3));
        bytes.push(byte);
        rest = &rest[len..];
    }
    bytes
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for (at, char) in chunk.valid().char_indices() {
            // Only where it would be read as an escape.
            match char {
                '%' if escaped(&chunk.valid().as_bytes()[at..]).is_some() => text.push_str("%25"),
                char => text.push(char),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> FilePath {
        FilePath::from_bytes(bytes).unwrap()
    }

    #[test]
    fn every_path_survives_its_text() {
        let names: [(&[u8], &str); 8] = [
            (b"a/b.txt", "a/b.txt"),
            ("dé pôt/ü".as_bytes(), "dé pôt/ü"),
            (b"100%.txt", "100%.txt"),
            (b"a%20b", "a%2520b"),
            (b"\xff/x", "%FF/x"),
            (b"%\xff", "%%FF"),
            (b"%2\xff", "%2%FF"),
            (b"%%25", "%%2525"),
        ];
        for (bytes, text) in names {
            assert_eq!(path(bytes).to_string(), text);
            assert_eq!(FilePath::from_text(text).unwrap(), path(bytes), "{text}");
            assert_eq!(path(bytes).to_bytes(), bytes);
        }
    }

    #[test]
    fn a_slash_in_front_is_taken_and_everything_that_is_no_name_refused() {
        assert_eq!(path(b"/a/b"), path(b"a/b"));
        for bad in ["", "/", "//a", "a//b", "a/", ".", "a/../b", "a/./b", "a\0b"] {
            assert!(FilePath::from_bytes(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for bad in ["%2E%2E/a", "a%2F", "%00"] {
            assert!(FilePath::from_text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_at_the_limit_is_taken_and_one_past_it_not() {
        let long = "a/".repeat(FILE_PATH_LEN_MAX / 2 - 1) + "a";
        assert!(FilePath::from_bytes(long.as_bytes()).is_ok());
        let longest = format!("/{long}");
        assert_eq!(longest.len(), FILE_PATH_LEN_MAX);
        assert!(FilePath::from_bytes(longest.as_bytes()).is_ok());
        assert!(FilePath::from_bytes(format!("{longest}a").as_bytes()).is_err());
    }

    #[test]
    fn paths_sort_name_by_name() {
        let mut paths = [path(b"a.txt"), path(b"a/z"), path(b"a"), path(b"a/b/c")];
        paths.sort();
        assert_eq!(paths.map(|path| path.to_string()), ["a", "a/b/c", "a/z", "a.txt"]);
    }
}
