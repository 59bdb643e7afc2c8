//! What was made for the claims of a run and did not go with them: claims of StatefulSets, volumes that are kept or leaked. What else is
//! new in the world may be somebody else's, and is not touched.

use serde_json::{Value, json};

use super::TakeDown;
use super::ledger::{Call, Ledger};
use crate::engine::Engine;
use crate::invariants::Facts;
use crate::language::Target;

/// The tags by which the EBS driver says for which claim a volume was made.
const TAGS: [&str; 2] = ["kubernetes.io/created-for/pvc/namespace", "kubernetes.io/created-for/pvc/name"];

fn target(kind: &str, name: &str, namespace: Option<&str>) -> Target {
    Target { api_version: None, kind: kind.into(), name: name.into(), namespace: namespace.map(str::to_owned) }
}

impl<E: Engine> TakeDown<'_, E> {
    /// Claims and PersistentVolumes that are new and the run's.
    pub(super) async fn sweep_objects(&mut self, ledger: &Ledger, before: &Facts) {
        let Ok(after) = self.engine.facts().await else { return };
        for (namespace, name) in after.claims.difference(&before.claims).filter_map(|path| path.split_once('/')) {
            if ledger.has_claim(namespace, name) {
                self.delete(&target("PersistentVolumeClaim", name, Some(namespace))).await;
            }
        }
        for name in after.persistent_volumes.difference(&before.persistent_volumes) {
            let this = target("PersistentVolume", name, None);
            let Ok(Some(volume)) = self.engine.get(&this).await else { continue };
            let part = |name: &str| volume.pointer(&format!("/spec/claimRef/{name}")).and_then(Value::as_str).unwrap_or_default();
            // One that is to be deleted with its claim goes by itself, and its volume with it.
            let kept = volume["spec"]["persistentVolumeReclaimPolicy"] != "Delete";
            if kept && ledger.has_claim(part("namespace"), part("name")) {
                self.delete(&this).await;
            }
        }
    }

    async fn delete(&mut self, target: &Target) {
        match self.engine.delete(target, None).await {
            Ok(()) => self.observer.note(&format!("taking down {} {}", target.kind, target.name)),
            Err(error) => self.failed(&format!("take down {} {}", target.kind, target.name), &error),
        }
    }

    /// EBS volumes that were made for claims of the run, once no PersistentVolume stands for them any more.
    pub(super) async fn sweep_volumes(&mut self, ledger: &Ledger, before: &Facts) {
        while let Ok(after) = self.engine.facts().await {
            let going = after.persistent_volumes.difference(&before.persistent_volumes).next().is_some();
            if !going || self.late() {
                break;
            }
            self.pause().await;
        }
        let Ok(answer) = self.engine.aws("ec2", "describe-volumes", &json!({})).await else { return };
        for volume in answer["Volumes"].as_array().into_iter().flatten() {
            let tag = |key: &str| {
                let tags = volume["Tags"].as_array().into_iter().flatten();
                tags.filter(|tag| tag["Key"] == key).find_map(|tag| tag["Value"].as_str()).unwrap_or_default()
            };
            let Some(id) = volume["VolumeId"].as_str().filter(|id| !before.volumes.contains(*id)) else { continue };
            if ledger.has_claim(tag(TAGS[0]), tag(TAGS[1])) {
                let call = Call { service: "ec2", command: "delete-volume", parameters: json!({"VolumeId": id}) };
                self.undo(&call).await;
            }
        }
    }
}
