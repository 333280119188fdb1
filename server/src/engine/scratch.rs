//! One block of memory per thread to read into: a connection that waits holds none.

use std::cell::RefCell;

use crate::limits;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::HTTP_READ_LEN]);
}

/// Lends the thread's block for one read; may not be nested.
pub(super) fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}
