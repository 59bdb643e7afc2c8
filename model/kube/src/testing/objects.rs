//! Objects for tests, in a few words each.

use serde_json::{Value, json};

use crate::object::Object;

/// An object from JSON.
pub fn object(json: Value) -> Object {
    let name = json["kind"].as_str().unwrap();
    let kind = match name {
        "VolumeSnapshot" => crate::snapshots::snapshots(),
        "VolumeSnapshotContent" => crate::snapshots::contents(),
        "VolumeSnapshotClass" => crate::snapshots::classes(),
        name => crate::resource::BUILT_IN.into_iter().find(|kind| kind.kind_name() == name).unwrap_or_else(|| panic!("{name}")),
    };
    Object::from_json(&kind, json).unwrap()
}

pub fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": mode, "reclaimPolicy": "Delete", "allowVolumeExpansion": true})
}

pub fn claim(name: &str, class: &str, mode: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": [mode], "storageClassName": class, "resources": {"requests": {"storage": size}}}})
}

pub fn volume(name: &str, handle: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "csi": {"driver": "ebs.csi.aws.com", "fsType": "ext4", "volumeHandle": handle}}})
}

pub fn pod(name: &str, claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "app", "image": "x", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}})
}

/// A class of snapshots of EBS volumes.
pub fn snapshot_class(name: &str, policy: &str) -> Value {
    json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": name},
        "driver": "ebs.csi.aws.com", "deletionPolicy": policy})
}

/// A snapshot of a claim; no class: the default one.
pub fn snapshot(name: &str, class: Option<&str>, claim: &str) -> Value {
    json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name, "namespace": "default"},
        "spec": {"volumeSnapshotClassName": class, "source": {"persistentVolumeClaimName": claim}}})
}

/// A StatefulSet `web` of that many pods, each with a claim `data-web-<n>`.
pub fn stateful_set(replicas: i32) -> Value {
    let claim = claim("data", "ebs-sc", "ReadWriteOnce", "1Gi");
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "app", "image": "x", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim["spec"]}]}})
}

/// A workload of that kind and name, of pods without volumes.
pub fn workload(kind: &str, name: &str, replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}}})
}
