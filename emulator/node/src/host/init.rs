//! The node's first process: sets the namespaces up, forks the node proper, and from then on only reaps orphans and passes signals on.

use std::fs::File;
use std::os::fd::FromRawFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

use super::record;
use super::{NodeError, NodeHooks, chain, dev, spawn, work};
use crate::NodeConfig;

/// What `ebbtide node run --config FILE` does: sets the node up and runs it until it is told to stop. Must be called as PID 1 of a new
/// PID and mount namespace and before the process has threads; returns only when it could not start.
pub fn run(config: NodeConfig, hooks: NodeHooks) -> Result<std::convert::Infallible, NodeError> {
    if getpid().as_raw() != 1 {
        return Err(NodeError::NotFirst);
    }
    // Before anybody can know who we are: the kernel drops a first process's signals that are neither blocked nor handled.
    let forwarded = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&forwarded), None).map_err(|error| NodeError::system("blocking signals")(error.into()))?;
    let lock = match set_up(&config) {
        Ok(lock) => lock,
        Err(error) => {
            spawn::say(Err(&error));
            return Err(error);
        }
    };
    // SAFETY: there are no threads yet (the caller's promise), so the child may do anything a process may.
    match unsafe { fork() } {
        Err(error) => {
            let error = NodeError::system("forking the node")(error.into());
            spawn::say(Err(&error));
            Err(error)
        }
        Ok(ForkResult::Child) => {
            let unblocked = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&forwarded), None);
            let result = unblocked.map_err(|error| NodeError::system("unblocking signals")(error.into()));
            match result.and_then(|()| work::work(config, hooks)) {
                Ok(()) => std::process::exit(0),
                Err(error) => {
                    tracing::error!(error = chain(&error), "the node ends");
                    std::process::exit(1)
                }
            }
        }
        Ok(ForkResult::Parent { child }) => {
            // The pipe is the child's to speak on; the starter waits for its last end to close.
            let _ = nix::unistd::close(spawn::READY_FD);
            let code = reap(child, &forwarded);
            drop(lock);
            std::process::exit(code)
        }
    }
}

/// Returns the node's lock.
fn set_up(config: &NodeConfig) -> Result<File, NodeError> {
    let places = config.places();
    // SAFETY: the starter put the lock under this number; nothing else in this process uses it, and it is closed once.
    let lock = unsafe { File::from_raw_fd(spawn::LOCK_FD) };
    // Not for what is executed in the node: it may outlive both of its processes by a moment.
    fcntl(&lock, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| NodeError::system("keeping the lock")(error.into()))?;
    // /proc is still the host's, so this is who we are there.
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(NodeError::file("reading", "/proc/self/stat"))?;
    let this =
        emulator_common::process::Process::parse(&stat).ok_or_else(|| NodeError::Config("/proc/self/stat has another form".to_owned()))?;
    dev::set_up(config)?;
    record::write(&places, &config.name, this)?;
    Ok(lock)
}

/// Reaps whatever ends until the node proper does. Its status becomes ours, and then the kernel ends everything else in the namespace.
fn reap(node: Pid, forwarded: &SigSet) -> i32 {
    loop {
        match forwarded.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => {
                let _ = kill(node, signal);
                continue;
            }
            Err(_) => continue,
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == node => return code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == node => return 128 + signal as i32,
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                _ => {}
            }
        }
    }
}
