//! A typed bus: whoever publishes an event does not know who listens, and each listener can be removed
//! without touching the others.
//!
//! ```text
//! publish ─► filter ─► handler, on the publisher's thread            (Synchronous)
//!                └───► bounded queue ─► handler, on its own thread   (Queued)
//! ```
//!
//! A handler takes `&E` of one event type, so it cannot be given another. Listeners are called by
//! priority, highest first, then in the order in which they subscribed; each of them gets the events
//! of one publishing thread in order. Invariant: a listener that panics, is slow or is full changes
//! nothing for the others, except that [`Overflow::Block`] makes the publisher wait.
//!
//! The modules below own the queue ([`Overflow`]) and the concrete [`kinds`] of events.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::limits::EVENT_QUEUE_LEN_MAX;

pub mod kinds;
mod queue;
mod subscriber;
mod subscription;
#[cfg(test)]
mod tests;

pub use queue::Overflow;
use subscriber::Subscriber;
pub use subscription::{Subscription, SubscriptionStats};

/// A thing that happened. Cheap to clone: put what is large behind an [`Arc`].
pub trait Event: Clone + Send + Sync + 'static {
    /// The event's name for people, logs and filters by name.
    const NAME: &'static str;
}

/// Decides which events a listener gets.
pub type Filter<E> = Box<dyn Fn(&E) -> bool + Send + Sync>;

/// On which thread a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// On the publisher's, before `publish` returns. For handlers that take no time.
    Synchronous,
    /// On a thread of its own, behind a queue.
    Queued {
        /// Most events that wait, 1 to `limits::EVENT_QUEUE_LEN_MAX`.
        capacity: usize,
        /// What happens to an event when that many wait.
        overflow: Overflow,
    },
}

/// How a listener wants its events.
pub struct SubscribeOptions<E: Event> {
    /// The listener's name, for logs, statistics and its thread.
    pub name: String,
    /// Higher ones are called first.
    pub priority: i32,
    /// On which thread the handler runs.
    pub delivery: Delivery,
    /// Which events it gets; `None` for all.
    pub filter: Option<Filter<E>>,
}

/// Why a listener was not added.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The queue would hold nothing or too much.
    #[error("a queue of {capacity} events is not between 1 and {EVENT_QUEUE_LEN_MAX}")]
    Capacity {
        /// The capacity asked for.
        capacity: usize,
    },
    /// The system gave no thread.
    #[error("no thread for the listener `{name}`")]
    Thread {
        /// The listener's name.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl<E: Event> SubscribeOptions<E> {
    /// Begins with a listener that gets all events on the publisher's thread, at priority 0.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), priority: 0, delivery: Delivery::Synchronous, filter: None }
    }

    /// Sets the priority.
    #[must_use]
    pub fn priority(self, priority: i32) -> Self {
        Self { priority, ..self }
    }

    /// Runs the handler on a thread of its own.
    #[must_use]
    pub fn queued(self, capacity: usize, overflow: Overflow) -> Self {
        Self { delivery: Delivery::Queued { capacity, overflow }, ..self }
    }

    /// Takes only the events for which `filter` is true. It runs on the publisher's thread.
    #[must_use]
    pub fn filter(self, filter: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        Self { filter: Some(Box::new(filter)), ..self }
    }
}

/// The bus. Clones are the same bus.
#[derive(Clone, Default)]
pub struct EventBus {
    inner: Arc<Inner>,
}

/// The listeners of one event type, in the order in which they are called.
type Subscribers<E> = Arc<[Arc<Subscriber<E>>]>;

#[derive(Default)]
struct Inner {
    /// A bit for each event type that has listeners; types may share a bit. Lets a publish that nobody
    /// hears take no lock.
    occupied: AtomicU64,
    topics: RwLock<Topics>,
    next_id: AtomicU64,
}

/// The value for the id of type `E` is a `Subscribers<E>`, never empty.
type Topics = HashMap<TypeId, Box<dyn Topic>, BuildHasherDefault<IdHasher>>;

/// What can be done with the listeners of any event type.
trait Topic: Any + Send + Sync {
    fn stats(&self) -> Vec<SubscriptionStats>;
}

impl<E: Event> Topic for Subscribers<E> {
    fn stats(&self) -> Vec<SubscriptionStats> {
        self.iter().map(|subscriber| subscriber.stats()).collect()
    }
}

impl std::fmt::Debug for EventBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stats()).finish()
    }
}

impl EventBus {
    /// Makes a bus without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives an event to all its listeners. Returns when the synchronous ones are through and the
    /// others have it in their queues. Costs a nanosecond or two when there are none.
    pub fn publish<E: Event>(&self, event: E) {
        if !self.has_subscribers::<E>() {
            return;
        }
        // The snapshot is taken so that handlers may subscribe and unsubscribe.
        let Some(subscribers) = self.inner.snapshot::<E>() else { return };
        for subscriber in subscribers.iter() {
            subscriber.offer(&event);
        }
    }

    /// Tells whether publishing may reach anyone, so that the making of a costly event can be spared.
    /// Now and then it is true although nobody listens.
    #[must_use]
    pub fn has_subscribers<E: Event>(&self) -> bool {
        self.inner.occupied.load(Ordering::Relaxed) & bit_of(TypeId::of::<E>()) != 0
    }

    /// Adds a listener until the returned [`Subscription`] is dropped.
    ///
    /// # Errors
    /// [`SubscribeError`] when the queue's capacity is out of bounds or there is no thread to be had.
    pub fn subscribe<E: Event>(
        &self,
        options: SubscribeOptions<E>,
        handler: impl Fn(&E) + Send + Sync + 'static,
    ) -> Result<Subscription, SubscribeError> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let (subscriber, worker) = Subscriber::start(id, options, Box::new(handler))?;
        self.inner.add(Arc::clone(&subscriber));
        let inner = Arc::clone(&self.inner);
        Ok(Subscription::new(subscriber, worker, Box::new(move || inner.remove::<E>(id))))
    }

    /// Returns the statistics of all listeners, by event and then in the order in which they are called.
    #[must_use]
    pub fn stats(&self) -> Vec<SubscriptionStats> {
        let mut stats: Vec<_> = self.inner.read().values().flat_map(|topic| topic.stats()).collect();
        stats.sort_by_key(|stats| stats.event);
        stats
    }
}

impl Inner {
    fn snapshot<E: Event>(&self) -> Option<Subscribers<E>> {
        let topics = self.read();
        let topic: &dyn Any = topics.get(&TypeId::of::<E>())?.as_ref();
        topic.downcast_ref::<Subscribers<E>>().cloned()
    }

    fn add<E: Event>(&self, subscriber: Arc<Subscriber<E>>) {
        self.change::<E>(|list| {
            let at = list.partition_point(|other| other.priority() >= subscriber.priority());
            list.insert(at, subscriber);
        });
    }

    fn remove<E: Event>(&self, id: u64) {
        self.change::<E>(|list| list.retain(|subscriber| subscriber.id() != id));
    }

    fn change<E: Event>(&self, edit: impl FnOnce(&mut Vec<Arc<Subscriber<E>>>)) {
        let mut topics = self.write();
        let type_id = TypeId::of::<E>();
        let mut list = match topics.get(&type_id) {
            Some(topic) => {
                let topic: &dyn Any = topic.as_ref();
                topic.downcast_ref::<Subscribers<E>>().map(|list| list.to_vec()).unwrap_or_default()
            }
            None => Vec::new(),
        };
        edit(&mut list);
        // What is replaced is dropped after the lock: it may hold the last reference to a handler,
        // whose drop is not this module's code.
        let replaced = if list.is_empty() {
            topics.remove(&type_id)
        } else {
            topics.insert(type_id, Box::new(Subscribers::<E>::from(list)))
        };
        let occupied = topics.keys().fold(0, |bits, type_id| bits | bit_of(*type_id));
        self.occupied.store(occupied, Ordering::Relaxed);
        drop(topics);
        drop(replaced);
    }

    // No foreign code runs under the lock, so it cannot be poisoned halfway through a change.
    fn read(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Topics> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bit_of(type_id: TypeId) -> u64 {
    use std::hash::Hash;
    let mut hasher = IdHasher::default();
    type_id.hash(&mut hasher);
    1 << (hasher.finish() >> 58)
}

/// Takes a [`TypeId`] for the hash that it is.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, id: u64) {
        self.0 ^= id;
    }
}
