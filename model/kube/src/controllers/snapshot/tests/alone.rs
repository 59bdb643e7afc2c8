//! The snapshot controller alone.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use proptest::prelude::*;
use serde_json::json;

use crate::controllers::snapshot::SnapshotController;
use crate::controllers::{Controller, has_finalizer};
use crate::machine::Effect;
use crate::object::{Key, Kind, Object};
use crate::snapshots::{self, BEING_DELETED, BOUND_FINALIZER, CLAIM_FINALIZER, CONTENT_FINALIZER, Item, SOURCE_FINALIZER};
use crate::testing::alone::{self, Alone, Scene, bind, delete, gone, put};
use crate::testing::{claim, snapshot, snapshot_class, volume};
use crate::write::{Subresource, Write};

fn rule(alone: &Alone, effect: &Effect) {
    match effect {
        Effect::Write { write: Write::Create { object }, .. } => {
            let content = Item::of(object).unwrap();
            let (namespace, name, uid) = content.snapshot_ref();
            let snapshot = Item::snapshot(&alone.told, namespace, name).expect("a content for no snapshot");
            assert_eq!((content.name(), snapshot.uid()), (format!("snapcontent-{uid}").as_str(), uid));
            let claim = snapshot.source_claim().unwrap();
            let claim = alone.told.get::<PersistentVolumeClaim>(namespace, claim).expect("of no claim");
            assert!(has_finalizer(&claim.metadata, CLAIM_FINALIZER), "a content before the claim is held");
        }
        Effect::Write { write: Write::Update { object: Object::PersistentVolumeClaim(new), .. }, .. } => {
            if has_finalizer(&new.metadata, CLAIM_FINALIZER) {
                return assert!(new.metadata.deletion_timestamp.is_none(), "a finalizer on a claim that goes");
            }
            // All but one that is itself let go.
            let unready = alone
                .told
                .keys(&snapshots::snapshots())
                .into_iter()
                .filter_map(|key| Item::at(&alone.told, &key))
                .filter(|known| known.source_claim() == new.metadata.name.as_deref() && !known.is_ready() && !known.is_terminating());
            assert_eq!(unready.count(), 0, "let go while a snapshot is made of it: {new:?}");
        }
        Effect::Write { write: Write::Update { object, subresource }, .. } => updated(alone, &Item::of(object).unwrap(), *subresource),
        Effect::Write { write: Write::Delete { key, .. }, .. } => {
            let content = Item::at(&alone.told, key).unwrap();
            let (namespace, name, uid) = content.snapshot_ref();
            let snapshot = Item::snapshot(&alone.told, namespace, name).expect("the content of no snapshot is deleted");
            assert!(snapshot.uid() == uid && snapshot.is_terminating(), "{snapshot:?}");
            assert!(content.is_to_be_deleted() && content.has_annotation(BEING_DELETED), "{content:?}");
        }
        Effect::Csi { .. } | Effect::Get { .. } | Effect::List { .. } => panic!("{effect:?}"),
        _ => {}
    }
}

fn updated(alone: &Alone, new: &Item, subresource: Subresource) {
    let old = Item::at(&alone.told, &new.object().key()).unwrap();
    if subresource == Subresource::Status {
        if new.is_ready() && !old.is_ready() {
            let content = Item::content(&alone.told, new.bound_content().unwrap()).expect("ready without a content");
            assert!(content.is_ready() && content.points_to(new), "ready before its content: {content:?}");
        }
        return;
    }
    let lost = |finalizer| has_finalizer(old.metadata(), finalizer) && !has_finalizer(new.metadata(), finalizer);
    assert!(!lost(CONTENT_FINALIZER), "the sidecar's to take away");
    if lost(BOUND_FINALIZER) || lost(SOURCE_FINALIZER) {
        assert!(new.is_terminating(), "{old:?}");
    }
    if lost(BOUND_FINALIZER) {
        let contents = alone.told.keys(&snapshots::contents()).into_iter().filter_map(|key| Item::at(&alone.told, &key));
        let bound = Some(new.bound_content().map_or_else(|| format!("snapcontent-{}", new.uid()), str::to_owned));
        let kept =
            contents.filter(|content| Some(content.name()) == bound.as_deref() && content.points_to(new) && content.is_to_be_deleted());
        assert_eq!(kept.count(), 0, "let go before its content is gone: {new:?}");
    }
}

/// The sidecar's part, done to all contents.
fn sidecar(status: serde_json::Value) -> alone::Deed {
    Box::new(move |alone| {
        let keys: Vec<Key> = alone.store.all(&snapshots::contents()).map(|(key, _)| key.clone()).collect();
        for key in keys {
            alone.amend(&key, &json!({"status": status}));
        }
    })
}

/// The sidecar lets go of what is terminating.
fn let_go() -> alone::Deed {
    Box::new(|alone| {
        let contents: Vec<Item> = alone.store.all(&snapshots::contents()).filter_map(|(_, object)| Item::of(object)).collect();
        for content in contents.iter().filter(|content| content.is_terminating() && content.has_annotation(BEING_DELETED)) {
            let _ = alone.write(&Write::merge(content.object().key(), json!({"metadata": {"finalizers": null}})));
        }
    })
}

fn policy(policy: &'static str) -> alone::Deed {
    Box::new(move |alone| {
        let keys: Vec<Key> = alone.store.all(&snapshots::contents()).map(|(key, _)| key.clone()).collect();
        for key in keys {
            alone.amend(&key, &json!({"spec": {"deletionPolicy": policy}}));
        }
    })
}

fn scene() -> Scene {
    let imported = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": "imported"}, "spec": {
        "volumeSnapshotRef": {"namespace": "default", "name": "given"}, "source": {"snapshotHandle": "snap-x"},
        "driver": "ebs.csi.aws.com", "deletionPolicy": "Delete"}});
    let given = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "given", "namespace": "default"},
        "spec": {"source": {"volumeSnapshotContentName": "imported"}}});
    let mut restored = claim("r", "now", "ReadWriteOnce", "1Gi");
    restored["spec"]["dataSource"] = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "one"});
    restored["status"] = json!({"phase": "Pending"});
    Scene {
        make: || Controller::Snapshots(SnapshotController::default()),
        prepared: Vec::new(),
        others: vec![let_go()],
        deeds: vec![
            put(claim("c", "now", "ReadWriteOnce", "1Gi")),
            put(volume("v", "vol-v", "1Gi")),
            bind("c", "v"),
            put(snapshot_class("vsc", "Delete")),
            put(snapshot_class("keep", "Retain")),
            put(snapshot("one", Some("vsc"), "c")),
            put(snapshot("two", Some("keep"), "c")),
            put(imported),
            put(given),
            sidecar(json!({"readyToUse": false, "snapshotHandle": "snap-1", "error": {"message": "no"}})),
            sidecar(json!({"readyToUse": true, "snapshotHandle": "snap-1", "restoreSize": 1, "creationTime": 1, "error": null})),
            let_go(),
            policy("Retain"),
            policy("Delete"),
            put(restored),
            put(json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "r", "namespace": "default"}, "status": {"phase": "Bound"}})),
            delete(Kind::PersistentVolumeClaim, "default", "c"),
            delete(snapshots::snapshots(), "default", "one"),
            delete(snapshots::snapshots(), "default", "two"),
            delete(snapshots::snapshots(), "default", "given"),
            delete(snapshots::contents(), "", "imported"),
            gone(snapshots::snapshots(), "default", "one"),
            gone(snapshots::classes(), "", "vsc"),
        ],
        rule,
        rest: |alone| {
            // A claim that goes waits for no snapshot that is ready or gone.
            let Some(claim) = alone.store.get::<PersistentVolumeClaim>("default", "c") else { return };
            let mut open = alone.store.all(&snapshots::snapshots()).filter_map(|(_, object)| Item::of(object));
            let used = open.any(|snapshot| snapshot.source_claim() == Some("c") && !snapshot.is_ready());
            let left = has_finalizer(&claim.metadata, CLAIM_FINALIZER) && !used;
            let any = alone
                .store
                .all(&snapshots::snapshots())
                .any(|(_, object)| Item::of(object).is_some_and(|it| it.source_claim() == Some("c")));
            assert!(!left || !any, "nobody lets go of {claim:?}");
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// A content comes after the claim is held, is deleted for its own snapshot only and by its policy; finalizers go last.
    #[test]
    fn snapshots_and_contents_hold_each_other(moves in alone::moves()) {
        scene().run(&moves);
    }
}
