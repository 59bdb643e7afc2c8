//! The ReplicaSet controller: as many pods as wanted (`pkg/controller/replicaset`).
//!
//! The real one creates in batches that grow; this one makes a pod after another, so there is nothing to expect: its own answers are in
//! its cache.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::workload::{Core, Member, is_active, is_ready, is_terminating_namespace, pod_from};
use super::{annotation, is_finished, node_of, phase_of};
use crate::events::EventRecord;
use crate::machine::{Done, Effect, Input, Reject};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::selector::labels_match;
use crate::write::{ApiError, Write};

const COMPONENT: &str = "replicaset-controller";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct ReplicaSets {
    core: Core,
}

impl ReplicaSets {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.core.boot::<ReplicaSet>(),
            Input::Changed(change) => self.changed(change, out),
            Input::Written { call, result } => {
                let done = self.core.answer(*call, result, out)?;
                self.tell(&done, result, out);
            }
            Input::Fired(fired) => self.core.fired::<ReplicaSet>(fired),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.core.work.take() {
            if item.kind == Kind::ReplicaSet {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn changed(&mut self, change: &Change, out: &mut Vec<Effect>) {
        let before = self.core.apply(change);
        match change.object() {
            Object::ReplicaSet(set) => self.core.work.mark(set.key()),
            Object::Pod(_) => self.core.owned::<ReplicaSet>(before.as_ref(), change, out),
            _ => {}
        }
    }

    /// What the user hears of a pod that was made or deleted.
    fn tell(&mut self, done: &Done, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) {
        let Some(set) = self.core.cache.at::<ReplicaSet>(&done.item).cloned() else { return };
        let record = match result {
            Ok(pod) if done.creates => {
                let message = format!("Created pod: {}", pod.key().name);
                EventRecord::normal(&*set, "SuccessfulCreate", message, COMPONENT)
            }
            Ok(_) if done.deletes => {
                let message = format!("Deleted pod: {}", done.target.name);
                EventRecord::normal(&*set, "SuccessfulDelete", message, COMPONENT)
            }
            Err(error) if done.creates && !is_terminating_namespace(error) => {
                EventRecord::warning(&*set, "FailedCreate", format!("Error creating: {error}"), COMPONENT)
            }
            Err(error) if done.deletes && !error.is_not_found() => {
                EventRecord::warning(&*set, "FailedDelete", format!("Error deleting: {error}"), COMPONENT)
            }
            _ => return,
        };
        out.push(Effect::Record(record));
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(set) = self.core.cache.at::<ReplicaSet>(item).cloned() else { return self.core.forget(item, out) };
        let Some(spec) = &set.spec else { return };
        let judge = |pod: &Pod| if is_finished(pod) { Member::Ignored } else { Member::Yes };
        let Some(own) = self.core.claim::<_, Pod>(item, &*set, judge, out) else { return };
        let (active, leaving): (Vec<_>, Vec<_>) = own.into_iter().partition(|pod| is_active(pod));
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let status = self.status(item, &set, &active, leaving.len(), wanted, out);
        let is_news = set.status.as_ref() != Some(&status);
        // After a failure the user hears of it before the next try.
        if is_news && (self.core.failure(item).is_some() || active.len() == wanted || set.metadata.deletion_timestamp.is_some()) {
            let mut updated = (*set).clone();
            updated.status = Some(status);
            self.core.work.write(item, Write::update_status(updated), out);
            return;
        }
        if set.metadata.deletion_timestamp.is_some() {
            return;
        }
        match active.len().cmp(&wanted) {
            Ordering::Less => {
                let Some(template) = &spec.template else { return };
                self.core.work.write(item, Write::create(pod_from(template, &*set)), out);
            }
            Ordering::Greater => {
                if let Some(pod) = first_to_go(&active) {
                    self.core.delete(item, &*pod, out);
                }
            }
            Ordering::Equal => self.core.work.succeed(item),
        }
    }

    /// `calculateStatus`.
    fn status(
        &mut self,
        item: &Key,
        set: &ReplicaSet,
        active: &[Arc<Pod>],
        leaving: usize,
        wanted: usize,
        out: &mut Vec<Effect>,
    ) -> ReplicaSetStatus {
        let spec = set.spec.clone().unwrap_or_default();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let labels = spec.template.and_then(|template| template.metadata).and_then(|metadata| metadata.labels);
        let template = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector { match_labels: labels, ..Default::default() };
        let mut status = set.status.clone().unwrap_or_default();
        status.replicas = count(active.len());
        let labeled = active.iter().filter(|pod| labels_match(&template, pod.metadata.labels.as_ref())).count();
        status.fully_labeled_replicas = some(count(labeled));
        status.ready_replicas = some(count(active.iter().filter(|pod| is_ready(pod)).count()));
        let seconds = spec.min_ready_seconds.unwrap_or(0);
        let available = active.iter().filter(|pod| self.core.is_available(pod, seconds, out)).count();
        status.available_replicas = some(count(available));
        status.terminating_replicas = Some(count(leaving));
        status.observed_generation = set.metadata.generation;
        let mut conditions = status.conditions.take().unwrap_or_default();
        match self.core.failure(item) {
            // What is said already stays, as in the real one.
            Some(_) if conditions.iter().any(|known| known.type_ == "ReplicaFailure") => {}
            Some(message) if active.len() != wanted => conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(if active.len() < wanted { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: None,
            }),
            _ => conditions.retain(|known| known.type_ != "ReplicaFailure"),
        }
        status.conditions = Some(conditions).filter(|conditions| !conditions.is_empty());
        status
    }
}

/// Go leaves a zero out.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// The pod whose deletion hurts least (`ActivePodsWithRanks`; times are compared as they are, not on a logarithmic scale).
fn first_to_go(pods: &[Arc<Pod>]) -> Option<Arc<Pod>> {
    let mut ready_on: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_ready(pod)) {
        *ready_on.entry(node_of(pod)).or_default() += 1;
    }
    pods.iter()
        .min_by_key(|pod| {
            let phase = match phase_of(pod) {
                "Pending" | "" => 0,
                "Unknown" => 1,
                _ => 2,
            };
            let cost = annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0);
            let company = ready_on.get(node_of(pod)).copied().unwrap_or(0);
            let since = ready_since(pod).map_or(i64::MAX, Timestamp::as_second);
            let restarts = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let restarts = restarts.map(|container| container.restart_count).max().unwrap_or(0);
            let age = pod.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
            let newest = (std::cmp::Reverse(since), std::cmp::Reverse(restarts), std::cmp::Reverse(age));
            (!node_of(pod).is_empty(), phase, is_ready(pod), cost, std::cmp::Reverse(company), newest)
        })
        .cloned()
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    ready
        .filter(|known| known.type_ == "Ready" && known.status == "True")
        .find_map(|known| known.last_transition_time.as_ref())
        .map(|time| time.0)
}

#[cfg(test)]
mod tests;
