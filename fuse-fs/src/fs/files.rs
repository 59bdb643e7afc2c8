//! Open files: data and locks.

use super::identity::{as_root, last_error};
use super::inodes::Inode;
use super::limits::{FILE_BYTES, OPEN_FILES};
use super::locks::{Conflict, LockRequest};
use super::names::{ONE_STEP, checked};
use super::ranges::LockKind;
use super::settings::may;
use super::{Attr, Caller, Fs, read_lock};
use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, PoisonError};

/// The kernel's FMODE_EXEC in `open` flags: the file is opened to be run.
const FOR_EXEC: i32 = 0x20;

/// One open file of the client.
#[derive(Debug)]
pub(crate) struct OpenFile<T> {
    pub(crate) fd: OwnedFd,
    pub(crate) inode: Arc<Inode<T>>,
    reads: bool,
    writes: bool,
}

/// A file just opened.
#[derive(Debug)]
pub struct Opened<T> {
    pub handle: u64,
    pub inode: Arc<Inode<T>>,
}

/// How to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteFlags {
    /// At the end of the file, wherever that is now.
    pub append: bool,
    /// O_DSYNC or O_SYNC.
    pub sync: bool,
    /// Act as the caller, so that the kernel clears setuid and setgid.
    pub clear_suid: bool,
}

impl<T: Default> Fs<T> {
    pub(super) fn file(&self, handle: u64) -> Result<Arc<OpenFile<T>>, Errno> {
        read_lock(&self.files, handle)
    }

    fn keep(&self, fd: OwnedFd, inode: Arc<Inode<T>>, flags: i32) -> Result<Opened<T>, Errno> {
        let access = flags & libc::O_ACCMODE;
        let file = OpenFile { fd, inode: inode.clone(), reads: access != libc::O_WRONLY, writes: access != libc::O_RDONLY };
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= OPEN_FILES {
            return Err(Errno::DQUOT);
        }
        let handle = self.new_handle();
        files.insert(handle, Arc::new(file));
        Ok(Opened { handle, inode })
    }

    /// `flags`: those of open(2).
    pub fn open(&self, caller: &Caller, node: u64, flags: i32) -> Result<Opened<T>, Errno> {
        let inode = self.inode(node)?;
        match inode.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO), // FIFOs and sockets live in the client's kernel
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            self.writable()?;
        }
        self.actor.act_as(caller)?;
        let fd = if flags & FOR_EXEC != 0 {
            // A program that may be run but not read is still read by the client that runs it.
            may(&inode.fd, Access::EXEC_OK)?;
            as_root(|| self.reopen(&inode, backing_flags(flags)))??
        } else {
            self.reopen(&inode, backing_flags(flags))?
        };
        self.keep(fd, inode, flags)
    }

    /// Opens `name`, makes it when it is missing (`mode` has the client's umask applied). Counts one lookup.
    pub fn create(&self, caller: &Caller, parent: u64, name: &OsStr, mode: u32, flags: i32) -> Result<(Attr, Opened<T>), Errno> {
        let name = checked(name)?;
        let parent = self.inode(parent)?;
        self.writable()?;
        self.actor.act_as(caller)?;
        let how = backing_flags(flags) | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | excl(flags);
        let fd = rustix::fs::openat2(&parent.fd, name, how, Mode::from_raw_mode(mode & 0o7777), ONE_STEP)?;
        let held = rustix::fs::openat(&self.descriptors, DecInt::new(fd.as_raw_fd()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let (inode, attr) = self.remember(&parent, held)?;
        if inode.kind != FileType::RegularFile {
            self.forget(inode.node, 1);
            return Err(Errno::NXIO); // somebody else's FIFO came in between
        }
        let node = inode.node;
        let opened = self.keep(fd, inode, flags).inspect_err(|_| self.forget(node, 1))?;
        Ok((attr, opened))
    }

    /// The descriptor behind a handle, for the kernel to read and write by itself.
    pub fn with_descriptor<R>(&self, handle: u64, work: impl FnOnce(&OwnedFd) -> R) -> Result<R, Errno> {
        Ok(work(&self.file(handle)?.fd))
    }

    /// Fills `buffer` as far as the file goes.
    pub fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let file = self.file(handle)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(&file.fd, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(e) if filled == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(filled)
    }

    pub fn write(&self, caller: &Caller, handle: u64, offset: u64, data: &[u8], flags: WriteFlags) -> Result<usize, Errno> {
        let file = self.file(handle)?;
        self.writable()?;
        let room = FILE_BYTES.saturating_sub(offset);
        if room == 0 && !data.is_empty() {
            return Err(Errno::FBIG);
        }
        let data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if flags.clear_suid {
            self.actor.act_as(caller)?;
        }
        write_all(&file.fd, offset, data, flags)
    }

    /// A descriptor of the file was closed: its process loses its POSIX locks on it.
    pub fn flush(&self, node: u64, owner: u64) {
        self.locks.release_owner(node, owner);
    }

    /// The last descriptor is gone.
    pub fn release(&self, handle: u64) -> Option<Opened<T>> {
        self.locks.release_handle(handle);
        let file = self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)?;
        Some(Opened { handle, inode: file.inode.clone() })
    }

    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let file = self.file(handle)?;
        if data_only { rustix::fs::fdatasync(&file.fd) } else { rustix::fs::fsync(&file.fd) }
    }

    /// The lock that would refuse this one.
    pub fn test_lock(&self, request: &LockRequest) -> Result<Option<Conflict>, Errno> {
        let file = self.file(request.handle)?;
        self.locks.test(request, || self.open_for_locks(&file))
    }

    /// Locks or unlocks; calls `done` at once, or with `wait` when the lock is held at last.
    pub fn set_lock(&self, request: LockRequest, wait: bool, done: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        let file = match self.file(request.handle) {
            Ok(file) => file,
            Err(e) => return done(Err(e)),
        };
        // As over NFS, flock too needs a file open for reading (shared) or writing (exclusive).
        let allowed = match request.kind {
            None => true,
            Some(LockKind::Shared) => file.reads,
            Some(LockKind::Exclusive) => file.writes,
        };
        if !allowed {
            return done(Err(Errno::BADF));
        }
        if wait {
            self.locks.clone().set_waiting(request, || self.open_for_locks(&file), Box::new(done));
        } else {
            done(self.locks.try_set(&request, || self.open_for_locks(&file)));
        }
    }

    /// The client may lock what it has open, whatever the mode says now; so root opens it.
    fn open_for_locks(&self, file: &OpenFile<T>) -> Result<OwnedFd, Errno> {
        as_root(|| {
            self.reopen(&file.inode, OFlags::RDWR).or_else(|e| match e {
                // A running program: readers may still lock it.
                Errno::TXTBSY if !file.writes => self.reopen(&file.inode, OFlags::RDONLY),
                e => Err(e),
            })
        })?
    }
}

fn excl(flags: i32) -> OFlags {
    if flags & libc::O_EXCL != 0 { OFlags::EXCL } else { OFlags::empty() }
}

/// What of the client's flags concerns the backing file. O_APPEND, O_SYNC come with each write; O_DIRECT would bring the
/// backing disk's alignment rules, which NFS does not have. Never wait for a FIFO.
fn backing_flags(flags: i32) -> OFlags {
    let kept = flags & (libc::O_ACCMODE | libc::O_TRUNC);
    OFlags::from_bits_retain(kept as u32) | OFlags::NONBLOCK
}

fn write_all(fd: &OwnedFd, offset: u64, data: &[u8], flags: WriteFlags) -> Result<usize, Errno> {
    let mut how = 0;
    if flags.append {
        how |= libc::RWF_APPEND;
    }
    if flags.sync {
        how |= libc::RWF_DSYNC;
    }
    let mut written = 0;
    while written < data.len() {
        let rest = &data[written..];
        let part = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
        let at = offset.saturating_add(written as u64).min(i64::MAX as u64) as libc::off_t;
        // SAFETY: the vector points to `rest`, which outlives the call and is only read.
        let n = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const part, 1, at, how) };
        match usize::try_from(n) {
            Ok(0) => break,
            Ok(n) => written += n,
            Err(_) => match last_error() {
                Errno::INTR => {}
                e if written == 0 => return Err(e),
                _ => break,
            },
        }
    }
    Ok(written)
}
