//! Tests of the bus. Threads are stepped by channels and barriers, never by time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};

use super::*;
use crate::limits::EVENT_QUEUE_LEN_MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Number(u32);
impl Event for Number {
    const NAME: &'static str = "Number";
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word(&'static str);
impl Event for Word {
    const NAME: &'static str = "Word";
}

type Log<T> = Arc<Mutex<Vec<T>>>;

fn log<T>() -> Log<T> {
    Arc::new(Mutex::new(Vec::new()))
}

fn taken<T>(log: &Log<T>) -> Vec<T> {
    std::mem::take(&mut log.lock().expect("no test panics under it"))
}

fn keep(log: &Log<u32>) -> impl Fn(&Number) + Send + Sync + 'static {
    let log = Arc::clone(log);
    move |event| log.lock().expect("no test panics under it").push(event.0)
}

fn options(name: &str) -> SubscribeOptions<Number> {
    SubscribeOptions::new(name)
}

/// A handler that tells each event that it has begun with and then waits to be let go.
struct Gate {
    begun: Receiver<u32>,
    go: Sender<()>,
}

fn gated(log: &Log<u32>) -> (Gate, impl Fn(&Number) + Send + Sync + 'static) {
    let (tell, begun) = channel();
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let keep = keep(log);
    let handler = move |event: &Number| {
        let _ = tell.send(event.0);
        let _ = wait.lock().expect("no test panics under it").recv();
        keep(event);
    };
    (Gate { begun, go }, handler)
}

#[test]
fn a_listener_gets_the_events_of_its_type_until_its_subscription_is_dropped() {
    let bus = EventBus::new();
    let seen = log();
    bus.publish(Number(0));
    let subscription = bus.subscribe(options("a"), keep(&seen)).expect("synchronous");
    bus.clone().publish(Number(1));
    bus.publish(Word("not for it"));
    drop(subscription);
    bus.publish(Number(2));
    assert_eq!(taken(&seen), [1]);
    assert!(!bus.has_subscribers::<Number>());
    assert_eq!(bus.stats(), []);
}

#[test]
fn two_buses_have_nothing_to_do_with_each_other() {
    let (one, two) = (EventBus::new(), EventBus::new());
    let seen = log();
    let _subscription = one.subscribe(options("a"), keep(&seen)).expect("synchronous");
    two.publish(Number(1));
    assert_eq!(taken(&seen), []);
}

#[test]
fn listeners_are_called_by_priority_and_then_in_the_order_in_which_they_came() {
    let bus = EventBus::new();
    let seen = log();
    let add = |name: &'static str, priority| {
        let seen = Arc::clone(&seen);
        let handler = move |_: &Number| seen.lock().expect("not poisoned").push(name);
        bus.subscribe(options(name).priority(priority), handler).expect("synchronous")
    };
    let all = [add("low", -1), add("first", 0), add("high", 7), add("second", 0), add("highest", i32::MAX)];
    bus.publish(Number(1));
    assert_eq!(taken(&seen), ["highest", "high", "first", "second", "low"]);
    assert_eq!(bus.stats().len(), all.len());
}

#[test]
fn a_filter_keeps_events_from_its_listener_alone() {
    let bus = EventBus::new();
    let (even, all) = (log(), log());
    let filtered = options("even").filter(|event| event.0 % 2 == 0);
    let even_subscription = bus.subscribe(filtered, keep(&even)).expect("synchronous");
    let _all = bus.subscribe(options("all"), keep(&all)).expect("synchronous");
    (0..5).for_each(|n| bus.publish(Number(n)));
    assert_eq!(taken(&even), [0, 2, 4]);
    assert_eq!(taken(&all), [0, 1, 2, 3, 4]);
    let stats = even_subscription.stats();
    assert_eq!((stats.published, stats.delivered, stats.filtered), (5, 3, 2));
}

#[test]
fn a_panic_in_a_handler_or_filter_reaches_nobody_else_and_is_counted() {
    let bus = EventBus::new();
    let seen = log();
    let high = |name| options(name).priority(1);
    let handler = bus.subscribe(high("handler"), |event| assert!(event.0 != 1, "one")).expect("synchronous");
    let filter = bus.subscribe(high("filter").filter(|event| assert_filter(event.0)), |_| {}).expect("one");
    let queued = high("queued").queued(8, Overflow::Block);
    let queued = bus.subscribe(queued, |event| assert!(event.0 != 1, "one")).expect("a thread");
    let _last = bus.subscribe(options("last"), keep(&seen)).expect("synchronous");
    (0..3).for_each(|n| bus.publish(Number(n)));
    queued.wait_idle();
    assert_eq!(taken(&seen), [0, 1, 2]);
    for subscription in [handler, filter, queued] {
        let stats = subscription.stats();
        assert_eq!((stats.published, stats.delivered, stats.panicked), (3, 2, 1), "{}", stats.name);
    }
}

fn assert_filter(number: u32) -> bool {
    assert!(number != 1, "one");
    true
}

#[test]
fn a_queued_listener_runs_on_a_thread_of_its_own_and_in_order() {
    let bus = EventBus::new();
    let seen = log();
    let here = std::thread::current().id();
    let keep = keep(&seen);
    let handler = move |event: &Number| {
        assert_ne!(std::thread::current().id(), here);
        keep(event);
    };
    let subscription = bus.subscribe(options("q").queued(4, Overflow::Block), handler).expect("a thread");
    (0..1000).for_each(|n| bus.publish(Number(n)));
    subscription.wait_idle();
    assert_eq!(taken(&seen), (0..1000).collect::<Vec<_>>());
    assert_eq!(subscription.stats().delivered, 1000);
}

#[test]
fn dropping_a_subscription_handles_what_is_queued_and_ends_the_thread() {
    let bus = EventBus::new();
    let seen = log();
    let (gate, handler) = gated(&seen);
    let handler = Arc::new(handler);
    let weak = Arc::downgrade(&handler);
    let subscription = bus
        .subscribe(options("q").queued(8, Overflow::Block), move |event: &Number| handler(event))
        .expect("a thread");
    (0..3).for_each(|n| bus.publish(Number(n)));
    assert_eq!(gate.begun.recv(), Ok(0));
    (0..3).for_each(|_| gate.go.send(()).expect("it listens"));
    drop(subscription);
    assert_eq!(taken(&seen), [0, 1, 2]);
    assert!(weak.upgrade().is_none(), "thread and handler are gone");
}

/// Publishes 0 to 4 to a queue of two whose handler is at 0; returns what was handled and the statistics.
fn overflow(policy: Overflow) -> (Vec<u32>, SubscriptionStats) {
    let bus = EventBus::new();
    let seen = log();
    let (gate, handler) = gated(&seen);
    let subscription = bus.subscribe(options("q").queued(2, policy), handler).expect("a thread");
    bus.publish(Number(0));
    assert_eq!(gate.begun.recv(), Ok(0));
    (1..5).for_each(|n| bus.publish(Number(n)));
    (0..5).for_each(|_| gate.go.send(()).expect("it listens"));
    subscription.wait_idle();
    (taken(&seen), subscription.stats())
}

#[test]
fn a_full_queue_drops_its_oldest_event() {
    let (seen, stats) = overflow(Overflow::DropOldest);
    assert_eq!(seen, [0, 3, 4]);
    assert_eq!((stats.published, stats.delivered, stats.dropped), (5, 3, 2));
}

#[test]
fn a_full_queue_drops_the_newest_event() {
    let (seen, stats) = overflow(Overflow::DropNewest);
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!((stats.published, stats.delivered, stats.dropped), (5, 3, 2));
}

#[test]
fn a_full_queue_makes_the_publisher_wait_and_loses_nothing() {
    let bus = EventBus::new();
    let seen = log();
    let (gate, handler) = gated(&seen);
    let subscription = bus.subscribe(options("q").queued(1, Overflow::Block), handler).expect("a thread");
    let published = Arc::new(AtomicUsize::new(0));
    let publisher = {
        let (bus, published) = (bus.clone(), Arc::clone(&published));
        std::thread::spawn(move || {
            for n in 0..4 {
                bus.publish(Number(n));
                published.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    for n in 0..4 {
        assert_eq!(gate.begun.recv(), Ok(n));
        let returned = published.load(Ordering::SeqCst);
        assert!(returned <= n as usize + 2, "{returned} publishes returned while the handler is at {n}");
        gate.go.send(()).expect("it listens");
    }
    publisher.join().expect("no panic");
    subscription.wait_idle();
    assert_eq!(taken(&seen), [0, 1, 2, 3]);
    assert_eq!(subscription.stats().dropped, 0);
}

#[test]
fn a_handler_may_publish_to_its_own_full_queue() {
    let bus = EventBus::new();
    let seen = log();
    let keep = keep(&seen);
    let again = bus.clone();
    let handler = move |event: &Number| {
        keep(event);
        if event.0 == 0 {
            (1..4).for_each(|n| again.publish(Number(n)));
        }
    };
    let subscription = bus.subscribe(options("q").queued(1, Overflow::Block), handler).expect("a thread");
    bus.publish(Number(0));
    subscription.wait_idle();
    subscription.wait_idle();
    assert_eq!(taken(&seen), [0, 1, 2, 3]);
}

#[test]
fn a_publisher_that_waits_goes_on_when_the_subscription_is_dropped() {
    let bus = EventBus::new();
    let seen = log();
    let (gate, handler) = gated(&seen);
    let subscription = bus.subscribe(options("q").queued(1, Overflow::Block), handler).expect("a thread");
    let publisher = {
        let bus = bus.clone();
        std::thread::spawn(move || (0..4).for_each(|n| bus.publish(Number(n))))
    };
    assert_eq!(gate.begun.recv(), Ok(0));
    let dropper = std::thread::spawn(move || drop(subscription));
    publisher.join().expect("the close of the queue lets it go on");
    drop(gate);
    dropper.join().expect("no panic");
    assert!(taken(&seen).starts_with(&[0]));
}

#[test]
fn handlers_may_subscribe_and_unsubscribe_also_themselves() {
    let bus = EventBus::new();
    let seen = log();
    let slot: Arc<Mutex<Option<Subscription>>> = Arc::default();
    let (own, other, keep_log) = (Arc::clone(&slot), bus.clone(), Arc::clone(&seen));
    let added = Mutex::new(Vec::new());
    let handler = move |_: &Number| {
        let subscription = other.subscribe(options("added"), keep(&keep_log)).expect("synchronous");
        added.lock().expect("not poisoned").push(subscription);
        drop(own.lock().expect("not poisoned").take());
    };
    let subscription = bus.subscribe(options("once").priority(1), handler).expect("synchronous");
    *slot.lock().expect("not poisoned") = Some(subscription);
    bus.publish(Number(1));
    // The added one is owned by the handler, which went with its own subscription.
    bus.publish(Number(2));
    assert_eq!(taken(&seen), []);
    assert_eq!(bus.stats(), []);
}

#[test]
fn a_queued_handler_may_drop_its_own_subscription() {
    let bus = EventBus::new();
    let slot: Arc<Mutex<Option<Subscription>>> = Arc::default();
    let own = Arc::clone(&slot);
    let (tell, told) = channel();
    let handler = move |event: &Number| {
        let subscription = own.lock().expect("not poisoned").take();
        drop(subscription);
        let _ = tell.send(event.0);
    };
    let subscription = bus.subscribe(options("q").queued(4, Overflow::Block), handler).expect("a thread");
    *slot.lock().expect("not poisoned") = Some(subscription);
    bus.publish(Number(5));
    assert_eq!(told.recv(), Ok(5));
    assert!(told.recv().is_err(), "the thread has ended and dropped the handler");
    assert!(!bus.has_subscribers::<Number>());
}

#[test]
fn queues_are_bounded_at_the_limit_and_one_past_it() {
    let bus = EventBus::new();
    for capacity in [1, EVENT_QUEUE_LEN_MAX] {
        assert!(bus.subscribe(options("q").queued(capacity, Overflow::Block), |_| {}).is_ok());
    }
    for capacity in [0, EVENT_QUEUE_LEN_MAX + 1] {
        let result = bus.subscribe(options("q").queued(capacity, Overflow::Block), |_| {});
        assert!(matches!(result, Err(SubscribeError::Capacity { capacity: found }) if found == capacity));
    }
    assert_eq!(bus.stats(), []);
}

#[test]
fn many_threads_publish_and_subscribe_and_every_listener_sees_each_thread_in_order() {
    const THREADS: u32 = 4;
    const EVENTS: u32 = 5000;
    let bus = EventBus::new();
    let (direct, queued) = (log(), log());
    let one = bus.subscribe(options("direct"), keep(&direct)).expect("synchronous");
    let two = bus.subscribe(options("queued").queued(16, Overflow::Block), keep(&queued)).expect("a thread");
    let barrier = Arc::new(Barrier::new(THREADS as usize));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (bus, barrier) = (bus.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                for n in 0..EVENTS {
                    if n % 100 == 0 {
                        drop(bus.subscribe(options("comes and goes"), |_| {}).expect("synchronous"));
                    }
                    bus.publish(Number(thread * EVENTS + n));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    two.wait_idle();
    for (seen, subscription) in [(direct, one), (queued, two)] {
        let seen = taken(&seen);
        assert_eq!(seen.len() as u32, THREADS * EVENTS);
        for thread in 0..THREADS {
            let its = seen.iter().filter(|n| **n / EVENTS == thread);
            assert!(its.is_sorted(), "{}", subscription.stats().name);
        }
    }
}

#[test]
fn statistics_name_event_and_listener_and_add_up() {
    let bus = EventBus::new();
    let _word = bus.subscribe(SubscribeOptions::<Word>::new("words"), |_| {}).expect("synchronous");
    let _number = bus.subscribe(options("numbers"), |_| {}).expect("synchronous");
    bus.publish(Word("a"));
    let names: Vec<_> =
        bus.stats().into_iter().map(|stats| (stats.event, stats.name, stats.delivered)).collect();
    assert_eq!(names, [("Number", "numbers".to_owned(), 0), ("Word", "words".to_owned(), 1)]);
}
