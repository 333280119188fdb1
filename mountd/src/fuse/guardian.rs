//! A process beside the mount's, for the one case in which the kernel does not end a mount whose process was killed.
//!
//! The kernel ends the connection when the process has closed it, which is after its last thread. A thread that makes the kernel
//! forget something waits in the kernel for a directory or a page that a program holds, and that program waits for an answer
//! that nobody gives any more. Only somebody else can end the connection then.
//!
//! ```text
//! watching ─ a signal: the mount's process dies ─► looking ─ it is gone ─────────────────► ends
//!                                                    └─ a thread of it stays ─► aborts ─► ends
//! ```
//!
//! Invariant: the guardian holds nothing of the mount: no descriptor of its device, none in its tree.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::point;
use crate::limits::{GUARDIAN_LOOK_MS, GUARDIAN_PATIENCE_MS};

/// The first argument of a guardian's process.
const FLAG: &str = "--guardian";
/// Sent by the kernel when the thread that started the guardian has ended.
const SIGNAL: libc::c_int = libc::SIGUSR1;

/// A guardian's process; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Guardian(Child);

impl Guardian {
    /// Starts `program`, which has to call [`guard`], for the mount at `mount_point`. To be called on the process's first thread.
    pub(super) fn start(program: &Path, mount_point: &Path) -> io::Result<Self> {
        let connection = point::look_at(mount_point)?.stx_dev_minor;
        let mut command = Command::new(program);
        command.arg0("dfs-mount").arg(FLAG).arg(std::process::id().to_string());
        command.arg(connection.to_string()).arg(mount_point).current_dir("/");
        // Its own process group: what a terminal sends to the mount is not for it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // A failure means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a guardian watches.
#[derive(Debug, PartialEq, Eq)]
struct Watch {
    process: u32,
    connection: u32,
    mount_point: PathBuf,
}

/// Does a guardian's work if `arguments`, those of a process without its name, ask for it; returns `false` otherwise. Ends when the
/// watched process has.
///
/// # Errors
/// When the signal cannot be waited for, or a connection cannot be ended.
pub fn guard(arguments: impl IntoIterator<Item = OsString>) -> io::Result<bool> {
    let Some(watch) = parse(arguments) else { return Ok(false) };
    let signals = prepare()?;
    // SAFETY: no preconditions.
    if u32::try_from(unsafe { libc::getppid() }) != Ok(watch.process) {
        // It died before the signal was asked for.
        return look(&watch).map(|_| true);
    }
    loop {
        let mut signal = 0;
        // SAFETY: the set was filled and `signal` is valid for writes.
        if unsafe { libc::sigwait(&raw const signals, &raw mut signal) } == 0 && look(&watch)? {
            return Ok(true);
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Watch> {
    let mut arguments = arguments.into_iter();
    let is_guardian = arguments.next()? == FLAG;
    let mut number = || arguments.next()?.to_str()?.parse().ok();
    let (process, connection) = (number()?, number()?);
    let mount_point = arguments.next()?.into();
    is_guardian.then_some(Watch { process, connection, mount_point })
}

/// Lets go of everything that came along, asks for the signal and keeps all others away.
fn prepare() -> io::Result<libc::sigset_t> {
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the sets are valid for writes and filled before they are read; the process has one thread and has opened nothing yet
    // that it uses later.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
        libc::sigfillset(all.as_mut_ptr());
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), SIGNAL);
        if libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) != 0
            || libc::prctl(libc::PR_SET_PDEATHSIG, SIGNAL) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(signals.assume_init())
    }
}

/// Looks what became of a process that may be dying, and ends its connection if the kernel holds it. Returns whether it is over.
fn look(watch: &Watch) -> io::Result<bool> {
    let deadline = Instant::now() + Duration::from_millis(GUARDIAN_PATIENCE_MS);
    loop {
        let state = state_of(watch.process);
        match state {
            State::Gone => return Ok(true),
            State::Dying if Instant::now() > deadline => return abort(watch).map(|()| true),
            // Some other thread than the first one has ended.
            State::Alive if Instant::now() > deadline => return Ok(false),
            State::Dying | State::Alive => std::thread::sleep(Duration::from_millis(GUARDIAN_LOOK_MS)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// The first thread has ended, others have not.
    Dying,
    Gone,
}

fn state_of(process: u32) -> State {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return State::Gone };
    let (mut first, mut others) = (false, false);
    for task in tasks.flatten() {
        let is_alive = std::fs::read(task.path().join("stat")).is_ok_and(|stat| is_alive(&stat));
        if task.file_name().to_str() == Some(process.to_string().as_str()) {
            first = is_alive;
        } else {
            others |= is_alive;
        }
    }
    match (first, others) {
        (true, _) => State::Alive,
        (false, true) => State::Dying,
        (false, false) => State::Gone,
    }
}

/// Reads the state in a task's `stat`: the letter after its name, which is in parentheses and may hold anything.
fn is_alive(stat: &[u8]) -> bool {
    let end = stat.iter().rposition(|byte| *byte == b')');
    let state = end.and_then(|end| stat.get(end + 2));
    state.is_some_and(|state| !matches!(state, b'Z' | b'X' | b'x'))
}

/// Ends the connection. Whoever owns the mount may, where the kernel shows its connections; root may everywhere.
fn abort(watch: &Watch) -> io::Result<()> {
    let path = format!("/sys/fs/fuse/connections/{}/abort", watch.connection);
    if std::fs::write(path, "1").is_ok() {
        return Ok(());
    }
    // As long as somebody has it open the kernel ends the connection and leaves the mount where it is: dead, not gone, so that no
    // program writes into the directory below.
    let point = open_path(&watch.mount_point)?;
    if point::look_at(&PathBuf::from(format!("/proc/self/fd/{}", point.as_raw_fd())))?.stx_dev_minor
        != watch.connection
    {
        return Ok(());
    }
    match point::force(&watch.mount_point) {
        Err(error) if error.raw_os_error() != Some(libc::EBUSY) => Err(error),
        _ => Ok(()),
    }
}

/// Opens a directory without asking its file system.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = point::c_path(path)?;
    // SAFETY: the path ends with NUL.
    let descriptor = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn only_its_own_arguments_make_a_guardian() {
        let watch = Watch { process: 12, connection: 51, mount_point: "/mnt/a b".into() };
        assert_eq!(parse(arguments(&["--guardian", "12", "51", "/mnt/a b"])), Some(watch));
        assert_eq!(parse(arguments(&["--guardian", "12", "x", "/mnt"])), None);
        assert_eq!(parse(arguments(&["/mnt/--guardian", "12", "51", "/mnt"])), None);
        assert_eq!(parse(arguments(&[])), None);
    }

    #[test]
    fn a_tasks_state_is_read_behind_a_name_that_holds_anything() {
        assert!(is_alive(b"1 (dfs-mount) S 0 1"));
        assert!(is_alive(b"1 (a) Z (b) D 0 1"));
        assert!(!is_alive(b"1 (a) S) Z 0 1"));
        assert!(!is_alive(b""));
    }

    #[test]
    fn a_process_is_alive_until_it_has_ended_also_unreaped() {
        assert_eq!(state_of(std::process::id()), State::Alive);
        let mut child = Command::new("true").spawn().expect("a program");
        let deadline = Instant::now() + Duration::from_secs(10);
        while state_of(child.id()) != State::Gone {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().expect("its end");
    }
}
