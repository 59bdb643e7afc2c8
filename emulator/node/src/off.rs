//! The hypervisor's hand while a node has no power. EC2 attaches and detaches volumes of a stopped instance at once: no kernel is there
//! that would have to let go. So somebody answers for the node's devices until it boots and its own agent does.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::devices::Devices;
use crate::{NodeConfig, NodeError, agent};

/// Where the names of the devices lie that the node will have: nobody opens them there.
const NAMES: &str = "dev-off";

/// Answers for a node without power until `stop`. Call it only while the node does not run.
pub async fn run(config: Arc<NodeConfig>, stop: CancellationToken) -> Result<(), NodeError> {
    let names = config.places().node(&config.name).join(NAMES);
    // What an `up` that was killed left; a node boots with an empty /dev, too.
    let clear = |names: &std::path::Path| match std::fs::remove_dir_all(names) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NodeError::file("removing", names)(error)),
        _ => Ok(()),
    };
    clear(&names)?;
    std::fs::create_dir_all(&names).map_err(NodeError::file("creating", &names))?;
    let devices = Arc::new(Devices::of_a_node_without_power(names.clone(), config.places().volumes(), config.first_loop));
    let agent::AgentError::Refused(why) = match agent::run_without_kernel(config, devices, stop).await {
        Ok(()) => return clear(&names),
        Err(error) => error,
    };
    Err(NodeError::Refused(why))
}
