//! What a path held, and the bytes of one version, as the server has them.
//!
//! The bytes follow the answer to `version` in frames: a length (4 bytes, big-endian) and so many bytes; 0 ends the
//! version, `0xffff_ffff` is followed by a line with a [`Failure`].

use dfs_shared::hash::ChunkHash;
use dfs_shared::manifest::ChunkRef;
use dfs_shared::wire::history::{FileVersion, HistoryReply, HistoryRequest, VersionState};
use futures_util::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::server::{Control, send_line};
use super::{Answer, Code, Failure, HistoryPage, RemovedEntry, Version, VersionId};
use crate::limits::{DOWNLOAD_BATCH_LEN, RESTORE_BATCH_CHUNKS};
use crate::remote::RemoteError;

/// Longest frame in bytes.
pub(super) const FRAME_LEN_MAX: usize = 256 * 1024;
/// Stands for a failure in place of a length.
pub(super) const FAILED: u32 = u32::MAX;
static ZEROS: [u8; FRAME_LEN_MAX] = [0; FRAME_LEN_MAX];

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        let code = match &error {
            error if error.is_unreachable() => Code::Offline,
            RemoteError::Refused { status: 404, .. } => Code::NotFound,
            _ => Code::Failed,
        };
        let message = match &error {
            RemoteError::Refused { message, .. } => message.clone(),
            error if error.is_unreachable() => {
                format!("the history is on the server, which cannot be reached now: {error}")
            }
            error => error.to_string(),
        };
        Self::new(code, message)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn describe(version: &FileVersion) -> Version {
    Version {
        version: version.number,
        revision: version.revision.0,
        size: version.size,
        mtime_s: version.mtime.secs,
        mode: version.mode,
        author: version.author.clone(),
        state: match version.state {
            VersionState::Current => "current",
            VersionState::Replaced => "replaced",
            VersionState::Removed => "removed",
        }
        .to_owned(),
    }
}

impl Control {
    pub(super) async fn history(&self, request: HistoryRequest) -> Result<HistoryPage, Failure> {
        Ok(match self.remote.history(request).await? {
            HistoryReply::Versions { versions } => {
                HistoryPage { versions: versions.iter().map(describe).collect(), ..HistoryPage::default() }
            }
            HistoryReply::Removed { names, next } => {
                let removed = names.into_iter().map(|removed| RemovedEntry {
                    name: text(&removed.name),
                    is_directory: removed.is_directory,
                    size: removed.size,
                    removed_s: removed.at.secs,
                    by: removed.by,
                });
                HistoryPage { versions: Vec::new(), removed: removed.collect(), next }
            }
        })
    }

    async fn find_version(&self, path: &[u8], wanted: Option<VersionId>) -> Result<FileVersion, Failure> {
        let reply = self.remote.history(HistoryRequest::Versions { path: path.to_vec() }).await?;
        let HistoryReply::Versions { versions } = reply else {
            return Err(Failure::new(Code::Failed, "the server answered something else"));
        };
        let newest = versions.first().map_or(0, |version| version.number);
        let found = match wanted {
            // The newest file that had the number.
            Some(VersionId::Number(number)) => versions.into_iter().find(|found| found.number == number),
            Some(VersionId::Revision(revision)) => {
                versions.into_iter().find(|found| found.revision.0 == revision)
            }
            None => versions.into_iter().find(|found| found.state == VersionState::Removed),
        };
        found.ok_or_else(|| {
            let path = text(path);
            let why = match wanted {
                Some(id) => format!(
                    "{path} has no kept version {id}; the newest is {newest} (`dfs history` lists all)"
                ),
                None => format!("{path} was not removed: say which version with --version"),
            };
            Failure::new(Code::NotFound, why)
        })
    }

    /// Sends a version: a line that describes it, then its bytes. An error means that the other side is gone.
    pub(super) async fn send_version(
        &self,
        path: &[u8],
        wanted: Option<VersionId>,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let found = match self.find_version(path, wanted).await {
            Ok(found) => found,
            Err(error) => return send_line(write, &Answer::Error { error }).await,
        };
        let described = serde_json::to_value(describe(&found)).map_err(std::io::Error::from)?;
        send_line(write, &Answer::Done(described)).await?;
        match self.send_bytes(&found, write).await? {
            Ok(()) => write.write_u32(0).await,
            Err(error) => {
                write.write_u32(FAILED).await?;
                send_line(write, &error).await
            }
        }
    }

    /// The outer error is the other side's, the inner one the server's.
    async fn send_bytes(
        &self,
        version: &FileVersion,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<Result<(), Failure>> {
        let Some(content) = version.content else { return Ok(Ok(())) };
        let manifest = match self.remote.contents(vec![content]).await {
            Ok(mut found) => found.pop().flatten(),
            Err(error) => return Ok(Err(error.into())),
        };
        let Some(manifest) = manifest else {
            return Ok(Err(Failure::new(Code::NotFound, "the version is not kept any more")));
        };
        let mut left = &manifest.chunks[..];
        while !left.is_empty() {
            let (batch, rest) = left.split_at(batch_len(left));
            left = rest;
            let hashes = batch.iter().map(|chunk| chunk.hash).filter(|hash| !hash.is_hole()).collect();
            let mut chunks = match self.remote.get_chunks(hashes).await {
                Ok(chunks) => chunks,
                Err(error) => return Ok(Err(error.into())),
            };
            for chunk in batch {
                if chunk.hash == ChunkHash::HOLE {
                    zeros(write, chunk.len).await?;
                    continue;
                }
                match chunks.next().await {
                    Some(Ok((hash, bytes))) if hash == chunk.hash => {
                        for piece in bytes.chunks(FRAME_LEN_MAX) {
                            write.write_u32(u32::try_from(piece.len()).expect("at most a frame")).await?;
                            write.write_all(piece).await?;
                        }
                    }
                    Some(Err(error)) => return Ok(Err(error.into())),
                    Some(Ok(_)) | None => {
                        return Ok(Err(Failure::new(Code::Failed, "the server's answer ended early")));
                    }
                }
            }
        }
        Ok(Ok(()))
    }
}

/// Takes as many chunks as are asked for at once; at least one.
fn batch_len(chunks: &[ChunkRef]) -> usize {
    let (mut count, mut bytes) = (0, 0_u64);
    for chunk in chunks.iter().take(RESTORE_BATCH_CHUNKS) {
        bytes = bytes.saturating_add(if chunk.hash.is_hole() { 0 } else { chunk.len });
        if count > 0 && bytes > DOWNLOAD_BATCH_LEN {
            break;
        }
        count += 1;
    }
    count
}

async fn zeros(write: &mut (impl AsyncWrite + Unpin), mut left: u64) -> std::io::Result<()> {
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        write.write_u32(u32::try_from(len).expect("at most a frame")).await?;
        write.write_all(&ZEROS[..len]).await?;
        left -= len as u64;
    }
    Ok(())
}
