//! What a run made and changed.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::language::Target;

/// What creates, its id in the answer, and what takes it away again.
const UNDO: [(&str, &str, &str, &str); 6] = [
    ("ec2", "create-volume", "VolumeId", "delete-volume"),
    ("ec2", "create-snapshot", "SnapshotId", "delete-snapshot"),
    ("ec2", "create-security-group", "GroupId", "delete-security-group"),
    ("efs", "create-file-system", "FileSystemId", "delete-file-system"),
    ("efs", "create-mount-target", "MountTargetId", "delete-mount-target"),
    ("efs", "create-access-point", "AccessPointId", "delete-access-point"),
];

/// What a run has made or changed and not yet undone, oldest first.
#[derive(Debug, Default)]
pub(in crate::runner) struct Ledger {
    objects: Vec<Target>,
    /// Of objects that were there before the run: what undoes its changes, to be applied.
    changes: Vec<Value>,
    calls: Vec<Call>,
    /// Claims that the run made, as `namespace/name`. Those that are deleted stay: what was made for them may be left.
    claims: BTreeSet<String>,
    /// `namespace/template-set-` of the claims that StatefulSets of the run make; a number follows.
    sets: BTreeSet<String>,
}

/// A call to AWS that takes something away.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub service: &'static str,
    pub command: &'static str,
    pub parameters: Value,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "aws {} {} {}", self.service, self.command, self.parameters)
    }
}

impl Ledger {
    /// An object is about to be applied; `before`: as it is now, if it is there. What is about to be made is noted as made, since a run
    /// may end before it hears that it was.
    pub(in crate::runner) fn applying(&mut self, object: &Value, before: Option<&Value>) {
        let target = crate::runner::target_of(object);
        self.learn_claims(&target, object);
        if self.objects.contains(&target) {
            return;
        }
        match before {
            None => self.objects.push(target),
            Some(before) => {
                let mut back = back(object, before);
                for part in ["apiVersion", "kind"] {
                    back[part] = object[part].clone();
                }
                back["metadata"]["name"] = json!(target.name);
                if let Some(namespace) = target.namespace {
                    back["metadata"]["namespace"] = json!(namespace);
                }
                self.changes.push(back);
            }
        }
    }

    fn learn_claims(&mut self, target: &Target, object: &Value) {
        let namespace = target.namespace.as_deref().unwrap_or("default");
        match target.kind.as_str() {
            "PersistentVolumeClaim" => drop(self.claims.insert(format!("{namespace}/{}", target.name))),
            "StatefulSet" => {
                let templates = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array).into_iter().flatten();
                let names = templates.filter_map(|template| template.pointer("/metadata/name")?.as_str());
                self.sets.extend(names.map(|name| format!("{namespace}/{name}-{}-", target.name)));
            }
            "Pod" => {
                let volumes = object.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
                let ephemeral =
                    volumes.filter(|volume| volume.get("ephemeral").is_some()).filter_map(|volume| volume.get("name")?.as_str());
                self.claims.extend(ephemeral.map(|name| format!("{namespace}/{}-{name}", target.name)));
            }
            _ => {}
        }
    }

    /// Whether a claim is one that this run made, itself or through a workload of it.
    pub(super) fn has_claim(&self, namespace: &str, name: &str) -> bool {
        let path = format!("{namespace}/{name}");
        let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        self.claims.contains(&path) || self.sets.iter().any(|set| path.strip_prefix(set).is_some_and(number))
    }

    /// An object that was deleted is gone.
    pub(in crate::runner) fn deleted(&mut self, target: &Target) {
        self.objects.retain(|object| object.kind != target.kind || object.name != target.name || object.namespace != target.namespace);
    }

    pub(in crate::runner) fn called(&mut self, service: &str, command: &str, parameters: &Value, answer: &Value) {
        for (undo_service, create, id, delete) in UNDO {
            if undo_service != service {
                continue;
            }
            if create == command
                && let Some(value) = answer.get(id)
            {
                self.calls.push(Call { service: undo_service, command: delete, parameters: json!({id: value}) });
            }
            if delete == command
                && let Some(value) = parameters.get(id)
            {
                let done = json!({id: value});
                self.calls.retain(|call| call.command != delete || call.parameters != done);
            }
        }
    }

    pub(super) fn objects(&self) -> impl DoubleEndedIterator<Item = &Target> {
        self.objects.iter()
    }

    pub(super) fn changes(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.changes.iter()
    }

    pub(super) fn calls(&self) -> impl DoubleEndedIterator<Item = &Call> {
        self.calls.iter()
    }
}

/// The merge patch that undoes a merge patch: what it gives is what was there, or nothing.
fn back(patch: &Value, before: &Value) -> Value {
    match (patch, before) {
        (Value::Object(patch), Value::Object(before)) => {
            let one = |(name, value): (&String, &Value)| (name.clone(), back(value, before.get(name).unwrap_or(&Value::Null)));
            Value::Object(patch.iter().map(one).collect::<Map<_, _>>())
        }
        _ => before.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_changed_is_changed_back_and_what_it_made_is_not() {
        let mut ledger = Ledger::default();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"a": "2", "b": "1"}},
            "spec": {"taints": [{"key": "out"}]}});
        let before = json!({"metadata": {"name": "n1", "uid": "u", "labels": {"a": "1", "c": "3"}}, "spec": {"providerID": "aws"}});
        ledger.applying(&node, Some(&before));
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        ledger.applying(&pod, None);
        // Applied again, it is there: and still the run's own.
        ledger.applying(&pod, Some(&pod));
        let back = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"a": "1", "b": null}},
            "spec": {"taints": null}});
        assert_eq!(ledger.changes, [back]);
        assert_eq!(ledger.objects().map(|target| target.name.as_str()).collect::<Vec<_>>(), ["p"]);
    }

    #[test]
    fn claims_of_workloads_are_the_runs() {
        let mut ledger = Ledger::default();
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"},
            "spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
        ledger.applying(&set, None);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"volumes": [{"name": "scratch", "ephemeral": {}}, {"name": "data", "persistentVolumeClaim": {}}]}});
        ledger.applying(&pod, None);
        ledger.deleted(&crate::runner::target_of(&pod));
        for (namespace, name, ours) in [
            ("shop", "data-db-0", true),
            ("shop", "data-db-12", true),
            ("shop", "data-db-x", false),
            ("shop", "data-db-", false),
            ("default", "data-db-0", false),
            ("default", "p-scratch", true),
            ("default", "p-data", false),
        ] {
            assert_eq!(ledger.has_claim(namespace, name), ours, "{namespace}/{name}");
        }
    }
}
