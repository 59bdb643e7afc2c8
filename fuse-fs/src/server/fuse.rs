//! The binding of fuser's requests to [`Fs`]; no rule lives here.

use super::open::{Create, OpenState, Passthrough};
use crate::fs::locks::LockRequest;
use crate::fs::ranges::{LockKind, Range};
use crate::fs::{Attr, Caller, Fs, SetTime, Settings, Timestamp, WriteFlags, limits};
use fuser::*;
use rustix::fs::FileType as Kind;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the client's kernel may believe what it was told. Zero (the default): each mount sees the others at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cache {
    /// Names.
    pub entry: Duration,
    /// Attributes.
    pub attr: Duration,
}

/// One mount's request handler.
#[derive(Debug)]
pub struct EfsServer {
    fs: Arc<Fs<OpenState>>,
    cache: Cache,
    passthrough: Passthrough,
}

impl EfsServer {
    /// `passthrough`: let the kernel read and write the backing file by itself where it can.
    pub fn new(fs: Arc<Fs<OpenState>>, cache: Cache, passthrough: bool, one_identity: bool) -> EfsServer {
        EfsServer { fs, cache, passthrough: Passthrough::new(passthrough, one_identity) }
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

fn errno(e: rustix::io::Errno) -> Errno {
    Errno::from_i32(e.raw_os_error())
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::RegularFile | Kind::Unknown => FileType::RegularFile,
    }
}

fn system_time(t: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(t.sec.unsigned_abs());
    let seconds = if t.sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    seconds.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(t.nsec.into())
}

fn timestamp(t: SystemTime) -> Timestamp {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => Timestamp { sec: d.as_secs() as i64, nsec: d.subsec_nanos() },
        Err(before) => {
            let d = before.duration();
            let (sec, nsec) = (-(d.as_secs() as i64), d.subsec_nanos());
            if nsec == 0 { Timestamp { sec, nsec } } else { Timestamp { sec: sec - 1, nsec: 1_000_000_000 - nsec } }
        }
    }
}

/// `ino`: the node id where the answer names a node, the inode number where only `stat` shows it.
fn file_attr(a: &Attr, ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: a.size,
        blocks: a.blocks,
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(a.kind),
        perm: a.perm,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: 0,
        blksize: a.blksize,
        flags: 0,
    }
}

fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(timestamp(t)),
    }
}

fn lock_kind(typ: i32) -> Result<Option<LockKind>, Errno> {
    match typ {
        libc::F_UNLCK => Ok(None),
        libc::F_RDLCK => Ok(Some(LockKind::Shared)),
        libc::F_WRLCK => Ok(Some(LockKind::Exclusive)),
        _ => Err(Errno::EINVAL),
    }
}

impl EfsServer {
    /// Attributes that come with a lookup serve the `stat` that asked for it: they count for one tick of the client's
    /// kernel (the least it knows). Not where its page cache relies on them.
    fn fresh(&self) -> Duration {
        if self.passthrough.enabled() { self.cache.attr.max(Duration::from_nanos(1)) } else { self.cache.attr }
    }

    fn entry(&self, result: Result<Attr, rustix::io::Errno>, reply: ReplyEntry) {
        match result {
            Ok(attr) => reply.entry_with_ttls(&self.fresh(), &self.cache.entry, &file_attr(&attr, attr.node), Generation(0)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn attr(&self, result: Result<Attr, rustix::io::Errno>, reply: ReplyAttr) {
        match result {
            Ok(attr) => reply.attr(&self.cache.attr, &file_attr(&attr, attr.ino)),
            Err(e) => reply.error(errno(e)),
        }
    }
}

fn empty(result: Result<(), rustix::io::Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

thread_local! {
    /// Read data on its way to the kernel: one buffer a worker.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for EfsServer {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            // setuid and setgid fall where the backing file system drops them, under the caller's credentials.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for flag in wanted {
            // Older kernels lack some: each only loses what it names.
            let _ = config.add_capabilities(flag);
        }
        if !self.cache.entry.is_zero() {
            let _ = config.add_capabilities(InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO);
        }
        if self.passthrough.enabled() {
            let can = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
            if !can {
                self.passthrough.disable();
            }
        }
        let _ = config.set_max_write(limits::IO_BYTES);
        if let Err(most) = config.set_max_readahead(limits::IO_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn destroy(&mut self) {
        self.fs.close();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(self.fs.lookup(&caller(req), parent.0, name), reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(self.fs.getattr(ino.0), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let settings = Settings { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        self.attr(self.fs.setattr(&caller(req), ino.0, &settings, fh.map(|h| h.0)), reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        self.entry(self.fs.mknod(&caller(req), parent.0, name, mode), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        self.entry(self.fs.mkdir(&caller(req), parent.0, name, mode), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.fs.unlink(&caller(req), parent.0, name), reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.fs.rmdir(&caller(req), parent.0, name), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.entry(self.fs.symlink(&caller(req), parent.0, link_name, target.as_os_str()), reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(self.fs.rename(&caller(req), (parent.0, name), (newparent.0, newname), flags.bits()), reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.entry(self.fs.link(&caller(req), ino.0, newparent.0, newname), reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open(&caller(req), ino.0, flags.0) {
            Ok(opened) => {
                let perm = if self.passthrough.ignores_mode() { 0 } else { self.fs.getattr(ino.0).map_or(0o6000, |a| a.perm) };
                self.passthrough.answer(&self.fs, &opened, flags.0 & libc::O_DIRECT != 0, perm, reply);
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        match self.fs.create(&caller(req), parent.0, name, mode, flags) {
            Ok((attr, opened)) => {
                let shown = file_attr(&attr, attr.node);
                self.passthrough.answer(
                    &self.fs,
                    &opened,
                    flags & libc::O_DIRECT != 0,
                    attr.perm,
                    Create(reply, &self.cache.entry, &shown),
                );
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.fs.read(fh.0, offset, &mut buffer[..size]) {
                Ok(n) => reply.data(&buffer[..n]),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: fuser::WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from_cache = write_flags.contains(fuser::WriteFlags::FUSE_WRITE_CACHE);
        let how = WriteFlags {
            append: flags.0 & libc::O_APPEND != 0 && !from_cache,
            sync: flags.0 & libc::O_DSYNC != 0,
            clear_suid: write_flags.contains(fuser::WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        match self.fs.write(&caller(req), fh.0, offset, data, how) {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        self.fs.flush(ino.0, lock_owner.0);
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(opened) = self.fs.release(fh.0) {
            Passthrough::closed(&opened.inode);
        }
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        empty(self.fs.fsync(fh.0, datasync), reply);
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.opendir(&caller(req), ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.fs.readdir(&caller(req), ino.0, fh.0, offset, false, &mut |entry, _| {
            reply.add(INodeNo(entry.ino), entry.next, kind(entry.kind), entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let own = match self.fs.getattr(ino.0) {
            Ok(attr) => file_attr(&attr, 0),
            Err(e) => return reply.error(errno(e)),
        };
        let listed = self.fs.readdir(&caller(req), ino.0, fh.0, offset, true, &mut |entry, attr| {
            let shown = match attr {
                Some(attr) => file_attr(&attr, attr.node),
                // No node id tells the kernel that nothing was looked up; `.` and `..` it knows.
                None if entry.name.as_bytes().starts_with(b".") && entry.name.len() <= 2 => FileAttr { ino: INodeNo(entry.ino), ..own },
                None => own,
            };
            reply.add(shown.ino, entry.next, entry.name, &self.cache.attr, &shown, Generation(0))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(self.fs.fsyncdir(fh.0), reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (blocks, free) = self.fs.statfs();
        let block = limits::STATFS_BLOCK;
        reply.statfs(blocks, free, free, 0, 0, block, limits::NAME_BYTES as u32, block);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        empty(self.fs.access(&caller(req), ino.0, mask.bits() as u32), reply);
    }

    fn getlk(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let kind = match lock_kind(typ) {
            Ok(kind) => kind,
            Err(e) => return reply.error(e),
        };
        let request = LockRequest { node: ino.0, handle: fh.0, owner: lock_owner.0, pid, range: Range { start, end }, kind };
        match self.fs.test_lock(&request) {
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Ok(Some(held)) => {
                let typ = if held.kind == LockKind::Shared { libc::F_RDLCK } else { libc::F_WRLCK };
                reply.locked(held.range.start, held.range.end, typ, held.pid);
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        _pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        match lock_kind(typ) {
            Ok(kind) => {
                let range = Range { start, end };
                let request = LockRequest { node: ino.0, handle: fh.0, owner: lock_owner.0, pid: req.pid(), range, kind };
                self.fs.set_lock(request, sleep, move |result| empty(result, reply));
            }
            Err(e) => reply.error(e),
        }
    }
}
