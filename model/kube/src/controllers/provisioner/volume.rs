//! What a claim becomes: the CreateVolume request, and the PersistentVolume of its answer (external-provisioner
//! `pkg/controller/controller.go`, `prepareProvision` and `Provision`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model_common::csi::{CapacityRange, ContentSource, ControllerCall, VolumeCapability};

use super::{FINALIZER, topology};
use crate::controllers::amount;
use crate::controllers::binder::{PROVISIONED_BY, matching};
use crate::controllers::{Driver, capability, class_of_claim, name, namespace};
use crate::machine::Cache;

/// Class parameters with this prefix are for the sidecars, not for the driver.
const PREFIX: &str = "csi.storage.k8s.io/";
const FSTYPE: &str = "csi.storage.k8s.io/fstype";
/// The other parameters with the prefix that are known; all of them name secrets.
const SECRETS: [&str; 10] = [
    "provisioner-secret-name",
    "provisioner-secret-namespace",
    "controller-publish-secret-name",
    "controller-publish-secret-namespace",
    "node-stage-secret-name",
    "node-stage-secret-namespace",
    "node-publish-secret-name",
    "node-publish-secret-namespace",
    "controller-expand-secret-name",
    "controller-expand-secret-namespace",
];

/// `pvc-<uid>`: the name of the volume, and so the key of idempotency.
pub fn name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or(""))
}

fn fs_type(driver: &Driver, class: &StorageClass) -> Result<String, String> {
    let mut found: Vec<&String> = Vec::new();
    for (key, value) in class.parameters.iter().flatten() {
        if key.eq_ignore_ascii_case("fstype") || key == FSTYPE {
            found.push(value);
        }
    }
    match found.as_slice() {
        [] => Ok(driver.default_fstype.clone()),
        [one] => Ok((*one).clone()),
        _ => Err(format!("fstype specified in parameters with both \"fstype\" and \"{FSTYPE}\" keys")),
    }
}

/// The request for a claim, or why there can be none.
pub fn request(
    driver: &Driver,
    cache: &Cache,
    places: &topology::Places,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    content_source: Option<ContentSource>,
) -> Result<ControllerCall, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.selector.is_some() {
        return Err("claim Selector is not supported".to_owned());
    }
    let attributes = spec.volume_attributes_class_name.as_deref().filter(|name| !name.is_empty());
    if attributes.is_some() && !driver.modifies {
        return Err("CSI driver does not support VolumeAttributesClass: controller MODIFY_VOLUME capability is not reported".to_owned());
    }
    let fs_type = fs_type(driver, class)?;
    let block = spec.volume_mode.as_deref() == Some("Block");
    let mut capabilities = Vec::new();
    for mode in spec.access_modes.iter().flatten() {
        let mode = capability::access_mode(mode, driver.single_node_multi_writer).ok_or_else(|| format!("unknown access mode {mode}"))?;
        capabilities.push(VolumeCapability { access: capability::access(block, &fs_type, class.mount_options.as_ref()), mode });
    }
    let mut parameters = BTreeMap::new();
    for (key, value) in class.parameters.iter().flatten() {
        match key.strip_prefix(PREFIX) {
            None => {
                parameters.insert(key.clone(), value.clone());
            }
            Some(known) if key == FSTYPE || SECRETS.contains(&known) => {}
            Some(_) => {
                return Err(format!("found unknown parameter key \"{key}\" with reserved namespace {PREFIX}"));
            }
        }
    }
    if driver.extra_create_metadata {
        parameters.insert("csi.storage.k8s.io/pvc/name".to_owned(), name(&claim.metadata).to_owned());
        parameters.insert("csi.storage.k8s.io/pvc/namespace".to_owned(), namespace(&claim.metadata).to_owned());
        parameters.insert("csi.storage.k8s.io/pv/name".to_owned(), name_for(claim));
    }
    let topology = if driver.topology {
        topology::requirement(driver, cache, places, claim, class)
            .map_err(|why| format!("error generating accessibility requirements: {why}"))?
    } else {
        None
    };
    Ok(ControllerCall::CreateVolume {
        name: name_for(claim),
        capacity: CapacityRange { required_bytes: matching::requested(claim), limit_bytes: 0 },
        capabilities,
        parameters,
        mutable_parameters: attributes.map_or_else(|| Ok(BTreeMap::new()), |name| mutable_parameters(driver, cache, name))?,
        content_source,
        topology,
    })
}

/// The parameters of a VolumeAttributesClass of this driver.
fn mutable_parameters(driver: &Driver, cache: &Cache, name: &str) -> Result<BTreeMap<String, String>, String> {
    let Some(class) = cache.get::<VolumeAttributesClass>("", name) else {
        return Err(format!("volumeattributesclasses.storage.k8s.io \"{name}\" not found"));
    };
    if class.driver_name != driver.name {
        let theirs = &class.driver_name;
        return Err(format!("VAC {name} referenced in PVC is for driver {theirs} which does not match driver name {}", driver.name));
    }
    Ok(class.parameters.clone().unwrap_or_default())
}

/// The PersistentVolume of a volume that was made for a claim.
pub fn persistent_volume(
    driver: &Driver,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    made: &model_common::csi::Volume,
) -> Result<PersistentVolume, String> {
    let requested = matching::requested(claim);
    let bytes = if made.capacity_bytes == 0 { requested } else { made.capacity_bytes };
    if bytes < requested {
        return Err(format!("created volume capacity {bytes} less than requested capacity {requested}"));
    }
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.data_source.is_some() && made.content_source.is_none() {
        return Err("volume content source missing".to_owned());
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    let fs_type = class.map_or_else(|| Ok(driver.default_fstype.clone()), |class| fs_type(driver, class))?;
    let mut attributes = BTreeMap::from([("storage.kubernetes.io/csiProvisionerIdentity".to_owned(), driver.identity.clone())]);
    attributes.extend(made.volume_context.clone());
    // Without a class (it may be gone by now) the policy is the default of classes.
    let policy = class.and_then(|class| class.reclaim_policy.clone()).unwrap_or_else(|| "Delete".to_owned());
    let node_affinity = (!made.accessible_topology.is_empty()).then(|| VolumeNodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: made
                .accessible_topology
                .iter()
                .map(|segments| NodeSelectorTerm {
                    match_expressions: Some(
                        segments
                            .iter()
                            .map(|(key, value)| NodeSelectorRequirement {
                                key: key.clone(),
                                operator: "In".to_owned(),
                                values: Some(vec![value.clone()]),
                            })
                            .collect(),
                    ),
                    match_fields: None,
                })
                .collect(),
        }),
    });
    let annotations = BTreeMap::from([
        (PROVISIONED_BY.to_owned(), driver.name.clone()),
        ("volume.kubernetes.io/provisioner-deletion-secret-name".to_owned(), String::new()),
        ("volume.kubernetes.io/provisioner-deletion-secret-namespace".to_owned(), String::new()),
    ]);
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name_for(claim)),
            annotations: Some(annotations),
            finalizers: (policy == "Delete").then(|| vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: Some(BTreeMap::from([("storage".to_owned(), amount::binary(bytes))])),
            claim_ref: Some(crate::events::reference(claim)),
            csi: Some(CSIPersistentVolumeSource {
                driver: driver.name.clone(),
                volume_handle: made.volume_id.clone(),
                fs_type: (!block && !fs_type.is_empty()).then_some(fs_type),
                volume_attributes: Some(attributes),
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: class.and_then(|class| class.mount_options.clone()),
            node_affinity,
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: Some(class_of_claim(claim).to_owned()),
            volume_mode: Some(spec.volume_mode.clone().unwrap_or_else(|| "Filesystem".to_owned())),
            volume_attributes_class_name: spec.volume_attributes_class_name.clone().filter(|name| !name.is_empty()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}
