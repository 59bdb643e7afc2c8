//! From an exported directory to the root of one mount: access point roots, made at the first mount (spec/efs.md §4.1).

use super::identity::last_error;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a missing access point root is made; a root that exists is never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreationInfo {
    pub owner_uid: u32,
    pub owner_gid: u32,
    /// Mode bits, as `0o755`.
    pub permissions: u32,
}

/// Why there is no root to mount.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file system's own directory cannot be opened: a fault of this installation.
    #[error("open directory {path} of the file system")]
    Export { path: PathBuf, source: Errno },
    /// The access point's root is missing and it has no CreationInfo.
    #[error("access point root {path} does not exist and the access point has no CreationInfo")]
    NoCreationInfo { path: PathBuf },
    #[error("open access point root {path}")]
    AccessPointRoot { path: PathBuf, source: Errno },
    #[error("create access point root {path}")]
    Create { path: PathBuf, source: Errno },
    /// The path in `fs-…:/path`.
    #[error("open path {path}")]
    Path { path: PathBuf, source: Errno },
    #[error("give the mount a private view of {path}")]
    View { path: PathBuf, source: Errno },
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The root of one mount and how deep it lies in the file system.
#[derive(Debug)]
pub struct Root {
    pub(crate) fd: OwnedFd,
    pub(crate) depth: u32,
}

impl Root {
    /// Opens `access_point_root` (`/` without an access point) of the file system in `directory`, makes it when it is
    /// missing and `creation` says how, then goes to `path` below it, which must exist.
    pub fn open(directory: &Path, access_point_root: &Path, creation: Option<&CreationInfo>, path: &Path) -> Result<Root, RootError> {
        let export =
            rustix::fs::open(directory, DIRECTORY, Mode::empty()).map_err(|source| RootError::Export { path: directory.into(), source })?;
        let (start, levels) = open_access_point_root(export, access_point_root, creation)?;
        let at = |source| RootError::Path { path: path.into(), source };
        let below = components(path).map_err(at)?;
        // A symbolic link on the way means the same as for any client: it stays below this root.
        let relative: PathBuf = below.iter().collect();
        let target = if below.is_empty() {
            start
        } else {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat2(&start, &relative, flags, Mode::empty(), resolve).map_err(at)?
        };
        let fd = private_view(&target).map_err(|source| RootError::View { path: path.into(), source })?;
        Ok(Root { fd, depth: (levels + below.len()) as u32 })
    }
}

/// Names of an absolute path; `..` and `.` are resolved as text, `..` stops at the root.
fn components(path: &Path) -> Result<Vec<&std::ffi::OsStr>, Errno> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => names.push(name),
            std::path::Component::ParentDir => {
                names.pop();
            }
            std::path::Component::RootDir | std::path::Component::CurDir => {}
            std::path::Component::Prefix(_) => return Err(Errno::INVAL),
        }
    }
    Ok(names)
}

fn open_access_point_root(export: OwnedFd, path: &Path, creation: Option<&CreationInfo>) -> Result<(OwnedFd, usize), RootError> {
    let names = components(path).map_err(|source| RootError::AccessPointRoot { path: path.into(), source })?;
    let mut directory = export;
    for (level, name) in names.iter().enumerate() {
        let open = |parent: &OwnedFd| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            rustix::fs::openat2(parent, *name, DIRECTORY, Mode::empty(), resolve)
        };
        directory = match open(&directory) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let creation = creation.ok_or_else(|| RootError::NoCreationInfo { path: path.into() })?;
                // Parents belong to root with mode 755: AWS does not say, see spec/efs.md §4.1.
                let parent = CreationInfo { owner_uid: 0, owner_gid: 0, permissions: 0o755 };
                let how = if level + 1 == names.len() { creation } else { &parent };
                make_directory(&directory, name, how)
                    .and_then(|()| open(&directory))
                    .map_err(|source| RootError::Create { path: path.into(), source })?
            }
            Err(source) => return Err(RootError::AccessPointRoot { path: path.into(), source }),
        };
    }
    Ok((directory, names.len()))
}

/// Appears complete or not at all: two nodes may mount at once, and "existing is never changed" must not freeze a half-made one.
fn make_directory(parent: &OwnedFd, name: &std::ffi::OsStr, how: &CreationInfo) -> Result<(), Errno> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let draft = format!(".efs-root-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    rustix::fs::mkdirat(parent, &draft, Mode::RWXU)?;
    let finish = || {
        let made = rustix::fs::openat(parent, &draft, DIRECTORY - OFlags::PATH, Mode::empty())?;
        let owner = (rustix::fs::Uid::from_raw(how.owner_uid), rustix::fs::Gid::from_raw(how.owner_gid));
        rustix::fs::fchown(&made, Some(owner.0), Some(owner.1))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(how.permissions & 0o7777))?;
        rustix::fs::renameat_with(parent, &draft, parent, name, RenameFlags::NOREPLACE)
    };
    match finish() {
        Ok(()) => Ok(()),
        Err(error) => {
            // Best effort: an empty draft is all that can be left.
            let _ = rustix::fs::unlinkat(parent, &draft, AtFlags::REMOVEDIR);
            if error == Errno::EXIST { Ok(()) } else { Err(error) }
        }
    }
}

/// A private mount of just this directory: nothing above it can be reached from it, mounts below it are not seen,
/// device files do nothing, and reading does not change atime (spec/efs.md §5.2).
fn private_view(directory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let view = rustix::mount::open_tree(directory.as_fd(), c"", flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NODEV,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the pointers are to a NUL-terminated string and to a mount_attr of the given size; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done != 0 {
        return Err(last_error());
    }
    Ok(view)
}
