//! Each of the two controllers alone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::super::{CLAIM_FINALIZER, ClaimProtection, VOLUME_FINALIZER, VolumeProtection};
use crate::controllers::{Controller, claims_of, has_finalizer, node_of};
use crate::machine::{Cache, Effect};
use crate::object::{Kind, Object};
use crate::testing::alone::{self, Alone, Move, Scene, delete, gone, put};
use crate::testing::{claim, pod, volume};
use crate::write::Write;

fn on(pod: serde_json::Value, node: &str) -> serde_json::Value {
    let mut pod = pod;
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn holds(pod: &Pod, claim: &str) -> bool {
    !node_of(pod).is_empty() && claims_of(pod).any(|used| used == claim)
}

fn used(told: &Cache, claim: &str) -> bool {
    told.list::<Pod>().any(|pod| holds(pod, claim))
}

fn claims() -> Scene {
    Scene {
        make: || Controller::ClaimProtection(ClaimProtection::default()),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(claim("c", "", "ReadWriteOnce", "1Gi")),
            put(claim("d", "", "ReadWriteOnce", "1Gi")),
            delete(Kind::PersistentVolumeClaim, "default", "c"),
            delete(Kind::PersistentVolumeClaim, "default", "d"),
            put(json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default", "finalizers": null}})),
            put(pod("free", "c")),
            put(on(pod("app", "c"), "node-a")),
            put(on(pod("other", "d"), "node-a")),
            gone(Kind::Pod, "default", "free"),
            gone(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "other"),
        ],
        rule: |alone, effect| {
            let Effect::Write { write, .. } = effect else { return };
            let Write::Update { object, .. } = write else { panic!("{write:?}") };
            let claim = object.get::<PersistentVolumeClaim>().unwrap();
            if !has_finalizer(&claim.metadata, CLAIM_FINALIZER) {
                assert!(claim.metadata.deletion_timestamp.is_some(), "the claim is not going");
                let name = claim.metadata.name.as_deref().unwrap();
                assert!(!used(&alone.told, name), "in use: {claim:?}");
                let listed = alone.listed.as_ref().expect("it looked at the API itself");
                assert!(!listed.iter().filter_map(Object::get::<Pod>).any(|pod| holds(pod, name)), "in use, as a list showed: {claim:?}");
            }
        },
        rest: |alone| {
            for claim in alone.store.list::<PersistentVolumeClaim>() {
                assert!(has_finalizer(&claim.metadata, CLAIM_FINALIZER), "unprotected: {claim:?}");
                let name = claim.metadata.name.as_deref().unwrap();
                assert!(claim.metadata.deletion_timestamp.is_none() || used(&alone.told, name), "held for nothing: {claim:?}");
            }
        },
    }
}

fn phase(name: &str, phase: &str) -> alone::Deed {
    put(json!({"kind": "PersistentVolume", "metadata": {"name": name}, "status": {"phase": phase}}))
}

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn volumes() -> Scene {
    Scene {
        make: || Controller::VolumeProtection(VolumeProtection::default()),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(volume("v", "vol-1", "1Gi")),
            phase("v", "Bound"),
            phase("v", "Released"),
            delete(Kind::PersistentVolume, "", "v"),
            put(json!({"kind": "PersistentVolume", "metadata": {"name": "v", "finalizers": null}})),
        ],
        rule: |alone: &Alone, effect| {
            let Effect::Write { write, .. } = effect else { return };
            let Write::Update { object, .. } = write else { panic!("{write:?}") };
            if !has_finalizer(object.metadata(), VOLUME_FINALIZER) {
                assert!(object.metadata().deletion_timestamp.is_some(), "the volume is not going");
                assert!(alone::told::<PersistentVolume>(alone, &object.key()).is_some_and(|volume| !is_bound(&volume)), "{object:?}");
            }
        },
        rest: |alone| {
            for volume in alone.store.list::<PersistentVolume>() {
                assert!(has_finalizer(&volume.metadata, VOLUME_FINALIZER), "unprotected: {volume:?}");
                assert!(volume.metadata.deletion_timestamp.is_none() || is_bound(volume), "held for nothing: {volume:?}");
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A finalizer never goes while a pod on a node uses the claim; in the end every claim has it that is not going.
    #[test]
    fn a_claim_in_use_is_held_whatever_happens(moves in alone::moves()) {
        claims().run(&moves);
    }

    /// The same for volumes that are bound.
    #[test]
    fn a_bound_volume_is_held_whatever_happens(moves in alone::moves()) {
        volumes().run(&moves);
    }
}

/// The list still showed the pod whose end the watch told of before the list's answer came.
#[test]
fn the_end_of_a_pod_is_not_lost_while_a_list_is_out() {
    let (make, delete, pod, gone) = (Move::Deed(1), Move::Deed(3), Move::Deed(7), Move::Deed(10));
    claims().run(&[make, delete, pod, Move::Tell(1), Move::Boot, Move::Perform(0), Move::Tell(0), gone, Move::Tell(0)]);
}
