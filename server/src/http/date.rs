//! HTTP's dates (RFC 9110, 5.6.7): written as IMF-fixdate from a time that the caller reads, read in all three forms.

/// A time as IMF-fixdate text: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// Formats seconds since the Unix epoch; years up to 9999.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Self {
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil_from_days(days);
        let weekday = &b"ThuFriSatSunMonTueWed"[(days % 7) as usize * 3..][..3];
        let month = &b"JanFebMarAprMayJunJulAugSepOctNovDec"[month * 3..][..3];
        let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
        text[..3].copy_from_slice(weekday);
        put_two(&mut text[5..7], day);
        text[8..11].copy_from_slice(month);
        put_two(&mut text[12..14], year / 100);
        put_two(&mut text[14..16], year % 100);
        put_two(&mut text[17..19], second / 3600);
        put_two(&mut text[20..22], second / 60 % 60);
        put_two(&mut text[23..25], second % 60);
        Self(text)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 29] {
        &self.0
    }

    /// Returns the seconds since the Unix epoch that a date text in any of the three forms names; `None` for anything else.
    ///
    /// The weekday is not compared with the day. Two digits of a year count from 1970: nothing here was changed before it,
    /// or will have been changed after 2069.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(text).ok()?;
        let (weekday, rest) = text.split_at_checked(3)?;
        if let Some(date) = rest.strip_prefix(", ") {
            // Sun, 06 Nov 1994 08:49:37 GMT
            let [day, month, year, clock, "GMT"] = parts(date)? else { return None };
            position(&WEEKDAYS, |name| name[..3] == *weekday)?;
            return seconds(digits(year, 4)?, month, digits(day, 2)?, clock);
        }
        if let Some(date) = rest.strip_prefix(' ') {
            // Sun Nov  6 08:49:37 1994
            let date = date.replacen("  ", " 0", 1);
            let [month, day, clock, year] = parts(&date)?;
            position(&WEEKDAYS, |name| name[..3] == *weekday)?;
            return seconds(digits(year, 4)?, month, digits(day, 2)?, clock);
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        let (weekday, date) = text.split_once(", ")?;
        position(&WEEKDAYS, |name| *name == weekday)?;
        let [date, clock, "GMT"] = parts(date)? else { return None };
        let mut date = date.split('-');
        let (day, month, year) = (date.next()?, date.next()?, digits(date.next()?, 2)?);
        if date.next().is_some() {
            return None;
        }
        seconds(if year < 70 { 2000 + year } else { 1900 + year }, month, digits(day, 2)?, clock)
    }
}

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Splits at single spaces into exactly so many parts.
fn parts<const COUNT: usize>(text: &str) -> Option<[&str; COUNT]> {
    text.split(' ').collect::<Vec<_>>().try_into().ok()
}

fn position(names: &[&str], is_it: impl Fn(&&str) -> bool) -> Option<usize> {
    names.iter().position(is_it)
}

/// Reads exactly so many digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let all_digits = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

fn seconds(year: i64, month: &str, day: i64, clock: &str) -> Option<i64> {
    let month = position(&MONTHS, |name| *name == month)?;
    let mut clock = clock.split(':');
    let (hour, minute, second) =
        (digits(clock.next()?, 2)?, digits(clock.next()?, 2)?, digits(clock.next()?, 2)?);
    // A leap second is the 61st.
    if clock.next().is_some()
        || hour > 23
        || minute > 59
        || second > 60
        || !(1..=days_in(year, month)).contains(&day)
    {
        return None;
    }
    Some(days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Returns the days of a month, counted from 0.
fn days_in(year: i64, month: usize) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        1 => 28 + i64::from(is_leap),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// Returns the days since the epoch of a date with its month from 0 (Hinnant, `days_from_civil`).
fn days_from_civil(year: i64, month: usize, day: i64) -> i64 {
    let year = year - i64::from(month < 2);
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let shifted = (month as i64 + 10) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn put_two(to: &mut [u8], value: u64) {
    to[0] = b'0' + (value / 10 % 10) as u8;
    to[1] = b'0' + (value % 10) as u8;
}

/// Returns year, month from 0 and day from 1 of a day since the epoch (Hinnant, `civil_from_days`).
fn civil_from_days(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12;
    (year_of_era + era * 400 + u64::from(month < 2), month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_have_their_known_texts() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(HttpDate::from_unix_seconds(seconds).as_bytes()), Ok(text));
        }
    }

    #[test]
    fn every_form_of_a_date_is_read_and_nothing_else_is() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(HttpDate::parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        assert_eq!(HttpDate::parse(b"Thu Jan 01 00:00:00 1970"), Some(0));
        assert_eq!(HttpDate::parse(b"Sat, 31 Dec 1960 23:59:60 GMT"), Some(-283_996_800));
        assert_eq!(HttpDate::parse(b"Friday, 06-Nov-26 08:49:37 GMT"), Some(1_793_954_977));
        for text in [
            "",
            "Sun",
            "784111777",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Wed, 29 Feb 2023 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Xxx, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "\u{e9}\u{e9}",
        ] {
            assert_eq!(HttpDate::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        // A prime step, so that every time of day and month comes.
        for seconds in (0..253_402_300_799_u64).step_by(86_028_157) {
            let date = HttpDate::from_unix_seconds(seconds);
            assert_eq!(HttpDate::parse(date.as_bytes()), i64::try_from(seconds).ok());
        }
    }
}
