//! Whom the attributes of directories were told since the kernel last forgot them, so that it is not made to forget them in vain.
//!
//! An answer with a directory's attributes that is on its way while a name in it changes would bring the older state back,
//! so the kernel is made to forget them (`Fs::attributes_changed`). That costs a question before the next
//! change. It is not needed if there is no such answer: if nobody was answered since, or only the thread that now
//! changes the name, for it cannot have asked before it took in its last answer.
//!
//! Invariant: what is told of a directory is noted before it is read; what stands here was noted since the kernel forgot.

use std::collections::HashMap;

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

    /// `thread` changed a name in `dir`. Returns whether an answer to somebody else may be on its way; from now on nobody has one, if
    /// the kernel is then made to forget.
    pub(super) fn change(&self, dir: Ino, thread: Thread) -> bool {
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
        assert!(answers.change(DIR, 1), "nothing is known yet");
        assert!(!answers.change(DIR, 1));
        assert!(!answers.change(DIR, 2), "nobody was told");
        answers.tell(DIR, 1);
        answers.tell(DIR, 1);
        assert!(!answers.change(DIR, 1), "it has taken in its own");
        answers.tell(DIR, 1);
        assert!(answers.change(DIR, 2));
        answers.tell(DIR, 1);
        answers.tell(DIR, 2);
        assert!(answers.change(DIR, 1));
        answers.tell(DIR, 0);
        assert!(answers.change(DIR, 0), "a thread without a name may be any");
    }

    #[test]
    fn what_was_dropped_for_room_is_unknown() {
        let answers = Answers::default();
        for ino in 0..=ANSWERED_DIRECTORIES_MAX as u64 {
            assert!(answers.change(Ino(ino), 1));
        }
        assert!(answers.change(Ino(0), 1));
        assert!(answers.told.lock().len() <= ANSWERED_DIRECTORIES_MAX);
    }
}
