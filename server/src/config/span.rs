//! Lengths of time as people write them: `90s`, `15m`, `12h`, `30d`, `8w` or `forever`.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// A length of time, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(Option<Duration>);

/// The text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no length of time: write a number and s, m, h, d or w, as 30d, or forever")]
pub struct SpanError {
    text: String,
}

impl Span {
    /// Returns the length; `None` for `forever`.
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        if text == "forever" {
            return Ok(Self(None));
        }
        let wrong = || SpanError { text: text.to_owned() };
        let (unit, unit_s) = [("s", 1), ("m", 60), ("h", 3600), ("d", 24 * 3600), ("w", 7 * 24 * 3600)]
            .into_iter()
            .find(|(unit, _)| text.ends_with(unit))
            .ok_or_else(wrong)?;
        let digits =
            text.strip_suffix(unit).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let count: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        let secs = count.checked_mul(unit_s).filter(|secs| i64::try_from(*secs).is_ok()).ok_or_else(wrong)?;
        Ok(Self(Some(Duration::from_secs(secs))))
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_number_and_a_unit() {
        for (text, secs) in
            [("0s", 0), ("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("1w", 604_800)]
        {
            assert_eq!(text.parse::<Span>().unwrap().limit(), Some(Duration::from_secs(secs)), "{text}");
        }
        assert_eq!("forever".parse::<Span>().unwrap().limit(), None);
        for bad in [
            "",
            "s",
            "30",
            "-1d",
            "+1d",
            "1.5h",
            "1 d",
            "30x",
            "9223372036854775807w",
            "99999999999999999999s",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
