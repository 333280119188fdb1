//! Whether this mount is the client that its state directory says.
//!
//! A state directory may be copied, restored from an older copy or lost. The server answers a commit number that it knows with
//! the reply that it gave, so two mounts with one client's numbers would take each other's replies for their own. Whoever
//! finds out that it is such a mount registers as a new client; what it has not sent stays in its journal.

use dfs_shared::ids::ClientId;
use dfs_shared::wire::messages::Committed;

use super::shared::{EngineError, Shared};
use crate::cache::{Past, Strays};
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

/// Looks at an event of this client: whether it is of a commit that this mount never sent.
pub(super) fn check(shared: &Shared, client: &ClientId, event: &Committed) -> Result<(), EngineError> {
    if event.commit > shared.tree.membership()?.commit {
        give_up(shared, client)?;
        return Err(EngineError::Lost);
    }
    Ok(())
}
