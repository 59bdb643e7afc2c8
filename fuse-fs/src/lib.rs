//! fuse-fs
