//! What happened, in words: for a violation's trace and for pictures.

use std::collections::BTreeMap;

use model_kube::object::{Change, Key, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::World;
use crate::invariants::Seen;

/// Something that happened, on the lane of whom it happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Microseconds of virtual time.
    pub at: u64,
    /// `fault`, `ec2`, `node n1`, `Pod default/app` …
    pub lane: String,
    pub what: String,
    /// What the lane's thing is from now on: `Running`, `attaching`, `down`; empty: it is no more. None: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// A call or a work that failed, or a warning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// What became of the lane's object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<Patch>>,
}

/// An object, or what changed of it since it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Patch {
    Whole(Value),
    /// RFC 7396.
    Merge(Value),
}

impl Told {
    pub(super) fn new(lane: impl Into<String>, what: impl Into<String>) -> Self {
        Self { lane: lane.into(), what: what.into(), ..Self::default() }
    }

    pub(super) fn state(self, state: impl Into<String>) -> Self {
        Self { state: Some(state.into()), ..self }
    }

    pub(super) fn failed(self, failed: bool) -> Self {
        Self { failed, ..self }
    }
}

/// The story of a run, with what is needed to tell on.
#[derive(Default)]
pub(super) struct Story {
    pub(super) told: Vec<Told>,
    /// The objects as last told.
    objects: BTreeMap<Key, Value>,
}

impl World {
    /// Adds to the story, when somebody wants it.
    pub(super) fn trace(&mut self, tell: impl FnOnce(&Self) -> Told) {
        if self.story.is_none() {
            return;
        }
        let at = u64::try_from(self.clock.now().as_micros()).unwrap_or(u64::MAX);
        let told = Told { at, ..tell(self) };
        if let Some(story) = &mut self.story {
            story.told.push(told);
        }
    }

    /// Adds what became of an object that people follow.
    pub(super) fn trace_change(&mut self, change: &Change) {
        let Some(story) = &mut self.story else { return };
        let object = change.object();
        let Some((state, words)) = state_of(object) else { return };
        let key = object.key();
        let json = object.to_json().unwrap_or_default();
        let (verb, patch) = match change {
            Change::Added(_) => ("created", Some(Patch::Whole(json.clone()))),
            Change::Modified(_) => ("changed", patch(story.objects.get(&key), &json)),
            Change::Deleted(_) => ("gone", patch(story.objects.get(&key), &json)),
        };
        let lane = lane_of(&key);
        let deleting = json.pointer("/metadata/deletionTimestamp").is_some();
        let (going, state) = match change {
            Change::Deleted(_) => {
                story.objects.remove(&key);
                ("", String::new())
            }
            _ => {
                story.objects.insert(key, json);
                if deleting { (", deleting", "deleting".to_owned()) } else { ("", state) }
            }
        };
        self.trace(|_| Told { object: patch.map(Box::new), ..Told::new(lane, format!("{verb}{words}{going}")).state(state) });
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

/// `Pod default/app`.
pub(super) fn lane_of(key: &Key) -> String {
    let name = if key.namespace.is_empty() { key.name.to_string() } else { format!("{}/{}", key.namespace, key.name) };
    format!("{} {name}", key.kind.kind_name())
}

/// What an object is in one word, and in the words that follow `created`; none: nobody follows its kind.
fn state_of(object: &Object) -> Option<(String, String)> {
    let phase = |phase: Option<&String>| (phase.cloned().unwrap_or_default(), phase.map(|phase| format!(", {phase}")).unwrap_or_default());
    Some(match object {
        Object::Pod(pod) => {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).map(|node| format!(" on {node}")).unwrap_or_default();
            let (state, words) = phase(pod.status.as_ref().and_then(|status| status.phase.as_ref()));
            (state, format!("{node}{words}"))
        }
        Object::PersistentVolumeClaim(claim) => phase(claim.status.as_ref().and_then(|status| status.phase.as_ref())),
        Object::PersistentVolume(volume) => phase(volume.status.as_ref().and_then(|status| status.phase.as_ref())),
        Object::VolumeAttachment(attachment) => {
            let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
            let words = format!(" to {}{}", attachment.spec.node_name, if attached { ", attached" } else { "" });
            (if attached { "attached" } else { "attaching" }.to_owned(), words)
        }
        Object::Node(node) => {
            let list = |names: Vec<&str>| names.join(" ");
            let status = node.status.as_ref();
            let attached = status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.as_str()).collect();
            let used = status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).map(String::as_str).collect();
            let condition = status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|condition| condition.type_ == "Ready");
            let ready = match condition.map(|condition| condition.status.as_str()) {
                Some("True") => "Ready",
                Some("False") => "not ready",
                _ => "Unknown",
            };
            (ready.to_owned(), format!(", {ready}, attached [{}], in use [{}]", list(attached), list(used)))
        }
        _ => return None,
    })
}

/// What leads from an object to what it is now; none: nothing changed.
fn patch(before: Option<&Value>, now: &Value) -> Option<Patch> {
    match before {
        None => Some(Patch::Whole(now.clone())),
        Some(before) => difference(before, now).map(Patch::Merge),
    }
}

fn difference(before: &Value, now: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (before, now) else { return (before != now).then(|| now.clone()) };
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let changed = new.iter().filter_map(|(name, value)| match old.get(name) {
        Some(old) => Some((name.clone(), difference(old, value)?)),
        None => Some((name.clone(), value.clone())),
    });
    let patch: serde_json::Map<_, _> = gone.chain(changed).collect();
    (!patch.is_empty()).then(|| patch.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_says_only_what_changed() {
        let before = json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "status": {"phase": "Pending", "list": [1, 2]}});
        let now = json!({"metadata": {"name": "a"}, "status": {"phase": "Running", "list": [1, 3], "ip": "10.0.0.1"}});
        let wanted = json!({"metadata": {"labels": null}, "status": {"phase": "Running", "list": [1, 3], "ip": "10.0.0.1"}});
        assert_eq!(difference(&before, &now), Some(wanted));
        assert_eq!(difference(&now, &now), None);
    }
}
