//! The thread-pool engine: a bounded number of threads that take turns at watching the sockets and serving requests.
//!
//! A connection that waits, for its next request, a slow peer or a store, holds no thread: any number of idle
//! connections and event streams share the threads. See [`super::executor`].

use super::executor::Patience;
use super::pool::Plan;

/// Fewest threads: one that is in a handler leaves another.
const THREADS_MIN: usize = 2;

/// Returns how this engine uses threads; without a number, one for each core.
pub(super) fn plan(threads: Option<usize>) -> Plan {
    let cores = || std::thread::available_parallelism().map_or(THREADS_MIN, std::num::NonZero::get);
    let threads = threads.unwrap_or_else(|| cores().max(THREADS_MIN)).max(1);
    Plan { name: "dfs-pool", threads, patience: Patience::None }
}
