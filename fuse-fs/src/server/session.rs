//! One mount: a superblock, its kernel connection, the threads that answer it.
//!
//! The server makes the superblock and a detached mount of it (fsopen, fsmount); whoever asked moves that to its place,
//! also in another mount namespace. So the connection's PID namespace is the server's, a mount nobody takes disappears by
//! itself, and the server stays when the mounter exits.

use super::fuse::{Cache, EfsServer};
use super::open::OpenState;
use crate::fs::Fs;
use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The source that `mount` shows, as mount.efs through its local proxy.
pub const SOURCE: &str = "127.0.0.1:/";
/// Shown as file system type `fuse.efs`.
const SUBTYPE: &str = "efs";
/// Shown as `fuse.nfs4`: what `mount.nfs4` mounts, and what efs-utils' watchdog takes for NFS.
const SUBTYPE_NFS: &str = "nfs4";

/// Is this type, as mountinfo has it, one of ours?
pub fn is_type(fs_type: &str) -> bool {
    fs_type.strip_prefix("fuse.").is_some_and(|subtype| [SUBTYPE, SUBTYPE_NFS].contains(&subtype))
}

/// How a mount looks to its users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct View {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    pub no_exec: bool,
    pub no_atime: bool,
    pub no_dir_atime: bool,
    pub sync: bool,
    pub dir_sync: bool,
    /// As `fuse.nfs4`.
    pub nfs: bool,
}

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("open /dev/fuse (is the kernel module fuse loaded, and does this node have the device?)")]
    Device(#[source] Errno),
    #[error("make a FUSE superblock ({step})")]
    Superblock { step: &'static str, source: Errno },
    #[error("start the FUSE session")]
    Session(#[source] std::io::Error),
}

/// A session that serves a mount. It ends when the mount is gone everywhere.
#[derive(Debug)]
pub struct Running {
    /// Minor device number: the name of the connection in fusectl, `0:<minor>` in mountinfo. The kernel gives it to
    /// somebody else's mount as soon as this one is gone: ask [`Running::is_connected`] before it is used.
    pub minor: u32,
    /// The connection, as long as somebody answers it.
    device: Arc<Mutex<Option<OwnedFd>>>,
    thread: JoinHandle<()>,
}

/// Serves `fs`: returns the detached mount, to be moved to its place by move_mount(2).
pub fn mount(
    fs: Arc<Fs<OpenState>>,
    view: View,
    cache: Cache,
    passthrough: bool,
    one_identity: bool,
) -> Result<(OwnedFd, Running), MountError> {
    let device = rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(MountError::Device)?;
    let superblock = superblock(&device, view)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(workers());
    config.clone_fd = true;
    let server = EfsServer::new(fs, cache, passthrough, one_identity);
    let kept = device.try_clone().map_err(MountError::Session)?;
    let kept = Arc::new(Mutex::new(Some(kept)));
    let answered = kept.clone();
    // The kernel has queued INIT with the superblock, so this does not wait for anybody.
    let session = Session::from_fd(server, device, SessionACL::All, config).map_err(MountError::Session)?;
    let thread = std::thread::Builder::new()
        .name("efs-session".into())
        .spawn(move || {
            if let Err(error) = session.run() {
                tracing::warn!(%error, "an EFS session ended");
            }
            // The last descriptor ends the connection: who still uses the mount fails instead of waiting for ever.
            answered.lock().unwrap_or_else(PoisonError::into_inner).take();
        })
        .map_err(MountError::Session)?;
    let mounted = rustix::mount::fsmount(&superblock, FsMountFlags::FSMOUNT_CLOEXEC, attributes(view))
        .map_err(|source| MountError::Superblock { step: "fsmount", source })?;
    let stat = rustix::fs::statx(&mounted, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)
        .map_err(|source| MountError::Superblock { step: "statx", source })?;
    Ok((mounted, Running { minor: stat.stx_dev_minor, device: kept, thread }))
}

fn superblock(device: &OwnedFd, view: View) -> Result<OwnedFd, MountError> {
    let step = |step| move |source| MountError::Superblock { step, source };
    let superblock = rustix::mount::fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("fsopen"))?;
    let fd = device.as_raw_fd().to_string();
    let subtype = if view.nfs { SUBTYPE_NFS } else { SUBTYPE };
    let options = [("source", SOURCE), ("subtype", subtype), ("fd", &fd), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")];
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&superblock, key, value).map_err(step(key))?;
    }
    let flags = [("allow_other", true), ("ro", view.read_only), ("sync", view.sync), ("dirsync", view.dir_sync)];
    for (key, _) in flags.into_iter().filter(|(_, set)| *set) {
        rustix::mount::fsconfig_set_flag(&superblock, key).map_err(step(key))?;
    }
    rustix::mount::fsconfig_create(&superblock).map_err(step("create"))?;
    Ok(superblock)
}

fn attributes(view: View) -> MountAttrFlags {
    let chosen = [
        (view.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (view.no_suid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (view.no_dev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (view.no_exec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (view.no_atime, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (view.no_dir_atime, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ];
    chosen.into_iter().filter(|(set, _)| *set).fold(MountAttrFlags::empty(), |all, (_, flag)| all | flag)
}

/// Enough that a few slow requests (fsync) do not stop the others.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get() * 2).clamp(4, 16)
}

impl Running {
    /// The mount is gone and all threads have ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the mount is gone.
    pub fn join(self) {
        // A panic in the session was reported by its thread.
        let _ = self.thread.join();
    }

    /// The superblock lives, so the minor number is this mount's.
    fn is_connected(&self) -> bool {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.as_ref().is_some_and(|device| {
            let mut state = [PollFd::new(device, PollFlags::empty())];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut state, Some(&now)).is_ok() && !state[0].revents().contains(PollFlags::ERR)
        })
    }

    /// Takes this mount out of the caller's mount namespace wherever it is visible, and cuts the connection, so that
    /// mounts elsewhere fail too instead of waiting for ever. Without effect on a mount that is gone.
    pub fn abort(&self) {
        // Looked up by number first, then asked whether the number was ours all the time.
        let targets = targets(self.minor);
        if !self.is_connected() {
            return;
        }
        for target in targets {
            if let Err(error) = rustix::mount::unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                tracing::warn!(%error, target = %target.display(), "cannot unmount an EFS mount");
            }
        }
        if let Err(error) = cut(self.minor, || self.is_connected()) {
            tracing::debug!(%error, minor = self.minor, "cannot cut a FUSE connection; it is gone already, or the unmount ended it");
        }
    }
}

/// Where this mount is visible, the innermost last mounted first.
fn targets(minor: u32) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let device = format!("0:{minor}");
    let mut found: Vec<_> = crate::mount_efs::mountinfo::parse(&table).filter(|m| m.device == device).map(|m| m.target).collect();
    found.reverse();
    found
}

/// Aborts the connection of the mount with this minor device number, through a fusectl of our own: it need not be mounted
/// anywhere. The mount stays and answers ENOTCONN.
///
/// `is_it` is asked when the connection is open: if the mount that the caller means was alive at that moment, then what
/// was opened under its number is its connection, and it stays that one.
pub fn cut(minor: u32, is_it: impl FnOnce() -> bool) -> Result<(), Errno> {
    let superblock = rustix::mount::fsopen(c"fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&superblock)?;
    let connections = rustix::mount::fsmount(&superblock, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let abort = rustix::fs::openat(&connections, format!("{minor}/abort"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    if !is_it() {
        return Err(Errno::NOENT);
    }
    rustix::io::write(&abort, b"1").map(|_| ())
}
