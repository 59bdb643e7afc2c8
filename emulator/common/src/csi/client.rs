//! The caller's end: one function a service, plain data in and out.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use model_common::csi::{Code, ControllerCall, ControllerCapability, ControllerReply, Error, NodeCall, NodeReply};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use super::convert::*;
use super::v1;
use super::v1::{controller_client::ControllerClient, identity_client::IdentityClient, node_client::NodeClient};

/// A connection to a driver's socket. It is made at the first call and again whenever it broke.
pub fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The address is never dialled: the connector below opens the unix socket.
    Endpoint::from_static("http://csi.sock").connect_timeout(Duration::from_secs(5)).connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        },
    ))
}

/// A request with a deadline.
fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Waits for an answer, but not longer than `timeout`, even when the driver ignores its deadline.
async fn within<T>(timeout: Duration, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // tonic's own word for a deadline that passed, on either end; Go says it as below.
        Ok(Err(status)) if status.code() == tonic::Code::Cancelled && status.message() == "Timeout expired" => {
            Err(Error::new(Code::DeadlineExceeded, "context deadline exceeded"))
        }
        Ok(Err(status)) => Err(status_in(status)),
        Err(_) => Err(Error::new(Code::DeadlineExceeded, "context deadline exceeded")),
    }
}

fn missing(what: &str) -> Error {
    Error::new(Code::Internal, format!("the driver's answer has no {what}"))
}

/// The driver's name and version.
pub async fn plugin_info(channel: &Channel, timeout: Duration) -> Result<(String, String), Error> {
    let mut client = IdentityClient::new(channel.clone());
    let info = within(timeout, client.get_plugin_info(request(v1::GetPluginInfoRequest {}, timeout))).await?;
    Ok((info.name, info.vendor_version))
}

/// Whether the driver says it is ready. A driver that does not say counts as ready (CSI spec, Probe).
pub async fn probe(channel: &Channel, timeout: Duration) -> Result<bool, Error> {
    let mut client = IdentityClient::new(channel.clone());
    Ok(within(timeout, client.probe(request(v1::ProbeRequest {}, timeout))).await?.ready.unwrap_or(true))
}

/// Whether the driver's volumes are not accessible from every node (VOLUME_ACCESSIBILITY_CONSTRAINTS).
pub async fn has_topology(channel: &Channel, timeout: Duration) -> Result<bool, Error> {
    use v1::plugin_capability::{Type, service};
    let mut client = IdentityClient::new(channel.clone());
    let answer = within(timeout, client.get_plugin_capabilities(request(v1::GetPluginCapabilitiesRequest {}, timeout))).await?;
    let wanted = service::Type::VolumeAccessibilityConstraints as i32;
    Ok(answer.capabilities.iter().any(|has| matches!(&has.r#type, Some(Type::Service(service)) if service.r#type == wanted)))
}

/// What the driver's controller service can do.
pub async fn controller_capabilities(channel: &Channel, timeout: Duration) -> Result<Vec<ControllerCapability>, Error> {
    let mut client = ControllerClient::new(channel.clone());
    let answer = within(timeout, client.controller_get_capabilities(request(v1::ControllerGetCapabilitiesRequest {}, timeout))).await?;
    Ok(answer.capabilities.into_iter().filter_map(controller_capability_in).collect())
}

/// Performs a controller call.
pub async fn controller_call(channel: &Channel, call: ControllerCall, timeout: Duration) -> Result<ControllerReply, Error> {
    let mut client = ControllerClient::new(channel.clone());
    match call {
        ControllerCall::CreateVolume { name, capacity, capabilities, parameters, mutable_parameters, content_source, topology } => {
            let message = v1::CreateVolumeRequest {
                name,
                capacity_range: Some(capacity_out(capacity)),
                volume_capabilities: capabilities.into_iter().map(capability_out).collect(),
                parameters: map_out(parameters),
                secrets: HashMap::new(),
                volume_content_source: content_source.map(source_out),
                accessibility_requirements: topology.map(topology_out),
                mutable_parameters: map_out(mutable_parameters),
            };
            let answer = within(timeout, client.create_volume(request(message, timeout))).await?;
            Ok(ControllerReply::CreateVolume(volume_in(answer.volume.ok_or_else(|| missing("volume"))?)))
        }
        ControllerCall::DeleteVolume { volume_id } => {
            let message = v1::DeleteVolumeRequest { volume_id, secrets: HashMap::new() };
            within(timeout, client.delete_volume(request(message, timeout))).await.map(|_| ControllerReply::DeleteVolume)
        }
        ControllerCall::ControllerPublishVolume { volume_id, node_id, capability, readonly, volume_context } => {
            let message = v1::ControllerPublishVolumeRequest {
                volume_id,
                node_id,
                volume_capability: Some(capability_out(capability)),
                readonly,
                secrets: HashMap::new(),
                volume_context: map_out(volume_context),
            };
            let answer = within(timeout, client.controller_publish_volume(request(message, timeout))).await?;
            Ok(ControllerReply::ControllerPublishVolume { publish_context: map_in(answer.publish_context) })
        }
        ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => {
            let message = v1::ControllerUnpublishVolumeRequest { volume_id, node_id, secrets: HashMap::new() };
            within(timeout, client.controller_unpublish_volume(request(message, timeout)))
                .await
                .map(|_| ControllerReply::ControllerUnpublishVolume)
        }
        ControllerCall::ValidateVolumeCapabilities { volume_id, volume_context, capabilities } => {
            let message = v1::ValidateVolumeCapabilitiesRequest {
                volume_id,
                volume_context: map_out(volume_context),
                volume_capabilities: capabilities.into_iter().map(capability_out).collect(),
                parameters: HashMap::new(),
                secrets: HashMap::new(),
                mutable_parameters: HashMap::new(),
            };
            let answer = within(timeout, client.validate_volume_capabilities(request(message, timeout))).await?;
            Ok(ControllerReply::ValidateVolumeCapabilities { confirmed: answer.confirmed.is_some(), message: answer.message })
        }
        ControllerCall::ControllerExpandVolume { volume_id, capacity, capability } => {
            let message = v1::ControllerExpandVolumeRequest {
                volume_id,
                capacity_range: Some(capacity_out(capacity)),
                secrets: HashMap::new(),
                volume_capability: capability.map(capability_out),
            };
            let answer = within(timeout, client.controller_expand_volume(request(message, timeout))).await?;
            Ok(ControllerReply::ControllerExpandVolume {
                capacity_bytes: bytes_in(answer.capacity_bytes),
                node_expansion_required: answer.node_expansion_required,
            })
        }
        ControllerCall::ControllerModifyVolume { volume_id, mutable_parameters } => {
            let message =
                v1::ControllerModifyVolumeRequest { volume_id, secrets: HashMap::new(), mutable_parameters: map_out(mutable_parameters) };
            within(timeout, client.controller_modify_volume(request(message, timeout)))
                .await
                .map(|_| ControllerReply::ControllerModifyVolume)
        }
        ControllerCall::CreateSnapshot { name, source_volume_id, parameters } => {
            let message = v1::CreateSnapshotRequest { source_volume_id, name, secrets: HashMap::new(), parameters: map_out(parameters) };
            let answer = within(timeout, client.create_snapshot(request(message, timeout))).await?;
            Ok(ControllerReply::CreateSnapshot(snapshot_in(answer.snapshot.ok_or_else(|| missing("snapshot"))?)))
        }
        ControllerCall::DeleteSnapshot { snapshot_id } => {
            let message = v1::DeleteSnapshotRequest { snapshot_id, secrets: HashMap::new() };
            within(timeout, client.delete_snapshot(request(message, timeout))).await.map(|_| ControllerReply::DeleteSnapshot)
        }
        ControllerCall::ListSnapshots { snapshot_id, source_volume_id, max_entries, starting_token } => {
            let message = v1::ListSnapshotsRequest {
                max_entries: i32::try_from(max_entries).unwrap_or(i32::MAX),
                starting_token,
                source_volume_id,
                snapshot_id,
                secrets: HashMap::new(),
            };
            let answer = within(timeout, client.list_snapshots(request(message, timeout))).await?;
            let entries = answer.entries.into_iter().filter_map(|entry| entry.snapshot).map(snapshot_in).collect();
            Ok(ControllerReply::ListSnapshots { entries, next_token: answer.next_token })
        }
    }
}

/// Performs a node call.
pub async fn node_call(channel: &Channel, call: NodeCall, timeout: Duration) -> Result<NodeReply, Error> {
    let mut client = NodeClient::new(channel.clone());
    match call {
        NodeCall::NodeStageVolume { volume_id, publish_context, staging_target_path, capability, volume_context } => {
            let message = v1::NodeStageVolumeRequest {
                volume_id,
                publish_context: map_out(publish_context),
                staging_target_path,
                volume_capability: Some(capability_out(capability)),
                secrets: HashMap::new(),
                volume_context: map_out(volume_context),
            };
            within(timeout, client.node_stage_volume(request(message, timeout))).await.map(|_| NodeReply::NodeStageVolume)
        }
        NodeCall::NodeUnstageVolume { volume_id, staging_target_path } => {
            let message = v1::NodeUnstageVolumeRequest { volume_id, staging_target_path };
            within(timeout, client.node_unstage_volume(request(message, timeout))).await.map(|_| NodeReply::NodeUnstageVolume)
        }
        NodeCall::NodePublishVolume {
            volume_id,
            publish_context,
            staging_target_path,
            target_path,
            capability,
            readonly,
            volume_context,
        } => {
            let message = v1::NodePublishVolumeRequest {
                volume_id,
                publish_context: map_out(publish_context),
                staging_target_path,
                target_path,
                volume_capability: Some(capability_out(capability)),
                readonly,
                secrets: HashMap::new(),
                volume_context: map_out(volume_context),
            };
            within(timeout, client.node_publish_volume(request(message, timeout))).await.map(|_| NodeReply::NodePublishVolume)
        }
        NodeCall::NodeUnpublishVolume { volume_id, target_path } => {
            let message = v1::NodeUnpublishVolumeRequest { volume_id, target_path };
            within(timeout, client.node_unpublish_volume(request(message, timeout))).await.map(|_| NodeReply::NodeUnpublishVolume)
        }
        NodeCall::NodeExpandVolume { volume_id, volume_path, staging_target_path, capacity, capability } => {
            let message = v1::NodeExpandVolumeRequest {
                volume_id,
                volume_path,
                capacity_range: Some(capacity_out(capacity)),
                staging_target_path,
                volume_capability: capability.map(capability_out),
                secrets: HashMap::new(),
            };
            let answer = within(timeout, client.node_expand_volume(request(message, timeout))).await?;
            Ok(NodeReply::NodeExpandVolume { capacity_bytes: bytes_in(answer.capacity_bytes) })
        }
        NodeCall::NodeGetVolumeStats { volume_id, volume_path, staging_target_path } => {
            let message = v1::NodeGetVolumeStatsRequest { volume_id, volume_path, staging_target_path };
            let answer = within(timeout, client.node_get_volume_stats(request(message, timeout))).await?;
            Ok(NodeReply::NodeGetVolumeStats(answer.usage.into_iter().filter_map(usage_in).collect()))
        }
        NodeCall::NodeGetCapabilities => {
            let answer = within(timeout, client.node_get_capabilities(request(v1::NodeGetCapabilitiesRequest {}, timeout))).await?;
            Ok(NodeReply::NodeGetCapabilities(answer.capabilities.into_iter().filter_map(node_capability_in).collect()))
        }
        NodeCall::NodeGetInfo => {
            let answer = within(timeout, client.node_get_info(request(v1::NodeGetInfoRequest {}, timeout))).await?;
            Ok(NodeReply::NodeGetInfo {
                node_id: answer.node_id,
                max_volumes_per_node: answer.max_volumes_per_node,
                accessible_topology: answer.accessible_topology.map(segments_in),
            })
        }
    }
}
