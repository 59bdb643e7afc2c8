//! Node lifecycle and eviction alone.

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{NOT_READY, NodeLifecycle, UNREACHABLE};
use crate::controllers::{Controller, node_of};
use crate::machine::{Effect, Purpose, Timer};
use crate::object::{Key, Kind};
use crate::testing::alone::{self, Alone, Scene, delete, gone, node, put, told};
use crate::testing::pod;
use crate::write::Write;

fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|known| known.type_ == "Ready").map(|known| known.status.as_str())
}

fn has(node: &Node, key: &str) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == key && taint.effect == "NoExecute")
}

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Write { write: Write::Delete { key, uid, .. }, .. } => {
            let pod = told::<Pod>(alone, key).unwrap();
            assert_eq!(*uid, pod.metadata.uid, "another pod of that name must not go");
            let node = alone.told.get::<Node>("", node_of(&pod)).expect("its node");
            let gone = has(node, UNREACHABLE) || has(node, NOT_READY);
            assert!(gone, "evicted from a node without a taint: {pod:?}");
            let patient = pod.spec.as_ref().unwrap().tolerations.iter().flatten().all(|known| known.toleration_seconds.is_some())
                && pod.spec.as_ref().unwrap().tolerations.iter().flatten().count() >= 2;
            assert!(patient, "it tolerates that for ever: {pod:?}");
            assert!(alone.fired.contains(&Timer { purpose: Purpose::Evict, item: key.clone() }), "its time is not over: {pod:?}");
        }
        Effect::Write { write: Write::Update { object, .. }, .. } => {
            let node = object.get::<Node>().unwrap();
            let before = told::<Node>(alone, &object.key()).unwrap();
            if ready(node) == Some("Unknown") && ready(&before) != Some("Unknown") {
                let silent = Timer { purpose: Purpose::NodeSilent, item: object.key() };
                assert!(alone.fired.contains(&silent), "it spoke: {node:?}");
            }
            if ready(node) == Some("True") {
                assert!(!has(node, UNREACHABLE) && !has(node, NOT_READY), "{node:?}");
            }
        }
        Effect::Write { write, .. } => panic!("{write:?}"),
        _ => {}
    }
}

fn on(name: &str, node: &str) -> Value {
    let mut pod = pod(name, "c");
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn heartbeat(node: &str, at: u8) -> Value {
    json!({"kind": "Lease", "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {"renewTime": format!("2026-01-01T00:00:0{at}.000000Z")}})
}

fn scene() -> Scene {
    let mut forever = on("forever", "node-a");
    forever["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    Scene {
        make: || Controller::NodeLifecycle(NodeLifecycle::default()),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(node("node-a", "True")),
            put(node("node-a", "False")),
            put(node("node-b", "True")),
            gone(Kind::Node, "", "node-b"),
            put(heartbeat("node-a", 1)),
            put(heartbeat("node-a", 2)),
            put(on("app", "node-a")),
            put(on("app", "node-b")),
            put(forever),
            delete(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "app"),
        ],
        rule,
        rest: |alone| {
            for node in alone.store.list::<Node>() {
                let (unreachable, not_ready) = (has(node, UNREACHABLE), has(node, NOT_READY));
                match ready(node) {
                    Some("Unknown") => assert!(unreachable && !not_ready, "{node:?}"),
                    other => panic!("left alone every node falls silent: {other:?}"),
                }
            }
            let app = alone.store.object(&Key::new(Kind::Pod, "default", "app"));
            let app = app.and_then(|app| app.get::<Pod>()).filter(|app| alone.store.get::<Node>("", node_of(app)).is_some());
            assert!(app.is_none_or(|app| app.metadata.deletion_timestamp.is_some()), "never evicted: {app:?}");
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A node is Unknown only after 50 s of silence, a pod goes only after its toleration is over; in the end both happen.
    #[test]
    fn nobody_is_evicted_before_the_time(moves in alone::moves()) {
        scene().run(&moves);
    }
}
