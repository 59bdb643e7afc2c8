//! The ephemeral volume controller: a pod's `ephemeral.volumeClaimTemplate` becomes a claim that the pod owns
//! (`pkg/controller/volume/ephemeral`).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{claim_of, name, namespace};
use crate::events::{EventRecord, Said};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Queue, Reject};
use crate::object::{Key, Kind, Object};
use crate::write::Write;

const COMPONENT: &str = "ephemeral_volume";

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Ephemeral {
    cache: Cache,
    work: Queue,
    said: Said,
}

impl Ephemeral {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                match change.object() {
                    Object::Pod(_) => self.work.mark(change.object().key()),
                    // A claim that is gone, whosever it was, is made anew for the pod that has it in its spec.
                    Object::PersistentVolumeClaim(claim) => {
                        let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
                        let pods: Vec<Key> = self.cache.find(Index::PodsByClaim, &address).cloned().collect();
                        pods.into_iter().for_each(|pod| self.work.mark(pod));
                    }
                    _ => {}
                }
            }
            Input::Written { call, result } => {
                self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            if item.kind == Kind::Pod {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(pod) = self.cache.at::<Pod>(item).cloned() else {
            self.said.forget(item);
            return self.work.forget(item, out);
        };
        if pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) else { continue };
            let Some(claim_name) = claim_of(&pod, volume) else { continue };
            match self.cache.get::<PersistentVolumeClaim>(&item.namespace, &claim_name) {
                Some(claim) if is_owned(claim, &pod) => {}
                Some(_) => {
                    let message = format!(
                        "ephemeral volume {}: PVC {}/{claim_name} was not created for pod {}/{} (pod is not owner)",
                        volume.name, item.namespace, item.namespace, item.name
                    );
                    let record = EventRecord::warning(&*pod, "FailedBinding", message, COMPONENT);
                    if self.said.is_news(item, &record) {
                        out.push(Effect::Record(record));
                    }
                    return;
                }
                None => {
                    let metadata = template.metadata.clone().unwrap_or_default();
                    let claim = PersistentVolumeClaim {
                        metadata: ObjectMeta {
                            name: Some(claim_name),
                            namespace: Some(item.namespace.to_string()),
                            owner_references: Some(vec![owner(&pod)]),
                            annotations: metadata.annotations,
                            labels: metadata.labels,
                            ..ObjectMeta::default()
                        },
                        spec: Some(template.spec.clone()),
                        status: None,
                    };
                    self.work.write(item, Write::create(claim), out);
                    return;
                }
            }
        }
    }
}

/// `VolumeIsForPod`: the pod is the claim's controller.
pub fn is_owned(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

fn owner(pod: &Pod) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests;
