//! Node lifecycle and taint eviction (§2.6; `pkg/controller/nodelifecycle`, `pkg/controller/tainteviction`): a node that has said
//! nothing for 50 s becomes Unknown and tainted; pods that do not tolerate the taint go when their time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::{is_finished, name};
use crate::events::{EventRecord, Said};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::{Propagation, Write};

const COMPONENT: &str = "node-controller";
const EVICTION: &str = "taint-eviction-controller";
/// `node-monitor-grace-period` (§7 row 23).
const GRACE: Duration = Duration::from_secs(50);
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const PRESSURES: [(&str, &str); 3] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

/// What a node's last sign of life was; only whether it changes counts, never the time itself.
type Sign = (Option<MicroTime>, Option<Time>);

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct NodeLifecycle {
    cache: Cache,
    work: Queue,
    said: Said,
    signs: BTreeMap<Key, Sign>,
    /// Nodes whose 50 s are over.
    silent: BTreeSet<Key>,
    /// Pods whose toleration runs, with the uid.
    leaving: BTreeMap<Key, String>,
    /// Pods whose toleration is over.
    due: BTreeSet<Key>,
}

fn timer(purpose: Purpose, item: &Key) -> Timer {
    Timer { purpose, item: item.clone() }
}

impl NodeLifecycle {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => {
                self.work.boot();
                for node in self.cache.keys(&Kind::Node) {
                    self.listen(&node, out);
                    self.work.mark(node);
                }
            }
            Input::Changed(change) => {
                self.cache.apply(change);
                match change.object() {
                    Object::Lease(lease) if lease.metadata.namespace.as_deref() == Some(LEASES) => {
                        self.listen(&Key::new(Kind::Node, "", name(&lease.metadata)), out);
                    }
                    Object::Node(_) => {
                        let key = change.object().key();
                        self.listen(&key, out);
                        let pods: Vec<Key> = self.cache.find(Index::PodsByNode, &key.name).cloned().collect();
                        pods.into_iter().for_each(|pod| self.work.mark(pod));
                        self.work.mark(key);
                    }
                    Object::Pod(_) => self.work.mark(change.object().key()),
                    _ => {}
                }
            }
            Input::Written { call, result } => {
                self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
            }
            Input::Fired(fired) => match fired.purpose {
                Purpose::NodeSilent => {
                    self.silent.insert(fired.item.clone());
                    self.work.mark(fired.item.clone());
                }
                Purpose::Evict => {
                    if self.leaving.contains_key(&fired.item) {
                        self.due.insert(fired.item.clone());
                        self.work.mark(fired.item.clone());
                    }
                }
                _ => self.work.retry(&fired.item),
            },
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            match item.kind {
                Kind::Node => self.sync_node(&item, out),
                Kind::Pod => self.sync_pod(&item, out),
                _ => {}
            }
        }
        Ok(())
    }

    /// A new sign of life starts the 50 s anew.
    fn listen(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(node) = self.cache.at::<Node>(item) else {
            if self.signs.remove(item).is_some() {
                out.push(Effect::Disarm(timer(Purpose::NodeSilent, item)));
            }
            self.silent.remove(item);
            return;
        };
        let lease = self.cache.get::<Lease>(LEASES, &item.name);
        let sign = (
            lease.and_then(|lease| lease.spec.as_ref()).and_then(|spec| spec.renew_time.clone()),
            condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone()),
        );
        if self.signs.get(item) != Some(&sign) {
            self.signs.insert(item.clone(), sign);
            if self.silent.remove(item) {
                self.work.mark(item.clone());
            }
            out.push(Effect::Arm(timer(Purpose::NodeSilent, item), GRACE));
        }
    }

    fn sync_node(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(node) = self.cache.at::<Node>(item).cloned() else {
            self.said.forget(item);
            return self.work.forget(item, out);
        };
        if self.silent.contains(item) {
            let mut updated = (*node).clone();
            if make_unknown(&mut updated) {
                self.work.write(item, Write::update_status(updated), out);
                return;
            }
        }
        if let Some(ready) = condition(&node, "Ready") {
            let status = if ready.status == "True" { "NodeReady" } else { "NodeNotReady" };
            let record = EventRecord::normal(&*node, status, format!("Node {} status is now: {status}", item.name), COMPONENT);
            if self.said.is_news(item, &record) && status == "NodeNotReady" {
                out.push(Effect::Record(record));
            }
        }
        let wanted = wanted_taints(&node);
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let mut next: Vec<Taint> = taints
            .iter()
            .filter(|taint| !is_ours(&taint.key) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
            .cloned()
            .collect();
        for (key, effect) in &wanted {
            if !next.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
                next.push(Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), ..Taint::default() });
            }
        }
        if next != taints {
            let mut updated = (*node).clone();
            updated.spec.get_or_insert_default().taints = (!next.is_empty()).then_some(next);
            self.work.write(item, Write::update(updated), out);
        }
    }

    fn sync_pod(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(pod) = self.cache.at::<Pod>(item).cloned() else {
            self.stop_leaving(item, out);
            return self.work.forget(item, out);
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let node = self.cache.get::<Node>("", super::node_of(&pod)).cloned();
        let taints: Vec<Taint> = node
            .iter()
            .flat_map(|node| node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()))
            .filter(|taint| taint.effect == "NoExecute")
            .cloned()
            .collect();
        if taints.is_empty() || pod.metadata.deletion_timestamp.is_some() || is_finished(&pod) {
            if self.leaving.contains_key(item) && pod.metadata.deletion_timestamp.is_none() {
                let message = format!("Cancelling deletion of Pod {}/{}", item.namespace, item.name);
                out.push(Effect::Record(EventRecord::normal(&*pod, "TaintManagerEviction", message, EVICTION)));
            }
            return self.stop_leaving(item, out);
        }
        if self.leaving.get(item).is_some_and(|known| *known != uid) {
            self.stop_leaving(item, out);
        }
        match patience(&pod, &taints) {
            Patience::Forever => self.stop_leaving(item, out),
            Patience::For(wait) if !wait.is_zero() && !self.due.contains(item) => {
                if !self.leaving.contains_key(item) {
                    self.leaving.insert(item.clone(), uid);
                    out.push(Effect::Arm(timer(Purpose::Evict, item), wait));
                }
            }
            Patience::For(_) => {
                let message = format!("Marking for deletion Pod {}/{}", item.namespace, item.name);
                let write = Write::Delete {
                    key: item.clone(),
                    uid: Some(uid),
                    resource_version: None,
                    grace_seconds: None,
                    propagation: Propagation::Background,
                };
                if self.work.write(item, write, out) {
                    out.push(Effect::Record(EventRecord::normal(&*pod, "TaintManagerEviction", message, EVICTION)));
                }
            }
        }
    }

    fn stop_leaving(&mut self, item: &Key, out: &mut Vec<Effect>) {
        self.due.remove(item);
        if self.leaving.remove(item).is_some() {
            out.push(Effect::Disarm(timer(Purpose::Evict, item)));
        }
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets every condition of the kubelet to Unknown; says whether that changed anything.
fn make_unknown(node: &mut Node) -> bool {
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = None;
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    ..NodeCondition::default()
                });
                changed = true;
            }
        }
    }
    changed
}

fn is_ours(key: &str) -> bool {
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, taint)| *taint == key)
}

fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some(_) => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        // A node that never said anything is not ready, but nobody is evicted from it.
        None => wanted.push((NOT_READY, "NoSchedule")),
    }
    for (kind, taint) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

enum Patience {
    Forever,
    For(Duration),
}

/// Whether a toleration covers a taint (`Toleration.ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let matches = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == is);
    matches(&toleration.effect, &taint.effect)
        && matches(&toleration.key, &taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
            Some(_) => false,
        }
}

/// How long a pod may stay: the shortest of the tolerations that are used.
fn patience(pod: &Pod, taints: &[Taint]) -> Patience {
    let tolerations: Vec<&Toleration> = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).collect();
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let used: Vec<&&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if used.is_empty() {
            return Patience::For(Duration::ZERO);
        }
        for seconds in used.iter().filter_map(|toleration| toleration.toleration_seconds) {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    shortest.map_or(Patience::Forever, |seconds| Patience::For(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

#[cfg(test)]
mod tests;
