//! Reading directories. Offsets are the backing file system's own cookies: stable while entries come and go.

use super::attr::Attr;
use super::names::ONE_STEP;
use super::{Caller, Fs, Inode, read_lock};
use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

/// A directory somebody reads. The position belongs to the descriptor, so one reader at a time.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    fd: Mutex<(OwnedFd, u64)>,
}

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    pub name: &'a OsStr,
    pub ino: u64,
    pub kind: FileType,
    /// Where the next entry is.
    pub next: u64,
}

/// Takes an entry; answers true when it had no room for it.
pub type EntryVisitor<'v> = dyn FnMut(DirEntry<'_>, Option<Attr>) -> bool + 'v;

const BUFFER: usize = 32 * 1024;

impl<T: Default> Fs<T> {
    /// Needs read permission.
    pub fn opendir(&self, caller: &Caller, node: u64) -> Result<u64, Errno> {
        let inode = self.inode(node)?;
        self.actor.act_as(caller)?;
        let fd = self.reopen(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let handle = self.new_handle();
        let directory = Arc::new(OpenDirectory { fd: Mutex::new((fd, 0)) });
        self.directories.write().unwrap_or_else(PoisonError::into_inner).insert(handle, directory);
        Ok(handle)
    }

    pub fn releasedir(&self, handle: u64) {
        self.directories.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
    }

    pub fn fsyncdir(&self, handle: u64) -> Result<(), Errno> {
        let directory = read_lock(&self.directories, handle)?;
        let held = directory.fd.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::fs::fsync(&held.0)
    }

    /// Entries from `offset` on, until there are no more or the visitor is full. With `plus`, each entry is also looked up
    /// and counted as such (`.` and `..` are not, and an entry that is gone or may not be searched comes without).
    pub fn readdir(
        &self,
        caller: &Caller,
        node: u64,
        handle: u64,
        offset: u64,
        plus: bool,
        add: &mut EntryVisitor<'_>,
    ) -> Result<(), Errno> {
        let parent = self.inode(node)?;
        let directory = read_lock(&self.directories, handle)?;
        if plus {
            self.actor.act_as(caller)?;
        }
        let mut held = directory.fd.lock().unwrap_or_else(PoisonError::into_inner);
        if held.1 != offset || offset == 0 {
            rustix::fs::seek(&held.0, SeekFrom::Start(offset))?;
            held.1 = offset;
        }
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut last = offset;
        let mut stopped = false;
        let mut entries = RawDir::new(&held.0, &mut buffer);
        while !stopped {
            let Some(entry) = entries.next() else { break };
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // The root's `..` would show a number from outside.
            let ino = if name == ".." && parent.node == super::ROOT { self.getattr(node)?.ino } else { entry.ino() };
            let entry = DirEntry { name, ino, kind: entry.file_type(), next: entry.next_entry_cookie() };
            let attr = if plus && name != "." && name != ".." { self.look_up_entry(&parent, name) } else { None };
            stopped = add(entry, attr);
            if stopped {
                attr.inspect(|a| self.forget(a.node, 1));
            } else {
                last = entry.next;
            }
        }
        // Where the descriptor stands is only known when all that was read was used.
        held.1 = if stopped { u64::MAX } else { last };
        Ok(())
    }

    fn look_up_entry(&self, parent: &Inode<T>, name: &OsStr) -> Option<Attr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&parent.fd, name, flags, Mode::empty(), ONE_STEP).ok()?;
        self.remember(parent, fd).ok().map(|(_, attr)| attr)
    }
}
