//! The ephemeral volume controller alone.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::super::{Ephemeral, is_owned};
use super::ephemeral;
use crate::controllers::{Controller, claims_of};
use crate::machine::Effect;
use crate::object::{Key, Kind};
use crate::testing::alone::{self, Scene, delete, gone, put, told};
use crate::testing::{claim, pod};
use crate::write::Write;

fn scene() -> Scene {
    let mut two = ephemeral();
    two["metadata"]["name"] = json!("two");
    let mut second = two["spec"]["volumes"][0].clone();
    second["name"] = json!("more");
    two["spec"]["volumes"].as_array_mut().unwrap().push(second);
    Scene {
        make: || Controller::Ephemeral(Ephemeral::default()),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(ephemeral()),
            put(two),
            put(pod("plain", "app-data")),
            delete(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "app"),
            gone(Kind::Pod, "default", "two"),
            put(claim("app-data", "ebs-sc", "ReadWriteOnce", "1Gi")),
            gone(Kind::PersistentVolumeClaim, "default", "app-data"),
            gone(Kind::PersistentVolumeClaim, "default", "two-data"),
            gone(Kind::PersistentVolumeClaim, "default", "two-more"),
        ],
        rule: |alone, effect| {
            let Effect::Write { write, .. } = effect else { return };
            let Write::Create { object } = write else { panic!("{write:?}") };
            let claim = object.get::<PersistentVolumeClaim>().unwrap();
            let owner = &claim.metadata.owner_references.as_ref().unwrap()[0];
            let pod = told::<Pod>(alone, &Key::new(Kind::Pod, "default", &owner.name)).expect("the owner");
            assert!(pod.metadata.deletion_timestamp.is_none() && pod.metadata.uid.as_ref() == Some(&owner.uid), "{claim:?}");
            assert!(owner.controller == Some(true) && claim.metadata.name.as_deref().unwrap().starts_with(&owner.name));
            assert!(alone.told.object(&object.key()).is_none(), "it is there already: {claim:?}");
        },
        rest: |alone| {
            for pod in alone.store.list::<Pod>().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
                let claims = || claims_of(pod).map(|name| alone.store.get::<PersistentVolumeClaim>("default", &name));
                let foreign = claims().flatten().any(|claim| !is_owned(claim, pod));
                let plain = pod.metadata.name.as_deref() == Some("plain");
                assert!(plain || foreign || claims().all(|claim| claim.is_some()), "a claim is missing: {pod:?}");
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A claim is made for a living pod only, and for each of its volumes in the end.
    #[test]
    fn each_living_pod_gets_its_claims(moves in alone::moves()) {
        scene().run(&moves);
    }
}
