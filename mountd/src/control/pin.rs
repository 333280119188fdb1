//! `dfs pin` and `dfs unpin` over the socket.

use std::sync::Arc;

use dfs_shared::ids::NodeId;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::server::{Control, send_line};
use super::{Code, Failure, PinLine, Unpinned};
use crate::engine::{PinError, PinProgress};
use crate::tree::TreeError;

/// How a path is shown, relative to the mount point.
fn shown(path: &[u8]) -> String {
    if path.is_empty() { "the mount point".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

impl Control {
    /// Pins, and sends how far fetching is if that is waited for. An error means that the other side is gone.
    pub(super) async fn send_pinned(
        &self,
        path: &[u8],
        is_waiting: bool,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let node = match self.pin(path).await {
            Ok(node) => node,
            Err(failure) => return send_line(write, &PinLine::Error(failure)).await,
        };
        if !is_waiting {
            return send_line(write, &PinLine::Pinned {}).await;
        }
        let (progress, mut news) = mpsc::channel(1);
        let mut waiting = std::pin::pin!(self.engine.wait_pinned(node, progress));
        let ended = loop {
            tokio::select! {
                biased;
                Some(left) = news.recv() => {
                    let PinProgress { files, bytes, is_at_least } = left;
                    send_line(write, &PinLine::Progress { files, bytes, is_at_least }).await?;
                }
                ended = &mut waiting => break ended,
            }
        };
        let last = match ended {
            Ok(()) => PinLine::Pinned {},
            Err(error) => {
                let code = match &error {
                    PinError::Offline => Code::Offline,
                    PinError::NotFetched { .. } | PinError::Tree { .. } => Code::Failed,
                };
                PinLine::Error(Failure::new(code, format!("{}: {error}", shown(path))))
            }
        };
        send_line(write, &last).await
    }

    async fn pin(&self, path: &[u8]) -> Result<NodeId, Failure> {
        let node = self.find(path)?.id;
        let engine = Arc::clone(&self.engine);
        let pinned = tokio::task::spawn_blocking(move || engine.pin(node)).await;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Code::Failed, format!("cannot pin {}: {error}", shown(path)))
        };
        match pinned {
            Ok(Ok(())) => Ok(node),
            Ok(Err(TreeError::NotPermitted)) => Err(failed(&"only files and directories have bytes to keep")),
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Removes the pin of a path itself.
    pub(super) fn unpin(&self, path: &[u8]) -> Result<Unpinned, Failure> {
        let node = self.find(path)?.id;
        let was_pinned = self.tree.unpin(node)?;
        let above = self.tree.pinned_from_above(node)?;
        let above = above.map(|above| self.path_of_pin(above)).transpose()?;
        match (was_pinned, above) {
            (true, still_by) => Ok(Unpinned { still_by }),
            (false, Some(above)) => {
                let above = shown(above.as_bytes());
                let why = format!("{} has no pin of its own: {above} is pinned above it", shown(path));
                Err(Failure::new(Code::Failed, why))
            }
            (false, None) => Err(Failure::new(Code::Failed, format!("{} is not pinned", shown(path)))),
        }
    }

    /// Returns the path under the mount point of what is pinned.
    pub(super) fn path_of_pin(&self, pin: NodeId) -> Result<String, TreeError> {
        let path = self.tree.path_of(pin)?.ok_or(TreeError::NotFound)?;
        Ok(String::from_utf8_lossy(&path).into_owned())
    }

    /// Tells why something that is pinned is not evicted.
    pub(super) fn refuse_to_evict(&self, path: &[u8], by: NodeId) -> Failure {
        let by = self.path_of_pin(by).map_or_else(|_| by.to_string(), |by| shown(by.as_bytes()));
        let why = match by == shown(path) {
            true => format!("{by} is pinned: `dfs unpin` it first"),
            false => format!("{} is pinned by {by}: `dfs unpin` that first", shown(path)),
        };
        Failure::new(Code::Failed, why)
    }
}
