//! What each route needs, as a table.
//!
//! Invariant: a route without a row needs admin, so one that was forgotten is closed and not open; a test of `api`
//! finds it.

use crate::metadata::token::Access;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// A token of any volume: what it tells is about the server and names no volume.
    Server(Access),
    /// A token of the volume that the request is about.
    Volume(Access),
}

use Access::{Admin, Read, Write};

/// Method, pattern (`*` at its end stands for a param, whatever its name) and need.
///
/// `/metrics` takes any token, also one that only reads: it holds counts without names, and a collector that needed
/// admin would be the greater risk.
const TABLE: &[(&str, &str, Need)] = &[
    ("GET", "/health", Need::Nothing),
    ("GET", "/ready", Need::Nothing),
    ("GET", "/api/openapi.json", Need::Nothing),
    ("GET", "/metrics", Need::Server(Read)),
    ("GET", "/api/info", Need::Volume(Read)),
    ("POST", "/sync/{volume}/register", Need::Volume(Read)),
    ("POST", "/sync/{volume}/lineage", Need::Volume(Read)),
    ("POST", "/sync/{volume}/whoami", Need::Volume(Read)),
    ("POST", "/sync/{volume}/commit", Need::Volume(Write)),
    ("POST", "/sync/{volume}/past", Need::Volume(Write)),
    ("POST", "/sync/{volume}/missing", Need::Volume(Read)),
    ("POST", "/sync/{volume}/contents", Need::Volume(Read)),
    ("POST", "/sync/{volume}/records", Need::Volume(Read)),
    ("POST", "/sync/{volume}/merkle", Need::Volume(Read)),
    ("POST", "/sync/{volume}/history", Need::Volume(Read)),
    ("POST", "/sync/{volume}/report", Need::Volume(Read)),
    ("PUT", "/sync/{volume}/chunks", Need::Volume(Write)),
    ("POST", "/sync/{volume}/chunks/get", Need::Volume(Read)),
    ("GET", "/sync/{volume}/stream", Need::Volume(Read)),
    ("POST", "/api/register", Need::Volume(Read)),
    ("POST", "/api/sync/start", Need::Volume(Read)),
    ("POST", "/api/sync/diff", Need::Volume(Read)),
    ("GET", "/api/sync/status", Need::Volume(Read)),
    ("POST", "/api/file/upload_chunk", Need::Volume(Write)),
    ("POST", "/api/file/upload_complete", Need::Volume(Write)),
    ("GET", "/api/file/download/*", Need::Volume(Read)),
    ("POST", "/api/metadata/add", Need::Volume(Write)),
    ("PUT", "/api/metadata/update", Need::Volume(Write)),
    ("GET", "/api/metadata/get/*", Need::Volume(Read)),
    ("GET", "/api/metadata/list", Need::Volume(Read)),
    ("DELETE", "/api/metadata/delete/*", Need::Volume(Write)),
    ("GET", "/api/metadata/history/*", Need::Volume(Read)),
    ("GET", "/api/metadata/export", Need::Volume(Read)),
    ("POST", "/api/metadata/import", Need::Volume(Write)),
    ("GET", "/api/events", Need::Volume(Read)),
];

/// Returns the row of a route, if it has one. HEAD is GET; `*` stands for the rest of a pattern.
#[must_use]
pub fn row(method: &str, pattern: &str) -> Option<Need> {
    let method = if method == "HEAD" { "GET" } else { method };
    let is_same = |row: &str| match row.strip_suffix('*') {
        Some(start) => pattern.strip_prefix(start).is_some_and(|rest| rest.starts_with('{')),
        None => row == pattern,
    };
    let found = TABLE.iter().find(|(other, row, _)| *other == method && is_same(row));
    found.map(|(_, _, need)| *need)
}

/// Returns what a route needs: admin when it has no row.
#[must_use]
pub fn need(method: &str, pattern: &str) -> Need {
    row(method, pattern).unwrap_or(Need::Volume(Admin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_row_needs_admin() {
        assert_eq!(need("GET", "/new"), Need::Volume(Admin));
        assert_eq!(need("DELETE", "/health"), Need::Volume(Admin));
        assert_eq!(need("GET", "/healthy"), Need::Volume(Admin));
    }

    #[test]
    fn head_needs_what_get_needs_and_a_star_is_the_rest() {
        assert_eq!(need("HEAD", "/metrics"), Need::Server(Read));
        assert_eq!(need("GET", "/api/file/download/{path...}"), Need::Volume(Read));
        assert_eq!(need("GET", "/api/file/download/literal"), Need::Volume(Admin));
    }

    #[test]
    fn whatever_changes_a_volume_needs_write() {
        for (method, pattern) in [
            ("POST", "/sync/{volume}/commit"),
            ("POST", "/sync/{volume}/past"),
            ("PUT", "/sync/{volume}/chunks"),
            ("POST", "/api/file/upload_chunk"),
            ("POST", "/api/file/upload_complete"),
            ("POST", "/api/metadata/add"),
            ("POST", "/api/metadata/import"),
            ("PUT", "/api/metadata/update"),
            ("DELETE", "/api/metadata/delete/{path...}"),
        ] {
            assert_eq!(need(method, pattern), Need::Volume(Write), "{method} {pattern}");
        }
    }
}
