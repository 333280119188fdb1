//! How long to wait before trying again.

use std::time::Duration;

use crate::limits::RETRY_MS;

/// Pauses that double from attempt to attempt, each shortened at random by up to a half, so that many mounts do
/// not come back in step.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    next_ms: u64,
    seed: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { next_ms: *RETRY_MS.start(), seed: seed | 1 }
    }

    /// Begins with the shortest pause again.
    pub(super) fn reset(&mut self) {
        self.next_ms = *RETRY_MS.start();
    }

    /// Returns the next pause.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.next_ms;
        self.next_ms = (full * 2).min(*RETRY_MS.end());
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(full - (self.seed >> 33) % (full / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_never_past_it() {
        let mut backoff = Backoff::new(7);
        let pauses: Vec<u64> = (0..20).map(|_| backoff.next().as_millis() as u64).collect();
        assert!(pauses[0] <= 50 && pauses[0] >= 25, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 5_000), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= 2_500), "{pauses:?}");
        backoff.reset();
        assert!(backoff.next().as_millis() <= 50);
    }
}
