//! Three-way merge of texts. Pure: three contents in, one out, or none if a person has to decide.
//!
//! Only UTF-8 is merged; what holds a NUL (UTF-16 among it) is not. The mark at the beginning (BOM), the sort of line ends and
//! the newline at the end are not lines of the text: of each the side that changed it wins, and both are kept as they are where
//! nobody did.

use crate::limits::MERGE_LEN_MAX;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// What a text is beside its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    bom: bool,
    /// Every line ends with CR LF.
    crlf: bool,
    /// The last line has an end.
    ended: bool,
}

/// Merges what `local` and `remote` made of `base`. `None` if they changed the same lines, or one of them is no short text.
pub(super) fn merge(base: &[u8], local: &[u8], remote: &[u8]) -> Option<Vec<u8>> {
    let (base_form, base) = take_apart(base)?;
    let (local_form, local) = take_apart(local)?;
    let (remote_form, remote) = take_apart(remote)?;
    let merged = diffy::merge_bytes(&base, &local, &remote).ok()?;
    let form = Form {
        bom: pick(base_form.bom, local_form.bom, remote_form.bom),
        crlf: pick(base_form.crlf, local_form.crlf, remote_form.crlf),
        ended: pick(base_form.ended, local_form.ended, remote_form.ended),
    };
    Some(put_together(form, merged))
}

fn pick(base: bool, local: bool, remote: bool) -> bool {
    if local == base { remote } else { local }
}

/// Returns a text's form and its lines, all of which end with LF.
fn take_apart(text: &[u8]) -> Option<(Form, Vec<u8>)> {
    if text.len() as u64 > MERGE_LEN_MAX || text.contains(&0) || std::str::from_utf8(text).is_err() {
        return None;
    }
    let rest = text.strip_prefix(BOM);
    let (bom, rest) = (rest.is_some(), rest.unwrap_or(text));
    let ended = rest.is_empty() || rest.ends_with(b"\n");
    let mut lines = rest.to_vec();
    let count = |wanted: &[u8]| rest.windows(wanted.len()).filter(|window| *window == wanted).count();
    let crlf = count(b"\r\n") > 0 && count(b"\r\n") == count(b"\n");
    if crlf {
        lines = Vec::with_capacity(rest.len());
        for (index, byte) in rest.iter().enumerate() {
            if *byte != b'\r' || rest.get(index + 1) != Some(&b'\n') {
                lines.push(*byte);
            }
        }
    }
    if !ended {
        lines.push(b'\n');
    }
    Some((Form { bom, crlf, ended }, lines))
}

fn put_together(form: Form, mut lines: Vec<u8>) -> Vec<u8> {
    if !form.ended && lines.ends_with(b"\n") {
        lines.pop();
    }
    let mut text = if form.bom { BOM.to_vec() } else { Vec::new() };
    for byte in lines {
        if byte == b'\n' && form.crlf {
            text.push(b'\r');
        }
        text.push(byte);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, local: &str, remote: &str) -> Option<String> {
        merge(base.as_bytes(), local.as_bytes(), remote.as_bytes())
            .map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn changes_of_different_lines_are_both_there_and_of_one_line_nobody_decides() {
        let base = "a\nb\nc\nd\ne\n";
        assert_eq!(merged(base, "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n").as_deref(), Some("A\nb\nc\nd\nE\n"));
        assert_eq!(merged(base, "a\nc\nd\ne\n", "a\nb\nc\nd\ne\nf\n").as_deref(), Some("a\nc\nd\ne\nf\n"));
        assert_eq!(merged(base, "a\nX\nc\nd\ne\n", "a\nY\nc\nd\ne\n"), None);
        assert_eq!(merged(base, base, "new\n").as_deref(), Some("new\n"));
        assert_eq!(merged(base, "same\n", "same\n").as_deref(), Some("same\n"));
    }

    #[test]
    fn the_newline_at_the_end_the_bom_and_line_ends_are_kept_or_follow_who_changed_them() {
        assert_eq!(merged("a\nb\nc", "A\nb\nc", "a\nb\nC").as_deref(), Some("A\nb\nC"));
        assert_eq!(merged("a\nb\nc", "A\nb\nc", "a\nb\nc\n").as_deref(), Some("A\nb\nc\n"));
        assert_eq!(
            merged("a\r\nb\r\nc\r\n", "A\r\nb\r\nc\r\n", "a\r\nb\r\nC\r\n").as_deref(),
            Some("A\r\nb\r\nC\r\n")
        );
        assert_eq!(merged("a\nb\nc\n", "a\r\nb\r\nc\r\n", "a\nb\nC\n").as_deref(), Some("a\r\nb\r\nC\r\n"));
        assert_eq!(merged("a\nb\nc\n", "A\nb\nc\n", "a\r\nb\r\nc\r\n").as_deref(), Some("A\r\nb\r\nc\r\n"));
        let bom = "\u{feff}";
        assert_eq!(
            merged(&format!("{bom}a\nb\nc\n"), &format!("{bom}A\nb\nc\n"), &format!("{bom}a\nb\nC\n")),
            Some(format!("{bom}A\nb\nC\n"))
        );
        // Mixed line ends are part of the lines.
        assert_eq!(merged("a\r\nb\nc\n", "A\r\nb\nc\n", "a\r\nb\nC\n").as_deref(), Some("A\r\nb\nC\n"));
    }

    #[test]
    fn what_is_no_short_utf_8_text_is_not_merged() {
        assert_eq!(merge(b"a\n", b"\xff\n", b"a\n"), None);
        let utf_16: Vec<u8> = "a\nb\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(merge(&utf_16, &utf_16, &utf_16), None);
        let limit = usize::try_from(MERGE_LEN_MAX).expect("fits");
        let mut long = vec![b'x'; limit];
        assert!(merge(&long, &long, &long).is_some());
        long.push(b'x');
        assert_eq!(merge(&long, &long, &long), None);
    }
}
