//! Requests to the API that more than one line is needed for.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, Patch, PatchParams};
use model_node::volume_manager::{self as vm, PodVolume};
use serde_json::json;

use super::api_message;

/// Writes a pod's status until the API takes or refuses it.
pub async fn patch_status(client: &kube::Client, api: &Pod, status: serde_json::Value) {
    let pods = Api::<Pod>::namespaced(client.clone(), api.metadata.namespace.as_deref().unwrap_or("default"));
    let patch = json!({"metadata": {"uid": api.metadata.uid}, "status": status});
    let name = api.metadata.name.clone().unwrap_or_default();
    let mut wait = Duration::from_millis(100);
    loop {
        match pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return,
            Err(kube::Error::Api(refused)) => {
                // Gone, or another pod of that name: nothing to show any more.
                if !matches!(refused.code, 404 | 409) {
                    tracing::warn!(pod = name, message = refused.message, "the pod's status was refused");
                }
                return;
            }
            Err(error) => {
                tracing::debug!(%error, pod = name, "the pod's status was not written");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
        }
    }
}

/// The populator's live GETs (§3.2).
pub async fn resolve(client: &kube::Client, node: &str, pod: &Pod) -> Result<Vec<PodVolume>, String> {
    let used = vm::pod_claims(pod);
    if used.is_empty() {
        return Ok(Vec::new());
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let labels = Api::<Node>::all(client.clone()).get(node).await.map_err(|error| api_message(&error))?.metadata.labels.unwrap_or_default();
    let mut volumes = Vec::new();
    for used in used {
        let fail = |why: String| vm::ResolveError::Claim { namespace: namespace.clone(), claim: used.claim.clone(), why }.to_string();
        let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
        let claim = claims.get(&used.claim).await;
        let claim = claim.map_err(|error| fail(format!("failed to fetch PVC from API server: {}", api_message(&error))))?;
        let name = vm::claim_volume(pod, &used, &claim).map_err(|error| error.to_string())?;
        let volume = Api::<PersistentVolume>::all(client.clone()).get(name).await;
        let volume = volume.map_err(|error| fail(format!("failed to fetch PV {name} from API server: {}", api_message(&error))))?;
        let driver = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).map(|csi| csi.driver.clone());
        let driver = match driver {
            Some(driver) => Api::<CSIDriver>::all(client.clone()).get_opt(&driver).await.map_err(|error| api_message(&error))?,
            None => None,
        };
        let found = vm::resolve_pod_volume(pod, &used, &claim, &volume, driver.as_ref(), &labels);
        volumes.push(found.map_err(|error| error.to_string())?);
    }
    Ok(volumes)
}

/// Whether one of these volumes was refused because the node takes no more. What cannot be read is no refusal.
pub async fn attach_limit(client: &kube::Client, node: &str, waiting: &[std::sync::Arc<vm::VolumeSpec>]) -> bool {
    let (drivers, attachments) = (Api::<CSIDriver>::all(client.clone()), Api::<VolumeAttachment>::all(client.clone()));
    for spec in waiting {
        let name = vm::attachment_name(&spec.handle, &spec.driver, node);
        let (driver, attachment) = tokio::join!(drivers.get_opt(&spec.driver), attachments.get_opt(&name));
        if vm::is_exhausted(driver.ok().flatten().as_ref(), attachment.ok().flatten().as_ref()) {
            return true;
        }
    }
    false
}
