//! Operations on names: lookup, create, remove, rename.

use super::attr::{self, Attr};
use super::inodes::{Inode, ROOT};
use super::limits::{DEPTH, HARD_LINKS, NAME_BYTES, SYMLINK_BYTES};
use super::{Caller, Fs};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::DecInt;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// One step below a directory: no links followed, no mount crossed, no way up.
pub(super) const ONE_STEP: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// A name of one entry.
pub(super) fn checked(name: &OsStr) -> Result<&OsStr, Errno> {
    let bytes = name.as_bytes();
    match bytes {
        b"" | b"." | b".." => Err(Errno::INVAL),
        _ if bytes.len() > NAME_BYTES => Err(Errno::NAMETOOLONG),
        _ if bytes.contains(&b'/') || bytes.contains(&0) => Err(Errno::INVAL),
        _ => Ok(name),
    }
}

impl<T: Default> Fs<T> {
    /// Finds `name`; needs search permission on the parent.
    pub fn lookup(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<Attr, Errno> {
        let name = checked(name)?;
        let parent = self.inode(parent)?;
        self.actor.act_as(caller)?;
        self.find(&parent, name).map(|(_, attr)| attr)
    }

    /// Opens `name` and counts one lookup.
    fn find(&self, parent: &Inode<T>, name: &OsStr) -> Result<(Arc<Inode<T>>, Attr), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.remember(parent, rustix::fs::openat2(&parent.fd, name, flags, Mode::empty(), ONE_STEP)?)
    }

    pub(super) fn remember(&self, parent: &Inode<T>, fd: OwnedFd) -> Result<(Arc<Inode<T>>, Attr), Errno> {
        let stat = attr::statx(&fd)?;
        if attr::device(&stat) != self.device || stat.stx_ino == ROOT {
            return Err(Errno::XDEV);
        }
        let attr = Attr::new(stat.stx_ino, &stat);
        let inode = self.inodes.remember(Inode::new(fd, stat.stx_ino, attr.kind, parent.depth() + 1));
        Ok((inode, attr))
    }

    fn for_change<'n>(&self, caller: &Caller, parent: u64, name: &'n OsStr) -> Result<(Arc<Inode<T>>, &'n OsStr), Errno> {
        let name = checked(name)?;
        let parent = self.inode(parent)?;
        self.writable()?;
        self.actor.act_as(caller)?;
        Ok((parent, name))
    }

    pub fn mkdir(&self, caller: &Caller, parent: u64, name: &OsStr, mode: u32) -> Result<Attr, Errno> {
        let (parent, name) = self.for_change(caller, parent, name)?;
        if parent.depth() + 1 > DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(mode & 0o1777))?;
        self.find(&parent, name).map(|(_, attr)| attr)
    }

    /// Regular files, FIFOs and sockets; there are no device nodes on EFS.
    pub fn mknod(&self, caller: &Caller, parent: u64, name: &OsStr, mode: u32) -> Result<Attr, Errno> {
        let (parent, name) = self.for_change(caller, parent, name)?;
        let kind = match FileType::from_raw_mode(mode) {
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            _ if mode & libc::S_IFMT == 0 => FileType::RegularFile,
            _ => return Err(Errno::PERM),
        };
        rustix::fs::mknodat(&parent.fd, name, kind, Mode::from_raw_mode(mode & 0o7777), 0)?;
        self.find(&parent, name).map(|(_, attr)| attr)
    }

    pub fn symlink(&self, caller: &Caller, parent: u64, name: &OsStr, target: &OsStr) -> Result<Attr, Errno> {
        let (parent, name) = self.for_change(caller, parent, name)?;
        if target.len() > SYMLINK_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        rustix::fs::symlinkat(target, &parent.fd, name)?;
        self.find(&parent, name).map(|(_, attr)| attr)
    }

    pub fn readlink(&self, node: u64) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(node)?;
        Ok(rustix::fs::readlinkat(&inode.fd, c"", Vec::new())?.into_bytes())
    }

    pub fn link(&self, caller: &Caller, node: u64, parent: u64, name: &OsStr) -> Result<Attr, Errno> {
        let inode = self.inode(node)?;
        let (parent, name) = self.for_change(caller, parent, name)?;
        if inode.kind == FileType::Directory {
            return Err(Errno::PERM);
        }
        if attr::statx(&inode.fd)?.stx_nlink >= HARD_LINKS {
            return Err(Errno::MLINK);
        }
        // /proc/self/fd/N leads to the inode itself, also when that is a symbolic link.
        rustix::fs::linkat(&self.descriptors, DecInt::new(inode.fd.as_raw_fd()), &parent.fd, name, AtFlags::SYMLINK_FOLLOW)?;
        self.find(&parent, name).map(|(_, attr)| attr)
    }

    pub fn unlink(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let (parent, name) = self.for_change(caller, parent, name)?;
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())
    }

    pub fn rmdir(&self, caller: &Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let (parent, name) = self.for_change(caller, parent, name)?;
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)
    }

    /// `flags`: renameat2's. NFS has none of them, its client answers EINVAL.
    pub fn rename(&self, caller: &Caller, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Result<(), Errno> {
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let target = (self.inode(to.0)?, checked(to.1)?);
        let (parent, name) = self.for_change(caller, from.0, from.1)?;
        rustix::fs::renameat(&parent.fd, name, &target.0.fd, target.1)
    }
}
