//! The desired state of the world: which pod needs which volume on which node (§2.1; `cache/desired_state_of_world.go`,
//! `pkg/controller/volume/attachdetach/util`).

use k8s_openapi::api::core::v1::ContainerStatus;
use k8s_openapi::api::storage::v1::CSIDriver;

use super::*;
use crate::controllers::{annotation, claims_of, is_finished, node_of};

const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Whether the controller, not the kubelet, attaches for this node.
pub(super) fn is_managed(node: &Node) -> bool {
    annotation(&node.metadata, MANAGED) == Some("true")
}

/// `kubernetes.io/csi/<driver>^<handle>`; none for what is no CSI volume.
pub(super) fn unique_name(volume: &PersistentVolume) -> Option<String> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some(format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

/// `IsPodTerminated`: nothing of the pod runs any more.
fn is_terminated(pod: &Pod) -> bool {
    let runs = |status: &ContainerStatus| !status.state.as_ref().is_some_and(|state| state.terminated.is_some() || state.waiting.is_some());
    let containers = pod.status.iter().flat_map(|status| {
        let kinds = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        kinds.into_iter().flatten().flatten()
    });
    is_finished(pod) || (pod.metadata.deletion_timestamp.is_some() && !containers.into_iter().any(runs))
}

impl AttachDetach {
    /// Whether the controller attaches for the node from this change on: pods that were there before count now.
    pub(super) fn becomes_managed(&mut self, node: &str) -> bool {
        if self.cache.get::<Node>("", node).is_some_and(|node| is_managed(node)) {
            return self.managed.insert(node.to_owned());
        }
        self.managed.remove(node);
        false
    }

    /// Takes a pod's needs in. They grow while the pod lives, and all go when it is terminated or gone: a claim that vanishes
    /// under a running pod detaches nothing.
    pub(super) fn update_pod(&mut self, key: &Key) {
        let pod = self.cache.at::<Pod>(key).filter(|pod| !is_terminated(pod)).cloned();
        let Some(pod) = pod else {
            for pair in self.by_pod.remove(key).unwrap_or_default() {
                self.release(key, &pair);
            }
            return;
        };
        let node_name = node_of(&pod);
        if node_name.is_empty() || !self.cache.get::<Node>("", node_name).is_some_and(|node| is_managed(node)) {
            return;
        }
        let claims: Vec<String> = claims_of(&pod).collect();
        for claim in claims {
            let Some((unique, volume)) = self.volume_of(namespace(&pod.metadata), &claim) else { continue };
            let pair = Pair { volume: unique, node: node_name.to_owned() };
            let item = self.pairs.add(&pair);
            self.by_pod.entry(key.clone()).or_default().insert(pair.clone());
            let is_new = !self.wanted.contains_key(&pair);
            let wanted = self.wanted.entry(pair).or_default();
            wanted.volume = volume;
            wanted.pods.insert(key.clone());
            if is_new {
                // An attach does not wait for the backoff of a detach.
                self.work.succeed(&item);
                self.work.mark(item);
            }
        }
    }

    fn release(&mut self, pod: &Key, pair: &Pair) {
        let Some(wanted) = self.wanted.get_mut(pair) else { return };
        wanted.pods.remove(pod);
        if wanted.pods.is_empty() {
            self.wanted.remove(pair);
            let item = self.pairs.item(pair);
            self.work.succeed(&item);
            self.work.mark(item);
            self.mark_siblings(pair);
        }
    }

    /// The volume of a claim as (unique name, PersistentVolume's name), when it is bound both ways and its driver attaches.
    fn volume_of(&self, namespace: &str, claim: &str) -> Option<(String, String)> {
        let claim = self.cache.get::<PersistentVolumeClaim>(namespace, claim)?;
        if claim.status.as_ref()?.phase.as_deref() != Some("Bound") {
            return None;
        }
        let volume = self.cache.get::<PersistentVolume>("", claim.spec.as_ref()?.volume_name.as_deref()?)?;
        let spec = volume.spec.as_ref()?;
        if spec.claim_ref.as_ref()?.uid != claim.metadata.uid {
            return None;
        }
        let driver = self.cache.get::<CSIDriver>("", &spec.csi.as_ref()?.driver);
        // No CSIDriver object counts as "attach is required".
        if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
            return None;
        }
        Some((unique_name(volume)?, name(&volume.metadata).to_owned()))
    }
}
