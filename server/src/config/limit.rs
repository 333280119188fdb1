//! Most bytes of a volume as people write them: `500MiB`, `20GiB` or `none`.

use std::str::FromStr;

/// A number of bytes, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteLimit(Option<u64>);

/// The text is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no size: write a number and KiB, MiB, GiB or TiB, as 20GiB, a number of bytes, or none")]
pub struct ByteLimitError {
    text: String,
}

impl ByteLimit {
    /// Returns the number of bytes; `None` for `none`.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        self.0
    }
}

impl FromStr for ByteLimit {
    type Err = ByteLimitError;

    fn from_str(text: &str) -> Result<Self, ByteLimitError> {
        if text == "none" {
            return Ok(Self(None));
        }
        // SQLite's integers are signed.
        let bytes = dfs_shared::size::parse(text).filter(|bytes| i64::try_from(*bytes).is_ok());
        Ok(Self(Some(bytes.ok_or_else(|| ByteLimitError { text: text.to_owned() })?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_and_without_units_and_none_is_no_limit() {
        let parse = |text: &str| text.parse::<ByteLimit>().map(ByteLimit::bytes);
        assert_eq!(parse("none"), Ok(None));
        assert_eq!(parse("0"), Ok(Some(0)));
        assert_eq!(parse("1048576"), Ok(Some(1 << 20)));
        assert_eq!(parse("20GiB"), Ok(Some(20 << 30)));
        assert_eq!(parse("3 m"), Ok(Some(3 << 20)));
        assert_eq!(parse("8388607TiB"), Ok(Some(8_388_607 << 40)));
        for bad in ["", "GiB", "-1", "1.5GiB", "8388608TiB", "20GB/s", "99999999999999999999"] {
            assert!(parse(bad).is_err_and(|error| error.to_string().contains(bad)), "{bad}");
        }
    }
}
