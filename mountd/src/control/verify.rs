//! `dfs verify` over the socket: a line for every piece of news.

use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::server::{Control, send_line};
use super::{Code, Failure, VerifyLine};
use crate::engine::verify::{Scope, VerifyEvent};
use crate::limits::VERIFY_LINES_MAX;
use crate::tree::TreeError;

impl Control {
    fn scope(&self, path: &[u8]) -> Result<Scope, TreeError> {
        let node = self.tree.resolve_path(path)?;
        let named = self.tree.path_of(node.id)?.unwrap_or_default();
        let is_directory =
            node.live().is_some_and(|record| record.kind == dfs_shared::record::NodeKind::Directory);
        Ok(match (named.is_empty(), is_directory) {
            (true, _) => Scope::All,
            (false, true) => Scope::Below(named),
            (false, false) => Scope::File(node.id),
        })
    }

    /// Verifies and sends what is found. An error means that the other side is gone.
    pub(super) async fn send_verified(
        &self,
        path: &[u8],
        is_repairing: bool,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let scope = match self.scope(path) {
            Ok(scope) => scope,
            Err(error) => return send_line(write, &VerifyLine::Error(error.into())).await,
        };
        let (events, mut news) = mpsc::channel(VERIFY_LINES_MAX);
        let mut verifying = std::pin::pin!(self.engine.verify(scope, is_repairing, events));
        let verified = loop {
            tokio::select! {
                biased;
                Some(event) = news.recv() => send_line(write, &told(event)).await?,
                verified = &mut verifying => break verified,
            }
        };
        while let Ok(event) = news.try_recv() {
            send_line(write, &told(event)).await?;
        }
        let last = match verified {
            Ok(verified) => VerifyLine::Verified(verified),
            Err(error) => VerifyLine::Error(Failure::new(Code::Failed, error.to_string())),
        };
        send_line(write, &last).await
    }
}

fn told(event: VerifyEvent) -> VerifyLine {
    match event {
        VerifyEvent::Progress { files, bytes } => VerifyLine::Progress { files, bytes },
        VerifyEvent::Found(finding) => VerifyLine::Found(finding),
    }
}
