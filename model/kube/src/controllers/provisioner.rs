//! external-provisioner with sig-storage-lib-external-provisioner, for one driver (§1.8): makes a volume for each claim that asks
//! for it, and deletes the volume of each released PersistentVolume it made.
//!
//! ```text
//!  claim: asks ──CreateVolume──▶ made ──create PV──▶ done            the PV controller binds
//!           ▲        │ Canceled, DeadlineExceeded, Unavailable, Aborted: in the background, tried even when the claim is gone
//!           └────────┘ ResourceExhausted after a scheduler's choice: take `selected-node` off; InvalidArgument: slowly
//!  claim of a snapshot or of a claim: the source gets a finalizer first, and loses it when it is no source any more
//!  PV: Released, policy Delete ──DeleteVolume──▶ delete PV ──▶ drop finalizer
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use model_common::bugs::{self, Bug};
use model_common::csi::{Code, ControllerCall, ControllerReply, Error};
use model_common::fixes::Fixes;

use super::binder::{BETA_STORAGE_PROVISIONER, PROVISIONED_BY, SELECTED_NODE, STORAGE_PROVISIONER};
use super::{Driver, annotation, class_of_claim, drop_finalizer, has_finalizer, name};
use crate::events::EventRecord;
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject};
use crate::object::{Key, Kind, Object};
use crate::snapshots;
use crate::write::Write;

mod keep;
pub mod source;
pub mod topology;
pub mod volume;

use keep::Sourced;
use source::Origin;

/// Keeps the PersistentVolume until its volume is deleted (HonorPVReclaimPolicy).
pub const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// The machine.
#[derive(Debug, Clone)]
pub struct Provisioner {
    driver: Driver,
    cache: Cache,
    places: topology::Places,
    work: Queue,
    /// Claims whose CreateVolume is out, or may still be going on in the driver: tried until it answers finally, even when the
    /// claim is gone. In memory only, as in the real one (prov#486).
    creating: BTreeMap<Key, Arc<PersistentVolumeClaim>>,
    /// Volumes that exist and whose PersistentVolume is not saved yet.
    made: BTreeMap<Key, PersistentVolume>,
    /// Claims whose node cannot serve them: the scheduler is to choose again.
    reschedule: BTreeSet<Key>,
    /// PersistentVolumes whose volume is deleted, by uid.
    deleted: BTreeMap<Key, String>,
    /// Snapshots of which a volume was made: the finalizer that kept them is to go.
    restored: BTreeSet<Key>,
    /// Claims for which the driver said finally that it makes no volume.
    refused: BTreeSet<Key>,
    fixes: Fixes,
}

impl Provisioner {
    pub fn new(driver: Driver) -> Self {
        Self {
            driver,
            cache: Cache::default(),
            places: topology::Places::default(),
            work: Queue::default(),
            creating: BTreeMap::new(),
            made: BTreeMap::new(),
            reschedule: BTreeSet::new(),
            deleted: BTreeMap::new(),
            restored: BTreeSet::new(),
            refused: BTreeSet::new(),
            fixes: Fixes::default(),
        }
    }

    /// The machine with changes that are proposed upstream.
    pub fn with(driver: Driver, fixes: Fixes) -> Self {
        Self { fixes, ..Self::new(driver) }
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    fn backoff(&self) -> Backoff {
        Backoff { first: Duration::from_secs(1), longest: self.driver.longest_retry }
    }

    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => {
                self.work.boot();
                self.arm_sweep(out);
            }
            Input::Changed(change) => {
                self.cache.apply(change);
                self.touched(change.object());
            }
            Input::Written { call, result } => {
                let backoff = self.backoff();
                let done = self.work.answer(&mut self.cache, *call, result, backoff, out)?;
                self.written(&done.item, result, out);
            }
            Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
            Input::Csi { call, result } => {
                let done = self.work.finish(*call)?;
                match done.item.kind {
                    Kind::PersistentVolumeClaim => self.created(&done.item, result, out),
                    _ => self.removed(&done.item, result, out),
                }
            }
            Input::Fired(timer) if timer.purpose == Purpose::Resync => self.sweep(out),
            Input::Fired(timer) => self.work.retry(&timer.item),
        }
        while let Some(item) = self.work.take() {
            match item.kind {
                Kind::PersistentVolumeClaim => self.sync_claim(&item, out),
                Kind::PersistentVolume => self.sync_volume(&item, out),
                _ => self.free_snapshot(&item, out),
            }
        }
        Ok(())
    }

    fn touched(&mut self, object: &Object) {
        match object {
            // A failing claim or volume waits for its backoff, whatever happens to it (`NumRequeues`).
            Object::PersistentVolumeClaim(_) | Object::PersistentVolume(_) => self.work.mark_gently(object.key()),
            Object::Custom { .. } if self.restored.contains(&object.key()) => self.work.mark_gently(object.key()),
            Object::StorageClass(class) => {
                let claims: Vec<Key> = self.cache.find(Index::ClaimsByClass, name(&class.metadata)).cloned().collect();
                claims.into_iter().for_each(|claim| self.work.mark_gently(claim));
            }
            Object::CSINode(node) => self.places.changed(&self.driver, &self.cache, name(&node.metadata)),
            Object::Node(node) => self.places.changed(&self.driver, &self.cache, name(&node.metadata)),
            Object::VolumeAttachment(attachment) => {
                if let Some(volume) = &attachment.spec.source.persistent_volume_name {
                    let volume = Key::new(Kind::PersistentVolume, "", volume);
                    if self.work.is_failing(&volume) {
                        self.work.mark(volume);
                    }
                }
            }
            _ => {}
        }
    }

    fn tell(&self, claim: &PersistentVolumeClaim, record: (bool, &str, String), out: &mut Vec<Effect>) {
        let (is_warning, reason, message) = record;
        let make = if is_warning { EventRecord::warning } else { EventRecord::normal };
        out.push(Effect::Record(make(claim, reason, message, &self.driver.component)));
    }

    fn should_provision(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        let asked = annotation(&claim.metadata, STORAGE_PROVISIONER).or_else(|| annotation(&claim.metadata, BETA_STORAGE_PROVISIONER))?;
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|volume| !volume.is_empty());
        if asked != self.driver.name || bound {
            return None;
        }
        let class = self.cache.get::<StorageClass>("", class_of_claim(claim))?;
        let delay = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        let chosen = annotation(&claim.metadata, SELECTED_NODE).is_some_and(|node| !node.is_empty());
        (!delay || chosen).then(|| class.clone())
    }

    fn sync_claim(&mut self, item: &Key, out: &mut Vec<Effect>) {
        if let Some(volume) = self.made.get(item) {
            let volume = volume.clone();
            if self.cache.get::<PersistentVolume>("", name(&volume.metadata)).is_some() {
                self.made.remove(item);
            } else {
                self.work.write(item, Write::create(volume), out);
            }
            return;
        }
        let current = self.cache.at::<PersistentVolumeClaim>(item).cloned();
        if let Some(claim) = current.as_deref().filter(|claim| claim.metadata.deletion_timestamp.is_some())
            && self.free_origin(item, claim, out)
        {
            return;
        }
        let creating = self.creating.get(item).cloned();
        let is_same = creating.as_ref().is_none_or(|old| current.as_ref().is_some_and(|new| new.metadata.uid == old.metadata.uid));
        let Some(claim) = (if is_same { current.clone() } else { creating }) else {
            self.reschedule.remove(item);
            self.refused.remove(item);
            return self.work.forget(item, out);
        };
        if self.reschedule.contains(item) {
            return self.take_node_off(item, current, out);
        }
        let present = current.as_deref().filter(|_| is_same);
        let volume_name = volume::name_for(&claim);
        if self.cache.get::<PersistentVolume>("", &volume_name).is_some() {
            self.creating.remove(item);
            self.let_go(item, present, out);
            return;
        }
        if self.refused.remove(item) && claim.metadata.deletion_timestamp.is_some() && self.let_go(item, present, out) {
            return;
        }
        let Some(class) = self.should_provision(&claim) else { return };
        if self.hold(item, present, out) {
            return;
        }
        let source = match self.source_step(item, &claim, &class, out) {
            Ok(Sourced::Ready(source)) => Ok(source),
            Ok(Sourced::Waiting) => return,
            Err(why) => Err(why),
        };
        let address = format!("{}/{}", super::namespace(&claim.metadata), name(&claim.metadata));
        let message = format!("External provisioner is provisioning volume for claim \"{address}\"");
        self.tell(&claim, (false, "Provisioning", message), out);
        match source.and_then(|source| volume::request(&self.driver, &self.cache, &self.places, &claim, &class, source)) {
            Ok(request) => {
                self.work.call(item, &self.driver.name, request, out);
                self.creating.insert(item.clone(), claim);
            }
            Err(why) => {
                self.tell_failure(&claim, &why, out);
                self.work.fail(item, self.backoff(), out);
            }
        }
    }

    fn tell_failure(&self, claim: &PersistentVolumeClaim, why: &str, out: &mut Vec<Effect>) {
        let message = format!("failed to provision volume with StorageClass \"{}\": {why}", class_of_claim(claim));
        self.tell(claim, (true, "ProvisioningFailed", message), out);
    }

    fn take_node_off(&mut self, item: &Key, current: Option<Arc<PersistentVolumeClaim>>, out: &mut Vec<Effect>) {
        match current {
            Some(claim) if annotation(&claim.metadata, SELECTED_NODE).is_some() => {
                let mut updated = (*claim).clone();
                if let Some(annotations) = &mut updated.metadata.annotations {
                    annotations.remove(SELECTED_NODE);
                }
                self.work.write(item, Write::update(updated), out);
            }
            _ => {
                self.reschedule.remove(item);
            }
        }
    }

    fn created(&mut self, item: &Key, result: &Result<ControllerReply, Error>, out: &mut Vec<Effect>) {
        let Some(claim) = self.creating.get(item).cloned() else { return };
        let failure = match result {
            Ok(ControllerReply::CreateVolume(made)) => {
                self.creating.remove(item);
                let class = self.cache.get::<StorageClass>("", class_of_claim(&claim)).cloned();
                match volume::persistent_volume(&self.driver, &claim, class.as_deref(), made) {
                    Ok(volume) => {
                        self.work.succeed(item);
                        self.made.insert(item.clone(), volume);
                        if let Ok(Some(Origin::Snapshot(from))) = source::of(&self.driver, &claim) {
                            let snapshot = Key::new(snapshots::snapshots(), super::namespace(&claim.metadata), &from);
                            self.restored.insert(snapshot.clone());
                            self.work.mark(snapshot);
                        }
                        return;
                    }
                    Err(why) => Error::new(Code::Internal, why),
                }
            }
            Ok(other) => Error::new(Code::Internal, format!("the driver answered CreateVolume with {other:?}")),
            Err(error) => error.clone(),
        };
        self.tell_failure(&claim, &failure.to_string(), out);
        let chosen = annotation(&claim.metadata, SELECTED_NODE).is_some_and(|node| !node.is_empty());
        if !matches!(failure.code, Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted) {
            self.refused.insert(item.clone());
        }
        match failure.code {
            Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted => {
                self.work.fail(item, self.backoff(), out);
            }
            Code::ResourceExhausted if self.driver.topology && chosen => {
                self.creating.remove(item);
                self.reschedule.insert(item.clone());
                self.work.succeed(item);
            }
            Code::InvalidArgument => {
                self.creating.remove(item);
                self.work.wait(item, self.driver.longest_retry, out);
            }
            _ => {
                self.creating.remove(item);
                self.work.fail(item, self.backoff(), out);
            }
        }
    }

    fn written(&mut self, item: &Key, result: &Result<Object, crate::write::ApiError>, out: &mut Vec<Effect>) {
        let Some(volume) = self.made.get(item) else {
            if result.is_ok() {
                self.reschedule.remove(item);
            }
            return;
        };
        let volume_name = name(&volume.metadata).to_owned();
        let saved = match result {
            Ok(object) => object.key().kind == Kind::PersistentVolume,
            Err(error) => error.is_already_exists(),
        };
        if !saved {
            return;
        }
        self.made.remove(item);
        self.work.succeed(item);
        self.work.mark(item.clone());
        if let Some(claim) = self.cache.at::<PersistentVolumeClaim>(item).cloned() {
            self.tell(&claim, (false, "ProvisioningSucceeded", format!("Successfully provisioned volume {volume_name}")), out);
        }
    }

    fn sync_volume(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(volume) = self.cache.at::<PersistentVolume>(item).cloned() else {
            self.deleted.remove(item);
            return self.work.forget(item, out);
        };
        let metadata = &volume.metadata;
        if annotation(metadata, PROVISIONED_BY) != Some(self.driver.name.as_str()) {
            return;
        }
        let spec = volume.spec.clone().unwrap_or_default();
        let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("");
        let held = has_finalizer(metadata, FINALIZER);
        let terminating = metadata.deletion_timestamp.is_some();
        if !deletes {
            if held {
                self.drop_finalizer(item, &volume, out);
            }
            return;
        }
        if !terminating && phase == "Bound" && !held {
            let mut updated = (*volume).clone();
            updated.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
            self.work.write(item, Write::update(updated), out);
            return;
        }
        if phase != "Released" || (terminating && !held) {
            return;
        }
        if self.deleted.get(item).map(String::as_str) == metadata.uid.as_deref() {
            if !terminating {
                self.work.write(item, Write::delete(item.clone()), out);
            } else {
                self.drop_finalizer(item, &volume, out);
            }
            return;
        }
        let attachment = self.cache.found::<VolumeAttachment>(Index::AttachmentsByVolume, name(metadata)).next().cloned();
        if let Some(attachment) = attachment.filter(|_| !bugs::on(Bug::DeletedWhileAttached)) {
            let message = format!("persistentvolume {} is still attached to node {}", name(metadata), attachment.spec.node_name);
            return self.fail_deletion(item, &volume, message, out);
        }
        let Some(csi) = &spec.csi else { return };
        self.work.call(item, &self.driver.name, ControllerCall::DeleteVolume { volume_id: csi.volume_handle.clone() }, out);
    }

    fn drop_finalizer(&mut self, item: &Key, volume: &PersistentVolume, out: &mut Vec<Effect>) {
        let mut updated = volume.clone();
        drop_finalizer(&mut updated.metadata, FINALIZER);
        self.work.write(item, Write::update(updated), out);
    }

    fn fail_deletion(&mut self, item: &Key, volume: &PersistentVolume, message: String, out: &mut Vec<Effect>) {
        out.push(Effect::Record(EventRecord::warning(volume, "VolumeFailedDelete", message, &self.driver.component)));
        self.work.fail(item, self.backoff(), out);
    }

    fn removed(&mut self, item: &Key, result: &Result<ControllerReply, Error>, out: &mut Vec<Effect>) {
        let Some(volume) = self.cache.at::<PersistentVolume>(item).cloned() else { return };
        match result {
            Ok(ControllerReply::DeleteVolume) => {
                self.work.succeed(item);
                self.deleted.insert(item.clone(), volume.metadata.uid.clone().unwrap_or_default());
            }
            Ok(other) => self.fail_deletion(item, &volume, format!("the driver answered DeleteVolume with {other:?}"), out),
            Err(error) => self.fail_deletion(item, &volume, error.to_string(), out),
        }
    }
}

/// What it needs to know.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::PersistentVolumeClaim,
        Kind::PersistentVolume,
        Kind::StorageClass,
        Kind::VolumeAttributesClass,
        Kind::CSINode,
        Kind::Node,
        Kind::VolumeAttachment,
        snapshots::snapshots(),
        snapshots::contents(),
    ]
}

#[cfg(test)]
mod tests;
