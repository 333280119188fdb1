//! Runs blocking work for asynchronous handlers, with or without a tokio runtime around them.
//!
//! Under every engine work goes to tokio's blocking pool, so that no connection waits for another's disk; without a
//! runtime, as in `main` and in tests, the caller's thread does it.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;

/// Starts `work` at once and returns its value later.
///
/// # Panics
/// The future panics if `work` does.
pub fn offload<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    let started = match Handle::try_current() {
        Ok(runtime) => Started::Pool(runtime.spawn_blocking(work)),
        Err(_) => Started::Done(work()),
    };
    async move {
        match started {
            Started::Pool(task) => match task.await {
                Ok(value) => value,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(error) => unreachable!("blocking work is never cancelled: {error}"),
                },
            },
            Started::Done(value) => value,
        }
    }
}

/// Runs `work` beside the caller, for as long as it takes.
pub fn beside(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => drop(std::thread::spawn(work)),
    }
}

/// Runs a future beside the caller: as a task under the asynchronous engine, otherwise on a thread of its own.
pub fn detach(work: impl Future<Output = ()> + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(work)),
        Err(_) => drop(std::thread::spawn(move || block_on(work))),
    }
}

enum Started<T> {
    Pool(tokio::task::JoinHandle<T>),
    Done(T),
}

/// Runs a future on this thread, which sleeps while it waits. Needs no runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}
