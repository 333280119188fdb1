//! Counts events and requests, and prints them as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs_shared::event::{EventBus, SubscribeError, SubscribeOptions, Subscription};
use parking_lot::Mutex;

use crate::router::Outcome;
use crate::sync::{ChunkCorrupt, ChunksMoved, CommitAnswered};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS_S: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The counters of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    commits: AtomicU64,
    changes: AtomicU64,
    groups_accepted: AtomicU64,
    groups_refused: AtomicU64,
    chunks_stored: AtomicU64,
    chunk_bytes_stored: AtomicU64,
    chunks_served: AtomicU64,
    chunk_bytes_served: AtomicU64,
    chunks_corrupt: AtomicU64,
    commit_latency: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    /// One for each bucket and one for everything above.
    counts: [AtomicU64; BUCKETS_S.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        let at = BUCKETS_S.partition_point(|bound| *bound < took.as_secs_f64());
        add(&self.counts[at], 1);
        add(&self.sum_us, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn render(&self, out: &mut Text, name: &str, help: &str) {
        out.head(name, "histogram", help);
        let mut count = 0;
        for (bound, in_bucket) in BUCKETS_S.iter().zip(&self.counts) {
            count += get(in_bucket);
            out.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {count}"));
        }
        count += get(&self.counts[BUCKETS_S.len()]);
        out.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        #[expect(clippy::cast_precision_loss, reason = "microseconds stay exact for 285 years")]
        let sum_s = get(&self.sum_us) as f64 / 1e6;
        out.line(format_args!("{name}_sum {sum_s}"));
        out.line(format_args!("{name}_count {count}"));
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes every byte");
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }
}

impl Metrics {
    /// Joins the bus until the returned subscriptions are dropped.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn join(self: &Arc<Self>, bus: &EventBus) -> Result<Vec<Subscription>, SubscribeError> {
        let (commits, moved, corrupt) = (Arc::clone(self), Arc::clone(self), Arc::clone(self));
        let name = "metrics";
        Ok(vec![
            bus.subscribe(SubscribeOptions::new(name), move |event: &CommitAnswered| {
                commits.on_commit(event)
            })?,
            bus.subscribe(SubscribeOptions::new(name), move |event: &ChunksMoved| {
                moved.on_chunks_moved(event)
            })?,
            bus.subscribe(SubscribeOptions::new(name), move |_: &ChunkCorrupt| {
                add(&corrupt.chunks_corrupt, 1)
            })?,
        ])
    }

    /// Counts an answered request.
    pub fn request(&self, outcome: &Outcome) {
        let key = (outcome.pattern, outcome.method.as_str(), outcome.status.code());
        *self.requests.lock().entry(key).or_default() += 1;
    }

    fn on_commit(&self, event: &CommitAnswered) {
        add(&self.commits, u64::from(event.changes > 0));
        add(&self.changes, event.changes as u64);
        add(&self.groups_accepted, event.accepted as u64);
        add(&self.groups_refused, event.refused as u64);
        self.commit_latency.add(event.took);
    }

    fn on_chunks_moved(&self, event: &ChunksMoved) {
        match event {
            ChunksMoved::Stored { count, bytes } => {
                add(&self.chunks_stored, *count as u64);
                add(&self.chunk_bytes_stored, *bytes);
            }
            ChunksMoved::Served { bytes } => {
                add(&self.chunks_served, 1);
                add(&self.chunk_bytes_served, *bytes);
            }
        }
    }

    /// Prints everything; `streams` is how many event streams are open.
    #[must_use]
    pub fn render(&self, streams: usize) -> String {
        let mut out = Text::default();
        out.head("dfs_requests_total", "counter", "Answered requests.");
        for ((route, method, status), count) in self.requests.lock().iter() {
            out.line(format_args!(
                "dfs_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}"
            ));
        }
        let counters = [
            ("dfs_commits_total", "Commits that advanced a volume.", &self.commits),
            ("dfs_records_changed_total", "Records changed by commits.", &self.changes),
            ("dfs_groups_accepted_total", "Change groups accepted.", &self.groups_accepted),
            ("dfs_groups_refused_total", "Change groups refused.", &self.groups_refused),
            ("dfs_chunks_stored_total", "Chunks uploaded.", &self.chunks_stored),
            ("dfs_chunk_bytes_stored_total", "Bytes of chunks uploaded.", &self.chunk_bytes_stored),
            ("dfs_chunks_served_total", "Chunks downloaded.", &self.chunks_served),
            ("dfs_chunk_bytes_served_total", "Bytes of chunks downloaded.", &self.chunk_bytes_served),
            ("dfs_chunks_corrupt_total", "Damaged chunks found.", &self.chunks_corrupt),
        ];
        for (name, help, counter) in counters {
            out.single(name, "counter", help, get(counter));
        }
        out.single("dfs_streams", "gauge", "Open event streams.", streams as u64);
        self.commit_latency.render(
            &mut out,
            "dfs_commit_seconds",
            "Time from a commit request to its durable answer.",
        );
        out.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_counts_in_its_bucket_and_all_above() {
        let metrics = Metrics::default();
        metrics.commit_latency.add(Duration::from_micros(1500));
        metrics.commit_latency.add(Duration::from_secs(60));
        let text = metrics.render(3);
        for line in [
            "dfs_commit_seconds_bucket{le=\"0.001\"} 0",
            "dfs_commit_seconds_bucket{le=\"0.002\"} 1",
            "dfs_commit_seconds_bucket{le=\"5\"} 1",
            "dfs_commit_seconds_bucket{le=\"+Inf\"} 2",
            "dfs_commit_seconds_sum 60.0015",
            "dfs_commit_seconds_count 2",
            "dfs_streams 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
