//! Work that is done ahead of whoever takes it, in order: chunks are verified while those before them are being sent.
//!
//! Invariants: no more than [`CHUNKS_AHEAD_MAX`] items are begun that nobody has asked for; what no thread of the pool has begun
//! yet is done by the taker itself, so that a pool full of takers never waits for itself; dropping it forgets what is not begun.
//! Work that costs less than waking a thread for it is left to the taker, too.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::blocking::beside;
use crate::limits::CHUNKS_AHEAD_MAX;

/// The results of work on items, in their order. Taking one blocks until it is there.
pub(super) struct Ahead<I: Iterator, T> {
    items: I,
    begun: VecDeque<Arc<Slot<I::Item, T>>>,
    work: Arc<dyn Work<I::Item, T>>,
}

/// What is done with each item.
pub(super) trait Work<I, T>: Send + Sync {
    /// Does it. Blocks as long as it takes.
    fn run(&self, item: I) -> T;

    /// Tells whether it takes so long that another thread should begin it.
    fn is_long(&self, _item: &I) -> bool {
        true
    }
}

impl<I, T, F: Fn(I) -> T + Send + Sync> Work<I, T> for F {
    fn run(&self, item: I) -> T {
        self(item)
    }
}

struct Slot<I, T> {
    state: Mutex<State<I, T>>,
    ended: Condvar,
}

enum State<I, T> {
    Waiting(I),
    Running,
    Done(T),
    /// Taken, forgotten, or its work has panicked.
    Over,
}

impl<I, T> Ahead<I, T>
where
    I: Iterator<Item: Send + 'static>,
    T: Send + 'static,
{
    pub(super) fn new(items: I, work: impl Work<I::Item, T> + 'static) -> Self {
        Self { items, begun: VecDeque::with_capacity(CHUNKS_AHEAD_MAX), work: Arc::new(work) }
    }

    fn begin(&mut self) {
        while self.begun.len() < CHUNKS_AHEAD_MAX
            && let Some(item) = self.items.next()
        {
            let is_long = self.work.is_long(&item);
            let slot = Arc::new(Slot { state: Mutex::new(State::Waiting(item)), ended: Condvar::new() });
            self.begun.push_back(Arc::clone(&slot));
            if is_long {
                let work = Arc::clone(&self.work);
                beside(move || slot.run(&*work));
            }
        }
    }
}

impl<I, T> Iterator for Ahead<I, T>
where
    I: Iterator<Item: Send + 'static>,
    T: Send + 'static,
{
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let Some(first) = self.begun.pop_front() else {
            // The first of all: nobody else has to be woken for it.
            let item = self.items.next()?;
            self.begin();
            return Some(self.work.run(item));
        };
        self.begin();
        first.run(&*self.work);
        Some(first.take())
    }
}

impl<I: Iterator, T> Drop for Ahead<I, T> {
    fn drop(&mut self) {
        for slot in &self.begun {
            let mut state = slot.state.lock();
            if matches!(*state, State::Waiting(_)) {
                *state = State::Over;
            }
        }
    }
}

impl<I, T> Slot<I, T> {
    /// Does the work if nobody has begun it.
    fn run(&self, work: &dyn Work<I, T>) {
        let item = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Running) {
                State::Waiting(item) => item,
                other => {
                    *state = other;
                    return;
                }
            }
        };
        // Also when the work panics: the taker must not wait for ever.
        let mut ending = Ending { slot: self, result: None };
        ending.result = Some(work.run(item));
    }

    fn take(&self) -> T {
        let mut state = self.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Over) {
                State::Done(result) => return result,
                State::Over => panic!("work ahead has panicked"),
                other => *state = other,
            }
            self.ended.wait(&mut state);
        }
    }
}

struct Ending<'a, I, T> {
    slot: &'a Slot<I, T>,
    result: Option<T>,
}

impl<I, T> Drop for Ending<'_, I, T> {
    fn drop(&mut self) {
        *self.slot.state.lock() = self.result.take().map_or(State::Over, State::Done);
        self.slot.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn results_come_in_order_and_never_more_are_begun_than_may_be_ahead() {
        let (begun, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, known) = (Arc::clone(&begun), Arc::clone(&asked));
        let work = move |item: usize| {
            let begun = counted.fetch_add(1, Ordering::SeqCst) + 1;
            (item, begun.saturating_sub(known.load(Ordering::SeqCst)))
        };
        let mut ahead = Ahead::new(0..1_000, work);
        for expected in 0..1_000 {
            asked.fetch_add(1, Ordering::SeqCst);
            let (item, beyond) = ahead.next().expect("there are more");
            assert_eq!(item, expected);
            assert!(beyond <= CHUNKS_AHEAD_MAX, "{beyond} were begun that nobody had asked for");
        }
        assert_eq!(ahead.next(), None);
        assert_eq!(begun.load(Ordering::SeqCst), 1_000);
    }

    #[test]
    fn an_item_is_worked_on_while_the_one_before_it_is() {
        let (send, receive) = mpsc::channel();
        let receive = Mutex::new(receive);
        let work = move |item: usize| match item {
            0 => receive.lock().recv_timeout(PATIENCE).is_ok(),
            _ => send.send(()).is_ok(),
        };
        assert!(Ahead::new(0..2, work).all(|met| met));
    }

    #[test]
    fn short_work_is_done_by_the_taker() {
        struct Threads;
        impl Work<bool, thread::ThreadId> for Threads {
            fn run(&self, _: bool) -> thread::ThreadId {
                thread::current().id()
            }

            fn is_long(&self, is_long: &bool) -> bool {
                *is_long
            }
        }
        let here = thread::current().id();
        assert!(Ahead::new([false; 100].into_iter(), Threads).all(|by| by == here));
        let taken_late = |item| {
            let mut ahead = Ahead::new([false, item].into_iter(), Threads);
            ahead.next();
            let ended = Arc::clone(&ahead.begun[0]);
            let until = Instant::now() + PATIENCE;
            while item && !matches!(*ended.state.lock(), State::Done(_)) && Instant::now() < until {
                thread::yield_now();
            }
            ahead.next().expect("there is a second")
        };
        assert_eq!((taken_late(false), taken_late(true) == here), (here, false));
    }

    #[test]
    fn a_taker_on_the_only_thread_of_a_pool_does_everything_itself() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        let runtime = runtime.expect("a runtime");
        let taken = runtime.handle().spawn_blocking(|| Ahead::new(0..100, |item: u64| item).sum::<u64>());
        let taken = runtime.block_on(async { tokio::time::timeout(PATIENCE, taken).await });
        assert_eq!(taken.expect("it does not wait for itself").expect("it does not panic"), 4_950);
    }

    #[test]
    fn what_was_not_begun_is_forgotten_with_the_taker() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        let runtime = runtime.expect("a runtime");
        let done = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&done);
        let taken = runtime.handle().spawn_blocking(move || {
            let mut ahead = Ahead::new(0..100, move |_: u64| counted.fetch_add(1, Ordering::SeqCst));
            ahead.next()
        });
        assert_eq!(runtime.block_on(taken).expect("it does not panic"), Some(0));
        drop(runtime);
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[test]
    #[should_panic(expected = "work ahead has panicked")]
    fn a_panic_ahead_reaches_the_taker() {
        let (send, receive) = mpsc::channel();
        let receive = Mutex::new(receive);
        let work = move |item: usize| match item {
            0 => drop(receive.lock().recv_timeout(PATIENCE)),
            _ => {
                let _told = send.send(());
                panic!("on purpose");
            }
        };
        Ahead::new(0..2, work).for_each(drop);
    }
}
