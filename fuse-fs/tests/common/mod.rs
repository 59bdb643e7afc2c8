//! A node's EFS server over a temporary directory, with mounts that are gone when the test ends, also when it fails.
#![allow(dead_code)] // each test file uses a part

use fuse_fs::daemon::{Export, Stop, Tuning, serve_tuned};
use fuse_fs::fs::{CreationInfo, Identity};
use fuse_fs::mount_efs::{self, Environment, Failure};
use fuse_fs::protocol::{MountAsk, Refusal, RefusalKind};
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const FS: &str = "fs-0123456789abcdef0";

/// True (and says so) where these tests cannot run.
pub fn skipped() -> bool {
    let why = match () {
        () if !rustix::process::geteuid().is_root() => "needs root",
        () if !Path::new("/dev/fuse").exists() => "needs /dev/fuse",
        () => return false,
    };
    println!("skipped: {why}");
    true
}

/// Access points of the test's file system, by the last hex digit of their id.
pub fn access_point(n: u32) -> String {
    format!("fsap-{n:017x}")
}

pub fn identity(uid: u32, gid: u32, secondary: &[u32]) -> Identity {
    Identity { uid, gid, secondary_gids: secondary.to_vec() }
}

/// One access point: its user, root directory and how that is made.
#[derive(Clone)]
pub struct AccessPoint {
    pub identity: Option<Identity>,
    pub root: &'static str,
    pub creation: Option<CreationInfo>,
}

pub struct Node {
    directory: tempfile::TempDir,
    stop: Stop,
    server: Option<JoinHandle<()>>,
    targets: Vec<PathBuf>,
}

impl Node {
    pub fn start(points: Vec<AccessPoint>) -> Node {
        Node::start_tuned(points, Tuning::default(), false)
    }

    pub fn start_tuned(points: Vec<AccessPoint>, tuning: Tuning, policy_read_only: bool) -> Node {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(directory.path().join("export")).expect("mkdir");
        std::fs::create_dir(directory.path().join("state")).expect("mkdir");
        let stop = Stop::new().expect("eventfd");
        let (socket, export) = (directory.path().join("efs.sock"), directory.path().join("export"));
        let blocked = directory.path().join("blocked");
        let resolver = move |ask: MountAsk| {
            if blocked.exists() {
                return Err(Refusal { kind: RefusalKind::Unreachable, message: "Cannot connect".into() });
            }
            if ask.file_system_id != FS {
                let message = format!("Failed to resolve \"{}.efs.us-east-1.amazonaws.com\"", ask.file_system_id);
                return Err(Refusal { kind: RefusalKind::Unresolved, message });
            }
            let point = match &ask.access_point_id {
                None => AccessPoint { identity: None, root: "/", creation: None },
                Some(id) => {
                    let index = usize::from_str_radix(&id[5..], 16).expect("checked by the helper");
                    let denied = || Refusal { kind: RefusalKind::Denied, message: "no such access point".into() };
                    points.get(index).cloned().ok_or_else(denied)?
                }
            };
            Ok(Export {
                directory: export.clone(),
                root_directory: point.root.into(),
                identity: point.identity,
                creation: point.creation,
                read_only: policy_read_only,
                used: 3 << 20,
            })
        };
        let (listening, its_stop) = (socket.clone(), stop.clone());
        let server = std::thread::spawn(move || {
            serve_tuned(&listening, Box::new(resolver), its_stop, tuning).expect("serve");
        });
        wait_until("the server listens", || socket.exists());
        Node { directory, stop, server: Some(server), targets: Vec::new() }
    }

    pub fn export(&self) -> PathBuf {
        self.directory.path().join("export")
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("efs.sock")
    }

    /// Whether the network lets nobody through.
    pub fn block(&self, blocked: bool) {
        let file = self.directory.path().join("blocked");
        if blocked { std::fs::write(file, "") } else { std::fs::remove_file(file) }.expect("the switch");
    }

    /// Runs the helper for a new directory.
    pub fn try_mount(&mut self, source: &str, options: &str) -> Result<PathBuf, Failure> {
        let target = self.directory.path().join(format!("mount{}", self.targets.len()));
        std::fs::create_dir(&target).expect("mkdir");
        self.targets.push(target.clone());
        self.mount_at(source, &target, options).map(|()| target)
    }

    pub fn mount_at(&self, source: &str, target: &Path, options: &str) -> Result<(), Failure> {
        let args: Vec<String> = ["mount.efs", source, &target.display().to_string(), "-o", options].map(str::to_owned).to_vec();
        let environment = Environment {
            socket: self.socket(),
            attempt: Duration::from_millis(10),
            connect: Duration::from_millis(10),
            pause: Duration::from_millis(10),
            pace: Duration::from_millis(1),
            state_directory: self.state(),
            log_directory: self.state(),
        };
        mount_efs::run(&args, &environment)
    }

    pub fn mount(&mut self) -> PathBuf {
        self.try_mount(&format!("{FS}:/"), "rw").expect("mount")
    }

    pub fn mount_point(&mut self, n: u32) -> PathBuf {
        self.try_mount(&format!("{FS}:/"), &format!("rw,tls,accesspoint={}", access_point(n))).expect("mount")
    }

    /// Stops the server and waits for it.
    pub fn stop(&mut self) {
        self.stop.stop();
        if let Some(server) = self.server.take() {
            server.join().expect("the server ended in order");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for target in &self.targets {
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        }
        self.stop.stop();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited 10 s until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The rows of mountinfo at or below a directory.
pub fn mounts_below(directory: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mount_efs::mountinfo::parse(&table).filter(|m| m.target.starts_with(directory)).count()
}

/// Runs `work` as another user, in a thread of its own.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let body = move || {
            // SAFETY: raw calls change this thread only; pointer and length are those of one slice.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            work()
        };
        scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The error number, or 0.
pub fn code<T>(result: Result<T, rustix::io::Errno>) -> i32 {
    result.err().map_or(0, rustix::io::Errno::raw_os_error)
}

pub fn io_code<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}
