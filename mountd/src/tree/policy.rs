//! Which policy a path's conflicts are resolved by: the mount's, or that of the last pattern that the path matches. Pure.
//!
//! A pattern is a glob over the path under the mount point: `*` and `?` stop at a slash, `**` does not, and a pattern without a
//! slash is looked for in the last part of the path only, as in `.gitignore`.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::limits::CONFLICT_PATTERNS_MAX;

/// What happens when two mounts changed the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Both versions stay, side by side.
    #[default]
    KeepBoth,
    /// Texts are merged where both sides changed different lines; otherwise as `KeepBoth`.
    Merge,
    /// As `KeepBoth`, and the path is marked until somebody decides.
    Manual,
    /// The content with the later modification time stays; the other one goes to the server's history of the file.
    LastWriteWins,
}

/// Why patterns cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A pattern is malformed.
    #[error("`{pattern}` is no pattern: {source}")]
    Pattern {
        /// Which.
        pattern: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// There are too many.
    #[error("{count} patterns are too many: {CONFLICT_PATTERNS_MAX} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

/// The policies of a mount.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    default: Policy,
    patterns: GlobSet,
    policies: Vec<Policy>,
}

impl Policies {
    /// Makes them of the mount's policy and of patterns, of which the last that matches counts.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn new(default: Policy, patterns: &[(String, Policy)]) -> Result<Self, PolicyError> {
        if patterns.len() > CONFLICT_PATTERNS_MAX {
            return Err(PolicyError::TooMany { count: patterns.len() });
        }
        let mut set = GlobSetBuilder::new();
        let failed = |pattern: &str| {
            let pattern = pattern.to_owned();
            move |source| PolicyError::Pattern { pattern, source }
        };
        for (pattern, _) in patterns {
            let anywhere = match pattern.trim_start_matches('/') {
                rest if rest.contains('/') || rest.len() < pattern.len() => rest.to_owned(),
                name => format!("**/{name}"),
            };
            let glob = GlobBuilder::new(&anywhere).literal_separator(true).build();
            set.add(glob.map_err(failed(pattern))?);
        }
        let all = patterns.iter().map(|(pattern, _)| pattern.as_str()).collect::<Vec<_>>().join("`, `");
        let patterns_set = set.build().map_err(failed(&all))?;
        let policies = patterns.iter().map(|(_, policy)| *policy).collect();
        Ok(Self { default, patterns: patterns_set, policies })
    }

    /// Returns the policy of a path, relative to the root and without a leading slash.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Policy {
        use std::os::unix::ffi::OsStrExt;
        let matches = self.patterns.matches(std::ffi::OsStr::from_bytes(path));
        matches.last().map_or(self.default, |index| self.policies[*index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let patterns =
            [("*.txt", Policy::Manual), ("/docs/**", Policy::Manual), ("docs/free/*", Policy::KeepBoth)];
        let patterns = patterns.map(|(pattern, policy)| (pattern.to_owned(), policy));
        let policies = Policies::new(Policy::KeepBoth, &patterns).expect("patterns");
        let rows = [
            ("a.txt", Policy::Manual),
            ("deep/down/a.txt", Policy::Manual),
            ("a.bin", Policy::KeepBoth),
            ("docs/x/y.bin", Policy::Manual),
            ("docs/free/a.txt", Policy::KeepBoth),
            ("docs/free/x/a.bin", Policy::Manual),
            ("other/docs/x", Policy::KeepBoth),
        ];
        for (path, wanted) in rows {
            assert_eq!(policies.of(path.as_bytes()), wanted, "{path}");
        }
        assert_eq!(policies.of(b"\xff.txt"), Policy::Manual, "names need not be UTF-8");
    }

    #[test]
    fn a_malformed_pattern_and_one_too_many_are_refused() {
        let bad =
            Policies::new(Policy::KeepBoth, &[("[".to_owned(), Policy::Manual)]).expect_err("malformed");
        assert!(bad.to_string().contains("`[`"), "{bad}");
        let patterns = |count| vec![("*.txt".to_owned(), Policy::Manual); count];
        assert!(Policies::new(Policy::KeepBoth, &patterns(CONFLICT_PATTERNS_MAX)).is_ok());
        assert!(Policies::new(Policy::KeepBoth, &patterns(CONFLICT_PATTERNS_MAX + 1)).is_err());
    }
}
