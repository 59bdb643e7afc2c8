//! Plugin registration: how a driver's registrar tells a kubelet that the driver is there (k8s.io/kubelet, pluginregistration/v1).
//!
//! The registrar serves a socket in the kubelet's `plugins_registry`; the kubelet asks there and says how it went.

use std::path::Path;
use std::time::Duration;

use crate::csi::connect;

/// Types, client and server generated from `proto/pluginregistration.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("pluginregistration");
}

use v1::registration_client::RegistrationClient;
pub use v1::{PluginInfo, RegistrationStatus};

/// What a plugin says of itself on its registration socket.
pub async fn info(socket: &Path, timeout: Duration) -> Result<PluginInfo, String> {
    let mut client = RegistrationClient::new(connect(socket));
    answer(timeout, client.get_info(v1::InfoRequest {})).await
}

/// Tells a plugin that it is registered, or why it is not.
pub async fn notify(socket: &Path, status: RegistrationStatus, timeout: Duration) -> Result<(), String> {
    let mut client = RegistrationClient::new(connect(socket));
    answer(timeout, client.notify_registration_status(status)).await.map(drop)
}

async fn answer<T>(timeout: Duration, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}
