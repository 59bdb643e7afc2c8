//! Rules of claims, volumes, classes and attachments (Kubernetes `pkg/apis/core/validation`, `pkg/apis/storage/validation`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment, VolumeAttributesClass};
use serde_json::Value;

use super::{Causes, metadata};
use crate::diff::diff;
use crate::quantity;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

fn access_modes(field: &str, modes: &[String], causes: &mut Causes) {
    for mode in modes {
        causes.one_of(field, mode, &ACCESS_MODES);
    }
    if modes.iter().any(|mode| mode == "ReadWriteOncePod")
        && modes.iter().any(|mode| mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode.as_str()))
    {
        causes.forbidden(field, "may not use ReadWriteOncePod with other access modes");
    }
}

fn positive(field: &str, text: &str, causes: &mut Causes) {
    match quantity::bytes(text) {
        Some(value) if value > 0 => {}
        Some(_) => causes.invalid(field, &text, "must be greater than zero"),
        None => causes.invalid(field, &text, &quantity::BadQuantity.to_string()),
    }
}

pub fn validate_claim(claim: &PersistentVolumeClaim, causes: &mut Causes) {
    let none = PersistentVolumeClaimSpec::default();
    claim_spec("spec", claim.spec.as_ref().unwrap_or(&none), causes);
}

/// Also for the template of a generic ephemeral volume.
pub fn claim_spec(at: &str, spec: &PersistentVolumeClaimSpec, causes: &mut Causes) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        causes.required(format!("{at}.accessModes"), "at least 1 access mode is required");
    }
    access_modes(&format!("{at}.accessModes"), modes, causes);
    let storage = format!("{at}.resources[storage]");
    match spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()).and_then(|requests| requests.get("storage")) {
        None => causes.required(storage, ""),
        Some(size) => positive(&storage, &size.0, causes),
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        metadata::subdomain(&format!("{at}.storageClassName"), class, causes);
    }
    if let Some(mode) = spec.volume_mode.as_deref() {
        causes.one_of(format!("{at}.volumeMode"), mode, &VOLUME_MODES);
    }
    if let Some(source) = &spec.data_source {
        if source.name.is_empty() {
            causes.required(format!("{at}.dataSource.name"), "");
        }
        if source.kind.is_empty() {
            causes.required(format!("{at}.dataSource.kind"), "");
        }
        if source.api_group.as_deref().unwrap_or("").is_empty() && source.kind != "PersistentVolumeClaim" {
            causes.invalid(
                format!("{at}.dataSource"),
                &source.kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
    }
}

pub fn validate_claim_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, causes: &mut Causes) {
    let (Some(after), Some(before)) = (&new.spec, &old.spec) else { return };
    let (mut now, mut then) = (after.clone(), before.clone());
    if before.volume_name.as_deref().unwrap_or("").is_empty() {
        // The binder names the volume once.
        then.volume_name.clone_from(&now.volume_name);
    }
    if before.storage_class_name.is_none() && now.storage_class_name.is_some() {
        // The default class is also assigned later.
        then.storage_class_name.clone_from(&now.storage_class_name);
    }
    let size = |spec: &PersistentVolumeClaimSpec| {
        let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get("storage")).cloned()
    };
    let status = old.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some("Bound") {
        if let (Some(resources), Some(size)) = (now.resources.as_mut(), size(before)) {
            resources.requests.get_or_insert_default().insert("storage".to_owned(), size);
        }
        now.volume_attributes_class_name.clone_from(&then.volume_attributes_class_name);
    }
    if now != then {
        let json = |spec: &PersistentVolumeClaimSpec| serde_json::to_value(spec).unwrap_or(Value::Null);
        causes.forbidden(
            "spec",
            &format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
                diff(&json(&then), &json(&now))
            ),
        );
    }
    let bytes = |spec: &PersistentVolumeClaimSpec| size(spec).and_then(|size| quantity::bytes(&size.0)).unwrap_or(0);
    if bytes(after) < bytes(before) {
        let have = status.and_then(|status| status.capacity.as_ref()).and_then(|capacity| capacity.get("storage"));
        let have = have.and_then(|size| quantity::bytes(&size.0)).unwrap_or(0);
        if bytes(after) <= have {
            causes.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
        }
    }
    causes.immutable("volumeMode", &before.volume_mode, &after.volume_mode);
    if status.is_some_and(|status| status.current_volume_attributes_class_name.is_some()) {
        let field = "spec.volumeAttributesClassName";
        match after.volume_attributes_class_name.as_deref() {
            None => causes.forbidden(field, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"),
            Some("") => {
                causes.forbidden(field, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil");
            }
            Some(_) => {}
        }
    }
}

/// The fields of a PersistentVolumeSpec that are not its source.
const NOT_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn source_of(volume: &PersistentVolume) -> Value {
    let mut json = volume.spec.as_ref().and_then(|spec| serde_json::to_value(spec).ok()).unwrap_or(Value::Null);
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|name, _| !NOT_SOURCE.contains(&name.as_str()));
    }
    json
}

pub fn validate_volume(volume: &PersistentVolume, causes: &mut Causes) {
    let spec = volume.spec.clone().unwrap_or_default();
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        causes.required("spec.accessModes", "");
    }
    access_modes("spec.accessModes", modes, causes);
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        causes.required("spec.capacity", "");
    }
    match capacity.get("storage") {
        Some(size) if capacity.len() == 1 => positive("spec.capacity[storage]", &size.0, causes),
        _ => {
            let shown = serde_json::to_string(&capacity).unwrap_or_default();
            causes.one_of("spec.capacity", &shown, &["storage"]);
        }
    }
    if let Some(policy) = spec.persistent_volume_reclaim_policy.as_deref() {
        causes.one_of("spec.persistentVolumeReclaimPolicy", policy, &["Delete", "Recycle", "Retain"]);
    }
    if let Some(mode) = spec.volume_mode.as_deref() {
        causes.one_of("spec.volumeMode", mode, &VOLUME_MODES);
    }
    let sources = source_of(volume);
    match sources.as_object().map_or(0, serde_json::Map::len) {
        0 => causes.required("spec", "must specify a volume type"),
        1 => {}
        _ => causes.forbidden("spec", "may not specify more than 1 volume type"),
    }
    if let Some(csi) = &spec.csi {
        if csi.driver.is_empty() {
            causes.required("spec.csi.driver", "");
        }
        if csi.volume_handle.is_empty() {
            causes.required("spec.csi.volumeHandle", "");
        }
    }
    if let Some(local) = &spec.local
        && local.path.is_empty()
    {
        causes.required("spec.local.path", "");
    }
    if spec.local.is_some() && spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()).is_none() {
        causes.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
    if let Some(affinity) = &spec.node_affinity {
        match &affinity.required {
            None => causes.required("spec.nodeAffinity.required", "must specify required node constraints"),
            Some(required) if required.node_selector_terms.is_empty() => {
                causes.required("spec.nodeAffinity.required.nodeSelectorTerms", "must have at least one node selector term");
            }
            Some(_) => {}
        }
    }
}

pub fn validate_volume_update(new: &PersistentVolume, old: &PersistentVolume, causes: &mut Causes) {
    let (after, before) = (source_of(new), source_of(old));
    if after != before {
        let text = format!("spec.persistentvolumesource is immutable after creation\n{}", diff(&before, &after));
        causes.forbidden("spec.persistentvolumesource", &text);
    }
    let (Some(now), Some(then)) = (&new.spec, &old.spec) else { return };
    causes.immutable("volumeMode", &then.volume_mode, &now.volume_mode);
    if then.node_affinity.is_some() {
        causes.immutable("nodeAffinity", &then.node_affinity, &now.node_affinity);
    }
    if then.volume_attributes_class_name.is_some() && now.volume_attributes_class_name.is_none() {
        causes.forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden");
    }
}

pub fn validate_class(class: &StorageClass, causes: &mut Causes) {
    if class.provisioner.is_empty() {
        causes.required("provisioner", "");
    }
    if let Some(policy) = class.reclaim_policy.as_deref() {
        causes.one_of("reclaimPolicy", policy, &["Delete", "Retain"]);
    }
    if let Some(mode) = class.volume_binding_mode.as_deref() {
        causes.one_of("volumeBindingMode", mode, &["Immediate", "WaitForFirstConsumer"]);
    }
}

pub fn validate_class_update(new: &StorageClass, old: &StorageClass, causes: &mut Causes) {
    let given = |class: &StorageClass| class.parameters.clone().unwrap_or_default();
    causes.immutable("parameters", &given(old), &given(new));
    causes.immutable("provisioner", &old.provisioner, &new.provisioner);
    causes.immutable("reclaimPolicy", &old.reclaim_policy, &new.reclaim_policy);
    causes.immutable("volumeBindingMode", &old.volume_binding_mode, &new.volume_binding_mode);
}

pub fn validate_attachment(attachment: &VolumeAttachment, causes: &mut Causes) {
    let spec = &attachment.spec;
    if spec.attacher.is_empty() {
        causes.required("spec.attacher", "");
    }
    match (&spec.source.persistent_volume_name, &spec.source.inline_volume_spec) {
        (None, None) => causes.required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (Some(_), Some(_)) => {
            causes.forbidden("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        _ => {}
    }
    metadata::subdomain("spec.nodeName", &spec.node_name, causes);
}

pub fn validate_attachment_update(new: &VolumeAttachment, old: &VolumeAttachment, causes: &mut Causes) {
    causes.immutable("spec", &old.spec, &new.spec);
}

pub fn validate_attributes_class_update(new: &VolumeAttributesClass, old: &VolumeAttributesClass, causes: &mut Causes) {
    if old.driver_name != new.driver_name {
        causes.forbidden("driverName", "updates to driverName are forbidden.");
    }
    if old.parameters != new.parameters {
        causes.forbidden("parameters", "updates to parameters are forbidden.");
    }
}
