//! Registering a client as a write job; the first client of a volume makes its root directory.
//!
//! The root's commit is published by the writer, like every other, so that revisions stay in order.

use dfs_shared::event::EventBus;
use dfs_shared::ids::{ClientId, NodeId, VolumeName};
use dfs_shared::record::{NodeKind, NodeRecord, Record};
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::RegisterReply;
use tokio::sync::oneshot;

use super::commit::Concluded;
use super::{SyncError, commit};
use crate::metadata::{Client, MetadataError, Volume, WriteJob, WriteMetadata};

/// A queued registration.
pub(super) struct RegisterJob {
    pub(super) volume: VolumeName,
    pub(super) client: Client,
    pub(super) root: Record,
    pub(super) bus: EventBus,
    pub(super) done: Option<(Volume, Option<Concluded>)>,
    pub(super) reply: oneshot::Sender<Result<Volume, SyncError>>,
}

impl WriteJob for RegisterJob {
    fn weight(&self) -> usize {
        2
    }

    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError> {
        let Some(volume) = tx.volume(&self.volume)? else { return Ok(()) };
        tx.put_client(volume.key, &self.client)?;
        self.done = Some(if commit::has_root(tx, volume.key)? {
            (volume, None)
        } else {
            let committed = commit::make_root(tx, &volume, &self.client.id, &self.root)?;
            (
                Volume { revision: committed.commit.revision, root: committed.commit.root, ..volume },
                Some(committed),
            )
        });
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>) {
        let answer = match (outcome, self.done) {
            (Err(error), _) => Err(SyncError::Metadata(error)),
            (Ok(()), None) => Err(SyncError::VolumeNotFound { name: self.volume }),
            (Ok(()), Some((volume, committed))) => {
                if let Some(committed) = committed {
                    committed.publish(&self.volume, &self.bus);
                }
                Ok(volume)
            }
        };
        // The asker may have gone away; the registration stands.
        let _ = self.reply.send(answer);
    }
}

/// What a client is told that is registered.
pub(super) fn reply(client: ClientId, volume: &Volume) -> RegisterReply {
    RegisterReply {
        client,
        volume: volume.id,
        revision: volume.revision,
        root: volume.root,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Makes an id from what is allowed of a client's name and a fresh suffix.
pub(super) fn new_client_id(name: &str) -> Result<ClientId, SyncError> {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = name.chars().take(64).map(fit).collect();
    let name = name.trim_start_matches('.');
    let name = if name.is_empty() { "client" } else { name };
    let id = format!("{name}-{}", NodeId::generate());
    ClientId::new(&id).map_err(|error| SyncError::BadRequest { why: error.to_string() })
}

/// The root directory of a fresh volume.
pub(super) fn root_record(uid: u32, gid: u32, now: Timestamp) -> Record {
    Record::Node(NodeRecord {
        id: NodeId::ROOT,
        kind: NodeKind::Directory,
        mode: 0o755,
        uid,
        gid,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        size: 0,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: std::collections::BTreeMap::new(),
    })
}
