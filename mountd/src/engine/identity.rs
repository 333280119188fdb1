//! Whether this mount is the client that its state directory says.
//!
//! A state directory may be copied, restored from an older copy or lost. The server answers a commit number that it knows with
//! the reply that it gave, so two mounts with one client's numbers would take each other's replies for their own. Whoever
//! finds out that it is such a mount registers as a new client; what it has not sent stays in its journal.

use std::sync::Arc;

use dfs_shared::ids::ClientId;
use dfs_shared::wire::messages::{Committed, Namesake};

use super::shared::{EngineError, Shared, chain};
use crate::cache::{Past, Strays};
use crate::limits::CLOCK_APART_S;
use crate::tree::TreeError;

/// Says what became of the state directory since the last start, if something did.
pub(super) fn look(shared: &Shared) -> Result<(), TreeError> {
    let dir = shared.cache.state_dir().display();
    match shared.cache.past() {
        Past::Known => {}
        Past::Lost => shared.notice(format!(
            "the state of this mount, {dir}/tree, was lost: names and contents come from the server, and what had not been sent \
             is missing"
        )),
        Past::Older => {
            shared.update_membership(|membership| membership.client = None)?;
            shared.notice(format!(
                "the state directory {dir} is older than what was written from it, as after a restore: the mount goes on from \
                 there as a new client; what was sent since then comes from the server, what was not sent is missing"
            ));
        }
    }
    for Strays { dir, files, bytes } in shared.cache.strays() {
        let dir = dir.display();
        shared.notice(format!(
            "{files} files ({bytes} bytes) that no name leads to any more are in {dir}: they may hold what was never sent; remove the \
             directory when nothing of it is needed"
        ));
    }
    Ok(())
}

/// Forgets the client, so that the next connection registers a new one.
pub(super) fn give_up(shared: &Shared, client: &ClientId) -> Result<(), TreeError> {
    shared.update_membership(|membership| membership.client = None)?;
    shared.notice(format!(
        "somebody else sends changes as {client}: the state directory {} is a copy of another mount's, or older than what was \
         sent from it; this mount goes on as a new client, and nothing of it is lost",
        shared.cache.state_dir().display()
    ));
    Ok(())
}

/// Asks the server what time it is, and in a volume's first connection whether it knows a mount that this one may have been.
pub(super) async fn ask(shared: Arc<Shared>, client: ClientId, is_new: bool) {
    let reply = match shared.remote.whoami(client).await {
        Ok(reply) => reply,
        // An older server does not know the question.
        Err(error) => {
            tracing::debug!(error = chain(&error), "the server does not tell who else there is");
            return;
        }
    };
    *shared.server_clock.lock() = Some((reply.time, shared.clock.since_boot()));
    if let Some(notice) = clock_notice(&shared) {
        tracing::warn!("{notice}");
    }
    if let Some(Namesake { client, last_seen }) = reply.namesakes.first().filter(|_| is_new) {
        let seen = time::OffsetDateTime::from_unix_timestamp(last_seen.secs);
        let day = seen.unwrap_or(time::OffsetDateTime::UNIX_EPOCH).date();
        let others = match reply.namesakes.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        shared.notice(format!(
            "this is a new mount, but the volume knows {client}{others} of the same name (last connected on {day}): if that was this \
             one, its state directory is lost, and with it what had not been sent; all else comes from the server. \
             `dfs-server client remove {client}` forgets it"
        ));
    }
}

/// Says how far this machine's clock is from the server's, if it is so far that people should know.
pub(super) fn clock_notice(shared: &Shared) -> Option<String> {
    let (told, at) = (*shared.server_clock.lock())?;
    let passed = shared.clock.since_boot().saturating_sub(at);
    let server = told.secs.saturating_add_unsigned(passed.as_secs());
    let ahead_s = shared.clock.now().secs.saturating_sub(server);
    let where_it_is = match ahead_s {
        CLOCK_APART_S.. => "ahead of",
        ahead_s if ahead_s <= -CLOCK_APART_S => "behind",
        _ => return None,
    };
    Some(format!(
        "this machine's clock is {} s {where_it_is} the server's: files that are written here have its times, and where the last write \
         wins they are compared; set the clocks right",
        ahead_s.unsigned_abs()
    ))
}

/// Looks at an event of this client: whether it is of a commit that this mount never sent.
pub(super) fn check(shared: &Shared, client: &ClientId, event: &Committed) -> Result<(), EngineError> {
    if event.commit > shared.tree.membership()?.commit {
        give_up(shared, client)?;
        return Err(EngineError::Lost);
    }
    Ok(())
}
