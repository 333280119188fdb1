//! File metadata to text.

use std::fmt::Write;

use super::metadata::FileMetadata;

/// Prints records so that [`super::parse`] gives them back.
#[must_use]
pub fn print(records: &[FileMetadata]) -> String {
    let mut text = String::new();
    for record in records {
        write_record(&mut text, record, true).expect("a string takes everything");
    }
    text
}

/// Prints a record whose hash is not known: without that line, so [`super::parse`] says that it is missing.
#[must_use]
pub fn print_without_hash(record: &FileMetadata) -> String {
    let mut text = String::new();
    write_record(&mut text, record, false).expect("a string takes everything");
    text
}

fn write_record(text: &mut String, record: &FileMetadata, is_hashed: bool) -> std::fmt::Result {
    writeln!(text, "file_metadata:")?;
    writeln!(text, "  name: {}", quoted(&record.name))?;
    writeln!(text, "  version: {}", record.version)?;
    writeln!(text, "  size: {}", record.size)?;
    if is_hashed {
        writeln!(text, "  hash: \"{}\"", record.hash.as_str())?;
    }
    writeln!(text, "  last_modified: \"{}\"", record.last_modified)?;
    writeln!(text, "  owner: {}", quoted(record.owner.as_bytes()))?;
    writeln!(text, "  sync_state:")?;
    writeln!(text, "    status: \"{}\"", record.sync_state.status.as_str())?;
    if record.sync_state.replicas.is_empty() {
        return Ok(());
    }
    writeln!(text, "    replicas:")?;
    for replica in &record.sync_state.replicas {
        writeln!(text, "      - node: {}", quoted(replica.node.as_bytes()))?;
        writeln!(text, "        version: {}", replica.version)?;
    }
    Ok(())
}

/// Puts bytes in quotes: text stays as it is but for quotes, backslashes and what would not be seen.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                char if char.is_control() => {
                    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                        write!(text, "\\x{byte:02x}").expect("a string takes everything");
                    }
                }
                char => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    text.push('"');
    text
}
