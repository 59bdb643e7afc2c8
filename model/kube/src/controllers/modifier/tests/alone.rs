//! The modifier alone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use model_common::csi::ControllerCall;
use proptest::prelude::*;
use serde_json::json;

use super::super::Modifier;
use super::attributes;
use crate::controllers::{Controller, Driver};
use crate::machine::Effect;
use crate::object::{Kind, Object};
use crate::testing::alone::{self, Alone, Scene, bind, gone, put};
use crate::testing::{claim, volume};
use crate::write::Write;

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Csi { request: ControllerCall::ControllerModifyVolume { volume_id, mutable_parameters }, .. } => {
            let claim = alone.told.get::<PersistentVolumeClaim>("default", "c").expect("for no claim");
            assert_eq!(volume_id, "vol-v");
            // The claim says so before the driver is asked.
            let status = claim.status.as_ref().unwrap().modify_volume_status.as_ref().expect("not said");
            assert_eq!(status.status, "InProgress");
            let target = status.target_volume_attributes_class_name.as_deref().unwrap();
            let class = alone.told.get::<VolumeAttributesClass>("", target).unwrap();
            assert_eq!(class.parameters.as_ref().unwrap(), mutable_parameters);
        }
        Effect::Csi { .. } | Effect::Get { .. } | Effect::List { .. } => panic!("{effect:?}"),
        Effect::Write { write: Write::Update { object: Object::PersistentVolumeClaim(claim), .. }, .. } => {
            let status = claim.status.as_ref().unwrap();
            let old = alone.told.get::<PersistentVolumeClaim>("default", "c").unwrap().status.clone().unwrap();
            if status.current_volume_attributes_class_name != old.current_volume_attributes_class_name {
                let now = status.current_volume_attributes_class_name.as_deref().unwrap();
                let class = alone.told.get::<VolumeAttributesClass>("", now);
                // It may have gone since; otherwise the volume has what it says.
                if let Some(class) = class {
                    assert_eq!(alone.modified.get("vol-v"), class.parameters.as_ref(), "the volume has not got it");
                }
                let volume = alone.told.get::<PersistentVolume>("", "v").unwrap();
                let of_volume = volume.spec.as_ref().unwrap().volume_attributes_class_name.as_deref();
                assert_eq!(of_volume, Some(now), "first the PersistentVolume");
            }
        }
        _ => {}
    }
}

fn want(class: &'static str) -> alone::Deed {
    put(
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"}, "spec": {"volumeAttributesClassName": class}}),
    )
}

/// vac-protection keeps a class that a claim wants or is on its way to: without it a modification that may be going on is repeated for
/// ever.
fn gone_unless_in_use(class: &'static str) -> alone::Deed {
    let gone = gone(Kind::VolumeAttributesClass, "", class);
    Box::new(move |alone| {
        let claim = alone.store.get::<PersistentVolumeClaim>("default", "c");
        let wanted = claim.and_then(|claim| claim.spec.as_ref()?.volume_attributes_class_name.as_deref());
        let status = claim.and_then(|claim| claim.status.as_ref()?.modify_volume_status.as_ref());
        let target = status.and_then(|status| status.target_volume_attributes_class_name.as_deref());
        if ![wanted, target].contains(&Some(class)) {
            gone(alone);
        }
    })
}

fn scene() -> Scene {
    Scene {
        make: || Controller::Modifier(Modifier::new(Driver::ebs())),
        prepared: vec![
            put(claim("c", "now", "ReadWriteOnce", "1Gi")),
            put(volume("v", "vol-v", "1Gi")),
            bind("c", "v"),
            put(attributes("fast", "5000")),
        ],
        others: Vec::new(),
        deeds: vec![
            want("fast"),
            want("faster"),
            want("late"),
            put(attributes("faster", "6000")),
            gone_unless_in_use("late"),
            put(attributes("late", "7000")),
        ],
        rule,
        rest: |alone| {
            let claim = alone.store.get::<PersistentVolumeClaim>("default", "c").unwrap();
            let wanted = claim.spec.as_ref().unwrap().volume_attributes_class_name.as_deref();
            let Some(class) = wanted.and_then(|wanted| alone.store.get::<VolumeAttributesClass>("", wanted)) else { return };
            assert_eq!(alone.modified.get("vol-v"), class.parameters.as_ref());
            let status = claim.status.as_ref().unwrap();
            assert_eq!(status.current_volume_attributes_class_name.as_deref(), wanted, "{status:?}");
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// Said before it is asked, and told as done only when the volume has it; left alone the volume has what the claim wants.
    #[test]
    fn a_volume_gets_what_is_said(moves in alone::moves()) {
        scene().run(&moves);
    }
}
