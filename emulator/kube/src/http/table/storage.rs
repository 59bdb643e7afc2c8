//! The cells of the storage kinds.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass};
use serde_json::{Value, json};

use super::format::{access_modes, age, name, or};

/// The class by its old annotation or its field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub fn claim(claim: &PersistentVolumeClaim, now: jiff::Timestamp) -> Vec<Value> {
    let spec = claim.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    let phase = if claim.metadata.deletion_timestamp.is_some() { Some("Terminating") } else { status.phase.as_deref() };
    let volume = spec.volume_name.as_deref().unwrap_or("");
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        let size = status.capacity.as_ref().and_then(|capacity| capacity.get("storage")).map_or("0", |size| size.0.as_str());
        (size.to_owned(), access_modes(status.access_modes.as_ref()))
    };
    let annotated = claim.metadata.annotations.as_ref().and_then(|all| all.get(BETA_CLASS));
    vec![
        name(&claim.metadata),
        json!(phase.unwrap_or("")),
        json!(volume),
        json!(capacity),
        json!(modes),
        json!(annotated.or(spec.storage_class_name.as_ref()).map_or("", String::as_str)),
        or(spec.volume_attributes_class_name.as_deref(), "<unset>"),
        age(&claim.metadata, now),
        or(spec.volume_mode.as_deref(), "<unset>"),
    ]
}

pub fn volume(volume: &PersistentVolume, now: jiff::Timestamp) -> Vec<Value> {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = volume.status.clone().unwrap_or_default();
    let phase = if volume.metadata.deletion_timestamp.is_some() { Some("Terminating") } else { status.phase.as_deref() };
    let claim = spec
        .claim_ref
        .map_or_else(String::new, |claim| format!("{}/{}", claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default()));
    let size = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")).map_or("0", |size| size.0.as_str());
    vec![
        name(&volume.metadata),
        json!(size),
        json!(access_modes(spec.access_modes.as_ref())),
        json!(spec.persistent_volume_reclaim_policy.unwrap_or_default()),
        json!(phase.unwrap_or("")),
        json!(claim),
        json!(spec.storage_class_name.unwrap_or_default()),
        or(spec.volume_attributes_class_name.as_deref(), "<unset>"),
        json!(status.reason.unwrap_or_default()),
        age(&volume.metadata, now),
        or(spec.volume_mode.as_deref(), "<unset>"),
    ]
}

pub fn class(class: &StorageClass, now: jiff::Timestamp) -> Vec<Value> {
    use model_kube::admission::{IS_DEFAULT, IS_DEFAULT_BETA};
    let annotations = class.metadata.annotations.as_ref();
    let marked = |name: &&str| annotations.and_then(|all| all.get(*name)).is_some_and(|value| value == "true");
    let default = [IS_DEFAULT, IS_DEFAULT_BETA].iter().any(marked);
    let shown = class.metadata.name.clone().unwrap_or_default() + if default { " (default)" } else { "" };
    vec![
        json!(shown),
        json!(class.provisioner),
        or(class.reclaim_policy.as_deref(), "Delete"),
        or(class.volume_binding_mode.as_deref(), "Immediate"),
        json!(class.allow_volume_expansion.unwrap_or(false)),
        age(&class.metadata, now),
    ]
}

pub fn driver(driver: &CSIDriver, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &driver.spec;
    let tokens = spec.token_requests.as_ref().map(|tokens| {
        let audiences: Vec<&str> = tokens.iter().map(|token| token.audience.as_str()).collect();
        audiences.join(",")
    });
    let modes = spec.volume_lifecycle_modes.as_ref().map(|modes| modes.join(","));
    vec![
        name(&driver.metadata),
        json!(spec.attach_required.unwrap_or(true)),
        json!(spec.pod_info_on_mount.unwrap_or(false)),
        json!(spec.storage_capacity.unwrap_or(false)),
        json!(tokens.unwrap_or_else(|| "<unset>".to_owned())),
        json!(spec.requires_republish.unwrap_or(false)),
        or(modes.as_deref(), "<none>"),
        age(&driver.metadata, now),
    ]
}

pub fn csi_node(node: &CSINode, now: jiff::Timestamp) -> Vec<Value> {
    vec![name(&node.metadata), json!(node.spec.drivers.len()), age(&node.metadata, now)]
}

pub fn capacity(capacity: &CSIStorageCapacity, now: jiff::Timestamp) -> Vec<Value> {
    vec![
        name(&capacity.metadata),
        json!(capacity.storage_class_name),
        json!(capacity.capacity.as_ref().map_or("", |size| size.0.as_str())),
        age(&capacity.metadata, now),
    ]
}

pub fn attachment(attachment: &VolumeAttachment, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &attachment.spec;
    vec![
        name(&attachment.metadata),
        json!(spec.attacher),
        json!(spec.source.persistent_volume_name.as_deref().unwrap_or("")),
        json!(spec.node_name),
        json!(attachment.status.as_ref().is_some_and(|status| status.attached)),
        age(&attachment.metadata, now),
    ]
}

pub fn attributes_class(class: &VolumeAttributesClass, now: jiff::Timestamp) -> Vec<Value> {
    vec![name(&class.metadata), json!(class.driver_name), age(&class.metadata, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_before_and_after_binding() {
        let of = |json: Value| {
            let claim_: PersistentVolumeClaim = serde_json::from_value(json).unwrap();
            let cells = claim(&claim_, jiff::Timestamp::UNIX_EPOCH);
            cells[1..7].iter().map(|cell| cell.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "sc"});
        assert_eq!(of(json!({"metadata": {}, "spec": spec, "status": {"phase": "Pending"}})), ["Pending", "", "", "", "sc", "<unset>"]);
        let spec = json!({"accessModes": ["ReadWriteOnce"], "volumeName": "pv"});
        assert_eq!(of(json!({"metadata": {}, "spec": spec, "status": {"phase": "Pending"}})), ["Pending", "pv", "0", "", "", "<unset>"]);
        let status = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "4Gi"}});
        assert_eq!(of(json!({"metadata": {}, "spec": spec, "status": status})), ["Bound", "pv", "4Gi", "RWO", "", "<unset>"]);
    }
}
