//! The owner's end of a listener: it lasts as long as its [`Subscription`].

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::subscriber::AnySubscriber;

/// Keeps a listener on the bus; dropping it takes the listener off.
///
/// The drop closes a queued listener's queue, lets its thread handle what is still in it, and waits for
/// the thread to end (not on that thread itself). A synchronous handler may still be running on other
/// threads that published just before the drop.
#[must_use = "the listener is removed when its subscription is dropped"]
pub struct Subscription {
    subscriber: Arc<dyn AnySubscriber>,
    worker: Option<JoinHandle<()>>,
    remove: Box<dyn Fn() + Send + Sync>,
}

/// What became of a listener's events. `published` is the sum of the others and of what waits in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionStats {
    /// Name of the event.
    pub event: &'static str,
    /// Name of the listener.
    pub name: String,
    /// Events that were published while it listened.
    pub published: u64,
    /// Events that its handler has dealt with.
    pub delivered: u64,
    /// Events that its filter did not want.
    pub filtered: u64,
    /// Events that found its queue full or closed.
    pub dropped: u64,
    /// Events at which its handler or filter panicked.
    pub panicked: u64,
}

impl Subscription {
    pub(super) fn new(
        subscriber: Arc<dyn AnySubscriber>,
        worker: Option<JoinHandle<()>>,
        remove: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { subscriber, worker, remove }
    }

    /// Returns what became of the events so far.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.subscriber.stats()
    }

    /// Waits until every event that was queued before the call is dealt with.
    pub fn wait_idle(&self) {
        self.subscriber.wait_idle();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        (self.remove)();
        self.subscriber.close();
        if let Some(worker) = self.worker.take()
            && worker.thread().id() != std::thread::current().id()
        {
            // The thread cannot panic: handlers are caught.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
