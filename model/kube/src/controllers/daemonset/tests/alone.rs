//! The DaemonSet controller alone.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::super::{DaemonSets, fits, limits, target};
use super::set;
use crate::controllers::workload::{is_active, is_leaving};
use crate::controllers::{Controller, name};
use crate::machine::Effect;
use crate::object::{Kind, Object};
use crate::testing::alone::{self, Alone, Deed, Scene, delete, gone, node, pods, put};
use crate::write::Write;

fn rule(alone: &Alone, effect: &Effect) {
    let Effect::Write { write: Write::Create { object: Object::Pod(pod) }, .. } = effect else { return };
    let set = alone.told.get::<DaemonSet>("default", "ds").expect("a set");
    let on = target(pod);
    let node = alone.told.get::<Node>("", &on).expect("a node");
    assert!(fits(set, node).0 && !is_leaving(&set.metadata), "it does not fit: {pod:?}");
    let owner = pod.metadata.owner_references.as_ref().unwrap()[0].uid.clone();
    let is_own = |pod: &Pod| pod.metadata.owner_references.iter().flatten().any(|known| known.uid == owner);
    let there = alone.told.list::<Pod>().filter(|pod| is_own(pod) && target(pod) == on && is_active(pod)).count();
    assert!(there == 0 || (there == 1 && limits(set, 3).1 > 0), "there are {there} already: {pod:?}");
}

fn with(change: serde_json::Value) -> Deed {
    put(json!({"kind": "DaemonSet", "metadata": {"name": "ds", "namespace": "default"}, "spec": change}))
}

fn scene() -> Scene {
    let mut tainted = node("node-a", "True");
    tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let mut clean = node("node-a", "True");
    clean["spec"] = json!({"taints": null});
    Scene {
        make: || Controller::DaemonSets(DaemonSets::default()),
        prepared: vec![put(node("node-a", "True")), put(node("node-b", "True")), put(set())],
        others: vec![pods::schedule(), pods::run(true), pods::reap()],
        deeds: vec![
            put(set()),
            put(tainted),
            put(clean),
            put(node("node-c", "True")),
            gone(Kind::Node, "", "node-c"),
            with(json!({"template": {"metadata": {"annotations": {"a": "1"}}}})),
            with(json!({"template": {"metadata": {"annotations": null}}})),
            with(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}})),
            with(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}}})),
            pods::schedule(),
            pods::run(true),
            pods::run(false),
            pods::reap(),
            pods::delete(0),
            pods::end("ds-", "Failed"),
            delete(Kind::DaemonSet, "default", "ds"),
        ],
        rule,
        rest: |alone| {
            let Some(set) = alone.store.get::<DaemonSet>("default", "ds").filter(|set| !is_leaving(&set.metadata)) else { return };
            for node in alone.store.list::<Node>() {
                let there = alone.store.list::<Pod>().filter(|pod| target(pod) == name(&node.metadata) && is_active(pod)).count();
                let (should, may) = fits(set, node);
                assert!(there == 1 || (!should && (may || there == 0) && there < 2), "{there} on {node:?}");
            }
            assert_eq!(set.status.clone().unwrap_or_default().observed_generation, set.metadata.generation);
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A pod is made only on a node that fits and has none (or one of an old template, where a surge is allowed); left alone each node that
    /// fits has one.
    #[test]
    fn one_a_node(moves in alone::moves()) {
        scene().run(&moves);
    }
}
