//! The limits EFS shows (spec/efs.md §5.1).

/// Longest name, bytes → ENAMETOOLONG.
pub const NAME_BYTES: usize = 255;
/// Longest symbolic link target, bytes → ENAMETOOLONG.
pub const SYMLINK_BYTES: usize = 4080;
/// Hard links of one file → EMLINK.
pub const HARD_LINKS: u32 = 177;
/// Directory levels below the file system's root → ENAMETOOLONG (errno not documented by AWS).
pub const DEPTH: u32 = 1000;
/// Largest file, bytes (47.9 TiB) → EFBIG.
pub const FILE_BYTES: u64 = 52_673_613_135_872;
/// Lock ranges held on one file → ENOLCK. We count those of one mount, EFS those of all clients.
pub const LOCKS_PER_FILE: usize = 512;
/// Lock ranges held by one mount → EDQUOT.
pub const LOCKS_PER_MOUNT: usize = 8192;
/// Unique pairs of file and process that hold locks in one mount → EDQUOT.
pub const LOCK_PAIRS_PER_MOUNT: usize = 256;
/// Files open at once in one mount → EDQUOT.
pub const OPEN_FILES: usize = 65_536;
/// Block size that `statfs` shows, bytes.
pub const STATFS_BLOCK: u32 = 1 << 20;
/// Blocks that `statfs` shows: `df -h` prints 8.0E, and the product still fits a signed 64-bit number (§5.3).
pub const STATFS_BLOCKS: u64 = 8_796_093_022_207;
/// `st_blksize`: the NFS client's rsize and wsize.
pub const IO_BYTES: u32 = 1 << 20;
