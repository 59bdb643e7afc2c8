//! The StatefulSet controller: pods with an identity and claims of their own (`pkg/controller/statefulset`).
//!
//! ```text
//!  OrderedReady: 0 ─Ready─▶ 1 ─Ready─▶ 2 …     all Ready ─▶ the highest condemned goes ─gone─▶ the next
//!  Parallel:     all at once
//!  RollingUpdate: then the highest pod of an old revision ≥ partition goes ─gone─▶ made anew ─Ready─▶ the next
//! ```
//! The rule that data rests on: while the API has an object of a pod's name, no other is made, however long that one takes to go. A lost
//! node's pod is not replaced until someone says that it is no more.
//!
//! Each sync does the first thing that is to be done; its answer brings the next sync.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use super::workload::revisions::{self, Revisions};
use super::workload::{Core, Member, is_leaving, is_ready, label};
use super::{is_finished, name, phase_of};
use crate::events::EventRecord;
use crate::machine::{Backoff, Done, Effect, Input, Reject};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::write::{ApiError, Write};

mod claims;
pub(crate) mod identity;

const COMPONENT: &str = "statefulset-controller";
/// `controller-revision-hash`: the revision a pod was made from.
const REVISION: &str = "controller-revision-hash";

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct StatefulSets {
    core: Core,
}

/// What a sync has found.
struct Sight {
    set: Arc<StatefulSet>,
    pods: BTreeMap<i32, Arc<Pod>>,
    revisions: Revisions,
    /// The revision that pods below the partition have.
    current: Arc<ControllerRevision>,
}

/// Whether a sync may go on after one of its steps.
#[derive(PartialEq, Eq)]
enum Go {
    On,
    /// Something is to be waited for, and the status may be written.
    Wait,
    /// A write is on its way, or a backoff runs.
    Acted,
}

impl StatefulSets {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.core.boot::<StatefulSet>(),
            Input::Changed(change) => self.changed(change, out),
            Input::Written { call, result } => {
                let done = self.core.answer(*call, result, out)?;
                self.tell(&done, result, out);
            }
            Input::Fired(fired) => self.core.fired::<StatefulSet>(fired),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.core.work.take() {
            if item.kind == Kind::StatefulSet {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn changed(&mut self, change: &Change, out: &mut Vec<Effect>) {
        let before = self.core.apply(change);
        match change.object() {
            Object::StatefulSet(set) => self.core.work.mark(set.key()),
            Object::Pod(_) | Object::ControllerRevision(_) => self.core.owned::<StatefulSet>(before.as_ref(), change, out),
            _ => {}
        }
    }

    /// What the user hears of a write (`recordPodEvent`, `recordClaimEvent`).
    fn tell(&mut self, done: &Done, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) {
        let Some(set) = self.core.cache.at::<StatefulSet>(&done.item).cloned() else { return };
        let verb = match (done.creates, done.deletes, done.reads) {
            (true, ..) => "Create",
            (_, true, _) => "Delete",
            (_, _, true) => return,
            _ => "Update",
        };
        let (set_name, object) = (&done.item.name, &done.target.name);
        let message = match (&done.target.kind, result) {
            (Kind::Pod, Err(error)) if done.creates && error.is_already_exists() => return,
            (Kind::Pod, Err(error)) if done.deletes && error.is_not_found() => {
                format!("{verb} Pod {object} in StatefulSet {set_name} successful")
            }
            (Kind::Pod, Ok(_)) => format!("{verb} Pod {object} in StatefulSet {set_name} successful"),
            (Kind::Pod, Err(error)) => format!("{verb} Pod {object} in StatefulSet {set_name} failed error: {error}"),
            (Kind::PersistentVolumeClaim, _) if verb != "Create" => return,
            (Kind::PersistentVolumeClaim, Err(error)) if error.is_already_exists() => return,
            (Kind::PersistentVolumeClaim, result) => {
                let ordinal = object.rsplit('-').next().unwrap_or("");
                match result {
                    Ok(_) => format!("{verb} Claim {object} Pod {set_name}-{ordinal} in StatefulSet {set_name} success"),
                    Err(error) => {
                        format!("{verb} Claim {object} for Pod {set_name}-{ordinal} in StatefulSet {set_name} failed error: {error}")
                    }
                }
            }
            _ => return,
        };
        let is_fine = result.as_ref().map_or_else(|error| done.deletes && error.is_not_found(), |_| true);
        out.push(Effect::Record(if is_fine {
            EventRecord::normal(&*set, &format!("Successful{verb}"), message, COMPONENT)
        } else {
            EventRecord::warning(&*set, &format!("Failed{verb}"), message, COMPONENT)
        }));
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(set) = self.core.cache.at::<StatefulSet>(item).cloned() else { return self.core.forget(item, out) };
        let Some(spec) = &set.spec else { return };
        let set_name = name(&set.metadata).to_owned();
        let judge = |pod: &Pod| if identity::ordinal(&set_name, name(&pod.metadata)).is_some() { Member::Yes } else { Member::No };
        let Some(own) = self.core.claim::<_, Pod>(item, &*set, judge, out) else { return };
        let pods = own.into_iter().filter_map(|pod| Some((identity::ordinal(&set_name, name(&pod.metadata))?, pod))).collect();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let Some(revisions) = revisions::of(&mut self.core, item, &*set, &spec.template, collisions, revisions::HASH, out) else { return };
        let named = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = revisions.all.iter().find(|revision| Some(name(&revision.metadata)) == named).unwrap_or(&revisions.update).clone();
        let sight = Sight { set: set.clone(), pods, revisions, current };
        let status = self.status(&sight, out);
        // After a failure the user sees the state before the next try.
        if self.core.failure(item).is_some() && self.report(item, &set, &status, out) {
            return;
        }
        if !is_leaving(&set.metadata) && self.act(item, &sight, out) == Go::Acted {
            return;
        }
        if self.report(item, &set, &status, out) {
            return;
        }
        let revisions = &sight.revisions;
        let is_live = |revision: &str| {
            [&revisions.update, &sight.current].iter().any(|live| name(&live.metadata) == revision)
                || sight.pods.values().any(|pod| label(&pod.metadata, REVISION) == Some(revision))
        };
        match revisions::surplus(revisions, spec.revision_history_limit.unwrap_or(10), is_live) {
            Some(old) => self.core.delete(item, &**old, out),
            None => self.core.work.succeed(item),
        }
    }

    /// Writes the status where it is news.
    fn report(&mut self, item: &Key, set: &StatefulSet, status: &StatefulSetStatus, out: &mut Vec<Effect>) -> bool {
        if set.status.as_ref() == Some(status) {
            return false;
        }
        let mut updated = set.clone();
        updated.status = Some(status.clone());
        self.core.work.write(item, Write::update_status(updated), out);
        true
    }

    /// The first thing that is to be done (`updateStatefulSet`).
    fn act(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) -> Go {
        let set = &sight.set;
        let Some(spec) = &set.spec else { return Go::Wait };
        let seconds = spec.min_ready_seconds.unwrap_or(0);
        let is_ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
        let range = identity::range(set);
        for ordinal in range.clone() {
            match self.replica(item, sight, ordinal, is_ordered, out) {
                Go::On => {}
                Go::Wait if is_ordered => return Go::Wait,
                // In parallel mode nobody waits for another.
                Go::Wait => {}
                Go::Acted => return Go::Acted,
            }
        }
        let condemned: Vec<&Arc<Pod>> =
            sight.pods.iter().filter(|(ordinal, _)| !range.contains(ordinal)).rev().map(|(_, pod)| pod).collect();
        for pod in &condemned {
            if self.correct_claims(item, set, pod, out) == Go::Acted {
                return Go::Acted;
            }
        }
        let mut is_down = |core: &mut Core, pod: &Pod| !core.is_available(pod, seconds, out) || is_leaving(&pod.metadata);
        let first_down = range
            .clone()
            .map(|ordinal| sight.pods.get(&ordinal))
            .chain(condemned.iter().rev().map(|pod| Some(*pod)))
            .find(|pod| pod.is_none_or(|pod| is_down(&mut self.core, pod)))
            .flatten();
        for pod in &condemned {
            if is_leaving(&pod.metadata) {
                if is_ordered {
                    return Go::Wait;
                }
                continue;
            }
            // A pod that is not well holds up those below it, unless it is the lowest of them.
            let is_well = is_running(pod) && self.core.is_available(pod, seconds, out);
            if is_ordered && !is_well && first_down.is_none_or(|first| first.metadata.uid != pod.metadata.uid) {
                return Go::Wait;
            }
            self.core.delete(item, &***pod, out);
            return Go::Acted;
        }
        self.roll(item, sight, seconds, out)
    }

    /// One ordinal that should be there (`processReplica`).
    fn replica(&mut self, item: &Key, sight: &Sight, ordinal: i32, is_ordered: bool, out: &mut Vec<Effect>) -> Go {
        let set = &sight.set;
        let Some(pod) = sight.pods.get(&ordinal).cloned() else { return self.make(item, sight, ordinal, out) };
        if is_finished(&pod) {
            if is_leaving(&pod.metadata) {
                return Go::Wait;
            }
            self.core.delete(item, &*pod, out);
            return Go::Acted;
        }
        if phase_of(&pod) == "Pending" && !is_leaving(&pod.metadata) {
            match self.make_claims(item, set, ordinal, out) {
                Go::On => {}
                other => return other,
            }
            if self.correct_claims(item, set, &pod, out) == Go::Acted {
                return Go::Acted;
            }
        }
        let seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        if is_ordered && (is_leaving(&pod.metadata) || !is_running(&pod) || !self.core.is_available(&pod, seconds, out)) {
            return Go::Wait;
        }
        if self.correct_claims(item, set, &pod, out) == Go::Acted {
            return Go::Acted;
        }
        if !identity::fits(set, &pod, ordinal) && !is_leaving(&pod.metadata) {
            let mut updated = (*pod).clone();
            identity::identify(&mut updated, ordinal);
            identity::put_volumes(set, &mut updated, ordinal);
            self.core.work.write(item, Write::update(updated), out);
            return Go::Acted;
        }
        Go::On
    }

    /// Makes the pod of an ordinal, its claims first (`CreateStatefulPod`).
    fn make(&mut self, item: &Key, sight: &Sight, ordinal: i32, out: &mut Vec<Effect>) -> Go {
        let set = &sight.set;
        let (revision, template) = sight.revision_for(ordinal);
        let pod = identity::pod(set, &template, &revision, ordinal);
        let claim_is_stale = claims::policy(set).when_scaled
            && identity::claims(set, ordinal).iter().any(|(_, claim)| {
                self.core.cache.at::<PersistentVolumeClaim>(&claim.key()).is_some_and(|known| claims::is_stale(known, &pod))
            });
        if claim_is_stale {
            // The claim goes with the pod that was scaled away; the controller that collects it takes its time.
            self.core.work.fail(item, Backoff::CONTROLLER, out);
            return Go::Acted;
        }
        match self.make_claims(item, set, ordinal, out) {
            Go::On => {}
            other => return other,
        }
        if self.core.cache.object(&pod.key()).is_some() {
            // Another's pod, perhaps that of an earlier set of this name.
            self.core.work.fail(item, Backoff::CONTROLLER, out);
            return Go::Acted;
        }
        self.core.work.write(item, Write::create(pod), out);
        Go::Acted
    }

    fn make_claims(&mut self, item: &Key, set: &StatefulSet, ordinal: i32, out: &mut Vec<Effect>) -> Go {
        for (_, claim) in identity::claims(set, ordinal) {
            match self.core.cache.at::<PersistentVolumeClaim>(&claim.key()) {
                None => {
                    self.core.work.write(item, Write::create(claim), out);
                    return Go::Acted;
                }
                Some(known) if is_leaving(&known.metadata) => {
                    let (claim, set_name) = (name(&claim.metadata), &item.name);
                    let message =
                        format!("Create Pod {set_name}-{ordinal} in StatefulSet {set_name} failed error: pvc {claim} is being deleted");
                    let record = EventRecord::warning(set, "FailedCreate", message, COMPONENT);
                    self.core.tell(item, record, out);
                    self.core.work.fail(item, Backoff::CONTROLLER, out);
                    return Go::Acted;
                }
                Some(_) => {}
            }
        }
        Go::On
    }

    /// Gives the claims of a pod the owners that the policy wants (`UpdatePodClaimForRetentionPolicy`).
    fn correct_claims(&mut self, item: &Key, set: &StatefulSet, pod: &Pod, out: &mut Vec<Effect>) -> Go {
        let Some(ordinal) = identity::ordinal(&item.name, name(&pod.metadata)) else { return Go::On };
        for (_, claim) in identity::claims(set, ordinal) {
            let Some(known) = self.core.cache.at::<PersistentVolumeClaim>(&claim.key()).cloned() else { continue };
            if is_leaving(&known.metadata) {
                continue;
            }
            if claims::has_other_controller(&known, set, pod) {
                let message = format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim",
                    name(&known.metadata)
                );
                self.core.tell(item, EventRecord::warning(set, "ConflictingController", message, COMPONENT), out);
            }
            if let Some(updated) = claims::corrected(&known, set, pod) {
                self.core.work.write(item, Write::update(updated), out);
                return Go::Acted;
            }
        }
        Go::On
    }

    /// The highest pod of an old revision goes, one after another.
    fn roll(&mut self, item: &Key, sight: &Sight, seconds: i32, out: &mut Vec<Effect>) -> Go {
        let strategy = sight.set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return Go::On;
        }
        let range = identity::range(&sight.set);
        let partition = strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0).max(0);
        let lowest = range.start.saturating_add(partition);
        for ordinal in (lowest.min(range.end)..range.end).rev() {
            let Some(pod) = sight.pods.get(&ordinal).cloned() else { return Go::Wait };
            let is_old = label(&pod.metadata, REVISION) != Some(name(&sight.revisions.update.metadata));
            if is_old && !is_leaving(&pod.metadata) {
                self.core.delete(item, &*pod, out);
                return Go::Acted;
            }
            if is_leaving(&pod.metadata) || !self.core.is_available(&pod, seconds, out) {
                return Go::Wait;
            }
        }
        Go::On
    }

    /// `updateStatus`, `completeRollingUpdate`.
    fn status(&mut self, sight: &Sight, out: &mut Vec<Effect>) -> StatefulSetStatus {
        let set = &sight.set;
        let (current, update) = (name(&sight.current.metadata).to_owned(), name(&sight.revisions.update.metadata).to_owned());
        let seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let (mut replicas, mut ready, mut available, mut at_current, mut at_update) = (0, 0, 0, 0, 0);
        for pod in sight.pods.values() {
            replicas += 1;
            if is_running(pod) {
                ready += 1;
                available += i32::from(self.core.is_available(pod, seconds, out));
            }
            if !is_leaving(&pod.metadata) {
                let revision = label(&pod.metadata, REVISION);
                at_current += i32::from(revision == Some(current.as_str()));
                at_update += i32::from(revision == Some(update.as_str()));
            }
        }
        let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()).and_then(|strategy| strategy.type_.as_deref());
        let is_complete = strategy != Some("OnDelete") && [at_update, ready, replicas] == [wanted; 3];
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(if is_complete { at_update } else { at_current }),
            updated_replicas: some(at_update),
            current_revision: Some(if is_complete { update.clone() } else { current }),
            update_revision: Some(update),
            collision_count: Some(sight.revisions.collisions),
            conditions: None,
        }
    }
}

impl Sight {
    /// The revision and template that a new pod of an ordinal has (`newVersionedStatefulSetPod`).
    fn revision_for(&self, ordinal: i32) -> (String, PodTemplateSpec) {
        let spec = self.set.spec.clone().unwrap_or_default();
        let strategy = spec.update_strategy.unwrap_or_default();
        let start = identity::range(&self.set).start;
        let is_rolling = strategy.type_.as_deref() != Some("OnDelete");
        let current_replicas = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let below = match strategy.rolling_update {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None if is_rolling => current_replicas,
            None => 0,
        };
        let old = (ordinal < start.saturating_add(below)).then(|| revisions::template_of(&self.current)).flatten();
        match old {
            Some(template) => (name(&self.current.metadata).to_owned(), template),
            None => (name(&self.revisions.update.metadata).to_owned(), spec.template),
        }
    }
}

fn is_running(pod: &Pod) -> bool {
    phase_of(pod) == "Running" && is_ready(pod)
}

#[cfg(test)]
mod tests;
