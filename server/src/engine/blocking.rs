//! The blocking engine: one thread, one request at a time.
//!
//! The thread stays with a request until it is answered, and sleeps while the request waits. Connections between two
//! requests are kept and cost nothing. A request that waits for its peer or a store for longer than
//! [`limits::HTTP_PATIENCE_MS`] is set aside and answered when it can go on, so that neither a slow peer nor an event
//! stream, which never ends, keeps everyone else out.

use std::time::Duration;

use super::executor::Patience;
use super::pool::Plan;
use crate::limits;

/// Returns how this engine uses threads.
pub(super) fn plan() -> Plan {
    let patience = Patience::Stay(Duration::from_millis(limits::HTTP_PATIENCE_MS));
    Plan { name: "dfs-blocking", threads: 1, patience }
}
