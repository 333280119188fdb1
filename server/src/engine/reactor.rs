//! Readiness of sockets and points in time, from epoll, for the engines that have threads of their own.
//!
//! A socket is registered once, edge-triggered; its [`Source`] remembers what is ready, so a task asks the kernel only
//! when there may be something. Timers are lazy: a deadline that moves later costs nothing until the earlier one fires.
//! Whoever calls [`Reactor::wait`] may be any thread, one at a time; [`Reactor::interrupt`] ends its wait.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use crate::limits;

mod socket;

pub(super) use socket::{PoolSocket, Watched};

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

#[derive(Debug)]
pub(super) struct Reactor {
    epoll: OwnedFd,
    interrupt: OwnedFd,
    sources: Mutex<HashMap<u64, Arc<Source>>>,
    timers: Mutex<Timers>,
    tokens: AtomicU64,
}

#[derive(Debug, Default)]
struct Timers {
    by_time: BTreeMap<(Instant, u64), Arc<Source>>,
    /// Until when a thread sleeps in the kernel, if one does: `Some(None)` is without end.
    asleep_until: Option<Option<Instant>>,
}

/// One registered socket.
#[derive(Debug)]
pub(super) struct Source {
    token: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    readable: bool,
    writable: bool,
    /// The peer or an error has ended it: every try tells the kernel's answer.
    over: bool,
    /// Counts events, so that a try that found nothing does not hide one that came meanwhile.
    tick: u64,
    waker: Option<Waker>,
    deadline: Option<Instant>,
    armed: Option<Instant>,
}

/// Token of the interrupt, which has no source.
const INTERRUPT: u64 = 0;

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered: each write is an event, and nobody has to read it.
        epoll::add(&epoll, &interrupt, EventData::new_u64(INTERRUPT), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            epoll,
            interrupt,
            sources: Mutex::default(),
            timers: Mutex::default(),
            tokens: AtomicU64::new(INTERRUPT + 1),
        })
    }

    /// Watches a socket until [`Reactor::remove`].
    pub(super) fn add(&self, socket: impl AsFd) -> io::Result<Arc<Source>> {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let state = State { readable: true, writable: true, ..State::default() };
        let source = Arc::new(Source { token, state: Mutex::new(state) });
        self.sources.lock().insert(token, Arc::clone(&source));
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, socket, EventData::new_u64(token), events) {
            self.sources.lock().remove(&token);
            return Err(error.into());
        }
        Ok(source)
    }

    /// Forgets a socket; closing it takes it from the kernel's list.
    pub(super) fn remove(&self, source: &Source) {
        self.sources.lock().remove(&source.token);
        let armed = source.state.lock().armed.take();
        if let Some(armed) = armed {
            self.timers.lock().by_time.remove(&(armed, source.token));
        }
    }

    /// Ends the wait of the thread that is in [`Reactor::wait`], or the next one.
    pub(super) fn interrupt(&self) {
        // A full counter has an event pending already.
        let _ = rustix::io::write(&self.interrupt, &1_u64.to_ne_bytes());
    }

    /// Sleeps until something happens, at most until `until`; takes the events without acting on them.
    pub(super) fn wait(&self, events: &mut Vec<Event>, until: Option<Instant>) {
        events.clear();
        events.reserve(limits::HTTP_EVENTS_MAX);
        let until = {
            let mut timers = self.timers.lock();
            let first = timers.by_time.first_key_value().map(|((at, _), _)| *at);
            let until = first.into_iter().chain(until).min();
            timers.asleep_until = Some(until);
            until
        };
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let waited = epoll::wait(&self.epoll, spare_capacity(events), left.map(timespec).as_ref());
        self.timers.lock().asleep_until = None;
        match waited {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => unreachable!("epoll_wait on an own descriptor: {error}"),
        }
    }

    /// Wakes the tasks of these events and of the timers that are due.
    pub(super) fn dispatch(&self, events: &[Event]) {
        for event in events {
            let token = { event.data }.u64();
            if token == INTERRUPT {
                continue;
            }
            let source = self.sources.lock().get(&token).cloned();
            if let Some(source) = source {
                source.happened(event.flags);
            }
        }
        let now = Instant::now();
        while let Some(source) = self.due(now) {
            let waker = {
                let mut state = source.state.lock();
                state.armed = None;
                match state.deadline {
                    Some(deadline) if deadline > now => {
                        state.armed = Some(deadline);
                        self.timers.lock().by_time.insert((deadline, source.token), Arc::clone(&source));
                        None
                    }
                    Some(_) => state.waker.take(),
                    None => None,
                }
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn due(&self, now: Instant) -> Option<Arc<Source>> {
        let mut timers = self.timers.lock();
        let first = timers.by_time.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Waits for a point in time on behalf of a source's task.
    pub(super) fn poll_deadline(
        &self,
        source: &Arc<Source>,
        context: &mut Context<'_>,
        deadline: Instant,
    ) -> Poll<()> {
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        let mut state = source.state.lock();
        state.remember(context);
        state.deadline = Some(deadline);
        if state.armed.is_none_or(|armed| armed > deadline) {
            let mut timers = self.timers.lock();
            if let Some(armed) = state.armed.replace(deadline) {
                timers.by_time.remove(&(armed, source.token));
            }
            timers.by_time.insert((deadline, source.token), Arc::clone(source));
            let oversleeps =
                timers.asleep_until.is_some_and(|until| until.is_none_or(|until| until > deadline));
            drop(timers);
            if oversleeps {
                self.interrupt();
            }
        }
        Poll::Pending
    }
}

fn timespec(duration: Duration) -> Timespec {
    // The kernel counts milliseconds here: rounded up, so that a deadline has passed when the wait ends.
    let millis = duration.as_micros().div_ceil(1000);
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let nanoseconds = i64::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
    Timespec { tv_sec: seconds.min(i64::from(i32::MAX) / 1000), tv_nsec: nanoseconds }
}

impl State {
    fn remember(&mut self, context: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
    }

    fn ready(&mut self, direction: Direction) -> &mut bool {
        match direction {
            Direction::Read => &mut self.readable,
            Direction::Write => &mut self.writable,
        }
    }
}

impl Source {
    fn happened(&self, flags: EventFlags) {
        let waker = {
            let mut state = self.state.lock();
            let over = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            state.over |= over;
            state.readable |= over || flags.contains(EventFlags::IN);
            state.writable |= over || flags.contains(EventFlags::OUT);
            state.tick += 1;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tries an operation of this many bytes at most; fewer done means that nothing more is there now, so an operation
    /// that may do fewer for another reason says 0.
    pub(super) fn poll_io(
        &self,
        context: &mut Context<'_>,
        direction: Direction,
        mut operation: impl FnMut() -> rustix::io::Result<usize>,
        len_max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let tick = {
                let mut state = self.state.lock();
                if !*state.ready(direction) {
                    state.remember(context);
                    return Poll::Pending;
                }
                state.tick
            };
            match operation() {
                Ok(len) => {
                    if len < len_max && len > 0 {
                        self.drained(direction, tick, false);
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(rustix::io::Errno::AGAIN) => self.drained(direction, tick, true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Takes in that nothing more is there now, unless an event came meanwhile. A short read before the peer's end has to
    /// be followed by one that finds the end, so it is not `certain`.
    fn drained(&self, direction: Direction, tick: u64, certain: bool) {
        let mut state = self.state.lock();
        if state.tick == tick && (certain || !state.over) {
            *state.ready(direction) = false;
        }
    }
}
