//! The AWS endpoint: EC2 (query and XML), EFS (REST and JSON), KMS (JSON), STS, and `/_ebbtide/*` on one listener; the engine that
//! owns the state; block files and trees on disk; the other end of the nodes' agents.
//!
//! The way of a request: [`server`] (who calls, which service) → [`query`] or JSON → a handler in [`ec2`], [`efs`] or [`kms`] →
//! [`engine`] (step, save, then reply) → [`xml`] or JSON.

mod agents;
pub mod auth;
mod blocks;
mod control;
pub mod ctx;
mod ec2;
mod efs;
pub mod engine;
mod error;
mod events;
mod faults;
mod guard;
pub mod hub;
pub mod identity;
pub mod imds;
mod kms;
mod metrics;
mod pods;
mod query;
mod server;
mod sts;
mod xml;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use emulator_common::places::Places;
use emulator_common::store::{Sled, Store, StoreError};
use model_aws::world::{World, WorldError};
use model_aws::{Aws, Begin, LoadError, Profile};
use tokio_util::sync::CancellationToken;

pub use auth::Auth;
use ctx::{Ctx, Hands};
use engine::{Engine, Journal};
use server::{Listener, Server};

/// Connections at one time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// How long answers under way may take when the endpoint stops.
const STOP: Duration = Duration::from_secs(5);

/// What to serve, and where.
pub struct Config {
    /// Bound already, so that who started us knows the port.
    pub listener: std::net::TcpListener,
    pub places: Places,
    pub world: World,
    pub profile: Profile,
    pub auth: Auth,
    /// Off: attachments are records only (as `devices: false` in the world).
    pub devices: bool,
    /// Why no node of this world can have devices (no root): AttachVolume answers with it. None where agents will come.
    pub no_devices: Option<String>,
    /// Whether every input is appended to `journal/aws.jsonl`.
    pub journal: bool,
    /// Whether the journal has a digest of what followed from each input, too.
    pub journal_effects: bool,
    /// Names beyond localhost by which clients call: `host.docker.internal`.
    pub hosts: Vec<String>,
    /// Where the instances' metadata services listen.
    pub metadata: Vec<imds::Listeners>,
    /// The OIDC providers that the account knows: the cluster's.
    pub identity_providers: Vec<identity::IdentityProvider>,
}

/// Why the endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the world is not sound")]
    World(#[from] WorldError),
    #[error(
        "{0} is not a loopback address: everybody who reaches it could use it; listen on 127.0.0.1, or check signatures (--auth verify)"
    )]
    Exposed(SocketAddr),
    #[error("signatures are to be checked, but no keys are configured")]
    NoKeys,
    #[error("cannot {operation}")]
    Io {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot look through the block files: {0}")]
    Observe(String),
}

/// A running endpoint.
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    pub engine: Engine,
    ctx: Arc<Ctx>,
    stopping: CancellationToken,
    serving: Vec<tokio::task::JoinHandle<()>>,
}

/// Opens the state, observes the disk, recovers, serves.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let Config { listener, places, mut world, profile, auth, devices, no_devices, journal, hosts, metadata, .. } = config;
    let (effects, providers) = (config.journal_effects, config.identity_providers);
    let io = |operation: &str| {
        let operation = operation.to_owned();
        move |source| StartError::Io { operation, source }
    };
    world.devices &= devices;
    world.check()?;
    let addr = listener.local_addr().map_err(io("read the listener's address"))?;
    match &auth {
        Auth::Accept if !addr.ip().is_loopback() => return Err(StartError::Exposed(addr)),
        Auth::Verify { keys } if keys.is_empty() => return Err(StartError::NoKeys),
        Auth::Accept | Auth::Verify { .. } => {}
    }
    let state = places.state("aws");
    std::fs::create_dir_all(&state).map_err(io(&format!("make {}", state.display())))?;
    let store = Arc::new(Sled::open(&state)?);
    let begin = Begin { effects, ..begin(store.as_ref(), &world, profile)? };
    let aws = begin.start()?;
    let journal = match journal {
        true => Some(Journal::open(&places.journal(), begin).map_err(io("open the journal"))?),
        false => None,
    };
    let blocks = ec2::observe(&places).map_err(|error| StartError::Observe(error.to_string()))?;
    let trees = efs::observe(&places).map_err(io("look through the file systems"))?;

    let engine = Engine::start(store, aws, journal).map_err(io("start the engine's thread"))?;
    let ctx = Arc::new(Ctx { engine: engine.clone(), hub: hub::Hub::default(), places, world, profile, providers, no_devices });
    engine.connect(Arc::new(Hands(ctx.clone())));
    ctx.booted(blocks, trees).into_iter().for_each(|input| engine.tell(input));

    let stopping = CancellationToken::new();
    let key = ctx.places.metadata().join("key");
    let common = imds::Common::new(&ctx, &auth, &key, &stopping).map_err(io("keep the secret of the metadata services"))?;
    let imds = imds::serve(metadata, &common).map_err(io("serve the instances' metadata"))?;
    let server = Arc::new(Server {
        ctx: ctx.clone(),
        metrics: metrics::Metrics::default(),
        guard: guard::Guard::new(addr, &hosts),
        auth,
        metadata: common,
        stopping: stopping.clone(),
        resetting: tokio::sync::Mutex::new(()),
    });
    listener.set_nonblocking(true).map_err(io("use the listener"))?;
    let tcp = tokio::net::TcpListener::from_std(listener).map_err(io("use the listener"))?;
    let listener = Listener { tcp, permits: Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS)) };
    let router = Router::new().fallback(move |request: axum::extract::Request| server::serve(server.clone(), request));
    let service = router.into_make_service_with_connect_info::<server::Peer>();
    let stop = stopping.clone();
    let mut serving = imds;
    serving.push(tokio::spawn(async move {
        // `axum::serve` ends only by the shutdown; its error type is never made.
        let _ = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await;
    }));
    Ok(Running { addr, engine, ctx, stopping, serving })
}

/// What is saved, table by table.
fn begin(store: &dyn Store, world: &World, profile: Profile) -> Result<Begin, StoreError> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let mut records = Vec::new();
    for table in Aws::tables() {
        records.extend(store.load(table)?.into_iter().map(|(key, value)| (table.to_owned(), text(key), text(value))));
    }
    Ok(Begin { world: world.clone(), profile, records, effects: false })
}

impl Running {
    /// Ends: no more requests are taken, those under way are answered, the engine saves what it has.
    pub async fn stop(self) {
        self.stopping.cancel();
        for instance in self.ctx.hub.instances() {
            self.ctx.hub.disconnect(&instance);
        }
        let aborts: Vec<_> = self.serving.iter().map(tokio::task::JoinHandle::abort_handle).collect();
        if tokio::time::timeout(STOP, futures::future::join_all(self.serving)).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        self.engine.stop().await;
    }
}

#[cfg(test)]
mod tests;
