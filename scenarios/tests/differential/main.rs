//! The kernel of the virtual world beside the one that runs this: random calls must give the same errno, and then show the same mounts,
//! files and devices. Needs root, and says so without. `EBBTIDE_DIFFERENTIAL_CASES` makes it longer (`make test-long`).

mod linux;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use linux::Linux;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use scenarios::world::kernel::{Entry, Errno, Handle, Kernel, Mode, Tree, Trees};

/// With a file system from the beginning, and without one.
const DISK: &str = "vol-0123456789abcdef0";
const BLANK: &str = "vol-0fedcba9876543210";
const VOLUMES: [&str; 2] = [DISK, BLANK];
const MIB: u64 = 1 << 20;
const SMALL: u64 = 16 * MIB;
const LARGE: u64 = 32 * MIB;
/// A few, so that calls meet.
const PATHS: [&str; 11] = ["/a", "/b", "/c", "/a/a", "/a/b", "/b/a", "/b/b", "/a/b/a", "/f", "/a/f", "/b/f"];

#[derive(Debug, Clone)]
enum Call {
    Mkdir(&'static str),
    Rmdir(&'static str),
    Mount(&'static str, &'static str, bool),
    Bind(&'static str, &'static str),
    RemountBind(&'static str, bool),
    Remount(&'static str, bool),
    Umount(&'static str, bool),
    Open(&'static str, Mode),
    Close(usize),
    Allocate(usize, u64),
    Attach(&'static str),
    Detach(&'static str),
    Enlarge(&'static str),
    Grow(&'static str),
    WriteBehind(&'static str),
}

fn call() -> impl Strategy<Value = Call> {
    let path = || prop::sample::select(&PATHS[..]);
    let directory = || prop::sample::select(&PATHS[..8]);
    // Mostly the one that can be mounted.
    let volume = || prop_oneof![5 => Just(DISK), 1 => Just(BLANK)];
    prop_oneof![
        4 => directory().prop_map(Call::Mkdir),
        2 => path().prop_map(Call::Rmdir),
        8 => (volume(), path(), prop::bool::weighted(0.2)).prop_map(|(volume, path, read_only)| Call::Mount(volume, path, read_only)),
        6 => (path(), path()).prop_map(|(from, path)| Call::Bind(from, path)),
        3 => (path(), any::<bool>()).prop_map(|(path, read_only)| Call::RemountBind(path, read_only)),
        3 => (path(), any::<bool>()).prop_map(|(path, read_only)| Call::Remount(path, read_only)),
        8 => (path(), prop::bool::weighted(0.3)).prop_map(|(path, lazy)| Call::Umount(path, lazy)),
        3 => path().prop_map(|path| Call::Open(path, Mode::Read)),
        6 => path().prop_map(|path| Call::Open(path, Mode::Write)),
        5 => (0..4usize).prop_map(Call::Close),
        6 => (0..4usize, prop::sample::select(&[MIB, 24 * MIB][..])).prop_map(|(file, bytes)| Call::Allocate(file, bytes)),
        3 => volume().prop_map(Call::Attach),
        3 => volume().prop_map(Call::Detach),
        2 => volume().prop_map(Call::Enlarge),
        4 => path().prop_map(Call::Grow),
        1 => volume().prop_map(Call::WriteBehind),
    ]
}

/// The virtual side, with what is outside of a kernel.
struct Virtual {
    kernel: Kernel,
    trees: Trees,
    /// The sizes of the volumes, attached or not.
    sizes: BTreeMap<&'static str, u64>,
    open: BTreeMap<usize, Handle>,
}

impl Virtual {
    fn new() -> Self {
        let disk = Tree::formatted("ext4", SMALL);
        Self {
            kernel: Kernel::default(),
            trees: Trees::from([(DISK.into(), disk), (BLANK.into(), Tree::default())]),
            sizes: VOLUMES.map(|volume| (volume, SMALL)).into(),
            open: BTreeMap::new(),
        }
    }

    fn walk(&self, path: &str, found: &mut BTreeMap<String, Option<u64>>) {
        for (name, entry) in self.kernel.list(&self.trees, path).unwrap() {
            let below = format!("{path}/{name}");
            // Files may cover files only, and directories directories.
            found.insert(below.clone(), (entry == Entry::File).then(|| self.kernel.size(&self.trees, &below).unwrap()));
            if entry == Entry::Directory {
                self.walk(&below, found);
            }
        }
    }
}

/// Makes a call on both sides; none where it says nothing on either.
fn both(one: &mut Virtual, linux: &mut Linux, call: &Call) -> Option<(Result<(), Errno>, Result<(), i32>)> {
    let Virtual { kernel, trees, sizes, open } = one;
    let nth = |n: usize, open: &BTreeMap<usize, Handle>| open.iter().nth(n % open.len().max(1)).map(|(number, handle)| (*number, *handle));
    Some(match *call {
        Call::Mkdir(path) => (kernel.mkdir(trees, path), linux.mkdir(path)),
        // A directory without a name is not modelled.
        Call::Rmdir(path) if kernel.is_held(trees, path) => return None,
        Call::Rmdir(path) => (kernel.rmdir(trees, path), linux.rmdir(path)),
        Call::Mount(volume, path, read_only) => (kernel.mount(trees, volume, path, read_only), linux.mount(volume, path, read_only)),
        Call::Bind(from, path) => (kernel.bind(trees, from, path), linux.bind(from, path)),
        Call::RemountBind(path, read_only) => {
            (kernel.remount_bind(trees, path, read_only), linux.remount(path, read_only, MsFlags::MS_BIND))
        }
        Call::Remount(path, read_only) => (kernel.remount(trees, path, read_only), linux.remount(path, read_only, MsFlags::empty())),
        Call::Umount(path, lazy) => (kernel.umount(trees, path, lazy), linux.umount(path, lazy)),
        Call::Open(path, mode) => {
            let number = open.last_key_value().map_or(0, |(last, _)| last + 1);
            let here = kernel.open(trees, path, mode).map(|handle| {
                open.insert(number, handle);
            });
            (here, linux.open(number, path, mode))
        }
        Call::Close(n) => {
            let (number, handle) = nth(n, open)?;
            open.remove(&number);
            linux.close(number);
            (kernel.close(handle), Ok(()))
        }
        Call::Allocate(n, bytes) => {
            let (number, handle) = nth(n, open)?;
            (kernel.allocate(trees, handle, bytes), linux.allocate(number, bytes))
        }
        Call::Attach(volume) => {
            kernel.attach(volume, sizes[volume]);
            (Ok(()), linux.attach(volume))
        }
        Call::Detach(volume) => (kernel.detach(volume), linux.detach(volume)),
        Call::Enlarge(volume) => {
            sizes.insert(volume, LARGE);
            if kernel.devices().contains_key(volume) {
                kernel.attach(volume, LARGE);
            }
            (Ok(()), linux.enlarge(volume, LARGE))
        }
        Call::Grow(_) if !linux.may_grow => return None,
        Call::Grow(path) => (kernel.grow(trees, path), linux.grow(path)),
        Call::WriteBehind(volume) => {
            let end = kernel.devices().get(volume).copied().unwrap_or_default();
            (kernel.write_device(volume, end), linux.write_behind(volume))
        }
    })
}

fn compare(calls: &[Call], image: &Path) -> Result<(), TestCaseError> {
    let (mut one, mut linux) = (Virtual::new(), Linux::new(image));
    // So that most calls find something.
    let begin = [Call::Mkdir("/a"), Call::Mkdir("/b"), Call::Mkdir("/a/b"), Call::Attach(DISK)];
    for (number, call) in begin.iter().chain(calls).enumerate() {
        let Some((here, there)) = both(&mut one, &mut linux, call) else { continue };
        prop_assert_eq!(here.map_err(Errno::number), there, "{}: {:?} (left: virtual, {:?})", number, call, here);
        let (mut mounts, mut real) = (one.kernel.mounts(), linux.mounts());
        mounts.sort();
        real.sort();
        prop_assert_eq!(mounts, real, "mounts after {}: {:?}", number, call);
        prop_assert_eq!(one.kernel.devices(), &linux.devices(), "devices after {}: {:?}", number, call);
        let (mut files, mut there) = (BTreeMap::new(), BTreeMap::new());
        one.walk("", &mut files);
        linux.walk("", &mut there);
        prop_assert_eq!(files, there, "files after {}: {:?}", number, call);
    }
    Ok(())
}

/// In a mount namespace of its own, which takes all mounts with it when it ends.
fn inside(cases: u32) {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(SMALL).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap();
    assert!(made.success(), "mkfs.ext4: {made}");
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() };
    let calls = prop::collection::vec(call(), 1..60);
    let result = TestRunner::new(config).run(&calls, |calls| compare(&calls, &image));
    if let Err(error) = result {
        panic!("{error}");
    }
}

const INSIDE: &str = "EBBTIDE_DIFFERENTIAL_INSIDE";

#[test]
fn the_virtual_kernel_answers_as_linux_does() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: not root: mounts and loop devices need CAP_SYS_ADMIN");
    }
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/loop-control") {
        return println!("skipped: /dev/loop-control cannot be opened ({error}); is the loop module there? try `modprobe loop`");
    }
    if !linux::has_sys_resource() {
        println!("skipped, of all calls: growing a mounted ext4 needs CAP_SYS_RESOURCE");
    }
    let cases = std::env::var("EBBTIDE_DIFFERENTIAL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(32);
    if std::env::var_os(INSIDE).is_some() {
        return inside(cases);
    }
    // A process of its own: a mount namespace belongs to one, and `/proc` shows whose it is.
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "the_virtual_kernel_answers_as_linux_does", "--nocapture"]).env(INSIDE, "1");
    // SAFETY: one system call that allocates nothing, between fork and exec.
    unsafe { again.pre_exec(|| Ok(unshare(CloneFlags::CLONE_NEWNS)?)) };
    let ended = again.output().unwrap();
    assert!(ended.status.success(), "{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
}
