//! Runs futures on a bounded number of threads that also watch the sockets: leader and followers.
//!
//! ```text
//!            ┌── a task is ready ──► run it ──┐
//! thread ────┤                                ├──► again
//!            ├── no leader ──► wait in the reactor, wake tasks ──┤
//!            └── there is a leader ──► sleep until a task is ready
//! ```
//!
//! A task that waits holds no thread, whatever it waits for. Invariant: a task is in the queue at most once, so the
//! queue is as bounded as the tasks are.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::epoll::Event;
use tokio::runtime::Handle;

use super::reactor::Reactor;
use crate::limits;

/// How long a thread stays with a task that waits in the middle of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all: other tasks are served meanwhile.
    None,
    /// Until it goes on, or this has passed once.
    Stay(Duration),
}

#[derive(Debug)]
pub(super) struct Executor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    reactor: Arc<Reactor>,
    queue: Mutex<Queue>,
    work: Condvar,
    tasks: Mutex<HashMap<u64, Arc<Task>>>,
    ids: AtomicU64,
    patience: Patience,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Arc<Task>>,
    followers: usize,
    /// No task is stayed with any more.
    hurries: bool,
    has_leader: bool,
    closed: bool,
}

/// Whether a task is in the middle of a request; shared with its socket.
pub(super) type Busy = Arc<AtomicBool>;

type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    id: u64,
    future: Mutex<Option<TaskFuture>>,
    state: AtomicU8,
    busy: Busy,
    /// The patience for its current request is used up.
    set_aside: AtomicBool,
    shared: Arc<Shared>,
}

const WAITING: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
/// Woken while it ran: it runs again.
const RUNNING_WOKEN: u8 = 3;
const ENDED: u8 = 4;

thread_local! {
    /// This thread wakes tasks as the leader: it looks at the queue itself afterwards.
    static DISPATCHES: Cell<bool> = const { Cell::new(false) };
}

impl Executor {
    /// Starts this many threads; on each of them tasks may start timers and tasks of this runtime.
    pub(super) fn start(
        name: &str,
        threads: usize,
        patience: Patience,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            reactor: Arc::new(Reactor::new()?),
            queue: Mutex::default(),
            work: Condvar::new(),
            tasks: Mutex::default(),
            ids: AtomicU64::new(0),
            patience,
        });
        let mut executor = Self { shared, threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let (shared, runtime) = (Arc::clone(&executor.shared), runtime.clone());
            let builder = std::thread::Builder::new().name(name.to_owned());
            executor.threads.push(builder.spawn(move || {
                let _entered = runtime.enter();
                shared.work();
            })?);
        }
        Ok(executor)
    }

    pub(super) fn reactor(&self) -> &Arc<Reactor> {
        &self.shared.reactor
    }

    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::clone(&self.shared))
    }

    /// Ends all patience, so that every task learns soon of the end that is near.
    pub(super) fn hurry(&self) {
        self.shared.queue.lock().hurries = true;
        self.shared.reactor.interrupt();
    }

    /// Ends the threads and drops every task.
    pub(super) fn close(&mut self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            queue.ready.clear();
        }
        self.shared.work.notify_all();
        self.shared.reactor.interrupt();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine failed");
            }
        }
        let tasks = std::mem::take(&mut *self.shared.tasks.lock());
        for task in tasks.into_values() {
            task.state.store(ENDED, Ordering::Release);
            let future = task.future.lock().take();
            drop(future);
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.close();
    }
}

/// Adds tasks to an executor.
#[derive(Debug, Clone)]
pub(super) struct Spawner(Arc<Shared>);

impl Spawner {
    /// Adds a task; `busy` says while a request of it is being answered.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static, busy: Busy) {
        let task = Arc::new(Task {
            id: self.0.ids.fetch_add(1, Ordering::Relaxed),
            future: Mutex::new(Some(Box::pin(future))),
            state: AtomicU8::new(QUEUED),
            busy,
            set_aside: AtomicBool::new(false),
            shared: Arc::clone(&self.0),
        });
        self.0.tasks.lock().insert(task.id, Arc::clone(&task));
        self.0.push(task);
    }
}

impl Shared {
    fn push(&self, task: Arc<Task>) {
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        queue.ready.push_back(task);
        if DISPATCHES.get() {
            return;
        }
        if queue.followers > 0 {
            drop(queue);
            self.work.notify_one();
        } else if queue.has_leader {
            drop(queue);
            self.reactor.interrupt();
        }
    }

    /// The life of one thread.
    fn work(self: &Arc<Self>) {
        let mut events = Vec::with_capacity(limits::HTTP_EVENTS_MAX);
        let mut turns = 0;
        loop {
            let mut queue = self.queue.lock();
            let task = loop {
                if queue.closed {
                    return;
                }
                turns += 1;
                let looks = turns % limits::HTTP_TURNS_BETWEEN_LOOKS == 0;
                if (looks || queue.ready.is_empty()) && !queue.has_leader {
                    let until = (!queue.ready.is_empty()).then(Instant::now);
                    queue.has_leader = true;
                    drop(queue);
                    self.lead(&mut events, until);
                    queue = self.queue.lock();
                } else if let Some(task) = queue.ready.pop_front() {
                    if !queue.ready.is_empty() && queue.followers > 0 {
                        self.work.notify_one();
                    }
                    break task;
                } else {
                    queue.followers += 1;
                    self.work.wait(&mut queue);
                    queue.followers -= 1;
                }
            };
            drop(queue);
            self.run(&task, &mut events);
        }
    }

    /// Waits in the reactor and wakes what is ready; the caller has marked that there is a leader.
    fn lead(&self, events: &mut Vec<Event>, until: Option<Instant>) {
        self.reactor.wait(events, until);
        self.queue.lock().has_leader = false;
        DISPATCHES.set(true);
        self.reactor.dispatch(events);
        DISPATCHES.set(false);
    }

    /// Runs a task until it waits, or with patience until it waits between two requests.
    fn run(self: &Arc<Self>, task: &Arc<Task>, events: &mut Vec<Event>) {
        let mut stays_until = None;
        while !task.poll_once() {
            let Patience::Stay(patience) = self.patience else { return };
            if !task.busy.load(Ordering::Acquire) {
                task.set_aside.store(false, Ordering::Relaxed);
                return;
            }
            if task.set_aside.load(Ordering::Relaxed) {
                return;
            }
            let until = *stays_until.get_or_insert_with(|| Instant::now() + patience);
            if !self.await_task(task, until, events) {
                task.set_aside.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits until this task is ready and takes it off the queue; `false` when its time is up or the end has come.
    fn await_task(&self, task: &Arc<Task>, until: Instant, events: &mut Vec<Event>) -> bool {
        loop {
            let mut queue = self.queue.lock();
            if queue.closed || queue.hurries {
                return false;
            }
            // Also a task that is ready all the time, a fast download, gives way then.
            if Instant::now() >= until {
                return false;
            }
            if task.state.load(Ordering::Acquire) == QUEUED {
                let position = queue.ready.iter().position(|other| Arc::ptr_eq(other, task));
                if let Some(position) = position {
                    queue.ready.remove(position);
                    return true;
                }
            }
            // Only engines with one thread have patience: nobody else leads.
            queue.has_leader = true;
            drop(queue);
            self.lead(events, Some(until));
        }
    }
}

impl Task {
    /// Polls once, and again if it was woken meanwhile and patience keeps the thread with it; tells whether it ended.
    fn poll_once(self: &Arc<Self>) -> bool {
        self.state.store(RUNNING, Ordering::Release);
        let waker = Waker::from(Arc::clone(self));
        let mut slot = self.future.lock();
        let Some(future) = slot.as_mut() else { return true };
        let polled =
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) => {
                drop(slot);
                let waits = self
                    .state
                    .compare_exchange(RUNNING, WAITING, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok();
                if !waits {
                    self.state.store(QUEUED, Ordering::Release);
                    self.shared.push(Arc::clone(self));
                }
                false
            }
            Ok(Poll::Ready(())) => self.end(slot.take()),
            Err(_) => {
                tracing::error!("a connection's task failed");
                self.end(slot.take())
            }
        }
    }

    fn end(&self, future: Option<TaskFuture>) -> bool {
        self.state.store(ENDED, Ordering::Release);
        self.shared.tasks.lock().remove(&self.id);
        drop(future);
        true
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let next = match state {
                WAITING => QUEUED,
                RUNNING => RUNNING_WOKEN,
                _ => return,
            };
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(WAITING) => return Arc::clone(&self.shared).push(self),
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
