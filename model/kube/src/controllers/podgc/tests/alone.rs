//! The pod garbage collector alone.

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::PodGc;
use crate::controllers::{Controller, is_finished, node_of};
use crate::machine::{Effect, Purpose, Timer};
use crate::object::{Key, Kind};
use crate::testing::alone::{self, Alone, Scene, delete, gone, node, put, told};
use crate::testing::pod;
use crate::write::Write;

/// Why a pod may be collected, by what the machine has been told.
fn is_abandoned(alone: &Alone, key: &Key, pod: &Pod) -> bool {
    match alone.told.get::<Node>("", node_of(pod)) {
        None => alone.fired.contains(&Timer { purpose: Purpose::Orphaned, item: key.clone() }),
        Some(node) => {
            let out = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key.ends_with("out-of-service"));
            let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|known| known.status == "True");
            out && !ready && pod.metadata.deletion_timestamp.is_some()
        }
    }
}

fn rule(alone: &Alone, effect: &Effect) {
    let Effect::Write { write, .. } = effect else { return };
    let key = write.key();
    let pod = told::<Pod>(alone, &key).unwrap();
    assert!(!node_of(&pod).is_empty() && is_abandoned(alone, &key, &pod), "collected: {pod:?}");
    if let Write::Delete { uid, .. } = write {
        assert!(is_finished(&pod) && *uid == pod.metadata.uid, "{write:?}");
    }
}

fn on(name: &str, node: &str) -> Value {
    let mut pod = pod(name, "c");
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn scene() -> Scene {
    let mut out = node("node-a", "False");
    out["spec"] = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]});
    let mut well = node("node-a", "True");
    well["spec"] = json!({"taints": null});
    Scene {
        make: || Controller::PodGc(PodGc::default()),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(well),
            put(out),
            put(node("node-b", "True")),
            gone(Kind::Node, "", "node-a"),
            gone(Kind::Node, "", "node-b"),
            put(on("app", "node-a")),
            put(on("other", "node-b")),
            put(pod("free", "c")),
            delete(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "other"),
        ],
        rule,
        rest: |alone| {
            for pod in alone.store.list::<Pod>().filter(|pod| !node_of(pod).is_empty()) {
                assert!(alone.store.get::<Node>("", node_of(pod)).is_some(), "its node is gone, and it is still there: {pod:?}");
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A pod goes only after its node has been gone for the whole quarantine, or is out of service and the pod was to go anyway.
    #[test]
    fn no_pod_of_a_living_node_is_collected(moves in alone::moves()) {
        scene().run(&moves);
    }
}
