//! The shell with a real store behind a small API, and drivers on real sockets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator_common::csi::server::{ControllerService, Identity, serve};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::jiff::Timestamp;
use model_common::csi::{ControllerCall, ControllerCapability, ControllerReply, Error, Volume};
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::store::{self, Store};
use model_kube::write::{ApiError, Write};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;

#[derive(Clone)]
struct TestApi {
    store: Arc<Mutex<Store>>,
    version: watch::Sender<u64>,
}

impl TestApi {
    fn new() -> Self {
        let mut store = Store::new(7);
        store.bootstrap(Timestamp::now(), &mut Vec::new()).unwrap();
        Self { store: Arc::new(Mutex::new(store)), version: watch::Sender::new(0) }
    }

    async fn apply(&self, kind: Kind, json: Value) -> Object {
        self.write(Write::create(Object::from_json(&kind, json).unwrap())).await.unwrap()
    }

    /// Waits until an event with that reason is there.
    async fn until_event(&self, reason: &str) {
        let mut changed = self.version.subscribe();
        let is_there = || {
            let store = self.store.lock().unwrap();
            store.list::<k8s_openapi::api::core::v1::Event>().any(|event| event.reason.as_deref() == Some(reason))
        };
        let found = tokio::time::timeout(Duration::from_secs(20), async {
            while !is_there() {
                changed.changed().await.unwrap();
            }
        });
        found.await.unwrap_or_else(|_| panic!("no event {reason}"));
    }

    /// Waits until an object is as wanted; watches, does not poll.
    async fn until(&self, key: Key, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut changed = self.version.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                changed.mark_unchanged();
                let json = self.store.lock().unwrap().object(&key).map_or(Value::Null, |object| object.to_json().unwrap());
                if wanted(&json) {
                    return json;
                }
                changed.changed().await.unwrap();
            }
        });
        let now = || self.store.lock().unwrap().object(&key).map(|object| object.to_json().unwrap());
        found.await.unwrap_or_else(|_| panic!("{what} did not come; {:#?}", now()))
    }
}

impl Backend for TestApi {
    async fn write(&self, write: Write) -> Result<Object, ApiError> {
        let mut out = Vec::new();
        let version = {
            let mut store = self.store.lock().unwrap();
            store.step(Timestamp::now(), &write, &mut out)?;
            store.version()
        };
        self.version.send_replace(version);
        let reply = out.into_iter().find_map(|effect| match effect {
            store::Effect::Reply { object, .. } => Some(object),
            store::Effect::Changed(_) | store::Effect::Warning(_) => None,
        });
        reply.ok_or_else(|| ApiError::internal("no reply"))
    }

    async fn get(&self, key: &Key) -> Option<Object> {
        self.store.lock().unwrap().object(key).cloned()
    }

    async fn list_in(&self, kind: &Kind, namespace: &str) -> Vec<Object> {
        self.store.lock().unwrap().range(kind, namespace, "").map(|(_, object)| object.clone()).collect()
    }

    async fn list(&self, kinds: &[Kind]) -> (u64, Vec<Object>) {
        let store = self.store.lock().unwrap();
        let objects = kinds.iter().flat_map(|kind| store.all(kind).map(|(_, object)| object.clone()).collect::<Vec<_>>()).collect();
        (store.version(), objects)
    }

    fn watch(&self, kinds: &[Kind], since: u64) -> BoxStream<'static, Change> {
        let (store, kinds) = (self.store.clone(), kinds.to_vec());
        let changed = self.version.subscribe();
        futures::stream::unfold((since, changed), move |(since, mut changed)| {
            let (store, kinds) = (store.clone(), kinds.clone());
            async move {
                loop {
                    changed.mark_unchanged();
                    let batch: Vec<_> = store.lock().unwrap().since(since).ok()?.cloned().collect();
                    let Some(last) = batch.last() else {
                        changed.changed().await.ok()?;
                        continue;
                    };
                    let last = last.version;
                    let changes: Vec<Change> =
                        batch.into_iter().map(|entry| entry.change).filter(|change| kinds.contains(&change.object().kind())).collect();
                    return Some((futures::stream::iter(changes), (last, changed)));
                }
            }
        })
        .flatten()
        .boxed()
    }
}

/// A driver that answers at once.
#[derive(Default)]
struct Fake {
    volumes: Mutex<BTreeSet<String>>,
}

#[tonic::async_trait]
impl ControllerService for Fake {
    fn capabilities(&self) -> Vec<ControllerCapability> {
        vec![ControllerCapability::CreateDeleteVolume, ControllerCapability::PublishUnpublishVolume, ControllerCapability::ExpandVolume]
    }

    async fn call(&self, call: ControllerCall) -> Result<ControllerReply, Error> {
        Ok(match call {
            ControllerCall::CreateVolume { name, capacity, parameters, .. } => {
                assert_eq!(parameters["csi.storage.k8s.io/pvc/name"], "ebs-claim");
                self.volumes.lock().unwrap().insert(name.clone());
                ControllerReply::CreateVolume(Volume { volume_id: name, capacity_bytes: capacity.required_bytes, ..Volume::default() })
            }
            ControllerCall::DeleteVolume { volume_id } => {
                self.volumes.lock().unwrap().remove(&volume_id);
                ControllerReply::DeleteVolume
            }
            ControllerCall::ControllerPublishVolume { .. } => {
                ControllerReply::ControllerPublishVolume { publish_context: [("devicePath".to_owned(), "/dev/xvdaa".to_owned())].into() }
            }
            ControllerCall::ControllerUnpublishVolume { .. } => ControllerReply::ControllerUnpublishVolume,
            other => return Err(Error::new(model_common::csi::Code::Unimplemented, format!("{other:?}"))),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_a_volume_that_is_attached_and_goes_again() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("csi.sock");
    let api = TestApi::new();
    let fake = Arc::new(Fake::default());
    let config = Config { drivers: [("ebs.csi.aws.com".to_owned(), socket.clone())].into(), off: BTreeSet::new(), journal: None };
    // The controllers are there before the driver.
    let controllers = start(api.clone(), config);
    let stop = CancellationToken::new();
    let identity = Identity { name: "ebs.csi.aws.com".into(), version: "v1".into(), controller: true, topology: false };
    let serving = {
        let (fake, stop) = (fake.clone(), stop.clone());
        tokio::spawn(async move { serve(&socket, identity, Some(fake), None, stop.cancelled_owned()).await })
    };
    api.apply(
        Kind::Node,
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations":
            {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}),
    )
    .await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let patch = model_kube::write::Patch::Merge(ready);
    let key = Key::new(Kind::Node, "", "n1");
    api.write(Write::Patch { key: key.clone(), patch, subresource: model_kube::write::Subresource::Status }).await.unwrap();
    api.apply(
        Kind::CSINode,
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n1"},
            "spec": {"drivers": [{"name": "ebs.csi.aws.com", "nodeID": "i-1"}]}}),
    )
    .await;
    let started = Instant::now();
    api.apply(
        Kind::StorageClass,
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "ebs-sc"},
            "provisioner": "ebs.csi.aws.com", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    api.apply(
        Kind::PersistentVolumeClaim,
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "ebs-claim", "namespace": "default"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "ebs-sc", "resources": {"requests": {"storage": "4Gi"}}}}),
    )
    .await;
    api.apply(
        Kind::Pod,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "default"}, "spec": {
            "containers": [{"name": "app", "image": "x", "volumeMounts": [{"name": "d", "mountPath": "/data"}]}],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "ebs-claim"}}]}}),
    )
    .await;
    let node = api.until(key.clone(), "the attached volume", |node| node["status"]["volumesAttached"][0]["name"].is_string()).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("claim applied to volume reported attached: {took:?}");
    let claim = Key::new(Kind::PersistentVolumeClaim, "default", "ebs-claim");
    let bound = api.until(claim.clone(), "the bound claim", |claim| claim["status"]["phase"] == "Bound").await;
    let volume = bound["spec"]["volumeName"].as_str().unwrap().to_owned();
    assert_eq!(node["status"]["volumesAttached"][0]["name"], format!("kubernetes.io/csi/ebs.csi.aws.com^{volume}"));
    for reason in ["Provisioning", "ProvisioningSucceeded", "Scheduled", "SuccessfulAttachVolume"] {
        api.until_event(reason).await;
    }
    // Away again. The kubelet's part: the pod goes for good, and the node says that nothing is in use.
    let pod = Key::new(Kind::Pod, "default", "app");
    api.write(Write::delete(pod.clone())).await.unwrap();
    api.write(Write::Delete { key: pod, uid: None, resource_version: None, grace_seconds: Some(0), propagation: Default::default() })
        .await
        .unwrap();
    api.write(Write::delete(claim.clone())).await.unwrap();
    api.until(claim, "the end of the claim", Value::is_null).await;
    api.until(Key::new(Kind::PersistentVolume, "", &volume), "the end of the volume", Value::is_null).await;
    assert!(fake.volumes.lock().unwrap().is_empty());
    controllers.stop().await;
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_controller_that_is_off_does_nothing() {
    let api = TestApi::new();
    let config = Config { drivers: Default::default(), off: ["pv-protection".to_owned(), "scheduler".to_owned()].into(), journal: None };
    let controllers = start(api.clone(), config);
    api.apply(
        Kind::PersistentVolume,
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h"}}}),
    )
    .await;
    let key = Key::new(Kind::PersistentVolume, "", "v");
    // The binder runs …
    api.until(key.clone(), "Available", |volume| volume["status"]["phase"] == "Available").await;
    api.write(Write::delete(key.clone())).await.unwrap();
    // … and pv-protection does not: the finalizer stays.
    api.until(key.clone(), "deletionTimestamp", |volume| volume["metadata"]["deletionTimestamp"].is_string()).await;
    assert!(api.get(&key).await.is_some());
    controllers.stop().await;
}
