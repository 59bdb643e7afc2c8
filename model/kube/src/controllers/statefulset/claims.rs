//! The claims of a set's pods: made before the pods, and whose they are by `persistentVolumeClaimRetentionPolicy`
//! (`stateful_pod_control.go`, `stateful_set_utils.go`).

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity;
use crate::controllers::name;
use crate::controllers::workload::{controller_reference, uid};
use crate::object::Typed;

/// Whether claims go when their ordinal is scaled away, and when the set is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub when_scaled: bool,
    pub when_deleted: bool,
}

pub(crate) fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.clone()).unwrap_or_default();
    let deletes = |text: Option<String>| text.as_deref() == Some("Delete");
    Policy { when_scaled: deletes(policy.when_scaled), when_deleted: deletes(policy.when_deleted) }
}

/// Whether a reference names an object, whatever its uid (`matchesRef`).
fn names<T: Typed>(reference: &OwnerReference, object: &T) -> bool {
    let own = controller_reference(object);
    (&reference.api_version, &reference.kind, &reference.name) == (&own.api_version, &own.kind, &own.name)
}

fn references(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// Whether a claim is owned by an earlier object of the name (`hasStaleOwnerRef`). The claim is on its way out, with that one.
pub(crate) fn is_stale<T: Typed>(claim: &PersistentVolumeClaim, object: &T) -> bool {
    references(claim).iter().find(|reference| names(reference, object)).is_some_and(|reference| reference.uid != uid(object.metadata()))
}

/// Whether a claim has a controller that is neither the set nor the pod (`hasUnexpectedController`).
pub(crate) fn has_other_controller(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    let policy = policy(set);
    if !policy.when_scaled && !policy.when_deleted {
        return false;
    }
    references(claim).iter().any(|reference| {
        if names(reference, set) {
            reference.uid != uid(&set.metadata)
        } else if names(reference, pod) {
            reference.uid != uid(&pod.metadata)
        } else {
            reference.controller == Some(true)
        }
    })
}

/// A claim with the owners that the policy wants, where it has others (`updateClaimOwnerRefForSetAndPod`).
pub(crate) fn corrected(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> Option<PersistentVolumeClaim> {
    // An earlier set's or pod's: it is left alone.
    if is_stale(claim, set) || is_stale(claim, pod) {
        return None;
    }
    let mut owners: Vec<OwnerReference> =
        references(claim).iter().filter(|reference| !names(reference, set) && !names(reference, pod)).cloned().collect();
    if !has_other_controller(claim, set, pod) {
        let Policy { when_scaled, when_deleted } = policy(set);
        let ordinal = identity::ordinal(name(&set.metadata), name(&pod.metadata));
        let is_scaled_away = ordinal.is_none_or(|ordinal| !identity::range(set).contains(&ordinal));
        if when_scaled && is_scaled_away {
            owners.push(controller_reference(pod));
        } else if when_deleted {
            owners.push(controller_reference(set));
        }
    }
    let same = |a: &OwnerReference, b: &OwnerReference| a.uid == b.uid && a.controller == b.controller;
    let have = references(claim);
    if owners.len() == have.len() && owners.iter().all(|owner| have.iter().any(|known| same(owner, known))) {
        return None;
    }
    let mut updated = claim.clone();
    updated.metadata.owner_references = Some(owners).filter(|owners| !owners.is_empty());
    Some(updated)
}
