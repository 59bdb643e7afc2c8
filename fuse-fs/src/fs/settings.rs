//! Changing attributes, and asking whether one may.

use super::attr::{Attr, Timestamp};
use super::identity::last_error;
use super::limits::FILE_BYTES;
use super::{Caller, Fs};
use rustix::fs::{Access, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::os::fd::{AsRawFd, OwnedFd};

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Who may write may do this.
    Now,
    /// Only the owner.
    At(Timestamp),
}

/// What `setattr` changes; `None` leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Permission bits.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

impl<T: Default> Fs<T> {
    /// `handle`: the open file, when the client changes the size through one.
    pub fn setattr(&self, caller: &Caller, node: u64, settings: &Settings, handle: Option<u64>) -> Result<Attr, Errno> {
        let inode = self.inode(node)?;
        self.writable()?;
        self.actor.act_as(caller)?;
        if let Some(size) = settings.size {
            if size > FILE_BYTES {
                return Err(Errno::FBIG);
            }
            match handle.and_then(|h| self.file(h).ok()).filter(|f| f.inode.node == node) {
                Some(file) => rustix::fs::ftruncate(&file.fd, size)?,
                None if inode.kind == FileType::Directory => return Err(Errno::ISDIR),
                None => rustix::fs::ftruncate(self.reopen(&inode, OFlags::WRONLY | OFlags::NONBLOCK)?, size)?,
            }
        }
        if settings.uid.is_some() || settings.gid.is_some() {
            let (uid, gid) = (settings.uid.map(Uid::from_raw), settings.gid.map(Gid::from_raw));
            rustix::fs::chownat(&inode.fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = settings.mode {
            let mut mode = Mode::from_raw_mode(mode & 0o7777);
            if inode.kind == FileType::Directory {
                mode -= Mode::SUID; // EFS has no setuid on directories
            }
            rustix::fs::chmodat(&self.descriptors, DecInt::new(inode.fd.as_raw_fd()), mode, AtFlags::empty())?;
        }
        if settings.atime.is_some() || settings.mtime.is_some() {
            let times = Timestamps { last_access: timespec(settings.atime), last_modification: timespec(settings.mtime) };
            rustix::fs::utimensat(&inode.fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attr_of(&inode)
    }

    /// `mask`: R_OK, W_OK, X_OK.
    pub fn access(&self, caller: &Caller, node: u64, mask: u32) -> Result<(), Errno> {
        let inode = self.inode(node)?;
        let mut wanted = Access::empty();
        for (bit, access) in [(libc::R_OK, Access::READ_OK), (libc::W_OK, Access::WRITE_OK), (libc::X_OK, Access::EXEC_OK)] {
            if mask & bit as u32 != 0 {
                wanted |= access;
            }
        }
        if wanted.contains(Access::WRITE_OK) && matches!(inode.kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
            self.writable()?;
        }
        self.actor.act_as(caller)?;
        may(&inode.fd, wanted)
    }
}

/// Asks for the file system credentials of this thread, not for its real user. (rustix's `accessat` takes no empty path.)
pub(super) fn may(fd: &OwnedFd, wanted: Access) -> Result<(), Errno> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    match unsafe { libc::syscall(libc::SYS_faccessat2, fd.as_raw_fd(), c"".as_ptr(), wanted.bits(), flags) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, rustix::fs::UTIME_OMIT),
        Some(SetTime::Now) => (0, rustix::fs::UTIME_NOW),
        Some(SetTime::At(t)) => (t.sec, t.nsec.into()),
    };
    Timespec { tv_sec, tv_nsec }
}
