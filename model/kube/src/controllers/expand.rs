//! The volume expand controller: for CSI volumes it only tells the user that someone else does the work
//! (`pkg/controller/volume/expand`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::binder::matching;
use super::{amount, is_claimed_by, name};
use crate::events::{EventRecord, Said};
use crate::machine::{Cache, Effect, Index, Input, Queue, Reject};
use crate::object::{Key, Object};

const COMPONENT: &str = "volume_expand";

/// The machine. It writes nothing.
#[derive(Debug, Clone, Default)]
pub struct Expand {
    cache: Cache,
    work: Queue,
    said: Said,
}

impl Expand {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                match change.object() {
                    Object::PersistentVolume(volume) => {
                        let claims: Vec<Key> = self.cache.find(Index::ClaimsByVolume, name(&volume.metadata)).cloned().collect();
                        claims.into_iter().for_each(|claim| self.work.mark(claim));
                    }
                    object => self.work.mark(object.key()),
                }
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Written { call, .. } | Input::Csi { call, .. } | Input::Listed { call, .. } => {
                return Err(Reject::UnknownCall { call: *call });
            }
        }
        while let Some(item) = self.work.take() {
            let Some(claim) = self.cache.at::<PersistentVolumeClaim>(&item) else {
                self.said.forget(&item);
                self.work.forget(&item, out);
                continue;
            };
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
            let is_bound = self.cache.get::<PersistentVolume>("", volume).is_some_and(|volume| is_claimed_by(volume, claim));
            let has = amount::storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()));
            if is_bound && has > 0 && matching::requested(claim) > has {
                let message = "waiting for an external controller to expand this PVC";
                let record = EventRecord::normal(&**claim, "ExternalExpanding", message, COMPONENT);
                if self.said.is_news(&item, &record) {
                    out.push(Effect::Record(record));
                }
            } else {
                self.said.forget(&item);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
