//! `dfs umount`: asks a mount to end, or ends it where its process does not answer.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use dfs_mountd::control::client::{self, ClientError, Found};
use dfs_mountd::limits::FORCE_AFTER_MS;

use super::{FAILED, Failure, print};

pub(crate) fn run(path: &Path, flush: bool, force: bool) -> Result<(), Failure> {
    let found = client::find(Some(path))?;
    let asked = if force { ask_for_a_while(&found) } else { Some(client::unmount(&found, flush)) };
    match asked {
        Some(Ok(())) => {}
        None | Some(Err(ClientError::Dead { .. })) => end(&found)?,
        Some(Err(_)) if force => end(&found)?,
        Some(Err(error)) => return Err(error.into()),
    }
    print(&format!("unmounted {}", found.point.display()))
}

/// Asks on another thread: a process that does not answer would be waited for without an end. `None`: it does not answer.
fn ask_for_a_while(found: &Found) -> Option<Result<(), ClientError>> {
    let (sender, answer) = channel();
    let asked = Found { point: found.point.clone(), relative: Vec::new() };
    std::thread::spawn(move || sender.send(client::unmount(&asked, false)));
    answer.recv_timeout(Duration::from_millis(FORCE_AFTER_MS)).ok()
}

/// Takes a mount away whose process does not do it itself. Programs that wait for that process get an error.
fn end(found: &Found) -> Result<(), Failure> {
    abort(&found.point);
    let name = CString::new(found.point.as_os_str().as_bytes())
        .map_err(|_| Failure::Other(FAILED, "a path with a NUL".to_owned()))?;
    // SAFETY: the path ends with NUL.
    if unsafe { libc::umount2(name.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) } == 0 {
        return Ok(());
    }
    // An ordinary user has to ask the set-user-id helper.
    let status = std::process::Command::new("fusermount3").arg("-uz").arg("--").arg(&found.point).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            Err(Failure::Other(FAILED, format!("fusermount3 could not unmount {}", found.point.display())))
        }
        Err(error) => Err(Failure::Other(FAILED, format!("cannot run fusermount3: {error}"))),
    }
}

/// Ends the kernel's connection with the mount's process: whoever owns the mount may, where the kernel shows its connections.
fn abort(point: &Path) {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    if let Some(number) = connection(&mounts, point)
        && let Err(error) = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        let _ = print(&format!("connection {number} cannot be ended: {error}"));
    }
}

/// Finds the number of the connection behind a mount point in the text of `mountinfo`: the minor number of its device.
fn connection(mountinfo: &[u8], point: &Path) -> Option<String> {
    let lines = mountinfo.split(|byte| *byte == b'\n').rev();
    let mut fields = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        Some((fields.next()?, fields.nth(1)?))
    });
    let (device, _) = fields.find(|(_, at)| client::unescape(at) == point.as_os_str().as_bytes())?;
    let (_, minor) = std::str::from_utf8(device).ok()?.split_once(':')?;
    Some(minor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_leads_to_its_connection() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
            61 22 0:51 / /mnt/other rw,relatime shared:1 - fuse.dfs dfs rw\n\
            60 22 0:50 / /mnt/a\\040b rw,relatime shared:1 - fuse.dfs dfs rw\n";
        assert_eq!(connection(text, Path::new("/mnt/a b")).as_deref(), Some("50"));
        assert_eq!(connection(text, Path::new("/mnt/other")).as_deref(), Some("51"));
        assert_eq!(connection(text, Path::new("/mnt/none")), None);
    }
}
