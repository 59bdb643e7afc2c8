//! The inode table: what the client's kernel still knows, by inode number.
//!
//! Each entry holds an O_PATH descriptor. It pins the backing inode, so the number cannot be given to another file while
//! the kernel knows it: a node id always means the same file (generation 0 is enough). An entry leaves when the kernel
//! has forgotten each lookup it was answered.

use rustix::fs::FileType;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The node id of the root in FUSE.
pub const ROOT: u64 = 1;
const SHARDS: usize = 16;

/// A file the kernel knows. `T` is what the server above keeps with it while it is open.
#[derive(Debug)]
pub struct Inode<T> {
    pub(crate) fd: OwnedFd,
    pub(crate) node: u64,
    pub(crate) kind: FileType,
    /// Levels below the file system's root, as of the last lookup.
    depth: AtomicU32,
    /// Attached by the server above.
    pub open_state: Mutex<T>,
}

impl<T: Default> Inode<T> {
    pub(crate) fn new(fd: OwnedFd, node: u64, kind: FileType, depth: u32) -> Inode<T> {
        Inode { fd, node, kind, depth: AtomicU32::new(depth), open_state: Mutex::default() }
    }
}

impl<T> Inode<T> {
    pub(crate) fn depth(&self) -> u32 {
        self.depth.load(Ordering::Relaxed)
    }

    pub(crate) fn set_depth(&self, depth: u32) {
        self.depth.store(depth, Ordering::Relaxed);
    }
}

type Shard<T> = HashMap<u64, (Arc<Inode<T>>, u64)>;

/// Inodes by node id with their lookup counts.
#[derive(Debug)]
pub(crate) struct Inodes<T> {
    root: Arc<Inode<T>>,
    shards: [Mutex<Shard<T>>; SHARDS],
}

impl<T: Default> Inodes<T> {
    pub(crate) fn new(root: Inode<T>) -> Inodes<T> {
        Inodes { root: Arc::new(root), shards: Default::default() }
    }

    fn shard(&self, node: u64) -> MutexGuard<'_, Shard<T>> {
        self.shards[(node % SHARDS as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root always exists; others while the kernel holds them.
    pub(crate) fn get(&self, node: u64) -> Option<Arc<Inode<T>>> {
        match node {
            ROOT => Some(self.root.clone()),
            _ => self.shard(node).get(&node).map(|(inode, _)| inode.clone()),
        }
    }

    /// One more lookup answered for this file. An entry that exists keeps its own descriptor.
    pub(crate) fn remember(&self, found: Inode<T>) -> Arc<Inode<T>> {
        let mut shard = self.shard(found.node);
        let depth = found.depth();
        let (inode, lookups) = shard.entry(found.node).or_insert_with(|| (Arc::new(found), 0));
        *lookups += 1;
        inode.set_depth(depth);
        inode.clone()
    }

    /// The kernel forgets `lookups` answers.
    pub(crate) fn forget(&self, node: u64, lookups: u64) {
        if node == ROOT {
            return;
        }
        let mut shard = self.shard(node);
        if let Some((_, count)) = shard.get_mut(&node) {
            *count = count.saturating_sub(lookups);
            if *count == 0 {
                shard.remove(&node);
            }
        }
    }

    /// How many files the kernel knows besides the root.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
