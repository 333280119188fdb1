//! The bounded queue between a publisher and a listener's own thread.
//!
//! ```text
//! open ── close ─► closed: takes nothing more, gives what it has ─► empty: the listener's thread ends
//! ```
//!
//! Invariant: never more than `capacity` events wait, except those that the listener's own thread
//! publishes under [`Overflow::Block`], which it must not wait for itself to take.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// What happens to an event when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The publisher waits for room.
    Block,
    /// The event that has waited longest is dropped.
    DropOldest,
    /// The new event is dropped.
    DropNewest,
}

pub(super) struct Queue<E> {
    capacity: usize,
    overflow: Overflow,
    state: Mutex<State<E>>,
    filled: Condvar,
    emptied: Condvar,
    idle: Condvar,
}

struct State<E> {
    events: VecDeque<E>,
    is_closed: bool,
    /// The listener's thread, once it asked for an event.
    worker: Option<ThreadId>,
    is_worker_waiting: bool,
    publishers_waiting: usize,
    /// How many events were ever taken in; the n-th has number n - 1.
    entered: u64,
    /// The number of the event that the handler has now.
    handling: Option<u64>,
    idle_waiting: usize,
}

impl<E> State<E> {
    /// The number of the event that leaves the queue next.
    fn next(&self) -> u64 {
        self.entered - self.events.len() as u64
    }
}

impl<E> Queue<E> {
    pub(super) fn new(capacity: usize, overflow: Overflow) -> Self {
        let state = State {
            events: VecDeque::new(),
            is_closed: false,
            worker: None,
            is_worker_waiting: false,
            publishers_waiting: 0,
            entered: 0,
            handling: None,
            idle_waiting: 0,
        };
        Self {
            capacity,
            overflow,
            state: Mutex::new(state),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    /// Adds an event; returns how many were dropped for it, itself included. Waits under [`Overflow::Block`].
    pub(super) fn push(&self, event: E) -> u64 {
        let mut state = self.lock();
        let may_wait = self.overflow == Overflow::Block && state.worker != Some(std::thread::current().id());
        while may_wait && state.events.len() >= self.capacity && !state.is_closed {
            state.publishers_waiting += 1;
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.publishers_waiting -= 1;
        }
        if state.is_closed {
            return 1;
        }
        // Dropped after the lock: the drop of an event is foreign code.
        let mut oldest = None;
        if state.events.len() >= self.capacity {
            match self.overflow {
                Overflow::Block => {}
                Overflow::DropNewest => return 1,
                Overflow::DropOldest => oldest = state.events.pop_front(),
            }
        }
        state.events.push_back(event);
        state.entered += 1;
        if std::mem::take(&mut state.is_worker_waiting) {
            self.filled.notify_one();
        }
        drop(state);
        u64::from(oldest.is_some())
    }

    /// Takes the next event on the listener's thread, which is through with the one before; waits for one.
    /// `None` when the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<E> {
        let mut state = self.lock();
        state.handling = None;
        if state.idle_waiting > 0 {
            self.idle.notify_all();
        }
        state.worker = Some(std::thread::current().id());
        while state.events.is_empty() && !state.is_closed {
            state.is_worker_waiting = true;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.is_worker_waiting = false;
        }
        state.handling = (!state.events.is_empty()).then(|| state.next());
        let event = state.events.pop_front();
        // Publishers are woken in one go at half, so that they and this thread do not take turns for each event.
        if state.publishers_waiting > 0 && state.events.len() <= self.capacity / 2 {
            self.emptied.notify_all();
        }
        event
    }

    /// Waits until everything that is in the queue now has been handled or dropped. Returns at once on
    /// the listener's own thread.
    pub(super) fn wait_idle(&self) {
        let mut state = self.lock();
        let goal = state.entered;
        if state.worker == Some(std::thread::current().id()) {
            return;
        }
        while state.next() < goal || state.handling.is_some_and(|number| number < goal) {
            state.idle_waiting += 1;
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_waiting -= 1;
        }
    }

    /// Takes no more events and lets all who wait go on.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    // No foreign code runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
