//! Reads that wait for bytes from elsewhere, and the end of those whose program is being killed.
//!
//! The kernel lets a thread go only when its request is answered, also a killed one. It would tell of the signal in a request
//! of its own (INTERRUPT), which the library refuses without asking us; so while reads wait, a thread looks at who waits.
//!
//! Invariant: every read is answered once: with its bytes, with its failure, or with EINTR.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::fs::{FsError, ReadDone};
use crate::limits::KILLED_LOOK_MS;

type Slot = Mutex<Option<ReadDone>>;

/// The reads that wait.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Reads>>);

#[derive(Default)]
struct Reads {
    /// The thread that reads, and its answer; the answer itself belongs to whoever gets the bytes.
    all: Vec<(u32, Weak<Slot>)>,
    is_watched: bool,
}

impl Waiting {
    /// Has `read` answer `done`, at once or later; if `thread` is killed before, it is answered with `Interrupted`.
    pub(super) fn until_killed(&self, thread: u32, done: ReadDone, read: impl FnOnce(ReadDone)) {
        let slot = Arc::new(Mutex::new(Some(done)));
        let waits = Arc::downgrade(&slot);
        read(Box::new(move |result| {
            let done = slot.lock().take();
            if let Some(done) = done {
                done(result);
            }
        }));
        if still_waits(&waits) {
            self.watch(thread, waits);
        }
    }

    fn watch(&self, thread: u32, read: Weak<Slot>) {
        let mut reads = self.0.lock();
        reads.all.push((thread, read));
        if !reads.is_watched {
            let waiting = self.clone();
            let watcher = std::thread::Builder::new().name("dfs-killed".to_owned());
            reads.is_watched = watcher.spawn(move || while waiting.look() {}).is_ok();
        }
    }

    /// Waits a moment and answers whose thread is being killed; false once nobody waits.
    fn look(&self) -> bool {
        std::thread::sleep(Duration::from_millis(KILLED_LOOK_MS));
        let waiting = {
            let mut reads = self.0.lock();
            reads.all.retain(|(_, read)| still_waits(read));
            reads.is_watched = !reads.all.is_empty();
            reads.all.clone()
        };
        for (thread, read) in &waiting {
            if is_being_killed(*thread)
                && let Some(done) = read.upgrade().and_then(|slot| slot.lock().take())
            {
                tracing::debug!(thread, "a read was given up: its program is being killed");
                done(Err(FsError::Interrupted));
            }
        }
        !waiting.is_empty()
    }
}

fn still_waits(read: &Weak<Slot>) -> bool {
    read.upgrade().is_some_and(|slot| slot.lock().is_some())
}

/// Whether a signal waits for `thread` that will end it. Where the kernel does not say, it is not.
fn is_being_killed(thread: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| has_fatal_signal(&status))
}

/// Reads the masks of `/proc/PID/status` (proc(5)): pending for the thread and its process, blocked, ignored, caught.
fn has_fatal_signal(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let masks = ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"].map(mask);
    let [Some(own), Some(shared), Some(blocked), Some(ignored), Some(caught)] = masks else { return false };
    (own | shared) & !(blocked | ignored | caught | harmless()) != 0
}

/// The signals that end nobody by default (signal(7)).
fn harmless() -> u64 {
    let signals = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    signals.iter().chain(&stops).fold(0, |mask, signal| mask | 1 << (signal - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: &str, blocked: &str, ignored: &str, caught: &str) -> String {
        let none = "0000000000000000";
        format!(
            "Name:\tcat\nSigQ:\t1/9\nSigPnd:\t{none}\nShdPnd:\t{pending}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n"
        )
    }

    #[test]
    fn signals_that_end_a_program_are_told_from_those_that_do_not() {
        let none = "0000000000000000";
        let (interrupt, child, kill) = ("0000000000000002", "0000000000010000", "0000000000000100");
        assert!(has_fatal_signal(&status(kill, none, none, none)));
        assert!(has_fatal_signal(&status(interrupt, none, none, none)));
        assert!(has_fatal_signal(&status(none, none, none, none).replacen(none, kill, 1)), "of the thread");
        assert!(!has_fatal_signal(&status(none, none, none, none)));
        assert!(!has_fatal_signal(&status(child, none, none, none)), "nobody ends for a child");
        assert!(!has_fatal_signal(&status(interrupt, interrupt, none, none)), "blocked");
        assert!(!has_fatal_signal(&status(interrupt, none, interrupt, none)), "ignored");
        assert!(!has_fatal_signal(&status(interrupt, none, none, interrupt)), "caught");
        assert!(!has_fatal_signal("Name:\tcat\n"), "an unknown format");
    }

    #[test]
    fn a_read_that_is_answered_at_once_later_or_never_is_answered_once() {
        let waiting = Waiting::default();
        let (sender, answers) = std::sync::mpsc::channel();
        let done = |name: &'static str| -> ReadDone {
            let sender = sender.clone();
            Box::new(move |result| drop(sender.send((name, result.map(<[u8]>::to_vec).ok()))))
        };
        let own = std::process::id();
        waiting.until_killed(own, done("at once"), |answer| answer(Ok(b"bytes")));
        assert_eq!(answers.recv().unwrap(), ("at once", Some(b"bytes".to_vec())));
        let mut later = None;
        waiting.until_killed(own, done("later"), |answer| later = Some(answer));
        later.expect("the read got its answer")(Ok(b"bytes"));
        assert_eq!(answers.recv().unwrap(), ("later", Some(b"bytes".to_vec())));
        // Dropping a reply answers EIO, so nothing may keep it.
        let (kept, dropped) = std::sync::mpsc::channel::<()>();
        let done: ReadDone = Box::new(move |_| drop(kept));
        waiting.until_killed(own, done, drop);
        assert!(dropped.recv().is_err());
    }

    #[test]
    fn a_killed_threads_read_is_answered_before_its_bytes_are_there() {
        // A child that has a pending signal: it is stopped, so it cannot take SIGTERM.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let signal = |signal: i32| {
            // SAFETY: the child is ours and not reaped yet.
            unsafe { libc::kill(i32::try_from(child.id()).unwrap(), signal) }
        };
        signal(libc::SIGSTOP);
        let status = format!("/proc/{}/status", child.id());
        while !std::fs::read_to_string(&status).unwrap().contains("T (stopped)") {
            std::thread::yield_now();
        }
        signal(libc::SIGTERM);
        let waiting = Waiting::default();
        let (sender, answers) = std::sync::mpsc::channel();
        let done: ReadDone =
            Box::new(move |result| sender.send(matches!(result, Err(FsError::Interrupted))).unwrap());
        let mut late = None;
        waiting.until_killed(child.id(), done, |answer| late = Some(answer));
        let is_interrupted = answers.recv_timeout(Duration::from_secs(60));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_interrupted.unwrap());
        late.expect("the read got its answer")(Ok(b"too late"));
        assert!(answers.recv().is_err(), "it was answered already");
    }
}
