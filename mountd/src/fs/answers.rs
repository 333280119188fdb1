//! Whom the attributes of directories and the names in them were told since the kernel last forgot them, so that it is not made to
//! forget them in vain.
//!
//! An answer with a directory's attributes that is on its way while a name in it changes would bring the older state back,
//! so the kernel is made to forget them (`Fs::attributes_changed`). That costs a question before the next
//! change. It is not needed if there is no such answer: if nobody was answered since, or only the thread that now
//! changes the name, for it cannot have asked before it took in its last answer.
//!
//! A listing comes in several answers, and the kernel keeps what it has of it. It looks whether a name has changed only
//! where a listing begins: one that began after a change takes its end from one that began before it. So the
//! kernel is made to forget the names, too, if any were told since it last did.
//!
//! Invariant: what is told of a directory is noted before it is read; what stands here was noted since the kernel forgot.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::limits::ANSWERED_DIRECTORIES_MAX;
use crate::tree::Ino;

/// A thread that asked, as the kernel names it; 0 if it cannot.
pub(super) type Thread = u32;

/// Who was told the attributes of directories in which names change.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// A directory that is not here may have been told to anybody. `None`: to nobody.
    told: Mutex<HashMap<Ino, Option<Thread>>>,
    /// Directories of which no name was told.
    unlisted: Mutex<HashSet<Ino>>,
}

/// What the kernel has to forget of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forget {
    /// Nothing.
    Nothing,
    /// Its attributes.
    Attributes,
    /// Its attributes and the names in it.
    Names,
}

impl Answers {
    /// `thread` is about to be told the attributes of `node`.
    pub(super) fn tell(&self, node: Ino, thread: Thread) {
        let mut told = self.told.lock();
        match told.get_mut(&node) {
            Some(_) if thread == 0 => drop(told.remove(&node)),
            Some(nobody @ None) => *nobody = Some(thread),
            Some(Some(other)) if *other != thread => drop(told.remove(&node)),
            Some(Some(_)) | None => {}
        }
    }

    /// Somebody is about to be told names in `dir`.
    pub(super) fn list(&self, dir: Ino) {
        self.unlisted.lock().remove(&dir);
    }

    /// `thread` changed a name in `dir`. Returns what somebody may have of it or get from an answer on its way; from now on nobody
    /// does, if the kernel is then made to forget.
    pub(super) fn change(&self, dir: Ino, thread: Thread) -> Forget {
        let mut unlisted = self.unlisted.lock();
        if unlisted.len() >= ANSWERED_DIRECTORIES_MAX {
            unlisted.clear();
        }
        let was_listed = unlisted.insert(dir);
        drop(unlisted);
        match self.is_told(dir, thread) {
            _ if was_listed => Forget::Names,
            true => Forget::Attributes,
            false => Forget::Nothing,
        }
    }

    fn is_told(&self, dir: Ino, thread: Thread) -> bool {
        let mut told = self.told.lock();
        if told.len() >= ANSWERED_DIRECTORIES_MAX && !told.contains_key(&dir) {
            told.clear();
        }
        match told.insert(dir, None) {
            Some(None) => false,
            Some(Some(other)) => other != thread,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: Ino = Ino(7);

    #[test]
    fn only_an_answer_to_somebody_else_counts() {
        let answers = Answers::default();
        assert!(answers.is_told(DIR, 1), "nothing is known yet");
        assert!(!answers.is_told(DIR, 1));
        assert!(!answers.is_told(DIR, 2), "nobody was told");
        answers.tell(DIR, 1);
        answers.tell(DIR, 1);
        assert!(!answers.is_told(DIR, 1), "it has taken in its own");
        answers.tell(DIR, 1);
        assert!(answers.is_told(DIR, 2));
        answers.tell(DIR, 1);
        answers.tell(DIR, 2);
        assert!(answers.is_told(DIR, 1));
        answers.tell(DIR, 0);
        assert!(answers.is_told(DIR, 0), "a thread without a name may be any");
    }

    #[test]
    fn what_was_dropped_for_room_is_unknown() {
        let answers = Answers::default();
        for ino in 0..=ANSWERED_DIRECTORIES_MAX as u64 {
            assert!(answers.is_told(Ino(ino), 1));
        }
        assert!(answers.is_told(Ino(0), 1));
        assert!(answers.told.lock().len() <= ANSWERED_DIRECTORIES_MAX);
    }

    #[test]
    fn names_are_forgotten_once_after_they_were_told() {
        let answers = Answers::default();
        assert_eq!(answers.change(DIR, 1), Forget::Names, "nothing is known yet");
        assert_eq!(answers.change(DIR, 1), Forget::Nothing);
        answers.list(DIR);
        assert_eq!(answers.change(DIR, 1), Forget::Names);
        answers.tell(DIR, 2);
        assert_eq!(answers.change(DIR, 1), Forget::Attributes);
        for ino in 0..=ANSWERED_DIRECTORIES_MAX as u64 {
            answers.change(Ino(100 + ino), 1);
        }
        assert_eq!(answers.change(DIR, 1), Forget::Names, "dropped for room");
        assert!(answers.unlisted.lock().len() <= ANSWERED_DIRECTORIES_MAX);
    }
}
