//! Pods as processes. A container is a process in its own mount, PID, UTS and IPC namespaces; the command itself is process 1
//! there, as under a container runtime (so a shell without a trap ignores SIGTERM, and a stop takes the grace period).
//!
//! - [`config`]: what the helper process is told · [`init`]: the helper process · [`rootfs`]: the root file system
//! - [`terminal`]: terminals of executed commands
//! - [`log`]: the CRI log files · [`probe`]: startup, readiness and liveness
//! - [`Runtime`]: starting, signalling and entering containers from the kubelet

pub mod config;
mod init;
pub mod log;
pub mod probe;
mod rootfs;
mod terminal;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

pub use init::container_init_main;

use config::{ContainerConfig, ExecConfig, Process};
use log::LogWriter;
use model_node::pod::StartError;

/// Starts containers with the help of a program that calls [`container_init_main`].
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The program: the `ebbtide` binary.
    pub helper: PathBuf,
}

/// A running container.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    /// Names the process even after its number is used again.
    pidfd: OwnedFd,
    /// What commands in the container run as.
    pub process: Process,
}

/// A container that was started, and how to wait for its end.
pub struct Started {
    pub container: Arc<Container>,
    child: Child,
    copies: Vec<tokio::task::JoinHandle<()>>,
}

impl Started {
    /// Waits for the end: the exit code, or 128 and the signal's number. Its output is in the log then.
    pub async fn wait(mut self) -> i32 {
        let code = match self.child.wait().await {
            Ok(status) => {
                use std::os::unix::process::ExitStatusExt;
                status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
            }
            // Somebody else took the exit status; the container is gone all the same.
            Err(error) => {
                tracing::warn!(%error, "the end of a container was seen, its exit code was not");
                255
            }
        };
        for copy in self.copies {
            // A process that left the container's namespaces may hold its output open for ever.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), copy).await;
        }
        code
    }
}

impl Container {
    /// Its first process, in the node's numbering.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends SIGTERM, or with `kill` SIGKILL. A container that is gone is no error.
    pub fn signal(&self, kill: bool) {
        let signal = if kill { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }
}

impl Runtime {
    fn helper(&self, verb: &str, file: &Path) -> Command {
        let mut command = Command::new(&self.helper);
        command.arg(verb).arg(OsString::from(file)).kill_on_drop(true);
        command
    }

    /// Starts a container. `file`: where its configuration is written, outside of its reach.
    pub async fn start(&self, config: &ContainerConfig, file: &Path, log: LogWriter) -> Result<Started, StartError> {
        let fail = |what: &str, error: std::io::Error| StartError::Config(format!("{what}: {error}"));
        let json = serde_json::to_vec(config).map_err(|error| StartError::Config(error.to_string()))?;
        tokio::fs::write(file, json).await.map_err(|error| fail("write the container's configuration", error))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|error| fail("socketpair", error))?;
        ours.set_nonblocking(true).map_err(|error| fail("socketpair", error))?;
        let mut child = self
            .helper("container-init", file)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| fail(&format!("start {}", self.helper.display()), error))?;
        let mut copies = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            copies.push(tokio::spawn(log.clone().copy("stdout", stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            copies.push(tokio::spawn(log.copy("stderr", stderr)));
        }
        let mut said = String::new();
        let socket = tokio::net::UnixStream::from_std(ours).map_err(|error| fail("socketpair", error))?;
        BufReader::new(socket).read_to_string(&mut said).await.map_err(|error| fail("read from the helper", error))?;
        let _ = tokio::fs::remove_file(file).await;
        let mut pid = None;
        for line in said.lines() {
            match line.split_once(' ') {
                Some(("pid", number)) => pid = number.parse::<i32>().ok(),
                Some(("exec", why)) => return Err(StartError::Exec(why.to_owned())),
                Some((_, why)) => return Err(StartError::Config(why.to_owned())),
                None => {}
            }
        }
        let lost = || StartError::Config("the container's helper process ended before the container started".into());
        let pid = pid.ok_or_else(lost)?;
        let raw = rustix::process::Pid::from_raw(pid).ok_or_else(lost)?;
        // A command that is over already leaves no process to name; its end is seen by `wait`.
        let pidfd = match rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(_) => std::fs::File::open("/dev/null").map_err(|error| fail("open /dev/null", error))?.into(),
        };
        let container = Container { pid, pidfd, process: config.process.clone() };
        Ok(Started { container: Arc::new(container), child, copies })
    }

    /// Runs a command in a container. `report`: a path where an error is written to ([`exec_error`]).
    pub async fn exec(&self, container: &Container, argv: Vec<String>, stdio: ExecStdio, report: &Path) -> std::io::Result<Executed> {
        let process = Process { argv, working_dir: container.process.working_dir.clone(), ..container.process.clone() };
        let tty = matches!(stdio, ExecStdio::Terminal);
        let config = ExecConfig { pid: container.pid, report: report.display().to_string(), tty, process };
        let file = report.with_extension("json");
        tokio::fs::write(&file, serde_json::to_vec(&config).map_err(std::io::Error::other)?).await?;
        let mut command = self.helper("container-exec", &file);
        let ExecStdio::Pipes { stdin } = stdio else {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            // It holds the helper's end of the socket, whose last copy says that the helper is gone.
            drop(command);
            return Ok(Executed { child, terminal: terminal::receive(ours).await? });
        };
        let child =
            command.stdin(if stdin { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Executed { child, terminal: None })
    }
}

/// What an executed command talks to.
pub enum ExecStdio {
    Pipes { stdin: bool },
    Terminal,
}

/// A command that runs in a container.
pub struct Executed {
    pub child: Child,
    /// The terminal's outer end, non-blocking; none without a terminal, and when the command could not be executed.
    pub terminal: Option<OwnedFd>,
}

/// Why an executed command did not run; none when it did. Removes the file.
pub fn exec_error(report: &Path) -> Option<String> {
    let text = std::fs::read_to_string(report).ok();
    let _ = std::fs::remove_file(report);
    text.filter(|text| !text.is_empty())
}
