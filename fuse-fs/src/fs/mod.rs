//! File system semantics: operations on a directory tree through descriptors.
//!
//! Every operation names one entry (never a path) below a descriptor that is held, and opens without following symbolic
//! links: nothing can leave the tree. Symbolic links are data that the client resolves. The operations block and may run
//! in any number of threads; a thread that ran one keeps the credentials it acted under ([`identity`]), so give the file
//! system threads of its own.

pub mod attr;
mod dir;
mod files;
pub mod identity;
mod inodes;
pub mod limits;
pub mod locks;
mod names;
pub mod ranges;
mod root;
mod settings;
#[cfg(test)]
mod tests;

pub use attr::{Attr, Timestamp};
pub use dir::{DirEntry, EntryVisitor};
pub use files::{Opened, WriteFlags};
pub use identity::{Caller, Identity};
pub use inodes::{Inode, ROOT};
pub use root::{CreationInfo, Root, RootError};
pub use settings::{SetTime, Settings};

use identity::Actor;
use inodes::Inodes;
use locks::Locks;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What differs between mounts of one directory.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Replaces the caller in every operation.
    pub identity: Option<Identity>,
    /// Changes answer EROFS.
    pub read_only: bool,
    /// Metered size in bytes, which `df` shows as used.
    pub used: u64,
}

/// The file system as one mount sees it. `T`: what the server keeps with an open inode.
#[derive(Debug)]
pub struct Fs<T = ()> {
    inodes: Inodes<T>,
    device: (u32, u32),
    files: RwLock<HashMap<u64, Arc<files::OpenFile<T>>>>,
    directories: RwLock<HashMap<u64, Arc<dir::OpenDirectory>>>,
    next_handle: AtomicU64,
    locks: Arc<Locks>,
    actor: Actor,
    read_only: bool,
    used: u64,
    /// `/proc/self/fd`: the way from an O_PATH descriptor to an open file.
    descriptors: OwnedFd,
}

impl<T: Default> Fs<T> {
    /// The file system below `root`.
    pub fn new(root: Root, options: Options) -> Result<Fs<T>, Errno> {
        let stat = attr::statx(&root.fd)?;
        if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let descriptors = rustix::fs::open(c"/proc/self/fd", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Fs {
            inodes: Inodes::new(Inode::new(root.fd, ROOT, FileType::Directory, root.depth)),
            device: attr::device(&stat),
            files: RwLock::default(),
            directories: RwLock::default(),
            next_handle: AtomicU64::new(1),
            locks: Arc::default(),
            actor: Actor::new(options.identity.as_ref()),
            read_only: options.read_only,
            used: options.used,
            descriptors,
        })
    }

    /// The file behind a node id; ESTALE when the kernel should not know it.
    pub fn inode(&self, node: u64) -> Result<Arc<Inode<T>>, Errno> {
        self.inodes.get(node).ok_or(Errno::STALE)
    }

    /// The kernel forgets answers to lookups.
    pub fn forget(&self, node: u64, lookups: u64) {
        self.inodes.forget(node, lookups);
    }

    /// Files the kernel knows besides the root.
    pub fn known(&self) -> usize {
        self.inodes.len()
    }

    /// The mount is gone: waiting lock requests end.
    pub fn close(&self) {
        self.locks.close();
    }

    /// `(blocks, free blocks)` of [`limits::STATFS_BLOCK`] bytes: EFS always has room.
    pub fn statfs(&self) -> (u64, u64) {
        let used = self.used.div_ceil(u64::from(limits::STATFS_BLOCK));
        (limits::STATFS_BLOCKS, limits::STATFS_BLOCKS.saturating_sub(used))
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    fn new_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens the file behind an inode anew, under the thread's credentials.
    fn reopen(&self, inode: &Inode<T>, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.descriptors, DecInt::new(inode.fd.as_raw_fd()), flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn attr_of(&self, inode: &Inode<T>) -> Result<Attr, Errno> {
        let stat = attr::statx(&inode.fd)?;
        // NFS: a directory that somebody else removed, also an access point's root.
        if inode.kind == FileType::Directory && stat.stx_nlink == 0 {
            return Err(Errno::STALE);
        }
        Ok(Attr::new(inode.node, &stat))
    }

    /// Attributes; nobody needs a permission on the file for them.
    pub fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        self.attr_of(&*self.inode(node)?)
    }
}

fn read_lock<V>(map: &RwLock<HashMap<u64, Arc<V>>>, handle: u64) -> Result<Arc<V>, Errno> {
    map.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned().ok_or(Errno::BADF)
}
