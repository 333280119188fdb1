//! The mount's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::wire::history::HistoryRequest;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::{Answer, Code, Conflict, ConflictList, Explanation, Failure, MountStatus, Request};
use crate::cache::{Cache, CacheError};
use crate::engine::{Connection, Engine, MergeError, Obstacle};
use crate::limits::CONTROL_LINE_LEN_MAX;
use crate::remote::Remote;
use crate::tree::{LocalNode, Tree, TreeError};

/// What the socket tells about and acts on.
pub struct Control {
    /// Where the mount is.
    pub mount_point: PathBuf,
    /// The volume.
    pub volume: String,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// The sync engine.
    pub engine: Arc<Engine>,
    /// The local tree.
    pub tree: Arc<Tree>,
    /// The bytes.
    pub cache: Arc<Cache>,
    /// The server, for what only it has.
    pub remote: Arc<dyn Remote>,
    /// Takes the wish that the mount ends; the sender that travels along is dropped when it has.
    pub end: mpsc::Sender<mpsc::Sender<()>>,
}

/// The socket; gone when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket and serves it on the engine's runtime.
///
/// # Errors
/// When the socket cannot be made.
pub fn start(control: Arc<Control>, path: &Path) -> io::Result<ControlSocket> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let runtime = control.engine.runtime();
    let _inside = runtime.enter();
    let listener = UnixListener::bind(path)?;
    // Whoever may use the mount may ask how it stands; the directory above decides who that is.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(Arc::clone(&control), stream));
        }
    });
    Ok(ControlSocket { path: path.to_owned() })
}

async fn serve(control: Arc<Control>, stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        match (&mut read).take(CONTROL_LINE_LEN_MAX as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let request = serde_json::from_slice(&line).map_err(|error| {
            Failure::new(Code::BadRequest, format!("the request is not understood: {error}"))
        });
        if let Ok(Request::Version { path, version }) = &request {
            if control.send_version(path, *version, &mut write).await.is_err() {
                return;
            }
            continue;
        }
        if let Ok(Request::Verify { path, repair }) = &request {
            if control.send_verified(path, *repair, &mut write).await.is_err() {
                return;
            }
            continue;
        }
        if let Ok(Request::Pin { path, wait }) = &request {
            if control.send_pinned(path, *wait, &mut write).await.is_err() {
                return;
            }
            continue;
        }
        let ends = matches!(request, Ok(Request::Unmount { .. }));
        let answer = match request {
            Ok(request) => control.answer(request).await,
            Err(failure) => Err(failure),
        };
        let done = answer.is_ok();
        let answer = match answer {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Error { error },
        };
        if send_line(&mut write, &answer).await.is_err() {
            return;
        }
        if ends && done {
            let (alive, mut ended) = mpsc::channel(1);
            if control.end.send(alive).await.is_ok() {
                let _ = ended.recv().await;
            }
            return;
        }
    }
}

fn value(of: &impl Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(of).map_err(|error| Failure::new(Code::Failed, error.to_string()))
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        let code = match error {
            TreeError::NotFound | TreeError::NotDirectory => Code::NotFound,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl Control {
    async fn answer(&self, request: Request) -> Result<serde_json::Value, Failure> {
        match request {
            Request::Status => value(&self.status().await?),
            Request::Wait { timeout_ms } => self.wait(timeout_ms.map(Duration::from_millis)).await,
            Request::Explain { path } => value(&self.explain(&path)?),
            Request::Evict { path } => self.evict(&path),
            Request::History { path } => value(&self.history(HistoryRequest::Versions { path }).await?),
            Request::Removed { path, after } => {
                value(&self.history(HistoryRequest::Removed { path, after }).await?)
            }
            Request::Unpin { path } => value(&self.unpin(&path)?),
            Request::Version { .. } | Request::Verify { .. } | Request::Pin { .. } => {
                Err(Failure::new(Code::BadRequest, "it does not fit into an answer of one line"))
            }
            Request::Conflicts => value(&self.conflicts()?),
            Request::Merge { copy } => self.merge(&copy).await,
            Request::Resolve { copies } => self.resolve(&copies),
            Request::Unmount { flush } => {
                if flush {
                    self.wait(None).await?;
                }
                Ok(serde_json::json!({}))
            }
        }
    }

    async fn status(&self) -> Result<MountStatus, Failure> {
        let sync = self.engine.status()?;
        self.engine.settle_effects().await;
        Ok(MountStatus {
            mount_point: self.mount_point.display().to_string(),
            volume: self.volume.clone(),
            state_dir: self.state_dir.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sync,
        })
    }

    async fn wait(&self, timeout: Option<Duration>) -> Result<serde_json::Value, Failure> {
        if self.engine.wait(timeout).await? {
            return Ok(serde_json::json!({ "reached": true }));
        }
        let status = self.engine.status()?;
        let connection = self.engine.connection();
        let offline =
            matches!(&*connection.borrow(), Connection::Offline { .. } | Connection::Stopped { .. });
        Err(match offline {
            true => Failure::new(
                Code::Offline,
                format!(
                    "the server cannot be reached ({}); {} changes wait here",
                    status.reason, status.pending
                ),
            ),
            false => {
                let why = self.engine.server_full().map(|why| format!(": {why}")).unwrap_or_default();
                Failure::new(
                    Code::TimedOut,
                    format!("{} changes are still on their way{why}", status.pending),
                )
            }
        })
    }

    pub(super) fn find(&self, path: &[u8]) -> Result<LocalNode, Failure> {
        let missing = |_: TreeError| {
            Failure::new(Code::NotFound, format!("{}: no such file here", String::from_utf8_lossy(path)))
        };
        self.tree.resolve_path(path).map_err(missing)
    }

    fn explain(&self, path: &[u8]) -> Result<Explanation, Failure> {
        let node = self.find(path)?;
        let here = self.cache.is_present(node.id, &(0..u64::MAX)).unwrap_or(true);
        let dirty = node.sync.is_dirty() || node.dirty_content.is_some();
        let (state, text) = match self.engine.explain(node.id) {
            Some(Obstacle::Uploading(reason)) => ("uploading", reason),
            Some(Obstacle::NoRoom(reason)) => ("no-room", reason),
            Some(Obstacle::Stuck(reason)) => ("stuck", reason),
            None if dirty => match self.engine.server_full() {
                Some(reason) => ("no-room", reason),
                None => {
                    ("journaled", "changed here; it is sent as soon as the server can be reached".to_owned())
                }
            },
            None => ("synced", "the server has this version".to_owned()),
        };
        let size = node.live().map_or(0, |record| record.size);
        let pinned_by = self.tree.pinned_by(node.id)?.map(|pin| self.path_of_pin(pin)).transpose()?;
        Ok(Explanation { node: node.id.to_string(), state: state.to_owned(), text, size, here, pinned_by })
    }

    fn conflicts(&self) -> Result<ConflictList, Failure> {
        let conflicts = self.tree.conflicts()?.into_iter().map(|open| Conflict {
            copy: open.copy.to_string(),
            path: open.path,
            copy_path: open.copy_path,
            host: open.host,
            at_ms: open.at.as_millis(),
            manual: open.manual,
        });
        Ok(ConflictList { conflicts: conflicts.collect() })
    }

    async fn merge(&self, copy: &str) -> Result<serde_json::Value, Failure> {
        let open = self.tree.conflicts()?.into_iter().find(|open| open.copy.to_string() == *copy);
        let Some(open) = open else {
            return Err(Failure::new(Code::NotFound, MergeError::NotFound.to_string()));
        };
        match self.engine.merge_conflict(open.copy).await {
            Ok(()) => Ok(serde_json::json!({})),
            Err(error) => {
                let code = match &error {
                    MergeError::NotFound => Code::NotFound,
                    MergeError::Offline => Code::Offline,
                    MergeError::NotMerged { .. } | MergeError::Failed { .. } => Code::Failed,
                };
                Err(Failure::new(code, error.to_string()))
            }
        }
    }

    fn resolve(&self, copies: &[String]) -> Result<serde_json::Value, Failure> {
        let wanted: Vec<_> = self.tree.conflicts()?.into_iter().map(|open| open.copy).collect();
        let wanted: Vec<_> = wanted.into_iter().filter(|copy| copies.contains(&copy.to_string())).collect();
        self.tree.forget_conflicts(&wanted)?;
        Ok(serde_json::json!({}))
    }

    fn evict(&self, path: &[u8]) -> Result<serde_json::Value, Failure> {
        let node = self.find(path)?;
        match self.cache.evict(node.id) {
            Ok(()) => Ok(serde_json::json!({})),
            Err(CacheError::Pinned { by }) => Err(self.refuse_to_evict(path, by)),
            Err(error @ CacheError::NotFound) => Err(Failure::new(Code::NotFound, error.to_string())),
            Err(error) => Err(Failure::new(Code::Failed, error.to_string())),
        }
    }
}

/// Sends one line of an answer of several.
pub(super) async fn send_line(
    write: &mut (impl AsyncWrite + Unpin),
    of: &impl serde::Serialize,
) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(of)?;
    text.push(b'\n');
    write.write_all(&text).await
}
