//! The PersistentVolume controller: binds claims to volumes and keeps both phases true (§1.1–§1.6; `pv_controller.go`).
//!
//! ```text
//!  PVC: Pending ──bound──▶ Bound ──volume gone or claimed by another──▶ Lost
//!  PV:  Pending ─▶ Available ─▶ Bound ─▶ Released ─▶ (deleted by the provisioner) | Available (unbound)
//! ```
//! Binding is four writes in this order, each of them legal to be the last one for a while: PV.spec.claimRef (the lock: two
//! binders of one volume are serialised by its resourceVersion), PV.status, PVC.spec, PVC.status.
//! The real controller syncs all every 15 s; this one reacts to what changed and keeps the 15 s as a backstop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{annotate, annotation, class_of_claim, class_of_volume, is_claimed_by, is_finished, name, namespace, node_of};
use crate::events::{EventRecord, Said};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::Write;

pub mod matching;
mod volume;

const COMPONENT: &str = "persistentvolume-controller";
/// `PVClaimBinderSyncPeriod` (§7 row 1).
const RESYNC: Duration = Duration::from_secs(15);

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Binder {
    cache: Cache,
    work: Queue,
    said: Said,
    /// Volumes whose claim a live read did not show, by the uid of the claimRef it was done for.
    verified: BTreeMap<Key, String>,
    /// Items of the periodic sync: they may repeat what they said.
    repeats: BTreeSet<Key>,
    /// What is bound, and found so by its last sync, which had nothing to do or to say: the periodic sync would find the same.
    settled: BTreeSet<Key>,
    /// How often something was said, or would have been were it news.
    spoke: u64,
}

fn resync() -> Timer {
    Timer { purpose: Purpose::Resync, item: Key::new(Kind::PersistentVolumeClaim, "", "") }
}

impl Binder {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => {
                self.work.boot();
                self.mark_all();
                out.push(Effect::Arm(resync(), RESYNC));
            }
            Input::Changed(change) => {
                self.cache.apply(change);
                self.touched(change.object());
            }
            Input::Written { call, result } => {
                let done = self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
                if done.reads
                    && let Some(uid) = self.claim_uid_of(&done.item)
                {
                    self.verified.insert(done.item, uid);
                }
                if let Ok(object) = result {
                    self.touched(object);
                }
            }
            Input::Fired(timer) if timer.purpose == Purpose::Resync => {
                self.mark_all();
                let claims = self.cache.keys(&Kind::PersistentVolumeClaim).into_iter();
                self.repeats = claims.filter(|claim| !self.settled.contains(claim)).collect();
                out.push(Effect::Arm(resync(), RESYNC));
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            let before = (out.len(), self.spoke);
            match item.kind {
                Kind::PersistentVolumeClaim => self.sync_claim(&item, out),
                Kind::PersistentVolume => self.sync_volume(&item, out),
                _ => {}
            }
            self.repeats.remove(&item);
            if before == (out.len(), self.spoke) && self.is_bound(&item) {
                self.settled.insert(item);
            } else {
                self.settled.remove(&item);
            }
        }
        Ok(())
    }

    fn mark_all(&mut self) {
        for kind in [Kind::PersistentVolumeClaim, Kind::PersistentVolume] {
            for key in self.cache.keys(&kind) {
                if !self.settled.contains(&key) {
                    self.work.mark_gently(key);
                }
            }
        }
    }

    fn is_bound(&self, item: &Key) -> bool {
        let is = |phase: Option<&String>| phase.is_some_and(|phase| phase == "Bound");
        match self.cache.object(item) {
            Some(Object::PersistentVolumeClaim(claim)) => is(claim.status.as_ref().and_then(|status| status.phase.as_ref())),
            Some(Object::PersistentVolume(volume)) => is(volume.status.as_ref().and_then(|status| status.phase.as_ref())),
            _ => false,
        }
    }

    fn touched(&mut self, object: &Object) {
        match object {
            Object::PersistentVolumeClaim(claim) => {
                self.work.mark(object.key());
                let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
                let mut volumes: Vec<Key> = self.cache.find(Index::VolumesByClaim, &address).cloned().collect();
                if let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty()) {
                    volumes.push(Key::new(Kind::PersistentVolume, "", volume));
                }
                volumes.into_iter().for_each(|volume| self.work.mark(volume));
            }
            Object::PersistentVolume(volume) => {
                self.work.mark(object.key());
                match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
                    Some(claim) => self.work.mark(Key::new(
                        Kind::PersistentVolumeClaim,
                        claim.namespace.as_deref().unwrap_or(""),
                        claim.name.as_deref().unwrap_or(""),
                    )),
                    // A new volume may be what a pending claim waits for.
                    None => self.mark_unbound(class_of_volume(volume).to_owned()),
                }
                // A claim that names a volume which was not there, or has gone.
                let named: Vec<Key> = self.cache.find(Index::ClaimsByVolume, name(&volume.metadata)).cloned().collect();
                named.into_iter().for_each(|claim| self.work.mark(claim));
            }
            Object::StorageClass(class) => {
                self.mark_unbound(name(&class.metadata).to_owned());
                self.mark_unbound(String::new());
            }
            _ => {}
        }
    }

    fn mark_unbound(&mut self, class: String) {
        let claims: Vec<Key> = self
            .cache
            .find(Index::ClaimsByClass, &class)
            .filter(|key| {
                self.cache.at::<PersistentVolumeClaim>(key).is_some_and(|claim| annotation(&claim.metadata, BIND_COMPLETED).is_none())
            })
            .cloned()
            .collect();
        claims.into_iter().for_each(|claim| self.work.mark(claim));
    }

    fn claim_uid_of(&self, volume: &Key) -> Option<String> {
        self.cache.at::<PersistentVolume>(volume)?.spec.as_ref()?.claim_ref.as_ref()?.uid.clone()
    }

    fn say(&mut self, item: &Key, record: EventRecord, out: &mut Vec<Effect>) {
        self.spoke += 1;
        if self.said.is_news(item, &record) || self.repeats.contains(item) {
            out.push(Effect::Record(record));
        }
    }

    fn sync_claim(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(claim) = self.cache.at::<PersistentVolumeClaim>(item).cloned() else {
            self.said.forget(item);
            return self.work.forget(item, out);
        };
        if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
            self.sync_bound_claim(item, &claim, out);
        } else {
            self.sync_unbound_claim(item, &claim, out);
        }
    }

    fn sync_unbound_claim(&mut self, item: &Key, claim: &Arc<PersistentVolumeClaim>, out: &mut Vec<Effect>) {
        let spec = claim.spec.clone().unwrap_or_default();
        let wanted = spec.volume_name.as_deref().unwrap_or("");
        if !wanted.is_empty() {
            return self.sync_prebound_claim(item, claim, wanted, out);
        }
        let class = self.cache.get::<StorageClass>("", class_of_claim(claim)).cloned();
        let delay = class.as_ref().is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        if let Some(volume) = self.best_match(claim, delay) {
            return self.bind(item, &volume, claim, out);
        }
        if spec.storage_class_name.is_none()
            && annotation(&claim.metadata, "volume.beta.kubernetes.io/storage-class").is_none()
            && let Some(default) = self.default_class()
        {
            // Retroactive default: a class became the default after the claim was made.
            let mut updated = (**claim).clone();
            updated.spec.get_or_insert_default().storage_class_name = Some(default);
            self.work.write(item, Write::update(updated), out);
            return;
        }
        if delay && annotation(&claim.metadata, SELECTED_NODE).is_none() {
            let record = self.waiting(claim);
            self.say(item, record, out);
        } else if !class_of_claim(claim).is_empty() {
            if self.provision(item, claim, class.as_ref(), out) {
                return;
            }
        } else {
            let message = "no persistent volumes available for this claim and no storage class is set";
            self.say(item, EventRecord::normal(&**claim, "FailedBinding", message, COMPONENT), out);
        }
        self.set_claim_phase(item, claim, "Pending", out);
    }

    /// `WaitForFirstConsumer`, or `WaitForPodScheduled` once there are pods.
    fn waiting(&self, claim: &PersistentVolumeClaim) -> EventRecord {
        let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
        let pods: Vec<&str> = self
            .cache
            .found::<k8s_openapi::api::core::v1::Pod>(Index::PodsByClaim, &address)
            .filter(|pod| node_of(pod).is_empty() && !is_finished(pod))
            .map(|pod| name(&pod.metadata))
            .collect();
        let (reason, message) = match pods.as_slice() {
            [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
        EventRecord::normal(claim, reason, message, COMPONENT)
    }

    /// Asks the provisioner of the class; true when a write was started.
    fn provision(
        &mut self,
        item: &Key,
        claim: &Arc<PersistentVolumeClaim>,
        class: Option<&Arc<StorageClass>>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(class) = class else {
            let message = format!("storageclass.storage.k8s.io \"{}\" not found", class_of_claim(claim));
            self.say(item, EventRecord::warning(&**claim, "ProvisioningFailed", message, COMPONENT), out);
            return false;
        };
        if class.provisioner == "kubernetes.io/no-provisioner" {
            let message = "no volume plugin matched name: kubernetes.io/no-provisioner";
            self.say(item, EventRecord::warning(&**claim, "ProvisioningFailed", message, COMPONENT), out);
            return false;
        }
        // The in-tree EBS plugin has been migrated to CSI.
        let (provisioner, migrated) = match class.provisioner.as_str() {
            "kubernetes.io/aws-ebs" => ("ebs.csi.aws.com", true),
            other => (other, false),
        };
        let mut updated = (**claim).clone();
        let annotations = &mut updated.metadata.annotations;
        let mut changed = annotate(annotations, BETA_STORAGE_PROVISIONER, provisioner);
        changed |= annotate(annotations, STORAGE_PROVISIONER, provisioner);
        if migrated {
            changed |= annotate(annotations, MIGRATED_TO, provisioner);
        }
        if changed {
            self.work.write(item, Write::update(updated), out);
            return true;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. \
             If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.say(item, EventRecord::normal(&**claim, "ExternalProvisioning", message, COMPONENT), out);
        false
    }

    fn sync_prebound_claim(&mut self, item: &Key, claim: &Arc<PersistentVolumeClaim>, wanted: &str, out: &mut Vec<Effect>) {
        let Some(volume) = self.cache.get::<PersistentVolume>("", wanted).cloned() else {
            return self.set_claim_phase(item, claim, "Pending", out);
        };
        let claimed = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        if !claimed {
            if let Err(why) = matching::satisfies(&volume, claim) {
                let message = format!("Cannot bind to requested volume \"{wanted}\": {why}");
                self.say(item, EventRecord::warning(&**claim, "VolumeMismatch", message, COMPONENT), out);
                return self.set_claim_phase(item, claim, "Pending", out);
            }
            return self.bind(item, &volume, claim, out);
        }
        if is_claimed_by(&volume, claim) {
            return self.bind(item, &volume, claim, out);
        }
        let message = format!("volume \"{wanted}\" already bound to a different claim.");
        self.say(item, EventRecord::warning(&**claim, "FailedBinding", message, COMPONENT), out);
        if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() {
            self.set_claim_phase(item, claim, "Pending", out);
        }
        // Else someone took `bind-completed` off; the real controller retries for ever, here the next event or resync does.
    }

    fn sync_bound_claim(&mut self, item: &Key, claim: &Arc<PersistentVolumeClaim>, out: &mut Vec<Effect>) {
        let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        let lost = if wanted.is_empty() {
            ("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        } else {
            match self.cache.get::<PersistentVolume>("", wanted).cloned() {
                None => ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
                Some(volume) => {
                    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                    if reference.is_none_or(|reference| reference.uid == claim.metadata.uid) {
                        return self.bind(item, &volume, claim, out);
                    }
                    ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
                }
            }
        };
        if phase(claim) != "Lost" {
            self.say(item, EventRecord::warning(&**claim, lost.0, lost.1, COMPONENT), out);
        }
        self.set_claim_phase(item, claim, "Lost", out);
    }

    /// The next of the four writes that is still missing (§1.4).
    fn bind(&mut self, item: &Key, volume: &Arc<PersistentVolume>, claim: &Arc<PersistentVolumeClaim>, out: &mut Vec<Effect>) {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let is_exact = reference.is_some_and(|reference| {
            reference.name == claim.metadata.name
                && reference.namespace == claim.metadata.namespace
                && reference.uid == claim.metadata.uid
                && reference.uid.is_some()
        });
        if !is_exact {
            let mut updated = (**volume).clone();
            if !is_claimed_by(volume, claim) {
                annotate(&mut updated.metadata.annotations, BOUND_BY_CONTROLLER, "yes");
            }
            updated.spec.get_or_insert_default().claim_ref = Some(crate::events::reference(&**claim));
            self.work.write(item, Write::update(updated), out);
            return;
        }
        if volume_phase(volume) != "Bound" {
            self.set_volume_phase(item, volume, "Bound", None, out);
            return;
        }
        let mut updated = (**claim).clone();
        let spec = updated.spec.get_or_insert_default();
        let mut changed = false;
        if spec.volume_name != volume.metadata.name {
            spec.volume_name = volume.metadata.name.clone();
            changed = true;
            annotate(&mut updated.metadata.annotations, BOUND_BY_CONTROLLER, "yes");
        }
        changed |= annotation(&claim.metadata, BIND_COMPLETED).is_none();
        if changed {
            annotate(&mut updated.metadata.annotations, BIND_COMPLETED, "yes");
            self.work.write(item, Write::update(updated), out);
            return;
        }
        let volume_spec = volume.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let was_bound = status.phase.as_deref() == Some("Bound");
        let mut next = PersistentVolumeClaimStatus {
            phase: Some("Bound".to_owned()),
            access_modes: volume_spec.access_modes.clone(),
            ..status.clone()
        };
        // Once bound, the size in the status is the resizer's and the kubelet's business.
        if !was_bound {
            next.capacity = volume_spec.capacity.clone();
            next.current_volume_attributes_class_name = volume_spec.volume_attributes_class_name.clone();
        }
        if next != status {
            let mut updated = (**claim).clone();
            updated.status = Some(next);
            self.work.write(item, Write::update_status(updated), out);
        } else {
            self.said.forget(item);
        }
    }

    fn set_claim_phase(&mut self, item: &Key, claim: &Arc<PersistentVolumeClaim>, to: &str, out: &mut Vec<Effect>) {
        if phase(claim) == to {
            return;
        }
        let mut updated = (**claim).clone();
        let status = updated.status.get_or_insert_default();
        status.phase = Some(to.to_owned());
        status.access_modes = None;
        status.capacity = None;
        self.work.write(item, Write::update_status(updated), out);
    }

    fn set_volume_phase(&mut self, item: &Key, volume: &Arc<PersistentVolume>, to: &str, message: Option<&str>, out: &mut Vec<Effect>) {
        let mut updated = (**volume).clone();
        updated.status = Some(PersistentVolumeStatus {
            phase: Some(to.to_owned()),
            message: message.map(str::to_owned),
            reason: None,
            last_phase_transition_time: None,
        });
        self.work.write(item, Write::update_status(updated), out);
    }

    /// The newest default class; of equally new ones the first by name.
    fn default_class(&self) -> Option<String> {
        self.cache
            .list::<StorageClass>()
            .filter(|class| [DEFAULT_CLASS, BETA_DEFAULT_CLASS].iter().any(|key| annotation(&class.metadata, key) == Some("true")))
            .max_by(|a, b| {
                let newer = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
                newer.then_with(|| b.metadata.name.cmp(&a.metadata.name))
            })
            .and_then(|class| class.metadata.name.clone())
    }

    fn best_match(&self, claim: &PersistentVolumeClaim, delay: bool) -> Option<Arc<PersistentVolume>> {
        matching::best(matching::candidates(&self.cache, claim), claim, None, &BTreeSet::new(), delay)
    }
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

#[cfg(test)]
mod tests;
