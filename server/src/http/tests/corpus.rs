//! The request tests of llhttp, which others wrote: what is said about each of them, however it is split.
//!
//! The disagreements stand in a table of docs/HTTP.md, each with the sentence of an RFC that decides it; this test
//! reads the table, so neither a new disagreement nor a row that is none any more goes unseen.

mod case;
mod outcome;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use case::Case;
use outcome::{Message, Outcome};

const HIDDEN_HOST: &str = "put.in.by.the.test";
/// The row about all cases that lack `Host`.
const NO_HOST_ROW: &str = "without Host";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(workspace().join("tests/data/http/llhttp")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.extension().is_some_and(|extension| extension == "md") && name != "README.md" {
            cases.extend(case::read(name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    cases.sort_by(|one, other| one.id.cmp(&other.id));
    cases
}

/// Runs an input whole, byte by byte and split in two at every byte; all must say the same.
fn observe(case: &Case, input: &[u8]) -> Outcome {
    let whole = Outcome::observe(&[input], case.ends, HIDDEN_HOST);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(Outcome::observe(&bytes, case.ends, HIDDEN_HOST), whole, "{} byte by byte", case.id);
    for at in 0..input.len() {
        let (first, second) = input.split_at(at);
        let split = Outcome::observe(&[first, second], case.ends, HIDDEN_HOST);
        assert_eq!(split, whole, "{} split at {at}", case.id);
    }
    whole
}

/// Tells whether an input whose last line has no end is refused once it has one: a line is judged when it is complete.
fn is_refused_at_line_end(case: &Case, input: &[u8]) -> bool {
    observe(case, &[input, b"\r\n\r\n"].concat()).is_refused()
}

/// Reads the rows below the heading "Disagreements with llhttp": case, what llhttp says, what is said here.
fn rows_of_the_document() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(workspace().join("docs/HTTP.md")).unwrap();
    let section = text.lines().skip_while(|line| *line != "## Disagreements with llhttp").skip(1);
    let mut rows = BTreeMap::new();
    for line in section.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, llhttp, here, section, sentence] = cells.as_slice() else {
            panic!("not five columns: {line}")
        };
        assert!(section.starts_with("911") && !sentence.is_empty(), "no section or sentence: {line}");
        let row = (llhttp.to_string(), here.to_string());
        assert!(rows.insert(id.split('`').nth(1).unwrap().to_owned(), row).is_none(), "two rows: {line}");
    }
    rows
}

#[test]
fn every_disagreement_with_llhttp_stands_in_the_document() {
    let (mut found, mut without_host) = (BTreeMap::new(), 0);
    let cases = cases();
    assert!(cases.len() > 100, "only {} cases were read", cases.len());
    for case in cases {
        let with_hosts = case.with_hosts(HIDDEN_HOST);
        if with_hosts.is_some() {
            without_host += 1;
            let said = observe(&case, &case.input);
            let has_host = |message: &Message| {
                message.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"host"))
            };
            let right = said.messages.iter().all(|message| message.version == b"1.0" || has_host(message));
            assert!(right, "{}: a request without Host was taken: {said:?}", case.id);
        }
        let input = with_hosts.as_ref().unwrap_or(&case.input);
        let said = observe(&case, input);
        let (agrees, here) = (said.agrees(&case.outcome), said.summary_beside(&case.outcome));
        let is_incomplete = !agrees && said.waits() && case.outcome.is_refused();
        if !(agrees || is_incomplete && is_refused_at_line_end(&case, input)) {
            found.insert(case.id, (case.outcome.summary(), here, format!("{:#?}\n{said:#?}", case.outcome)));
        }
    }
    let all = (format!("{without_host} cases"), "refused: 400 bad_host".to_owned(), String::new());
    found.insert(NO_HOST_ROW.to_owned(), all);

    let mut rows = rows_of_the_document();
    let mut wrong = Vec::new();
    for (id, (llhttp, here, details)) in found {
        if rows.remove(&id) != Some((llhttp.clone(), here.clone())) {
            wrong.push(format!("missing or another row: | `{id}` | {llhttp} | {here} |\n{details}"));
        }
    }
    wrong.extend(rows.into_keys().map(|id| format!("no disagreement any more: {id}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
