//! The node's file systems: private mounts, a `/dev` of its own, `/proc` of its PID namespace, `mount.efs` where mount(8) looks.

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};

use super::NodeError;
use crate::NodeConfig;
use crate::config::inside;
use crate::efs_utils::{self, EfsUtils};

/// The character devices of a node: name, major, minor, mode.
const NODES: [(&str, u64, u64, u32); 10] = [
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("kmsg", 1, 11, 0o600),
    ("tty", 5, 0, 0o666),
    ("console", 5, 1, 0o600),
    ("fuse", 10, 229, 0o666),
    ("loop-control", 10, 237, 0o660),
];
/// Loop devices that programs in the node find with `losetup -f` (ebs.md §3.2); the agent's have higher numbers.
const LOOPS: u64 = 16;

fn none() -> Option<&'static str> {
    None
}

fn do_mount(source: Option<&Path>, target: &Path, kind: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<(), NodeError> {
    mount(source, target, kind, flags, data).map_err(|error| NodeError::file("mounting", target)(error.into()))
}

/// Makes a directory of the host that is only a mount point, if it is missing.
fn mount_point(path: &Path) -> Result<(), NodeError> {
    std::fs::create_dir_all(path).map_err(NodeError::file("creating", path))
}

/// Sets the mount namespace up. Called once, in a new mount and PID namespace, before any thread exists.
pub(super) fn set_up(config: &NodeConfig) -> Result<(), NodeError> {
    // Nothing that is mounted here reaches the host, and nothing that the host mounts later gets in a node's way.
    nix::mount::mount(none(), "/", none(), MsFlags::MS_REC | MsFlags::MS_PRIVATE, none())
        .map_err(|error| NodeError::system("making / private (in a chroot / is no mount point, and nodes cannot run)")(error.into()))?;
    let places = config.places();
    kubelet(&places.node(&config.name).join("kubelet"))?;
    bind(&places.node_run(&config.name), Path::new(inside::RUN))?;
    mount_helper(&places.node(&config.name).join("sbin"), config.efs_utils.as_ref())?;
    if let Some(efs_utils) = &config.efs_utils {
        efs_utils::mount_state(efs_utils, &places.node(&config.name).join("efs-utils"))?;
    }
    dev()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    do_mount(Some(Path::new("proc")), Path::new("/proc"), Some("proc"), flags, none())?;
    rustix::system::sethostname(config.name.as_bytes()).map_err(|error| NodeError::system("setting the host name")(error.into()))
}

fn bind(source: &Path, target: &Path) -> Result<(), NodeError> {
    mount_point(target)?;
    do_mount(Some(source), target, none(), MsFlags::MS_BIND, none())
}

/// The kubelet's directory is shared, as on every Kubernetes node: what a driver mounts there is seen by all that ask for it.
fn kubelet(source: &Path) -> Result<(), NodeError> {
    let target = Path::new(inside::KUBELET);
    bind(source, target)?;
    do_mount(None, target, none(), MsFlags::MS_SHARED, none())
}

/// mount(8) looks for `mount.efs` in `/sbin` only. A read-only overlay puts it there: nothing is written to the host.
fn mount_helper(own: &Path, efs_utils: Option<&EfsUtils>) -> Result<(), NodeError> {
    // What another start of this node left.
    let _ = std::fs::remove_dir_all(own);
    mount_point(own)?;
    let exe = std::env::current_exe().map_err(NodeError::system("finding this program"))?;
    match efs_utils {
        Some(efs_utils) => efs_utils.install(own, &exe)?,
        None => {
            let link = own.join("mount.efs");
            symlink(&exe, &link).map_err(NodeError::file("creating", &link))?;
        }
    }
    let sbin = std::fs::canonicalize("/sbin").map_err(NodeError::file("finding", "/sbin"))?;
    let escaped = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let options = format!("lowerdir={}:{}", escaped(own), escaped(&sbin));
    do_mount(Some(Path::new("overlay")), &sbin, Some("overlay"), MsFlags::empty(), Some(&options))
}

/// A `/dev` with what programs expect; block devices come and go as the AWS side says.
fn dev() -> Result<(), NodeError> {
    let dev = Path::new("/dev");
    // The host's devices are out of sight. Where `/dev` is no mount point it is covered all the same.
    let _ = umount2(dev, MntFlags::MNT_DETACH);
    do_mount(Some(Path::new("dev")), dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=16m"))?;
    let old = umask(Mode::empty());
    let made = NODES
        .iter()
        .map(|(name, major, minor, mode)| ((*name).to_owned(), SFlag::S_IFCHR, *major, *minor, *mode))
        .chain((0..LOOPS).map(|n| (format!("loop{n}"), SFlag::S_IFBLK, 7, n, 0o660)))
        .try_for_each(|(name, kind, major, minor, mode)| {
            let path = dev.join(name);
            mknod(&path, kind, Mode::from_bits_truncate(mode), makedev(major, minor))
                .map_err(|error| NodeError::file("creating", &path)(error.into()))
        });
    umask(old);
    made?;
    for dir in ["pts", "shm", "disk/by-id"] {
        mount_point(&dev.join(dir))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("newinstance,ptmxmode=0666,mode=620,gid=5");
    do_mount(Some(Path::new("devpts")), &dev.join("pts"), Some("devpts"), flags, options)?;
    do_mount(Some(Path::new("shm")), &dev.join("shm"), Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777"))?;
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name)).map_err(NodeError::file("creating", dev.join(name)))?;
    }
    Ok(())
}
