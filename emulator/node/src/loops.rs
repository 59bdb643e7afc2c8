//! Loop devices over volumes' files. Each carries its volume's id as its name, and is found again by the file's identity (device and
//! inode), since a path may read differently from another mount namespace: after a crash the kernel is the truth.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loopdev::LoopDevice;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const LOOP_CTL_ADD: libc::c_ulong = 0x4C80;
const LOOP_CTL_REMOVE: libc::c_ulong = 0x4C81;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Below this number are other people's devices; they are not even looked at.
const LOWEST: u32 = 1000;
/// How long a device may take to let its file go after the last one closed it.
const CLEAR_LIMIT: Duration = Duration::from_secs(3);

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A system call on a loop device failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct LoopError {
    pub operation: String,
    #[source]
    pub source: io::Error,
}

/// Why a device was not taken down.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    #[error("it is mounted or held open")]
    Busy,
    #[error(transparent)]
    Failed(#[from] LoopError),
}

fn failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> LoopError {
    let operation = operation.into();
    move |source| LoopError { operation, source }
}

/// A loop device that has a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    pub number: u32,
    pub major: u64,
    pub minor: u64,
    /// The name given when it was raised: the volume's id.
    pub name: String,
    /// Device and inode of the file.
    file: (u64, u64),
}

/// The loop driver, as seen from one place.
#[derive(Debug, Clone)]
pub struct Loops {
    /// Where device nodes may be made to reach a device that has no name there; they are gone a moment later.
    nodes: PathBuf,
    /// The first number that may be taken.
    first: u32,
}

impl Loops {
    pub fn new(nodes: impl Into<PathBuf>, first: u32) -> Self {
        Self { nodes: nodes.into(), first }
    }

    /// Why there can be no loop devices here; none where there can.
    pub fn unusable() -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("not root: loop devices need CAP_SYS_ADMIN".to_owned());
        }
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control");
        control.err().map(|error| format!("/dev/loop-control cannot be opened ({error}); is the loop module there? try `modprobe loop`"))
    }

    /// The device of a volume's file: the one that is there, or a new one. Several nodes share one.
    pub fn raise(&self, file: &Path, name: &str) -> Result<Raised, LoopError> {
        let open = |direct| OpenOptions::new().read(true).write(true).custom_flags(direct).open(file);
        let backing = open(libc::O_DIRECT).or_else(|_| open(0)).map_err(failed(format!("opening {}", file.display())))?;
        // Two agents may raise a device for one file at the same time.
        let backing = nix::fcntl::Flock::lock(backing, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, error)| failed(format!("locking {}", file.display()))(error.into()))?;
        let meta = backing.metadata().map_err(failed(format!("reading {}", file.display())))?;
        let identity = (meta.dev(), meta.ino());
        if let Some(raised) = self.all().into_iter().find(|raised| raised.file == identity) {
            return Ok(raised);
        }
        let control = control()?;
        let mut number = self.first;
        loop {
            match ioctl(&control, LOOP_CTL_ADD, number.into()) {
                Ok(_) => {}
                // One that somebody left without a file will do.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) && !is_bound(number) => {}
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    number += 1;
                    continue;
                }
                Err(error) => return Err(failed(format!("adding loop device {number}"))(error)),
            }
            match self.configure(number, &backing, name) {
                Ok(()) => break,
                // Somebody else took it between the two calls, or removed it.
                Err(error) if [libc::EBUSY, libc::ENXIO, libc::ENODEV, libc::ENOENT].map(Some).contains(&error.raw_os_error()) => {
                    number += 1
                }
                Err(error) => return Err(failed(format!("putting {} behind loop device {number}", file.display()))(error)),
            }
        }
        if std::fs::read_to_string(format!("/sys/block/loop{number}/loop/dio")).is_ok_and(|dio| dio.trim() == "0") {
            tracing::info!(volume = name, number, "no direct I/O to this file system: the device is buffered twice");
        }
        let (major, minor) = device_number(number)?;
        Ok(Raised { number, major, minor, name: name.to_owned(), file: identity })
    }

    fn configure(&self, number: u32, backing: &File, name: &str) -> io::Result<()> {
        let device = self.open(number, 0)?;
        let mut last = Ok(());
        for flags in [LO_FLAGS_DIRECT_IO, 0] {
            // SAFETY: all fields are integers and arrays of them, for which zero is a value.
            let mut config: LoopConfig = unsafe { std::mem::zeroed() };
            config.fd = backing.as_raw_fd() as u32;
            config.info.flags = flags;
            // 64 bytes, the last of them zero.
            config.info.file_name.iter_mut().take(63).zip(name.bytes()).for_each(|(to, byte)| *to = byte);
            last = ioctl(&device, LOOP_CONFIGURE, &raw const config as libc::c_ulong).map(drop);
            match &last {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                _ => break,
            }
        }
        last
    }

    /// Every loop device that has a file, from [`LOWEST`] up.
    pub fn all(&self) -> Vec<Raised> {
        let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_prefix("loop")?.parse().ok());
        // One that goes away while we look is not there.
        numbers.filter(|number| *number >= LOWEST && is_bound(*number)).filter_map(|number| self.status(number).ok()).collect()
    }

    /// The device of a volume, if its file lies in `under`: others are never touched.
    pub fn of_volume(&self, volume_id: &str, under: &Path) -> Option<Raised> {
        self.all().into_iter().find(|raised| raised.name == volume_id && self.is_under(raised, under))
    }

    /// Whether a device's file lies (or lay, before it was deleted) in a directory.
    pub fn is_under(&self, raised: &Raised, dir: &Path) -> bool {
        let same = |path: PathBuf| std::fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == raised.file);
        same(dir.join(format!("{}.img", raised.name))) || backing_file(raised.number).is_some_and(|path| path.starts_with(dir))
    }

    fn status(&self, number: u32) -> Result<Raised, LoopError> {
        let device = self.open(number, 0).map_err(failed(format!("opening loop device {number}")))?;
        // SAFETY: as in `configure`.
        let mut info: LoopInfo = unsafe { std::mem::zeroed() };
        ioctl(&device, LOOP_GET_STATUS64, &raw mut info as libc::c_ulong).map_err(failed(format!("asking loop device {number}")))?;
        let end = info.file_name.iter().position(|byte| *byte == 0).unwrap_or(info.file_name.len());
        let (major, minor) = device_number(number)?;
        // The kernel's encoding of a device number: 12 bits of minor above and 8 below the major's 12.
        let encoded = info.device;
        let file_device = makedev((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00));
        Ok(Raised {
            number,
            major,
            minor,
            name: String::from_utf8_lossy(&info.file_name[..end]).into_owned(),
            file: (file_device, info.inode),
        })
    }

    /// The file has grown: the device shows it.
    pub fn resize(&self, number: u32) -> Result<(), LoopError> {
        let device = self.device(number)?;
        device.set_capacity().map_err(failed(format!("resizing loop device {number}")))
    }

    /// Takes a device down, unless it is mounted or held open.
    pub fn lower(&self, raised: &Raised) -> Result<(), LowerError> {
        let number = raised.number;
        // A mounted file system, swap or device mapper holds the device exclusively.
        let exclusive = match self.open(number, libc::O_EXCL) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(LowerError::Busy),
            Err(error) if !is_bound(number) || error.raw_os_error() == Some(libc::ENXIO) => return Ok(self.remove(number)?),
            Err(error) => return Err(failed(format!("opening loop device {number}"))(error).into()),
        };
        self.device(number)?.detach().map_err(failed(format!("clearing loop device {number}")))?;
        drop(exclusive);
        let deadline = Instant::now() + CLEAR_LIMIT;
        while is_bound(number) {
            // Somebody has it open: the kernel will let the file go when they close it ("autoclear"). Until then it is busy.
            if Instant::now() >= deadline {
                return Err(LowerError::Busy);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(self.remove(number)?)
    }

    /// The number goes away too, so that nothing is left.
    fn remove(&self, number: u32) -> Result<(), LoopError> {
        let control = control()?;
        let deadline = Instant::now() + CLEAR_LIMIT;
        loop {
            match ioctl(&control, LOOP_CTL_REMOVE, number.into()) {
                Ok(_) => return Ok(()),
                Err(error) if [libc::ENODEV, libc::ENXIO].map(Some).contains(&error.raw_os_error()) => return Ok(()),
                // Who opened it a moment ago (udev) closes it in a moment.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(failed(format!("removing loop device {number}"))(error)),
            }
        }
    }

    fn device(&self, number: u32) -> Result<LoopDevice, LoopError> {
        self.with_node(number, |path| LoopDevice::open(path)).map_err(failed(format!("opening loop device {number}")))
    }

    fn open(&self, number: u32, flags: i32) -> io::Result<File> {
        self.with_node(number, |path| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path))
    }

    /// Opens a device by a node made for that: a node's `/dev` has no `loopN`.
    fn with_node<T>(&self, number: u32, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let n = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (major, minor) = device_number(number).map_err(|error| error.source)?;
        let path = self.nodes.join(format!(".ebbtide-{}-{n}", std::process::id()));
        mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor))?;
        let result = open(&path);
        let removed = std::fs::remove_file(&path);
        result.and_then(|opened| removed.map(|()| opened))
    }
}

/// Takes down every loop device over a file of this directory that nobody uses: what dead nodes left. Answers the volume ids of those
/// that went, and of those that are still in use.
pub fn remove_all_under(volumes: &Path) -> (Vec<String>, Vec<String>) {
    let loops = Loops::new("/dev", LOWEST);
    let mut gone = Vec::new();
    let mut busy = Vec::new();
    for raised in loops.all().into_iter().filter(|raised| loops.is_under(raised, volumes)) {
        match loops.lower(&raised) {
            Ok(()) => gone.push(raised.name),
            Err(error) => {
                tracing::warn!(volume = raised.name, number = raised.number, %error, "a loop device stays");
                busy.push(raised.name);
            }
        }
    }
    (gone, busy)
}

fn control() -> Result<File, LoopError> {
    OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(failed("opening /dev/loop-control"))
}

fn ioctl(file: &File, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests used here take an integer, or a pointer to a struct of the kernel's layout that lives during the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether a loop device has a file.
pub fn is_bound(number: u32) -> bool {
    Path::new(&format!("/sys/block/loop{number}/loop")).exists()
}

/// The path of a loop device's file, as this mount namespace reads it.
pub fn backing_file(number: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).ok()?;
    let text = text.trim_end_matches('\n');
    Some(PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(text)))
}

/// Major and minor number, which depend on the module's parameters.
fn device_number(number: u32) -> Result<(u64, u64), LoopError> {
    let path = format!("/sys/block/loop{number}/dev");
    let text = std::fs::read_to_string(&path).map_err(failed(format!("reading {path}")))?;
    text.trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| failed(format!("reading {path}"))(io::Error::from(io::ErrorKind::InvalidData)))
}
