//! From a pod's volume to the volume behind it: the populator's rules (§3.2), given the objects that live GETs returned.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSIDriver;
use model_common::bugs::{self, Bug};

use super::spec::{AccessMode, ClaimRef, FsGroupPolicy, PodVolume, VolumeSpec, unique_name};
use crate::quantity;

/// A volume of a pod that stands for a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// The name in `pod.spec.volumes`.
    pub volume: String,
    pub claim: String,
    pub read_only: bool,
    /// A generic ephemeral volume: the claim must belong to the pod.
    pub ephemeral: bool,
}

/// The claims behind the volumes that the pod's containers use.
pub fn pod_claims(pod: &Pod) -> Vec<PodClaim> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let used: Vec<&str> = containers
        .flat_map(|container| {
            let mounts = container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str());
            mounts.chain(container.volume_devices.iter().flatten().map(|device| device.name.as_str()))
        })
        .collect();
    let volumes = spec.volumes.iter().flatten().filter(|volume| used.contains(&volume.name.as_str()));
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(PodClaim {
                volume: volume.name.clone(),
                claim: claim.claim_name.clone(),
                read_only: claim.read_only.unwrap_or(false),
                ephemeral: false,
            }),
            (None, Some(_)) => Some(PodClaim {
                volume: volume.name.clone(),
                claim: format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name),
                read_only: false,
                ephemeral: true,
            }),
            (None, None) => None,
        })
        .collect()
}

/// Why a pod's volume cannot be used now; the texts are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("error processing PVC {namespace}/{claim}: {why}")]
    Claim { namespace: String, claim: String, why: String },
    #[error("PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)")]
    NotOwner { namespace: String, claim: String, pod: String },
    #[error("volume {volume} has volumeMode {mode}, but is specified in {field}")]
    Mode { volume: String, mode: &'static str, field: &'static str },
    #[error(
        "volume {volume} is no CSI volume; only CSI volumes, emptyDir, hostPath, configMap, secret, downwardAPI and projected are built"
    )]
    NotCsi { volume: String },
    #[error("PV {volume}: {why}")]
    Quantity { volume: String, why: String },
}

/// What the claim refers to, after the checks that need no PersistentVolume.
pub fn claim_volume<'a>(pod: &Pod, used: &PodClaim, claim: &'a PersistentVolumeClaim) -> Result<&'a str, ResolveError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let fail = |why: &str| ResolveError::Claim { namespace: namespace.clone(), claim: used.claim.clone(), why: why.into() };
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == "kubernetes.io/pvc-protection");
    let protected = protected && !bugs::on(Bug::DeletedClaimIsRefused);
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err(fail("PVC is being deleted"));
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err(fail("PVC is not bound"));
    }
    let owned = || claim.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    if used.ephemeral && !owned() {
        let pod = pod.metadata.name.clone().unwrap_or_default();
        return Err(ResolveError::NotOwner { namespace, claim: used.claim.clone(), pod });
    }
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if volume.is_empty() {
        return Err(fail("PVC has empty pvc.Spec.VolumeName"));
    }
    Ok(volume)
}

/// The volume behind a pod's claim.
pub fn resolve_pod_volume(
    pod: &Pod,
    used: &PodClaim,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    driver: Option<&CSIDriver>,
    node_labels: &BTreeMap<String, String>,
) -> Result<PodVolume, ResolveError> {
    let name = claim_volume(pod, used, claim)?;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    let fail = |why: String| ResolveError::Claim { namespace: namespace.clone(), claim: used.claim.clone(), why };
    let spec = volume.spec.clone().unwrap_or_default();
    let Some(bound) = &spec.claim_ref else {
        return Err(fail(format!("found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim")));
    };
    let bound = bound.uid.clone().unwrap_or_default();
    if bound != uid {
        return Err(fail(format!("found PV object {name} but its pv.Spec.ClaimRef.UID {bound} does not point to claim.UID {uid}")));
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    check_mode(pod, &used.volume, block)?;
    let Some(csi) = spec.csi.clone() else { return Err(ResolveError::NotCsi { volume: used.volume.clone() }) };
    let bytes = |quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| match quantity {
        Some(quantity) => {
            quantity::bytes(&quantity.0).map_err(|error| ResolveError::Quantity { volume: name.to_owned(), why: error.to_string() })
        }
        None => Ok(0),
    };
    let capacity = bytes(spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")))?;
    let status = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let claim_capacity = bytes(status.and_then(|capacity| capacity.get("storage")))?;
    let driver_spec = driver.map(|driver| &driver.spec);
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let terms = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()).map(|required| &required.node_selector_terms);
    let fits = terms.is_none_or(|terms| terms.iter().any(|term| term_matches(term, node_labels)));
    let spec = VolumeSpec {
        name: unique_name(&csi.driver, &csi.volume_handle),
        pv: name.to_owned(),
        driver: csi.driver,
        handle: csi.volume_handle,
        claim: Some(ClaimRef { namespace, name: used.claim.clone(), uid }),
        block,
        fs_type: csi.fs_type.unwrap_or_default(),
        mount_options: spec.mount_options.unwrap_or_default(),
        attributes: csi.volume_attributes.unwrap_or_default(),
        access_modes: spec.access_modes.iter().flatten().filter_map(|mode| AccessMode::parse(mode)).collect(),
        attachable: driver_spec.and_then(|spec| spec.attach_required).unwrap_or(true),
        capacity,
        claim_capacity,
        fs_group_policy: match driver_spec.and_then(|spec| spec.fs_group_policy.as_deref()) {
            Some("None") => FsGroupPolicy::None,
            Some("File") => FsGroupPolicy::File,
            _ => FsGroupPolicy::ReadWriteOnceWithFSType,
        },
        pod_info: driver_spec.and_then(|spec| spec.pod_info_on_mount).unwrap_or(false),
        republish: driver_spec.and_then(|spec| spec.requires_republish).unwrap_or(false),
        node_mismatch: (!fits).then(|| "no matching NodeSelectorTerms".to_owned()),
    };
    Ok(PodVolume {
        name: used.volume.clone(),
        read_only: used.read_only || csi.read_only.unwrap_or(false),
        fs_group: context.and_then(|context| context.fs_group).and_then(|gid| u32::try_from(gid).ok()),
        on_root_mismatch: context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch"),
        spec: Arc::new(spec),
    })
}

fn check_mode(pod: &Pod, volume: &str, block: bool) -> Result<(), ResolveError> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        if block && container.volume_mounts.iter().flatten().any(|mount| mount.name == volume) {
            return Err(ResolveError::Mode { volume: volume.into(), mode: "Block", field: "volumeMounts" });
        }
        if !block && container.volume_devices.iter().flatten().any(|device| device.name == volume) {
            return Err(ResolveError::Mode { volume: volume.into(), mode: "Filesystem", field: "volumeDevices" });
        }
    }
    Ok(())
}

fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    // A term without expressions matches nothing.
    !expressions.is_empty()
        && expressions.iter().all(|expression| {
            let label = labels.get(&expression.key);
            let values = expression.values.as_deref().unwrap_or_default();
            let number = |text: &str| text.parse::<i64>().ok();
            let compare = |holds: fn(i64, i64) -> bool| {
                let (label, value) = (label.and_then(|label| number(label)), values.first().and_then(|value| number(value)));
                label.zip(value).is_some_and(|(label, value)| holds(label, value))
            };
            match expression.operator.as_str() {
                "In" => label.is_some_and(|label| values.contains(label)),
                "NotIn" => label.is_none_or(|label| !values.contains(label)),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                "Gt" => compare(|label, value| label > value),
                "Lt" => compare(|label, value| label < value),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects() -> (Pod, PersistentVolumeClaim, PersistentVolume) {
        let pod = serde_json::from_value(json!({"metadata": {"name": "app", "namespace": "default", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
                        {"name": "unused", "persistentVolumeClaim": {"claimName": "other"}}]}}));
        let claim = serde_json::from_value(json!({"metadata": {"name": "claim", "uid": "cu"},
            "spec": {"volumeName": "pv"}, "status": {"phase": "Bound", "capacity": {"storage": "4Gi"}}}));
        let volume = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "8Gi"}, "claimRef": {"uid": "cu"}, "csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1", "fsType": "ext4"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}}}));
        (pod.unwrap(), claim.unwrap(), volume.unwrap())
    }

    #[test]
    fn a_bound_claim_gives_its_volume() {
        let (pod, claim, volume) = objects();
        let used = pod_claims(&pod);
        assert_eq!(used.len(), 1, "a volume that no container mounts is not used");
        let found = resolve_pod_volume(&pod, &used[0], &claim, &volume, None, &[("zone".into(), "a".into())].into()).unwrap();
        assert_eq!(&*found.spec.name, "kubernetes.io/csi/ebs.csi.aws.com^vol-1");
        assert_eq!((found.spec.capacity, found.spec.claim_capacity), (8 << 30, 4 << 30));
        assert!(found.spec.attachable && found.spec.node_mismatch.is_none());
        let elsewhere = resolve_pod_volume(&pod, &used[0], &claim, &volume, None, &BTreeMap::new()).unwrap();
        assert_eq!(elsewhere.spec.node_mismatch.as_deref(), Some("no matching NodeSelectorTerms"));
    }

    #[test]
    fn the_refusals_have_upstreams_texts() {
        let (pod, mut claim, mut volume) = objects();
        let used = &pod_claims(&pod)[0];
        let say = |claim: &_, volume: &_| resolve_pod_volume(&pod, used, claim, volume, None, &BTreeMap::new()).unwrap_err().to_string();
        volume.spec.as_mut().unwrap().volume_mode = Some("Block".into());
        assert_eq!(say(&claim, &volume), "volume data has volumeMode Block, but is specified in volumeMounts");
        volume.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("x".into());
        assert_eq!(
            say(&claim, &volume),
            "error processing PVC default/claim: found PV object pv but its pv.Spec.ClaimRef.UID x does not point to claim.UID cu"
        );
        claim.status.as_mut().unwrap().phase = Some("Pending".into());
        assert_eq!(say(&claim, &volume), "error processing PVC default/claim: PVC is not bound");
    }
}
