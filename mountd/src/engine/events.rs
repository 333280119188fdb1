//! Events of the server's stream that wait to be applied.
//!
//! ```text
//! stream ─► weigh ─► room? ─► queue ─► a batch ─► applied: its room is free again
//!                      └ no: nothing is read, so the server is slowed down, and cuts us off in the end
//! ```
//!
//! Invariant: all that was read and is not applied yet weighs no more than [`EVENTS_WAITING_LEN_MAX`], but for one event that
//! weighs more alone.

use std::sync::Arc;

use dfs_shared::record::Record;
use dfs_shared::wire::messages::{Committed, CurrentRecord, StreamFrame};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::limits::{EVENTS_WAITING_LEN_MAX, STREAM_FRAMES_MAX};
use crate::remote::{FrameStream, RemoteError};

/// What a record takes in memory beside its target and attributes, about; and an attribute, a manifest or a small content
/// beside its bytes.
const RECORD_LEN: usize = 512;
const ITEM_LEN: usize = 96;
/// What one slice of a manifest takes.
const SLICE_LEN: usize = 40;

/// A frame, and its share of the room for all that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) frame: StreamFrame,
    /// Free again when it is dropped: when the frame has been applied.
    pub(super) room: OwnedSemaphorePermit,
}

/// The end of the queue at which frames come out.
pub(super) type Frames = mpsc::Receiver<Result<Waiting, RemoteError>>;

/// Makes a queue, and the work that fills it until the stream ends or nobody takes from it.
pub(super) fn queue(mut stream: FrameStream) -> (Frames, impl Future<Output = ()> + Send) {
    let (sender, frames) = mpsc::channel(STREAM_FRAMES_MAX);
    let all = Arc::new(Semaphore::new(EVENTS_WAITING_LEN_MAX as usize));
    let fill = async move {
        while let Some(frame) = stream.next().await {
            let waiting = match frame {
                Ok(frame) => {
                    let len = u32::try_from(weight(&frame)).unwrap_or(u32::MAX).min(EVENTS_WAITING_LEN_MAX);
                    let room = Arc::clone(&all).acquire_many_owned(len).await;
                    Ok(Waiting { frame, room: room.expect("the semaphore is never closed") })
                }
                Err(error) => Err(error),
            };
            if sender.send(waiting).await.is_err() {
                return;
            }
        }
    };
    (frames, fill)
}

/// Bytes of memory that a frame takes, about.
fn weight(frame: &StreamFrame) -> usize {
    match frame {
        StreamFrame::Committed(event) => ITEM_LEN + event_weight(event),
        StreamFrame::Hello { .. } | StreamFrame::Quota { .. } => ITEM_LEN,
        StreamFrame::Heartbeat { .. } | StreamFrame::Lagged => ITEM_LEN,
    }
}

fn event_weight(event: &Committed) -> usize {
    let records = event.records.iter().map(record_weight).sum::<usize>();
    let manifests = event.manifests.iter().map(|manifest| ITEM_LEN + SLICE_LEN * manifest.chunks.len());
    let small_chunks = event.small_chunks.iter().map(|chunk| ITEM_LEN + chunk.bytes.len());
    records + manifests.sum::<usize>() + small_chunks.sum::<usize>()
}

fn record_weight(record: &CurrentRecord) -> usize {
    let more = match record.value.as_ref().map(|value| &value.record) {
        Some(Record::Node(node)) => {
            let attributes = node.xattrs.iter().map(|(name, value)| ITEM_LEN + name.len() + value.len());
            node.target.len() + attributes.sum::<usize>()
        }
        Some(Record::Entry(_)) | None => 0,
    };
    RECORD_LEN + more
}

#[cfg(test)]
mod tests {
    use dfs_shared::hash::{ChunkHash, MerkleHash};
    use dfs_shared::ids::ClientId;
    use dfs_shared::revision::Revision;
    use dfs_shared::wire::messages::SmallChunk;
    use futures_util::{FutureExt, stream};

    use super::*;

    /// An event that weighs so many bytes.
    fn event(len: usize) -> Result<StreamFrame, RemoteError> {
        let bytes = vec![0; len - 2 * ITEM_LEN];
        let frame = StreamFrame::Committed(Committed {
            revision: Revision(1),
            root: MerkleHash::EMPTY,
            client: ClientId::new("c").expect("an id"),
            commit: 1,
            records: Vec::new(),
            manifests: Vec::new(),
            small_chunks: vec![SmallChunk { hash: ChunkHash::HOLE, bytes }],
        });
        assert_eq!(weight(&frame), len);
        Ok(frame)
    }

    /// Fills a queue with these as far as there is room.
    fn filled(events: Vec<Result<StreamFrame, RemoteError>>) -> (Frames, impl FnMut() -> bool) {
        let (frames, fill) = queue(Box::pin(stream::iter(events)));
        let mut fill = Box::pin(fill);
        (frames, move || fill.as_mut().now_or_never().is_some())
    }

    #[test]
    fn events_wait_up_to_the_limit_and_one_byte_more_is_not_read_before_the_others_are_applied() {
        let max = EVENTS_WAITING_LEN_MAX as usize;
        let (mut frames, mut is_read) = filled(vec![event(max - 1000), event(1000)]);
        assert!(is_read());
        assert!(frames.try_recv().is_ok() && frames.try_recv().is_ok());
        let (mut frames, mut is_read) = filled(vec![event(max - 1000), event(1001)]);
        assert!(!is_read());
        let first = frames.try_recv().expect("an event").expect("no error");
        assert!(frames.try_recv().is_err() && !is_read(), "it is not applied yet");
        drop(first);
        assert!(is_read() && frames.try_recv().is_ok());
    }

    #[test]
    fn an_event_that_weighs_more_than_all_may_comes_alone() {
        let max = EVENTS_WAITING_LEN_MAX as usize;
        let (mut frames, mut is_read) = filled(vec![event(1000), event(max + 1000), event(1000)]);
        for number in 0..3 {
            assert_eq!(is_read(), number == 2);
            assert!(frames.try_recv().is_ok() && frames.try_recv().is_err(), "{number}");
        }
    }

    #[test]
    fn a_queue_that_nobody_takes_from_any_more_is_not_waited_for() {
        let (frames, mut is_read) = filled(vec![event(EVENTS_WAITING_LEN_MAX as usize), event(1000)]);
        assert!(!is_read());
        drop(frames);
        assert!(is_read());
    }
}
