//! The node service of the EFS driver (`pkg/driver/node.go`, efs.md §3.1).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use emulator_common::csi::server::{self, NodeService};
use model_common::csi::{Code, Error, NodeCall, NodeCapability, NodeReply, Segments, VolumeCapability};
use model_node::driver::efs::{self, Mount};
use tokio_util::sync::CancellationToken;

use super::ebs_node::{make_dir, required, usage};
use super::{identity, tools};
use crate::{NodeConfig, mounts};

/// Serves the node plugin until `stop`.
pub(crate) async fn serve(socket: &Path, config: &NodeConfig, stop: CancellationToken) -> std::io::Result<()> {
    let service = super::faulty(Arc::new(EfsNode { node_id: config.instance_id.clone(), zone: config.zone.clone() }), config);
    server::serve(socket, identity(efs::DRIVER, efs::VERSION), None, Some(service), stop.cancelled_owned()).await
}

struct EfsNode {
    node_id: String,
    zone: String,
}

impl EfsNode {
    async fn publish(
        &self,
        volume_id: &str,
        target: &str,
        capability: &VolumeCapability,
        readonly: bool,
        context: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        required(target, "Target path not provided")?;
        let Mount { source, options } = efs::plan(volume_id, capability, readonly, context, &self.zone)?;
        make_dir(target).map_err(|why| Error::new(Code::Internal, format!("Could not create dir {target:?}: {why}")))?;
        if let Err(why) = tools::mount(&source, target, "efs", &options).await {
            let _ = std::fs::remove_dir(target);
            return Err(Error::new(Code::Internal, format!("Could not mount {source:?} at {target:?}: {why}")));
        }
        Ok(())
    }

    async fn unpublish(&self, target: &str) -> Result<(), Error> {
        required(target, "Target path not provided")?;
        let failed = |why: String| Error::new(Code::Internal, format!("Could not unmount {target:?}: {why}"));
        if mounts::at(Path::new(target)).is_some() {
            tools::umount(target).await.map_err(failed)?;
        }
        // CSI has the driver remove what it made. The real one leaves it to the kubelet, which does not mind that it is gone. Another
        // layer below the one just unmounted (the real driver does not look whether it mounted already) stays as it is.
        if mounts::at(Path::new(target)).is_some() {
            return Ok(());
        }
        match std::fs::remove_dir(target) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(failed(format!("remove {target}: {why}"))),
            _ => Ok(()),
        }
    }

    async fn stats(&self, volume_id: &str, path: &str) -> Result<NodeReply, Error> {
        required(volume_id, "Volume ID not provided")?;
        required(path, "Volume Path not provided")?;
        std::fs::metadata(path).map_err(|why| match why.kind() {
            std::io::ErrorKind::NotFound => Error::new(Code::NotFound, format!("Volume Path {path} does not exist")),
            _ => Error::new(Code::Internal, format!("Failed to invoke stat on volume path {path}: {why}")),
        })?;
        let usage = usage(path).await.map_err(|why| Error::new(Code::Internal, format!("Could not get metrics: {why} ")))?;
        Ok(NodeReply::NodeGetVolumeStats(usage))
    }
}

#[tonic::async_trait]
impl NodeService for EfsNode {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error> {
        tracing::debug!(?call, "called");
        let unimplemented = || Err(Error::new(Code::Unimplemented, ""));
        let result = match &call {
            NodeCall::NodeStageVolume { .. } | NodeCall::NodeUnstageVolume { .. } | NodeCall::NodeExpandVolume { .. } => unimplemented(),
            NodeCall::NodePublishVolume { volume_id, target_path, capability, readonly, volume_context, .. } => {
                self.publish(volume_id, target_path, capability, *readonly, volume_context).await.map(|()| NodeReply::NodePublishVolume)
            }
            NodeCall::NodeUnpublishVolume { target_path, .. } => self.unpublish(target_path).await.map(|()| NodeReply::NodeUnpublishVolume),
            NodeCall::NodeGetVolumeStats { volume_id, volume_path, .. } => self.stats(volume_id, volume_path).await,
            NodeCall::NodeGetCapabilities => Ok(NodeReply::NodeGetCapabilities(vec![NodeCapability::GetVolumeStats])),
            NodeCall::NodeGetInfo => Ok(NodeReply::NodeGetInfo {
                node_id: self.node_id.clone(),
                max_volumes_per_node: 0,
                accessible_topology: Some(Segments::from([("topology.kubernetes.io/zone".to_owned(), self.zone.clone())])),
            }),
        };
        if let Err(error) = &result
            && error.code != Code::Unimplemented
        {
            tracing::warn!(?call, %error, "a CSI call failed");
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unpublished_target_is_gone() {
        let node = EfsNode { node_id: "i-1".into(), zone: "us-east-1a".into() };
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        for _ in 0..2 {
            node.unpublish(target.to_str().unwrap()).await.unwrap();
            assert!(!target.exists());
        }
        // What the driver did not make is not removed.
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("file"), "mine").unwrap();
        let error = node.unpublish(target.to_str().unwrap()).await.unwrap_err();
        assert!(error.code == Code::Internal && target.join("file").exists(), "{error}");
    }
}
