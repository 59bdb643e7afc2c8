//! What becomes of pods while their workload looks on: scheduled, running, ready, over, gone.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{Alone, Deed};
use crate::controllers::{is_finished, node_of, phase_of};
use crate::object::{Key, Typed};
use crate::write::{Patch, Propagation, Subresource, Write};

fn pods(alone: &Alone) -> Vec<Pod> {
    alone.store.list::<Pod>().map(|pod| (**pod).clone()).collect()
}

fn status(alone: &mut Alone, key: Key, status: &serde_json::Value) {
    let _ = alone.write(&Write::Patch { key, patch: Patch::Merge(json!({"status": status})), subresource: Subresource::Status });
}

/// Where a pod without node goes: the node its affinity names, else `node-a`.
fn node_for(pod: &Pod) -> String {
    let json = json!(pod.spec);
    let named =
        json.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0");
    named.and_then(serde_json::Value::as_str).unwrap_or("node-a").to_owned()
}

/// Every pod gets a node.
pub fn schedule() -> Deed {
    Box::new(|alone| {
        for pod in pods(alone).into_iter().filter(|pod| node_of(pod).is_empty()) {
            let _ = alone.write(&Write::Bind { pod: pod.key(), uid: None, node: node_for(&pod) });
        }
    })
}

/// Every pod that has a node and does not go becomes ready, or not ready.
pub fn run(ready: bool) -> Deed {
    let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
    Box::new(move |alone| {
        for pod in pods(alone) {
            let is_up = pod.metadata.deletion_timestamp.is_none() && !node_of(&pod).is_empty() && !is_finished(&pod);
            let known = json!(pod.status.as_ref().and_then(|status| status.conditions.clone()));
            let is_known = phase_of(&pod) == "Running" && known[0]["status"] == conditions[0]["status"];
            if is_up && !is_known {
                status(alone, pod.key(), &json!({"phase": "Running", "conditions": conditions}));
            }
        }
    })
}

/// The pods of a name's beginning are over, in that phase.
pub fn end(prefix: &'static str, phase: &'static str) -> Deed {
    Box::new(move |alone| {
        for pod in pods(alone).into_iter().filter(|pod| pod.key().name.starts_with(prefix) && !is_finished(pod)) {
            status(alone, pod.key(), &json!({"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]}));
        }
    })
}

/// Someone deletes the n-th pod.
pub fn delete(n: usize) -> Deed {
    Box::new(move |alone| {
        if let Some(pod) = pods(alone).get(n) {
            let _ = alone.write(&Write::delete(pod.key()));
        }
    })
}

/// Pods that are to go are gone.
pub fn reap() -> Deed {
    Box::new(|alone| {
        for pod in pods(alone).into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            let write = Write::Delete {
                key: pod.key(),
                uid: pod.metadata.uid.clone(),
                resource_version: None,
                grace_seconds: Some(0),
                propagation: Propagation::Background,
            };
            let _ = alone.write(&write);
        }
    })
}
