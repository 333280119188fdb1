//! Tells the server in the background what this mount holds and what it has done.
//!
//! ```text
//! row of bytes written, or event ─► quiet for a moment, or a few seconds have passed ─► one report ─► noted ─► table `reported`
//!        ▲                                                                                │ not noted
//!        └────────────────────────── everything is told anew ◄────────────────────────────┘
//! ```
//!
//! Invariant: nothing waits for a report. Events that find their queue full, or whose report fails, are dropped; what is held is
//! compared with what was told, so it is told later.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::limits::{REPORT_EVENTS_MAX, REPORT_HELD_MAX, REPORT_REASON_LEN_MAX};
use dfs_shared::record::RecordKey;
use dfs_shared::wire::report::{Held, MountEvent, ReportRequest};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::retry::Backoff;
use super::shared::{EngineError, Shared, blocking, chain};
use crate::limits::{REPORT_QUIET_MS, REPORT_WAIT_MS_MAX, TOUCHED_CONTENTS_MAX};
use crate::tree::TreeError;
use crate::tree::apply::Conflict;
use crate::tree::held::ReportState;

/// What is to be told, besides what is held.
#[derive(Debug, Default)]
pub(super) struct Reports {
    events: parking_lot::Mutex<VecDeque<MountEvent>>,
    wake: Notify,
}

impl Reports {
    /// Lets an event be told with the next report; dropped if too many wait.
    pub(super) fn event(&self, event: MountEvent) {
        let mut events = self.events.lock();
        if events.len() >= REPORT_EVENTS_MAX {
            tracing::debug!(?event, "too many events wait to be told: dropped");
            return;
        }
        events.push_back(event);
        drop(events);
        self.wake.notify_one();
    }

    /// Tells of a reconciliation that could not be done.
    pub(super) fn sync_failed(&self, error: &EngineError) {
        let mut reason = chain(error);
        let end = (0..=REPORT_REASON_LEN_MAX).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        self.event(MountEvent::SyncFailed { reason });
    }

    fn is_empty(&self) -> bool {
        self.events.lock().is_empty()
    }

    fn take(&self) -> Vec<MountEvent> {
        self.events.lock().drain(..).collect()
    }
}

impl Shared {
    /// Tells of conflicts in which both versions were kept. Those that the server has found itself it has told of.
    pub(super) fn report_conflict(&self, conflict: &Conflict) -> Result<(), TreeError> {
        let Some(path) = self.tree.path_of_name(conflict.parent, &conflict.name)? else { return Ok(()) };
        let Some(copy) = self.tree.path_of_name(conflict.parent, &conflict.copy)? else { return Ok(()) };
        let entry = RecordKey::Entry { parent: conflict.parent, name: conflict.name.clone() };
        let node = self.tree.resolve_path(&path).ok().map(|node| RecordKey::Node(node.id));
        let is_told = self.refused.lock().values().any(|refused| {
            [Some(&entry), node.as_ref()].into_iter().flatten().any(|key| refused.keys.contains(key))
        });
        if !is_told {
            self.reports.event(MountEvent::ConflictDetected { path: path.clone() });
        }
        self.reports.event(MountEvent::ConflictResolved { path, copy });
        Ok(())
    }

    /// Tells of a file that was fetched to its end.
    pub(super) fn report_download(&self, node: NodeId) -> Result<(), TreeError> {
        let Some(found) = self.tree.node_by_id(node)? else { return Ok(()) };
        let (Some(record), Some(path)) = (found.live(), self.tree.path_of(node)?) else { return Ok(()) };
        if let Some(content) = record.content {
            self.reports.event(MountEvent::Downloaded { path, content, size: record.size });
        }
        Ok(())
    }
}

/// How far the comparison of all rows has come.
#[derive(Debug, Clone, Copy)]
struct Scan {
    after: Option<NodeId>,
}

/// What is to be told of what is held.
#[derive(Default)]
struct Found {
    held: Vec<Held>,
    /// Files whose content the server does not have yet.
    undecided: BTreeSet<NodeId>,
}

/// Reports until the engine stops.
pub(super) async fn run(shared: Arc<Shared>) {
    shared.until_stopped(reports(&shared)).await;
}

async fn reports(shared: &Arc<Shared>) {
    let mut touched = shared.tree.contents_touched();
    let mut progress = shared.progress.subscribe();
    let mut backoff = Backoff::new(shared.seed.wrapping_add(2));
    let mut scan = Some(Scan { after: None });
    let mut undecided = BTreeSet::new();
    loop {
        let is_idle = scan.is_none() && !shared.tree.has_touched_contents() && shared.reports.is_empty();
        if is_idle {
            tokio::select! {
                biased;
                // The senders live in `shared`.
                _ = touched.changed() => {}
                () = shared.reports.wake.notified() => {}
                _ = progress.changed(), if !undecided.is_empty() => {}
            }
        }
        shared.wait_online().await;
        quiet(&mut touched).await;
        progress.mark_unchanged();
        shared.tree.give_back_touched(std::mem::take(&mut undecided).into_iter());
        let Some(client) = shared.online() else { continue };
        match report(shared, client, &mut scan, &mut undecided).await {
            Ok(()) => backoff.reset(),
            Err(EngineError::Remote(error)) if !error.is_retryable() => {
                // An older server, or one that does not know this mount any more: registering may help.
                tracing::warn!(error = chain(&error), "the server takes no reports from this mount for now");
                shared.wait_lost().await;
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "a report failed; trying again");
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// Waits until no bytes come or go for a moment, so that a burst is told at once; a few seconds at most.
async fn quiet(touched: &mut watch::Receiver<u64>) {
    let deadline = Instant::now() + Duration::from_millis(REPORT_WAIT_MS_MAX);
    touched.mark_unchanged();
    loop {
        let calm = (Instant::now() + Duration::from_millis(REPORT_QUIET_MS)).min(deadline);
        tokio::select! {
            biased;
            _ = touched.changed() => {}
            () = tokio::time::sleep_until(calm) => return,
        }
    }
}

/// Sends one report, if there is something to tell.
async fn report(
    shared: &Arc<Shared>,
    client: ClientId,
    scan: &mut Option<Scan>,
    undecided: &mut BTreeSet<NodeId>,
) -> Result<(), EngineError> {
    let state = shared.tree.report_state()?;
    let Found { held, undecided: waiting } = blocking(|| find(shared, scan))?;
    *undecided = waiting;
    let events = shared.reports.take();
    if held.is_empty() && events.is_empty() && !state.anew {
        return Ok(());
    }
    let request = ReportRequest { client, after: state.number, anew: state.anew, held: held.clone(), events };
    let reply = match shared.remote.report(request).await {
        Ok(reply) => reply,
        Err(error) => {
            shared.tree.give_back_touched(held.into_iter().map(|held| held.node));
            return Err(error.into());
        }
    };
    if reply.is_noted {
        shared.tree.note_reported(&held, ReportState { number: reply.number, anew: false })?;
    } else {
        tracing::info!("the server has forgotten what this mount holds: telling it anew");
        blocking(|| shared.tree.forget_reported(reply.number))?;
        *scan = Some(Scan { after: None });
    }
    Ok(())
}

/// Finds what differs from what was told, as much as one report takes. Blocks.
fn find(shared: &Shared, scan: &mut Option<Scan>) -> Result<Found, TreeError> {
    let mut found = Found::default();
    // Those that are undecided take no room, so that they do not keep the others from being told.
    while found.held.len() < REPORT_HELD_MAX {
        let (nodes, is_overfull) = shared.tree.take_touched_contents(REPORT_HELD_MAX - found.held.len());
        look(shared, &nodes, &mut found)?;
        if is_overfull {
            *scan = Some(Scan { after: None });
        }
        if nodes.is_empty() {
            break;
        }
    }
    while let Some(at) = *scan {
        // A page looks at no more rows than the report has room for: those that are here, and twice as many that were.
        let limit = (REPORT_HELD_MAX - found.held.len()) / 3;
        if limit == 0 || found.undecided.len() > TOUCHED_CONTENTS_MAX {
            break;
        }
        let (nodes, next) = shared.tree.differing_contents(at.after, limit)?;
        look(shared, &nodes, &mut found)?;
        *scan = next.map(|after| Scan { after: Some(after) });
    }
    Ok(found)
}

fn look(shared: &Shared, nodes: &[NodeId], found: &mut Found) -> Result<(), TreeError> {
    for node in nodes {
        match shared.tree.holding(*node)? {
            None => drop(found.undecided.insert(*node)),
            Some(holding) if shared.tree.reported(*node)? != holding => {
                if !found.held.iter().any(|held| held.node == *node) {
                    found.held.push(Held { node: *node, holding });
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}
