//! `mount.efs`: what mount(8) runs for `-t efs`. Arguments, texts and exit codes are those of efs-utils 3.2.0
//! (spec/efs.md §3.2, §3.3, §3.5); the mount itself comes from this node's EFS server ([`crate::daemon`]).

pub mod mountinfo;
pub mod options;
mod state;

use crate::protocol::{self, Answer, MountAsk, Refusal, RefusalKind, Request};
use options::{Device, Fatal, Options};
use rustix::mount::{MoveMountFlags, UnmountFlags};
use state::Log;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const VERSION: &str = "3.2.0";
const USAGE: &str = "Usage: mount.efs [--version] [-h|--help] <fsname> <mountpoint> [-o <options>]\n";
/// Attempts of the real helper: two with a limit, the last without.
const ATTEMPTS: u32 = 3;

/// Why `mount.efs` ends without a mount: what it prints on stderr, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl From<Fatal> for Failure {
    fn from(Fatal(message): Fatal) -> Failure {
        Failure { message, code: 1 }
    }
}

/// Where the helper finds its surroundings.
#[derive(Debug, Clone)]
pub struct Environment {
    pub socket: PathBuf,
    /// Time limit of the first attempts; the last one asks again at this pace.
    pub attempt: Duration,
    pub state_directory: PathBuf,
    pub log_directory: PathBuf,
}

impl Environment {
    /// `EBBTIDE_EFS_SOCKET`, `EBBTIDE_EFS_STATE_DIR`, `EBBTIDE_EFS_LOG_DIR` or the usual places.
    pub fn from_process() -> Environment {
        let place = |key: &str, default: &str| std::env::var_os(key).map_or_else(|| default.into(), PathBuf::from);
        Environment {
            socket: place("EBBTIDE_EFS_SOCKET", protocol::DEFAULT_SOCKET),
            attempt: Duration::from_secs(15),
            state_directory: place("EBBTIDE_EFS_STATE_DIR", "/var/run/efs"),
            log_directory: place("EBBTIDE_EFS_LOG_DIR", "/var/log/amazon/efs"),
        }
    }
}

/// The helper; `args` with the program's name first.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    let given = args.get(1..).unwrap_or_default();
    if given.iter().any(|a| a == "-h" || a == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if given.iter().any(|a| a == "--version") {
        println!("{} Version: {VERSION}", args[0]);
        return ExitCode::SUCCESS;
    }
    match run(&args, &Environment::from_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.message.trim_end_matches('\n'));
            ExitCode::from(failure.code)
        }
    }
}

/// Mounts as the arguments say.
pub fn run(args: &[String], environment: &Environment) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fatal("only root can run this command".into()).into());
    }
    let (Some(device), Some(target)) = (args.get(1), args.get(2)) else {
        return Err(Failure { message: USAGE.into(), code: 1 });
    };
    let rest = args.get(3..).unwrap_or_default();
    let options = match rest.iter().position(|a| a == "-o").and_then(|at| rest.get(at + 1)) {
        Some(text) => Options::parse(text)?,
        None => Options::default(),
    };
    let log = Log::new(&environment.log_directory);
    log.write("INFO", &format!("version={VERSION} options={}", options.log_form()));
    let device = Device::parse(device, &options)?;
    options.check().inspect_err(|Fatal(message)| log.write("ERROR", message))?;
    if rest.iter().any(|a| a == "-f") {
        log.write("INFO", "Fake mount mode enabled (-f), skipping actual mount");
        return Ok(());
    }
    let target = std::path::absolute(target).unwrap_or_else(|_| target.into());
    if is_mounted(&target) {
        let target = target.display();
        println!("{target} is already mounted, please run 'mount' command to verify");
        log.write("WARNING", &format!("{target} is already mounted, mount aborted"));
        return Ok(());
    }
    let helper = Helper { device: &device, options: &options, target: &target, environment, log: &log };
    helper.mount().inspect_err(|failure| {
        let (id, target) = (&device.file_system_id, target.display());
        let Failure { message, code } = failure;
        log.write("ERROR", &format!("Failed to mount {id} at {target}: returncode={code}, stderr=\"{message}\""));
    })
}

/// Has the directory one of our mounts on top? (The real helper's own check never sees FUSE.) One whose server died is
/// taken away: NFS would have come back to life, FUSE only answers ENOTCONN for ever.
fn is_mounted(target: &Path) -> bool {
    let resolved = target.canonicalize().unwrap_or_else(|_| target.into());
    loop {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mountinfo::parse(&table).filter(|m| m.target == resolved).last().is_none_or(|m| m.fs_type != "fuse.efs") {
            return false;
        }
        let dead = std::fs::metadata(&resolved).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN));
        if !dead || rustix::mount::unmount(&resolved, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            return true;
        }
    }
}

struct Helper<'a> {
    device: &'a Device,
    options: &'a Options,
    target: &'a Path,
    environment: &'a Environment,
    log: &'a Log,
}

impl Helper<'_> {
    fn mount(&self) -> Result<(), Failure> {
        let has_access_point = self.options.has("accesspoint");
        let mut watchdog_told = false;
        for attempt in 1.. {
            let last = attempt >= ATTEMPTS;
            let refusal = match self.ask()? {
                Ok((mount, minor)) => {
                    self.tell_watchdog(&mut watchdog_told);
                    return self.finish(&mount, minor);
                }
                Err(refusal) => refusal,
            };
            match refusal.kind {
                RefusalKind::Unresolved => return Err(Failure { message: refusal.message, code: 1 }),
                RefusalKind::Failed => return Err(Failure { message: format!("mount.efs: {}", refusal.message), code: 1 }),
                // The real helper connects to an address that it was given before it mounts.
                RefusalKind::Unreachable if self.options.has("mounttargetip") => return Err(Failure { message: refusal.message, code: 1 }),
                RefusalKind::Unreachable => {
                    self.tell_watchdog(&mut watchdog_told);
                    std::thread::sleep(self.environment.attempt);
                    if !last {
                        let reason = format!("timeout after {} sec", self.environment.attempt.as_secs());
                        self.report_attempt(attempt, &reason, Duration::ZERO);
                    }
                }
                RefusalKind::Denied | RefusalKind::NoSuchPath => {
                    self.tell_watchdog(&mut watchdog_told);
                    let text = self.server_refusal(refusal.kind);
                    self.log.write("DEBUG", &format!("the server's reason: {}", refusal.message));
                    // An access point may not be available yet; only then "access denied" is tried again.
                    if last || !has_access_point || refusal.kind == RefusalKind::NoSuchPath {
                        return Err(Failure { message: format!("b'{text}'"), code: 32 });
                    }
                    let wait = back_off(attempt - 1);
                    self.report_attempt(attempt, &format!("b'{text}\\n'"), wait);
                    std::thread::sleep(wait);
                }
            }
        }
        Ok(()) // not reached: each round returns or goes on
    }

    /// The text of mount.nfs4.
    fn server_refusal(&self, kind: RefusalKind) -> String {
        let path = &self.device.path;
        match kind {
            RefusalKind::NoSuchPath => {
                format!("mount.nfs4: mounting 127.0.0.1:{path} failed, reason given by server: No such file or directory")
            }
            _ => format!("mount.nfs4: access denied by server while mounting 127.0.0.1:{path}"),
        }
    }

    fn report_attempt(&self, attempt: u32, reason: &str, wait: Duration) {
        let text = format!("Mount attempt {attempt}/{ATTEMPTS} failed due to {reason}, wait {} sec before next attempt.", wait.as_secs());
        // As the real helper: who reads stderr later still sees each attempt.
        let _ = writeln!(std::io::stderr(), "{text}");
        self.log.write("ERROR", &text);
    }

    /// The real helper starts its watchdog through the init system; in a pod or a node of ours it does not know that.
    fn tell_watchdog(&self, told: &mut bool) {
        if std::mem::replace(told, true) {
            return;
        }
        let comm = std::fs::read_to_string("/proc/1/comm").unwrap_or_else(|_| "unknown".into());
        let init = comm.trim();
        if init != "systemd" && init != "init" {
            let text = format!("Could not start amazon-efs-mount-watchdog, unrecognized init system \"{init}\"");
            let _ = writeln!(std::io::stderr(), "{text}");
            self.log.write("WARNING", &text);
        }
    }

    fn ask(&self) -> Result<Result<(OwnedFd, u32), Refusal>, Failure> {
        let socket = &self.environment.socket;
        let no_server = |error: std::io::Error| Failure {
            message: format!(
                "mount.efs: no EFS server answers on {}: {error}. Start it with `ebbtide up` (each node runs one), or set EBBTIDE_EFS_SOCKET.",
                socket.display()
            ),
            code: 1,
        };
        let stream = UnixStream::connect(socket).map_err(no_server)?;
        let option = |key: &str| self.options.get(key).map(str::to_owned);
        let ask = MountAsk {
            file_system_id: self.device.file_system_id.clone(),
            access_point_id: option("accesspoint"),
            availability_zone: option("az").or_else(|| self.device.zone.clone()),
            mount_target_ip: option("mounttargetip"),
            tls: self.options.has("tls"),
            iam: self.options.has("iam"),
            read_only: self.options.has("ro"),
            path: self.device.path.clone(),
            target: self.target.display().to_string(),
        };
        protocol::send(&stream, &Request { ask, view: self.options.view() }, None).map_err(no_server)?;
        match protocol::receive::<Answer>(&stream).map_err(no_server)? {
            (Answer::Mounted { minor }, Some(mount)) => Ok(Ok((mount, minor))),
            (Answer::Mounted { .. }, None) => Err(no_server(std::io::Error::other("the answer has no mount"))),
            (Answer::Refused(refusal), _) => Ok(Err(refusal)),
        }
    }

    fn finish(&self, mount: &OwnedFd, minor: u32) -> Result<(), Failure> {
        let target = self.target.display();
        let problem = match std::fs::metadata(self.target) {
            Err(_) => Some("does not exist"),
            Ok(metadata) if !metadata.is_dir() => Some("is not a directory"),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            return Err(Failure { message: format!("b'mount.nfs4: mount point {target} {problem}'"), code: 1 });
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        rustix::mount::move_mount(mount, c"", rustix::fs::CWD, self.target, flags)
            .map_err(|error| Failure { message: format!("mount.efs: cannot attach the mount at {target}: {error}"), code: 32 })?;
        // 15 × rsize, as efs-utils; best effort, a container may not write it.
        let rsize = self.options.get("rsize").and_then(|r| r.parse::<u64>().ok()).unwrap_or(1 << 20);
        let _ = std::fs::write(format!("/sys/class/bdi/0:{minor}/read_ahead_kb"), (15 * rsize / 1024).to_string());
        let Environment { state_directory, .. } = self.environment;
        let port = self.options.get("tlsport").and_then(|p| p.trim().parse().ok());
        let id = &self.device.file_system_id;
        state::note_mount(state_directory, id, self.options.get("accesspoint"), self.options.has("tls"), self.target, port);
        self.log.write("INFO", &format!("Successfully mounted {id} at {target}"));
        Ok(())
    }
}

/// 1.5^i seconds and up to one more.
fn back_off(round: u32) -> Duration {
    let jitter = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_millis());
    Duration::from_secs_f64(1.5f64.powi(round as i32)) + Duration::from_millis(jitter.into())
}
