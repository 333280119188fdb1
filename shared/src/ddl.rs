//! The metadata language: file metadata as text for people, and as bytes.
//!
//! ```text
//! text ─ lexer ─► lines of tokens ─ parser ─► AST ─ check ─► FileMetadata ─ print ─► text
//!            └────────────┴─── every error, with its place ──┘       └─ binary ─► bytes
//! ```
//!
//! docs/DDL.md has the grammar. Invariants: `parse(print(m)) == m` for every `m`; printing what was parsed and parsing it again
//! prints the same; no input makes it panic, and what it allocates is bounded by the input's length.

mod ast;
mod binary;
mod check;
mod diagnostic;
mod lexer;
mod metadata;
mod parser;
mod print;
mod token;

#[cfg(test)]
mod tests;

pub use binary::{BINARY_MAGIC, BINARY_VERSION, BinaryError, decode, encode};
pub use diagnostic::{Diagnostic, Place};
pub use metadata::{FileHash, FileMetadata, ModifiedAt, Replica, SyncState, SyncStatus};
pub use print::{print, print_without_hash};

use crate::limits::DDL_DIAGNOSTICS_MAX;

/// Reads all records of a text.
///
/// # Errors
/// Everything that is wrong with the text, in order, at most [`DDL_DIAGNOSTICS_MAX`]; never empty.
pub fn parse(text: &str) -> Result<Vec<FileMetadata>, Vec<Diagnostic>> {
    let mut diagnostics = diagnostic::Sink::new(text);
    let lines = lexer::lines(text, &mut diagnostics);
    let document = parser::parse(&lines, &mut diagnostics);
    let records = check::check(&document, &mut diagnostics);
    let mut found = diagnostics.finish();
    found.truncate(DDL_DIAGNOSTICS_MAX);
    if found.is_empty() { Ok(records) } else { Err(found) }
}
