//! The Deployment controller: ReplicaSets that take over from one another (`pkg/controller/deployment`).
//!
//! ```text
//!  RollingUpdate: new set grows to wanted + maxSurge − others ─pods available─▶ old sets shrink, never below wanted − maxUnavailable
//!  Recreate:      old sets to 0 ─their pods gone─▶ new set to wanted
//! ```
//! With one pod and a claim that one node at a time may have, RollingUpdate can wait for ever: the new pod waits for the volume, the old one
//! for the new one to be available. That is the real one's trap too; Recreate is the way out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::workload::{Core, Member, concerned, controller_of, is_leaving, is_terminating_namespace, uid};
use super::{is_finished, name, namespace};
use crate::events::EventRecord;
use crate::machine::{Done, Effect, Index, Input, Purpose, Reject, Timer};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::write::{ApiError, Write};

mod sets;
mod status;

const COMPONENT: &str = "deployment-controller";

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Deployments {
    core: Core,
    /// The set that is being scaled for a Deployment, from and to how many.
    scaling: BTreeMap<Key, (i32, i32)>,
    /// The update that a running progress deadline belongs to.
    deadlines: BTreeMap<Key, String>,
    /// …and those that are over.
    late: BTreeMap<Key, String>,
    /// Deployments whose new set could not be made because its name is taken.
    taken: BTreeMap<Key, i32>,
}

/// A Deployment and its sets, the oldest first.
struct Sight {
    deployment: Arc<Deployment>,
    all: Vec<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    new: Option<Arc<ReplicaSet>>,
}

impl Deployments {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.core.boot::<Deployment>(),
            Input::Changed(change) => self.changed(change),
            Input::Written { call, result } => {
                let done = self.core.answer(*call, result, out)?;
                self.tell(&done, result, out);
            }
            Input::Fired(fired) if fired.purpose == Purpose::Progress => {
                if let Some(update) = self.deadlines.remove(&fired.item) {
                    self.late.insert(fired.item.clone(), update);
                    self.core.work.mark(fired.item.clone());
                }
            }
            Input::Fired(fired) => self.core.work.retry(&fired.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.core.work.take() {
            if item.kind == Kind::Deployment {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn changed(&mut self, change: &Change) {
        let before = self.core.apply(change);
        match change.object() {
            Object::Deployment(deployment) => self.core.work.mark(deployment.key()),
            Object::ReplicaSet(set) => {
                let deployments = concerned::<Deployment>(&self.core.cache, before.as_ref(), &set.metadata);
                deployments.into_iter().for_each(|deployment| self.core.work.mark(deployment));
            }
            // Recreate waits for the end of the old pods.
            Object::Pod(pod) if matches!(change, Change::Deleted(_)) || is_finished(pod) => {
                let set =
                    controller_of(&pod.metadata).and_then(|owner| self.core.cache.get::<ReplicaSet>(namespace(&pod.metadata), &owner.name));
                let owner = set.and_then(|set| controller_of(&set.metadata)).filter(|owner| owner.kind == "Deployment");
                if let Some(owner) = owner {
                    self.core.work.mark(Key::new(Kind::Deployment, namespace(&pod.metadata), &owner.name));
                }
            }
            _ => {}
        }
    }

    fn tell(&mut self, done: &Done, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) {
        if done.target.kind != Kind::ReplicaSet || done.reads || done.deletes {
            return;
        }
        let Some(deployment) = self.core.cache.at::<Deployment>(&done.item).cloned() else { return };
        let scaling = self.scaling.remove(&done.item);
        match (result, scaling) {
            (Ok(_), Some((from, to))) if from != to => {
                let way = if from < to { "up" } else { "down" };
                let message = format!("Scaled {way} replica set {} from {from} to {to}", done.target.name);
                out.push(Effect::Record(EventRecord::normal(&*deployment, "ScalingReplicaSet", message, COMPONENT)));
            }
            (Err(error), _) if done.creates && error.is_already_exists() => {
                // Made before and not seen yet, or another's of that name: then the next hash has another name.
                let known = self.core.cache.at::<ReplicaSet>(&done.target);
                if known.is_some_and(|known| controller_of(&known.metadata).is_none_or(|owner| owner.uid != uid(&deployment.metadata))) {
                    *self.taken.entry(done.item.clone()).or_default() += 1;
                }
            }
            (Err(error), _) if done.creates && !is_terminating_namespace(error) => {
                let message = format!("Failed to create new replica set \"{}\": {error}", done.target.name);
                out.push(Effect::Record(EventRecord::warning(&*deployment, "ReplicaSetCreateError", message, COMPONENT)));
            }
            _ => {}
        }
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(deployment) = self.core.cache.at::<Deployment>(item).cloned() else {
            self.scaling.remove(item);
            self.taken.remove(item);
            self.late.remove(item);
            self.stop_clock(item, out);
            return self.core.forget(item, out);
        };
        let Some(mut all) = self.core.claim::<_, ReplicaSet>(item, &*deployment, |_| Member::Yes, out) else { return };
        all.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
        let new = sets::find_new(&deployment, &all);
        let old = all.iter().filter(|set| Some(uid(&set.metadata)) != new.as_ref().map(|new| uid(&new.metadata))).cloned().collect();
        let sight = Sight { deployment, all, old, new };
        let deployment = &sight.deployment;
        if is_leaving(&deployment.metadata) {
            let status = status::of(deployment, &sight.all, sight.new.as_ref());
            self.report(item, deployment, status, out);
            return;
        }
        if self.note_pause(item, deployment, out) || self.number(item, &sight, out) {
            return;
        }
        let is_paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let active = || sight.all.iter().filter(|set| sets::replicas(set) > 0);
        let is_scaled = active().any(|set| sets::desired(set).is_some_and(|desired| desired != sets::wanted(deployment)));
        if is_paused || is_scaled {
            if self.scale(item, &sight, out) || (is_paused && self.clean_up(item, &sight, out)) {
                return;
            }
            let status = status::of(deployment, &sight.all, sight.new.as_ref());
            if !self.report(item, deployment, status, out) {
                self.core.work.succeed(item);
            }
            return;
        }
        let acted = if sets::is_rolling(deployment) { self.roll(item, &sight, out) } else { self.recreate(item, &sight, out) };
        let is_done = deployment.status.as_ref().is_some_and(|status| status::is_complete(deployment, status));
        if !(acted || is_done && self.clean_up(item, &sight, out)) {
            self.report_rollout(item, &sight, out);
        }
    }

    /// A status and whatever of the annotations changed with it, where they are news.
    fn report(&mut self, item: &Key, deployment: &Deployment, status: DeploymentStatus, out: &mut Vec<Effect>) -> bool {
        if deployment.status.as_ref() == Some(&status) {
            return false;
        }
        let mut updated = deployment.clone();
        updated.status = Some(status);
        self.core.work.write(item, Write::update_status(updated), out);
        true
    }

    fn report_rollout(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) {
        let deployment = &sight.deployment;
        let mut status = status::of(deployment, &sight.all, sight.new.as_ref());
        let update = |status: &DeploymentStatus| {
            let known = status::condition(status, "Progressing");
            let time = known.and_then(|known| known.last_update_time.as_ref()).map(|time| time.0.to_string()).unwrap_or_default();
            format!("{:?} {time}", known.and_then(|known| known.reason.as_deref()))
        };
        let now = update(&deployment.status.clone().unwrap_or_default());
        let is_late = self.late.get(item) == Some(&now);
        status::progress(deployment, &mut status, &sight.all, sight.new.as_ref(), is_late);
        if self.report(item, deployment, status.clone(), out) {
            return;
        }
        self.core.work.succeed(item);
        let progressing = status::condition(&status, "Progressing").and_then(|known| known.reason.as_deref());
        match (status::deadline(deployment), progressing) {
            (Some(seconds), Some(reason)) if !status::is_complete(deployment, &status) && reason != "ProgressDeadlineExceeded" => {
                if !is_late && self.deadlines.get(item) != Some(&now) {
                    self.deadlines.insert(item.clone(), now);
                    let wait = Duration::from_secs(u64::from(seconds.unsigned_abs()) + 1);
                    out.push(Effect::Arm(clock(item), wait));
                }
            }
            _ => self.stop_clock(item, out),
        }
    }

    fn stop_clock(&mut self, item: &Key, out: &mut Vec<Effect>) {
        if self.deadlines.remove(item).is_some() {
            out.push(Effect::Disarm(clock(item)));
        }
    }

    /// A pause stops the clock of the rollout (`checkPausedConditions`).
    fn note_pause(&mut self, item: &Key, deployment: &Deployment, out: &mut Vec<Effect>) -> bool {
        if status::deadline(deployment).is_none() {
            return false;
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        let reason = status::condition(&status, "Progressing").and_then(|known| known.reason.clone()).unwrap_or_default();
        let is_paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        match (is_paused, reason.as_str()) {
            (_, "ProgressDeadlineExceeded") => return false,
            (true, reason) if reason != "DeploymentPaused" => {
                status::set(&mut status, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
            }
            (false, "DeploymentPaused") => status::set(&mut status, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed"),
            _ => return false,
        }
        self.report(item, deployment, status, out)
    }

    /// Gives the new set its revision and its annotations, and the Deployment the number (`getNewReplicaSet`).
    fn number(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) -> bool {
        let (deployment, Some(new)) = (&sight.deployment, &sight.new) else { return false };
        let last = sight.old.iter().map(|set| sets::revision(&set.metadata)).max().unwrap_or(0);
        let mut updated = (**new).clone();
        sets::annotate_new(deployment, &mut updated, last + 1);
        let seconds = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if let Some(spec) = updated.spec.as_mut() {
            spec.min_ready_seconds = seconds;
        }
        if updated != **new {
            self.core.work.write(item, Write::update(updated), out);
            return true;
        }
        let mut numbered = (**deployment).clone();
        let revision = sets::revision(&new.metadata).to_string();
        let mut is_news = super::annotate(&mut numbered.metadata.annotations, sets::REVISION, &revision);
        let status = numbered.status.get_or_insert_default();
        if status::deadline(deployment).is_some() && status::condition(status, "Progressing").is_none() {
            let message = format!("Created new replica set \"{}\"", name(&new.metadata));
            status::set(status, "Progressing", "True", "NewReplicaSetCreated", &message);
            is_news = true;
        }
        if is_news {
            self.core.work.write(item, Write::update_status(numbered), out);
        }
        is_news
    }

    /// Scales one set; whether there was anything to do.
    fn scale_set(&mut self, item: &Key, sight: &Sight, set: &Arc<ReplicaSet>, size: i32, forced: bool, out: &mut Vec<Effect>) -> bool {
        let from = sets::replicas(set);
        let mut updated = (**set).clone();
        if let Some(spec) = updated.spec.as_mut() {
            spec.replicas = Some(size);
        }
        let is_noted = sets::note_replicas(&sight.deployment, &mut updated);
        if from == size && !(forced && is_noted) {
            return false;
        }
        if self.core.work.write(item, Write::update(updated), out) {
            self.scaling.insert(item.clone(), (from, size));
        }
        true
    }

    /// The Deployment was scaled, or is paused (`scale`).
    fn scale(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) -> bool {
        let wanted = sets::wanted(&sight.deployment);
        let active: Vec<_> = sight.all.iter().filter(|set| sets::replicas(set) > 0).cloned().collect();
        let only = match active.as_slice() {
            [] => sight.new.clone().or_else(|| sight.old.last().cloned()),
            [one] => Some(one.clone()),
            _ => None,
        };
        if active.len() < 2 {
            // A set that has its size already still learns that this is wanted now, or the scaling would never be over.
            return only.is_some_and(|set| self.scale_set(item, sight, &set, wanted, true, out));
        }
        if let Some(new) = &sight.new {
            let is_saturated = sets::replicas(new) == wanted && sets::desired(new) == Some(wanted) && sets::available(new) == wanted;
            if is_saturated {
                return sight.old.iter().filter(|set| sets::replicas(set) > 0).any(|set| self.scale_set(item, sight, set, 0, false, out));
            }
        }
        sets::is_rolling(&sight.deployment)
            && sets::proportions(&sight.deployment, &active)
                .into_iter()
                .any(|(set, size)| self.scale_set(item, sight, &set, size, true, out))
    }

    fn make(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) {
        let known = sight.deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let collisions = known.saturating_add(self.taken.get(item).copied().unwrap_or(0));
        let set = sets::make(&sight.deployment, &sight.old, Some(collisions));
        let size = sets::replicas(&set);
        if self.core.work.write(item, Write::create(set), out) {
            self.scaling.insert(item.clone(), (0, size));
        }
    }

    fn roll(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) -> bool {
        let Some(new) = &sight.new else {
            self.make(item, sight, out);
            return true;
        };
        let wanted = sets::wanted(&sight.deployment);
        let size = sets::replicas(new);
        let next = if size > wanted { wanted } else { sets::new_replicas(&sight.deployment, &sight.old, size) };
        if size != wanted && self.scale_set(item, sight, new, next, false, out) {
            return true;
        }
        let old: Vec<_> = sight.old.iter().filter(|set| sets::replicas(set) > 0).cloned().collect();
        let least = wanted - sets::fenceposts(&sight.deployment).1;
        let spare = sets::total(&sight.all) - least - (size - sets::available(new));
        if old.is_empty() || spare <= 0 {
            return false;
        }
        // Pods that are not well go first: their end makes nothing worse.
        for set in &old {
            let ill = sets::replicas(set) - sets::available(set);
            if ill > 0 {
                return self.scale_set(item, sight, set, sets::replicas(set) - ill.min(spare), false, out);
            }
        }
        let too_many = sight.all.iter().map(|set| sets::available(set)).sum::<i32>() - least;
        let Some(oldest) = old.first().filter(|_| too_many > 0) else { return false };
        self.scale_set(item, sight, oldest, sets::replicas(oldest) - too_many.min(sets::replicas(oldest)), false, out)
    }

    fn recreate(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) -> bool {
        if sight.old.iter().any(|set| self.scale_set(item, sight, set, 0, false, out)) {
            return true;
        }
        let runs = |set: &Arc<ReplicaSet>| {
            set.status.as_ref().is_some_and(|status| status.replicas > 0)
                || self.core.cache.found::<Pod>(Index::Owned, uid(&set.metadata)).any(|pod| !is_finished(pod))
        };
        if sight.old.iter().any(runs) {
            return false;
        }
        match &sight.new {
            None => {
                self.make(item, sight, out);
                true
            }
            Some(new) => self.scale_set(item, sight, new, sets::wanted(&sight.deployment), false, out),
        }
    }

    /// Deletes the oldest set beyond the limit that has no pods (`cleanupDeployment`).
    fn clean_up(&mut self, item: &Key, sight: &Sight, out: &mut Vec<Effect>) -> bool {
        let limit = sight.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut old: Vec<_> = sight.old.iter().filter(|set| !is_leaving(&set.metadata)).collect();
        old.sort_by_key(|set| sets::revision(&set.metadata));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let is_empty = |set: &&&Arc<ReplicaSet>| {
            let status = set.status.clone().unwrap_or_default();
            status.replicas == 0 && sets::replicas(set) == 0 && set.metadata.generation <= status.observed_generation
        };
        let Some(set) = old.iter().take(surplus).find(is_empty) else { return false };
        self.core.delete(item, &***set, out);
        true
    }
}

fn clock(item: &Key) -> Timer {
    Timer { purpose: Purpose::Progress, item: item.clone() }
}

#[cfg(test)]
mod tests;
