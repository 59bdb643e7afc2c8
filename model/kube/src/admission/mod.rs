//! What happens to an object between the request and the store: defaults, admission plugins, validation (kube-api.md §4, §6).

mod causes;
mod defaults;
mod metadata;
mod plugins;
mod pod;
mod storage;
mod workload;

#[cfg(test)]
mod tests;

use crate::object::Object;
use crate::write::{Cause, Subresource};

pub use self::causes::Causes;
pub use self::defaults::{default, prepare_create};
pub use self::plugins::{IS_DEFAULT, IS_DEFAULT_BETA, admit_create, admit_update, csi_drivers, default_class};

/// What is wrong with a new object.
pub fn validate_create(object: &Object, namespaced: bool) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::validate(object, namespaced, &mut causes);
    validate(object, &mut causes);
    causes.into_vec()
}

/// What is wrong with a change.
pub fn validate_update(new: &Object, old: &Object, subresource: Subresource) -> Vec<Cause> {
    let mut causes = Causes::default();
    metadata::validate_labels(new, &mut causes);
    if subresource == Subresource::Status {
        return causes.into_vec();
    }
    match (new, old) {
        (Object::Pod(new), Object::Pod(old)) => pod::validate_update(new, old, &mut causes),
        (Object::PersistentVolumeClaim(new), Object::PersistentVolumeClaim(old)) => {
            storage::validate_claim(new, &mut causes);
            storage::validate_claim_update(new, old, &mut causes);
        }
        (Object::PersistentVolume(new), Object::PersistentVolume(old)) => {
            storage::validate_volume(new, &mut causes);
            storage::validate_volume_update(new, old, &mut causes);
        }
        (Object::StorageClass(new), Object::StorageClass(old)) => storage::validate_class_update(new, old, &mut causes),
        (Object::VolumeAttachment(new), Object::VolumeAttachment(old)) => {
            storage::validate_attachment_update(new, old, &mut causes);
        }
        (Object::VolumeAttributesClass(new), Object::VolumeAttributesClass(old)) => {
            storage::validate_attributes_class_update(new, old, &mut causes);
        }
        (Object::ConfigMap(new), Object::ConfigMap(old)) => {
            metadata::immutable_data(
                old.immutable,
                new.immutable,
                (&old.data, &old.binary_data) == (&new.data, &new.binary_data),
                &mut causes,
            );
        }
        (Object::Secret(new), Object::Secret(old)) => {
            metadata::immutable_data(old.immutable, new.immutable, old.data == new.data, &mut causes);
            causes.immutable("type", &old.type_, &new.type_);
        }
        (Object::StatefulSet(_) | Object::Deployment(_) | Object::ReplicaSet(_) | Object::DaemonSet(_), _)
        | (Object::Job(_) | Object::ControllerRevision(_), _) => workload::validate_update(new, old, &mut causes),
        _ => validate(new, &mut causes),
    }
    causes.into_vec()
}

fn validate(object: &Object, causes: &mut Causes) {
    match object {
        Object::Pod(pod) => pod::validate(pod, causes),
        Object::PersistentVolumeClaim(claim) => storage::validate_claim(claim, causes),
        Object::PersistentVolume(volume) => storage::validate_volume(volume, causes),
        Object::StorageClass(class) => storage::validate_class(class, causes),
        Object::VolumeAttachment(attachment) => storage::validate_attachment(attachment, causes),
        Object::VolumeAttributesClass(class) => {
            if class.driver_name.is_empty() {
                causes.required("driverName", "");
            }
            if class.parameters.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
                causes.required("parameters", "must contain at least one key/value pair");
            }
        }
        Object::ConfigMap(map) => {
            metadata::data_keys("data", map.data.iter().flatten().map(|(key, _)| key), causes);
            metadata::data_keys("binaryData", map.binary_data.iter().flatten().map(|(key, _)| key), causes);
        }
        Object::Secret(secret) => metadata::data_keys("data", secret.data.iter().flatten().map(|(key, _)| key), causes),
        other => workload::validate(other, causes),
    }
}
