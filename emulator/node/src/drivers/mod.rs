//! The built-in CSI drivers. Their controllers decide in `model_node::driver` and reach AWS only through its endpoint, as the real ones
//! do; their node services run the same programs on the node as the real ones (ebs.md §3.2, efs.md §3.1).

mod cloud;
mod controller;
pub(crate) mod ebs_node;
pub(crate) mod efs_node;
mod in_flight;
mod tools;

use std::path::PathBuf;
use std::sync::Arc;

use emulator_common::csi::faults::{Faulty, Table};
use emulator_common::csi::server::{self, ControllerService, Identity, NodeService};
use model_node::driver::{ebs, efs};
use tokio_util::sync::CancellationToken;

/// What the controller services need to know.
#[derive(Debug, Clone)]
pub struct ControllersConfig {
    /// Where to serve the EBS controller; none: another process is it.
    pub ebs_socket: Option<PathBuf>,
    /// Where to serve the EFS controller; none: another process is it.
    pub efs_socket: Option<PathBuf>,
    /// `http://127.0.0.1:4566`
    pub aws_endpoint: String,
    pub region: String,
    /// Access key id and secret.
    pub credentials: (String, String),
    /// What their calls meet on purpose ([`emulator_common::csi::faults`]).
    pub faults: PathBuf,
}

/// Serves the controller services until `stop`.
pub async fn serve_controllers(config: ControllersConfig, stop: CancellationToken) -> std::io::Result<()> {
    let cloud = Arc::new(cloud::Cloud::new(&config.aws_endpoint, &config.region, config.credentials));
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let table = Table::new(config.faults, None);
    let faulty = |service| -> Arc<dyn ControllerService> { Arc::new(Faulty { service, table: table.clone() }) };
    let ebs = async {
        let Some(socket) = &config.ebs_socket else { return Ok(()) };
        let service = controller::ebs(ebs::Ebs::new(ebs::Options::default()), cloud.clone());
        serve_controller(socket, identity(ebs::DRIVER, ebs::VERSION), faulty(service), &stop).await
    };
    let efs = async {
        let Some(socket) = &config.efs_socket else { return Ok(()) };
        let service = controller::efs(efs::Efs::new(efs::Options { seed, ..efs::Options::default() }), cloud.clone());
        serve_controller(socket, identity(efs::DRIVER, efs::VERSION), faulty(service), &stop).await
    };
    tokio::try_join!(ebs, efs).map(drop)
}

async fn serve_controller(
    socket: &std::path::Path,
    identity: Identity,
    service: Arc<dyn ControllerService>,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    server::serve(socket, identity, Some(service), None, stop.clone().cancelled_owned()).await
}

/// A node's service that meets what was asked for on purpose.
fn faulty(service: Arc<dyn NodeService>, config: &crate::NodeConfig) -> Arc<dyn NodeService> {
    Arc::new(Faulty { service, table: Table::new(config.places().csi_faults(), Some(config.name.clone())) })
}

/// Both drivers have a controller and are bound to zones.
fn identity(name: &str, version: &str) -> Identity {
    Identity { name: name.to_owned(), version: version.to_owned(), controller: true, topology: true }
}
