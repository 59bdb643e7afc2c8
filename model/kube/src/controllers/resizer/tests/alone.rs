//! The resizer alone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use model_common::csi::ControllerCall;
use proptest::prelude::*;
use serde_json::json;

use super::super::{IN_PROGRESS, Resizer};
use crate::controllers::binder::matching;
use crate::controllers::{Controller, Driver, amount};
use crate::machine::Effect;
use crate::object::Kind;
use crate::testing::alone::{self, Alone, Scene, bind, delete, gone, put, told};
use crate::testing::{claim, class, volume};
use crate::write::Write;

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Csi { request: ControllerCall::ControllerExpandVolume { volume_id, capacity, .. }, .. } => {
            let claim = alone.told.get::<PersistentVolumeClaim>("default", "c").unwrap();
            let status = claim.status.as_ref().unwrap();
            assert_eq!(status.phase.as_deref(), Some("Bound"));
            assert_eq!((volume_id.as_str(), claim.spec.as_ref().unwrap().volume_name.as_deref()), ("vol-1", Some("v")));
            assert!(capacity.required_bytes > amount::storage(status.capacity.as_ref()), "nothing to grow: {claim:?}");
            // What is asked of the driver stands in the claim first.
            assert_eq!(status.allocated_resource_statuses.as_ref().unwrap()["storage"], IN_PROGRESS);
            assert_eq!(amount::storage(status.allocated_resources.as_ref()), capacity.required_bytes);
        }
        Effect::Write { write: Write::Update { object, .. }, .. } => {
            if let Some(volume) = object.get::<PersistentVolume>() {
                let before = told::<PersistentVolume>(alone, &object.key()).unwrap();
                assert!(matching::capacity(volume) > matching::capacity(&before), "{volume:?}");
                assert!(alone.volumes["vol-1"] >= matching::capacity(volume), "the volume is not that big: {volume:?}");
            } else {
                let claim = object.get::<PersistentVolumeClaim>().unwrap();
                let before = told::<PersistentVolumeClaim>(alone, &object.key()).unwrap();
                assert_eq!(
                    claim.status.as_ref().unwrap().capacity,
                    before.status.as_ref().unwrap().capacity,
                    "the capacity is the kubelet's to change"
                );
            }
        }
        Effect::Write { write, .. } => panic!("{write:?}"),
        _ => {}
    }
}

fn scene() -> Scene {
    let mut manual = volume("v", "vol-1", "1Gi");
    manual["spec"]["storageClassName"] = json!("now");
    Scene {
        make: || Controller::Resizer(Resizer::new(Driver::ebs())),
        prepared: vec![
            put(class("now", "ebs.csi.aws.com", "Immediate")),
            put(manual.clone()),
            put(claim("c", "now", "ReadWriteOnce", "1Gi")),
            bind("c", "v"),
        ],
        others: Vec::new(),
        deeds: vec![
            put(class("now", "ebs.csi.aws.com", "Immediate")),
            put(manual),
            put(claim("c", "now", "ReadWriteOnce", "1Gi")),
            bind("c", "v"),
            bind("c", "v"),
            put(claim("c", "now", "ReadWriteOnce", "2Gi")),
            put(claim("c", "now", "ReadWriteOnce", "3Gi")),
            // The kubelet has grown the file system.
            Box::new(|alone| {
                let Some(volume) = alone.store.get::<PersistentVolume>("", "v") else { return };
                let size = format!("{}Gi", matching::capacity(volume) >> 30);
                alone.put(&json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"},
                    "status": {"capacity": {"storage": size}, "allocatedResourceStatuses": null, "conditions": null}}));
            }),
            delete(Kind::PersistentVolumeClaim, "default", "c"),
            gone(Kind::PersistentVolumeClaim, "default", "c"),
            gone(Kind::PersistentVolume, "", "v"),
        ],
        rule,
        rest: |alone| {
            let Some(claim) = alone.store.get::<PersistentVolumeClaim>("default", "c") else { return };
            let Some(volume) = alone.store.get::<PersistentVolume>("", "v") else { return };
            let wants = matching::requested(claim);
            let bound = claim.metadata.deletion_timestamp.is_none()
                && crate::controllers::is_claimed_by(volume, claim)
                && claim.spec.as_ref().unwrap().volume_name.is_some();
            let has = amount::storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()));
            assert!(!bound || has == 0 || wants <= has || matching::capacity(volume) >= wants, "not grown: {claim:?} {volume:?}");
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// The driver is asked for what the claim says is under way; the volume never shows more than the driver gave; in the end it has
    /// what was asked for.
    #[test]
    fn it_grows_as_far_as_the_driver_says(moves in alone::moves()) {
        scene().run(&moves);
    }
}
