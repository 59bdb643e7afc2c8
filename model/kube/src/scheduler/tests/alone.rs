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

/// Of each zone one volume for anybody and one for a ReadWriteOncePod claim.
const VOLUMES: [&str; 4] = ["v-a", "v-b", "p-a", "p-b"];

/// A volume in the zone that its name ends with.
fn zonal(name: &str) -> Value {
    let mut volume = volume(name, &format!("vol-{name}"), "1Gi");
    let zone = format!("us-east-1{}", &name[name.len() - 1..]);
    volume["spec"]["storageClassName"] = json!(CLASS);
    volume["spec"]["accessModes"] = json!([if name.starts_with('p') { "ReadWriteOncePod" } else { "ReadWriteOnce" }]);
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

/// The PV controller ends what the scheduler has begun.
fn pv_controller(alone: &mut Alone) {
    for volume in VOLUMES {
        let Some(found) = alone.store.get::<PersistentVolume>("", volume) else { continue };
        let claim = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|claim| claim.name.clone());
        let Some(claim) = claim else { continue };
        alone.put(&json!({"kind": "PersistentVolumeClaim",
                        "metadata": {"name": claim, "namespace": "default", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
                        "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}));
    }
}

fn scene() -> Scene {
    Scene {
        make: || Controller::Scheduler(Scheduler::default()),
        prepared: vec![
            put(node("node-a", "True")),
            put(node("node-b", "True")),
            put(class(CLASS, "ebs.csi.aws.com", "WaitForFirstConsumer")),
            put(zonal("v-a")),
            put(zonal("v-b")),
            put(zonal("p-a")),
            put(zonal("p-b")),
            put(claim("c", CLASS, "ReadWriteOncePod", "1Gi")),
            put(claim("d", CLASS, "ReadWriteOnce", "1Gi")),
        ],
        others: vec![Box::new(pv_controller)],
        deeds: vec![
            put(node("node-a", "True")),
            put(node("node-b", "True")),
            gone(Kind::Node, "", "node-b"),
            put(class(CLASS, "ebs.csi.aws.com", "WaitForFirstConsumer")),
            put(zonal("v-a")),
            put(zonal("v-b")),
            put(zonal("p-a")),
            put(zonal("p-b")),
            gone(Kind::PersistentVolume, "", "v-a"),
            put(claim("c", CLASS, "ReadWriteOncePod", "1Gi")),
            put(claim("d", CLASS, "ReadWriteOnce", "1Gi")),
            bind("c", "p-b"),
            bind("d", "v-a"),
            Box::new(pv_controller),
            Box::new(pv_controller),
            gone(Kind::PersistentVolumeClaim, "default", "c"),
            put(pod("app", "c")),
            put(pod("twin", "c")),
            put(pod("other", "d")),
            delete(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "twin"),
        ],
        rule,
        rest: |alone| {
            // What can go somewhere has gone: to the node of its claim's volume, unless another pod has the ReadWriteOncePod claim.
            for (name, claim) in [("other", "d"), ("app", "c"), ("twin", "c")] {
                let Some(pod) = alone.store.get::<Pod>("default", name) else { continue };
                let Some(claim) = alone.store.get::<PersistentVolumeClaim>("default", claim) else { continue };
                let spec = claim.spec.as_ref().unwrap();
                let Some(volume) = spec.volume_name.as_deref() else { continue };
                let node = format!("node-{}", &volume[volume.len() - 1..]);
                let there = |kind, name: &str| alone.store.object(&Key::new(kind, "", name)).is_some();
                let rival = alone.store.list::<Pod>().any(|other| {
                    name != "other"
                        && other.metadata.name != pod.metadata.name
                        && claims_of(other).eq(claims_of(pod))
                        && !is_finished(other)
                });
                let leaving = pod.metadata.deletion_timestamp.is_some() || claim.metadata.deletion_timestamp.is_some();
                if there(Kind::PersistentVolume, volume) && there(Kind::Node, &node) && !rival && !leaving {
                    assert_eq!(node_of(pod), node, "{name} beside {volume}");
                }
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
