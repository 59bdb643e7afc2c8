//! The VolumeBinding plugin's view of a pod's claims (§4.1; `volumebinding/volume_binding.go`, `binder.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::filter::World;
use crate::controllers::binder::{BIND_COMPLETED, SELECTED_NODE, matching};
use crate::controllers::{annotation, claim_of, class_of_claim, ephemeral, name, namespace};
use crate::machine::Cache;
use crate::selector;

pub const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
pub const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
pub const VOLUME_MISSING: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// A pod's claims, sorted.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    pub bound: Vec<Arc<PersistentVolumeClaim>>,
    /// Not bound yet; the scheduler decides where.
    pub delayed: Vec<Arc<PersistentVolumeClaim>>,
}

/// What is to be done for a pod's claims on a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Claim → PersistentVolume.
    pub fixed: BTreeMap<String, String>,
    pub provisioned: BTreeSet<String>,
}

/// Whether both sides are bound (`isPVCFullyBound`).
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|volume| !volume.is_empty());
    named && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// PreFilter: the claims, or why the pod cannot be scheduled anywhere.
pub fn claims(cache: &Cache, pod: &Pod) -> Result<Claims, String> {
    let mut claims = Claims::default();
    let mut immediate = false;
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(claim_name) = claim_of(pod, volume) else { continue };
        let Some(claim) = cache.get::<PersistentVolumeClaim>(namespace(&pod.metadata), &claim_name) else {
            return Err(if volume.ephemeral.is_some() {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{claim_name}\"")
            } else {
                format!("persistentvolumeclaim \"{claim_name}\" not found")
            });
        };
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
            return Err(format!("persistentvolumeclaim \"{claim_name}\" bound to non-existent persistentvolume \"{volume}\""));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{claim_name}\" is being deleted"));
        }
        if volume.ephemeral.is_some() && !ephemeral::is_owned(claim, pod) {
            let (namespace, pod_name) = (namespace(&pod.metadata), name(&pod.metadata));
            return Err(format!("PVC {namespace}/{claim_name} was not created for pod {namespace}/{pod_name} (pod is not owner)"));
        }
        if is_bound(claim) {
            claims.bound.push(claim.clone());
        } else if is_delayed(cache, claim) {
            claims.delayed.push(claim.clone());
        } else {
            immediate = true;
        }
    }
    if immediate {
        return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    Ok(claims)
}

/// Whether the scheduler has a say. A claim that names its volume is the PV controller's alone.
fn is_delayed(cache: &Cache, claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|volume| !volume.is_empty());
    let class = cache.get::<StorageClass>("", class_of_claim(claim));
    !named && class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// Filter: what the node asks for, or the reasons why it cannot be.
pub fn find(cache: &Cache, world: &World, claims: &Claims, node: &Node) -> Result<Found, Vec<&'static str>> {
    let mut reasons = BTreeSet::new();
    for claim in &claims.bound {
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        match cache.get::<PersistentVolume>("", volume) {
            None => {
                reasons.insert(VOLUME_MISSING);
            }
            Some(volume) if !selector::volume_fits(volume, node) => {
                reasons.insert(NODE_CONFLICT);
            }
            Some(_) => {}
        }
    }
    let mut found = Found::default();
    let mut delayed: Vec<&Arc<PersistentVolumeClaim>> = claims.delayed.iter().collect();
    delayed.sort_by_key(|claim| (matching::requested(claim), claim.metadata.name.clone()));
    for claim in delayed {
        let claim_name = name(&claim.metadata).to_owned();
        let chosen = annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty());
        if let Some(chosen) = chosen {
            if chosen == name(&node.metadata) {
                found.provisioned.insert(claim_name);
            } else {
                reasons.insert(BIND_CONFLICT);
            }
            continue;
        }
        let address = format!("{}/{claim_name}", namespace(&claim.metadata));
        let mut excluded: BTreeSet<String> = found.fixed.values().cloned().collect();
        excluded.extend(world.volumes.iter().filter(|(_, taker)| **taker != address).map(|(volume, _)| volume.clone()));
        match matching::best(matching::candidates(cache, claim), claim, Some(node), &excluded, true) {
            Some(volume) => {
                found.fixed.insert(claim_name, name(&volume.metadata).to_owned());
            }
            None if can_provision(cache, claim, node) => {
                found.provisioned.insert(claim_name);
            }
            None => {
                reasons.insert(BIND_CONFLICT);
            }
        }
    }
    if reasons.is_empty() { Ok(found) } else { Err(reasons.into_iter().collect()) }
}

fn can_provision(cache: &Cache, claim: &PersistentVolumeClaim, node: &Node) -> bool {
    let Some(class) = cache.get::<StorageClass>("", class_of_claim(claim)) else { return false };
    class.provisioner != "kubernetes.io/no-provisioner"
        && selector::topology_allowed(class.allowed_topologies.as_deref(), node.metadata.labels.as_ref())
}
