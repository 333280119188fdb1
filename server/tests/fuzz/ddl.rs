//! The metadata language: texts and bytes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use dfs_shared::ddl;
use dfs_shared::limits::DDL_DIAGNOSTICS_MAX;

use crate::{Target, data_directory};

fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in ["ddl/good", "ddl/bad"] {
        for entry in std::fs::read_dir(data_directory().join(directory)).expect("the data files are there") {
            let path = entry.expect("a readable directory").path();
            files.extend(
                Some(path).filter(|path| path.extension().is_some_and(|extension| extension == "ddl")),
            );
        }
    }
    files.sort();
    files
}

fn texts() -> Vec<Vec<u8>> {
    files().iter().map(|file| std::fs::read(file).expect("a readable file")).collect()
}

pub(super) fn text_target() -> Target {
    Target {
        name: "metadata texts",
        seeds: texts(),
        words: &[
            b"file_metadata:",
            b"\n  name: \"a\"",
            b"\n  version: 1",
            b"\n  size: 1",
            b"\n  hash: \"sha256:ab\"",
            b"\n  last_modified: \"2024-01-15T10:30:00Z\"",
            b"\n  owner: \"a\"",
            b"\n  sync_state:",
            b"\n    status: \"synced\"",
            b"\n    replicas:",
            b"\n      - node: \"a\"",
            b"\n        version: 1",
            b"\n",
            b"  ",
            b"\t",
            b"\r\n",
            b"\"",
            b"\\",
            b"\\x00",
            b"\\u{e9}",
            b"#",
            b"-",
            b":",
            b"\xff",
            b"\xc3\xa9",
        ],
        check: check_text,
        answers_min: 100,
    }
}

fn check_text(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match ddl::parse(&text) {
        Ok(records) => {
            let printed = ddl::print(&records);
            assert_eq!(ddl::parse(&printed).as_ref(), Ok(&records), "printed and read again");
            assert_eq!(ddl::decode(&ddl::encode(&records)).as_ref(), Ok(&records), "encoded and read again");
            format!("{} records", records.len().min(3))
        }
        Err(errors) => {
            assert!((1..=DDL_DIAGNOSTICS_MAX).contains(&errors.len()));
            assert!(errors.is_sorted_by_key(|error| error.place));
            let lines = text.split('\n').count();
            for error in &errors {
                assert!((1..=lines + 1).contains(&error.place.line) && error.place.column >= 1);
                assert!(!error.to_string().is_empty());
            }
            errors.iter().map(|error| kind(&error.message)).collect::<BTreeSet<_>>().into_iter().collect()
        }
    }
}

/// What a message is about, without the parts that it quotes and its numbers.
fn kind(message: &str) -> String {
    let unquoted: String = message.split(['`', '"']).step_by(2).collect();
    unquoted.chars().filter(|char| !char.is_ascii_digit()).take(30).chain([';']).collect()
}

pub(super) fn binary_target() -> Target {
    let records = texts().into_iter().filter_map(|text| ddl::parse(&String::from_utf8_lossy(&text)).ok());
    Target {
        name: "binary metadata",
        seeds: records.map(|records| ddl::encode(&records)).collect(),
        words: &[
            b"dfsm\0\x01",
            b"dfsm\0\x02",
            b"\0\0\0\0",
            b"\0\0\0\x01",
            b"\xff\xff\xff\xff",
            b"sha256:",
            b"\xff",
        ],
        check: check_binary,
        answers_min: 12,
    }
}

fn check_binary(input: &[u8]) -> String {
    match ddl::decode(input) {
        Ok(records) => {
            assert_eq!(ddl::decode(&ddl::encode(&records)).as_ref(), Ok(&records), "encoded and read again");
            assert_eq!(ddl::parse(&ddl::print(&records)).as_ref(), Ok(&records), "printed and read again");
            format!("{} records", records.len().min(3))
        }
        Err(error) => kind(&error.to_string()),
    }
}
