//! One listener: its filter, its handler, its queue and its counters.
//!
//! Invariant: a panic in a filter or handler ends here; it is counted and logged, nothing more.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::queue::Queue;
use super::{Delivery, Event, Filter, SubscribeError, SubscribeOptions, SubscriptionStats};
use crate::limits::EVENT_QUEUE_LEN_MAX;

type Handler<E> = Box<dyn Fn(&E) + Send + Sync>;

pub(super) struct Subscriber<E> {
    id: u64,
    name: String,
    priority: i32,
    filter: Option<Filter<E>>,
    handler: Handler<E>,
    queue: Option<Queue<E>>,
    published: AtomicU64,
    delivered: AtomicU64,
    filtered: AtomicU64,
    dropped: AtomicU64,
    panicked: AtomicU64,
}

impl<E: Event> Subscriber<E> {
    /// Makes a listener and, if it has a queue, starts its thread.
    pub(super) fn start(
        id: u64,
        options: SubscribeOptions<E>,
        handler: Handler<E>,
    ) -> Result<(Arc<Self>, Option<JoinHandle<()>>), SubscribeError> {
        let SubscribeOptions { name, priority, delivery, filter } = options;
        let queue = match delivery {
            Delivery::Synchronous => None,
            Delivery::Queued { capacity, .. } if !(1..=EVENT_QUEUE_LEN_MAX).contains(&capacity) => {
                return Err(SubscribeError::Capacity { capacity });
            }
            Delivery::Queued { capacity, overflow } => Some(Queue::new(capacity, overflow)),
        };
        let zero = AtomicU64::default;
        let subscriber = Arc::new(Self {
            id,
            name,
            priority,
            filter,
            handler,
            queue,
            published: zero(),
            delivered: zero(),
            filtered: zero(),
            dropped: zero(),
            panicked: zero(),
        });
        if subscriber.queue.is_none() {
            return Ok((subscriber, None));
        }
        let runner = Arc::clone(&subscriber);
        let worker = std::thread::Builder::new()
            .name(format!("event:{}", subscriber.name))
            .spawn(move || runner.run())
            .map_err(|source| SubscribeError::Thread { name: subscriber.name.clone(), source })?;
        Ok((subscriber, Some(worker)))
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn priority(&self) -> i32 {
        self.priority
    }

    /// Takes a published event.
    #[inline]
    pub(super) fn offer(&self, event: &E) {
        self.published.fetch_add(1, Ordering::Relaxed);
        if let Some(filter) = &self.filter {
            match catch_unwind(AssertUnwindSafe(|| filter(event))) {
                Ok(true) => {}
                Ok(false) => {
                    self.filtered.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(panic) => return self.note_panic("filter", panic),
            }
        }
        match &self.queue {
            None => self.handle(event),
            Some(queue) => {
                let dropped = queue.push(event.clone());
                if dropped > 0 {
                    self.dropped.fetch_add(dropped, Ordering::Relaxed);
                }
            }
        }
    }

    /// Handles what is queued until the queue is closed and empty.
    fn run(&self) {
        let queue = self.queue.as_ref().expect("only listeners with a queue have a thread");
        while let Some(event) = queue.pop() {
            self.handle(&event);
        }
    }

    fn handle(&self, event: &E) {
        match catch_unwind(AssertUnwindSafe(|| (self.handler)(event))) {
            Ok(()) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err(panic) => self.note_panic("handler", panic),
        }
    }

    #[cold]
    fn note_panic(&self, what: &'static str, panic: Box<dyn Any + Send>) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no text)");
        tracing::error!(listener = %self.name, event = E::NAME, panic = text, "a listener's {what} panicked");
    }
}

/// What a [`super::Subscription`] needs of its listener, whatever its event type.
pub(super) trait AnySubscriber: Send + Sync {
    fn stats(&self) -> SubscriptionStats;
    /// Takes no more events.
    fn close(&self);
    /// Waits until everything taken so far is handled.
    fn wait_idle(&self);
}

impl<E: Event> AnySubscriber for Subscriber<E> {
    fn stats(&self) -> SubscriptionStats {
        Subscriber::stats(self)
    }
    fn close(&self) {
        if let Some(queue) = &self.queue {
            queue.close();
        }
    }
    fn wait_idle(&self) {
        if let Some(queue) = &self.queue {
            queue.wait_idle();
        }
    }
}

impl<E: Event> Subscriber<E> {
    pub(super) fn stats(&self) -> SubscriptionStats {
        SubscriptionStats {
            event: E::NAME,
            name: self.name.clone(),
            published: self.published.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            filtered: self.filtered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            panicked: self.panicked.load(Ordering::Relaxed),
        }
    }
}
