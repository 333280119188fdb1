//! What time it is: the one place of the engine that asks.

use std::time::{Duration, SystemTime};

use dfs_shared::time::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Returns the time now.
    fn now(&self) -> Timestamp;

    /// Returns how long the machine has been on, asleep or not: goes on evenly, whatever happens to the time.
    fn since_boot(&self) -> Duration;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from(SystemTime::now())
    }

    fn since_boot(&self) -> Duration {
        let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it is given a place for the result; Linux has had this clock since 2.6.39.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut at) };
        let (secs, nanos) = (u64::try_from(at.tv_sec), u32::try_from(at.tv_nsec));
        Duration::new(secs.unwrap_or(0), nanos.unwrap_or(0))
    }
}
