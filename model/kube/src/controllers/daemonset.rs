//! The DaemonSet controller: a pod on every node that fits (`pkg/controller/daemon`).
//!
//! The pods are bound by the scheduler, each to the node that its affinity names. Failed pods are deleted at once; the real one waits
//! between failures on a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::workload::revisions::{self, REVISION_HASH, Revisions};
use super::workload::{Core, Member, is_leaving, is_ready, is_terminating_namespace, label, pod_from, scaled};
use super::{is_finished, name, node_of, phase_of};
use crate::events::EventRecord;
use crate::machine::{Done, Effect, Input, Reject};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::scheduler::filter;
use crate::write::{ApiError, Write};

const COMPONENT: &str = "daemonset-controller";

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct DaemonSets {
    core: Core,
}

/// The pods of each node, those that will be there among them; the oldest first.
type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

impl DaemonSets {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.core.boot::<DaemonSet>(),
            Input::Changed(change) => self.changed(change, out),
            Input::Written { call, result } => {
                let done = self.core.answer(*call, result, out)?;
                self.tell(&done, result, out);
            }
            Input::Fired(fired) => self.core.fired::<DaemonSet>(fired),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.core.work.take() {
            if item.kind == Kind::DaemonSet {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn changed(&mut self, change: &Change, out: &mut Vec<Effect>) {
        let before = self.core.apply(change);
        match change.object() {
            Object::DaemonSet(set) => self.core.work.mark(set.key()),
            // Heartbeats change nothing here.
            Object::Node(node) => {
                let is_same = before
                    .as_ref()
                    .and_then(Object::get::<Node>)
                    .is_some_and(|before| before.spec == node.spec && before.metadata.labels == node.metadata.labels);
                if !is_same || matches!(change, Change::Deleted(_)) {
                    self.core.mark_all::<DaemonSet>();
                }
            }
            _ => self.core.owned::<DaemonSet>(before.as_ref(), change, out),
        }
    }

    fn tell(&mut self, done: &Done, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) {
        let Some(set) = self.core.cache.at::<DaemonSet>(&done.item).cloned() else { return };
        let record = match result {
            Ok(pod) if done.creates && pod.kind() == Kind::Pod => {
                EventRecord::normal(&*set, "SuccessfulCreate", format!("Created pod: {}", pod.key().name), COMPONENT)
            }
            Ok(_) if done.deletes && done.target.kind == Kind::Pod => {
                EventRecord::normal(&*set, "SuccessfulDelete", format!("Deleted pod: {}", done.target.name), COMPONENT)
            }
            Err(error) if done.creates && done.target.kind == Kind::DaemonSet && !is_terminating_namespace(error) => {
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
        let Some(set) = self.core.cache.at::<DaemonSet>(item).cloned() else { return self.core.forget(item, out) };
        let Some(spec) = &set.spec else { return };
        if is_leaving(&set.metadata) {
            return;
        }
        let Some(own) = self.core.claim::<_, Pod>(item, &*set, |_| Member::Yes, out) else { return };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let Some(revisions) = revisions::of(&mut self.core, item, &*set, &spec.template, collisions, REVISION_HASH, out) else { return };
        let hash = label(&revisions.update.metadata, REVISION_HASH).unwrap_or("").to_owned();
        let by_node = by_node(own);
        let nodes: Vec<Arc<Node>> = self.core.cache.list::<Node>().cloned().collect();
        let status = self.status(&set, &by_node, &nodes, &hash, &revisions, out);
        if self.core.failure(item).is_some() && self.report(item, &set, &status, out) {
            return;
        }
        if self.manage(item, &set, &by_node, &nodes, &hash, out) || self.roll(item, &set, &by_node, &nodes, &hash, out) {
            return;
        }
        if self.report(item, &set, &status, out) {
            return;
        }
        let is_live = |revision: &str| {
            name(&revisions.update.metadata) == revision
                || by_node.values().flatten().filter_map(|pod| label(&pod.metadata, REVISION_HASH)).any(|hash| revision.ends_with(hash))
        };
        match revisions::surplus(&revisions, spec.revision_history_limit.unwrap_or(10), is_live) {
            Some(old) => self.core.delete(item, &**old, out),
            None => self.core.work.succeed(item),
        }
    }

    fn report(&mut self, item: &Key, set: &DaemonSet, status: &DaemonSetStatus, out: &mut Vec<Effect>) -> bool {
        if set.status.as_ref() == Some(status) {
            return false;
        }
        let mut updated = set.clone();
        updated.status = Some(status.clone());
        self.core.work.write(item, Write::update_status(updated), out);
        true
    }

    /// One pod too few or too many on some node (`podsShouldBeOnNode`).
    fn manage(&mut self, item: &Key, set: &DaemonSet, by_node: &ByNode, nodes: &[Arc<Node>], hash: &str, out: &mut Vec<Effect>) -> bool {
        let surges = limits(set, nodes.len()).1 > 0;
        for node in nodes {
            let (should_run, may_stay) = fits(set, node);
            let pods = by_node.get(name(&node.metadata)).map(Vec::as_slice).unwrap_or_default();
            let live: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !is_leaving(&pod.metadata)).collect();
            if should_run && pods.is_empty() {
                self.make(item, set, name(&node.metadata), hash, out);
                return true;
            }
            let running: Vec<&Arc<Pod>> = live.iter().filter(|pod| !is_finished(pod)).copied().collect();
            let gone = if !may_stay {
                live.first().copied()
            } else if let Some(over) = live.iter().find(|pod| is_finished(pod)) {
                let (namespace, pod, node) = (&item.namespace, name(&over.metadata), name(&node.metadata));
                let record = if phase_of(over) == "Failed" {
                    let message = format!("Found failed daemon pod {namespace}/{pod} on node {node}, will try to kill it");
                    EventRecord::warning(set, "FailedDaemonPod", message, COMPONENT)
                } else {
                    let message = format!("Found succeeded daemon pod {namespace}/{pod} on node {node}, will try to delete it");
                    EventRecord::normal(set, "SucceededDaemonPod", message, COMPONENT)
                };
                self.core.tell(item, record, out);
                Some(*over)
            } else if !surges {
                running.get(1).copied()
            } else if running.is_empty() && should_run {
                self.make(item, set, name(&node.metadata), hash, out);
                return true;
            } else {
                self.surplus(set, &running, hash, out)
            };
            if let Some(gone) = gone.cloned() {
                self.core.delete(item, &*gone, out);
                return true;
            }
        }
        // Pods that wait for a node which is no more.
        let lost = by_node.iter().filter(|(node, _)| nodes.iter().all(|known| name(&known.metadata) != node.as_str()));
        let lost = lost.flat_map(|(_, pods)| pods).find(|pod| node_of(pod).is_empty() && !is_leaving(&pod.metadata)).cloned();
        if let Some(lost) = lost {
            self.core.delete(item, &*lost, out);
            return true;
        }
        false
    }

    /// Of the two pods that a surge lets be on a node: which of them is no longer wanted.
    fn surplus<'a>(&mut self, set: &DaemonSet, running: &[&'a Arc<Pod>], hash: &str, out: &mut Vec<Effect>) -> Option<&'a Arc<Pod>> {
        let (new, old): (Vec<_>, Vec<_>) = running.iter().copied().partition(|pod| label(&pod.metadata, REVISION_HASH) == Some(hash));
        if let Some(more) = new.get(1).or_else(|| old.get(1)) {
            return Some(more);
        }
        let (new, old) = (new.first()?, old.first()?);
        (!is_ready(old) || self.core.is_available(new, min_ready(set), out)).then_some(*old)
    }

    fn make(&mut self, item: &Key, set: &DaemonSet, node: &str, hash: &str, out: &mut Vec<Effect>) {
        let mut pod = pod_of(set, node);
        pod.metadata.labels.get_or_insert_default().insert(REVISION_HASH.to_owned(), hash.to_owned());
        self.core.work.write(item, Write::create(pod), out);
    }

    /// The next pod of an old template goes, or a new one comes beside it (`rollingUpdate`).
    fn roll(&mut self, item: &Key, set: &DaemonSet, by_node: &ByNode, nodes: &[Arc<Node>], hash: &str, out: &mut Vec<Effect>) -> bool {
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return false;
        }
        let wanted = nodes.iter().filter(|node| fits(set, node).0).count();
        let (most_down, most_extra) = limits(set, wanted);
        let (mut down, mut extra) = (0, 0);
        let mut ill: Vec<(&str, Arc<Pod>)> = Vec::new();
        let mut well: Vec<(&str, Arc<Pod>)> = Vec::new();
        for (node, pods) in by_node {
            let live: Vec<_> = pods.iter().filter(|pod| !is_leaving(&pod.metadata)).collect();
            let (new, old): (Vec<_>, Vec<_>) = live.into_iter().partition(|pod| label(&pod.metadata, REVISION_HASH) == Some(hash));
            match (new.as_slice(), old.as_slice()) {
                ([new], []) => down += i32::from(!self.core.is_available(new, min_ready(set), out)),
                ([], [old]) if self.core.is_available(old, min_ready(set), out) => well.push((node, (*old).clone())),
                ([], [old]) => {
                    down += 1;
                    ill.push((node, (*old).clone()));
                }
                _ => {
                    down += 1;
                    extra += 1;
                }
            }
        }
        if most_extra > 0 {
            let next = ill.first().or_else(|| well.first().filter(|_| extra < most_extra)).map(|(node, _)| (*node).to_owned());
            let next = next.filter(|next| nodes.iter().any(|node| name(&node.metadata) == next && fits(set, node).0));
            if let Some(node) = &next {
                self.make(item, set, node, hash, out);
            }
            return next.is_some();
        }
        let next = ill.first().or_else(|| well.first().filter(|_| down < most_down)).map(|(_, pod)| pod.clone());
        if let Some(pod) = &next {
            self.core.delete(item, &**pod, out);
        }
        next.is_some()
    }

    fn status(
        &mut self,
        set: &DaemonSet,
        by_node: &ByNode,
        nodes: &[Arc<Node>],
        hash: &str,
        revisions: &Revisions,
        out: &mut Vec<Effect>,
    ) -> DaemonSetStatus {
        let mut status = DaemonSetStatus { observed_generation: set.metadata.generation, ..DaemonSetStatus::default() };
        let (mut updated, mut available) = (0, 0);
        for node in nodes {
            let first = by_node.get(name(&node.metadata)).and_then(|pods| pods.first());
            match (fits(set, node).0, first) {
                (true, None) => status.desired_number_scheduled += 1,
                (true, Some(pod)) => {
                    status.desired_number_scheduled += 1;
                    status.current_number_scheduled += 1;
                    status.number_ready += i32::from(is_ready(pod));
                    available += i32::from(self.core.is_available(pod, min_ready(set), out));
                    updated += i32::from(label(&pod.metadata, REVISION_HASH) == Some(hash));
                }
                (false, Some(_)) => status.number_misscheduled += 1,
                (false, None) => {}
            }
        }
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        status.collision_count = Some(revisions.collisions).filter(|count| *count != 0);
        status
    }
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// How many nodes may be without, and how many may have two.
fn limits(set: &DaemonSet, wanted: usize) -> (i32, i32) {
    let rolling = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()).and_then(|strategy| strategy.rolling_update.clone());
    let rolling = rolling.unwrap_or_default();
    let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    let surge = scaled(rolling.max_surge.as_ref(), wanted, true);
    let down = scaled(Some(&rolling.max_unavailable.unwrap_or(IntOrString::Int(1))), wanted, true);
    // Both may be rounded to nothing; then one node may be without.
    (if down == 0 && surge == 0 { 1 } else { down }, surge)
}

/// Whether a node should have a pod, and whether one that is there may stay (`NodeShouldRunDaemonPod`).
fn fits(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let pod = pod_of(set, name(&node.metadata));
    let named = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).and_then(|pod| pod.node_name.as_deref()).unwrap_or("");
    let mut plain = pod.clone();
    // The template's own affinity counts, not the one that names the node.
    if let (Some(spec), Some(template)) = (plain.spec.as_mut(), set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref())) {
        spec.affinity.clone_from(&template.affinity);
    }
    if (!named.is_empty() && named != name(&node.metadata)) || filter::node_affinity(&plain, node).is_err() {
        return (false, false);
    }
    if filter::taints(&plain, node).is_ok() {
        return (true, true);
    }
    let mut evicting = node.clone();
    if let Some(taints) = evicting.spec.as_mut().and_then(|spec| spec.taints.as_mut()) {
        taints.retain(|taint| taint.effect == "NoExecute");
    }
    (false, filter::taints(&plain, &evicting).is_ok())
}

/// The pod of a node: with what daemons tolerate, and an affinity to the node.
fn pod_of(set: &DaemonSet, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pod_from(&template, set);
    let spec = pod.spec.get_or_insert_default();
    let mut tolerated = vec![
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        tolerated.push(("network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in tolerated {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    let named = NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![NodeSelectorTerm { match_fields: Some(vec![named]), match_expressions: None }] });
    pod
}

/// The node a pod is on or meant for.
fn target(pod: &Pod) -> String {
    let on = node_of(pod);
    if !on.is_empty() {
        return on.to_owned();
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()).and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required.iter().flat_map(|required| &required.node_selector_terms).flat_map(|term| term.match_fields.iter().flatten());
    fields.filter(|field| field.key == "metadata.name").find_map(|field| field.values.as_ref()?.first().cloned()).unwrap_or_default()
}

fn by_node(pods: Vec<Arc<Pod>>) -> ByNode {
    let mut by_node = ByNode::new();
    // A pod that is over and goes is as good as gone.
    for pod in pods.into_iter().filter(|pod| !(is_finished(pod) && is_leaving(&pod.metadata))) {
        by_node.entry(target(&pod)).or_default().push(pod);
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (node_of(pod).is_empty(), pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()));
    }
    by_node
}

#[cfg(test)]
mod tests;
