//! The StatefulSet controller alone.

use std::ops::Range;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{StatefulSets, identity};
use crate::controllers::workload::{controller_of, is_leaving, is_ready, uid};
use crate::controllers::{Controller, claims_of, is_finished, phase_of};
use crate::machine::Effect;
use crate::object::{Key, Kind, Object};
use crate::testing::alone::{self, Alone, Deed, Scene, delete, gone, pods, put, told};
use crate::testing::{claim, pod, stateful_set};
use crate::write::Write;

fn set() -> Key {
    Key::new(Kind::StatefulSet, "default", "web")
}

fn rule(alone: &Alone, effect: &Effect) {
    let Effect::Write { write, .. } = effect else { return };
    let known = told::<StatefulSet>(alone, &set());
    match write {
        Write::Create { object: Object::Pod(pod) } => {
            let known = known.expect("a set");
            let key = object_key(pod);
            assert!(alone.told.object(&key).is_none(), "two pods of one identity: {key:?}");
            let ordinal = identity::ordinal("web", &key.name).expect("an ordinal");
            assert!(identity::range(&known).contains(&ordinal) && !is_leaving(&known.metadata), "{pod:?}");
            for claim in claims_of(pod) {
                assert!(told::<PersistentVolumeClaim>(alone, &Key::new(Kind::PersistentVolumeClaim, "default", &claim)).is_some());
            }
            let is_ordered = known.spec.as_ref().unwrap().pod_management_policy.as_deref() == Some("OrderedReady");
            for lower in identity::range(&known).start..ordinal {
                let lower = told::<Pod>(alone, &Key::new(Kind::Pod, "default", &format!("web-{lower}")));
                let is_well = lower.is_some_and(|pod| phase_of(&pod) == "Running" && is_ready(&pod) && !is_leaving(&pod.metadata));
                assert!(is_well || !is_ordered, "out of order: {pod:?}");
            }
        }
        Write::Delete { key, .. } if key.kind == Kind::Pod => {
            let (known, pod) = (known.expect("a set"), told::<Pod>(alone, key).expect("a pod"));
            assert!(!is_leaving(&pod.metadata), "it goes already: {pod:?}");
            let ordinal = identity::ordinal("web", &key.name).expect("an ordinal");
            let range = identity::range(&known);
            // A pod that is not its own, and goes, is not adopted any more.
            let own = |pod: &&Arc<Pod>| controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid(&known.metadata));
            let higher = alone.told.list::<Pod>().filter(own).filter_map(|pod| identity::ordinal("web", &object_key(pod).name));
            let higher = higher.filter(|other| *other > ordinal);
            let is_highest = higher.filter(|other| !range.contains(other)).count() == 0;
            let is_ordered = known.spec.as_ref().unwrap().pod_management_policy.as_deref() == Some("OrderedReady");
            assert!(range.contains(&ordinal) || is_highest || !is_ordered, "not from the top: {key:?}");
        }
        Write::Delete { key, .. } => assert_eq!(key.kind, Kind::ControllerRevision, "claims are never deleted"),
        _ => {}
    }
}

fn object_key(pod: &Pod) -> Key {
    crate::object::Typed::key(pod)
}

fn is_condemned(pod: &Pod, range: &Range<i32>) -> bool {
    identity::ordinal("web", &object_key(pod).name).is_some_and(|ordinal| !range.contains(&ordinal))
}

fn rest(alone: &Alone) {
    let Some(set) = alone.store.get::<StatefulSet>("default", "web").filter(|set| !is_leaving(&set.metadata)) else { return };
    // A pod of the name that is another's keeps its ordinal empty.
    let foreign = |ordinal: i32| {
        alone
            .store
            .get::<Pod>("default", &format!("web-{ordinal}"))
            .is_some_and(|pod| pod.metadata.owner_references.iter().flatten().all(|owner| Some(&owner.uid) != set.metadata.uid.as_ref()))
    };
    let range = identity::range(set);
    if range.clone().any(foreign) || alone.store.list::<PersistentVolumeClaim>().any(|claim| is_leaving(&claim.metadata)) {
        return;
    }
    let own: Vec<i32> = alone.store.list::<Pod>().filter_map(|pod| identity::ordinal("web", pod.metadata.name.as_deref()?)).collect();
    // Two that ended and are to go hold each other up for ever where there is an order, upstream too (`processCondemned`).
    let is_ordered = set.spec.as_ref().unwrap().pod_management_policy.as_deref() == Some("OrderedReady");
    let ended = alone.store.list::<Pod>().filter(|pod| is_finished(pod) && is_condemned(pod, &range)).count();
    if is_ordered && ended > 1 {
        return;
    }
    let status = set.status.clone().unwrap_or_default();
    let condemned_by_others = own.iter().any(|ordinal| !range.contains(ordinal) && foreign(*ordinal));
    assert!(condemned_by_others || own.len() == range.len(), "wanted {range:?}: {own:?} {status:?}");
    assert!(alone.store.list::<Pod>().all(|pod| !is_finished(pod) || pod.metadata.name.as_deref() == Some("other")));
    assert_eq!(status.observed_generation, set.metadata.generation);
    assert!(condemned_by_others || usize::try_from(status.replicas).unwrap() == own.len(), "{status:?} {own:?}");
    assert_eq!(status.current_revision, status.update_revision, "{status:?}");
}

fn with(change: Value) -> Deed {
    put(json!({"kind": "StatefulSet", "metadata": {"name": "web", "namespace": "default"}, "spec": change}))
}

fn scene(policy: &'static str) -> Scene {
    let mut fresh = stateful_set(2);
    fresh["spec"]["podManagementPolicy"] = json!(policy);
    let mut free = pod("web-1", "data-web-1");
    free["metadata"]["labels"] = json!({"app": "web"});
    let mut template = json!({"template": {"metadata": {"annotations": {"a": "b"}}}});
    let new = with(template.clone());
    template["template"]["metadata"]["annotations"] = Value::Null;
    Scene {
        make: || Controller::StatefulSets(StatefulSets::default()),
        prepared: vec![put(fresh.clone())],
        others: vec![pods::schedule(), pods::run(true), pods::reap()],
        deeds: vec![
            put(fresh),
            with(json!({"replicas": 0})),
            with(json!({"replicas": 4})),
            new,
            with(template),
            with(json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}})),
            with(json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}})),
            with(json!({"minReadySeconds": 5})),
            pods::schedule(),
            pods::run(true),
            pods::run(true),
            pods::run(false),
            pods::reap(),
            pods::delete(0),
            pods::delete(1),
            pods::end("web-0", "Failed"),
            pods::end("web-1", "Succeeded"),
            put(free),
            put(claim("data-web-0", "ebs-sc", "ReadWriteOnce", "1Gi")),
            gone(Kind::PersistentVolumeClaim, "default", "data-web-0"),
            delete(Kind::PersistentVolumeClaim, "default", "data-web-1"),
            gone(Kind::Pod, "default", "web-0"),
            delete(Kind::StatefulSet, "default", "web"),
        ],
        rule,
        rest,
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// No pod is made while one of its name is known, none before those below are well, none without its claims; claims are never
    /// deleted by the controller; and left alone the set is whole.
    #[test]
    fn ordered(moves in alone::moves()) {
        scene("OrderedReady").run(&moves);
    }

    /// The same where nobody waits for another.
    #[test]
    fn parallel(moves in alone::moves()) {
        scene("Parallel").run(&moves);
    }
}
