//! Terminals of executed commands. A terminal belongs to a container: it is made in the container's own devpts, so that its
//! name means something there, and its outer end is passed to the kubelet over a socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::init::InitError;

const MULTIPLEXER: &str = "/dev/pts/ptmx";

/// In the container: makes a terminal, sends its outer end through the socket, and returns its inner end.
pub(super) fn give(socket: BorrowedFd<'_>) -> Result<OwnedFd, InitError> {
    let fail = |operation| move |errno: rustix::io::Errno| InitError::system(operation, MULTIPLEXER, errno);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let outer = rustix::fs::open(MULTIPLEXER, flags, Mode::empty()).map_err(fail("open"))?;
    unlockpt(&outer).map_err(fail("unlock the terminal of"))?;
    // Not by its name, which the container may have put something else over.
    let inner =
        ioctl_tiocgptpeer(&outer, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(fail("open the terminal of"))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let ends = [outer.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&ends));
    sendmsg(socket, &[IoSlice::new(b"t")], &mut control, SendFlags::NOSIGNAL).map_err(fail("hand over the terminal of"))?;
    Ok(inner)
}

/// In the command's process: a new session, controlled by the terminal on all three standard descriptors.
pub(super) fn control(inner: OwnedFd) -> Result<(), InitError> {
    let fail = |operation| move |errno: rustix::io::Errno| InitError::system(operation, "the terminal", errno);
    let _ = nix::unistd::setsid();
    rustix::process::ioctl_tiocsctty(&inner).map_err(fail("be controlled by"))?;
    for fd in 0..=2 {
        // SAFETY: replaces a standard descriptor; nothing in this process owns those.
        if unsafe { libc::dup2(inner.as_raw_fd(), fd) } < 0 {
            return Err(InitError::system("use", "the terminal", std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// In the kubelet: the outer end that comes through the socket, ready for non-blocking use; none when the helper ended without.
pub(super) async fn receive(socket: std::os::unix::net::UnixStream) -> std::io::Result<Option<OwnedFd>> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixStream::from_std(socket)?;
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let ends = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(ends) => Some(ends),
            _ => None,
        });
        Ok(ends.flatten().next())
    };
    let outer: Option<OwnedFd> = socket.async_io(tokio::io::Interest::READABLE, receive).await?;
    if let Some(outer) = &outer {
        rustix::io::ioctl_fionbio(outer, true)?;
    }
    Ok(outer)
}
