//! The driver's end: implement [`ControllerService`] and/or [`NodeService`] on plain data and [`serve`] them on a unix socket.

use std::path::Path;
use std::sync::Arc;

use model_common::csi::{Code, ControllerCall, ControllerCapability, ControllerReply, Error, NodeCall, NodeReply};
use tonic::{Request, Response, Status};

use super::convert::*;
use super::v1;
use super::v1::{controller_server, identity_server, node_server};

/// Who the driver is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `ebs.csi.aws.com`.
    pub name: String,
    pub version: String,
    /// Whether it has a controller service (a node plugin's socket says so too, as the driver is one).
    pub controller: bool,
    pub topology: bool,
}

/// A controller service: answers a call with the reply of the same name.
#[tonic::async_trait]
pub trait ControllerService: Send + Sync + 'static {
    fn capabilities(&self) -> Vec<ControllerCapability>;
    async fn call(&self, call: ControllerCall) -> Result<ControllerReply, Error>;
    /// Whether the driver can work now; `FailedPrecondition` says why not.
    async fn probe(&self) -> Result<bool, Error> {
        Ok(true)
    }
}

/// A node service: answers a call with the reply of the same name.
#[tonic::async_trait]
pub trait NodeService: Send + Sync + 'static {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error>;
}

/// Serves a driver on a unix socket until `stop` resolves. A socket file that is left over is replaced.
pub async fn serve(
    socket: &Path,
    identity: Identity,
    controller: Option<Arc<dyn ControllerService>>,
    node: Option<Arc<dyn NodeService>>,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(socket)?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let result = tonic::transport::Server::builder()
        .add_service(identity_server::IdentityServer::new(IdentityEnd { identity, controller: controller.clone() }))
        .add_optional_service(controller.map(|service| controller_server::ControllerServer::new(ControllerEnd(service))))
        .add_optional_service(node.map(|service| node_server::NodeServer::new(NodeEnd(service))))
        .serve_with_incoming_shutdown(incoming, stop)
        .await;
    let _ = std::fs::remove_file(socket);
    result.map_err(std::io::Error::other)
}

type Answer<T> = Result<Response<T>, Status>;

/// A driver that answers one call with the reply of another has a programming error; its caller sees `Internal`.
fn mismatch(call: &str) -> Status {
    status_out(Error::new(Code::Internal, format!("the driver answered {call} with another call's reply")))
}

fn unimplemented(call: &str) -> Status {
    Status::unimplemented(format!("method {call} not implemented"))
}

struct IdentityEnd {
    identity: Identity,
    controller: Option<Arc<dyn ControllerService>>,
}

#[tonic::async_trait]
impl identity_server::Identity for IdentityEnd {
    async fn get_plugin_info(&self, _: Request<v1::GetPluginInfoRequest>) -> Answer<v1::GetPluginInfoResponse> {
        Ok(Response::new(v1::GetPluginInfoResponse {
            name: self.identity.name.clone(),
            vendor_version: self.identity.version.clone(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(&self, _: Request<v1::GetPluginCapabilitiesRequest>) -> Answer<v1::GetPluginCapabilitiesResponse> {
        use v1::plugin_capability::{Service, Type, service};
        let mut capabilities = Vec::new();
        for (has, kind) in [
            (self.identity.controller, service::Type::ControllerService),
            (self.identity.topology, service::Type::VolumeAccessibilityConstraints),
        ] {
            if has {
                capabilities.push(v1::PluginCapability { r#type: Some(Type::Service(Service { r#type: kind as i32 })) });
            }
        }
        Ok(Response::new(v1::GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        let ready = match &self.controller {
            Some(controller) => controller.probe().await.map_err(status_out)?,
            None => true,
        };
        Ok(Response::new(v1::ProbeResponse { ready: Some(ready) }))
    }
}

struct ControllerEnd(Arc<dyn ControllerService>);

impl ControllerEnd {
    async fn call(&self, call: ControllerCall) -> Result<ControllerReply, Status> {
        self.0.call(call).await.map_err(status_out)
    }
}

#[tonic::async_trait]
impl controller_server::Controller for ControllerEnd {
    async fn create_volume(&self, request: Request<v1::CreateVolumeRequest>) -> Answer<v1::CreateVolumeResponse> {
        let request = request.into_inner();
        let call = ControllerCall::CreateVolume {
            name: request.name,
            capacity: capacity_in(request.capacity_range),
            capabilities: capabilities_in(request.volume_capabilities).map_err(status_out)?,
            parameters: map_in(request.parameters),
            mutable_parameters: map_in(request.mutable_parameters),
            content_source: request.volume_content_source.and_then(source_in),
            topology: request.accessibility_requirements.map(topology_in),
        };
        match self.call(call).await? {
            ControllerReply::CreateVolume(volume) => Ok(Response::new(v1::CreateVolumeResponse { volume: Some(volume_out(volume)) })),
            _ => Err(mismatch("CreateVolume")),
        }
    }

    async fn delete_volume(&self, request: Request<v1::DeleteVolumeRequest>) -> Answer<v1::DeleteVolumeResponse> {
        match self.call(ControllerCall::DeleteVolume { volume_id: request.into_inner().volume_id }).await? {
            ControllerReply::DeleteVolume => Ok(Response::new(v1::DeleteVolumeResponse {})),
            _ => Err(mismatch("DeleteVolume")),
        }
    }

    async fn controller_publish_volume(
        &self,
        request: Request<v1::ControllerPublishVolumeRequest>,
    ) -> Answer<v1::ControllerPublishVolumeResponse> {
        let request = request.into_inner();
        let call = ControllerCall::ControllerPublishVolume {
            volume_id: request.volume_id,
            node_id: request.node_id,
            capability: required_capability(request.volume_capability).map_err(status_out)?,
            readonly: request.readonly,
            volume_context: map_in(request.volume_context),
        };
        match self.call(call).await? {
            ControllerReply::ControllerPublishVolume { publish_context } => {
                Ok(Response::new(v1::ControllerPublishVolumeResponse { publish_context: map_out(publish_context) }))
            }
            _ => Err(mismatch("ControllerPublishVolume")),
        }
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<v1::ControllerUnpublishVolumeRequest>,
    ) -> Answer<v1::ControllerUnpublishVolumeResponse> {
        let request = request.into_inner();
        match self.call(ControllerCall::ControllerUnpublishVolume { volume_id: request.volume_id, node_id: request.node_id }).await? {
            ControllerReply::ControllerUnpublishVolume => Ok(Response::new(v1::ControllerUnpublishVolumeResponse {})),
            _ => Err(mismatch("ControllerUnpublishVolume")),
        }
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<v1::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<v1::ValidateVolumeCapabilitiesResponse> {
        use v1::validate_volume_capabilities_response::Confirmed;
        let request = request.into_inner();
        let asked = request.volume_capabilities.clone();
        let call = ControllerCall::ValidateVolumeCapabilities {
            volume_id: request.volume_id,
            volume_context: map_in(request.volume_context),
            capabilities: capabilities_in(request.volume_capabilities).map_err(status_out)?,
        };
        match self.call(call).await? {
            ControllerReply::ValidateVolumeCapabilities { confirmed, message } => {
                let confirmed = confirmed.then(|| Confirmed { volume_capabilities: asked, ..Confirmed::default() });
                Ok(Response::new(v1::ValidateVolumeCapabilitiesResponse { confirmed, message }))
            }
            _ => Err(mismatch("ValidateVolumeCapabilities")),
        }
    }

    async fn list_volumes(&self, _: Request<v1::ListVolumesRequest>) -> Answer<v1::ListVolumesResponse> {
        Err(unimplemented("ListVolumes"))
    }

    async fn get_capacity(&self, _: Request<v1::GetCapacityRequest>) -> Answer<v1::GetCapacityResponse> {
        Err(unimplemented("GetCapacity"))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<v1::ControllerGetCapabilitiesRequest>,
    ) -> Answer<v1::ControllerGetCapabilitiesResponse> {
        let capabilities = self.0.capabilities().into_iter().map(controller_capability_out).collect();
        Ok(Response::new(v1::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_snapshot(&self, request: Request<v1::CreateSnapshotRequest>) -> Answer<v1::CreateSnapshotResponse> {
        let request = request.into_inner();
        let call = ControllerCall::CreateSnapshot {
            name: request.name,
            source_volume_id: request.source_volume_id,
            parameters: map_in(request.parameters),
        };
        match self.call(call).await? {
            ControllerReply::CreateSnapshot(snapshot) => {
                Ok(Response::new(v1::CreateSnapshotResponse { snapshot: Some(snapshot_out(snapshot)) }))
            }
            _ => Err(mismatch("CreateSnapshot")),
        }
    }

    async fn delete_snapshot(&self, request: Request<v1::DeleteSnapshotRequest>) -> Answer<v1::DeleteSnapshotResponse> {
        match self.call(ControllerCall::DeleteSnapshot { snapshot_id: request.into_inner().snapshot_id }).await? {
            ControllerReply::DeleteSnapshot => Ok(Response::new(v1::DeleteSnapshotResponse {})),
            _ => Err(mismatch("DeleteSnapshot")),
        }
    }

    async fn list_snapshots(&self, request: Request<v1::ListSnapshotsRequest>) -> Answer<v1::ListSnapshotsResponse> {
        let request = request.into_inner();
        let max_entries = u32::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument(format!("max_entries must not be negative: {}", request.max_entries)))?;
        let call = ControllerCall::ListSnapshots {
            snapshot_id: request.snapshot_id,
            source_volume_id: request.source_volume_id,
            max_entries,
            starting_token: request.starting_token,
        };
        match self.call(call).await? {
            ControllerReply::ListSnapshots { entries, next_token } => {
                let entries = entries
                    .into_iter()
                    .map(|snapshot| v1::list_snapshots_response::Entry { snapshot: Some(snapshot_out(snapshot)) })
                    .collect();
                Ok(Response::new(v1::ListSnapshotsResponse { entries, next_token }))
            }
            _ => Err(mismatch("ListSnapshots")),
        }
    }

    async fn get_snapshot(&self, _: Request<v1::GetSnapshotRequest>) -> Answer<v1::GetSnapshotResponse> {
        Err(unimplemented("GetSnapshot"))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<v1::ControllerExpandVolumeRequest>,
    ) -> Answer<v1::ControllerExpandVolumeResponse> {
        let request = request.into_inner();
        let call = ControllerCall::ControllerExpandVolume {
            volume_id: request.volume_id,
            capacity: capacity_in(request.capacity_range),
            capability: request.volume_capability.map(capability_in).transpose().map_err(status_out)?,
        };
        match self.call(call).await? {
            ControllerReply::ControllerExpandVolume { capacity_bytes, node_expansion_required } => {
                Ok(Response::new(v1::ControllerExpandVolumeResponse { capacity_bytes: bytes_out(capacity_bytes), node_expansion_required }))
            }
            _ => Err(mismatch("ControllerExpandVolume")),
        }
    }

    async fn controller_get_volume(&self, _: Request<v1::ControllerGetVolumeRequest>) -> Answer<v1::ControllerGetVolumeResponse> {
        Err(unimplemented("ControllerGetVolume"))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<v1::ControllerModifyVolumeRequest>,
    ) -> Answer<v1::ControllerModifyVolumeResponse> {
        let request = request.into_inner();
        let call =
            ControllerCall::ControllerModifyVolume { volume_id: request.volume_id, mutable_parameters: map_in(request.mutable_parameters) };
        match self.call(call).await? {
            ControllerReply::ControllerModifyVolume => Ok(Response::new(v1::ControllerModifyVolumeResponse {})),
            _ => Err(mismatch("ControllerModifyVolume")),
        }
    }
}

struct NodeEnd(Arc<dyn NodeService>);

impl NodeEnd {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Status> {
        self.0.call(call).await.map_err(status_out)
    }
}

#[tonic::async_trait]
impl node_server::Node for NodeEnd {
    async fn node_stage_volume(&self, request: Request<v1::NodeStageVolumeRequest>) -> Answer<v1::NodeStageVolumeResponse> {
        let request = request.into_inner();
        let call = NodeCall::NodeStageVolume {
            volume_id: request.volume_id,
            publish_context: map_in(request.publish_context),
            staging_target_path: request.staging_target_path,
            capability: required_capability(request.volume_capability).map_err(status_out)?,
            volume_context: map_in(request.volume_context),
        };
        match self.call(call).await? {
            NodeReply::NodeStageVolume => Ok(Response::new(v1::NodeStageVolumeResponse {})),
            _ => Err(mismatch("NodeStageVolume")),
        }
    }

    async fn node_unstage_volume(&self, request: Request<v1::NodeUnstageVolumeRequest>) -> Answer<v1::NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        let call = NodeCall::NodeUnstageVolume { volume_id: request.volume_id, staging_target_path: request.staging_target_path };
        match self.call(call).await? {
            NodeReply::NodeUnstageVolume => Ok(Response::new(v1::NodeUnstageVolumeResponse {})),
            _ => Err(mismatch("NodeUnstageVolume")),
        }
    }

    async fn node_publish_volume(&self, request: Request<v1::NodePublishVolumeRequest>) -> Answer<v1::NodePublishVolumeResponse> {
        let request = request.into_inner();
        let call = NodeCall::NodePublishVolume {
            volume_id: request.volume_id,
            publish_context: map_in(request.publish_context),
            staging_target_path: request.staging_target_path,
            target_path: request.target_path,
            capability: required_capability(request.volume_capability).map_err(status_out)?,
            readonly: request.readonly,
            volume_context: map_in(request.volume_context),
        };
        match self.call(call).await? {
            NodeReply::NodePublishVolume => Ok(Response::new(v1::NodePublishVolumeResponse {})),
            _ => Err(mismatch("NodePublishVolume")),
        }
    }

    async fn node_unpublish_volume(&self, request: Request<v1::NodeUnpublishVolumeRequest>) -> Answer<v1::NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        let call = NodeCall::NodeUnpublishVolume { volume_id: request.volume_id, target_path: request.target_path };
        match self.call(call).await? {
            NodeReply::NodeUnpublishVolume => Ok(Response::new(v1::NodeUnpublishVolumeResponse {})),
            _ => Err(mismatch("NodeUnpublishVolume")),
        }
    }

    async fn node_get_volume_stats(&self, request: Request<v1::NodeGetVolumeStatsRequest>) -> Answer<v1::NodeGetVolumeStatsResponse> {
        let request = request.into_inner();
        let call = NodeCall::NodeGetVolumeStats {
            volume_id: request.volume_id,
            volume_path: request.volume_path,
            staging_target_path: request.staging_target_path,
        };
        match self.call(call).await? {
            NodeReply::NodeGetVolumeStats(usage) => Ok(Response::new(v1::NodeGetVolumeStatsResponse {
                usage: usage.into_iter().map(usage_out).collect(),
                volume_condition: None,
            })),
            _ => Err(mismatch("NodeGetVolumeStats")),
        }
    }

    async fn node_expand_volume(&self, request: Request<v1::NodeExpandVolumeRequest>) -> Answer<v1::NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let call = NodeCall::NodeExpandVolume {
            volume_id: request.volume_id,
            volume_path: request.volume_path,
            staging_target_path: request.staging_target_path,
            capacity: capacity_in(request.capacity_range),
            capability: request.volume_capability.map(capability_in).transpose().map_err(status_out)?,
        };
        match self.call(call).await? {
            NodeReply::NodeExpandVolume { capacity_bytes } => {
                Ok(Response::new(v1::NodeExpandVolumeResponse { capacity_bytes: bytes_out(capacity_bytes) }))
            }
            _ => Err(mismatch("NodeExpandVolume")),
        }
    }

    async fn node_get_capabilities(&self, _: Request<v1::NodeGetCapabilitiesRequest>) -> Answer<v1::NodeGetCapabilitiesResponse> {
        match self.call(NodeCall::NodeGetCapabilities).await? {
            NodeReply::NodeGetCapabilities(capabilities) => Ok(Response::new(v1::NodeGetCapabilitiesResponse {
                capabilities: capabilities.into_iter().map(node_capability_out).collect(),
            })),
            _ => Err(mismatch("NodeGetCapabilities")),
        }
    }

    async fn node_get_info(&self, _: Request<v1::NodeGetInfoRequest>) -> Answer<v1::NodeGetInfoResponse> {
        match self.call(NodeCall::NodeGetInfo).await? {
            NodeReply::NodeGetInfo { node_id, max_volumes_per_node, accessible_topology } => Ok(Response::new(v1::NodeGetInfoResponse {
                node_id,
                max_volumes_per_node,
                accessible_topology: accessible_topology.map(segments_out),
            })),
            _ => Err(mismatch("NodeGetInfo")),
        }
    }
}
