//! Going on in the background: the parent waits for the child's word and ends with its result.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

/// The child's side: tells the waiting parent how it went.
#[derive(Debug)]
pub struct Parent {
    pipe: File,
}

/// Forks. Returns in the child only; the parent waits, prints what the child says, and exits with its code.
/// Must be called before the process has a second thread.
///
/// # Errors
/// When the system gives no pipe or process.
pub fn detach() -> io::Result<Parent> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptors were just made and are owned by nobody else.
    let (mut read, write) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    // SAFETY: the process has one thread, so the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            // SAFETY: no preconditions.
            unsafe { libc::setsid() };
            Ok(Parent { pipe: write })
        }
        child => {
            drop(write);
            let mut code = [0];
            let code = match read.read_exact(&mut code) {
                Ok(()) => i32::from(code[0]),
                Err(_) => exit_code_of(child),
            };
            std::process::exit(code);
        }
    }
}

/// The child ended without a word: waits for it and takes its exit code.
fn exit_code_of(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) } == child;
    if ended && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) != 0 {
        libc::WEXITSTATUS(status)
    } else {
        1
    }
}

impl Parent {
    /// Tells the parent that all is well, and gives up its terminal: from now on messages go to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn ready(mut self, log: &Path) -> io::Result<()> {
        let log = OpenOptions::new().append(true).create(true).open(log)?;
        let null = File::open("/dev/null")?;
        let _ = self.pipe.write_all(&[0]);
        for (from, to) in [(&null, 0), (&log, 1), (&log, 2)] {
            // SAFETY: both descriptors are valid; the standard ones are not owned by any Rust object.
            if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}
