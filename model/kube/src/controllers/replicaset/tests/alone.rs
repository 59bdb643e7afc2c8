//! The ReplicaSet controller alone.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::ReplicaSets;
use crate::controllers::Controller;
use crate::controllers::workload::{controller_of, is_active, is_leaving, selects, uid};
use crate::machine::Effect;
use crate::object::{Kind, Object};
use crate::testing::alone::{self, Alone, Deed, Scene, delete, pods, put, told};
use crate::testing::{pod, workload};
use crate::write::{Patch, Write};

/// The active pods of a set, as the machine knows them.
fn own(alone: &Alone, set: &ReplicaSet) -> usize {
    let is_own = |pod: &Pod| controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid(&set.metadata)) && is_active(pod);
    alone.told.list::<Pod>().filter(|pod| is_own(pod) && selects(set, &pod.metadata)).count()
}

fn rule(alone: &Alone, effect: &Effect) {
    let Effect::Write { write, .. } = effect else { return };
    let replicas = |set: &ReplicaSet| usize::try_from(set.spec.as_ref().unwrap().replicas.unwrap()).unwrap();
    match write {
        Write::Create { object: Object::Pod(pod) } => {
            let owner = controller_of(&pod.metadata).unwrap();
            let set = alone.told.get::<ReplicaSet>("default", &owner.name).expect("a set");
            assert!(owner.uid == uid(&set.metadata) && !is_leaving(&set.metadata) && own(alone, set) < replicas(set), "too many: {pod:?}");
        }
        Write::Delete { key, .. } => {
            let pod = told::<Pod>(alone, key).expect("a pod");
            let owner = controller_of(&pod.metadata).expect("an owner");
            let set = alone.told.get::<ReplicaSet>("default", &owner.name).expect("a set");
            assert!(is_active(&pod) && own(alone, set) > replicas(set), "too few: {pod:?}");
        }
        // Adopted is only what nobody has, by a set that a live read has shown.
        Write::Patch { key, patch: Patch::Strategic(patch), .. } if patch["metadata"]["ownerReferences"][0]["controller"] == true => {
            let owner = &patch["metadata"]["ownerReferences"][0];
            let pod = told::<Pod>(alone, key).expect("a pod");
            assert!(controller_of(&pod.metadata).is_none() && !is_leaving(&pod.metadata), "{pod:?}");
            let read = alone.read.iter().find(|(key, _)| key.name.as_ref() == owner["name"]);
            assert!(read.is_some_and(|(_, found)| found.as_ref().is_some_and(|found| found.uid() == owner["uid"])), "{patch}");
        }
        _ => {}
    }
}

fn rest(alone: &Alone) {
    for set in alone.store.list::<ReplicaSet>().filter(|set| !is_leaving(&set.metadata)) {
        let is_own = |pod: &Pod| controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid(&set.metadata)) && is_active(pod);
        let own = alone.store.list::<Pod>().filter(|pod| is_own(pod)).count();
        assert_eq!(own, usize::try_from(set.spec.as_ref().unwrap().replicas.unwrap()).unwrap(), "{:?}", set.status);
        let status = set.status.clone().unwrap_or_default();
        assert_eq!(usize::try_from(status.replicas).unwrap(), own);
        assert_eq!(status.observed_generation, set.metadata.generation);
    }
}

fn with(name: &str, change: Value) -> Deed {
    put(json!({"kind": "ReplicaSet", "metadata": {"name": name, "namespace": "default"}, "spec": change}))
}

fn scene() -> Scene {
    let free = |name: &str| {
        let mut free = pod(name, "c");
        free["metadata"]["labels"] = json!({"app": "one"});
        free
    };
    let relabel =
        |name: &str, label: &str| put(json!({"kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": label}}}));
    Scene {
        make: || Controller::ReplicaSets(ReplicaSets::default()),
        prepared: vec![put(workload("ReplicaSet", "one", 2))],
        others: vec![pods::schedule(), pods::run(true), pods::reap()],
        deeds: vec![
            put(workload("ReplicaSet", "one", 2)),
            put(workload("ReplicaSet", "two", 1)),
            with("one", json!({"replicas": 4})),
            with("one", json!({"replicas": 0})),
            with("two", json!({"replicas": 3, "minReadySeconds": 5})),
            pods::schedule(),
            pods::run(true),
            pods::run(false),
            pods::reap(),
            pods::delete(0),
            pods::delete(2),
            pods::end("one-", "Failed"),
            put(free("free")),
            relabel("free", "two"),
            relabel("free", "none"),
            delete(Kind::ReplicaSet, "default", "one"),
            delete(Kind::ReplicaSet, "default", "two"),
        ],
        rule,
        rest,
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// No more pods are made than wanted, no more deleted than too many, as far as the machine knows; and left alone there are as many
    /// as wanted.
    #[test]
    fn the_number_is_kept(moves in alone::moves()) {
        scene().run(&moves);
    }
}
