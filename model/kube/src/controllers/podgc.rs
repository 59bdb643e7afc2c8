//! The pod garbage collector, as far as storage needs it (§2.6; `pkg/controller/podgc`): pods of a node that no longer exists, and
//! terminating pods of a node that is tainted out of service.
//! The real one looks every 20 s; this one when something changed.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};

use super::{is_finished, name, node_of};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::{Propagation, Write};

/// How long a node must be gone (§7 row 25).
const QUARANTINE: Duration = Duration::from_secs(40);

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct PodGc {
    cache: Cache,
    work: Queue,
    /// Pods whose node is gone and whose quarantine runs.
    waiting: BTreeSet<Key>,
    /// …is over.
    orphaned: BTreeSet<Key>,
}

impl PodGc {
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
                match change.object() {
                    Object::Node(node) => {
                        let pods: Vec<Key> = self.cache.find(Index::PodsByNode, name(&node.metadata)).cloned().collect();
                        pods.into_iter().for_each(|pod| self.work.mark(pod));
                    }
                    object => self.work.mark(object.key()),
                }
            }
            Input::Written { call, result } => {
                self.work.answer(&mut self.cache, *call, result, Backoff::CONTROLLER, out)?;
            }
            Input::Fired(fired) if fired.purpose == Purpose::Orphaned => {
                if self.waiting.remove(&fired.item) {
                    self.orphaned.insert(fired.item.clone());
                    self.work.mark(fired.item.clone());
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

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let timer = Timer { purpose: Purpose::Orphaned, item: item.clone() };
        let Some(pod) = self.cache.at::<Pod>(item).cloned() else {
            self.orphaned.remove(item);
            if self.waiting.remove(item) {
                out.push(Effect::Disarm(timer));
            }
            return self.work.forget(item, out);
        };
        let node_name = node_of(&pod);
        if node_name.is_empty() {
            return;
        }
        let condition = match self.cache.get::<Node>("", node_name) {
            None if self.orphaned.contains(item) => Some("PodGC: node no longer exists"),
            None => {
                if self.waiting.insert(item.clone()) {
                    out.push(Effect::Arm(timer, QUARANTINE));
                }
                return;
            }
            Some(node) => {
                self.orphaned.remove(item);
                if self.waiting.remove(item) {
                    out.push(Effect::Disarm(timer));
                }
                if pod.metadata.deletion_timestamp.is_none() || !is_out_of_service(node) {
                    return;
                }
                None
            }
        };
        if !is_finished(&pod) {
            let mut updated = (*pod).clone();
            let status = updated.status.get_or_insert_default();
            status.phase = Some("Failed".to_owned());
            if let Some(message) = condition {
                let conditions = status.conditions.get_or_insert_default();
                conditions.retain(|known| known.type_ != "DisruptionTarget");
                conditions.push(PodCondition {
                    type_: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("DeletionByPodGC".to_owned()),
                    message: Some(message.to_owned()),
                    ..PodCondition::default()
                });
            }
            self.work.write(item, Write::update_status(updated), out);
            return;
        }
        let write = Write::Delete {
            key: item.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: None,
            grace_seconds: Some(0),
            propagation: Propagation::Background,
        };
        self.work.write(item, write, out);
    }
}

fn is_out_of_service(node: &Node) -> bool {
    let tainted =
        node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == "node.kubernetes.io/out-of-service");
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    tainted && !ready
}

#[cfg(test)]
mod tests;
