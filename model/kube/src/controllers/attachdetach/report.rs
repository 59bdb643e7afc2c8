//! What the controller tells: the nodes' `volumesAttached`, and the events of the pods.

use serde_json::json;

use super::*;
use crate::events::EventRecord;
use crate::write::{Patch, Subresource};

impl AttachDetach {
    pub(super) fn sync_node(&mut self, item: &Key, out: &mut Vec<Effect>) {
        if let Some(write) = self.report(item) {
            self.work.write(item, write, out);
        }
    }

    /// The write that makes a node's `volumesAttached` true; none when it is.
    pub(super) fn report(&self, key: &Key) -> Option<Write> {
        let node = self.cache.at::<Node>(key)?;
        // What was attached while the node was managed is taken off its list all the same (`UpdateNodeStatuses`): a node that was made
        // again may have lost the annotation.
        if !desired::is_managed(node) && !self.pairs.of_node(&key.name).any(|(_, pair)| self.have.contains_key(pair)) {
            return None;
        }
        let is_reported = |pair: &&Pair| self.have.get(*pair).is_some_and(|have| have.confirmed && have.reported);
        let should: BTreeSet<&str> =
            self.pairs.of_node(&key.name).map(|(_, pair)| pair).filter(is_reported).map(|pair| pair.volume.as_str()).collect();
        let is: BTreeSet<String> = attached_of(node).collect();
        if should.len() == is.len() && should.iter().all(|volume| is.contains(*volume)) {
            return None;
        }
        let list: Vec<_> = should.iter().map(|volume| json!({"name": volume, "devicePath": ""})).collect();
        Some(Write::Patch {
            key: key.clone(),
            patch: Patch::Merge(json!({"status": {"volumesAttached": list}})),
            subresource: Subresource::Status,
        })
    }

    /// Whether the node is Ready, and whether it is tainted out of service.
    pub(super) fn health(&self, node: &str) -> (bool, bool) {
        let Some(node) = self.cache.get::<Node>("", node) else { return (false, false) };
        let ready = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let out_of_service = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE);
        (ready, out_of_service)
    }

    pub(super) fn tell_pods(&self, pair: &Pair, is_warning: bool, message: impl Fn(&str) -> String, out: &mut Vec<Effect>) {
        let Some(wanted) = self.wanted.get(pair) else { return };
        for pod in wanted.pods.iter().filter_map(|pod| self.cache.at::<Pod>(pod)) {
            let message = message(&wanted.volume);
            out.push(Effect::Record(if is_warning {
                EventRecord::warning(&**pod, "FailedAttachVolume", message, COMPONENT)
            } else {
                EventRecord::normal(&**pod, "SuccessfulAttachVolume", message, COMPONENT)
            }));
        }
    }

    pub(super) fn tell_multi_attach(&mut self, pair: &Pair, elsewhere: &[String], out: &mut Vec<Effect>) {
        let Some(wanted) = self.wanted.get_mut(pair) else { return };
        if std::mem::replace(&mut wanted.multi_attach_told, true) {
            return;
        }
        let (volume, pods) = (wanted.volume.clone(), wanted.pods.clone());
        let others: Vec<Key> = elsewhere
            .iter()
            .filter_map(|node| self.wanted.get(&Pair { volume: pair.volume.clone(), node: node.clone() }))
            .flat_map(|wanted| wanted.pods.iter().cloned())
            .collect();
        for key in &pods {
            let Some(pod) = self.cache.at::<Pod>(key) else { continue };
            let why = if others.is_empty() {
                "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
            } else {
                let local: Vec<&str> = others.iter().filter(|other| other.namespace == key.namespace).map(|other| &*other.name).collect();
                let foreign = others.len() - local.len();
                match (local.is_empty(), foreign) {
                    (true, foreign) => format!("Volume is already used by {foreign} pod(s) in different namespaces"),
                    (false, 0) => format!("Volume is already used by pod(s) {}", local.join(", ")),
                    (false, foreign) => {
                        format!("Volume is already used by pod(s) {} and {foreign} pod(s) in different namespaces", local.join(", "))
                    }
                }
            };
            let message = format!("Multi-Attach error for volume \"{volume}\" {why}");
            out.push(Effect::Record(EventRecord::warning(&**pod, "FailedAttachVolume", message, COMPONENT)));
        }
    }
}

/// The volumes a node reports as attached to it.
pub(super) fn attached_of(node: &Node) -> impl Iterator<Item = String> {
    let attached = node.status.as_ref().and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
    attached.into_iter().map(|volume| volume.name)
}
