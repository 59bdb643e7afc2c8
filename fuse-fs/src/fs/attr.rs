//! What `stat` shows: the backing file's attributes the way EFS presents them (spec/efs.md §5.3).

use super::limits::IO_BYTES;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// Seconds and nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

/// Attributes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// What the kernel calls the node: 1 for the root, else `ino`.
    pub node: u64,
    /// Inode number of the backing file.
    pub ino: u64,
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub perm: u16,
    pub size: u64,
    /// 512-byte units.
    pub blocks: u64,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub blksize: u32,
}

/// Every object takes at least 4 KiB.
const MIN_BLOCKS: u64 = 8;
/// A directory shows its entries and 2 KiB of metadata: 6144 bytes when it is small.
const DIRECTORY_METADATA: u64 = 2048;

/// statx of an open descriptor (also an O_PATH one).
pub(crate) fn statx(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// The device number of a backing file, to see when a name lies on another file system.
pub(crate) fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

impl Attr {
    pub(crate) fn new(node: u64, stat: &Statx) -> Attr {
        let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
        let size = match kind {
            FileType::Directory => stat.stx_size.max(1).next_multiple_of(4096) + DIRECTORY_METADATA,
            _ => stat.stx_size,
        };
        Attr {
            node,
            ino: stat.stx_ino,
            kind,
            perm: stat.stx_mode & 0o7777,
            size,
            blocks: stat.stx_blocks.max(MIN_BLOCKS),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            atime: stat.stx_atime.into(),
            mtime: stat.stx_mtime.into(),
            ctime: stat.stx_ctime.into(),
            blksize: IO_BYTES,
        }
    }
}

impl From<StatxTimestamp> for Timestamp {
    fn from(t: StatxTimestamp) -> Self {
        Timestamp { sec: t.tv_sec, nsec: t.tv_nsec }
    }
}
