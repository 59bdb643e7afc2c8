//! The volume's half of the binder: `syncVolume` and reclaiming (§1.6).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use model_common::bugs::{self, Bug};

use super::{BOUND_BY_CONTROLLER, Binder, COMPONENT, MIGRATED_TO, PROVISIONED_BY, matching, volume_phase};
use crate::controllers::{annotation, name};
use crate::events::EventRecord;
use crate::machine::Effect;
use crate::object::{Key, Kind};
use crate::write::Write;

impl Binder {
    pub(super) fn sync_volume(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(volume) = self.cache.at::<PersistentVolume>(item).cloned() else {
            self.verified.remove(item);
            self.said.forget(item);
            return self.work.forget(item, out);
        };
        let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()) else {
            return self.make_available(item, &volume, out);
        };
        let uid = reference.uid.as_deref().unwrap_or("");
        if uid.is_empty() {
            return self.make_available(item, &volume, out);
        }
        let (namespace, claim_name) = (reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref().unwrap_or(""));
        let is_over = matches!(volume_phase(&volume), "Released" | "Failed");
        let claim = self.cache.get::<PersistentVolumeClaim>(namespace, claim_name).cloned();
        let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid));
        let Some(claim) = claim else {
            // The volume may have arrived before its claim (#83177): nothing is released before a live read says so too.
            let live = !bugs::on(Bug::ReleasedByWatch);
            if live && !is_over && self.verified.get(item).is_none_or(|known| known != uid) {
                self.work.read(item, Key::new(Kind::PersistentVolumeClaim, namespace, claim_name), out);
                return;
            }
            if !is_over {
                return self.set_volume_phase(item, &volume, "Released", None, out);
            }
            return self.reclaim(item, &volume, out);
        };
        self.verified.remove(item);
        let bound_to = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        if bound_to.is_empty() {
            if matching::mode_differs(&volume, &claim) {
                let message = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{claim_name}\" due to incompatible volumeMode."
                );
                self.say(item, EventRecord::warning(&*volume, "VolumeMismatch", message, COMPONENT), out);
            }
            // Else the claim's own sync goes on with the binding; it was marked together with this volume.
        } else if bound_to == name(&volume.metadata) {
            if volume_phase(&volume) != "Bound" {
                self.set_volume_phase(item, &volume, "Bound", None, out);
            }
        } else if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(&volume) == "Delete" {
            // Made for this claim, which found another volume first.
            if !is_over {
                return self.set_volume_phase(item, &volume, "Released", None, out);
            }
            self.reclaim(item, &volume, out);
        } else {
            self.unbind(item, &volume, out);
        }
    }

    fn make_available(&mut self, item: &Key, volume: &Arc<PersistentVolume>, out: &mut Vec<Effect>) {
        if volume_phase(volume) != "Available" {
            self.set_volume_phase(item, volume, "Available", None, out);
        }
    }

    /// Undoes the claimRef: all of it when the controller made it, only the uid when the user did.
    fn unbind(&mut self, item: &Key, volume: &Arc<PersistentVolume>, out: &mut Vec<Effect>) {
        let mut updated = (**volume).clone();
        let spec = updated.spec.get_or_insert_default();
        if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
            spec.claim_ref = None;
            if let Some(annotations) = &mut updated.metadata.annotations {
                annotations.remove(BOUND_BY_CONTROLLER);
            }
        } else if let Some(reference) = &mut spec.claim_ref {
            reference.uid = None;
        }
        self.work.write(item, Write::update(updated), out);
    }

    /// What becomes of a released volume. A CSI volume is the external provisioner's to delete.
    fn reclaim(&mut self, item: &Key, volume: &Arc<PersistentVolume>, out: &mut Vec<Effect>) {
        if annotation(&volume.metadata, MIGRATED_TO).is_some() || volume_phase(volume) == "Failed" {
            return;
        }
        let (reason, message) = match policy(volume) {
            "Retain" => return,
            "Delete" if volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) => return,
            "Delete" => {
                let volume_name = name(&volume.metadata);
                let message =
                    format!("error getting deleter volume plugin for volume \"{volume_name}\": no deletable volume plugin matched");
                ("VolumeFailedDelete", message)
            }
            "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
            _ => ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
        };
        self.say(item, EventRecord::warning(&**volume, reason, message.clone(), COMPONENT), out);
        self.set_volume_phase(item, volume, "Failed", Some(&message), out);
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}
