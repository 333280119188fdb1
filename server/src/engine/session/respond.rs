//! Sends a response: what is at hand in one write, streams item by item while watching the peer and the stop signal.

use std::time::{Duration, Instant};

use bytes::Buf;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::io_wait::{Gone, ReadEnd, SentFile};
use super::{Session, Socket};
use crate::http::{Body, BodyLength, FilePart, Piece, Response, StreamItem};
use crate::limits;

/// What kind of stream is sent; see [`Body`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Finite,
    Sized,
    Events,
}

/// Why a stream has no next item.
enum Pause {
    /// The producer is done.
    Finished,
    /// The stream ends as if it were done.
    Cut,
}

impl<S: Socket> Session<'_, S> {
    /// Sends a response to its end, but leaves what fits into the output there. A streamed body whose receiver is dropped here tells its producer to stop.
    pub(super) async fn respond(&mut self, response: Response) -> Result<(), Gone> {
        let Response { status, headers, body, trailers } = response;
        let length = match &body {
            Body::Empty => BodyLength::None,
            Body::Full(bytes) => BodyLength::Known(bytes.len() as u64),
            Body::Sized(len, _) => BodyLength::Known(*len),
            Body::File(part) => BodyLength::Known(part.len),
            Body::Stream(_) | Body::Events(_) => BodyLength::Unknown,
        };
        let date = self.date();
        self.machine.send_head(status, &headers, length, Some(&date), &mut self.output);
        match body {
            Body::Full(bytes) => self.machine.send_data(bytes, &mut self.output).map_err(|_| Gone)?,
            Body::Empty => {}
            _ if self.machine.skips_body() => {}
            Body::Stream(items) => self.stream(items, Kind::Finite).await?,
            Body::Sized(_, items) => self.stream(items, Kind::Sized).await?,
            Body::Events(items) => {
                // The request is answered; what follows comes when it comes.
                self.io.flush(&mut self.output).await?;
                self.io.set_busy(false);
                self.stream(items, Kind::Events).await?;
            }
            Body::File(part) => self.file(&part).await?,
        }
        let trailers = trailers.and_then(|mut trailers| trailers.try_recv().ok()).unwrap_or_default();
        self.machine.send_end_with(&trailers, &mut self.output).map_err(|error| {
            tracing::error!("response cut: {error}");
            Gone
        })
    }

    /// Sends the items of a stream, each as soon as it is there.
    async fn stream(&mut self, mut items: Receiver<StreamItem>, kind: Kind) -> Result<(), Gone> {
        while !self.machine.is_body_full() {
            while self.output.remaining() < limits::HTTP_READ_LEN {
                match items.try_recv() {
                    Ok(item) => self.send_item(item).await?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.io.flush(&mut self.output).await?;
            if kind == Kind::Events && self.io.is_stopped().await {
                return self.cut_events(&mut items).await;
            }
            match self.next_item(&mut items, kind).await? {
                Ok(item) => self.send_item(item).await?,
                Err(Pause::Finished) => return Ok(()),
                Err(Pause::Cut) => return self.cut_events(&mut items).await,
            }
        }
        Ok(())
    }

    /// Ends a stream with what was handed over before the reason to stop was seen.
    async fn cut_events(&mut self, items: &mut Receiver<StreamItem>) -> Result<(), Gone> {
        self.machine.close_after_response();
        for _ in 0..items.len() {
            let Ok(item) = items.try_recv() else { break };
            self.send_item(item).await?;
        }
        Ok(())
    }

    /// Encodes an item in memory, or sends one of files.
    async fn send_item(&mut self, item: StreamItem) -> Result<(), Gone> {
        match item {
            Ok(Piece::Bytes(bytes)) => self.machine.send_data(bytes, &mut self.output).map_err(cut),
            Ok(Piece::Files(parts)) => {
                // Otherwise each file ends with a packet that is not full, and wakes the peer for it.
                self.io.set_corked(true);
                for part in parts {
                    self.file(&part).await?;
                }
                self.io.set_corked(false);
                Ok(())
            }
            Err(error) => Err(cut(error)),
        }
    }

    /// Sends a part of a file: from disk to socket where the socket is plain.
    async fn file(&mut self, part: &FilePart) -> Result<(), Gone> {
        if part.len == 0 {
            return Ok(());
        }
        self.machine.begin_aside(part.len, &mut self.output).map_err(cut)?;
        self.io.flush(&mut self.output).await?;
        let mut sent = 0;
        while sent < part.len {
            let file = part.file.as_fd();
            match self.io.send_file(file, part.offset.saturating_add(sent), part.len - sent).await {
                Ok(SentFile::Direct(len)) => sent += len,
                Ok(SentFile::Read(bytes)) => {
                    sent += bytes.len() as u64;
                    self.machine.put_aside(bytes, &mut self.output);
                    self.io.flush(&mut self.output).await?;
                }
                Err(Gone) => {
                    let len = part.len;
                    tracing::debug!(sent, len, "response cut: the peer is gone or the file is shorter");
                    return Err(Gone);
                }
            }
        }
        if !part.file.is_unchanged() {
            tracing::error!(file = ?part.file, "response cut: its file was changed while it was sent");
            return Err(Gone);
        }
        self.machine.end_aside(&mut self.output);
        Ok(())
    }

    /// Waits for the next item, or for a reason to stop: the peer's end or, for events, the server's.
    ///
    /// A peer that has ended its side may still read (a half-closed connection looks the same as a closed one until
    /// something is written), so a finite stream goes on as long as its producer keeps it moving.
    async fn next_item(
        &mut self,
        items: &mut Receiver<StreamItem>,
        kind: Kind,
    ) -> Result<Result<StreamItem, Pause>, Gone> {
        let grace = Duration::from_millis(limits::HTTP_HALF_CLOSE_GRACE_MS);
        loop {
            let peer_ended = self.machine.has_ended();
            let watches = !peer_ended && self.machine.buffered() < limits::HTTP_READ_LEN;
            let deadline = (peer_ended && kind == Kind::Finite).then(|| Instant::now() + grace);
            let buffer = if watches { Some(self.machine.read_buffer()) } else { None };
            let read = tokio::select! {
                biased;
                item = items.recv() => return Ok(item.ok_or(Pause::Finished)),
                read = self.io.read(buffer, deadline, kind == Kind::Events) => read,
            };
            match read {
                ReadEnd::Data(_) => {}
                ReadEnd::End => {
                    self.machine.receive_end();
                    if kind == Kind::Events {
                        return Ok(Err(Pause::Cut));
                    }
                }
                ReadEnd::Stopped => return Ok(Err(Pause::Cut)),
                ReadEnd::TimedOut | ReadEnd::Broken => return Err(Gone),
            }
        }
    }
}

fn cut(error: impl std::error::Error) -> Gone {
    tracing::warn!("response cut: {error}");
    Gone
}
