//! A node's block devices: for each volume a device node `/dev/nvme<k>n1`, the name of the attachment and the by-id link
//! (ebs.md §3.1). There is no table beside them: what `/dev` and the loop driver show is what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use model_common::agent::{Device, DeviceError};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::loops::{LoopError, Loops, LowerError, Raised, backing_file};
use crate::mounts::{self, Holder};

const BY_ID: &str = "disk/by-id";
const BY_ID_PREFIX: &str = "nvme-Amazon_Elastic_Block_Store_";
/// The group `disk`, the same number on all Linux distributions.
const DISK_GROUP: u32 = 6;
/// A process that has a device open for no longer than this does not use it: udev looks at it, or a child that some thread
/// of this process has just forked has not yet closed what it inherited.
const GLANCE: Duration = Duration::from_millis(250);
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// A frozen file system: a directory of it, by which it is thawed.
#[derive(Debug)]
struct Frozen {
    dir: File,
    /// When it was frozen last.
    since: Instant,
    /// Who wants it frozen: copies of one volume may run at the same time, and the last one thaws.
    holders: u32,
}

/// The devices of one node.
#[derive(Debug)]
pub struct Devices {
    dev: PathBuf,
    /// The directory of the volumes' files: loop devices over others are not ours.
    volumes: PathBuf,
    loops: Loops,
    /// Names are given by one at a time. Holds the frozen volumes.
    frozen: Mutex<BTreeMap<String, Frozen>>,
}

impl Devices {
    /// `dev` is the node's `/dev`.
    pub fn new(dev: PathBuf, volumes: PathBuf, first_loop: u32) -> Self {
        Self { loops: Loops::new(&dev, first_loop), dev, volumes, frozen: Mutex::default() }
    }

    /// `names` is a directory in the place of the `/dev` that the node has not got; the loop devices are reached from the host's.
    pub(crate) fn of_a_node_without_power(names: PathBuf, volumes: PathBuf, first_loop: u32) -> Self {
        Self { loops: Loops::new("/dev", first_loop), dev: names, volumes, frozen: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Frozen>> {
        self.frozen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Raises a volume's device and makes its names. Idempotent.
    pub fn attach(&self, device: &Device) -> Result<(), DeviceError> {
        if let Some(reason) = Loops::unusable() {
            return Err(DeviceError::Unsupported { reason });
        }
        let name = self.name(&device.device_name)?;
        let by_id = self.by_id(&device.volume_id)?;
        let _one_at_a_time = self.lock();
        let raised = self.loops.raise(Path::new(&device.file), &device.volume_id).map_err(loop_failed)?;
        if size(&raised) < device.size_bytes {
            // Left from before the volume grew.
            self.loops.resize(raised.number).map_err(loop_failed)?;
        }
        self.names(&raised, &name, &by_id).inspect_err(|_| {
            // The names could not be made: nobody can use the device from here.
            self.unname(&by_id);
        })
    }

    fn names(&self, raised: &Raised, name: &Path, by_id: &Path) -> Result<(), DeviceError> {
        let rdev = makedev(raised.major, raised.minor);
        if let Ok(existing) = std::fs::metadata(name)
            && existing.rdev() != rdev
            && existing.file_type().is_block_device()
        {
            let taken = std::io::Error::from_raw_os_error(libc::EEXIST);
            return Err(failed(format!("naming {} (it is another volume's)", name.display()))(taken));
        }
        let node = match self.node_of(by_id).filter(|node| std::fs::metadata(node).is_ok_and(|meta| meta.rdev() == rdev)) {
            Some(node) => node,
            None => self.new_node(rdev)?,
        };
        // Both names point at the node, so that they can never disagree with it.
        let file_name = node.file_name().map(PathBuf::from).unwrap_or_default();
        std::fs::create_dir_all(self.dev.join(BY_ID)).map_err(failed("creating /dev/disk/by-id"))?;
        relink(&Path::new("../..").join(&file_name), by_id)?;
        relink(&file_name, name)
    }

    /// The lowest free `/dev/nvme<k>n1`; the root volume would be 0.
    fn new_node(&self, rdev: u64) -> Result<PathBuf, DeviceError> {
        for k in 1.. {
            let node = self.dev.join(format!("nvme{k}n1"));
            match mknod(&node, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), rdev) {
                Ok(()) => {
                    // As udev leaves a disk: root:disk, 0660 whatever the umask.
                    let owned = std::os::unix::fs::chown(&node, Some(0), Some(DISK_GROUP));
                    let shown = owned.and_then(|()| std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o660)));
                    return shown.map(|()| node.clone()).map_err(failed(format!("setting the mode of {}", node.display())));
                }
                Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(failed(format!("creating {}", node.display()))(error.into())),
            }
        }
        unreachable!("the numbers do not end before memory does")
    }

    /// Removes a volume's names; when `last`, takes the device down too.
    pub fn detach(&self, volume_id: &str, device_name: &str, last: bool, force: bool) -> Result<(), DeviceError> {
        let name = self.name(device_name)?;
        let by_id = self.by_id(volume_id)?;
        let _one_at_a_time = self.lock();
        let raised = self.loops.of_volume(volume_id, &self.volumes);
        let busy = |holder: String| DeviceError::Busy { volume_id: volume_id.to_owned(), holder };
        if let Some(raised) = &raised {
            if !force && let Some(holder) = user(raised) {
                return Err(busy(holder.to_string()));
            }
            if last {
                match self.loops.lower(raised) {
                    Ok(()) => {}
                    // Forced off: the kernel lets go when the last one does.
                    Err(LowerError::Busy) if force => {}
                    Err(LowerError::Busy) => return Err(busy("held by the kernel, or by another node".to_owned())),
                    Err(LowerError::Failed(error)) => return Err(loop_failed(error)),
                }
            }
        }
        let node = self.node_of(&by_id);
        if let (Some(node), Ok(target)) = (&node, std::fs::read_link(&name))
            && node.file_name() == Some(target.as_os_str())
        {
            let _ = std::fs::remove_file(&name);
        }
        self.unname(&by_id);
        Ok(())
    }

    /// Removes the by-id link, the node, and every name that points at it.
    fn unname(&self, by_id: &Path) {
        let node = self.node_of(by_id);
        let _ = std::fs::remove_file(by_id);
        let Some(node) = node else { return };
        for (link, target) in self.links() {
            if Some(target.as_os_str()) == node.file_name() {
                let _ = std::fs::remove_file(link);
            }
        }
        let _ = std::fs::remove_file(node);
    }

    /// The file has grown: the device shows it.
    pub fn resize(&self, volume_id: &str, size_bytes: u64) -> Result<(), DeviceError> {
        let raised = self.raised(volume_id, "resizing")?;
        self.loops.resize(raised.number).map_err(loop_failed)?;
        let shown = size(&raised);
        if shown < size_bytes {
            let short = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("it shows {shown} bytes, not {size_bytes}"));
            return Err(failed(format!("resizing the device of {volume_id}"))(short));
        }
        Ok(())
    }

    /// Flushes a device, and freezes the file system on it if it is mounted here. Each freeze wants a thaw of its own.
    pub fn freeze(&self, volume_id: &str) -> Result<(), DeviceError> {
        let raised = self.raised(volume_id, "freezing")?;
        let mut frozen = self.lock();
        if let Some(held) = frozen.get_mut(volume_id) {
            held.holders += 1;
            held.since = Instant::now();
            return Ok(());
        }
        let Some(point) = mounts::mount_point(raised.major, raised.minor) else {
            let node = self.node_of(&self.by_id(volume_id)?);
            let node = node.ok_or_else(|| failed("flushing")(std::io::Error::from_raw_os_error(libc::ENODEV)))?;
            return File::open(&node).and_then(|device| device.sync_all()).map_err(failed(format!("flushing {}", node.display())));
        };
        let dir = File::open(&point).map_err(failed(format!("opening {}", point.display())))?;
        match fs_ioctl(&dir, FIFREEZE) {
            Ok(()) => {}
            // Somebody else froze it: the point in time stands.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(failed(format!("freezing {}", point.display()))(error)),
        }
        frozen.insert(volume_id.to_owned(), Frozen { dir, since: Instant::now(), holders: 1 });
        Ok(())
    }

    /// Ends a freeze that has lasted `limit` or longer; a later one of the same volume goes on.
    pub fn thaw_old(&self, volume_id: &str, limit: Duration) -> Result<(), DeviceError> {
        let old = self.lock().get(volume_id).is_some_and(|frozen| frozen.since.elapsed() >= limit);
        if old { self.thaw_now(volume_id) } else { Ok(()) }
    }

    /// Ends one freeze; the file system thaws with the last.
    pub fn thaw(&self, volume_id: &str) -> Result<(), DeviceError> {
        if let Some(held) = self.lock().get_mut(volume_id).filter(|held| held.holders > 1) {
            held.holders -= 1;
            return Ok(());
        }
        self.thaw_now(volume_id)
    }

    fn thaw_now(&self, volume_id: &str) -> Result<(), DeviceError> {
        let Some(Frozen { dir, .. }) = self.lock().remove(volume_id) else { return Ok(()) };
        match fs_ioctl(&dir, FITHAW) {
            // Not frozen: somebody else ended it.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(failed(format!("thawing {volume_id}"))(error)),
            _ => Ok(()),
        }
    }

    /// Ends every freeze: whoever asked for them is gone.
    pub fn thaw_all(&self) {
        let volumes: Vec<String> = self.lock().keys().cloned().collect();
        for volume in volumes {
            if let Err(error) = self.thaw_now(&volume) {
                tracing::warn!(volume, %error, "a file system stays frozen");
            }
        }
    }

    /// The devices whose names exist here now and whose loop device is up. Names without a device are removed: they are stale.
    pub fn observed(&self) -> Vec<Device> {
        let raised = self.loops.all();
        let links = self.links();
        let mut seen = Vec::new();
        let mut stale = BTreeSet::new();
        for (by_id, volume_id) in self.by_ids() {
            let node = self.node_of(&by_id);
            let rdev = node.as_ref().and_then(|node| std::fs::metadata(node).ok()).map(|meta| meta.rdev());
            let Some(device) = raised.iter().find(|raised| Some(makedev(raised.major, raised.minor)) == rdev && raised.name == volume_id)
            else {
                stale.insert(by_id);
                continue;
            };
            let name = links.iter().find(|(_, target)| node.as_ref().is_some_and(|node| node.file_name() == Some(target.as_os_str())));
            seen.push(Device {
                volume_id,
                device_name: name.map(|(link, _)| self.shown(link)).unwrap_or_default(),
                file: backing_file(device.number).unwrap_or_default().display().to_string(),
                size_bytes: size(device),
            });
        }
        stale.iter().for_each(|by_id| self.unname(by_id));
        seen
    }

    /// The path of an attachment's name, which must lie directly under `/dev`.
    fn name(&self, device_name: &str) -> Result<PathBuf, DeviceError> {
        let plain = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let name = device_name.strip_prefix("/dev/").or(Some(device_name)).filter(plain);
        name.map(|name| self.dev.join(name)).ok_or_else(|| bad(format!("the device name {device_name:?} is not of the form /dev/xvdaa")))
    }

    fn by_id(&self, volume_id: &str) -> Result<PathBuf, DeviceError> {
        let digits =
            volume_id.strip_prefix("vol-").filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric()));
        let digits = digits.ok_or_else(|| bad(format!("{volume_id:?} is no volume id")))?;
        Ok(self.dev.join(BY_ID).join(format!("{BY_ID_PREFIX}vol{digits}")))
    }

    fn by_ids(&self) -> Vec<(PathBuf, String)> {
        let Ok(entries) = std::fs::read_dir(self.dev.join(BY_ID)) else { return Vec::new() };
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let volume = entry.file_name().to_str()?.strip_prefix(BY_ID_PREFIX)?.strip_prefix("vol").map(|hex| format!("vol-{hex}"))?;
                Some((entry.path(), volume))
            })
            .collect();
        found.sort();
        found
    }

    /// The node that a by-id link points at.
    fn node_of(&self, by_id: &Path) -> Option<PathBuf> {
        let target = std::fs::read_link(by_id).ok()?;
        Some(self.dev.join(target.file_name()?))
    }

    /// The symbolic links directly under `/dev`, with their targets.
    fn links(&self) -> Vec<(PathBuf, PathBuf)> {
        let Ok(entries) = std::fs::read_dir(&self.dev) else { return Vec::new() };
        entries.flatten().filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?))).collect()
    }

    /// A path under our directory as it is called in the node.
    fn shown(&self, path: &Path) -> String {
        let name = path.file_name().unwrap_or_default();
        format!("/dev/{}", name.to_string_lossy())
    }

    fn raised(&self, volume_id: &str, what: &str) -> Result<Raised, DeviceError> {
        self.loops.of_volume(volume_id, &self.volumes).ok_or_else(|| {
            let none = std::io::Error::from_raw_os_error(libc::ENODEV);
            failed(format!("{what} the device of {volume_id} (there is none)"))(none)
        })
    }
}

/// What a device shows as its size.
/// Who uses a device for longer than a glance.
fn user(raised: &Raised) -> Option<Holder> {
    let deadline = Instant::now() + GLANCE;
    loop {
        match mounts::holder(raised.major, raised.minor) {
            Some(Holder::Open { .. }) if Instant::now() < deadline => std::thread::sleep(GLANCE / 25),
            found => return found,
        }
    }
}

fn size(raised: &Raised) -> u64 {
    let sectors = std::fs::read_to_string(format!("/sys/block/loop{}/size", raised.number));
    sectors.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default() * 512
}

fn relink(target: &Path, link: &Path) -> Result<(), DeviceError> {
    if std::fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let _ = std::fs::remove_file(link);
    symlink(target, link).map_err(failed(format!("naming {}", link.display())))
}

fn fs_ioctl(dir: &File, request: libc::c_ulong) -> std::io::Result<()> {
    // SAFETY: these requests take no argument that is read.
    let result = unsafe { libc::ioctl(dir.as_raw_fd(), request as _, 0) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn bad(message: String) -> DeviceError {
    DeviceError::Failed { operation: "reading the request".to_owned(), errno: libc::EINVAL, message }
}

fn failed(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> DeviceError {
    let operation = operation.into();
    move |error| DeviceError::Failed { operation, errno: error.raw_os_error().unwrap_or_default(), message: error.to_string() }
}

fn loop_failed(error: LoopError) -> DeviceError {
    failed(error.operation)(error.source)
}
