//! Objects for tests, in a few words each.

use serde_json::{Value, json};

use crate::object::{Kind, Object};

/// An object from JSON.
pub fn object(json: Value) -> Object {
    let kind = match json["kind"].as_str().unwrap() {
        "Namespace" => Kind::Namespace,
        "Node" => Kind::Node,
        "Pod" => Kind::Pod,
        "PersistentVolumeClaim" => Kind::PersistentVolumeClaim,
        "PersistentVolume" => Kind::PersistentVolume,
        "StorageClass" => Kind::StorageClass,
        "CSIDriver" => Kind::CSIDriver,
        "CSINode" => Kind::CSINode,
        "VolumeAttachment" => Kind::VolumeAttachment,
        "Lease" => Kind::Lease,
        "VolumeAttributesClass" => Kind::VolumeAttributesClass,
        "VolumeSnapshot" => crate::snapshots::snapshots(),
        "VolumeSnapshotContent" => crate::snapshots::contents(),
        "VolumeSnapshotClass" => crate::snapshots::classes(),
        other => panic!("{other}"),
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
