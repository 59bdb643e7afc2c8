//! `mount.efs`: what mount(8) runs for `-t efs`. Arguments, texts and exit codes are those of efs-utils 3.2.0
//! (spec/efs.md §3.2, §3.3, §3.5); the mount itself comes from this node's EFS server ([`crate::daemon`]).

pub mod mountinfo;
pub mod options;
pub(crate) mod server;
mod state;

use crate::protocol::{self, MountAsk, RefusalKind, Request};
use options::{Device, Fatal, Options};
use server::{Asked, NotAttached, is_mounted};
use state::Log;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const VERSION: &str = "3.2.0";
const USAGE: &str = "Usage: mount.efs [--version] [-h|--help] <fsname> <mountpoint> [-o <options>]\n";
/// Attempts of the real helper: two with a limit, the last without.
const ATTEMPTS: u32 = 3;
/// Attempts to connect to an address that was given.
const CONNECTS: u32 = 3;

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
    /// Time limit of the first attempts; the last has none.
    pub attempt: Duration,
    /// Time limit of an attempt to connect to an address that was given.
    pub connect: Duration,
    /// Time between such attempts.
    pub pause: Duration,
    /// How soon a network that does not let through is tried again within an attempt, as TCP does.
    pub pace: Duration,
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
            connect: Duration::from_secs(2),
            pause: Duration::from_millis(500),
            pace: Duration::from_secs(1),
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
        tell_mounted(&target, &log);
        return Ok(());
    }
    let helper = Helper { device: &device, options: &options, target: &target, environment, log: &log };
    helper.mount().inspect_err(|failure| {
        let (id, target) = (&device.file_system_id, target.display());
        let Failure { message, code } = failure;
        log.write("ERROR", &format!("Failed to mount {id} at {target}: returncode={code}, stderr=\"{message}\""));
    })
}

fn tell_mounted(target: &Path, log: &Log) {
    let target = target.display();
    println!("{target} is already mounted, please run 'mount' command to verify");
    log.write("WARNING", &format!("{target} is already mounted, mount aborted"));
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
            let asked = match self.options.get("mounttargetip") {
                Some(ip) if attempt == 1 => self.connect(ip)?,
                _ => self.ask_for((!last).then_some(self.environment.attempt))?,
            };
            let refusal = match asked {
                Ok((mount, minor)) => {
                    self.tell_watchdog(&mut watchdog_told);
                    return self.finish(&mount, minor);
                }
                Err(refusal) => refusal,
            };
            match refusal.kind {
                RefusalKind::Unresolved => return Err(Failure { message: refusal.message, code: 1 }),
                RefusalKind::Failed => return Err(Failure { message: format!("mount.efs: {}", refusal.message), code: 1 }),
                RefusalKind::Unreachable => {
                    self.tell_watchdog(&mut watchdog_told);
                    let reason = format!("timeout after {} sec", self.environment.attempt.as_secs());
                    self.report_attempt(attempt, &reason, Duration::ZERO);
                }
                RefusalKind::Denied | RefusalKind::NoSuchPath => {
                    self.tell_watchdog(&mut watchdog_told);
                    let text = server::refusal_text(refusal.kind, &format!("127.0.0.1:{}", self.device.path));
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

    /// The real helper connects to an address that it was given before it mounts, and gives up soon.
    fn connect(&self, ip: &str) -> Result<Asked, Failure> {
        for left in (0..CONNECTS).rev() {
            let asked = self.ask_for(Some(self.environment.connect))?;
            match &asked {
                Err(refusal) if refusal.kind == RefusalKind::Unreachable && left == 0 => {
                    return Err(Failure { message: refusal.message.clone(), code: 1 });
                }
                Err(refusal) if refusal.kind == RefusalKind::Unreachable => {
                    let pause = self.environment.pause;
                    let text =
                        format!("The ip address {ip} cannot be connected yet, sleep {}s, {left} retry time(s) left", pause.as_secs_f32());
                    self.log.write("WARNING", &text);
                    std::thread::sleep(pause);
                }
                _ => return Ok(asked),
            }
        }
        self.ask() // not reached: the last round returns
    }

    /// Asks again while the network does not let through, up to a limit if there is one.
    fn ask_for(&self, limit: Option<Duration>) -> Result<Asked, Failure> {
        let start = Instant::now();
        loop {
            let asked = self.ask()?;
            if !matches!(&asked, Err(refusal) if refusal.kind == RefusalKind::Unreachable) {
                return Ok(asked);
            }
            let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(asked);
            }
            std::thread::sleep(left.map_or(self.environment.pace, |left| left.min(self.environment.pace)));
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

    fn ask(&self) -> Result<Asked, Failure> {
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
        server::ask(&self.environment.socket, Request { ask, view: self.options.view() })
            .map_err(|message| Failure { message: format!("mount.efs: {message}"), code: 1 })
    }

    fn finish(&self, mount: &OwnedFd, minor: u32) -> Result<(), Failure> {
        let target = self.target.display();
        match server::attach(mount, self.target) {
            Ok(()) => {}
            Err(NotAttached::Mounted) => {
                tell_mounted(self.target, self.log);
                return Ok(());
            }
            Err(NotAttached::MountPoint(problem)) => {
                return Err(Failure { message: format!("b'mount.nfs4: mount point {target} {problem}'"), code: 1 });
            }
            Err(NotAttached::Failed(message)) => return Err(Failure { message: format!("mount.efs: {message}"), code: 32 }),
        }
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
