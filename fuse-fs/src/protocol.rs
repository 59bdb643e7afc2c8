//! What `mount.efs` and the server say to each other: one line of JSON each way, the mount beside the answer (SCM_RIGHTS).

use crate::server::View;
use serde::{Deserialize, Serialize};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Where the server of this node listens, unless `EBBTIDE_EFS_SOCKET` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/ebbtide/node/efs.sock";
/// Longest message, bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// May this client mount, and what does it get? Asked of the resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountAsk {
    /// `fs-…`
    pub file_system_id: String,
    /// `fsap-…`
    pub access_point_id: Option<String>,
    /// The `az` option.
    pub availability_zone: Option<String>,
    /// The `mounttargetip` option.
    pub mount_target_ip: Option<String>,
    pub tls: bool,
    pub iam: bool,
    pub read_only: bool,
    /// Below the file system's or the access point's root.
    pub path: String,
    /// Where the client mounts it; for the log.
    pub target: String,
}

/// The request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub ask: MountAsk,
    pub view: View,
}

/// Why there is no mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// For Unresolved and Unreachable: what `mount.efs` prints.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalKind {
    /// The name does not resolve: no such file system, or no mount target. `mount.efs` exits 1.
    Unresolved,
    /// The network does not let the client through. `mount.efs` waits.
    Unreachable,
    /// The server refuses: policy, access point. Exit 32.
    Denied,
    /// The path of `fs-…:/path` does not exist. Exit 32.
    NoSuchPath,
    /// This installation cannot mount: no FUSE, no directory. Exit 1.
    Failed,
}

/// The answer line; with `Mounted` comes the detached mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Minor device number of the mount.
    Mounted {
        minor: u32,
    },
    Refused(Refusal),
}

/// Sends one line, and a descriptor with it.
pub fn send(stream: &UnixStream, message: &impl Serialize, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut sent = 0;
    if let Some(descriptor) = descriptor {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [descriptor.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for the descriptor"));
        }
        sent = rustix::net::sendmsg(stream, &[io::IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    }
    io::Write::write_all(&mut &*stream, &line[sent..])
}

/// Receives one line, and the descriptor that came with it.
pub fn receive<M: for<'de> Deserialize<'de>>(stream: &UnixStream) -> io::Result<(M, Option<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut line = Vec::new();
    let mut descriptor = None;
    loop {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = match rustix::net::recvmsg(stream, &mut [io::IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            // A receive with a time limit is interrupted by every signal, also by the end of a process that the node inherited.
            Err(rustix::io::Errno::INTR) => continue,
            got => got?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                descriptor = fds.next().or(descriptor);
            }
        }
        if got.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed the connection before it answered"));
        }
        line.extend_from_slice(&chunk[..got.bytes]);
        if line.ends_with(b"\n") {
            return Ok((serde_json::from_slice(&line)?, descriptor));
        }
        if line.len() > MESSAGE_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
    }
}
