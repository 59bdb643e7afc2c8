//! The Kubernetes API that unmodified clients talk to, over TLS on loopback, and the controllers' shell.
//!
//! [`start`] opens the state, serves HTTPS and writes the kubeconfig. [`Api`] is the same API from inside the process.

mod accounts;
mod api;
pub mod controllers;
mod expire;
mod http;
mod journal;
mod protobuf;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use emulator_common::places::Places;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use api::{Api, OpenError, Reply};
pub use tls::CredentialsError;

/// What to serve, and where.
pub struct Config {
    /// Bound already, so that a port that is taken is told before anything starts.
    pub listener: TcpListener,
    pub places: Places,
    /// CSI driver name → unix socket of its controller service.
    pub drivers: BTreeMap<String, PathBuf>,
    /// Controllers that do not run, by name; see [`controllers::Config`].
    pub controllers_off: BTreeSet<String>,
    /// Keep journals: of every write, and of what each controller is told.
    pub journal: bool,
}

/// Why the API does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    State(#[from] OpenError),
    #[error("cannot make the credentials of the Kubernetes API")]
    Credentials(#[from] CredentialsError),
    #[error("cannot listen for the Kubernetes API")]
    Listen(#[source] io::Error),
}

/// The running API.
pub struct Running {
    pub addr: SocketAddr,
    pub kubeconfig: PathBuf,
    pub api: Api,
    controllers: controllers::Controllers,
    handle: axum_server::Handle<SocketAddr>,
    server: JoinHandle<()>,
    /// Ends what runs beside the server.
    stop: CancellationToken,
    expire: JoinHandle<()>,
}

/// Starts the API and the controllers. Must be called inside a tokio runtime.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let Config { listener, places, drivers, controllers_off, journal } = config;
    let journal = journal.then(|| places.journal());
    let addr = listener.local_addr().map_err(StartError::Listen)?;
    listener.set_nonblocking(true).map_err(StartError::Listen)?;
    let credentials = tls::credentials(&places)?;
    let (state, written) = (places.state("kube"), journal.clone());
    // Opening reads the whole state: not on the runtime's threads.
    let api = tokio::task::spawn_blocking(move || Api::open_with(&state, written.as_deref()))
        .await
        .map_err(|error| StartError::Listen(io::Error::other(error)))??;
    let signer = accounts::Signer::open(&places, format!("https://{}", tls::reached_at(addr)))?;
    let router = http::router(api.clone(), places.clone(), credentials.token.clone(), signer, addr);
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(credentials.server.clone()))
        .map_err(StartError::Listen)?
        .handle(handle.clone());
    let server = tokio::spawn(async move {
        if let Err(error) = server.serve(router.into_make_service()).await {
            tracing::error!(%error, "the Kubernetes API stopped serving");
        }
    });
    // Written last: whoever finds it finds the API answering.
    let kubeconfig = tls::write_kubeconfig(&places, addr, &credentials)?;
    controllers::define(&api, &controllers_off).await;
    let controllers = controllers::start(api.clone(), controllers::Config { drivers, off: controllers_off, journal });
    let stop = CancellationToken::new();
    let expire = tokio::spawn(expire::run(api.clone(), stop.clone()));
    Ok(Running { addr, kubeconfig, api, controllers, handle, server, stop, expire })
}

impl Running {
    /// Stops controllers and server; open watches and streams are cut.
    pub async fn stop(self) {
        self.stop.cancel();
        self.controllers.stop().await;
        self.handle.graceful_shutdown(Some(Duration::from_millis(100)));
        // A task that already ended has nothing more to say.
        let _ = self.server.await;
        let _ = self.expire.await;
        self.api.close().await;
    }
}
