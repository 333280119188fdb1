//! Frames out of the body of the event stream.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use dfs_shared::limits::STREAM_SILENCE_MS_MAX;
use dfs_shared::wire::decode_frame;
use dfs_shared::wire::messages::StreamFrame;
use futures_util::{Stream, StreamExt, stream};
use reqwest::Response;

use super::answer::wire_error;
use super::pool::Line;
use crate::remote::{FrameStream, RemoteError};

struct Frames {
    line: Line,
    body: Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>,
    buffer: BytesMut,
}

/// Reads frames until the stream ends, errs or is silent for too long.
pub(super) fn frames(line: Line, response: Response) -> FrameStream {
    let frames = Frames { line, body: Box::pin(response.bytes_stream()), buffer: BytesMut::new() };
    Box::pin(stream::unfold(Some(frames), |frames| async {
        let mut frames = frames?;
        match frames.next().await {
            Ok(frame) => Some((Ok(frame), Some(frames))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Frames {
    async fn next(&mut self) -> Result<StreamFrame, RemoteError> {
        loop {
            let frame =
                decode_frame(&self.buffer).map_err(|error| wire_error(&self.line.server, "event", error))?;
            if let Some((frame, used)) = frame {
                self.buffer.advance(used);
                return Ok(frame);
            }
            let silence = Duration::from_millis(STREAM_SILENCE_MS_MAX);
            let piece = tokio::time::timeout(silence, self.body.next()).await;
            let piece = piece.map_err(|_| self.line.silent(silence))?;
            match piece.transpose().map_err(|error| self.line.failed(error))? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Err(RemoteError::Disconnected { server: self.line.server.clone() }),
            }
        }
    }
}
