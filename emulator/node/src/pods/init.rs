//! The helper process that becomes a container, or enters one. It runs in a process of its own with one thread, so
//! that `fork`, `unshare` and `setns` are safe; the `ebbtide` binary calls [`container_init_main`] before anything else.
//!
//! `container-init FILE`: makes the namespaces, forks the container's first process and waits for it. On its standard input
//! (a socket) it says `pid N`, and then, if the command cannot be executed, `config TEXT` or `exec TEXT`; the end of the
//! socket means that the command runs. It exits as the container does: with its code, or 128 and the signal's number.
//!
//! `container-exec FILE`: enters a container's namespaces and runs a command there. With a terminal, its standard input is a
//! socket, to which it gives the outer end ([`terminal`]).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork};

use super::config::{CAPABILITIES, ContainerConfig, ExecConfig, Process};
use super::{rootfs, terminal};

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("{operation} {subject}: {source}")]
    System { operation: &'static str, subject: String, source: std::io::Error },
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NotFound(String),
    #[error("exec: \"{program}\": {why}")]
    NotExecutable { program: String, why: String },
}

impl InitError {
    pub(super) fn system(operation: &'static str, subject: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::System { operation, subject: subject.into(), source: source.into() }
    }

    fn is_exec(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::NotExecutable { .. })
    }
}

/// Carries out `container-init FILE` or `container-exec FILE` (the first two arguments) and ends the process.
pub fn container_init_main() -> ! {
    let mut args = std::env::args().skip(1);
    let code = match (args.next().as_deref(), args.next()) {
        (Some("container-init"), Some(file)) => init(&file),
        (Some("container-exec"), Some(file)) => exec(&file),
        _ => {
            eprintln!("usage: container-init FILE | container-exec FILE");
            2
        }
    };
    std::process::exit(code)
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> Result<T, String> {
    let text = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("{file}: {error}"))
}

fn init(file: &str) -> i32 {
    // The socket was given as standard input; duplicated it closes itself when the command is executed.
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else { return 125 };
    let mut socket = UnixStream::from(socket);
    let say = |socket: &mut UnixStream, kind: &str, text: &str| {
        let _ = socket.write_all(format!("{kind} {}\n", text.replace('\n', " ")).as_bytes());
    };
    let config: ContainerConfig = match read(file) {
        Ok(config) => config,
        Err(error) => {
            say(&mut socket, "config", &error);
            return 125;
        }
    };
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWPID) {
        say(&mut socket, "config", &InitError::system("unshare", "the PID namespace", errno).to_string());
        return 125;
    }
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let error = container(&config);
            say(&mut socket, if error.is_exec() { "exec" } else { "config" }, &error.to_string());
            128
        }
        Ok(ForkResult::Parent { child }) => {
            say(&mut socket, "pid", &child.to_string());
            drop(socket);
            // The pipes end when the container does, not when this process does.
            detach_output();
            wait_for(child)
        }
        Err(errno) => {
            say(&mut socket, "config", &InitError::system("fork", "", errno).to_string());
            125
        }
    }
}

fn detach_output() {
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        for fd in 0..=2 {
            // SAFETY: replaces a standard descriptor, which nothing else in this process uses any more.
            unsafe { libc::dup2(null.as_raw_fd(), fd) };
        }
    }
}

fn wait_for(child: nix::unistd::Pid) -> i32 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 125,
        }
    }
}

/// The container's first process. Returns only when the command could not be executed.
fn container(config: &ContainerConfig) -> InitError {
    // Here and not in the parent, whose root would change with ours.
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    if let Err(errno) = unshare(flags) {
        return InitError::system("unshare", "namespaces", errno);
    }
    if let Err(error) = rootfs::enter(config) {
        return error;
    }
    let null = match std::fs::OpenOptions::new().read(true).open("/dev/null") {
        Ok(null) => null,
        Err(error) => return InitError::system("open", "/dev/null", error),
    };
    // SAFETY: standard input was the kubelet's socket, of which the caller has its own copy.
    unsafe { libc::dup2(null.as_raw_fd(), 0) };
    run(&config.process, true)
}

/// Becomes the command. Returns only on failure.
fn run(process: &Process, die_with_parent: bool) -> InitError {
    match prepare(process, die_with_parent) {
        Ok(()) => execute(process),
        Err(error) => error,
    }
}

fn prepare(process: &Process, die_with_parent: bool) -> Result<(), InitError> {
    let _ = nix::unistd::setsid();
    // SAFETY: restores default actions; no handler of ours is installed.
    unsafe {
        for number in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
            let _ = signal(number, SigHandler::SigDfl);
        }
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if let Some(dir) = process.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        let _ = std::fs::create_dir_all(dir);
        std::env::set_current_dir(dir).map_err(|error| InitError::system("chdir to cwd", dir, error))?;
    }
    if let Some(keep) = &process.capabilities {
        for (number, name) in CAPABILITIES.iter().enumerate().filter(|(_, name)| !keep.iter().any(|kept| kept == *name)) {
            // SAFETY: a plain prctl; a capability that this kernel does not know (EINVAL), or that we may not drop, stays as it is.
            let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
            let _ = name;
        }
    }
    let groups: Vec<_> = process.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    own_stdio(process.uid);
    nix::unistd::setgroups(&groups).map_err(|errno| InitError::system("setgroups", "", errno))?;
    nix::unistd::setgid(Gid::from_raw(process.gid)).map_err(|errno| InitError::system("setgid", process.gid.to_string(), errno))?;
    nix::unistd::setuid(Uid::from_raw(process.uid)).map_err(|errno| InitError::system("setuid", process.uid.to_string(), errno))?;
    // After the change of identity, which clears it.
    if die_with_parent {
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    }
    if process.no_new_privileges {
        let _ = nix::sys::prctl::set_no_new_privs();
    }
    Ok(())
}

/// Gives pipes and terminals on the standard descriptors to the user, who may then open them by their names under /dev
/// (`fixStdioPermissions` of runc). What cannot be given stays as it is.
fn own_stdio(uid: u32) {
    for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let pipe = rustix::fs::fstat(fd).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo);
        if pipe || rustix::termios::isatty(fd) {
            let _ = nix::unistd::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
}

fn execute(process: &Process) -> InitError {
    use std::os::unix::process::CommandExt;
    let Some(program) = process.argv.first() else {
        return InitError::NotExecutable { program: String::new(), why: "no command".into() };
    };
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
    let found = if program.contains('/') {
        Some(program.clone())
    } else {
        let candidates = path.split(':').map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir }));
        candidates.into_iter().find(|candidate| std::fs::metadata(candidate).is_ok_and(|meta| meta.is_file()))
    };
    let Some(found) = found else { return InitError::NotFound(program.clone()) };
    let mut command = std::process::Command::new(&found);
    command.arg0(program).args(&process.argv[1..]).env_clear().envs(process.env.iter().cloned());
    // The agent does without (its allocator), and who is started by it inherits that.
    let _ = rustix::thread::disable_transparent_huge_pages(false);
    let error = command.exec();
    let why = match error.raw_os_error() {
        Some(libc::ENOENT) => format!("stat {found}: no such file or directory"),
        Some(libc::EACCES) => "permission denied".into(),
        _ => error.to_string(),
    };
    InitError::NotExecutable { program: program.clone(), why }
}

fn exec(file: &str) -> i32 {
    let config: ExecConfig = match read(file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return 126;
        }
    };
    let _ = std::fs::remove_file(file);
    // Opened now, since the path means nothing inside; closes itself when the command is executed.
    let Ok(mut report) = File::create(&config.report) else { return 126 };
    let mut fail = |error: &InitError| {
        let _ = report.write_all(error.to_string().as_bytes());
        126
    };
    if let Err(error) = enter(config.pid) {
        return fail(&error);
    }
    let inner = match config.tty.then(|| terminal::give(std::io::stdin().as_fd())).transpose() {
        Ok(inner) => inner,
        Err(error) => return fail(&error),
    };
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            if let Some(inner) = inner
                && let Err(error) = terminal::control(inner)
            {
                return fail(&error);
            }
            let error = run(&config.process, true);
            fail(&error)
        }
        Ok(ForkResult::Parent { child }) => {
            drop(inner);
            detach_output();
            wait_for(child)
        }
        Err(errno) => fail(&InitError::system("fork", "", errno)),
    }
}

/// Enters the namespaces and the root directory of a process.
fn enter(pid: i32) -> Result<(), InitError> {
    let open = |name: &str| -> Result<OwnedFd, InitError> {
        let path = format!("/proc/{pid}/{name}");
        File::open(&path).map(OwnedFd::from).map_err(|error| InitError::system("open", path, error))
    };
    let root = open("root")?;
    let kinds = [
        ("ns/ipc", CloneFlags::CLONE_NEWIPC),
        ("ns/uts", CloneFlags::CLONE_NEWUTS),
        ("ns/pid", CloneFlags::CLONE_NEWPID),
        ("ns/mnt", CloneFlags::CLONE_NEWNS),
    ];
    let namespaces = kinds.map(|(name, kind)| open(name).map(|fd| (fd, kind, name)));
    for namespace in namespaces {
        let (fd, kind, name) = namespace?;
        setns(fd, kind).map_err(|errno| InitError::system("setns", name, errno))?;
    }
    nix::unistd::fchdir(root).map_err(|errno| InitError::system("fchdir", "root", errno))?;
    nix::unistd::chroot(".").map_err(|errno| InitError::system("chroot", "root", errno))?;
    nix::unistd::chdir("/").map_err(|errno| InitError::system("chdir", "/", errno))
}
