//! external-resizer for one driver (§1.9): a claim that asks for more than it has gets a bigger volume.
//!
//! ```text
//!  "" ─request grows─▶ ControllerResizeInProgress ─ControllerExpandVolume─▶ PV.capacity ─▶ NodeResizePending ─▶ the kubelet's
//!                          └ InvalidArgument, OutOfRange, NotFound ▶ ControllerResizeInfeasible     └ no node part ▶ ""
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus};
use model_common::csi::{CapacityRange, Code, ControllerCall, ControllerReply, Error};

use super::binder::matching;
use super::{Driver, amount, capability, is_claimed_by, name};
use crate::events::EventRecord;
use crate::machine::{Backoff, Cache, Effect, Index, Input, Queue, Reject};
use crate::object::{Key, Kind, Object};
use crate::write::Write;

const IN_PROGRESS: &str = "ControllerResizeInProgress";
const INFEASIBLE: &str = "ControllerResizeInfeasible";
const NODE_PENDING: &str = "NodeResizePending";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The volume has that many bytes; whether a node must grow the file system.
    Grown { bytes: u64, on_node: bool },
    /// The driver says it cannot be.
    Infeasible,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Resizer {
    driver: Driver,
    component: String,
    cache: Cache,
    work: Queue,
    /// What the driver was asked for last, in bytes: the claim may want more by the time it answers.
    asked: BTreeMap<Key, u64>,
    /// What the driver answered and is not saved yet.
    outcomes: BTreeMap<Key, Outcome>,
}

impl Resizer {
    pub fn new(driver: Driver) -> Self {
        let component = format!("external-resizer {}", driver.name);
        Self { driver, component, cache: Cache::default(), work: Queue::default(), asked: BTreeMap::new(), outcomes: BTreeMap::new() }
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    fn backoff(&self) -> Backoff {
        Backoff { first: Duration::from_secs(1), longest: self.driver.longest_retry }
    }

    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                match change.object() {
                    Object::PersistentVolumeClaim(_) => self.work.mark_gently(change.object().key()),
                    Object::PersistentVolume(volume) => {
                        let claims: Vec<Key> = self.cache.find(Index::ClaimsByVolume, name(&volume.metadata)).cloned().collect();
                        claims.into_iter().for_each(|claim| self.work.mark_gently(claim));
                    }
                    _ => {}
                }
            }
            Input::Written { call, result } => {
                let backoff = self.backoff();
                self.work.answer_part(&mut self.cache, *call, result, backoff, out)?;
            }
            Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
            Input::Csi { call, result } => {
                let done = self.work.finish(*call)?;
                self.answered(&done.item, result, out);
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

    fn answered(&mut self, item: &Key, result: &Result<ControllerReply, Error>, out: &mut Vec<Effect>) {
        let asked = self.asked.remove(item).unwrap_or(0);
        let error = match result {
            // CSI: at least what was required.
            Ok(ControllerReply::ControllerExpandVolume { capacity_bytes, .. }) if *capacity_bytes < asked => {
                Error::new(Code::Internal, format!("the volume has {capacity_bytes} bytes, asked for {asked}"))
            }
            Ok(ControllerReply::ControllerExpandVolume { capacity_bytes, node_expansion_required }) => {
                self.work.succeed(item);
                let outcome = Outcome::Grown { bytes: *capacity_bytes, on_node: *node_expansion_required };
                self.outcomes.insert(item.clone(), outcome);
                return;
            }
            Ok(other) => Error::new(Code::Internal, format!("unexpected answer {other:?}")),
            Err(error) => error.clone(),
        };
        if let Some(claim) = self.cache.at::<PersistentVolumeClaim>(item) {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
            let message = format!("resize volume \"{volume}\" by resizer \"{}\" failed: {error}", self.driver.name);
            out.push(Effect::Record(EventRecord::warning(&**claim, "VolumeResizeFailed", message, &self.component)));
        }
        if matches!(error.code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound) {
            self.outcomes.insert(item.clone(), Outcome::Infeasible);
        } else {
            self.work.fail(item, self.backoff(), out);
        }
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(claim) = self.cache.at::<PersistentVolumeClaim>(item).cloned() else {
            self.asked.remove(item);
            self.outcomes.remove(item);
            return self.work.forget(item, out);
        };
        let status = claim.status.clone().unwrap_or_default();
        let bound_to = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        let Some(volume) = self.cache.get::<PersistentVolume>("", bound_to).cloned() else { return };
        let spec = volume.spec.clone().unwrap_or_default();
        let Some(csi) = spec.csi.clone().filter(|csi| csi.driver == self.driver.name) else { return };
        if status.phase.as_deref() != Some("Bound") || !is_claimed_by(&volume, &claim) || claim.metadata.deletion_timestamp.is_some() {
            return;
        }
        let wanted = matching::requested(&claim);
        if wanted <= amount::storage(status.capacity.as_ref()) {
            self.outcomes.remove(item);
            return self.work.succeed(item);
        }
        let stage = status.allocated_resource_statuses.as_ref().and_then(|statuses| statuses.get("storage")).cloned().unwrap_or_default();
        let allocated = amount::storage(status.allocated_resources.as_ref());
        match self.outcomes.get(item).copied() {
            Some(Outcome::Infeasible) => {
                self.outcomes.remove(item);
                let next = with_stage(&status, INFEASIBLE, status.allocated_resources.clone(), None);
                self.write_status(item, &claim, next, out);
                // The user may lower the request; else it is tried again slowly.
                self.work.wait(item, self.driver.longest_retry, out);
                return;
            }
            Some(Outcome::Grown { bytes, on_node }) => return self.save(item, &claim, &volume, &status, (bytes, on_node), out),
            None => {}
        }
        if stage.starts_with("NodeResize") && matching::capacity(&volume) >= wanted && allocated >= wanted {
            return; // The node's turn.
        }
        if stage != IN_PROGRESS || allocated != wanted {
            let allocated = Some(BTreeMap::from([("storage".to_owned(), amount::binary(wanted))]));
            let next = with_stage(&status, IN_PROGRESS, allocated, Some(condition("Resizing", "")));
            self.write_status(item, &claim, next, out);
            return;
        }
        let message = format!("External resizer is resizing volume {}", name(&volume.metadata));
        out.push(Effect::Record(EventRecord::normal(&*claim, "Resizing", message, &self.component)));
        let capability = capability::of_volume(&spec, self.driver.single_node_multi_writer).ok();
        let request = ControllerCall::ControllerExpandVolume {
            volume_id: csi.volume_handle,
            capacity: CapacityRange { required_bytes: wanted, limit_bytes: 0 },
            capability,
        };
        self.asked.insert(item.clone(), wanted);
        self.work.call(item, &self.driver.name, request, out);
    }

    /// The volume has grown: first the PersistentVolume says so, then the claim.
    fn save(
        &mut self,
        item: &Key,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        status: &PersistentVolumeClaimStatus,
        (bytes, on_node): (u64, bool),
        out: &mut Vec<Effect>,
    ) {
        if matching::capacity(volume) < bytes {
            let mut updated = volume.clone();
            let capacity = updated.spec.get_or_insert_default().capacity.get_or_insert_default();
            capacity.insert("storage".to_owned(), amount::binary(bytes));
            self.work.write(item, Write::update(updated), out);
            return;
        }
        let (next, reason, message) = if on_node {
            let text = "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
            let next =
                with_stage(status, NODE_PENDING, status.allocated_resources.clone(), Some(condition("FileSystemResizePending", text)));
            (next, "FileSystemResizeRequired", "Require file system resize of volume on node")
        } else {
            let mut next = with_stage(status, "", status.allocated_resources.clone(), None);
            next.capacity.get_or_insert_default().insert("storage".to_owned(), amount::binary(bytes));
            (next, "VolumeResizeSuccessful", "Resize volume succeeded")
        };
        if self.write_status(item, claim, next, out) {
            self.outcomes.remove(item);
            out.push(Effect::Record(EventRecord::normal(claim, reason, message, &self.component)));
        }
    }

    fn write_status(
        &mut self,
        item: &Key,
        claim: &PersistentVolumeClaim,
        status: PersistentVolumeClaimStatus,
        out: &mut Vec<Effect>,
    ) -> bool {
        let mut updated = claim.clone();
        updated.status = Some(status);
        self.work.write(item, Write::update_status(updated), out)
    }
}

fn condition(kind: &str, message: &str) -> PersistentVolumeClaimCondition {
    PersistentVolumeClaimCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        message: (!message.is_empty()).then(|| message.to_owned()),
        ..PersistentVolumeClaimCondition::default()
    }
}

/// The status with another stage; of the resize conditions only the given one stays.
fn with_stage(
    status: &PersistentVolumeClaimStatus,
    stage: &str,
    allocated: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    condition: Option<PersistentVolumeClaimCondition>,
) -> PersistentVolumeClaimStatus {
    let mut next = status.clone();
    next.allocated_resources = allocated;
    next.allocated_resource_statuses = (!stage.is_empty()).then(|| BTreeMap::from([("storage".to_owned(), stage.to_owned())]));
    let resize = ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];
    let mut conditions = next.conditions.take().unwrap_or_default();
    conditions.retain(|known| !resize.contains(&known.type_.as_str()));
    conditions.extend(condition);
    next.conditions = (!conditions.is_empty()).then_some(conditions);
    next
}

#[cfg(test)]
mod tests;
