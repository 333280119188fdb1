//! Reads llhttp's test files: Markdown with a request, and a log of what its parser says about it.
//!
//! The log names spans by offset and length; they are taken from the request itself, so nothing of the log is unescaped.

use std::collections::BTreeMap;

use super::outcome::{Message, Outcome, Verdict};

/// One case.
pub(super) struct Case {
    /// File and line of its heading.
    pub(super) id: String,
    pub(super) input: Vec<u8>,
    /// The peer ends the connection behind the input.
    pub(super) ends: bool,
    /// What llhttp says.
    pub(super) outcome: Outcome,
    /// Where the header sections of its HTTP/1.1 requests start.
    sections: Vec<usize>,
}

impl Case {
    /// Returns the input with `Host: VALUE` in every HTTP/1.1 request that has none, or `None` if all have one.
    pub(super) fn with_hosts(&self, value: &str) -> Option<Vec<u8>> {
        let mut input = Vec::new();
        let mut copied = 0;
        for (at, start) in self.sections.iter().enumerate() {
            let end = self.sections.get(at + 1).copied().unwrap_or(self.input.len());
            let section = self.input[*start..end].to_ascii_lowercase();
            if section.starts_with(b"\r\n") && !section.windows(7).any(|window| window == b"\r\nhost:") {
                input.extend_from_slice(&self.input[copied..*start]);
                input.extend_from_slice(format!("\r\nHost: {value}").as_bytes());
                copied = *start;
            }
        }
        input.extend_from_slice(&self.input[copied..]);
        (copied > 0).then_some(input)
    }
}

/// Reads the cases of a file that are about requests in the strict mode, without callbacks that stop the parser.
pub(super) fn read(file: &str, text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut lines = text.lines().enumerate();
    let (mut id, mut kind, mut blocks) = (String::new(), None, BTreeMap::new());
    while let Some((number, line)) = lines.next() {
        if line.starts_with('#') {
            id = format!("{file}:{}", number + 1);
        } else if let Some(meta) = line.strip_prefix("<!-- meta=").and_then(|rest| rest.strip_suffix("-->")) {
            let meta: serde_json::Value = serde_json::from_str(meta).unwrap();
            let stops = meta.get("pause").is_some() || meta.get("skipBody").is_some();
            kind = meta["type"].as_str().filter(|_| !stops).map(ToOwned::to_owned);
        } else if let Some(name @ ("http" | "log")) = line.strip_prefix("```") {
            let block: Vec<_> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            blocks.insert(name, block.join("\n"));
        }
        if let (Some(request), Some(log)) = (blocks.get("http"), blocks.get("log")) {
            if let Some(kind @ ("request" | "request-finish")) = kind.as_deref() {
                cases.push(case(id.clone(), unescape(request), kind == "request-finish", log));
            }
            blocks.clear();
        }
    }
    cases
}

/// Undoes the corpus's notation: line ends are CRLF, a backslash at a line's end joins lines, escapes name characters.
fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("\\\n", "").replace('\n', "\r\n");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let code = |digits: &str, radix| char::from(u8::from_str_radix(digits, radix).unwrap());
        let octal_len = rest.bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        let (char, len) = match rest.as_bytes().first() {
            Some(b'r') => ('\r', 1),
            Some(b'n') => ('\n', 1),
            Some(b't') => ('\t', 1),
            Some(b'f') => ('\x0c', 1),
            Some(b'x') => (code(&rest[1..3], 16), 3),
            _ if octal_len > 0 => (code(&rest[..octal_len], 8), octal_len),
            _ => ('\\', 0),
        };
        out.push(char);
        rest = &rest[len..];
    }
    out.push_str(rest);
    out.into_bytes()
}

/// Reads the log of a case.
fn case(id: String, input: Vec<u8>, ends: bool, log: &str) -> Case {
    let mut reader =
        LogReader { input: &input, message: Message::default(), field: Default::default(), head_done: false };
    let mut outcome = Outcome { messages: Vec::new(), verdict: Verdict::Waits };
    let mut sections = Vec::new();
    for line in log.lines() {
        let (offset, what) = line.split_once(' ').unwrap();
        let offset = offset.strip_prefix("off=").unwrap();
        match what {
            "message begin" => (reader.message, reader.head_done) = (Message::default(), false),
            "message complete" => {
                outcome.messages.push(Message { complete: true, ..std::mem::take(&mut reader.message) });
                reader.head_done = false;
            }
            "version complete" if reader.message.version == b"1.1" => sections.push(offset.parse().unwrap()),
            "finish=2" => outcome.verdict = Verdict::Refused(what.to_owned()),
            _ => match what.strip_prefix("error ") {
                Some(error) => outcome.verdict = verdict(error),
                None => reader.take(offset, what),
            },
        }
    }
    if reader.head_done && outcome.verdict == Verdict::Waits {
        outcome.messages.push(reader.message);
    }
    Case { id, input, ends, outcome, sections }
}

fn verdict(error: &str) -> Verdict {
    let (code, reason) = error.split_once(' ').unwrap();
    match code {
        "code=5" => Verdict::Closed,
        "code=22" | "code=23" => Verdict::Upgraded,
        _ => {
            let reason = reason.strip_prefix("reason=\"").and_then(|rest| rest.strip_suffix('"'));
            Verdict::Refused(reason.unwrap().to_owned())
        }
    }
}

struct LogReader<'a> {
    input: &'a [u8],
    message: Message,
    field: (Vec<u8>, Vec<u8>),
    head_done: bool,
}

impl LogReader<'_> {
    fn take(&mut self, offset: &str, what: &str) {
        if what == "header_value complete" {
            let fields = if self.head_done { &mut self.message.trailers } else { &mut self.message.headers };
            fields.push(std::mem::take(&mut self.field));
        } else if what.starts_with("headers complete") {
            self.head_done = true;
        }
        let Some((len, span)) = what.strip_prefix("len=").and_then(|rest| rest.split_once(" span[")) else {
            return;
        };
        let start: usize = offset.parse().unwrap();
        let bytes = &self.input[start..start + len.parse::<usize>().unwrap()];
        let to = match span.split(']').next() {
            Some("method") => &mut self.message.method,
            Some("url") => &mut self.message.target,
            Some("version") => &mut self.message.version,
            Some("header_field") => &mut self.field.0,
            Some("header_value") => &mut self.field.1,
            Some("body") => &mut self.message.body,
            Some("protocol" | "chunk_extension_name" | "chunk_extension_value") => return,
            other => panic!("an unknown span {other:?}"),
        };
        to.extend_from_slice(bytes);
    }
}
