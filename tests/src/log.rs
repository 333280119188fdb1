//! What a process said on stdout and stderr, kept line by line and waited for without polling.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Lines kept; beyond it the oldest go, so that a chatty process can't fill memory.
const LINES_MAX: usize = 20_000;

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    open_streams: usize,
}

/// The captured output of one process.
#[derive(Clone, Default)]
pub struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
}

impl Log {
    /// Starts a thread that copies `stream` into this log until its end.
    pub fn capture(&self, stream: impl Read + Send + 'static) {
        self.lock().open_streams += 1;
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                log.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            log.lock().open_streams -= 1;
            log.shared.1.notify_all();
        });
    }

    /// Waits until some line makes `find` return a value.
    ///
    /// # Errors
    /// Past the deadline, or when all streams ended without such a line; with the log's tail.
    pub fn wait_for<T>(&self, what: &str, deadline: Duration, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let start = Instant::now();
        let mut lines = self.lock();
        loop {
            if let Some(value) = lines.lines.iter().find_map(|line| find(line)) {
                return Ok(value);
            }
            let left = deadline.saturating_sub(start.elapsed());
            let ended = lines.open_streams == 0;
            if ended || left.is_zero() {
                let why = if ended { "it ended first" } else { "deadline passed" };
                let tail = lines.lines[lines.lines.len().saturating_sub(20)..].join("\n  ");
                bail!("no {what}: {why}; it said:\n  {tail}");
            }
            lines = self.shared.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until every captured stream has ended; false past the deadline.
    #[must_use]
    pub fn wait_end(&self, deadline: Duration) -> bool {
        let start = Instant::now();
        let mut lines = self.lock();
        while lines.open_streams > 0 {
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            lines = self.shared.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Whether some line so far contains `text`.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        self.lock().lines.iter().any(|line| line.contains(text))
    }

    /// Everything so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.lock().lines.join("\n")
    }

    /// The last `count` lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        lines.lines[lines.lines.len().saturating_sub(count)..].join("\n")
    }

    fn push(&self, line: String) {
        let mut lines = self.lock();
        if lines.lines.len() >= LINES_MAX {
            lines.lines.drain(..LINES_MAX / 4);
        }
        lines.lines.push(line);
        drop(lines);
        self.shared.1.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
