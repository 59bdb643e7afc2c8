//! The protection controllers (§1.7): a claim that a scheduled pod uses, a volume that is bound, and a VolumeAttributesClass that a
//! claim or a volume has, stay until they are not.
//!
//! A watch may be behind: before the finalizer of a claim goes, the pods of its namespace are listed from the API itself. A volume needs no
//! such look, since what binds it is in its own status, and a write of an old one is refused.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use super::{claims_of, drop_finalizer, has_finalizer, holds_claim, name, namespace};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Queue, Reject};
use crate::object::{Key, Kind, Object, Typed};
use crate::write::Write;

pub const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
pub const ATTRIBUTES_FINALIZER: &str = "kubernetes.io/vac-protection";

/// Adds or drops the finalizer, as the object's state asks for.
fn protect<T: Typed>(work: &mut Queue, item: &Key, object: &T, finalizer: &str, is_used: bool, out: &mut Vec<Effect>) {
    let metadata = object.metadata();
    let mut updated = object.clone();
    match (metadata.deletion_timestamp.is_some(), has_finalizer(metadata, finalizer)) {
        (true, true) if !is_used => drop_finalizer(updated.metadata_mut(), finalizer),
        (false, false) => updated.metadata_mut().finalizers.get_or_insert_default().push(finalizer.to_owned()),
        (true, _) | (false, true) => return,
    }
    work.write(item, Write::Update { object: T::wrap(updated.into()), subresource: crate::write::Subresource::None }, out);
}

/// `pvc-protection-controller`.
#[derive(Debug, Clone, Default)]
pub struct ClaimProtection {
    cache: Cache,
    work: Queue,
    /// What a live list has just said of a claim: whether a pod uses it.
    listed: BTreeMap<Key, bool>,
}

impl ClaimProtection {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                match change.object() {
                    Object::Pod(pod) => {
                        let namespace = namespace(&pod.metadata).to_owned();
                        for claim in claims_of(pod).collect::<Vec<_>>() {
                            self.work.mark(Key::new(Kind::PersistentVolumeClaim, &namespace, &claim));
                        }
                    }
                    object => self.work.mark(object.key()),
                }
            }
            Input::Written { call, result } => {
                self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
            }
            Input::Listed { call, result } => {
                let done = self.work.listed(*call, result, Backoff::CONTROLLER, out)?;
                if let (Ok(pods), Some(claim)) = (result, self.cache.at::<PersistentVolumeClaim>(&done.item)) {
                    let is_used = pods.iter().filter_map(Object::get::<Pod>).any(|pod| holds(pod, claim));
                    // The watch may have told of such a pod's end while the list was out: then it tells no more, and only a new list shows it.
                    if !(is_used && done.marked) {
                        self.listed.insert(done.item, is_used);
                    }
                }
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Csi { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            let Some(claim) = self.cache.at::<PersistentVolumeClaim>(&item).cloned() else {
                self.work.forget(&item, out);
                continue;
            };
            let listed = self.listed.remove(&item);
            let is_going = claim.metadata.deletion_timestamp.is_some() && has_finalizer(&claim.metadata, CLAIM_FINALIZER);
            let mut is_used = self.is_used(&claim);
            if is_going && !is_used {
                let Some(found) = listed else {
                    self.work.list(&item, Kind::Pod, namespace(&claim.metadata), out);
                    continue;
                };
                // The watch is about to tell of such a pod, and then of its end.
                is_used = found;
            }
            protect(&mut self.work, &item, &*claim, CLAIM_FINALIZER, is_used, out);
        }
        Ok(())
    }

    /// Whether a pod uses it as far as the watch shows.
    fn is_used(&self, claim: &PersistentVolumeClaim) -> bool {
        let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
        self.cache.found::<Pod>(Index::PodsByClaim, &address).any(|pod| holds(pod, claim))
    }
}

/// Whether a pod of the claim's namespace refers to it, and keeps it.
fn holds(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    holds_claim(pod, claim) && claims_of(pod).any(|used| used == name(&claim.metadata))
}

/// `pv-protection-controller`.
#[derive(Debug, Clone, Default)]
pub struct VolumeProtection {
    cache: Cache,
    work: Queue,
}

impl VolumeProtection {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                self.work.mark(change.object().key());
            }
            Input::Written { call, result } => {
                self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            let Some(volume) = self.cache.at::<PersistentVolume>(&item).cloned() else {
                self.work.forget(&item, out);
                continue;
            };
            let is_bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            protect(&mut self.work, &item, &*volume, VOLUME_FINALIZER, is_bound, out);
        }
        Ok(())
    }
}

/// `volumeattributesclass-protection-controller`.
#[derive(Debug, Clone, Default)]
pub struct AttributesProtection {
    cache: Cache,
    work: Queue,
}

impl AttributesProtection {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                match change.object() {
                    Object::VolumeAttributesClass(_) => self.work.mark(change.object().key()),
                    // Only classes that wait to go can be let go by this.
                    _ => {
                        let waiting =
                            self.cache.list::<VolumeAttributesClass>().filter(|class| class.metadata.deletion_timestamp.is_some());
                        let waiting: Vec<Key> = waiting.map(|class| Typed::key(&**class)).collect();
                        waiting.into_iter().for_each(|class| self.work.mark(class));
                    }
                }
            }
            Input::Written { call, result } => {
                self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            let Some(class) = self.cache.at::<VolumeAttributesClass>(&item).cloned() else {
                self.work.forget(&item, out);
                continue;
            };
            let is_used = class.metadata.deletion_timestamp.is_some() && self.is_used(name(&class.metadata));
            protect(&mut self.work, &item, &*class, ATTRIBUTES_FINALIZER, is_used, out);
        }
        Ok(())
    }

    /// Whether a volume has it, or a claim has it, wants it, or is on the way to it.
    fn is_used(&self, class: &str) -> bool {
        let is = |name: &Option<String>| name.as_deref() == Some(class);
        let of_volume = |volume: &PersistentVolume| volume.spec.as_ref().is_some_and(|spec| is(&spec.volume_attributes_class_name));
        let of_claim = |claim: &PersistentVolumeClaim| {
            claim.spec.as_ref().is_some_and(|spec| is(&spec.volume_attributes_class_name))
                || claim.status.as_ref().is_some_and(|status| {
                    let target = status.modify_volume_status.as_ref();
                    is(&status.current_volume_attributes_class_name)
                        || target.is_some_and(|target| is(&target.target_volume_attributes_class_name))
                })
        };
        self.cache.list::<PersistentVolume>().any(|volume| of_volume(volume))
            || self.cache.list::<PersistentVolumeClaim>().any(|claim| of_claim(claim))
    }
}

#[cfg(test)]
mod tests;
