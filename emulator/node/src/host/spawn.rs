//! Starting a node, or adopting one that runs.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use emulator_common::places::Places;
use emulator_common::process::Process;
use nix::sys::signal::Signal;

use super::record::{Held, START_LIMIT, find_starting, take};
use super::{NodeError, chain};
use crate::NodeConfig;

/// The number under which the node finds the pipe to its starter.
pub(super) const READY_FD: i32 = 3;
/// The number under which the node finds its lock, which the starter took.
pub(super) const LOCK_FD: i32 = 4;
/// What the node writes there when it is set up; anything else is why it is not.
pub(super) const READY: &str = "ready\n";

/// A running node.
#[derive(Debug)]
pub struct NodeProcess {
    pub name: String,
    pub process: Process,
    /// It ran before.
    pub adopted: bool,
}

/// Starts a node, or adopts the one that runs with the same configuration; one with another configuration is stopped first.
/// `exe` is this program. Returns when the node is set up (its namespaces, mounts and sockets); it registers a moment later.
pub fn spawn(config: &NodeConfig, exe: &Path) -> Result<NodeProcess, NodeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NodeError::NotRoot);
    }
    let places = config.places();
    let dir = places.node(&config.name);
    for (path, mode) in [(dir.join("kubelet"), 0o755), (dir.join("pods"), 0o755), (places.node_run(&config.name), 0o700)] {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(NodeError::file("creating", &path))?;
    }
    let config_path = dir.join("config.json");
    let json = serde_json::to_vec_pretty(config).map_err(|error| NodeError::Config(error.to_string()))?;
    // Held as long as one of the node's two processes lives: a node never runs twice.
    let lock = match take(&places, &config.name)? {
        Held::Ours(lock) => lock,
        Held::Running(process) => {
            let running = NodeProcess { name: config.name.clone(), process, adopted: true };
            if std::fs::read(&config_path).is_ok_and(|old| old == json) {
                return Ok(running);
            }
            running.stop(Duration::from_secs(30));
            match take(&places, &config.name)? {
                Held::Ours(lock) => lock,
                Held::Running(_) => return Err(NodeError::Runs(config.name.clone())),
            }
        }
    };
    std::fs::write(&config_path, &json).map_err(NodeError::file("writing", &config_path))?;
    let log_path = dir.join("log");
    let log = OpenOptions::new().create(true).append(true).open(&log_path).map_err(NodeError::file("opening", &log_path))?;
    let null = OpenOptions::new().read(true).open("/dev/null").map_err(NodeError::file("opening", "/dev/null"))?;
    let (ready, ready_in) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| NodeError::system("making a pipe to the node")(error.into()))?;
    let fds = [&null, &log, &log].map(AsRawFd::as_raw_fd);
    let pid = start(exe, &config_path, [fds[0], fds[1], fds[2], ready_in.as_raw_fd(), lock.as_raw_fd()])?;
    drop((ready_in, lock));
    let did_not = |why: String| NodeError::DidNotStart { name: config.name.clone(), why, log: log_path.clone() };
    match wait_ready(&ready) {
        Ok(text) if text == READY => {}
        Ok(text) if text.is_empty() => return Err(did_not("it ended at once".to_owned())),
        Ok(text) => return Err(did_not(text.trim().to_owned())),
        Err(error) => {
            // It is ours and it hangs: there must be no second one beside it.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            return Err(did_not(error.to_string()));
        }
    }
    let process = Process::of(pid).ok_or_else(|| did_not("it ended right after its start".to_owned()))?;
    Ok(NodeProcess { name: config.name.clone(), process, adopted: false })
}

/// Reads what the node says until it closes its end.
fn wait_ready(ready: &OwnedFd) -> std::io::Result<String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = Instant::now() + START_LIMIT;
    let mut file = std::fs::File::from(ready.try_clone()?);
    let mut text = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(ready, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "it did not say in 15 s that it is ready")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 1024];
        let read = file.read(&mut buffer)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        if read == 0 || text == READY {
            return Ok(text);
        }
    }
}

/// Clones and executes `exe node run --config FILE` in new namespaces. `fds` become 0, 1, 2, [`READY_FD`] and [`LOCK_FD`].
fn start(exe: &Path, config: &Path, fds: [i32; 5]) -> Result<i32, NodeError> {
    let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| NodeError::Config("a path holds a zero byte".to_owned()));
    let exe_c = c(exe.as_os_str().as_bytes())?;
    let args = [exe_c.clone(), c(b"node")?, c(b"run")?, c(b"--config")?, c(config.as_os_str().as_bytes())?];
    let argv: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect();
    let env: Vec<CString> = std::env::vars_os()
        .filter(|(key, _)| ["PATH", "EBBTIDE_LOG", "RUST_BACKTRACE", "LANG", "TZ"].iter().any(|name| key == name))
        .filter_map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    let envp: Vec<*const libc::c_char> = env.iter().map(|entry| entry.as_ptr()).chain([std::ptr::null()]).collect();
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): parent and child have memory of their own. This process may have
    // threads, so the child calls nothing but the system until it executes: everything it uses was made above.
    let pid = unsafe { libc::syscall(libc::SYS_clone, i64::from(flags), 0_i64, 0_i64, 0_i64, 0_i64) };
    if pid < 0 {
        let source = std::io::Error::last_os_error();
        return Err(NodeError::system("making a node's namespaces (is CAP_SYS_ADMIN missing?)")(source));
    }
    if pid == 0 {
        // SAFETY: only async-signal-safe calls on memory prepared before; ends in execve or _exit.
        unsafe { child(exe_c.as_ptr(), argv.as_ptr(), envp.as_ptr(), fds) }
    }
    i32::try_from(pid).map_err(|_| NodeError::Config(format!("the pid {pid} is out of range")))
}

/// # Safety
/// Runs between clone and execve in a copy of a process that may have had threads.
unsafe fn child(exe: *const libc::c_char, argv: *const *const libc::c_char, envp: *const *const libc::c_char, fds: [i32; 5]) -> ! {
    // SAFETY: plain system calls; the pointers are null-terminated arrays of null-terminated strings made by the caller.
    unsafe {
        // A session of its own: the terminal's signals and the death of the starter do not reach it.
        libc::setsid();
        libc::umask(0o022);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        // First out of the way of 0..=4, then into place: a source may have a low number itself.
        let mut high = [0; 5];
        for (n, fd) in fds.iter().enumerate() {
            high[n] = libc::fcntl(*fd, libc::F_DUPFD, 100);
            if high[n] < 0 {
                libc::_exit(126);
            }
        }
        for (n, fd) in high.iter().enumerate() {
            if libc::dup2(*fd, n as i32) < 0 {
                libc::_exit(126);
            }
        }
        // Nothing else of the starter's is open in the node. An old kernel without the call has everything close-on-exec anyway.
        libc::syscall(libc::SYS_close_range, (LOCK_FD + 1) as u32, u32::MAX, 0_u32);
        libc::execve(exe, argv, envp);
        let text = b"cannot execute ebbtide";
        libc::write(READY_FD, text.as_ptr().cast(), text.len());
        libc::_exit(127)
    }
}

impl NodeProcess {
    /// Asks the node to stop its pods, unmount and end; after `grace` it is killed. Blocks until it is gone.
    pub fn stop(&self, grace: Duration) {
        if !grace.is_zero() {
            self.signal(Signal::SIGTERM);
        }
        if grace.is_zero() || !self.wait_gone(grace) {
            self.kill();
            self.wait_gone(Duration::from_secs(10));
        }
    }

    /// A crash: everything in the node ends now, and its mounts vanish.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    pub fn is_alive(&self) -> bool {
        self.reap();
        self.process.is_alive()
    }

    /// Resolves when the node has ended.
    pub async fn ended(&self) {
        let pid = nix::unistd::Pid::from_raw(self.process.pid);
        if !self.is_alive() {
            return;
        }
        // SAFETY: pidfd_open takes two integers and makes a new descriptor, which is owned from here on.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        if fd >= 0 {
            // SAFETY: the kernel just returned this descriptor to us alone.
            let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            // SAFETY: `OwnedFd` gives the same open descriptor until it is dropped, which the `AsyncFd` does after leaving the poll.
            if let Ok(fd) = unsafe { tokio::io::unix::AsyncFd::register(fd) } {
                let _ = fd.readable().await;
            }
        }
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.process.pid), signal);
        }
    }

    fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Takes the exit status of a node that is our child, so that it does not stay as a zombie.
    fn reap(&self) {
        use nix::sys::wait::{WaitPidFlag, waitpid};
        // ECHILD for an adopted one: its parent is another.
        let _ = waitpid(nix::unistd::Pid::from_raw(self.process.pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Stops a node, whoever started it; with no grace at once, as a power cut does. False: it did not run.
pub fn stop(places: &Places, name: &str, grace: Duration) -> bool {
    let Some(process) = find_starting(places, name) else { return false };
    NodeProcess { name: name.to_owned(), process, adopted: true }.stop(grace);
    true
}

/// Says on the pipe to the starter, if there is one, how setting up went.
pub(super) fn say(result: Result<(), &NodeError>) {
    let text = match result {
        Ok(()) => READY.to_owned(),
        Err(error) => chain(error),
    };
    // SAFETY: the starter put the pipe under this number; nothing else in this process uses it, and it is closed once.
    let mut pipe = unsafe { std::fs::File::from_raw_fd(READY_FD) };
    // A starter that went away is no reason to end.
    let _ = std::io::Write::write_all(&mut pipe, text.as_bytes());
}
