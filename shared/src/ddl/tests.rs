//! Properties on generated records, and the data files of good and bad texts.

use std::path::Path;

use super::*;
use crate::hash::ChunkHash;
use crate::test_random::Random;
use crate::time::Timestamp;

fn text(random: &mut Random, len: u64) -> Vec<u8> {
    const SPECIAL: &[u8] = b"\"\\\n\r\t\0\x7f\x80\xff#:- ";
    let byte = |random: &mut Random| match random.below(4) {
        0 => SPECIAL[usize::try_from(random.below(SPECIAL.len() as u64)).expect("small")],
        1 => u8::try_from(random.below(256)).expect("a byte"),
        _ => b'a' + u8::try_from(random.below(26)).expect("a letter"),
    };
    (0..1 + random.below(len)).map(|_| byte(random)).collect()
}

fn utf8(random: &mut Random) -> String {
    String::from_utf8_lossy(&text(random, 12)).into_owned()
}

fn record(random: &mut Random) -> FileMetadata {
    let secs = i64::try_from(random.below(1 << 39)).expect("positive") - (1 << 38);
    let nanos = u32::try_from(
        [0, 5, 120_000_000, random.below(1_000_000_000)][usize::try_from(random.below(4)).expect("small")],
    );
    let at = Timestamp { secs, nanos: nanos.expect("below a second") };
    let replicas =
        (0..random.below(4)).map(|_| Replica { node: utf8(random), version: random.next() }).collect();
    let status = SyncStatus::ALL[usize::try_from(random.below(5)).expect("small")];
    FileMetadata {
        name: text(random, 40),
        version: random.next(),
        size: random.below(1 << 50),
        hash: ChunkHash::of(&random.bytes::<8>()).into(),
        last_modified: at.into(),
        owner: if random.below(3) == 0 { String::new() } else { utf8(random) },
        sync_state: SyncState { status, replicas },
    }
}

fn records(random: &mut Random) -> Vec<FileMetadata> {
    (0..1 + random.below(4)).map(|_| record(random)).collect()
}

#[test]
fn what_was_printed_is_read_back_the_same() {
    for seed in 0..2_000 {
        let records = records(&mut Random::new(seed));
        let printed = print(&records);
        let read = parse(&printed).unwrap_or_else(|errors| panic!("seed {seed}: {}\n{printed}", errors[0]));
        assert_eq!(read, records, "seed {seed}");
        assert_eq!(print(&read), printed, "seed {seed}");
    }
}

#[test]
fn a_record_without_its_hash_says_everything_else_and_is_refused_for_that_alone() {
    let mut random = Random::new(7);
    for _ in 0..50 {
        let record = record(&mut random);
        let whole = print(std::slice::from_ref(&record));
        let text = print_without_hash(&record);
        let expected: Vec<&str> = whole.lines().filter(|line| !line.starts_with("  hash: ")).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        let told: Vec<String> = parse(&text).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains("`hash` is missing"), "{told:?}");
    }
}

#[test]
fn a_text_without_its_line_breaks_is_read_the_same() {
    for seed in 0..2_000 {
        let records = records(&mut Random::new(seed));
        let flat: String = print(&records).chars().filter(|char| !matches!(char, '\n' | '\r')).collect();
        let read = parse(&flat).unwrap_or_else(|errors| panic!("seed {seed}: {}", errors[0]));
        assert_eq!(read, records, "seed {seed}");
    }
}

#[test]
fn the_binary_form_is_read_back_and_refused_when_cut_at_any_byte() {
    for seed in 0..200 {
        let records = records(&mut Random::new(seed));
        let bytes = encode(&records);
        assert_eq!(decode(&bytes), Ok(records), "seed {seed}");
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "seed {seed}, {len} bytes");
        }
    }
}

#[test]
fn an_older_schema_is_read_and_a_newer_one_refused_by_name() {
    let mut record = record(&mut Random::new(1));
    record.sync_state.replicas.clear();
    let mut bytes = encode(std::slice::from_ref(&record));
    // Version 1 had no replicas: the record ends with its status.
    bytes.truncate(bytes.len() - 4);
    let len = u32::try_from(bytes.len() - 14).unwrap();
    bytes[4..6].copy_from_slice(&1_u16.to_be_bytes());
    bytes[10..14].copy_from_slice(&len.to_be_bytes());
    assert_eq!(decode(&bytes), Ok(vec![record]));
    bytes[4..6].copy_from_slice(&9_u16.to_be_bytes());
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error, BinaryError::NewerVersion { found: 9 });
    assert!(error.to_string().contains('9'), "{error}");
}

#[test]
fn nothing_makes_it_panic() {
    let good = print(&records(&mut Random::new(3)));
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let mut bytes = good.clone().into_bytes();
        for _ in 0..1 + random.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            match random.below(3) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, b"\n\t \"#:-x9\\\xc3"[usize::try_from(random.below(11)).unwrap()]),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(errors) = parse(&text) {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| !error.to_string().is_empty()));
        }
        let _ = decode(&bytes);
        let mut binary = encode(&records(&mut random));
        let at = usize::try_from(random.below(binary.len() as u64)).unwrap();
        binary[at] ^= 1 << random.below(8);
        let _ = decode(&binary);
    }
}

fn data(folder: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/ddl").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("the data files")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ddl"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let read = |path: &Path| std::fs::read_to_string(path).expect("a readable file");
    files.iter().map(|path| (path.with_extension("").display().to_string(), read(path))).collect()
}

#[test]
fn good_texts_are_read_and_printed_as_expected() {
    for (name, text) in data("good") {
        let records = parse(&text).unwrap_or_else(|errors| panic!("{name}: {}", errors[0]));
        let expected = std::fs::read_to_string(format!("{name}.printed")).expect("the expected text");
        assert_eq!(print(&records), expected, "{name}");
        assert_eq!(parse(&expected).as_ref(), Ok(&records), "{name}");
    }
}

#[test]
fn everything_wrong_with_a_text_is_said_with_its_place() {
    for (name, text) in data("bad") {
        let errors = parse(&text).expect_err(&name);
        let said: String = errors.iter().map(|error| format!("{error}\n")).collect();
        if std::env::var_os("DFS_TESTS_WRITE_EXPECTED").is_some() {
            std::fs::write(format!("{name}.expected"), &said).expect("a writable file");
        }
        let expected = std::fs::read_to_string(format!("{name}.expected")).unwrap_or_default();
        assert_eq!(said, expected, "{name}");
    }
}

#[test]
fn errors_depth_and_records_are_bounded() {
    let errors = parse(&"oops: 1\n".repeat(crate::limits::DDL_DIAGNOSTICS_MAX + 10)).unwrap_err();
    assert_eq!(errors.len(), crate::limits::DDL_DIAGNOSTICS_MAX);
    let is_too_deep = |depth: usize| {
        let text: String = (0..depth).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        parse(&text).unwrap_err().iter().any(|error| error.message.contains("deep"))
    };
    assert!(!is_too_deep(crate::limits::DDL_DEPTH_MAX) && is_too_deep(crate::limits::DDL_DEPTH_MAX + 1));
    // Records that were reported already, so that no other error is found.
    let (key_span, key) = (token::Span { start: 0, end: 0 }, "file_metadata".to_owned());
    let value = ast::Value { kind: ast::ValueKind::Broken, span: key_span };
    let field = ast::Field { key, key_span, value };
    let errors = |count: usize| {
        let mut sink = diagnostic::Sink::new("x");
        check::check(&ast::Document { records: vec![field.clone(); count] }, &mut sink);
        sink.finish()
    };
    assert_eq!(errors(crate::limits::DDL_RECORDS_MAX), []);
    let past_it = errors(crate::limits::DDL_RECORDS_MAX + 1);
    assert!(past_it.len() == 1 && past_it[0].message.contains("records"), "{past_it:?}");
}

#[test]
fn records_of_the_binary_form_are_bounded_before_one_is_read() {
    let refused = |count: usize| {
        let mut bytes = encode(&[]);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::try_from(count).expect("32 bits").to_be_bytes());
        decode(&bytes).unwrap_err()
    };
    let max = crate::limits::DDL_RECORDS_MAX;
    assert!(matches!(refused(max), BinaryError::CutShort { what: "record" }));
    assert!(matches!(refused(max + 1), BinaryError::BadValue { what: "number of records" }));
}

#[test]
fn replicas_of_a_record_are_bounded_at_the_limit_and_one_past_it_in_both_forms() {
    let mut one = record(&mut Random::new(6));
    let max = crate::limits::DDL_REPLICAS_MAX;
    one.sync_state.replicas =
        (0..max as u64).map(|number| Replica { node: format!("n{number}"), version: 1 }).collect();
    let all = [one.clone()];
    assert_eq!(parse(&print(&all)).expect("at the limit"), all);
    assert_eq!(decode(&encode(&all)).expect("at the limit"), all);
    one.sync_state.replicas.push(Replica { node: "one more".to_owned(), version: 1 });
    let errors = parse(&print(&[one.clone()])).expect_err("one past it");
    assert!(errors[0].message.contains("replicas"), "{}", errors[0]);
    assert!(decode(&encode(&[one])).is_err());
}
