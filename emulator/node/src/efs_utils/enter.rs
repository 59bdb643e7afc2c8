//! The way of efs-utils' programs into the instance's network: `/sbin/mount.efs` and the watchdog are this program, which becomes the real
//! one there.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::install::{WATCHDOG, real};
use crate::config::inside;

/// What the node tells whoever comes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Welcome {
    pub python: PathBuf,
    /// Where the API is.
    pub endpoint: String,
}

/// The real program that stands for this name here, if any does.
pub fn stands_for(name: &str) -> Option<&'static str> {
    let name = ["mount.efs", WATCHDOG].into_iter().find(|known| *known == name)?;
    Path::new(inside::VPC_SOCKET).exists().then_some(name)
}

/// Becomes the real program; `args` without the program's name.
pub fn main(name: &str, args: impl Iterator<Item = OsString>) -> ExitCode {
    match become_real(name, args) {
        Ok(never) => match never {},
        Err(message) => {
            eprintln!("{name}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn become_real(name: &str, args: impl Iterator<Item = OsString>) -> Result<Infallible, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let mut text = Vec::new();
    // The answer comes when the network is as the API has it now.
    UnixStream::connect(inside::VPC_SOCKET)
        .and_then(|mut stream| stream.read_to_end(&mut text))
        .map_err(|error| failed("this node's network does not answer; is its ebbtide still there?", &error))?;
    let welcome: Welcome = serde_json::from_slice(&text).map_err(|error| failed("this node's network gave another answer", &error))?;
    let network = std::fs::File::open(inside::VPC_NETWORK).map_err(|error| failed(inside::VPC_NETWORK, &error))?;
    setns(&network, CloneFlags::CLONE_NEWNET).map_err(|error| failed("entering the instance's network (are you root?)", &error))?;
    let mut command = Command::new(welcome.python);
    command.arg(real(name)).args(args);
    // Names of AWS lead nowhere here; whoever has another endpoint keeps it.
    if std::env::var_os("AWS_ENDPOINT_URL").is_none() {
        command.env("AWS_ENDPOINT_URL", welcome.endpoint);
    }
    // What is in /sbin cannot be written.
    let error = command.env("PYTHONDONTWRITEBYTECODE", "1").exec();
    Err(failed("running the real program", &error))
}
