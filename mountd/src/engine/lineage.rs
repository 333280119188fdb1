//! Recognises a server that went back: whose volume was restored from an older backup.
//!
//! What such a server lacks is taken for changes of this mount and sent again; where somebody else has changed the
//! same since, both versions stay. Nothing that is here is replaced by an older state.

use std::sync::atomic::Ordering;

use dfs_shared::lineage::{Lineage, State, lineage};
use dfs_shared::revision::Revision;
use dfs_shared::wire::messages::RegisterReply;

use super::shared::{EngineError, Shared};
use crate::tree::TreeError;

/// Returns the newest revision that this mount and the server have in common, if the server lacks later ones that this
/// mount saw.
pub(super) async fn went_back(
    shared: &Shared,
    reply: &RegisterReply,
) -> Result<Option<Revision>, EngineError> {
    shared.went_back.store(false, Ordering::Relaxed);
    let seen = shared.tree.seen()?;
    let now = State { revision: reply.revision, root: reply.root };
    let Some(newest) = seen.states().last().filter(|newest| **newest != now) else { return Ok(None) };
    let known = shared.remote.lineage(seen.states().to_vec()).await?;
    match lineage(seen.states(), known) {
        Lineage::Continues => Ok(None),
        Lineage::WentBack { to } => {
            shared.went_back.store(true, Ordering::Relaxed);
            shared.notice(format!(
                "{} has gone back from revision {} to {to}, as after restoring an older backup: what it lacks and this \
                 mount has is sent again; files that were deleted since that backup may come back",
                shared.remote.name(),
                newest.revision,
            ));
            Ok(Some(to))
        }
    }
}

/// Remembers a state that the server told. Not while what a server that went back has lost is still to be found out: the next
/// connection has to recognise it again.
pub(super) fn note(shared: &Shared, state: State) -> Result<(), TreeError> {
    if shared.went_back.load(Ordering::Relaxed) {
        return Ok(());
    }
    let old = shared.tree.seen()?;
    let mut seen = old.clone();
    seen.add(state);
    if seen == old { Ok(()) } else { shared.tree.set_seen(&seen) }
}

/// Forgets the states that a server that went back does not know: it is in step again.
pub(super) fn begin_anew(shared: &Shared, state: State) -> Result<(), TreeError> {
    let mut seen = shared.tree.seen()?;
    seen.begin_at(state);
    shared.tree.set_seen(&seen)?;
    shared.went_back.store(false, Ordering::Relaxed);
    Ok(())
}
