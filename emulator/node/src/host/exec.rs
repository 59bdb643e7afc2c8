//! `ebbtide node exec NODE -- CMD`: what SSM is on AWS.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use emulator_common::places::Places;
use nix::sched::{CloneFlags, setns};

use super::NodeError;
use super::record::find;
use crate::config::{METADATA_VARIABLE, NodeConfig};

/// Runs a command in a node's namespaces with this process's standard streams, and waits for it.
pub fn exec(places: &Places, node: &str, argv: &[OsString]) -> Result<ExitStatus, NodeError> {
    let emulator_common::process::Process { pid, .. } = find(places, node).ok_or_else(|| NodeError::NotRunning(node.to_owned()))?;
    let (program, args) = argv.split_first().ok_or_else(|| NodeError::Config("no command was given".to_owned()))?;
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).map_err(NodeError::file("opening", path))
    };
    let (pid_ns, mount_ns, uts_ns) = (open("pid")?, open("mnt")?, open("uts")?);
    let mut command = Command::new(program);
    command.args(args).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    let config = std::fs::read(places.node(node).join("config.json")).ok();
    if let Some(NodeConfig { metadata: Some(metadata), .. }) = config.and_then(|text| serde_json::from_slice(&text).ok()) {
        command.env(METADATA_VARIABLE, metadata.node);
    }
    // SAFETY: between fork and exec only setns, chdir and prctl are called, which are system calls; the files were opened before.
    unsafe {
        command.pre_exec(move || {
            setns(uts_ns.as_fd(), CloneFlags::CLONE_NEWUTS)?;
            setns(mount_ns.as_fd(), CloneFlags::CLONE_NEWNS)?;
            nix::unistd::chdir("/")?;
            // This process does without (its allocator), and its children inherit that.
            rustix::thread::disable_transparent_huge_pages(false)?;
            Ok(())
        });
    }
    // The PID namespace counts for the children of the thread that enters it, and such a thread can start no more threads: it is its own.
    let run = move || {
        setns(pid_ns.as_fd(), CloneFlags::CLONE_NEWPID)?;
        command.spawn()?.wait()
    };
    let run = std::thread::Builder::new().spawn(run).map_err(NodeError::system("starting a thread"))?;
    let result = run.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")));
    result.map_err(NodeError::system(format!("running {program:?} in {node}")))
}
