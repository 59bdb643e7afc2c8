//! A container's root file system: the host's `/` below, a private tmpfs above; fresh /proc, /sys, /dev and /tmp; the volumes
//! at their mount paths. Runs in the container's own mount namespace, in the helper process.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::config::{Bind, ContainerConfig};
use super::init::InitError;

const NONE: Option<&str> = None;

/// Puts the root file system together and makes it the root of this process.
pub(super) fn enter(config: &ContainerConfig) -> Result<(), InitError> {
    // What is mounted here stays here; mounts made on the node later still arrive (HostToContainer).
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).map_err(|e| InitError::system("make slave", "/", e))?;
    rustix::system::sethostname(config.hostname.as_bytes()).map_err(|e| InitError::system("sethostname", &config.hostname, e))?;
    // Sources are opened before the root changes, and attached after: so that every target is resolved inside.
    let binds = config.binds.iter().map(|bind| Ok((bind, clone_tree(&bind.source)?))).collect::<Result<Vec<_>, InitError>>()?;
    let devices = config
        .devices
        .iter()
        .map(|device| {
            let meta = std::fs::metadata(&device.source).map_err(|e| InitError::system("stat", &device.source, e))?;
            if !meta.file_type().is_block_device() {
                let error = std::io::Error::other("not a block device");
                return Err(InitError::system("stat", &device.source, error));
            }
            Ok((device, meta.rdev()))
        })
        .collect::<Result<Vec<_>, InitError>>()?;
    let host_null = clone_devices()?;
    overlay(&config.scratch)?;
    pivot(&format!("{}/root", config.scratch))?;
    kernel_file_systems(&host_null)?;
    let mut binds = binds;
    binds.sort_by_key(|(bind, _)| Path::new(&bind.target).components().count());
    for (bind, tree) in binds {
        attach(bind, tree)?;
    }
    for (device, number) in devices {
        let target = Path::new(&device.target);
        make_parent(target)?;
        let _ = std::fs::remove_file(target);
        let mode = if device.read_only { 0o440 } else { 0o660 };
        mknod(target, SFlag::S_IFBLK, Mode::from_bits_truncate(mode), number).map_err(|e| InitError::system("mknod", &device.target, e))?;
    }
    if config.read_only_root {
        mount(NONE, "/", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, NONE)
            .map_err(|e| InitError::system("remount read-only", "/", e))?;
    }
    Ok(())
}

fn clone_tree(source: &str) -> Result<OwnedFd, InitError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, source, flags).map_err(|e| InitError::system("open volume", source, e))
}

const DEVICES: [(&str, u64, u64); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The node's device files, for where `mknod` is not permitted.
fn clone_devices() -> Result<Vec<(&'static str, Option<OwnedFd>)>, InitError> {
    Ok(DEVICES.iter().map(|(name, ..)| (*name, clone_tree(&format!("/dev/{name}")).ok())).collect())
}

fn overlay(scratch: &str) -> Result<(), InitError> {
    mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .map_err(|e| InitError::system("mount tmpfs", scratch, e))?;
    for dir in ["upper", "work", "root"] {
        let dir = format!("{scratch}/{dir}");
        std::fs::create_dir(&dir).map_err(|e| InitError::system("mkdir", dir, e))?;
    }
    let options = format!("lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work");
    let root = format!("{scratch}/root");
    mount(Some("overlay"), root.as_str(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| InitError::system("mount overlay", root, e))
}

fn pivot(root: &str) -> Result<(), InitError> {
    std::env::set_current_dir(root).map_err(|e| InitError::system("chdir", root, e))?;
    if nix::unistd::pivot_root(".", ".").is_ok() {
        // The old root lies on top of the new one: take it off.
        umount2(".", MntFlags::MNT_DETACH).map_err(|e| InitError::system("unmount", "old root", e))?;
    } else {
        // A root that cannot be pivoted (an initramfs): moved over instead.
        mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).map_err(|e| InitError::system("move", root, e))?;
        nix::unistd::chroot(".").map_err(|e| InitError::system("chroot", root, e))?;
    }
    std::env::set_current_dir("/").map_err(|e| InitError::system("chdir", "/", e))
}

fn kernel_file_systems(devices: &[(&'static str, Option<OwnedFd>)]) -> Result<(), InitError> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let fs = |kind: &str, target: &str, flags: MsFlags, options: Option<&str>| {
        make_dir(Path::new(target))?;
        mount(Some(kind), target, Some(kind), flags, options).map_err(|e| InitError::system("mount", target, e))
    };
    fs("proc", "/proc", safe, None)?;
    fs("sysfs", "/sys", safe | MsFlags::MS_RDONLY, None)?;
    fs("tmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, Some("mode=755,size=65536k"))?;
    for ((name, major, minor), (_, tree)) in DEVICES.iter().zip(devices) {
        let path = format!("/dev/{name}");
        let made = mknod(path.as_str(), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), nix::sys::stat::makedev(*major, *minor));
        match (made, tree) {
            (Ok(()), _) => {
                let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666));
            }
            (Err(_), Some(tree)) => {
                std::fs::File::create(&path).map_err(|e| InitError::system("create", &path, e))?;
                move_mount(tree, "", CWD, path.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                    .map_err(|e| InitError::system("bind", &path, e))?;
            }
            (Err(errno), None) => return Err(InitError::system("mknod", path, errno)),
        }
    }
    fs("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some("newinstance,ptmxmode=0666,mode=0620,gid=5"))?;
    fs("tmpfs", "/dev/shm", safe, Some("mode=1777,size=65536k"))?;
    let links = [
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        std::os::unix::fs::symlink(target, link).map_err(|e| InitError::system("symlink", link, e))?;
    }
    fs("tmpfs", "/tmp", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777"))
}

fn attach(bind: &Bind, tree: OwnedFd) -> Result<(), InitError> {
    let target = Path::new(&bind.target);
    let meta = rustix::fs::fstat(&tree).map_err(|e| InitError::system("stat", &bind.source, e))?;
    if rustix::fs::FileType::from_raw_mode(meta.st_mode) == rustix::fs::FileType::Directory {
        make_dir(target)?;
    } else {
        make_parent(target)?;
        if !target.exists() {
            std::fs::File::create(target).map_err(|e| InitError::system("create", &bind.target, e))?;
        }
    }
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| InitError::system("mount volume at", &bind.target, e))?;
    if !bind.host_to_container {
        mount(NONE, target, NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .map_err(|e| InitError::system("make private", &bind.target, e))?;
    }
    if bind.read_only {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(NONE, target, NONE, flags, NONE).map_err(|e| InitError::system("remount read-only", &bind.target, e))?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), InitError> {
    std::fs::create_dir_all(dir).map_err(|e| InitError::system("mkdir", dir.display().to_string(), e))
}

fn make_parent(target: &Path) -> Result<(), InitError> {
    target.parent().map_or(Ok(()), make_dir)
}
