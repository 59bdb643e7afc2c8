//! The scheduler alone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Scheduler;
use crate::controllers::{Controller, claims_of, is_finished, node_of};
use crate::machine::Effect;
use crate::object::{Key, Kind};
use crate::testing::alone::{self, Alone, Scene, bind, delete, gone, node, put, told};
use crate::testing::{claim, class, pod, volume};
use crate::write::Write;

const CLASS: &str = "late";

/// A volume in the zone that its name ends with.
fn zonal(name: &str) -> Value {
    let mut volume = volume(name, &format!("vol-{name}"), "1Gi");
    let zone = format!("us-east-1{}", &name[name.len() - 1..]);
    volume["spec"]["storageClassName"] = json!(CLASS);
    volume["spec"]["accessModes"] = json!(["ReadWriteOnce", "ReadWriteOncePod"]);
    volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "topology.ebs.csi.aws.com/zone", "operator": "In", "values": [zone]}]}]}});
    volume
}

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Write { write: Write::Bind { pod: key, uid, node }, .. } => {
            let pod = told::<Pod>(alone, key).unwrap();
            assert!(pod.metadata.uid == *uid && node_of(&pod).is_empty() && pod.metadata.deletion_timestamp.is_none(), "{pod:?}");
            for name in claims_of(&pod) {
                let claim = alone.told.get::<PersistentVolumeClaim>("default", &name).expect("its claim");
                let volume = claim.spec.as_ref().unwrap().volume_name.as_deref().expect("a bound claim");
                assert!(alone.told.get::<PersistentVolume>("", volume).is_some(), "{volume} is not there");
                assert_eq!(volume.chars().last(), node.chars().last(), "{volume} cannot be reached from {node}");
                if claim.spec.as_ref().unwrap().access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod") {
                    let uses = |other: &Pod| other.metadata.uid != pod.metadata.uid && claims_of(other).any(|other| other == name);
                    let placed = alone.told.list::<Pod>().find(|other| uses(other) && !node_of(other).is_empty() && !is_finished(other));
                    assert!(placed.is_none(), "a second pod for a ReadWriteOncePod claim: {pod:?} beside {placed:?}");
                    let coming = alone.flying.values().any(|(effect, _)| match effect {
                        Effect::Write { write: Write::Bind { pod: other, .. }, .. } => {
                            other != key && told::<Pod>(alone, other).is_some_and(|other| uses(&other))
                        }
                        _ => false,
                    });
                    assert!(!coming, "two pods at once for a ReadWriteOncePod claim");
                }
            }
        }
        Effect::Write { write: Write::Update { object, .. }, .. } => {
            if let Some(volume) = object.get::<PersistentVolume>() {
                let before = told::<PersistentVolume>(alone, &object.key()).unwrap();
                assert!(before.spec.as_ref().unwrap().claim_ref.is_none(), "taken from another claim: {volume:?}");
            }
        }
        Effect::Write { write, .. } => panic!("{write:?}"),
        _ => {}
    }
}

fn scene() -> Scene {
    Scene {
        make: || Controller::Scheduler(Scheduler::default()),
        deeds: vec![
            put(node("node-a", "True")),
            put(node("node-b", "True")),
            gone(Kind::Node, "", "node-b"),
            put(class(CLASS, "ebs.csi.aws.com", "WaitForFirstConsumer")),
            put(zonal("v-a")),
            put(zonal("v-b")),
            gone(Kind::PersistentVolume, "", "v-a"),
            put(claim("c", CLASS, "ReadWriteOncePod", "1Gi")),
            put(claim("d", CLASS, "ReadWriteOnce", "1Gi")),
            bind("c", "v-b"),
            bind("d", "v-a"),
            // The PV controller ends what the scheduler has begun.
            Box::new(|alone| {
                for volume in ["v-a", "v-b"] {
                    let Some(found) = alone.store.get::<PersistentVolume>("", volume) else { continue };
                    let claim = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|claim| claim.name.clone());
                    let Some(claim) = claim else { continue };
                    alone.put(&json!({"kind": "PersistentVolumeClaim",
                        "metadata": {"name": claim, "namespace": "default", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
                        "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}));
                }
            }),
            gone(Kind::PersistentVolumeClaim, "default", "c"),
            put(pod("app", "c")),
            put(pod("twin", "c")),
            put(pod("other", "d")),
            delete(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "twin"),
        ],
        rule,
        rest: |alone| {
            // What can go somewhere has gone: a claim bound to v-a, its node there.
            let Some(pod) = alone.store.object(&Key::new(Kind::Pod, "default", "other")).and_then(|pod| pod.get::<Pod>()) else { return };
            let claim = alone.store.get::<PersistentVolumeClaim>("default", "d");
            let bound = claim.is_some_and(|claim| claim.spec.as_ref().unwrap().volume_name.as_deref() == Some("v-a"));
            let there = |kind, name: &str| alone.store.object(&Key::new(kind, "", name)).is_some();
            if bound && there(Kind::PersistentVolume, "v-a") && there(Kind::Node, "node-a") {
                assert_eq!(node_of(pod), "node-a");
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// No pod is bound to a node that its volume cannot be reached from, and no two pods get one ReadWriteOncePod claim.
    #[test]
    fn no_pod_is_bound_where_its_volume_is_not(moves in alone::moves()) {
        scene().run(&moves);
    }
}
