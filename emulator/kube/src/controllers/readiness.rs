//! Waits for a driver and asks what it can do.

use std::path::Path;
use std::time::Duration;

use emulator_common::csi::client;
use model_common::csi::{Code, ControllerCapability, Error};
use model_kube::controllers::Driver;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// `Probe` and its kin answer within this, or the driver counts as not there (csi-lib-utils, 1 s).
const TIMEOUT: Duration = Duration::from_secs(1);
/// Tries come this often while the driver starts, then once a second.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(1);

/// The driver, once it is ready; none when stopped before.
pub async fn wait(name: &str, socket: &Path, channel: &Channel, stop: &CancellationToken) -> Option<Driver> {
    let mut tries: u64 = 0;
    loop {
        let found = tokio::select! {
            () = stop.cancelled() => return None,
            found = ask(name, channel) => found,
        };
        match found {
            Ok(Some(driver)) => {
                tracing::info!(driver = name, socket = %socket.display(), "the CSI driver is ready");
                return Some(driver);
            }
            Ok(None) => tracing::debug!(driver = name, "the CSI driver is not ready yet"),
            Err(error) if tries % 60 == 59 => {
                tracing::warn!(driver = name, socket = %socket.display(), "still waiting for the CSI driver: {error}");
            }
            Err(_) => {}
        }
        tries += 1;
        let pause = if tries < 50 { SOON } else { LATER };
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn ask(name: &str, channel: &Channel) -> Result<Option<Driver>, Error> {
    if !client::probe(channel, TIMEOUT).await? {
        return Ok(None);
    }
    let (found, _) = client::plugin_info(channel, TIMEOUT).await?;
    if found != name {
        return Err(Error::new(Code::FailedPrecondition, format!("the driver on this socket is {found}, not {name}")));
    }
    let capabilities = client::controller_capabilities(channel, TIMEOUT).await?;
    let has = |capability| capabilities.contains(&capability);
    let id = uuid::Uuid::new_v4();
    let started = k8s_openapi::jiff::Timestamp::now().as_millisecond();
    Ok(Some(Driver {
        provisions: has(ControllerCapability::CreateDeleteVolume),
        attaches: has(ControllerCapability::PublishUnpublishVolume),
        expands: has(ControllerCapability::ExpandVolume),
        modifies: has(ControllerCapability::ModifyVolume),
        snapshots: has(ControllerCapability::CreateDeleteSnapshot),
        lists_snapshots: has(ControllerCapability::ListSnapshots),
        clones: has(ControllerCapability::CloneVolume),
        single_node_multi_writer: has(ControllerCapability::SingleNodeMultiWriter),
        topology: client::has_topology(channel, TIMEOUT).await?,
        identity: format!("{started}-{}-{name}", id.as_u128() % 10_000),
        component: format!("{name}_ebbtide_{id}"),
        ..Driver::named(name)
    }))
}
