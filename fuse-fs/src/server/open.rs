//! How the kernel does I/O on an open file: through the server and its own cache, or on the backing file by itself.

use crate::fs::{Fs, Inode, Opened};
use fuser::{BackingId, FileAttr, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Kept with an inode while it is open. The kernel allows one way of I/O a file at a time: through its own cache, or on
/// one registered backing file.
#[derive(Debug, Default)]
pub struct OpenState {
    opens: u32,
    backing: Option<BackingId>,
}

/// Whether the kernel may do I/O by itself in this mount.
#[derive(Debug)]
pub(super) struct Passthrough {
    enabled: AtomicBool,
    /// With one identity all writes clear setuid alike; otherwise a file with setuid must see who writes.
    one_identity: bool,
}

impl Passthrough {
    pub(super) fn new(enabled: bool, one_identity: bool) -> Passthrough {
        Passthrough { enabled: AtomicBool::new(enabled), one_identity }
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(super) fn disable(&self) {
        self.enabled.store(false, Ordering::Relaxed);
    }

    /// The mode bits do not matter.
    pub(super) fn ignores_mode(&self) -> bool {
        self.one_identity || !self.enabled()
    }

    /// Decides how the kernel does I/O on a file just opened, and answers.
    pub(super) fn answer(&self, fs: &Fs<OpenState>, opened: &Opened<OpenState>, direct: bool, perm: u16, answer: impl OpenAnswer) {
        let mut state = opened.inode.open_state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.opens == 0 && self.enabled.load(Ordering::Relaxed) && (self.one_identity || perm & 0o6000 == 0) {
            match fs.with_descriptor(opened.handle, |fd| answer.open_backing(fd)) {
                Ok(Ok(backing)) => state.backing = Some(backing),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the kernel takes no backing file; data goes through the server");
                    self.enabled.store(false, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        }
        state.opens += 1;
        // O_DIRECT on NFS knows no alignment, the backing disk does: such I/O comes to the server.
        let flags = if direct { FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES } else { FopenFlags::empty() };
        answer.send(FileHandle(opened.handle), flags, state.backing.as_ref());
    }

    /// One open file less.
    pub(super) fn closed(inode: &Inode<OpenState>) {
        let mut state = inode.open_state.lock().unwrap_or_else(PoisonError::into_inner);
        state.opens = state.opens.saturating_sub(1);
        if state.opens == 0 {
            state.backing = None;
        }
    }
}

/// The two requests that open a file.
pub(super) trait OpenAnswer {
    fn open_backing(&self, fd: &OwnedFd) -> io::Result<BackingId>;
    fn send(self, handle: FileHandle, flags: FopenFlags, backing: Option<&BackingId>);
}

impl OpenAnswer for ReplyOpen {
    fn open_backing(&self, fd: &OwnedFd) -> io::Result<BackingId> {
        ReplyOpen::open_backing(self, fd)
    }
    fn send(self, handle: FileHandle, flags: FopenFlags, backing: Option<&BackingId>) {
        match backing {
            Some(backing) => self.opened_passthrough(handle, flags, backing),
            None => self.opened(handle, flags),
        }
    }
}

/// A create's answer with its attribute lifetime and attributes.
pub(super) struct Create<'a>(pub ReplyCreate, pub &'a Duration, pub &'a FileAttr);

impl OpenAnswer for Create<'_> {
    fn open_backing(&self, fd: &OwnedFd) -> io::Result<BackingId> {
        self.0.open_backing(fd)
    }
    fn send(self, handle: FileHandle, flags: FopenFlags, backing: Option<&BackingId>) {
        match backing {
            Some(backing) => self.0.created_passthrough(self.1, self.2, Generation(0), handle, flags, backing),
            None => self.0.created(self.1, self.2, Generation(0), handle, flags),
        }
    }
}
