//! What threads do with tasks, without any socket.

use std::future::poll_fn;
use std::sync::mpsc;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn start(threads: usize, patience: Patience) -> (tokio::runtime::Runtime, Executor) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let executor = Executor::start("test", threads, patience, runtime.handle()).unwrap();
    (runtime, executor)
}

/// A task that says `name` when it is first polled, gives its waker away, and says `name` again when it is woken.
async fn twice(name: &'static str, said: mpsc::Sender<&'static str>, wakers: mpsc::Sender<Waker>) {
    let mut polled = false;
    poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        wakers.send(context.waker().clone()).unwrap();
        said.send(name).unwrap();
        Poll::Pending
    })
    .await;
    said.send(name).unwrap();
}

/// Runs a busy task `a` that waits, then `b`; returns what was said by then, and lets `a` end.
fn order(patience: Patience, wake_first: bool) -> Vec<&'static str> {
    let (_runtime, executor) = start(1, patience);
    let ((said, hears), (wakers, waker)) = (mpsc::channel(), mpsc::channel());
    let busy = Busy::new(AtomicBool::new(true));
    executor.spawner().spawn(twice("a", said.clone(), wakers), busy);
    let waker = waker.recv_timeout(SOON).unwrap();
    let b = async move { said.send("b").unwrap() };
    executor.spawner().spawn(b, Busy::default());
    if wake_first {
        waker.wake();
        return (0..3).map(|_| hears.recv_timeout(SOON).unwrap()).collect();
    }
    let heard = (0..2).map(|_| hears.recv_timeout(SOON).unwrap()).collect();
    waker.wake();
    assert_eq!(hears.recv_timeout(SOON).unwrap(), "a");
    heard
}

#[test]
fn with_patience_a_request_is_answered_before_the_next_one_begins() {
    assert_eq!(order(Patience::Stay(SOON), true), ["a", "a", "b"]);
}

#[test]
fn a_request_that_uses_up_the_patience_is_set_aside_and_ends_later() {
    assert_eq!(order(Patience::Stay(Duration::from_millis(5)), false), ["a", "b"]);
}

#[test]
fn without_patience_a_task_that_waits_holds_no_thread() {
    assert_eq!(order(Patience::None, false), ["a", "b"]);
}

#[test]
fn a_task_that_panics_takes_no_thread_with_it() {
    let (_runtime, executor) = start(1, Patience::None);
    let (said, hears) = mpsc::channel();
    executor.spawner().spawn(async { panic!("as asked") }, Busy::default());
    executor.spawner().spawn(async move { said.send("served").unwrap() }, Busy::default());
    assert_eq!(hears.recv_timeout(SOON).unwrap(), "served");
}

#[test]
fn closing_drops_the_tasks_that_wait() {
    let (_runtime, mut executor) = start(2, Patience::None);
    let ((said, hears), (wakers, waker)) = (mpsc::channel(), mpsc::channel());
    executor.spawner().spawn(twice("a", said, wakers), Busy::default());
    let waker = waker.recv_timeout(SOON).unwrap();
    assert_eq!(hears.recv_timeout(SOON).unwrap(), "a");
    executor.close();
    assert_eq!(hears.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
    waker.wake();
}
