//! A tiny builder of histories: what a world tells, in one line a thing.

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::csi::{self, AccessMode, Code, ControllerCall, ControllerReply, NodeCall, NodeReply};
use model_kube::object::{Change, Key, Kind, Object};
use serde_json::{Value, json};

use crate::invariants::seen::{Seen, Used};
use crate::invariants::watch::Watch;

pub const EBS: &str = "ebs.csi.aws.com";
pub const EFS: &str = "efs.csi.aws.com";

pub struct History {
    watch: Watch,
    at: Duration,
    objects: BTreeMap<Key, Value>,
    pub rpc: u64,
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

impl History {
    /// Two nodes with limits of 2 volumes, the drivers, and a PersistentVolume `pv` of the volume `vol` bound to the claim `d/c`.
    pub fn new(names: Option<&[String]>) -> Self {
        let mut this = Self { watch: Watch::new(names), at: Duration::from_secs(1), objects: BTreeMap::new(), rpc: 0 };
        for (driver, attach) in [(EBS, true), (EFS, false)] {
            this.put(Kind::CSIDriver, driver, json!({"spec": {"attachRequired": attach}}));
        }
        for (node, instance) in [("n1", "i-1"), ("n2", "i-2")] {
            this.see(Seen::Node { name: node, instance, zone: "z", volume_limit: 2 });
            this.put(
                Kind::Node,
                node,
                json!({"metadata": {"labels": {"zone": "z"}}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            );
        }
        this.see(Seen::VolumeMade { volume: "vol", multi_attach: false, tags: &BTreeMap::new() });
        this.volume("pv", "vol", "c", json!({}));
        this
    }

    pub fn see(&mut self, seen: Seen<'_>) {
        self.watch.see(self.at, &seen);
    }

    pub fn after(&mut self, seconds: u64) -> &mut Self {
        self.at += Duration::from_secs(seconds);
        self
    }

    /// What did not hold, as `name: message`.
    pub fn end(&mut self) -> Vec<String> {
        self.watch.end(self.at);
        self.watch.take().into_iter().map(|found| format!("{}: {}", found.invariant, found.message)).collect()
    }

    fn key(kind: Kind, name: &str) -> Key {
        let namespaced = matches!(kind, Kind::Pod | Kind::PersistentVolumeClaim)
            || matches!(&kind, Kind::Custom { plural, .. } if &**plural == "volumesnapshots");
        Key::new(kind, if namespaced { "d" } else { "" }, name)
    }

    /// Makes an object or merges into it.
    pub fn put(&mut self, kind: Kind, name: &str, patch: Value) -> &mut Self {
        let key = Self::key(kind, name);
        let new = !self.objects.contains_key(&key);
        let json = self.objects.entry(key.clone()).or_insert_with(|| {
            let mut json = match key.kind {
                Kind::Node | Kind::Pod | Kind::PersistentVolume | Kind::PersistentVolumeClaim => json!({"spec": {}}),
                Kind::CSINode => json!({"spec": {"drivers": []}}),
                Kind::VolumeAttachment => json!({"spec": {"attacher": EBS, "source": {}, "nodeName": ""}}),
                Kind::Custom { .. } => json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot"}),
                _ => json!({}),
            };
            merge(&mut json, json!({"metadata": {"name": name, "uid": format!("uid-{name}")}}));
            if !key.namespace.is_empty() {
                merge(&mut json, json!({"metadata": {"namespace": "d"}}));
            }
            json
        });
        merge(json, patch);
        let object = Object::from_json(&key.kind, json.clone()).unwrap();
        let change = if new { Change::Added(object) } else { Change::Modified(object) };
        self.see(Seen::Object(&change));
        self
    }

    /// As [`put`](Self::put), by a user.
    pub fn by_hand(&mut self, kind: Kind, name: &str, patch: Value) -> &mut Self {
        let key = Self::key(kind.clone(), name);
        self.see(Seen::ByUser { key: &key });
        self.put(kind, name, patch)
    }

    /// An object gets its deletionTimestamp.
    pub fn deleting(&mut self, kind: Kind, name: &str) -> &mut Self {
        self.put(kind, name, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))
    }

    pub fn gone(&mut self, kind: Kind, name: &str) -> &mut Self {
        let key = Self::key(kind, name);
        let json = self.objects.remove(&key).unwrap();
        self.see(Seen::Object(&Change::Deleted(Object::from_json(&key.kind, json).unwrap())));
        self
    }

    /// A PersistentVolume and its claim, bound to each other.
    pub fn volume(&mut self, pv: &str, volume: &str, claim: &str, patch: Value) -> &mut Self {
        let uid = format!("uid-{claim}");
        let mut spec = json!({
            "spec": {"csi": {"driver": EBS, "volumeHandle": volume}, "claimRef": {"namespace": "d", "name": claim, "uid": uid},
                     "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Delete"},
            "status": {"phase": "Bound"},
        });
        merge(&mut spec, patch);
        self.put(Kind::PersistentVolume, pv, spec);
        self.put(Kind::PersistentVolumeClaim, claim, json!({"spec": {"volumeName": pv}, "status": {"phase": "Bound"}}))
    }

    /// A pod that uses a claim, bound to a node or not yet.
    pub fn pod(&mut self, name: &str, claim: &str, node: Option<&str>) -> &mut Self {
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
        self.put(Kind::Pod, name, json!({"spec": {"volumes": volumes, "containers": [], "nodeName": node}, "status": {"phase": "Pending"}}))
    }

    pub fn phase(&mut self, kind: Kind, name: &str, phase: &str) -> &mut Self {
        self.put(kind, name, json!({"status": {"phase": phase}}))
    }

    /// A node's two lists of volumes.
    pub fn lists(&mut self, node: &str, in_use: &[&str], attached: &[&str]) -> &mut Self {
        let unique = |volume: &&str| format!("kubernetes.io/csi/{EBS}^{volume}");
        let in_use: Vec<String> = in_use.iter().map(unique).collect();
        let attached: Vec<Value> = attached.iter().map(|volume| json!({"name": unique(volume), "devicePath": ""})).collect();
        self.put(Kind::Node, node, json!({"status": {"volumesInUse": in_use, "volumesAttached": attached}}))
    }

    pub fn ready(&mut self, node: &str, status: &str) -> &mut Self {
        self.put(Kind::Node, node, json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}))
    }

    pub fn attachment(&mut self, name: &str, pv: &str, node: &str, attached: bool) -> &mut Self {
        let spec = json!({"attacher": EBS, "nodeName": node, "source": {"persistentVolumeName": pv}});
        self.put(Kind::VolumeAttachment, name, json!({"spec": spec, "status": {"attached": attached}}))
    }

    /// What EC2 has attached.
    pub fn cloud(&mut self, volume: &str, instances: &[&str]) -> &mut Self {
        let instances = instances.iter().map(|instance| ((*instance).to_owned(), "attached")).collect();
        self.see(Seen::Attachments { volume, instances: &instances });
        self
    }

    /// A controller call begins; its number.
    pub fn ask(&mut self, call: &ControllerCall) -> u64 {
        self.rpc += 1;
        let rpc = self.rpc;
        self.see(Seen::ControllerRpcBegan { rpc, driver: EBS, call });
        rpc
    }

    pub fn answer(&mut self, rpc: u64, result: Result<ControllerReply, Code>) -> &mut Self {
        let result = result.map_err(|code| csi::Error::new(code, "told"));
        self.see(Seen::ControllerRpcEnded { rpc, result: &result });
        self
    }

    /// What a claim's user wants of it.
    pub fn claim(&mut self, name: &str, patch: Value) -> &mut Self {
        self.put(Kind::PersistentVolumeClaim, name, patch)
    }

    pub fn create(&mut self, name: &str, from: Option<&str>) -> u64 {
        self.ask(&ControllerCall::CreateVolume {
            name: name.into(),
            capacity: csi::CapacityRange::default(),
            capabilities: Vec::new(),
            parameters: BTreeMap::new(),
            mutable_parameters: BTreeMap::new(),
            content_source: from.map(|snapshot| csi::ContentSource::Snapshot(snapshot.into())),
            topology: None,
        })
    }

    pub fn created(&mut self, name: &str, volume: &str) -> &mut Self {
        let rpc = self.create(name, None);
        let volume = csi::Volume { volume_id: volume.into(), ..csi::Volume::default() };
        self.answer(rpc, Ok(ControllerReply::CreateVolume(volume)))
    }

    pub fn delete(&mut self, volume: &str) -> u64 {
        self.ask(&ControllerCall::DeleteVolume { volume_id: volume.into() })
    }

    pub fn deleted(&mut self, volume: &str) -> &mut Self {
        let rpc = self.delete(volume);
        self.answer(rpc, Ok(ControllerReply::DeleteVolume))
    }

    /// `CreateSnapshot` gave this.
    pub fn cut(&mut self, name: &str, snapshot: &str, ready: bool) -> &mut Self {
        let call = ControllerCall::CreateSnapshot { name: name.into(), source_volume_id: "vol".into(), parameters: BTreeMap::new() };
        let rpc = self.ask(&call);
        let snapshot = csi::Snapshot {
            snapshot_id: snapshot.into(),
            source_volume_id: "vol".into(),
            size_bytes: 0,
            creation_time_ms: 0,
            ready_to_use: ready,
        };
        self.answer(rpc, Ok(ControllerReply::CreateSnapshot(snapshot)))
    }

    /// The control plane grows a volume; a node has to follow.
    pub fn grown(&mut self, volume: &str, bytes: u64) -> &mut Self {
        let capacity = csi::CapacityRange::default();
        let rpc = self.ask(&ControllerCall::ControllerExpandVolume { volume_id: volume.into(), capacity, capability: None });
        self.answer(rpc, Ok(ControllerReply::ControllerExpandVolume { capacity_bytes: bytes, node_expansion_required: true }))
    }

    pub fn node_grown(&mut self, node: &str, volume: &str, bytes: u64) -> &mut Self {
        let call = NodeCall::NodeExpandVolume {
            volume_id: volume.into(),
            volume_path: global(volume),
            staging_target_path: global(volume),
            capacity: csi::CapacityRange::default(),
            capability: None,
        };
        let rpc = self.node_ask(node, EBS, &call);
        self.node_answer(rpc, Ok(NodeReply::NodeExpandVolume { capacity_bytes: bytes }))
    }

    pub fn publish(&mut self, volume: &str, instance: &str) -> u64 {
        self.ask(&ControllerCall::ControllerPublishVolume {
            volume_id: volume.into(),
            node_id: instance.into(),
            capability: capability(AccessMode::SingleNodeWriter),
            readonly: false,
            volume_context: BTreeMap::new(),
        })
    }

    pub fn published(&mut self, volume: &str, instance: &str) -> &mut Self {
        let rpc = self.publish(volume, instance);
        self.answer(rpc, Ok(ControllerReply::ControllerPublishVolume { publish_context: BTreeMap::new() }))
    }

    pub fn unpublish(&mut self, volume: &str, instance: &str) -> u64 {
        self.ask(&ControllerCall::ControllerUnpublishVolume { volume_id: volume.into(), node_id: instance.into() })
    }

    pub fn unpublished(&mut self, volume: &str, instance: &str) -> &mut Self {
        let rpc = self.unpublish(volume, instance);
        self.answer(rpc, Ok(ControllerReply::ControllerUnpublishVolume))
    }

    pub fn mounted(&mut self, node: &str, path: &str, tree: &str) -> &mut Self {
        self.see(Seen::Mounted { node, path, tree, read_only: false });
        self
    }

    pub fn unmounted(&mut self, node: &str, path: &str, tree: &str) -> &mut Self {
        self.see(Seen::Unmounted { node, path, tree });
        self
    }

    pub fn device(&mut self, node: &str, volume: &str, bytes: Option<u64>) -> &mut Self {
        self.see(Seen::Device { node, volume, bytes });
        self
    }

    /// A pod's container starts and finds this where the volume `wanted` ought to be.
    pub fn runs(&mut self, node: &str, pod: &str, wanted: &str, mounted: Option<&str>) -> &mut Self {
        self.starts(node, pod, wanted, mounted, None)
    }

    /// A pod's container starts, and its volume's files have these groups.
    pub fn starts_with_groups(&mut self, node: &str, pod: &str, volume: &str, groups: Option<(u32, Option<u32>)>) -> &mut Self {
        self.starts(node, pod, volume, Some(volume), groups)
    }

    fn starts(&mut self, node: &str, pod: &str, wanted: &str, mounted: Option<&str>, groups: Option<(u32, Option<u32>)>) -> &mut Self {
        let used = Used {
            name: "data".into(),
            claim: Some("d/c".into()),
            wanted: Some(wanted.into()),
            mounted: mounted.map(str::to_owned),
            read_only: false,
            groups,
        };
        self.see(Seen::Started { node, pod: &format!("uid-{pod}"), container: "app", volumes: &[used] });
        self
    }

    pub fn stops(&mut self, node: &str, pod: &str) -> &mut Self {
        self.see(Seen::Ended { node, pod: &format!("uid-{pod}"), container: "app" });
        self
    }

    /// All that leads to a running pod: the handshake, attach, stage, publish, start.
    pub fn up(&mut self, pod: &str, node: &str, instance: &str) -> &mut Self {
        self.pod(pod, "c", None).after(1).pod(pod, "c", Some(node));
        self.attachment(node, "pv", node, false).lists(node, &["vol"], &[]);
        let rpc = self.publish("vol", instance);
        self.cloud("vol", &[instance]).device(node, "vol", Some(1 << 30));
        self.answer(rpc, Ok(ControllerReply::ControllerPublishVolume { publish_context: BTreeMap::new() }));
        self.attachment(node, "pv", node, true).lists(node, &["vol"], &["vol"]);
        self.staged(node, "vol").bound(node, "vol", pod).runs(node, pod, "vol", Some("vol"));
        let state = json!({"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}});
        self.put(Kind::Pod, pod, json!({"status": {"phase": "Running", "containerStatuses": [state]}}))
    }

    /// The pod's way back, as far as its node goes.
    pub fn down(&mut self, pod: &str, node: &str) -> &mut Self {
        self.deleting(Kind::Pod, pod).stops(node, pod).unbound(node, "vol", pod).gone(Kind::Pod, pod).unstaged(node, "vol")
    }

    /// The volume leaves the node.
    pub fn away(&mut self, node: &str, instance: &str) -> &mut Self {
        self.lists(node, &[], &["vol"]).lists(node, &[], &[]).deleting(Kind::VolumeAttachment, node);
        let rpc = self.unpublish("vol", instance);
        self.device(node, "vol", None).cloud("vol", &[]).answer(rpc, Ok(ControllerReply::ControllerUnpublishVolume));
        self.gone(Kind::VolumeAttachment, node)
    }
}

/// A claim's whole life: a pod on one node, then one on the other, then all goes.
pub fn life(history: &mut History) {
    history.up("p1", "n1", "i-1").after(30).down("p1", "n1").away("n1", "i-1");
    history.after(5).up("p2", "n2", "i-2").after(30).down("p2", "n2").away("n2", "i-2");
}

pub fn capability(mode: AccessMode) -> csi::VolumeCapability {
    let access = csi::Access::Mount { fs_type: "ext4".into(), mount_flags: Vec::new(), volume_mount_group: String::new() };
    csi::VolumeCapability { access, mode }
}

pub fn global(volume: &str) -> String {
    format!("/var/lib/kubelet/plugins/kubernetes.io/csi/{EBS}/{volume}/globalmount")
}

pub fn target(volume: &str, pod: &str) -> String {
    format!("/var/lib/kubelet/pods/uid-{pod}/volumes/kubernetes.io~csi/{volume}/mount")
}
