//! The file that a mount uploads, as it names it in the query of its requests: for the events, nothing depends on it.

use std::sync::Arc;

use dfs_shared::event::kinds::server::{FileChunkReceived, FileUploadStarted};
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, VolumeName};

use super::Api;
use crate::access::Access;
use crate::blocking::offload;
use crate::files::FilePath;
use crate::router::Call;

/// Who uploads which file.
pub(super) struct UploadName {
    volume: VolumeName,
    client: ClientId,
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl UploadName {
    /// Reads `client`, `path` and `size`; `None` without a client, and from one that may not write or is not registered.
    pub(super) async fn of(api: &Api, call: &Call, volume: &VolumeName) -> Option<Self> {
        let client: ClientId = call.request.query("client")?.parse().ok()?;
        if !call.grant.allows(volume, Access::Write) {
            return None;
        }
        let (sync, name, asker) = (Arc::clone(&api.sync), volume.clone(), client.clone());
        let is_known = offload(move || sync.knows(&name, &asker)).await;
        if !matches!(is_known, Ok(true)) {
            return None;
        }
        let path = call.request.query_bytes("path").and_then(|path| FilePath::from_bytes(path).ok());
        Some(Self {
            volume: volume.clone(),
            client,
            path: path.map(|path| path.to_bytes()),
            size: call.request.query("size").and_then(|size| size.parse().ok()),
        })
    }

    /// Tells that the upload begins, if this request is its first.
    pub(super) fn started(self, api: &Api) {
        if self.size.is_some() {
            let (client, size, path) = (Some(self.client), self.size, self.path);
            api.bus.publish(FileUploadStarted { volume: self.volume, client, size, path });
        }
    }

    /// Tells of chunks that are here for good.
    pub(super) fn received(self, api: &Api, chunks: Vec<(ChunkHash, u64)>) {
        for (chunk, len) in chunks {
            let (volume, path) = (self.volume.clone(), self.path.clone());
            let client = Some(self.client.clone());
            api.bus.publish(FileChunkReceived { volume, chunk, len, client, path });
        }
    }
}
