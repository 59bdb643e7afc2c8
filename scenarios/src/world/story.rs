//! What happened, in words: for a violation's trace and for pictures.

use model_kube::object::{Change, Object};
use serde::{Deserialize, Serialize};

use super::World;
use crate::invariants::Seen;

/// Something that happened, on the lane of whom it happened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Microseconds of virtual time.
    pub at: u64,
    /// `fault`, `ec2`, `node n1`, `Pod default/app` …
    pub lane: String,
    pub what: String,
}

impl World {
    /// Adds to the story, when somebody wants it.
    pub(super) fn trace(&mut self, lane: &str, what: impl FnOnce() -> String) {
        let at = u64::try_from(self.clock.now().as_micros()).unwrap_or(u64::MAX);
        if let Some(story) = &mut self.story {
            story.push(Told { at, lane: lane.to_owned(), what: what() });
        }
    }

    /// Adds what became of an object that people follow.
    pub(super) fn trace_change(&mut self, change: &Change) {
        if self.story.is_none() {
            return;
        }
        let object = change.object();
        let verb = match change {
            Change::Added(_) => "created",
            Change::Modified(_) => "changed",
            Change::Deleted(_) => "gone",
        };
        let phase = |phase: Option<&String>| phase.map(|phase| format!(", {phase}")).unwrap_or_default();
        let state = match object {
            Object::Pod(pod) => {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).map(|node| format!(" on {node}")).unwrap_or_default();
                format!("{node}{}", phase(pod.status.as_ref().and_then(|status| status.phase.as_ref())))
            }
            Object::PersistentVolumeClaim(claim) => phase(claim.status.as_ref().and_then(|status| status.phase.as_ref())),
            Object::PersistentVolume(volume) => phase(volume.status.as_ref().and_then(|status| status.phase.as_ref())),
            Object::VolumeAttachment(attachment) => {
                let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
                format!(" to {}{}", attachment.spec.node_name, if attached { ", attached" } else { "" })
            }
            Object::Node(node) => {
                let list = |names: Vec<&str>| names.join(" ");
                let status = node.status.as_ref();
                let attached = status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.as_str()).collect();
                let used = status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).map(String::as_str).collect();
                format!(", attached [{}], in use [{}]", list(attached), list(used))
            }
            _ => return,
        };
        let deleting = match object {
            Object::Pod(pod) => pod.metadata.deletion_timestamp.is_some(),
            Object::PersistentVolumeClaim(claim) => claim.metadata.deletion_timestamp.is_some(),
            Object::PersistentVolume(volume) => volume.metadata.deletion_timestamp.is_some(),
            Object::VolumeAttachment(attachment) => attachment.metadata.deletion_timestamp.is_some(),
            _ => false,
        };
        let key = object.key();
        let name = if key.namespace.is_empty() { key.name.to_string() } else { format!("{}/{}", key.namespace, key.name) };
        let going = if deleting { ", deleting" } else { "" };
        self.trace(&format!("{} {name}", key.kind.kind_name()), || format!("{verb}{state}{going}"));
    }

    /// Tells the invariants.
    pub(super) fn see(&mut self, seen: &Seen<'_>) {
        self.watch.see(self.clock.now(), seen);
    }

    /// Tells the invariants something of a node.
    pub(super) fn see_node<'a>(&'a mut self, number: usize, seen: impl FnOnce(&'a str) -> Seen<'a>) {
        let now = self.clock.now();
        self.watch.see(now, &seen(&self.nodes[number].info.name));
    }
}
