//! Points in time as files carry them: seconds since 1970 and nanoseconds, far past and far future.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time; `nanos` is below 1,000,000,000 and counts forward from `secs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 UTC, negative before it.
    pub secs: i64,
    /// Nanoseconds after `secs`, 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// Returns the same point as [`SystemTime`], or the epoch when that type cannot hold it.
    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        let nanos = Duration::from_nanos(u64::from(self.nanos));
        let whole = Duration::from_secs(self.secs.unsigned_abs());
        let at = if self.secs >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
        at.and_then(|at| at.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }

    /// Returns milliseconds since 1970, saturating.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.secs.saturating_mul(1000).saturating_add(i64::from(self.nanos / 1_000_000))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        match at.duration_since(UNIX_EPOCH) {
            Ok(after) => {
                Self { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() }
            }
            Err(before) => {
                let before = before.duration();
                let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self { secs: -secs, nanos: 0 },
                    nanos => Self { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_survive_the_round_trip() {
        for (secs, nanos) in
            [(0, 0), (1, 1), (-1, 999_999_999), (-1, 0), (4_102_444_800, 5), (-62_135_596_800, 7)]
        {
            let at = Timestamp { secs, nanos };
            assert_eq!(Timestamp::from(at.to_system_time()), at);
        }
    }
}
