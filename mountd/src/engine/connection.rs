//! The connection's life: register, settle what was in flight, reconcile, follow the events, and again.

use std::sync::Arc;
use std::time::Duration;

use dfs_shared::ids::ClientId;
use dfs_shared::lineage::State;
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::{Committed, RegisterReply, RegisterRequest, StreamFrame};
use dfs_shared::wire::report::MountEvent;
use futures_util::FutureExt;

use super::apply::{Incoming, apply, apply_what_fits};
use super::commit;
use super::events::{self, Frames, Waiting};
use super::identity;
use super::lineage;
use super::quota;
use super::reconcile::reconcile;
use super::retry::Backoff;
use super::shared::{Connection, EngineError, Shared, chain};
use crate::limits::RECONCILE_ATTEMPTS_MAX;
use crate::remote::{FrameStream, RemoteError};

/// Connects again and again until the engine stops, or must not go on.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(shared.seed);
    let mut stopping = shared.stopping.subscribe();
    loop {
        let ended = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            ended = session(&shared, &mut backoff) => ended,
        };
        let error = match ended {
            Err(EngineError::Stop(why)) => {
                tracing::error!(%why, "syncing has stopped");
                shared.connection.send_replace(Connection::Stopped { why });
                return;
            }
            Err(error) => error,
            Ok(()) => EngineError::Lost,
        };
        shared.note_token(&error);
        if *shared.connection.borrow() == Connection::Reconciling {
            shared.reports.sync_failed(&error);
        }
        note_offline(&shared, &error);
        let pause = backoff.next();
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

fn note_offline(shared: &Shared, error: &EngineError) {
    let why = chain(error);
    let now = shared.clock.now();
    shared.connection.send_modify(|connection| {
        let since = match connection {
            Connection::Offline { since, why: old } => {
                if *old != why {
                    tracing::warn!(%why, "still without the server");
                }
                *since
            }
            Connection::Reconciling | Connection::Online { .. } | Connection::Stopped { .. } => {
                tracing::warn!(%why, "the server is gone; everything here goes on");
                now
            }
        };
        *connection = Connection::Offline { since, why };
    });
}

async fn session(shared: &Arc<Shared>, backoff: &mut Backoff) -> Result<(), EngineError> {
    // What another task found broken was the connection before.
    let _ = shared.broken.notified().now_or_never();
    let is_new = shared.tree.membership()?.volume.is_none();
    let reply = register(shared).await?;
    let lost_after = lineage::went_back(shared, &reply).await?;
    let client = reply.client;
    shared.refused.lock().clear();
    shared.quota.clear();
    commit::settle(shared).await?;
    let stream = shared.remote.stream(client.clone()).await?;
    let mut frames = follow(shared, stream);
    let (revision, root) = match next(shared, &mut frames).await?.frame {
        StreamFrame::Hello { volume, revision, root } if volume == reply.volume => (revision, root),
        frame => return Err(EngineError::Diverged(format!("the event stream began with {frame:?}"))),
    };
    go_online(shared, &client, &mut frames, State { revision, root }, lost_after).await?;
    backoff.reset();
    shared.tasks.spawn(identity::ask(Arc::clone(shared), client.clone(), is_new));
    tracing::info!(server = shared.remote.name(), %client, %revision, "in step with the server");
    loop {
        let Waiting { frame, room } = tokio::select! {
            biased;
            () = shared.broken.notified() => return Err(EngineError::Lost),
            waiting = next(shared, &mut frames) => waiting?,
        };
        let (mut batch, mut rooms) = (vec![frame], vec![room]);
        while let Ok(waiting) = frames.try_recv() {
            let Waiting { frame, room } = waiting?;
            batch.push(frame);
            rooms.push(room);
        }
        let lost = take(shared, &client, batch).await?;
        drop(rooms);
        if let Some(lost) = lost {
            go_online(shared, &client, &mut frames, lost, None).await?;
        }
    }
}

async fn register(shared: &Arc<Shared>) -> Result<RegisterReply, EngineError> {
    let membership = shared.tree.membership()?;
    // SAFETY: neither call has preconditions.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let client_name = shared.client_name.clone();
    let request = RegisterRequest { client_name, client: membership.client.clone(), uid, gid };
    let reply = shared.remote.register(request).await?;
    if let Some(known) = membership.volume.filter(|known| *known != reply.volume) {
        return Err(EngineError::Stop(format!(
            "{} has another volume (id {}) than this mount was synced with (id {known}): mount it with a \
             state directory of its own, or give the right server",
            shared.remote.name(),
            reply.volume
        )));
    }
    shared.update_membership(|membership| {
        membership.client = Some(reply.client.clone());
        membership.volume = Some(reply.volume);
    })?;
    Ok(reply)
}

/// Reads the stream into a queue, so that events are kept while a reconciliation lasts.
fn follow(shared: &Arc<Shared>, stream: FrameStream) -> Frames {
    let (frames, fill) = events::queue(stream);
    shared.tasks.spawn(fill);
    frames
}

async fn next(shared: &Shared, frames: &mut Frames) -> Result<Waiting, EngineError> {
    match frames.recv().await {
        Some(waiting) => Ok(waiting?),
        None => Err(RemoteError::Disconnected { server: shared.remote.name() }.into()),
    }
}

/// Reconciles until the roots are equal, and says that the mount is online.
async fn go_online(
    shared: &Arc<Shared>,
    client: &ClientId,
    frames: &mut Frames,
    mut state: State,
    lost_after: Option<Revision>,
) -> Result<(), EngineError> {
    shared.connection.send_replace(Connection::Reconciling);
    shared.reports.event(MountEvent::SyncStarted);
    let mut news = 0;
    {
        // A commit that was on its way is given up now and stays stored. Its changes would look like somebody else's.
        let _sending = shared.sending.lock().await;
        if shared.tree.in_flight()?.is_some() {
            return Err(EngineError::Lost);
        }
    }
    if lost_after.is_some() {
        *shared.base.lock().await = Revision::ZERO;
    }
    let mut backoff = Backoff::new(state.revision.0);
    for attempt in 0..RECONCILE_ATTEMPTS_MAX {
        let mut base = shared.base.lock().await;
        news += reconcile(shared, state.root, lost_after).await?;
        let (mut incoming, mut rooms) = (Incoming::default(), Vec::new());
        while let Ok(waiting) = frames.try_recv() {
            let Waiting { frame, room } = waiting?;
            rooms.push(room);
            match frame {
                StreamFrame::Committed(event) => {
                    state = State { revision: event.revision, root: event.root };
                    incoming.add(event);
                }
                StreamFrame::Lagged => {
                    return Err(EngineError::Diverged("the server dropped events".to_owned()));
                }
                StreamFrame::Quota { limit } => quota::told(shared, limit)?,
                StreamFrame::Hello { .. } | StreamFrame::Heartbeat { .. } => {}
            }
        }
        news += apply_what_fits(shared, incoming)?;
        drop(rooms);
        if shared.tree.base_root()? == state.root {
            *base = (*base).max(state.revision);
            if lost_after.is_some() {
                shared.update_membership(|membership| membership.revision = state.revision)?;
                lineage::begin_anew(shared, state)?;
            }
            note_state(shared, state)?;
            *shared.token_refused.lock() = None;
            shared.connection.send_replace(Connection::Online { client: client.clone() });
            shared
                .reports
                .event(MountEvent::SyncCompleted { revision: state.revision, records: news as u64 });
            shared.went_online.notify_waiters();
            shared.note_progress();
            // What had to wait may have room now.
            shared.wake.wake();
            return Ok(());
        }
        drop(base);
        tracing::debug!(attempt, "the server moved on while reconciling");
        tokio::time::sleep(backoff.next()).await;
    }
    Err(EngineError::Diverged("this mount and the server cannot be brought to the same state".to_owned()))
}

/// Notes a state that the server told and that the base agrees with.
fn note_state(shared: &Shared, state: State) -> Result<(), EngineError> {
    lineage::note(shared, state)?;
    note_revision(shared, state.revision)
}

fn note_revision(shared: &Shared, revision: Revision) -> Result<(), EngineError> {
    shared.update_membership(|membership| membership.revision = membership.revision.max(revision))?;
    shared.applied.send_replace(revision);
    Ok(())
}

/// Applies a batch of frames. Returns the state to reconcile with if something is missing.
async fn take(
    shared: &Arc<Shared>,
    client: &ClientId,
    frames: Vec<StreamFrame>,
) -> Result<Option<State>, EngineError> {
    let mut incoming = Incoming::default();
    let (mut first, mut last) = (Revision(u64::MAX), None);
    for frame in frames {
        match frame {
            StreamFrame::Committed(event) => {
                wait_for_own(shared, client, &event).await?;
                last = Some(State { revision: event.revision, root: event.root });
                first = first.min(event.revision);
                incoming.add(event);
            }
            StreamFrame::Heartbeat { .. } => {}
            StreamFrame::Quota { limit } => quota::told(shared, limit)?,
            StreamFrame::Lagged => {
                return Err(EngineError::Diverged(
                    "this mount was too slow and the server dropped events".to_owned(),
                ));
            }
            StreamFrame::Hello { .. } => return Err(EngineError::Diverged("a second hello".to_owned())),
        }
    }
    let Some(state) = last else { return Ok(None) };
    let base = shared.base.lock().await;
    // What was acknowledged after the first of these events is in the base already.
    if *base > first {
        apply_what_fits(shared, incoming)?
    } else {
        apply(shared, incoming)?
    };
    // Its own event will tell.
    if *base > state.revision {
        note_revision(shared, state.revision)?;
        return Ok(None);
    }
    if shared.tree.base_root()? == state.root {
        note_state(shared, state)?;
        return Ok(None);
    }
    tracing::warn!(revision = %state.revision, "the roots differ after an event; reconciling");
    Ok(Some(state))
}

/// Waits until the reply to an own commit has been dealt with: its event must not be taken for somebody else's.
async fn wait_for_own(shared: &Arc<Shared>, client: &ClientId, event: &Committed) -> Result<(), EngineError> {
    if event.client != *client {
        return Ok(());
    }
    identity::check(shared, client, event)?;
    let mut settled = shared.settled.subscribe();
    tokio::select! {
        biased;
        _ = settled.wait_for(|settled| *settled >= event.commit) => Ok(()),
        () = shared.broken.notified() => Err(EngineError::Lost),
        // The commit's own deadline ends first.
        () = tokio::time::sleep(Duration::from_secs(60)) => Err(EngineError::Lost),
    }
}
