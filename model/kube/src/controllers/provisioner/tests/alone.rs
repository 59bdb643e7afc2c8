//! The provisioner alone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use model_common::csi::ControllerCall;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{FINALIZER, Provisioner};
use crate::controllers::{Controller, Driver, annotation, has_finalizer};
use crate::machine::Effect;
use crate::object::Kind;
use crate::testing::alone::{self, Alone, Move, Scene, gone, put};
use crate::testing::{claim, class};
use crate::write::Write;

/// Whether the volume is one that may be deleted, as far as the machine has been told.
fn is_done_with(alone: &Alone, volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref().unwrap();
    let name = volume.metadata.name.as_deref();
    spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete")
        && annotation(&volume.metadata, "pv.kubernetes.io/provisioned-by") == Some("ebs.csi.aws.com")
        && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
        && !alone.told.list::<VolumeAttachment>().any(|other| other.spec.source.persistent_volume_name.as_deref() == name)
}

fn handle(volume: &PersistentVolume) -> String {
    volume.spec.as_ref().unwrap().csi.as_ref().unwrap().volume_handle.clone()
}

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Csi { request: ControllerCall::CreateVolume { name, parameters, .. }, .. } => {
            let claim = format!("{}/{}", parameters["csi.storage.k8s.io/pvc/namespace"], parameters["csi.storage.k8s.io/pvc/name"]);
            let known = alone.told.list::<PersistentVolumeClaim>().find(|known| {
                format!("default/{}", known.metadata.name.as_deref().unwrap()) == claim
                    && format!("pvc-{}", known.metadata.uid.as_deref().unwrap()) == *name
            });
            // The claim may be gone while a volume is still being made for it; then the driver has been asked before.
            let mut asked = alone.flying.values().map(|(effect, _)| effect);
            assert!(known.is_some() || !asked.any(|other| other == effect), "{name} is no claim's");
            if let Some(known) = known {
                assert!(known.spec.as_ref().unwrap().volume_name.is_none(), "a second volume for {claim}");
            }
            assert!(alone.told.get::<PersistentVolume>("", name).is_none(), "{name} exists");
        }
        Effect::Csi { request: ControllerCall::DeleteVolume { volume_id }, .. } => {
            let all: Vec<_> = alone.told.list::<PersistentVolume>().filter(|volume| handle(volume) == *volume_id).collect();
            assert!(!all.is_empty() && all.iter().all(|volume| is_done_with(alone, volume)), "{volume_id} is deleted: {all:?}");
        }
        Effect::Write { write: Write::Create { object }, .. } => {
            let volume = object.get::<PersistentVolume>().unwrap();
            assert!(alone.volumes.contains_key(&handle(volume)), "there is no such volume: {volume:?}");
            assert!(has_finalizer(&volume.metadata, FINALIZER));
        }
        Effect::Write { write: Write::Update { object, .. }, .. } => {
            if let Some(volume) = object.get::<PersistentVolume>()
                && !has_finalizer(&volume.metadata, FINALIZER)
                && volume.spec.as_ref().unwrap().persistent_volume_reclaim_policy.as_deref() == Some("Delete")
            {
                assert!(!alone.volumes.contains_key(&handle(volume)), "let go before it is deleted: {volume:?}");
            }
        }
        Effect::Write { write: Write::Delete { key, .. }, .. } => {
            let volume = alone::told::<PersistentVolume>(alone, key).unwrap();
            assert!(!alone.volumes.contains_key(&handle(&volume)), "its volume is still there: {volume:?}");
        }
        _ => {}
    }
}

fn asking(name: &str, class: &str, annotations: Value) -> Value {
    let mut claim = claim(name, class, "ReadWriteOnce", "1Gi");
    claim["metadata"]["annotations"] = annotations;
    claim["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = json!("ebs.csi.aws.com");
    claim
}

/// The PV controller and the user with all volumes that there are.
fn to_all(change: Value) -> alone::Deed {
    Box::new(move |alone| {
        let names: Vec<_> = alone.store.list::<PersistentVolume>().map(|volume| volume.metadata.name.clone()).collect();
        for name in names {
            let mut change = change.clone();
            change["kind"] = json!("PersistentVolume");
            change["metadata"]["name"] = json!(name);
            alone.put(&change);
        }
    })
}

fn attach_one() -> alone::Deed {
    Box::new(|alone| {
        let Some(name) = alone.store.list::<PersistentVolume>().next().map(|volume| volume.metadata.name.clone()) else { return };
        alone.put(&json!({"kind": "VolumeAttachment", "metadata": {"name": "va"}, "spec": {
            "attacher": "ebs.csi.aws.com", "nodeName": "node-a", "source": {"persistentVolumeName": name}}}));
    })
}

fn delete_one() -> alone::Deed {
    Box::new(|alone| {
        let Some(key) = alone.store.list::<PersistentVolume>().next().map(|volume| crate::object::Typed::key(&**volume)) else { return };
        let _ = alone.write(&Write::delete(key));
    })
}

fn scene() -> Scene {
    Scene {
        make: || Controller::Provisioner(Provisioner::new(Driver::ebs())),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(class("now", "ebs.csi.aws.com", "Immediate")),
            put(class("late", "ebs.csi.aws.com", "WaitForFirstConsumer")),
            put(alone::node("node-a", "True")),
            put(json!({"kind": "CSINode", "metadata": {"name": "node-a"}, "spec": {"drivers": [
                {"name": "ebs.csi.aws.com", "nodeID": "i-a", "topologyKeys": ["topology.ebs.csi.aws.com/zone"]}]}})),
            put(asking("c", "now", json!({}))),
            put(asking("d", "late", json!({}))),
            put(asking("d", "late", json!({"volume.kubernetes.io/selected-node": "node-a"}))),
            gone(Kind::PersistentVolumeClaim, "default", "c"),
            gone(Kind::PersistentVolumeClaim, "default", "d"),
            to_all(json!({"status": {"phase": "Bound"}})),
            to_all(json!({"status": {"phase": "Released"}})),
            to_all(json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})),
            to_all(json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})),
            attach_one(),
            gone(Kind::VolumeAttachment, "", "va"),
            delete_one(),
        ],
        rule,
        rest: |alone| {
            for claim in alone.store.list::<PersistentVolumeClaim>() {
                let class = claim.spec.as_ref().unwrap().storage_class_name.as_deref().unwrap();
                let known = |kind, name: &str| alone.store.object(&crate::object::Key::new(kind, "", name)).is_some();
                let ready = known(Kind::StorageClass, class) && known(Kind::Node, "node-a") && known(Kind::CSINode, "node-a");
                let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap());
                if class == "now" && ready {
                    assert!(
                        alone.store.get::<PersistentVolume>("", &name).is_some() || !alone.armed.is_empty() || alone.volumes.is_empty(),
                        "no volume for {claim:?}"
                    );
                }
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// One volume for a claim; no volume is deleted that is not released, or is attached; no object goes before its volume.
    #[test]
    fn one_volume_for_a_claim_whatever_happens(moves in alone::moves()) {
        scene().run(&moves);
    }
}

/// An answer to another question says nothing of the volume.
#[test]
fn an_answer_of_another_kind_deletes_nothing() {
    let (claim, csi_node, class, release) = (4, 3, 0, 10);
    let (told, fine) = (|| Move::Tell(0), || Move::Answer(0, alone::Outcome::Fine));
    let mut moves = vec![Move::Boot];
    moves.extend([class, csi_node, claim].map(Move::Deed));
    moves.extend([told(), told(), told(), fine(), fine(), Move::Deed(release), told(), told(), told()]);
    // The last of the refusals.
    moves.push(Move::Answer(0, alone::Outcome::Refused(8)));
    scene().run(&moves);
}
