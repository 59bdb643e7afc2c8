//! The EFS server of a node: answers `mount.efs` on a unix socket and serves what it mounted.

use crate::fs::{CreationInfo, Fs, Identity, Options, Root, RootError};
use crate::protocol::{self, Answer, MountAsk, Refusal, RefusalKind, Request};
use crate::server::{self, Cache, Running};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a client that may mount gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The file system's directory on this machine.
    pub directory: PathBuf,
    /// The access point's root directory, or `/`.
    pub root_directory: PathBuf,
    /// The access point's user.
    pub identity: Option<Identity>,
    /// How to make a missing root directory.
    pub creation: Option<CreationInfo>,
    /// The policy lets this client read only: changes answer EROFS.
    pub read_only: bool,
    /// Metered size in bytes, for `df`.
    pub used: u64,
}

/// Asks who may mount what; may block.
pub type Resolver = Box<dyn Fn(MountAsk) -> Result<Export, Refusal> + Send + Sync>;

/// Tells a server to stop. Clones mean the same server.
#[derive(Debug, Clone)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    pub fn new() -> io::Result<Stop> {
        Ok(Stop(Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// The server aborts its mounts and returns.
    pub fn stop(&self) {
        // A full counter means that it was told already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A server that cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("another EFS server listens on {path}")]
    InUse { path: PathBuf },
    #[error("listen on {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("wait for mount requests")]
    Wait(#[source] rustix::io::Errno),
}

/// How mounts are served.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    pub cache: Cache,
    /// File data by the kernel alone, where it can (Linux 6.9).
    pub passthrough: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { cache: Cache::default(), passthrough: true }
    }
}

/// Serves until stopped. Then its mounts are gone: those in this mount namespace are unmounted, the others fail.
pub fn serve(socket: &Path, resolver: Resolver, stop: Stop) -> Result<(), ServeError> {
    serve_tuned(socket, resolver, stop, Tuning::default())
}

/// [`serve`] with other than the default tuning.
pub fn serve_tuned(socket: &Path, resolver: Resolver, stop: Stop, tuning: Tuning) -> Result<(), ServeError> {
    let listener = listen(socket)?;
    raise_file_limit();
    let daemon = Arc::new(Daemon { resolver, tuning, sessions: Mutex::default() });
    tracing::info!(socket = %socket.display(), "EFS server ready");
    let result = loop {
        let mut ready = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stop.0, PollFlags::IN)];
        // Now and then sessions that ended are dropped.
        match rustix::event::poll(&mut ready, Some(&Timespec { tv_sec: 30, tv_nsec: 0 })) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => break Err(ServeError::Wait(error)),
            Ok(_) if !ready[1].revents().is_empty() => break Ok(()),
            Ok(_) => {}
        }
        daemon.sessions().running.retain(|s| !s.is_finished());
        match listener.accept() {
            Ok((stream, _)) => {
                let daemon = daemon.clone();
                // Without a thread the stream is dropped: the helper says that nobody answered.
                let started = std::thread::Builder::new().name("efs-mount".into()).spawn(move || daemon.answer(&stream));
                if let Err(error) = started {
                    tracing::warn!(%error, "no thread for a mount request");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!(%error, "cannot accept a mount request"),
        }
    };
    // Best effort: a stale socket is replaced at the next start.
    let _ = std::fs::remove_file(socket);
    let running = {
        let mut sessions = daemon.sessions();
        sessions.stopping = true;
        std::mem::take(&mut sessions.running)
    };
    running.iter().for_each(Running::abort);
    running.into_iter().for_each(Running::join);
    result
}

fn listen(socket: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen { path: socket.into(), source };
    if std::fs::symlink_metadata(socket).is_ok_and(|m| m.file_type().is_socket()) {
        if UnixStream::connect(socket).is_ok() {
            return Err(ServeError::InUse { path: socket.into() });
        }
        std::fs::remove_file(socket).map_err(failed)?;
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// One descriptor for each file that the clients' kernels know.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Best effort: with less, clients see EMFILE sooner.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[derive(Default)]
struct Sessions {
    running: Vec<Running>,
    stopping: bool,
}

struct Daemon {
    resolver: Resolver,
    tuning: Tuning,
    sessions: Mutex<Sessions>,
}

impl Daemon {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, stream: &UnixStream) {
        if let Err(error) = self.try_answer(stream) {
            tracing::warn!(%error, "a mount request was not answered");
        }
    }

    fn try_answer(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (request, _) = protocol::receive::<Request>(stream)?;
        let ask = request.ask.clone();
        match self.mount(request) {
            Ok((mounted, running)) => {
                tracing::info!(fs = ask.file_system_id, ap = ask.access_point_id, path = ask.path, target = ask.target, "EFS mounted");
                let minor = running.minor;
                let mut sessions = self.sessions();
                if sessions.stopping {
                    drop(sessions);
                    running.abort();
                    return Ok(());
                }
                sessions.running.push(running);
                drop(sessions);
                // Our copy of the mount closes here: if the helper does not take it, it disappears.
                protocol::send(stream, &Answer::Mounted { minor }, Some(&mounted))
            }
            Err(refusal) => {
                let Refusal { kind, message } = &refusal;
                tracing::info!(fs = ask.file_system_id, ap = ask.access_point_id, ?kind, message, "EFS mount refused");
                protocol::send(stream, &Answer::Refused(refusal), None)
            }
        }
    }

    fn mount(&self, request: Request) -> Result<(OwnedFd, Running), Refusal> {
        let path = PathBuf::from(&request.ask.path);
        let export = (self.resolver)(request.ask)?;
        let root = Root::open(&export.directory, &export.root_directory, export.creation.as_ref(), &path).map_err(refuse_root)?;
        let failed = |error: &dyn std::error::Error| Refusal { kind: RefusalKind::Failed, message: chain(error) };
        let one_identity = export.identity.is_some();
        let options = Options { identity: export.identity, read_only: export.read_only || request.view.read_only, used: export.used };
        let fs = Arc::new(Fs::new(root, options).map_err(|e| failed(&e))?);
        server::mount(fs, request.view, self.tuning.cache, self.tuning.passthrough, one_identity).map_err(|e| failed(&e))
    }
}

/// What the client of an NFS server would be told.
fn refuse_root(error: RootError) -> Refusal {
    let kind = match &error {
        RootError::NoCreationInfo { .. } | RootError::AccessPointRoot { .. } => RefusalKind::Denied,
        RootError::Path { .. } => RefusalKind::NoSuchPath,
        RootError::Export { .. } | RootError::Create { .. } | RootError::View { .. } => RefusalKind::Failed,
    };
    Refusal { kind, message: chain(&error) }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
