//! The commit loop: one request at a time, as soon as there is something to send; what is changed meanwhile
//! gathers for the next.
//!
//! ```text
//! idle ─wake─► read journal ─► name contents ─► plan ─► store ─► send ─► settle ─► again
//!   ▲                                             │ nothing                 │ connection lost: stays stored and is
//!   └─────────────────────────────────────────────┘                         └ sent again first thing after it is back
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_shared::wire::messages::CommitReply;
use tokio::time::Instant;

use super::identity;
use super::outcome::{self, Setback};
use super::pending::Window;
use super::plan::plan;
use super::request::{InFlight, build};
use super::retry::Backoff;
use super::shared::{EngineError, Shared, blocking, chain};
use crate::limits::GATHER_MS_MAX;
use crate::remote::RemoteError;

/// How a round ended.
enum Round {
    /// Something was sent; there may be more.
    Sent,
    /// Something was sent and some of it refused.
    Refused(Setback),
    /// There is nothing to send before something wakes the loop or this time has passed.
    Idle(Option<Duration>),
}

/// In which state of the connection a request may be sent. It is given up when that state changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    /// A new one: not while the two sides are being compared.
    Online,
    /// One that was left over: it is settled before they are.
    AsItIs,
}

/// Sends what is journaled until the engine stops.
pub(super) async fn run(shared: Arc<Shared>) {
    shared.until_stopped(commits(&shared)).await;
}

async fn commits(shared: &Arc<Shared>) {
    let mut backoff = Backoff::new(shared.seed.wrapping_add(1));
    loop {
        shared.wait_online().await;
        let begun = Instant::now();
        match round(shared).await {
            Ok(Round::Sent) => {
                backoff.reset();
                // In a burst of changes half of the time is for gathering: fewer and larger requests.
                if shared.tree.pending(0, 1).is_ok_and(|more| !more.is_empty()) {
                    tokio::time::sleep(begun.elapsed().min(Duration::from_millis(GATHER_MS_MAX))).await;
                }
            }
            Ok(Round::Refused(setback)) => {
                tokio::select! {
                    biased;
                    () = wait_applied(shared, setback) => {}
                    () = shared.wait_lost() => {}
                }
            }
            Ok(Round::Idle(again_in)) => {
                backoff.reset();
                shared.is_server_full.store(false, Ordering::Relaxed);
                tokio::select! {
                    biased;
                    () = shared.wake.0.notified() => {}
                    () = tokio::time::sleep(again_in.unwrap_or(Duration::MAX)), if again_in.is_some() => {}
                }
            }
            Err(error) => {
                let lost = match &error {
                    EngineError::Lost => true,
                    EngineError::Remote(error) => {
                        // The new connection settles the commit before all else, and says why it cannot.
                        error.is_unreachable() || error.is_nonsense() || error.token_refused() == Some(true)
                    }
                    _ => false,
                };
                if lost {
                    shared.broken.notify_one();
                    let _ = tokio::time::timeout(Duration::from_secs(1), shared.wait_lost()).await;
                } else {
                    shared.note_token(&error);
                    shared.is_server_full.store(error.is_server_full(), Ordering::Relaxed);
                    tracing::warn!(error = chain(&error), "changes cannot be sent; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }
}

async fn round(shared: &Arc<Shared>) -> Result<Round, EngineError> {
    if shared.read_only {
        return Ok(Round::Idle(None));
    }
    let _sending = shared.sending.lock().await;
    settle_stored(shared).await?;
    let Some(client) = shared.online() else { return Err(EngineError::Lost) };
    let (flight, again_in) = blocking(|| prepare(shared, client))?;
    let Some(flight) = flight else { return Ok(Round::Idle(again_in)) };
    Ok(send(shared, flight, Only::Online).await?.map_or(Round::Sent, Round::Refused))
}

/// Waits until the events that tell why something was refused have been applied.
async fn wait_applied(shared: &Arc<Shared>, setback: Setback) {
    let mut applied = shared.applied.subscribe();
    // The sender lives in `shared`.
    let _ = applied.wait_for(|applied| *applied >= setback.after).await;
    tokio::time::sleep(setback.pause).await;
}

type Prepared = (Option<InFlight>, Option<Duration>);

/// Plans the next request and stores it. Blocks while small files are read.
fn prepare(shared: &Arc<Shared>, client: dfs_shared::ids::ClientId) -> Result<Prepared, EngineError> {
    let mut window = Window::read(&shared.tree, shared.quota.is_asked_for(shared))?;
    if window.groups.is_empty() {
        shared.quota.clear();
        shared.note_progress();
        return Ok((None, None));
    }
    let ready = window.get_ready(shared)?;
    let stuck: BTreeSet<u64> = {
        let refused = shared.refused.lock();
        refused
            .values()
            .filter(|refused| refused.stuck)
            .flat_map(|refused| refused.seqs.iter().copied())
            .collect()
    };
    let mut plan = plan(&window.input(&ready.waiting, &stuck));
    let finished = std::mem::take(&mut plan.finished);
    if !finished.is_empty() {
        shared.tree.drop_groups(&finished)?;
        shared.note_progress();
    }
    if plan.send.is_empty() {
        return Ok((None, ready.again_in));
    }
    // First the number, so that no two requests ever have the same.
    let commit = shared.tree.next_commit()?;
    shared.update_membership(|membership| membership.commit = commit)?;
    let flight = build(shared, client, commit, plan, ready.small)?;
    shared.tree.store_in_flight(Some(&flight.encode()))?;
    Ok((Some(flight), ready.again_in))
}

/// Finishes a request that was left over, before anything else is sent or applied.
pub(super) async fn settle(shared: &Arc<Shared>) -> Result<(), EngineError> {
    let _sending = shared.sending.lock().await;
    settle_stored(shared).await
}

async fn settle_stored(shared: &Arc<Shared>) -> Result<(), EngineError> {
    let Some(stored) = shared.tree.in_flight()? else { return Ok(()) };
    match blocking(|| InFlight::restore(&stored, shared)) {
        Ok(flight) => send(shared, flight, Only::AsItIs).await.map(drop),
        Err(error) => {
            tracing::error!(error = chain(&error), "the stored commit is damaged; its changes are sent anew");
            shared.tree.store_in_flight(None)?;
            let commit = shared.tree.membership()?.commit;
            shared.settled.send_replace(commit);
            Ok(())
        }
    }
}

/// Sends a stored request and settles it.
async fn send(
    shared: &Arc<Shared>,
    mut flight: InFlight,
    only: Only,
) -> Result<Option<Setback>, EngineError> {
    let commit = flight.notes.commit;
    let error = match request(shared, &mut flight, only).await {
        Ok(reply) => {
            // Before it is settled: who sees that nothing waits any more does not hear what it waited for.
            *shared.token_refused.lock() = None;
            shared.is_server_full.store(false, Ordering::Relaxed);
            return outcome::settle(shared, flight, reply).await;
        }
        Err(EngineError::Remote(error)) => error,
        Err(error) => return Err(error),
    };
    let is_full = error.is_server_full();
    // A token that was revoked under way leaves open what became of the commit: it stays stored.
    if error.token_refused() == Some(true) || (error.is_retryable() && !is_full) {
        return Err(error.into());
    }
    // It was not made, nor was it before: the server would know. So it keeps nobody from coming back and reading.
    shared.tree.store_in_flight(None)?;
    shared.settled.send_replace(commit);
    if is_full && only == Only::AsItIs {
        return Ok(None);
    }
    if error.is_number_taken() {
        identity::give_up(shared, flight.client())?;
        return Err(EngineError::Lost);
    }
    if !is_full {
        tracing::error!(error = chain(&error), "the server refuses a commit; its changes are sent anew");
    }
    Err(error.into())
}

async fn request(
    shared: &Arc<Shared>,
    flight: &mut InFlight,
    only: Only,
) -> Result<CommitReply, EngineError> {
    let mut connection = shared.connection.subscribe();
    connection.mark_unchanged();
    if only == Only::Online && shared.online().is_none() {
        return Err(EngineError::Lost);
    }
    tokio::select! {
        biased;
        reply = shared.remote.commit(flight.take_message()) => {
            let reply = reply?;
            let (asked, came) = (flight.notes.seqs.len(), reply.outcomes.len());
            if asked != came {
                let (server, why) = (shared.remote.name(), format!("{asked} groups, {came} outcomes"));
                return Err(RemoteError::Damaged { server, what: "commit reply", why }.into());
            }
            Ok(reply)
        }
        _ = connection.changed() => Err(EngineError::Lost),
    }
}
