//! What one end says, the other hears: through a real socket, with an echoing driver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model_common::csi::*;

use super::server::{ControllerService, Identity, NodeService, serve};
use super::{client, connect, controller_call, node_call};

/// Remembers what it was asked and answers what it was told to.
struct Driver<C, R> {
    asked: Mutex<Vec<C>>,
    answer: Result<R, Error>,
}

#[tonic::async_trait]
impl ControllerService for Driver<ControllerCall, ControllerReply> {
    fn capabilities(&self) -> Vec<ControllerCapability> {
        vec![ControllerCapability::CreateDeleteVolume, ControllerCapability::ModifyVolume]
    }
    async fn call(&self, call: ControllerCall) -> Result<ControllerReply, Error> {
        self.asked.lock().unwrap().push(call);
        self.answer.clone()
    }
}

#[tonic::async_trait]
impl NodeService for Driver<NodeCall, NodeReply> {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error> {
        self.asked.lock().unwrap().push(call);
        self.answer.clone()
    }
}

fn identity() -> Identity {
    Identity { name: "ebs.csi.aws.com".into(), version: "v1".into(), controller: true, topology: true }
}

const TIMEOUT: Duration = Duration::from_secs(10);

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

#[tokio::test]
async fn a_volume_survives_the_wire() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    let volume = Volume {
        volume_id: "vol-1".into(),
        capacity_bytes: 4 << 30,
        volume_context: map(&[("a", "b")]),
        content_source: Some(ContentSource::Snapshot("snap-1".into())),
        accessible_topology: vec![map(&[("topology.ebs.csi.aws.com/zone", "us-east-1a")])],
    };
    let driver = Arc::new(Driver { asked: Mutex::default(), answer: Ok(ControllerReply::CreateVolume(volume.clone())) });
    let served = {
        let (socket, driver) = (socket.clone(), driver.clone());
        tokio::spawn(async move { serve(&socket, identity(), Some(driver), None, std::future::pending()).await })
    };
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let channel = connect(&socket);
    let call = ControllerCall::CreateVolume {
        name: "pvc-1".into(),
        capacity: CapacityRange { required_bytes: 4 << 30, limit_bytes: 0 },
        capabilities: vec![VolumeCapability {
            access: Access::Mount { fs_type: "ext4".into(), mount_flags: vec!["noatime".into()], volume_mount_group: String::new() },
            mode: AccessMode::SingleNodeWriter,
        }],
        parameters: map(&[("type", "gp3")]),
        mutable_parameters: BTreeMap::new(),
        content_source: Some(ContentSource::Snapshot("snap-1".into())),
        topology: Some(TopologyRequirement { requisite: vec![map(&[("z", "1")])], preferred: vec![map(&[("z", "1")])] }),
    };
    let reply = controller_call(&channel, call.clone(), TIMEOUT).await.unwrap();
    assert_eq!(reply, ControllerReply::CreateVolume(volume));
    assert_eq!(*driver.asked.lock().unwrap(), vec![call]);
    assert_eq!(client::plugin_info(&channel, TIMEOUT).await.unwrap().0, "ebs.csi.aws.com");
    assert_eq!(client::controller_capabilities(&channel, TIMEOUT).await.unwrap(), driver.capabilities());
    served.abort();
}

#[tokio::test]
async fn an_error_keeps_its_code_and_text() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    let error = Error::new(Code::Aborted, "An operation with the given Volume vol-1 already exists");
    let driver: Arc<Driver<NodeCall, NodeReply>> = Arc::new(Driver { asked: Mutex::default(), answer: Err(error.clone()) });
    let served = {
        let (socket, driver) = (socket.clone(), driver.clone());
        tokio::spawn(async move { serve(&socket, identity(), None, Some(driver), std::future::pending()).await })
    };
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let call = NodeCall::NodeUnpublishVolume { volume_id: "vol-1".into(), target_path: "/t".into() };
    assert_eq!(node_call(&connect(&socket), call.clone(), TIMEOUT).await.unwrap_err(), error);
    assert_eq!(*driver.asked.lock().unwrap(), vec![call]);
    served.abort();
}

#[tokio::test]
async fn a_driver_that_is_away_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let error = node_call(&connect(&dir.path().join("none.sock")), NodeCall::NodeGetInfo, TIMEOUT).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
}
