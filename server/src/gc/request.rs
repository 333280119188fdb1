//! How `dfs-server gc` asks the server that runs on the data directory: only that process knows which chunks are being
//! uploaded at this moment.
//!
//! | file | content |
//! |---|---|
//! | `gc-request` | [`Request`], renamed into place by whoever asks |
//! | `gc-answer` | [`Answer`], renamed into place by the server |
//!
//! Both sides wait for the other's file with inotify. One who asks at a time: the last one's request counts.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Collected;

pub(super) const REQUEST_FILE: &str = "gc-request";
const ANSWER_FILE: &str = "gc-answer";

/// Seconds after which one who waits looks whether the server is still there.
const LOOK_S: i64 = 2;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Tells this request from others.
    pub(super) id: String,
    /// The grace in seconds; `None`: the server's own.
    pub(super) grace_s: Option<u64>,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The request's.
    pub(super) id: String,
    /// What was done.
    pub(super) collected: Option<Collected>,
    /// Why not.
    pub(super) error: Option<String>,
}

/// Why a running server did not collect.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The data directory cannot be used to ask.
    #[error("cannot ask the running server")]
    Io(
        /// What the system said.
        #[from]
        io::Error,
    ),
    /// The server failed.
    #[error("the running server could not collect: {0}")]
    Failed(
        /// Why.
        String,
    ),
    /// The server ended.
    #[error("the server ended before it answered: ask again")]
    Ended,
}

/// Writes a file so that it is seen whole.
pub(super) fn write(data_dir: &Path, name: &str, of: &impl Serialize) -> io::Result<()> {
    let tmp = data_dir.join(format!("{name}.{}", std::process::id()));
    std::fs::write(&tmp, serde_json::to_vec(of)?)?;
    std::fs::rename(tmp, data_dir.join(name))
}

/// Takes the request, so that it is answered once.
pub(super) fn take_request(data_dir: &Path) -> io::Result<Request> {
    let path = data_dir.join(REQUEST_FILE);
    let bytes = std::fs::read(&path)?;
    std::fs::remove_file(path)?;
    Ok(serde_json::from_slice(&bytes)?)
}

pub(super) fn write_answer(data_dir: &Path, answer: &Answer) -> io::Result<()> {
    write(data_dir, ANSWER_FILE, answer)
}

/// Watches a directory for files that are renamed into it.
pub(super) fn watch(data_dir: &Path) -> io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&changes, data_dir, WatchFlags::MOVED_TO)?;
    Ok(changes)
}

/// Waits until a file of this name has come, the timeout is over, or `stopped` is closed; tells whether the first.
pub(super) fn wait(
    changes: &OwnedFd,
    name: &str,
    stopped: Option<BorrowedFd<'_>>,
    timeout_s: i64,
) -> io::Result<Woken> {
    let timeout = Timespec { tv_sec: timeout_s, tv_nsec: 0 };
    let mut waits = vec![PollFd::from_borrowed_fd(changes.as_fd(), PollFlags::IN)];
    waits.extend(stopped.map(|stopped| PollFd::from_borrowed_fd(stopped, PollFlags::IN)));
    match poll(&mut waits, Some(&timeout)) {
        Ok(0) => return Ok(Woken::TimedOut),
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Woken::Other),
        Err(error) => return Err(error.into()),
    }
    if waits.get(1).is_some_and(|stopped| !stopped.revents().is_empty()) {
        return Ok(Woken::Stopped);
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(changes, &mut buffer);
    let mut came = false;
    while let Ok(event) = events.next() {
        came |= event.file_name().is_some_and(|other| other.to_bytes() == name.as_bytes());
        came |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
    }
    Ok(if came { Woken::Came } else { Woken::Other })
}

/// Why [`wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Came,
    TimedOut,
    Stopped,
    Other,
}

/// Asks the server that runs on a data directory to collect, and waits for its answer. `is_alive` tells whether it runs.
///
/// # Errors
/// [`RequestError`].
pub fn ask(
    data_dir: &Path,
    grace: Option<Duration>,
    is_alive: impl Fn() -> bool,
) -> Result<Collected, RequestError> {
    let changes = watch(data_dir)?;
    let id = dfs_shared::ids::NodeId::generate().to_string();
    write(data_dir, REQUEST_FILE, &Request { id: id.clone(), grace_s: grace.map(|grace| grace.as_secs()) })?;
    loop {
        let woken = wait(&changes, ANSWER_FILE, None, LOOK_S)?;
        if woken == Woken::TimedOut && !is_alive() {
            return Err(RequestError::Ended);
        }
        if woken != Woken::Came {
            continue;
        }
        let answer: Answer =
            serde_json::from_slice(&std::fs::read(data_dir.join(ANSWER_FILE))?).map_err(io::Error::from)?;
        if answer.id == id {
            let why = answer.error.unwrap_or_default();
            return answer.collected.ok_or(RequestError::Failed(why));
        }
    }
}
