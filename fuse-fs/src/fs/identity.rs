//! Whose permissions an operation has.
//!
//! The host kernel checks them: a worker thread carries the file system credentials (fsuid, fsgid, supplementary groups)
//! of the access point's user, or of the calling process. Linux keeps these per thread, and a thread whose fsuid is not 0
//! loses the capabilities that override permissions, so every rule (sticky, setgid, chown_restricted, …) is the kernel's.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The POSIX user of an access point: replaces the caller in every operation (spec/efs.md §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// At most 16.
    #[serde(default)]
    pub secondary_gids: Vec<u32>,
}

/// Who called, as the client's kernel says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// Thread id in the server's PID namespace; 0 = not visible here (then it has no supplementary groups for us).
    pub pid: u32,
}

/// AUTH_SYS carries at most this many supplementary groups.
const AUTH_SYS_GROUPS: usize = 16;
/// A process cannot change its groups without being root, so a short memory by (pid, uid, gid) is safe enough and saves
/// reading /proc for each request.
const GROUPS_TTL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Credentials {
    uid: u32,
    gid: u32,
    groups: Arc<[u32]>,
}

thread_local! {
    static CURRENT: RefCell<Option<Credentials>> = const { RefCell::new(None) };
}

/// Supplementary groups and when they were read.
type KnownGroups = (Instant, Arc<[u32]>);

/// Turns callers into thread credentials. After an operation the thread keeps them: these threads are the file system's.
#[derive(Debug)]
pub struct Actor {
    fixed: Option<Credentials>,
    groups: Mutex<HashMap<Caller, KnownGroups>>,
}

impl Actor {
    /// `None`: each caller acts as itself, root included (EFS does not squash root by default).
    pub fn new(identity: Option<&Identity>) -> Actor {
        let fixed = identity.map(|i| Credentials { uid: i.uid, gid: i.gid, groups: i.secondary_gids.clone().into() });
        Actor { fixed, groups: Mutex::default() }
    }

    /// The calling thread now acts as this caller, or as the access point's user.
    pub fn act_as(&self, caller: &Caller) -> Result<(), Errno> {
        match &self.fixed {
            Some(fixed) => become_credentials(fixed),
            // Groups decide nothing for root.
            None if caller.uid == 0 => become_credentials(&Credentials { uid: 0, gid: caller.gid, groups: Arc::default() }),
            None => become_credentials(&Credentials { uid: caller.uid, gid: caller.gid, groups: self.groups_of(caller) }),
        }
    }

    fn groups_of(&self, caller: &Caller) -> Arc<[u32]> {
        if caller.pid == 0 {
            return Arc::default();
        }
        let mut known = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((read_at, groups)) = known.get(caller)
            && now.duration_since(*read_at) < GROUPS_TTL
        {
            return groups.clone();
        }
        if known.len() >= 1024 {
            known.retain(|_, (read_at, _)| now.duration_since(*read_at) < GROUPS_TTL);
        }
        let groups: Arc<[u32]> = supplementary_groups(caller.pid).into();
        known.insert(*caller, (now, groups.clone()));
        groups
    }
}

/// The `Groups:` line of a thread's status, first 16; empty when the thread is gone.
fn supplementary_groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|g| g.parse().ok()).take(AUTH_SYS_GROUPS).collect()
}

fn become_credentials(wanted: &Credentials) -> Result<(), Errno> {
    CURRENT.with_borrow_mut(|current| {
        if current.as_ref() == Some(wanted) {
            return Ok(());
        }
        if current.is_none() {
            own_umask()?;
        }
        // Unknown until all three are set, so that a failure half-way is retried in full.
        *current = None;
        set_groups(&wanted.groups)?;
        set_fsgid(wanted.gid)?;
        set_fsuid(wanted.uid)?;
        *current = Some(wanted.clone());
        Ok(())
    })
}

/// Runs `work` with root's file system credentials and gives the thread its own back.
pub(crate) fn as_root<T>(work: impl FnOnce() -> T) -> Result<T, Errno> {
    let before = CURRENT.with_borrow(|c| c.as_ref().map(|c| (c.uid, c.gid)));
    let Some((uid, gid)) = before.filter(|(uid, _)| *uid != 0) else { return Ok(work()) };
    set_fsuid(0)?;
    set_fsgid(0)?;
    let result = work();
    if let Err(e) = set_fsgid(gid).and_then(|()| set_fsuid(uid)) {
        CURRENT.with_borrow_mut(|c| *c = None);
        return Err(e);
    }
    Ok(result)
}

/// The client's kernel has applied the caller's umask. Ours must not apply again, and only in this thread.
fn own_umask() -> Result<(), Errno> {
    // SAFETY: no pointers; CLONE_FS only gives this thread its own umask and working directory.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(last_error());
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

/// The raw system call changes this thread alone; libc's function changes all threads.
fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of one slice.
    match unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

fn set_fsuid(uid: u32) -> Result<(), Errno> {
    // SAFETY: no pointers. The second call only reads: -1 is never valid and the answer is the current value.
    let now = unsafe {
        libc::setfsuid(uid);
        libc::setfsuid(u32::MAX)
    };
    if now as u32 == uid { Ok(()) } else { Err(Errno::PERM) }
}

fn set_fsgid(gid: u32) -> Result<(), Errno> {
    // SAFETY: as for set_fsuid.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsgid(u32::MAX)
    };
    if now as u32 == gid { Ok(()) } else { Err(Errno::PERM) }
}

/// errno of the last raw system call of this thread.
pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
