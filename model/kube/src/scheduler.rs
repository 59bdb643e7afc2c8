//! The scheduler, as far as storage needs it (§4): filters with the real reasons, volume binding with its four steps, the
//! Binding. Of the scoring there is only "the node with the fewest pods", ties by name.
//!
//! ```text
//!  pod without node ─filter─▶ node chosen ─PV.claimRef / PVC selected-node written─▶ all claims bound ─▶ Binding
//!                     │                                └ provisioning failed (annotation gone), 600 s ▶ again from the start
//!                     └ nothing fits ▶ FailedScheduling, PodScheduled=False; again when the cluster changes
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};

use crate::controllers::binder::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use crate::controllers::{annotate, annotation, claims_of, is_claimed_by, is_finished, name, namespace, node_of};
use crate::events::{EventRecord, Said};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Change, Key, Kind, Object};
use crate::write::Write;

pub mod filter;
mod loads;
pub mod volumes;

pub const NAME: &str = "default-scheduler";
/// `BindTimeoutSeconds` (§7 row 33).
const BIND_TIMEOUT: Duration = Duration::from_secs(600);
/// `podInitialBackoffSeconds`, `podMaxBackoffSeconds`.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) };

/// A pod's place, while its volumes are bound and the Binding is written.
#[derive(Debug, Clone, PartialEq)]
struct Assumed {
    node: String,
    uid: String,
    /// Claims to bind to existing volumes: claim → PersistentVolume.
    fixed: BTreeMap<String, String>,
    /// Claims to provision for the node.
    provisioned: BTreeSet<String>,
    /// Claims whose `selected-node` has been seen: if it goes, provisioning failed.
    written: BTreeSet<String>,
}

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    cache: Cache,
    work: Queue,
    said: Said,
    assumed: BTreeMap<Key, Assumed>,
    /// The same, as the filters ask for it.
    world: filter::World,
    loads: loads::Loads,
    /// Pods for which nothing fits.
    unschedulable: BTreeSet<Key>,
}

fn deadline(item: &Key) -> Timer {
    Timer { purpose: Purpose::Deadline, item: item.clone() }
}

impl Scheduler {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => {
                self.work.boot();
                for pod in self.cache.keys(&Kind::Pod) {
                    self.work.mark(pod);
                }
            }
            Input::Changed(change) => {
                self.cache.apply(change);
                self.recount(&change.object().key());
                self.touched(change);
            }
            Input::Written { call, result } => {
                let done = self.work.answer(&mut self.cache, *call, result, BACKOFF, out)?;
                self.recount(&done.target);
                // A volume or claim was taken by someone else meanwhile: choose again.
                if result.is_err() {
                    self.unreserve(&done.item, out);
                }
            }
            Input::Fired(fired) if fired.purpose == Purpose::Deadline => {
                if self.assumed.contains_key(&fired.item) {
                    let message = "binding volumes: context deadline exceeded".to_owned();
                    self.start_over(&fired.item, message, out);
                }
            }
            Input::Fired(fired) => self.work.retry(&fired.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            if item.kind == Kind::Pod {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn touched(&mut self, change: &Change) {
        let object = change.object();
        match object {
            Object::Pod(pod) => {
                self.work.mark_gently(object.key());
                // Room becomes free.
                if matches!(change, Change::Deleted(_)) || is_finished(pod) {
                    self.retry_unschedulable();
                }
            }
            Object::PersistentVolumeClaim(claim) => {
                let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
                let pods: Vec<Key> = self.cache.find(Index::PodsByClaim, &address).cloned().collect();
                for pod in pods {
                    if self.assumed.contains_key(&pod) || self.unschedulable.remove(&pod) {
                        self.work.mark(pod);
                    }
                }
            }
            Object::PersistentVolume(volume) => {
                // Whoever waits for its binding: of the claim that it names, or of the claim that it is meant for.
                let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                let claim =
                    claim.map(|claim| format!("{}/{}", claim.namespace.as_deref().unwrap_or(""), claim.name.as_deref().unwrap_or("")));
                let meant = self.world.volumes.get(name(&volume.metadata));
                let pods = claim.iter().chain(meant).flat_map(|claim| self.cache.find(Index::PodsByClaim, claim));
                let waiting: Vec<Key> = pods.filter(|pod| self.assumed.contains_key(*pod)).cloned().collect();
                waiting.into_iter().for_each(|pod| self.work.mark(pod));
                self.retry_unschedulable();
            }
            // Heartbeats come every few seconds and make nothing schedulable; only waiting pods look again.
            _ => self.retry_unschedulable(),
        }
    }

    fn retry_unschedulable(&mut self) {
        for pod in std::mem::take(&mut self.unschedulable) {
            self.work.mark(pod);
        }
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let pod = self.cache.at::<Pod>(item).cloned();
        let Some(pod) = pod.filter(|pod| self.is_mine(pod)) else {
            self.unreserve(item, out);
            self.unschedulable.remove(item);
            self.said.forget(item);
            return self.work.forget(item, out);
        };
        if self.assumed.get(item).is_some_and(|assumed| Some(assumed.uid.as_str()) != pod.metadata.uid.as_deref()) {
            self.unreserve(item, out);
        }
        match self.assumed.get(item).cloned() {
            Some(assumed) => self.go_on(item, &pod, &assumed, out),
            None => self.schedule(item, &pod, out),
        }
    }

    fn is_mine(&self, pod: &Pod) -> bool {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME) == NAME
            && spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_none_or(|gates| gates.is_empty())
            && node_of(pod).is_empty()
            && pod.metadata.deletion_timestamp.is_none()
            && !is_finished(pod)
    }

    /// One scheduling cycle.
    fn schedule(&mut self, item: &Key, pod: &Arc<Pod>, out: &mut Vec<Effect>) {
        let nodes = self.loads.nodes();
        if nodes == 0 {
            return self.unfit(item, pod, "no nodes available to schedule pods".to_owned(), out);
        }
        let claims = match volumes::claims(&self.cache, pod) {
            Ok(claims) => claims,
            Err(why) => return self.unfit(item, pod, filter::pre_filter_text(nodes, &why), out),
        };
        let mut reasons: BTreeMap<String, filter::Verdict> = BTreeMap::new();
        let best = self.loads.lightest_first().find_map(|name| {
            let node = self.cache.get::<Node>("", name)?;
            match filter::check(&self.cache, &self.world, pod, node, &claims) {
                Ok(found) => Some((name.to_owned(), found)),
                Err(verdict) => {
                    reasons.insert(name.to_owned(), verdict);
                    None
                }
            }
        });
        let Some((node, found)) = best else {
            return self.unfit(item, pod, filter::fit_text(&reasons), out);
        };
        let assumed = Assumed {
            node,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            fixed: found.fixed,
            provisioned: found.provisioned,
            written: BTreeSet::new(),
        };
        if !assumed.fixed.is_empty() || !assumed.provisioned.is_empty() {
            out.push(Effect::Arm(deadline(item), BIND_TIMEOUT));
        }
        self.world.add(item, &assumed.node, &assumed.fixed);
        self.assumed.insert(item.clone(), assumed.clone());
        self.recount(item);
        self.go_on(item, pod, &assumed, out);
    }

    /// Counts a pod anew: on its node, and on the one that it is meant for. Also a node, which may have come or gone.
    fn recount(&mut self, key: &Key) {
        match key.kind {
            Kind::Node => self.loads.node(&key.name, self.cache.object(key).is_some()),
            Kind::Pod => {
                let pod = self.cache.at::<Pod>(key).filter(|pod| !is_finished(pod));
                let bound = pod.map(|pod| node_of(pod)).filter(|node| !node.is_empty());
                let meant = self.assumed.get(key).filter(|_| pod.is_some()).map(|assumed| assumed.node.as_str());
                let nodes = bound.into_iter().chain(meant).map(str::to_owned).collect();
                self.loads.pod(key, nodes);
            }
            _ => {}
        }
    }

    /// The binding cycle: the next write, or a wait for the controllers, or the Binding (§4.1, PreBind).
    fn go_on(&mut self, item: &Key, pod: &Arc<Pod>, assumed: &Assumed, out: &mut Vec<Effect>) {
        let Some(node) = self.cache.get::<Node>("", &assumed.node).cloned() else {
            return self.start_over(item, format!("node \"{}\" not found", assumed.node), out);
        };
        let mut all_bound = true;
        for (claim_name, volume_name) in &assumed.fixed {
            let (Some(claim), Some(volume)) = (
                self.cache.get::<PersistentVolumeClaim>(&item.namespace, claim_name).cloned(),
                self.cache.get::<PersistentVolume>("", volume_name).cloned(),
            ) else {
                return self.start_over(item, format!("failed to check binding: persistentvolumeclaim \"{claim_name}\" not found"), out);
            };
            let claimed = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
            if !claimed {
                let mut updated = (*volume).clone();
                updated.spec.get_or_insert_default().claim_ref = Some(crate::events::reference(&*claim));
                annotate(&mut updated.metadata.annotations, BOUND_BY_CONTROLLER, "yes");
                self.work.write(item, Write::update(updated), out);
                return;
            }
            if !is_claimed_by(&volume, &claim) {
                return self.start_over(item, format!("ClaimRef got reset for pv \"{volume_name}\""), out);
            }
            all_bound &= volumes::is_bound(&claim);
        }
        for claim_name in &assumed.provisioned {
            let Some(claim) = self.cache.get::<PersistentVolumeClaim>(&item.namespace, claim_name).cloned() else {
                return self.start_over(item, format!("error getting PVC \"{}/{claim_name}\": not found", item.namespace), out);
            };
            if volumes::is_bound(&claim) {
                let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
                match self.cache.get::<PersistentVolume>("", volume) {
                    None => all_bound = false,
                    Some(volume) if !crate::selector::volume_fits(volume, &node) => {
                        let message = format!("pv \"{}\" node affinity doesn't match node \"{}\"", name(&volume.metadata), assumed.node);
                        return self.start_over(item, message, out);
                    }
                    Some(_) => {}
                }
                continue;
            }
            all_bound = false;
            match annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty()) {
                Some(chosen) if chosen == assumed.node => {
                    if let Some(assumed) = self.assumed.get_mut(item) {
                        assumed.written.insert(claim_name.clone());
                    }
                }
                // Another node, or taken off by the provisioner.
                Some(_) => return self.start_over(item, format!("provisioning failed for PVC \"{claim_name}\""), out),
                None if assumed.written.contains(claim_name) => {
                    return self.start_over(item, format!("provisioning failed for PVC \"{claim_name}\""), out);
                }
                None => {
                    let mut updated = (*claim).clone();
                    annotate(&mut updated.metadata.annotations, SELECTED_NODE, &assumed.node);
                    self.work.write(item, Write::update(updated), out);
                    return;
                }
            }
        }
        if !all_bound {
            return; // The claims' events bring it back here.
        }
        let write = Write::Bind { pod: item.clone(), uid: pod.metadata.uid.clone(), node: assumed.node.clone() };
        if self.work.write(item, write, out) {
            let message = format!("Successfully assigned {}/{} to {}", item.namespace, item.name, assumed.node);
            let record = EventRecord::normal(&**pod, "Scheduled", message, NAME);
            if self.said.is_news(item, &record) {
                out.push(Effect::Record(record));
            }
        }
    }

    fn unreserve(&mut self, item: &Key, out: &mut Vec<Effect>) {
        if let Some(assumed) = self.assumed.remove(item) {
            self.world.remove(item, &assumed.node);
            if !assumed.fixed.is_empty() {
                let others = self.assumed.iter();
                self.world.volumes = others.flat_map(|(pod, assumed)| filter::meant(pod, &assumed.fixed)).collect();
            }
            self.recount(item);
            out.push(Effect::Disarm(deadline(item)));
            self.retry_unschedulable();
        }
    }

    /// The binding cycle failed: what is written stays, the pod is scheduled anew after a backoff (#112347).
    fn start_over(&mut self, item: &Key, why: String, out: &mut Vec<Effect>) {
        self.unreserve(item, out);
        if let Some(pod) = self.cache.at::<Pod>(item) {
            let message = format!("running PreBind plugin \"VolumeBinding\": {why}");
            let record = EventRecord::warning(&**pod, "FailedScheduling", message, NAME);
            if self.said.is_news(item, &record) {
                out.push(Effect::Record(record));
            }
        }
        self.work.fail(item, BACKOFF, out);
    }

    /// Nothing fits: the user is told, and the pod waits for a change of the cluster.
    fn unfit(&mut self, item: &Key, pod: &Arc<Pod>, message: String, out: &mut Vec<Effect>) {
        self.unschedulable.insert(item.clone());
        let record = EventRecord::warning(&**pod, "FailedScheduling", message.clone(), NAME);
        if self.said.is_news(item, &record) {
            out.push(Effect::Record(record));
        }
        let condition = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message),
            ..PodCondition::default()
        };
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let known = conditions.iter().find(|known| known.type_ == "PodScheduled");
        if known.is_some_and(|known| known.status == "False" && known.message == condition.message) {
            return;
        }
        let mut updated = (**pod).clone();
        let conditions = updated.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|known| known.type_ != "PodScheduled");
        conditions.push(condition);
        self.work.write(item, Write::update_status(updated), out);
    }
}

/// The claims that a pod uses, by name.
pub(crate) fn claim_names(pod: &Pod) -> Vec<String> {
    claims_of(pod).collect()
}

#[cfg(test)]
mod tests;
