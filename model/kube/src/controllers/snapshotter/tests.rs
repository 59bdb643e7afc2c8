//! The snapshotter alone; together with the others it is in the snapshot controller's tests.

use model_common::csi::ControllerCall;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Snapshotter;
use crate::controllers::{Controller, Driver, has_finalizer};
use crate::machine::Effect;
use crate::object::Key;
use crate::snapshots::{self, BEING_CREATED, BEING_DELETED, CONTENT_FINALIZER, Item};
use crate::testing::alone::{self, Alone, Scene, delete, gone, put};
use crate::testing::snapshot_class;
use crate::write::Write;

fn contents(alone: &Alone) -> Vec<Item> {
    alone.told.keys(&snapshots::contents()).iter().filter_map(|key| Item::at(&alone.told, key)).collect()
}

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Csi { request: ControllerCall::CreateSnapshot { name, source_volume_id, parameters }, .. } => {
            let content = contents(alone).into_iter().find(|content| format!("snapshot-{}", content.snapshot_ref().2) == *name);
            let content = content.expect("a snapshot for no content");
            assert!(content.has_annotation(BEING_CREATED), "asked before the annotation says so: {content:?}");
            assert_eq!(content.volume_handle(), Some(source_volume_id.as_str()));
            assert_eq!(parameters["csi.storage.k8s.io/volumesnapshotcontent/name"], content.name());
        }
        Effect::Csi { request: ControllerCall::DeleteSnapshot { snapshot_id }, .. } => {
            let of_it: Vec<_> = contents(alone).into_iter().filter(|content| content.handle() == Some(snapshot_id)).collect();
            assert!(!of_it.is_empty(), "{snapshot_id} is no content's");
            let fit = of_it.iter().all(|content| {
                let (_, _, uid) = content.snapshot_ref();
                let unbound = content.given_handle().is_some() && uid.is_empty();
                let deleted = content.has_annotation(BEING_DELETED) && !content.has_annotation(BEING_CREATED);
                content.is_to_be_deleted() && content.is_terminating() && (unbound || deleted)
            });
            assert!(fit, "{snapshot_id} is deleted: {of_it:?}");
        }
        Effect::Write { write: Write::Update { object, .. }, .. } => {
            let new = Item::of(object).unwrap();
            let old = Item::at(&alone.told, &object.key()).unwrap();
            if has_finalizer(old.metadata(), CONTENT_FINALIZER) && !has_finalizer(new.metadata(), CONTENT_FINALIZER) {
                assert!(
                    new.is_terminating() && (!new.is_to_be_deleted() || new.handle().is_none()),
                    "let go before it is deleted: {new:?}"
                );
            }
            if old.handle().is_some() && new.handle().is_none() {
                assert!(!alone.snapshots.all.contains_key(old.handle().unwrap()), "forgotten before it is deleted: {old:?}");
            }
            if new.is_ready() && !old.is_ready() {
                assert!(alone.snapshots.all.contains_key(new.handle().unwrap()), "ready, and there is none: {new:?}");
            }
        }
        Effect::Csi { request: ControllerCall::ListSnapshots { .. }, .. } => {}
        Effect::Csi { .. } | Effect::Get { .. } | Effect::List { .. } | Effect::Write { .. } => panic!("{effect:?}"),
        _ => {}
    }
}

fn content(name: &str, source: &Value, uid: &str) -> Value {
    json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": {"name": name, "finalizers": [CONTENT_FINALIZER]}, "spec": {
        "volumeSnapshotRef": {"namespace": "default", "name": "s", "uid": uid}, "source": source,
        "driver": "ebs.csi.aws.com", "deletionPolicy": "Delete", "volumeSnapshotClassName": "vsc"}})
}

fn change(name: &str, change: Value) -> alone::Deed {
    let key = Key::new(snapshots::contents(), "", name);
    Box::new(move |alone| alone.amend(&key, &change))
}

fn by_hand() -> alone::Deed {
    Box::new(|alone| {
        // An id is never given twice.
        let deleted = alone.snapshots.deleted.clone();
        for name in ["x", "y"].into_iter().filter(|name| !deleted.contains(&format!("snap-{name}"))) {
            let (name, source_volume_id) = (name.to_owned(), "vol-x".to_owned());
            let parameters = std::collections::BTreeMap::new();
            let _ = alone.snapshots.drive(&ControllerCall::CreateSnapshot { name, source_volume_id, parameters });
        }
    })
}

fn scene() -> Scene {
    Scene {
        make: || Controller::Snapshotter(Snapshotter::new(Driver::ebs())),
        prepared: vec![put(snapshot_class("vsc", "Delete"))],
        others: Vec::new(),
        deeds: vec![
            put(content("made", &json!({"volumeHandle": "vol-1"}), "u-1")),
            put(content("given", &json!({"snapshotHandle": "snap-x"}), "u-2")),
            put(content("unbound", &json!({"snapshotHandle": "snap-y"}), "")),
            by_hand(),
            change("made", json!({"metadata": {"annotations": {BEING_DELETED: "yes"}}})),
            change("given", json!({"metadata": {"annotations": {BEING_DELETED: "yes"}}})),
            change("made", json!({"spec": {"deletionPolicy": "Retain"}})),
            change("made", json!({"spec": {"deletionPolicy": "Delete"}})),
            delete(snapshots::contents(), "", "made"),
            delete(snapshots::contents(), "", "given"),
            delete(snapshots::contents(), "", "unbound"),
            gone(snapshots::contents(), "", "made"),
            gone(snapshots::classes(), "", "vsc"),
            put(snapshot_class("vsc", "Delete")),
        ],
        rule,
        rest: |alone| {
            let all: Vec<Item> = alone.store.all(&snapshots::contents()).filter_map(|(_, object)| Item::of(object)).collect();
            for content in &all {
                let to_go = content.is_terminating() && content.has_annotation(BEING_DELETED) && !content.has_annotation(BEING_CREATED);
                assert!(!to_go || alone.armed.iter().any(|timer| *timer.item.name == *content.name()), "it does not go: {content:?}");
            }
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// Nothing is asked before the annotation says so; nothing is deleted that its policy keeps; nothing is let go before that.
    #[test]
    fn no_snapshot_is_lost_or_deleted_wrongly(moves in alone::moves()) {
        scene().run(&moves);
    }
}

/// Whatever answers are lost: one snapshot in the cloud for a VolumeSnapshot, and when both are deleted none.
#[test]
fn one_snapshot_whatever_answers_are_lost() {
    use crate::testing::{World, claim, class, snapshot};
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
        world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
        world.apply(snapshot_class("vsc", "Delete"));
        world.faults = 12;
        world.apply(snapshot("snap", Some("vsc"), "c"));
        for step in 0..200 {
            world.step();
            if (step + seed) % 61 == 0 {
                world.crash("snapshotter");
            }
            if (step + seed) % 83 == 0 {
                world.crash("snapshot-controller");
            }
            assert!(world.snapshots.all.len() <= 1, "seed {seed}: {:?}", world.snapshots.all);
        }
        world.faults = 0;
        world.settle();
        let shown = world.json(snapshots::snapshots(), "default", "snap");
        assert_eq!((&shown["status"]["readyToUse"], world.snapshots.all.len()), (&json!(true), 1), "seed {seed}: {shown:#}");
        world.faults = 6;
        world.delete(snapshots::snapshots(), "default", "snap");
        world.settle();
        assert_eq!(world.snapshots.all.len(), 0, "seed {seed}");
        assert_eq!(world.store.all(&snapshots::contents()).count(), 0, "seed {seed}");
    }
}
