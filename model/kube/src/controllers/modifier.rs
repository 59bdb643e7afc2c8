//! external-resizer's other half for one driver (§1.11): a claim whose VolumeAttributesClass changes gets its volume modified.
//!
//! ```text
//!  spec ≠ current ─ class missing ▶ Pending (looked for again at the resync)
//!       └ class there ▶ InProgress(target) ─ControllerModifyVolume▶ PV's class ▶ current = target, no status
//!             ▲ └ Canceled, DeadlineExceeded, Unavailable, ResourceExhausted, Aborted: the same target again, whatever the claim wants
//!             ├ InvalidArgument ▶ Infeasible: slowly, at once when the claim wants another
//!             └ others: again, with what the claim wants then
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ModifyVolumeStatus, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use model_common::csi::{Code, ControllerCall, ControllerReply, Error};

use super::{Driver, is_claimed_by, name};
use crate::events::{EventRecord, Said};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::Write;

const IN_PROGRESS: &str = "InProgress";
const INFEASIBLE: &str = "Infeasible";
const PENDING: &str = "Pending";
const MODIFYING: &str = "ModifyingVolume";
const FAILED: &str = "ModifyVolumeError";
/// How often all claims are looked at again: only so a class is found that was missing.
const RESYNC: Duration = Duration::from_secs(600);

/// What the driver answered and is not saved yet; with the class that was asked for.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    target: String,
    result: Result<(), Error>,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Modifier {
    driver: Driver,
    component: String,
    cache: Cache,
    work: Queue,
    /// The class that the driver was asked for.
    asked: BTreeMap<Key, String>,
    outcomes: BTreeMap<Key, Outcome>,
    /// Claims whose modification may still be going on in the driver: their target must not change.
    uncertain: BTreeSet<Key>,
    /// Which missing class was told of.
    said: Said,
}

fn text(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or("")
}

fn wanted(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().map_or("", |spec| text(&spec.volume_attributes_class_name))
}

impl Modifier {
    pub fn new(driver: Driver) -> Self {
        let component = format!("external-resizer {}", driver.name);
        Self {
            driver,
            component,
            cache: Cache::default(),
            work: Queue::default(),
            asked: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            said: Said::default(),
        }
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    fn backoff(&self) -> Backoff {
        Backoff { first: Duration::from_secs(1), longest: self.driver.longest_retry }
    }

    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.boot(out),
            Input::Changed(change) => {
                self.cache.apply(change);
                self.touched(change.object());
            }
            Input::Written { call, result } => {
                let backoff = self.backoff();
                self.work.answer_part(&mut self.cache, *call, result, backoff, out)?;
            }
            Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
            Input::Csi { call, result } => {
                let done = self.work.finish(*call)?;
                self.answered(&done.item, result);
            }
            Input::Fired(timer) if timer.purpose == Purpose::Resync => {
                self.cache.keys(&Kind::PersistentVolumeClaim).into_iter().for_each(|claim| self.work.mark_gently(claim));
                self.arm_resync(out);
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
        }
        while let Some(item) = self.work.take() {
            if item.kind == Kind::PersistentVolumeClaim {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    /// What an earlier life began may still be going on.
    fn boot(&mut self, out: &mut Vec<Effect>) {
        self.work.boot();
        for claim in self.cache.list::<PersistentVolumeClaim>() {
            let status = claim.status.as_ref().and_then(|status| status.modify_volume_status.as_ref());
            if status.is_some_and(|status| status.status == IN_PROGRESS) {
                self.uncertain.insert(crate::object::Typed::key(&**claim));
            }
        }
        self.arm_resync(out);
    }

    fn arm_resync(&self, out: &mut Vec<Effect>) {
        out.push(Effect::Arm(Timer { purpose: Purpose::Resync, item: Key::new(Kind::PersistentVolumeClaim, "", "") }, RESYNC));
    }

    fn touched(&mut self, object: &Object) {
        match object {
            Object::PersistentVolumeClaim(claim) => {
                let status = claim.status.as_ref().and_then(|status| status.modify_volume_status.as_ref());
                // Another class may be feasible: the wait was for the old one.
                if status.is_some_and(|status| text(&status.target_volume_attributes_class_name) != wanted(claim)) {
                    self.work.mark(object.key());
                } else {
                    self.work.mark_gently(object.key());
                }
            }
            Object::PersistentVolume(volume) => {
                let claims: Vec<Key> = self.cache.find(Index::ClaimsByVolume, name(&volume.metadata)).cloned().collect();
                claims.into_iter().for_each(|claim| self.work.mark_gently(claim));
            }
            _ => {}
        }
    }

    fn answered(&mut self, item: &Key, result: &Result<ControllerReply, Error>) {
        let Some(target) = self.asked.remove(item) else { return };
        let result = match result {
            Ok(ControllerReply::ControllerModifyVolume) => Ok(()),
            Ok(other) => Err(Error::new(Code::Internal, format!("unexpected answer {other:?}"))),
            Err(error) => Err(error.clone()),
        };
        match &result {
            Err(error) if !is_final(error.code) => drop(self.uncertain.insert(item.clone())),
            _ => drop(self.uncertain.remove(item)),
        }
        self.outcomes.insert(item.clone(), Outcome { target, result });
    }

    fn tell(&self, claim: &PersistentVolumeClaim, warning: bool, reason: &str, message: String, out: &mut Vec<Effect>) {
        let make = if warning { EventRecord::warning } else { EventRecord::normal };
        out.push(Effect::Record(make(claim, reason, message, &self.component)));
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(claim) = self.cache.at::<PersistentVolumeClaim>(item).cloned() else {
            self.asked.remove(item);
            self.outcomes.remove(item);
            self.uncertain.remove(item);
            self.said.forget(item);
            return self.work.forget(item, out);
        };
        let status = claim.status.clone().unwrap_or_default();
        let bound_to = claim.spec.as_ref().map_or("", |spec| text(&spec.volume_name));
        let Some(volume) = self.cache.get::<PersistentVolume>("", bound_to).cloned() else { return };
        let Some(csi) = volume.spec.as_ref().and_then(|spec| spec.csi.clone()).filter(|csi| csi.driver == self.driver.name) else { return };
        if status.phase.as_deref() != Some("Bound") || !is_claimed_by(&volume, &claim) {
            return;
        }
        if let Some(outcome) = self.outcomes.get(item).cloned() {
            return self.save(item, &claim, &volume, &outcome, out);
        }
        let known = status.modify_volume_status.as_ref();
        let current = text(&status.current_volume_attributes_class_name);
        let wanted = wanted(&claim);
        if known.is_none() && wanted == current {
            return self.work.succeed(item);
        }
        let in_progress = known.is_some_and(|known| known.status == IN_PROGRESS);
        if wanted.is_empty() && !in_progress {
            return self.roll_back(item, &claim, &status, out);
        }
        let keeps = wanted.is_empty() || (in_progress && self.uncertain.contains(item));
        let target = if keeps { known.map_or("", |known| text(&known.target_volume_attributes_class_name)) } else { wanted };
        let Some(class) = self.cache.get::<VolumeAttributesClass>("", target).cloned() else {
            let message = format!("VAC {target:?} does not exist.");
            let record = EventRecord::warning(&*claim, "VolumeModifyFailed", message, &self.component);
            if self.said.is_news(item, &record) {
                out.push(Effect::Record(record));
            }
            if keeps {
                return self.work.fail(item, self.backoff(), out);
            }
            let mut next = status.clone();
            next.modify_volume_status.get_or_insert_default().status = PENDING.to_owned();
            if !self.write_status(item, &claim, &next, out) {
                self.work.succeed(item);
            }
            return;
        };
        self.said.forget(item);
        if !keeps {
            let message = format!("Modifying volume to {target:?} is in progress.");
            let next = marked(&status, IN_PROGRESS, target, vec![condition(MODIFYING, "", message)]);
            if self.write_status(item, &claim, &next, out) {
                return;
            }
            let message = format!("external resizer is modifying volume {} with vac {target}", name(&claim.metadata));
            self.tell(&claim, false, "VolumeModify", message, out);
        }
        self.asked.insert(item.clone(), target.to_owned());
        let mutable_parameters = class.parameters.clone().unwrap_or_default();
        let request = ControllerCall::ControllerModifyVolume { volume_id: csi.volume_handle, mutable_parameters };
        self.work.call(item, &self.driver.name, request, out);
    }

    /// The user wants nothing any more, and nothing is going on.
    fn roll_back(&mut self, item: &Key, claim: &PersistentVolumeClaim, status: &PersistentVolumeClaimStatus, out: &mut Vec<Effect>) {
        let mut next = status.clone();
        if let Some(conditions) = &mut next.conditions {
            conditions.retain(|known| known.type_ != MODIFYING);
        }
        next.conditions.take_if(|conditions| conditions.is_empty());
        if self.write_status(item, claim, &next, out) {
            self.tell(claim, false, "VolumeModifyCanceled", "Cancelled modify.".to_owned(), out);
        } else {
            self.work.succeed(item);
        }
    }

    /// Brings the driver's answer into the API: first the PersistentVolume, then the claim.
    fn save(&mut self, item: &Key, claim: &PersistentVolumeClaim, volume: &PersistentVolume, outcome: &Outcome, out: &mut Vec<Effect>) {
        let status = claim.status.clone().unwrap_or_default();
        let Outcome { target, result } = outcome;
        let Err(error) = result else {
            let of_volume = volume.spec.as_ref().map_or("", |spec| text(&spec.volume_attributes_class_name));
            if of_volume != target {
                let mut updated = volume.clone();
                updated.spec.get_or_insert_default().volume_attributes_class_name = Some(target.clone());
                self.work.write(item, Write::update(updated), out);
                return;
            }
            if self.write_status(item, claim, &completed(&status, target), out) {
                return;
            }
            self.outcomes.remove(item);
            self.work.succeed(item);
            let message = format!("external resizer modified volume {} with vac {target} successfully", name(&claim.metadata));
            self.tell(claim, false, "VolumeModifySuccessful", message, out);
            // The claim may want another by now.
            return self.work.mark(item.clone());
        };
        let (state, going_on) = match error.code {
            Code::InvalidArgument => (INFEASIBLE, false),
            code => (IN_PROGRESS, !is_final(code)),
        };
        let what = if going_on { "is still in progress." } else { "failed. Waiting for retry." };
        let conditions = vec![
            condition(MODIFYING, "", format!("Modifying volume to {target:?} {what}")),
            condition(FAILED, &error.code.to_string(), error.message.clone()),
        ];
        let next = marked(&status, state, target, conditions);
        if self.write_status(item, claim, &next, out) {
            return;
        }
        self.outcomes.remove(item);
        let still = if going_on { format!(". Still modifying to VAC {target}") } else { String::new() };
        self.tell(claim, true, "VolumeModifyFailed", format!("{error}{still}"), out);
        if state == INFEASIBLE && wanted(claim) == target {
            self.work.wait(item, self.driver.longest_retry, out);
        } else {
            self.work.fail(item, self.backoff(), out);
        }
    }

    /// Writes the status where it is another; whether it was.
    fn write_status(
        &mut self,
        item: &Key,
        claim: &PersistentVolumeClaim,
        status: &PersistentVolumeClaimStatus,
        out: &mut Vec<Effect>,
    ) -> bool {
        if claim.status.as_ref() == Some(status) {
            return false;
        }
        let mut updated = claim.clone();
        updated.status = Some(status.clone());
        self.work.write(item, Write::update_status(updated), out);
        true
    }
}

/// Whether the driver is not at it any more.
fn is_final(code: Code) -> bool {
    !matches!(code, Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
}

fn condition(kind: &str, reason: &str, message: String) -> PersistentVolumeClaimCondition {
    PersistentVolumeClaimCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: Some(message),
        ..PersistentVolumeClaimCondition::default()
    }
}

/// The status with a state of the modification; the given conditions take the places of those of their types.
fn marked(
    status: &PersistentVolumeClaimStatus,
    state: &str,
    target: &str,
    conditions: Vec<PersistentVolumeClaimCondition>,
) -> PersistentVolumeClaimStatus {
    let mut next = status.clone();
    next.modify_volume_status =
        Some(ModifyVolumeStatus { status: state.to_owned(), target_volume_attributes_class_name: Some(target.to_owned()) });
    let all = next.conditions.get_or_insert_default();
    for mut new in conditions {
        match all.iter_mut().find(|known| known.type_ == new.type_) {
            Some(known) => {
                // The time is that of the last transition.
                if (&known.reason, &known.status) == (&new.reason, &new.status) {
                    new.last_transition_time.clone_from(&known.last_transition_time);
                }
                new.last_probe_time.clone_from(&known.last_probe_time);
                *known = new;
            }
            None => all.push(new),
        }
    }
    next
}

/// The status of a claim whose volume has what the class says.
fn completed(status: &PersistentVolumeClaimStatus, target: &str) -> PersistentVolumeClaimStatus {
    let mut next = status.clone();
    next.modify_volume_status = None;
    next.current_volume_attributes_class_name = Some(target.to_owned());
    if let Some(conditions) = &mut next.conditions {
        conditions.retain(|known| known.type_ != MODIFYING && known.type_ != FAILED);
    }
    next.conditions.take_if(|conditions| conditions.is_empty());
    next
}

#[cfg(test)]
mod tests;
