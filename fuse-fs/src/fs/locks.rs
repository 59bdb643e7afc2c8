//! Locks that hold between mounts, nodes and processes.
//!
//! Each pair (file, lock owner of the client's kernel) has its own open file description on the backing file and takes
//! open-file-description locks with it, so the host kernel arbitrates between all mounts. `flock` arrives as a lock of the
//! whole file and conflicts with byte-range locks, as over NFS (spec/efs.md §5.2).
//!
//! A lock that must wait is tried again by one thread of the mount, never by a worker: as an NFS 4.1 client does. The
//! client's kernel cannot take a request back (fuser answers no interrupts), so the thread watches the caller's pending
//! signals and gives up for it.

use super::identity::last_error;
use super::limits::{LOCK_PAIRS_PER_MOUNT, LOCKS_PER_FILE, LOCKS_PER_MOUNT};
use super::ranges::{END, LockKind, Range, Ranges};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// One request for a lock.
#[derive(Debug, Clone, Copy)]
pub struct LockRequest {
    pub node: u64,
    /// The open file it came through.
    pub handle: u64,
    /// Opaque: one for each process (POSIX) or open file (flock, OFD) of the client.
    pub owner: u64,
    /// Thread that asks, in the server's PID namespace.
    pub pid: u32,
    pub range: Range,
    /// `None` unlocks.
    pub kind: Option<LockKind>,
}

/// A lock in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    pub range: Range,
    pub kind: LockKind,
    /// 0 when another mount holds it.
    pub pid: u32,
}

#[derive(Debug)]
struct Owner {
    file: OwnedFd,
    pid: u32,
    handles: Vec<u64>,
    ranges: Ranges,
}

type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;
/// Waiters to answer, and with what.
type Decided = Vec<(Done, Result<(), Errno>)>;

struct Waiter {
    request: LockRequest,
    next: Instant,
    delay: Duration,
    done: Done,
}

#[derive(Default)]
struct Table {
    owners: HashMap<(u64, u64), Owner>,
    waiting: Vec<Waiter>,
    /// A thread serves `waiting`.
    running: bool,
    closed: bool,
}

/// The locks of one mount.
#[derive(Default)]
pub struct Locks {
    table: Mutex<Table>,
    changed: Condvar,
}

impl std::fmt::Debug for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.table();
        f.debug_struct("Locks").field("owners", &table.owners.len()).field("waiting", &table.waiting.len()).finish()
    }
}

const FIRST_RETRY: Duration = Duration::from_millis(1);
const LAST_RETRY: Duration = Duration::from_millis(50);

impl Locks {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first lock that would refuse this request. `open` gives a new description of the file.
    pub(crate) fn test(&self, request: &LockRequest, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Option<Conflict>, Errno> {
        let Some(kind) = request.kind else { return Ok(None) };
        let table = self.table();
        let opened;
        let file = match table.owners.get(&(request.node, request.owner)) {
            Some(owner) => &owner.file,
            None => {
                opened = open()?;
                &opened
            }
        };
        let mut lock = flock(request.range, Some(kind));
        fcntl(file, libc::F_OFD_GETLK, &mut lock)?;
        let kind = match i32::from(lock.l_type) {
            libc::F_RDLCK => LockKind::Shared,
            libc::F_WRLCK => LockKind::Exclusive,
            _ => return Ok(None),
        };
        let start = lock.l_start as u64;
        let range = Range { start, end: if lock.l_len == 0 { END } else { start + lock.l_len as u64 - 1 } };
        let holder = table
            .owners
            .iter()
            .find(|((node, owner), held)| *node == request.node && *owner != request.owner && held.ranges.overlaps(&range));
        Ok(Some(Conflict { range, kind, pid: holder.map_or(0, |(_, held)| held.pid) }))
    }

    /// Locks or unlocks at once; EAGAIN when another lock is in the way.
    pub(crate) fn try_set(&self, request: &LockRequest, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<(), Errno> {
        let mut table = self.table();
        let result = table.try_set(request, open);
        if request.kind.is_none() {
            self.wake(&mut table);
        }
        result
    }

    /// Calls `done` when the lock is held or cannot be.
    pub(crate) fn set_waiting(self: &Arc<Self>, request: LockRequest, open: impl FnOnce() -> Result<OwnedFd, Errno>, done: Done) {
        let mut table = self.table();
        match table.try_set(&request, open) {
            Err(Errno::AGAIN) if !table.closed => {
                table.waiting.push(Waiter { request, next: Instant::now() + FIRST_RETRY, delay: FIRST_RETRY, done });
                if !table.running {
                    let locks = Arc::downgrade(self);
                    let started = std::thread::Builder::new().name("efs-lock-wait".into()).spawn(move || serve_waiters(&locks));
                    table.running = started.is_ok();
                    if started.is_err() {
                        let waiters = std::mem::take(&mut table.waiting);
                        drop(table);
                        waiters.into_iter().for_each(|w| (w.done)(Err(Errno::NOLCK)));
                        return;
                    }
                }
                drop(table);
                self.changed.notify_all();
            }
            result => {
                drop(table);
                done(result);
            }
        }
    }

    /// A process closed the file: POSIX drops its locks on it.
    pub(crate) fn release_owner(&self, node: u64, owner: u64) {
        let mut table = self.table();
        if table.owners.remove(&(node, owner)).is_some() {
            self.wake(&mut table);
        }
    }

    /// The last descriptor of an open file is gone, and with it every owner that locked through it.
    pub(crate) fn release_handle(&self, handle: u64) {
        let mut table = self.table();
        let before = table.owners.len();
        table.owners.retain(|_, owner| !owner.handles.contains(&handle));
        if table.owners.len() != before {
            self.wake(&mut table);
        }
    }

    /// The mount is gone: nobody waits any more.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        table.owners.clear();
        let waiters = std::mem::take(&mut table.waiting);
        drop(table);
        self.changed.notify_all();
        waiters.into_iter().for_each(|w| (w.done)(Err(Errno::INTR)));
    }

    fn wake(&self, table: &mut Table) {
        if !table.waiting.is_empty() {
            let now = Instant::now();
            table.waiting.iter_mut().for_each(|w| w.next = now);
            self.changed.notify_all();
        }
    }

    /// Tries what is due; returns what is decided, and when to come again (`None`: nothing waits).
    fn round(&self, table: &mut Table) -> (Decided, Option<Instant>) {
        let now = Instant::now();
        let mut decided = Vec::new();
        for mut waiter in std::mem::take(&mut table.waiting) {
            let due = waiter.next <= now;
            let result = match due {
                true if interrupted(waiter.request.pid) => Err(Errno::INTR),
                true => table.try_set(&waiter.request, || Err(Errno::AGAIN)),
                false => Err(Errno::AGAIN),
            };
            if result == Err(Errno::AGAIN) {
                if due {
                    waiter.delay = (waiter.delay * 2).min(LAST_RETRY);
                    waiter.next = now + waiter.delay;
                }
                table.waiting.push(waiter);
            } else {
                decided.push((waiter.done, result));
            }
        }
        (decided, table.waiting.iter().map(|w| w.next).min())
    }
}

fn serve_waiters(locks: &Weak<Locks>) {
    loop {
        // Held only for one round: a mount that ends is not kept alive.
        let Some(locks) = locks.upgrade() else { return };
        let mut table = locks.table();
        let (decided, next) = locks.round(&mut table);
        if next.is_none() {
            table.running = false;
        }
        if decided.is_empty()
            && let Some(next) = next
        {
            let pause = next.saturating_duration_since(Instant::now());
            let _ = locks.changed.wait_timeout(table, pause).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(table);
        decided.into_iter().for_each(|(done, result)| done(result));
        if next.is_none() {
            return;
        }
    }
}

impl Table {
    fn try_set(&mut self, request: &LockRequest, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<(), Errno> {
        let key = (request.node, request.owner);
        if let Some(kind) = request.kind {
            self.within_limits(request, kind)?;
        }
        let owner = match self.owners.get_mut(&key) {
            Some(owner) => owner,
            None if request.kind.is_none() => return Ok(()),
            // A waiter's description must be there when the lock is tried again, so it is kept even while it holds nothing.
            None => {
                let owner = Owner { file: open()?, pid: request.pid, handles: Vec::new(), ranges: Ranges::default() };
                self.owners.entry(key).or_insert(owner)
            }
        };
        if !owner.handles.contains(&request.handle) {
            owner.handles.push(request.handle);
        }
        fcntl(&owner.file, libc::F_OFD_SETLK, &mut flock(request.range, request.kind))?;
        owner.ranges = owner.ranges.with(request.range, request.kind);
        Ok(())
    }

    fn within_limits(&self, request: &LockRequest, kind: LockKind) -> Result<(), Errno> {
        let key = (request.node, request.owner);
        let mine = self.owners.get(&key);
        if mine.is_none() && self.owners.len() >= LOCK_PAIRS_PER_MOUNT {
            return Err(Errno::DQUOT);
        }
        // Cheap in the common case: few owners, few ranges.
        let before = mine.map_or(0, |o| o.ranges.len());
        let after = mine.map_or(1, |o| o.ranges.with(request.range, Some(kind)).len());
        let on_file: usize = self.owners.iter().filter(|((node, _), _)| *node == request.node).map(|(_, o)| o.ranges.len()).sum();
        let in_mount: usize = self.owners.values().map(|o| o.ranges.len()).sum();
        match () {
            () if on_file - before + after > LOCKS_PER_FILE => Err(Errno::NOLCK),
            () if in_mount - before + after > LOCKS_PER_MOUNT => Err(Errno::DQUOT),
            () => Ok(()),
        }
    }
}

fn flock(range: Range, kind: Option<LockKind>) -> libc::flock {
    let l_type = match kind {
        None => libc::F_UNLCK,
        Some(LockKind::Shared) => libc::F_RDLCK,
        Some(LockKind::Exclusive) => libc::F_WRLCK,
    };
    libc::flock {
        l_type: l_type as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: range.start.min(END) as i64,
        l_len: if range.end >= END { 0 } else { (range.end - range.start + 1) as i64 },
        l_pid: 0, // must be 0 for OFD locks
    }
}

fn fcntl(file: &OwnedFd, command: libc::c_int, lock: &mut libc::flock) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and the pointer is to a flock that outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// The thread has a signal to handle, or is gone. A thread we cannot see (pid 0) is never interrupted.
fn interrupted(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let mask = |key: &str| {
        let value = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        u64::from_str_radix(value.trim(), 16).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0
}
