//! Names of conflict copies: `name (conflict HOST YYYY-MM-DD HH.MM.SS).ext`.

use dfs_shared::ids::NodeId;
use dfs_shared::limits::NAME_LEN_MAX;
use dfs_shared::name::Name;
use dfs_shared::time::Timestamp;

use super::Apply;
use crate::tree::txn::Txn;
use crate::tree::{Tree, TreeError};

/// Makes the name of a conflict copy; `number` above 1 tells copies of one second apart. The original's stem is cut
/// where the result would be too long.
fn conflict_name(original: &Name, host: &str, at: Timestamp, number: u32) -> Name {
    let bytes = original.as_bytes();
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|at| *at > 0);
    let (stem, extension) = match dot {
        Some(at) if bytes.len() - at <= 32 => bytes.split_at(at),
        _ => (bytes, &b""[..]),
    };
    let when = time::OffsetDateTime::from_unix_timestamp(at.secs).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let host: String = host.chars().filter(|c| !matches!(c, '/' | '\0')).take(64).collect();
    let mut mark = format!(
        " (conflict {host} {:04}-{:02}-{:02} {:02}.{:02}.{:02}",
        when.year(),
        u8::from(when.month()),
        when.day(),
        when.hour(),
        when.minute(),
        when.second()
    );
    if number > 1 {
        mark.push_str(&format!(" {number}"));
    }
    mark.push(')');
    let room = NAME_LEN_MAX.saturating_sub(mark.len() + extension.len());
    let mut cut = stem.len().min(room);
    while cut < stem.len() && cut > 0 && stem[cut] & 0xc0 == 0x80 {
        cut -= 1;
    }
    let whole = [&stem[..cut], mark.as_bytes(), extension].concat();
    Name::new(&whole).unwrap_or_else(|_| original.clone())
}

impl Tree {
    /// Returns a name for a conflict copy beside `name` that is free here.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn conflict_name(&self, parent: NodeId, name: &Name, at: Timestamp) -> Result<Name, TreeError> {
        let mut txn = Txn::new(&self.store);
        for number in 1..u32::MAX {
            let copy = conflict_name(name, &self.host, at, number);
            if txn.entry(parent, &copy)?.is_none() {
                return Ok(copy);
            }
        }
        Err(TreeError::Exists)
    }
}

impl Apply<'_, '_> {
    /// Returns a conflict copy's name that is free here and on the server.
    pub(super) fn free_conflict_name(&mut self, parent: NodeId, name: &Name) -> Result<Name, TreeError> {
        for number in 1..u32::MAX {
            let copy = conflict_name(name, &self.tree.host, self.options.at, number);
            let is_free = self.txn.entry(parent, &copy)?.is_none();
            if is_free && !self.arriving.contains(&(parent, copy.clone())) {
                return Ok(copy);
            }
        }
        Err(TreeError::Exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(original: &[u8], number: u32) -> Name {
        let at = Timestamp { secs: 1_700_000_000, nanos: 0 };
        conflict_name(&Name::new(original).expect("a name"), "laptop", at, number)
    }

    #[test]
    fn a_conflict_copy_says_host_and_time_and_keeps_the_extension() {
        assert_eq!(made(b"report.pdf", 1).as_bytes(), b"report (conflict laptop 2023-11-14 22.13.20).pdf");
        assert_eq!(made(b"Makefile", 2).as_bytes(), b"Makefile (conflict laptop 2023-11-14 22.13.20 2)");
        assert_eq!(made(b".profile", 1).as_bytes(), b".profile (conflict laptop 2023-11-14 22.13.20)");
    }

    #[test]
    fn a_long_name_is_cut_at_the_limit_and_between_characters() {
        let long = made(&[b'x'; 255], 1);
        assert_eq!(long.as_bytes().len(), NAME_LEN_MAX);
        let umlauts = "ä".repeat(127);
        assert!(std::str::from_utf8(made(umlauts.as_bytes(), 1).as_bytes()).is_ok());
    }

    #[test]
    fn at_the_length_limit_every_cut_keeps_whole_characters_host_time_and_extension() {
        for character in ["x", "ä", "語", "🦀"] {
            for pad in 0..4 {
                let stem = "p".repeat(pad) + &character.repeat((NAME_LEN_MAX - 4 - pad) / character.len());
                for number in [1, 2, 10, 100] {
                    let copy = made(format!("{stem}.txt").as_bytes(), number);
                    let text = std::str::from_utf8(copy.as_bytes()).expect("whole characters");
                    assert!(text.len() <= NAME_LEN_MAX && text.len() > NAME_LEN_MAX - 4, "{}", text.len());
                    assert!(
                        text.ends_with(").txt") && text.contains(" (conflict laptop 2023-11-14 22.13.20")
                    );
                }
            }
        }
        // One byte less than the limit needs no cut, one more does.
        let mark = " (conflict laptop 2023-11-14 22.13.20)".len();
        let fits = "s".repeat(NAME_LEN_MAX - mark - 4);
        assert!(made(format!("{fits}.txt").as_bytes(), 1).to_string().starts_with(&fits));
        let longer = made(format!("{fits}s.txt").as_bytes(), 1);
        assert_eq!(longer, made(format!("{fits}.txt").as_bytes(), 1));
    }

    #[test]
    fn a_host_name_of_any_length_leaves_room_for_the_rest() {
        let at = Timestamp { secs: 1_700_000_000, nanos: 0 };
        let name = Name::new("ä".repeat(125).as_bytes()).expect("a name");
        let copy = conflict_name(&name, &"語/".repeat(500), at, 7);
        assert!(copy.as_bytes().len() <= NAME_LEN_MAX);
        assert!(copy.to_string().ends_with(" 2023-11-14 22.13.20 7)"), "{copy}");
    }
}
