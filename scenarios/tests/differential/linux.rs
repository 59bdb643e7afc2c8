//! The calls on the kernel that runs this: a tmpfs as the root, and volumes behind loop devices.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use loopdev::{LoopControl, LoopDevice};
use nix::fcntl::FallocateFlags;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use scenarios::world::kernel::{Mode, ROOT, Shown};

use super::{BLANK, DISK, SMALL, VOLUMES};

type Answer = Result<(), i32>;

pub struct Linux {
    dir: tempfile::TempDir,
    devices: RefCell<BTreeMap<String, LoopDevice>>,
    open: BTreeMap<usize, File>,
    /// Whether a mounted ext4 may be made larger: that needs a capability of its own.
    pub may_grow: bool,
}

/// Whether this process may do what CAP_SYS_RESOURCE allows.
pub fn has_sys_resource() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|capabilities| capabilities & (1 << 24) != 0)
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or_else(|| panic!("not an errno: {error}"))
}

fn nix_errno(error: nix::errno::Errno) -> i32 {
    error as i32
}

const NO: Option<&str> = None;

impl Linux {
    /// `image`: a file with an empty file system.
    pub fn new(image: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["volumes", "root"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let root = dir.path().join("root");
        mount(Some("differential"), &root, Some("tmpfs"), MsFlags::empty(), NO).unwrap();
        let linux = Self { dir, devices: RefCell::default(), open: BTreeMap::new(), may_grow: has_sys_resource() };
        std::fs::copy(image, linux.file(DISK)).unwrap();
        File::create(linux.file(BLANK)).unwrap().set_len(SMALL).unwrap();
        linux
    }

    fn file(&self, volume: &str) -> PathBuf {
        self.dir.path().join("volumes").join(format!("{volume}.img"))
    }

    /// The device of a volume; a name of nothing when there is none.
    fn node(&self, volume: &str) -> PathBuf {
        let path = self.devices.borrow().get(volume).and_then(LoopDevice::path);
        path.unwrap_or_else(|| "/dev/no-such-device".into())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    pub fn mkdir(&self, path: &str) -> Answer {
        std::fs::create_dir(self.at(path)).map_err(errno)
    }

    pub fn rmdir(&self, path: &str) -> Answer {
        std::fs::remove_dir(self.at(path)).map_err(errno)
    }

    pub fn mount(&self, volume: &str, path: &str, read_only: bool) -> Answer {
        let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        mount(Some(&self.node(volume)), &self.at(path), Some("ext4"), flags, NO).map_err(nix_errno)
    }

    pub fn bind(&self, from: &str, path: &str) -> Answer {
        mount(Some(&self.at(from)), &self.at(path), NO, MsFlags::MS_BIND, NO).map_err(nix_errno)
    }

    pub fn remount(&self, path: &str, read_only: bool, flags: MsFlags) -> Answer {
        let flags = MsFlags::MS_REMOUNT | flags | if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        mount(NO, &self.at(path), NO, flags, NO).map_err(nix_errno)
    }

    pub fn umount(&self, path: &str, lazy: bool) -> Answer {
        umount2(&self.at(path), if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() }).map_err(nix_errno)
    }

    pub fn open(&mut self, number: usize, path: &str, mode: Mode) -> Answer {
        let opened = match mode {
            Mode::Read => File::open(self.at(path)),
            Mode::Write => OpenOptions::new().write(true).create(true).truncate(false).open(self.at(path)),
        };
        opened.map(|file| drop(self.open.insert(number, file))).map_err(errno)
    }

    pub fn close(&mut self, number: usize) {
        self.open.remove(&number);
    }

    pub fn allocate(&self, number: usize, bytes: u64) -> Answer {
        let file = &self.open[&number];
        let before = file.metadata().unwrap().len();
        nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, bytes as i64).map_err(|error| {
            if error == nix::errno::Errno::ENOSPC {
                // ext4 leaves what it could get.
                file.set_len(before).unwrap();
            }
            nix_errno(error)
        })
    }

    pub fn attach(&self, volume: &str) -> Answer {
        if self.devices.borrow().contains_key(volume) {
            return Ok(());
        }
        // Others look for free devices, too.
        let attached = (0..100).find_map(|_| {
            let device = LoopControl::open().unwrap().next_free().unwrap();
            device.attach_file(self.file(volume)).is_ok().then_some(device)
        });
        self.devices.borrow_mut().insert(volume.to_owned(), attached.expect("a free loop device"));
        Ok(())
    }

    /// As a node's agent does: whoever has it for himself, as a mounted file system does, keeps it.
    pub fn detach(&self, volume: &str) -> Answer {
        if !self.devices.borrow().contains_key(volume) {
            return Ok(());
        }
        let alone = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(self.node(volume)).map_err(errno)?;
        self.devices.borrow_mut().remove(volume).expect("it is there").detach().map_err(errno)?;
        drop(alone);
        Ok(())
    }

    pub fn enlarge(&self, volume: &str, bytes: u64) -> Answer {
        OpenOptions::new().write(true).open(self.file(volume)).unwrap().set_len(bytes).unwrap();
        self.devices.borrow().get(volume).map_or(Ok(()), |device| device.set_capacity().map_err(errno))
    }

    pub fn grow(&self, path: &str) -> Answer {
        let file = File::open(self.at(path)).map_err(errno)?;
        let device = self.device_of(file.metadata().unwrap().dev());
        let bytes = self.devices().get(&device).copied().unwrap_or_default();
        let block = nix::sys::statvfs::fstatvfs(&file).unwrap().block_size();
        let blocks = bytes / block;
        // _IOW('f', 16, __u64)
        const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
        // SAFETY: the request reads one u64, which lives during the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) };
        if result < 0 { Err(errno(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// A write just behind the end of a device.
    pub fn write_behind(&self, volume: &str) -> Answer {
        let device = OpenOptions::new().write(true).open(self.node(volume)).map_err(errno)?;
        let end = self.devices()[volume];
        device.write_at(&[0; 512], end).map(drop).map_err(errno)
    }

    /// Sizes of the devices that are there.
    pub fn devices(&self) -> BTreeMap<String, u64> {
        let size = |volume: &&str| {
            let device = File::open(self.node(volume)).ok()?;
            let end = io::Seek::seek(&mut &device, io::SeekFrom::End(0)).unwrap();
            Some(((*volume).to_owned(), end))
        };
        VOLUMES.iter().filter_map(size).collect()
    }

    fn device_of(&self, dev: u64) -> String {
        let is = |volume: &&&str| std::fs::metadata(self.node(volume)).is_ok_and(|meta| meta.rdev() == dev);
        VOLUMES.iter().find(is).map_or(ROOT, |volume| volume).to_owned()
    }

    pub fn mounts(&self) -> Vec<Shown> {
        let base = self.dir.path().join("root");
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let shown = text.lines().filter_map(|line| {
            let (mount, rest) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = mount.split(' ').collect();
            let path = Path::new(fields[4]).strip_prefix(&base).ok().filter(|path| *path != Path::new(""))?;
            let (major, minor) = fields[2].split_once(':').unwrap();
            let read_only = |options: &str| options.split(',').any(|option| option == "ro");
            Some(Shown {
                path: format!("/{}", path.display()),
                tree: self.device_of(nix::sys::stat::makedev(major.parse().unwrap(), minor.parse().unwrap())),
                root: fields[3].to_owned(),
                read_only: read_only(fields[5]),
                read_only_file_system: read_only(rest.rsplit(' ').next().unwrap()),
            })
        });
        shown.collect()
    }

    /// Everything that paths lead to: directories, and files with their sizes.
    pub fn walk(&self, path: &str, found: &mut BTreeMap<String, Option<u64>>) {
        for entry in std::fs::read_dir(self.at(path)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name == "lost+found" {
                continue;
            }
            let below = format!("{path}/{name}");
            // Not of the entry: what is mounted there counts.
            let meta = std::fs::metadata(self.at(&below)).unwrap();
            found.insert(below.clone(), meta.is_file().then_some(meta.len()));
            if meta.is_dir() {
                self.walk(&below, found);
            }
        }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.open.clear();
        let _ = umount2(&self.dir.path().join("root"), MntFlags::MNT_DETACH);
        for device in self.devices.borrow().values() {
            let _ = device.detach();
        }
    }
}
