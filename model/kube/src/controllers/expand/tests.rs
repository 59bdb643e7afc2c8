//! The expand controller alone.

use proptest::prelude::*;
use serde_json::json;

use super::Expand;
use crate::controllers::Controller;
use crate::machine::{Effect, Input};
use crate::object::{Change, Key, Kind};
use crate::testing::alone::{self, Scene, bind, gone, put};
use crate::testing::{claim, class, volume};

fn scene() -> Scene {
    let mut manual = volume("v", "vol-1", "1Gi");
    manual["spec"]["storageClassName"] = json!("now");
    Scene {
        make: || Controller::Expand(Expand::default()),
        prepared: Vec::new(),
        others: Vec::new(),
        deeds: vec![
            put(class("now", "ebs.csi.aws.com", "Immediate")),
            put(manual),
            put(claim("c", "now", "ReadWriteOnce", "1Gi")),
            bind("c", "v"),
            put(claim("c", "now", "ReadWriteOnce", "2Gi")),
            put(json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"},
                "status": {"capacity": {"storage": "2Gi"}}})),
            gone(Kind::PersistentVolumeClaim, "default", "c"),
            gone(Kind::PersistentVolume, "", "v"),
        ],
        rule: |alone, effect| {
            let Effect::Record(record) = effect else { panic!("it does nothing but tell: {effect:?}") };
            let key = Key::new(Kind::PersistentVolumeClaim, "default", record.regarding.name.as_deref().unwrap());
            let claim = alone.told.object(&key).unwrap().to_json().unwrap();
            assert_eq!(claim["spec"]["volumeName"], "v");
            assert_eq!(
                (&claim["spec"]["resources"]["requests"]["storage"], &claim["status"]["capacity"]["storage"]),
                (&json!("2Gi"), &json!("1Gi"))
            );
        },
        rest: |alone| {
            // Told once: the same state again is no news.
            let mut machine = alone.machine.clone();
            for (_, claim) in alone.store.all(&Kind::PersistentVolumeClaim) {
                let mut out = Vec::new();
                machine.step(&Input::Changed(Change::Modified(claim.clone())), &mut out).unwrap();
                assert_eq!(out, []);
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// It tells of claims that are bound and ask for more than they have, once, and writes nothing.
    #[test]
    fn it_tells_once_and_does_nothing(moves in alone::moves()) {
        scene().run(&moves);
    }
}
