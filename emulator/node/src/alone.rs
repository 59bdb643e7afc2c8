//! The agent by itself, in a node of somebody else's Kubernetes: no namespaces and no kubelet of ours. It claims the instance that the
//! node is, makes and removes the devices in this node's `/dev`, serves EFS mounts, the instance's metadata, and the built-in drivers'
//! node plugins where they are asked for.

mod claim;
mod metadata;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model_common::agent::{DeviceError, Register};
use model_node::driver::{ebs, efs};
use tokio_util::sync::CancellationToken;

use crate::devices::Devices;
use crate::drivers::{ebs_node, efs_node};
use crate::{NodeConfig, NodeHooks, agent};

pub use claim::{ClaimError, Who};

/// How long the parts may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What the agent is told.
#[derive(Debug, Clone)]
pub struct Alone {
    /// The AWS endpoint of an ebbtide, `http://127.0.0.1:4566`.
    pub endpoint: String,
    pub who: Who,
    /// The node's `/dev`.
    pub dev: PathBuf,
    /// Where the endpoint's data directory is found here; none: where the endpoint has it.
    pub data: Option<PathBuf>,
    /// Where `mount.efs` finds the EFS server.
    pub efs_socket: PathBuf,
    /// The address of the instance's metadata service; none: nobody serves it here.
    pub metadata: Option<SocketAddr>,
    /// The kubelet's directory of plugins, to serve the built-in drivers' node services in; none: other drivers run.
    pub plugins: Option<PathBuf>,
    /// The first loop device number that may be taken.
    pub first_loop: u32,
}

/// Why the agent could not work, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    #[error(
        "the agent needs root in its node: it makes devices and mounts; in a pod: privileged, hostPID, and the node's /dev as a hostPath"
    )]
    NotRoot,
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Refused(#[from] agent::AgentError),
    #[error("cannot serve the metadata of {instance} on {address}")]
    Metadata {
        instance: String,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation}")]
    System {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the {0} ended before it was told to; its last words are in the log")]
    Ended(&'static str),
}

/// Claims the instance and serves it until `stop`, then takes away what it made.
pub async fn run(alone: Alone, hooks: NodeHooks, stop: CancellationToken) -> Result<(), AloneError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(AloneError::NotRoot);
    }
    let claimed = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        claimed = claim::claim(&alone) => claimed?,
    };
    let claim::Claimed { config, register } = claimed;
    let config = Arc::new(config);
    tracing::info!(node = config.name, instance = config.instance_id, zone = config.zone, "claimed the instance");
    if let Some(dir) = alone.efs_socket.parent() {
        std::fs::create_dir_all(dir).map_err(system(format!("making {}", dir.display())))?;
    }
    let metadata = match alone.metadata {
        Some(address) => {
            let bound = metadata::bind(address).await;
            Some(bound.map_err(|source| AloneError::Metadata { instance: config.instance_id.clone(), address, source })?)
        }
        None => None,
    };
    let devices = Arc::new(Devices::new(alone.dev.clone(), config.places().volumes(), config.first_loop));
    let result = serve(&alone, (&config, register), &devices, metadata, hooks, &stop).await;
    stop.cancel();
    let leaving = devices.clone();
    // It does not panic; if it did, nothing more could be done.
    let _ = tokio::task::spawn_blocking(move || leave(&leaving)).await;
    result
}

fn system(operation: String) -> impl FnOnce(std::io::Error) -> AloneError {
    move |source| AloneError::System { operation, source }
}

/// Runs all parts until told to stop, or until one that is needed ends.
async fn serve(
    alone: &Alone,
    (config, register): (&Arc<NodeConfig>, Option<Register>),
    devices: &Arc<Devices>,
    metadata: Option<metadata::Bound>,
    hooks: NodeHooks,
    stop: &CancellationToken,
) -> Result<(), AloneError> {
    // The agent's parts end together.
    let parts = stop.child_token();
    let efs = hooks.efs.map(|hook| {
        let (config, parts) = (config.clone(), parts.clone());
        tokio::task::spawn_blocking(move || hook(&config, parts))
    });
    let mut plugins = Vec::new();
    if let Some(dir) = &alone.plugins {
        for driver in [ebs::DRIVER, efs::DRIVER] {
            plugins.push(tokio::spawn(plugin(config.clone(), driver, dir.join(driver).join("csi.sock"), parts.clone())));
        }
    }
    let metadata = metadata.map(|bound| tokio::spawn(metadata::serve(bound, config.clone(), parts.clone())));
    let agent = agent::run_registered(config.clone(), register, devices.clone(), parts.clone());
    let efs_ended = async {
        match efs {
            Some(efs) => drop(efs.await),
            None => parts.cancelled().await,
        }
    };
    tokio::pin!(efs_ended);
    let (result, efs_ends) = tokio::select! {
        ended = agent => (ended.map_err(AloneError::Refused), Some(efs_ended)),
        () = &mut efs_ended => match stop.is_cancelled() {
            true => (Ok(()), None),
            false => (Err(AloneError::Ended("EFS server")), None),
        },
    };
    parts.cancel();
    let rest = async {
        if let Some(efs) = efs_ends {
            efs.await;
        }
        for plugin in plugins {
            let _ = plugin.await;
        }
        if let Some(metadata) = metadata {
            let _ = metadata.await;
        }
    };
    if tokio::time::timeout(END_LIMIT, rest).await.is_err() {
        tracing::warn!("not all parts ended in {END_LIMIT:?}");
    }
    result
}

/// Serves a built-in driver's node plugin.
async fn plugin(config: Arc<NodeConfig>, driver: &'static str, socket: PathBuf, stop: CancellationToken) {
    let served = match driver {
        ebs::DRIVER => ebs_node::serve(&socket, &config, stop).await,
        _ => efs_node::serve(&socket, &config, stop).await,
    };
    if let Err(error) = served {
        tracing::error!(driver, %error, socket = %socket.display(), "the CSI node plugin ended");
    }
}

/// Takes the devices of this node away. Those in use stay: they are whole, and a later agent finds them.
fn leave(devices: &Devices) {
    for device in devices.observed() {
        match devices.detach(&device.volume_id, &device.device_name, true, false) {
            Ok(()) => {}
            Err(error @ DeviceError::Busy { .. }) => tracing::warn!(%error, "a device stays; a later agent finds it"),
            Err(error) => tracing::warn!(%error, volume = device.volume_id, "a device could not be taken away"),
        }
    }
}
