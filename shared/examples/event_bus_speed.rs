//! Measures the event bus: `cargo run --release -p dfs-shared --example event_bus_speed`.
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dfs_shared::event::kinds::mount::FileModified;
use dfs_shared::event::{EventBus, Overflow, SubscribeOptions};
use dfs_shared::ids::NodeId;

const EVENTS: u64 = 20_000_000;

fn main() {
    let event = FileModified { node: NodeId::ROOT };
    let bus = EventBus::new();
    measure("no listener", EVENTS, || publish(&bus, event, EVENTS));

    let sum = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sum);
    let count = move |_: &FileModified| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let one = bus.subscribe(SubscribeOptions::new("one"), count.clone()).expect("synchronous");
    measure("one synchronous listener", EVENTS, || publish(&bus, event, EVENTS));
    assert_eq!(sum.load(Ordering::Relaxed), EVENTS);

    measure("one synchronous listener, two threads", EVENTS, || {
        std::thread::scope(|scope| {
            scope.spawn(|| publish(&bus, event, EVENTS / 2));
            publish(&bus, event, EVENTS / 2);
        });
    });
    let filtered =
        SubscribeOptions::new("filtered").filter(|event: &FileModified| event.node != NodeId::ROOT);
    let filtered = bus.subscribe(filtered, count.clone()).expect("synchronous");
    let second = bus.subscribe(SubscribeOptions::new("two"), count.clone()).expect("synchronous");
    measure("two synchronous listeners and one that filters all", EVENTS, || publish(&bus, event, EVENTS));
    drop((one, filtered, second));

    let queued = SubscribeOptions::new("queued").queued(4096, Overflow::Block);
    let queued = bus.subscribe(queued, count).expect("a thread");
    measure("one queued listener", EVENTS / 4, || {
        publish(&bus, event, EVENTS / 4);
        queued.wait_idle();
    });
    assert_eq!(queued.stats().delivered, EVENTS / 4);
}

fn publish(bus: &EventBus, event: FileModified, count: u64) {
    for _ in 0..count {
        bus.publish(black_box(event));
    }
}

fn measure(what: &str, events: u64, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let seconds = start.elapsed().as_secs_f64();
    let (millions, nanos) = (events as f64 / seconds / 1e6, seconds / events as f64 * 1e9);
    println!("{what:52} {millions:8.1} million events/s {nanos:8.1} ns each");
}
