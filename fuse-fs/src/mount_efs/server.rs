//! The helpers' half of a mount: what is asked of the node's EFS server, and its mount put in place.

use super::mountinfo;
use crate::protocol::{self, Answer, Refusal, RefusalKind, Request};
use crate::server::is_type;
use rustix::mount::{MoveMountFlags, UnmountFlags};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The detached mount and its minor device number, or why there is none.
pub type Asked = Result<(OwnedFd, u32), Refusal>;

/// Asks the server of this node; an error is a server that does not answer.
pub fn ask(socket: &Path, request: Request) -> Result<Asked, String> {
    let no_server = |error: std::io::Error| {
        format!(
            "no EFS server answers on {}: {error}. Start it with `ebbtide up` (each node runs one), or set EBBTIDE_EFS_SOCKET.",
            socket.display()
        )
    };
    let stream = UnixStream::connect(socket).map_err(no_server)?;
    protocol::send(&stream, &request, None).map_err(no_server)?;
    match protocol::receive::<Answer>(&stream).map_err(no_server)? {
        (Answer::Mounted { minor }, Some(mount)) => {
            // The server has closed its own descriptor of the mount when it hangs up; until then the mount is busy.
            let _ = std::io::Read::read(&mut &stream, &mut [0]);
            Ok(Ok((mount, minor)))
        }
        (Answer::Mounted { .. }, None) => Err(no_server(std::io::Error::other("the answer has no mount"))),
        (Answer::Refused(refusal), _) => Ok(Err(refusal)),
    }
}

/// Why a mount is not at its target.
#[derive(Debug, PartialEq, Eq)]
pub enum NotAttached {
    /// What is wrong with the mount point.
    MountPoint(&'static str),
    /// There is one already.
    Mounted,
    Failed(String),
}

/// Moves the mount to its target, unless there is one already.
pub fn attach(mount: &OwnedFd, target: &Path) -> Result<(), NotAttached> {
    let problem = match std::fs::metadata(target) {
        Err(_) => Some("does not exist"),
        Ok(metadata) if !metadata.is_dir() => Some("is not a directory"),
        Ok(_) => None,
    };
    if let Some(problem) = problem {
        return Err(NotAttached::MountPoint(problem));
    }
    let failed = |what: &str, error: &dyn std::fmt::Display| NotAttached::Failed(format!("cannot {what} {}: {error}", target.display()));
    // Two helpers that waited for the same server get their mounts at the same time; one of them is enough.
    let lock = std::fs::File::open(target).and_then(|directory| directory.lock().map(|()| directory));
    if is_mounted(target) {
        return Err(NotAttached::Mounted);
    }
    let _lock = lock.map_err(|error| failed("lock", &error))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(mount, c"", rustix::fs::CWD, target, flags).map_err(|error| failed("attach the mount at", &error))
}

/// Has the directory one of our mounts on top? (The real helper's own check never sees FUSE.) One whose server died is
/// taken away: NFS would have come back to life, FUSE only answers ENOTCONN for ever.
pub fn is_mounted(target: &Path) -> bool {
    let resolved = target.canonicalize().unwrap_or_else(|_| target.into());
    loop {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mountinfo::parse(&table).filter(|m| m.target == resolved).last().is_none_or(|m| !is_type(&m.fs_type)) {
            return false;
        }
        let dead = std::fs::metadata(&resolved).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN));
        if !dead || rustix::mount::unmount(&resolved, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            return true;
        }
    }
}

/// The text of mount.nfs4 for what the server refused.
pub fn refusal_text(kind: RefusalKind, source: &str) -> String {
    match kind {
        RefusalKind::NoSuchPath => {
            format!("mount.nfs4: mounting {source} failed, reason given by server: No such file or directory")
        }
        _ => format!("mount.nfs4: access denied by server while mounting {source}"),
    }
}
