//! Snapshot controller and snapshotter together with all others; each alone is beside its machine.

use model_common::csi::{Code, ContentSource, ControllerCall, Error};
use serde_json::{Value, json};

use crate::object::{Key, Kind};
use crate::snapshots;
use crate::testing::{World, claim, class, pod, snapshot, snapshot_class};
use crate::write::Write;

mod alone;

/// A world with a bound claim.
fn bound(seed: u64) -> World {
    let mut world = World::new(seed);
    world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.settle();
    world
}

/// With a snapshot of it.
fn snapped(seed: u64, policy: &str) -> World {
    let mut world = bound(seed);
    world.apply(snapshot_class("vsc", policy));
    world.apply(snapshot("snap", Some("vsc"), "c"));
    world.settle();
    world
}

fn shown(world: &World) -> Value {
    world.json(snapshots::snapshots(), "default", "snap")
}

fn the_content(world: &World) -> Value {
    let snapshot = shown(world);
    let made = format!("snapcontent-{}", snapshot["metadata"]["uid"].as_str().unwrap());
    let name = snapshot["spec"]["source"]["volumeSnapshotContentName"].as_str().unwrap_or(&made);
    world.json(snapshots::contents(), "", name)
}

fn restored(name: &str, size: &str) -> Value {
    let mut wanted = claim(name, "now", "ReadWriteOnce", size);
    wanted["spec"]["dataSource"] = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "snap"});
    wanted
}

fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn e08_a_snapshot_comes_is_restored_and_goes() {
    let mut world = snapped(1, "Delete");
    let snapshot = shown(&world);
    let status = &snapshot["status"];
    assert_eq!((&status["readyToUse"], &status["restoreSize"]), (&json!(true), &json!("1Gi")), "{snapshot:#}");
    assert_eq!(status["creationTime"], "2027-01-15T08:00:00Z");
    assert_eq!(status.get("error"), None);
    let uid = snapshot["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(status["boundVolumeSnapshotContentName"], format!("snapcontent-{uid}"));
    let content = the_content(&world);
    assert_eq!(content["spec"]["volumeSnapshotRef"]["uid"], uid.as_str());
    assert_eq!(content["status"]["snapshotHandle"], format!("snap-snapshot-{uid}"));
    assert_eq!(content["spec"]["sourceVolumeMode"], "Filesystem");
    assert_eq!(content["metadata"].get("annotations"), None, "{content:#}");
    assert_eq!(finalizers(&content), [snapshots::CONTENT_FINALIZER]);
    assert_eq!(finalizers(&snapshot), [snapshots::SOURCE_FINALIZER, snapshots::BOUND_FINALIZER]);
    let source = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert_eq!(finalizers(&source), ["kubernetes.io/pvc-protection"], "the claim is free again");
    assert_eq!(world.said("CreatingSnapshot"), ["Waiting for a snapshot default/snap to be created by the CSI driver."]);
    assert_eq!(world.said("SnapshotCreated"), ["Snapshot default/snap was successfully created by the CSI driver."]);
    assert_eq!(world.said("SnapshotReady"), ["Snapshot default/snap is ready to use."]);

    world.apply(restored("r", "2Gi"));
    world.settle();
    let made: Vec<_> = world
        .calls
        .iter()
        .filter_map(|call| match call {
            ControllerCall::CreateVolume { content_source: Some(source), .. } => Some(source.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(made, [ContentSource::Snapshot(format!("snap-snapshot-{uid}"))]);
    assert_eq!(world.json(Kind::PersistentVolumeClaim, "default", "r")["status"]["phase"], "Bound");
    assert_eq!(finalizers(&shown(&world)), [snapshots::SOURCE_FINALIZER, snapshots::BOUND_FINALIZER]);

    world.delete(snapshots::snapshots(), "default", "snap");
    world.settle();
    assert_eq!(shown(&world), Value::Null);
    assert_eq!(world.store.all(&snapshots::contents()).count(), 0);
    assert_eq!(world.snapshots.deleted, [format!("snap-snapshot-{uid}")]);
}

#[test]
fn retain_keeps_the_content_and_the_snapshot() {
    let mut world = snapped(2, "Retain");
    let content = the_content(&world)["metadata"]["name"].as_str().unwrap().to_owned();
    world.delete(snapshots::snapshots(), "default", "snap");
    world.settle();
    assert_eq!(shown(&world), Value::Null);
    let kept = world.json(snapshots::contents(), "", &content);
    assert_eq!(kept["metadata"]["annotations"][snapshots::BEING_DELETED], "yes", "{kept:#}");
    assert!(world.snapshots.deleted.is_empty());
    // By hand it goes, and the snapshot in the cloud stays.
    world.delete(snapshots::contents(), "", &content);
    world.settle();
    assert_eq!(world.json(snapshots::contents(), "", &content), Value::Null);
    assert!(world.snapshots.deleted.is_empty());
}

#[test]
fn e09_a_snapshot_from_elsewhere_is_bound_both_ways() {
    let mut world = bound(3);
    let id = world.snapshots.drive(&ControllerCall::CreateSnapshot {
        name: "by-hand".into(),
        source_volume_id: "vol-x".into(),
        parameters: std::collections::BTreeMap::new(),
    });
    assert!(matches!(id, Some(Ok(_))));
    world.apply(
        json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": "imported"}, "spec": {
        "volumeSnapshotRef": {"namespace": "default", "name": "snap"}, "source": {"snapshotHandle": "snap-by-hand"},
        "driver": "ebs.csi.aws.com", "deletionPolicy": "Delete"}}),
    );
    world.apply(
        json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "snap", "namespace": "default"},
        "spec": {"source": {"volumeSnapshotContentName": "imported"}}}),
    );
    world.settle();
    let snapshot = shown(&world);
    assert_eq!(snapshot["status"]["readyToUse"], true, "{snapshot:#}");
    assert_eq!(the_content(&world)["spec"]["volumeSnapshotRef"]["uid"], snapshot["metadata"]["uid"]);
    world.apply(restored("r", "1Gi"));
    world.settle();
    assert_eq!(world.json(Kind::PersistentVolumeClaim, "default", "r")["status"]["phase"], "Bound");
    world.delete(snapshots::snapshots(), "default", "snap");
    world.settle();
    assert_eq!(world.snapshots.deleted, ["snap-by-hand"]);
}

#[test]
fn a_content_of_another_snapshot_is_not_taken() {
    let mut world = bound(4);
    world.apply(
        json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": "theirs"}, "spec": {
        "volumeSnapshotRef": {"namespace": "default", "name": "other"}, "source": {"snapshotHandle": "snap-x"},
        "driver": "ebs.csi.aws.com", "deletionPolicy": "Delete"}}),
    );
    world.apply(
        json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "snap", "namespace": "default"},
        "spec": {"source": {"volumeSnapshotContentName": "theirs"}}}),
    );
    run(&mut world, 400);
    assert_eq!(world.said("SnapshotContentMisbound"), ["VolumeSnapshotContent [theirs] is bound to a different snapshot"]);
    assert_eq!(shown(&world)["status"]["readyToUse"], false);
    // Nothing is bound, so nothing holds it.
    world.delete(snapshots::snapshots(), "default", "snap");
    run(&mut world, 200);
    assert_eq!((shown(&world), world.snapshots.deleted.len()), (Value::Null, 0));
}

/// A world in which something is tried again for ever.
fn run(world: &mut World, steps: usize) {
    for _ in 0..steps {
        world.step();
    }
}

#[test]
fn the_default_class_of_the_driver_is_taken() {
    let mut world = bound(5);
    world.apply(snapshot("snap", None, "c"));
    run(&mut world, 200);
    let failed = "Failed to set default snapshot class with error cannot find default snapshot class";
    assert_eq!(world.said("SetDefaultSnapshotClassFailed"), [failed]);
    assert_eq!(shown(&world)["status"]["error"]["message"], failed);
    let mut other = snapshot_class("theirs", "Delete");
    other["metadata"]["annotations"] = json!({snapshots::DEFAULT_CLASS: "true"});
    other["driver"] = json!("efs.csi.aws.com");
    world.apply(other);
    let mut ours = snapshot_class("vsc", "Delete");
    ours["metadata"]["annotations"] = json!({snapshots::DEFAULT_CLASS: "true"});
    world.apply(ours);
    world.settle();
    let snapshot = shown(&world);
    assert_eq!((&snapshot["spec"]["volumeSnapshotClassName"], &snapshot["status"]["readyToUse"]), (&json!("vsc"), &json!(true)));
    assert_eq!(snapshot["status"].get("error"), None);
}

#[test]
fn what_is_missing_is_told_and_waited_for() {
    let mut world = World::new(6);
    world.apply(snapshot("snap", Some("vsc"), "c"));
    run(&mut world, 100);
    let no_class = "Failed to get snapshot class with error volumesnapshotclass.snapshot.storage.k8s.io \"vsc\" not found";
    assert_eq!(world.said("GetSnapshotClassFailed"), [no_class]);
    world.apply(snapshot_class("vsc", "Delete"));
    run(&mut world, 100);
    let no_claim = "Failed to create snapshot content with error snapshot controller failed to update snap on API server: \
                    cannot get claim from snapshot";
    assert_eq!(world.said("SnapshotContentCreationFailed"), [no_claim]);
    world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.settle();
    assert_eq!(shown(&world)["status"]["readyToUse"], true, "{:#}", shown(&world));
}

#[test]
fn a_claim_stays_while_it_is_snapped() {
    let mut world = bound(7);
    world.refusals.extend((0..3).map(|_| ("CreateSnapshot", Error::new(Code::Unavailable, "not now"))));
    world.apply(snapshot_class("vsc", "Delete"));
    world.apply(snapshot("snap", Some("vsc"), "c"));
    while world.said("SnapshotCreationFailed").is_empty() || the_content(&world)["status"]["error"].is_null() {
        world.step();
    }
    let volume = world.json(Kind::PersistentVolumeClaim, "default", "c")["spec"]["volumeName"].clone();
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    let held = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert!(finalizers(&held).contains(&snapshots::CLAIM_FINALIZER), "{held:#}");
    let content = the_content(&world);
    assert_eq!(content["metadata"]["annotations"][snapshots::BEING_CREATED], "yes", "{content:#}");
    let source = world.volumes.keys().next().unwrap();
    let expected = format!(
        "Failed to create snapshot: failed to take snapshot of the volume {source}: \"rpc error: code = Unavailable desc = not now\""
    );
    assert_eq!(content["status"]["error"]["message"], expected);
    world.settle();
    assert_eq!(world.json(Kind::PersistentVolumeClaim, "default", "c"), Value::Null, "then it goes");
    assert_eq!(world.json(Kind::PersistentVolume, "", volume.as_str().unwrap()), Value::Null);
    assert_eq!(shown(&world)["status"]["readyToUse"], true);
    assert_eq!(world.snapshots.all.len(), 1);
}

/// snap#134: the answer is lost, both are deleted, and the snapshot is there all the same.
#[test]
fn a_snapshot_that_was_made_unseen_is_deleted_too() {
    for seed in 0..10 {
        let mut world = bound(seed);
        world.apply(snapshot_class("vsc", "Delete"));
        world.apply(snapshot("snap", Some("vsc"), "c"));
        // Before the content has its finalizer it goes at once, and what the driver makes meanwhile stays, as upstream: the sidecar does
        // not wait for it.
        let is_held = |world: &World| finalizers(&the_content(world)).contains(&snapshots::CONTENT_FINALIZER);
        while !world.calls.iter().any(|call| matches!(call, ControllerCall::CreateSnapshot { .. })) || !is_held(&world) {
            world.step();
        }
        world.delete(snapshots::snapshots(), "default", "snap");
        world.delete(Kind::PersistentVolumeClaim, "default", "c");
        world.settle();
        assert_eq!((shown(&world), world.snapshots.all.len(), world.volumes.len()), (Value::Null, 0, 0), "seed {seed}");
        assert_eq!(world.store.all(&snapshots::contents()).count(), 0, "seed {seed}");
    }
}

#[test]
fn a_smaller_claim_is_refused() {
    let mut world = snapped(8, "Delete");
    world.apply(restored("r", "512Mi"));
    run(&mut world, 300);
    let expected = "failed to provision volume with StorageClass \"now\": error getting handle for DataSource Type VolumeSnapshot by Name snap: \
                    requested volume size 536870912 is less than the size 1073741824 for the source snapshot snap";
    assert_eq!(world.said("ProvisioningFailed")[0], expected);
    // Nor may the snapshot go meanwhile.
    world.delete(snapshots::snapshots(), "default", "snap");
    run(&mut world, 100);
    assert_eq!(world.said("SnapshotDeletePending")[0], "Snapshot is being used to restore a PVC");
    world.delete(Kind::PersistentVolumeClaim, "default", "r");
    world.settle();
    world.resync();
    assert_eq!(shown(&world), Value::Null);
}

#[test]
fn a_file_system_becomes_no_block_volume_unless_that_is_allowed() {
    let mut world = snapped(9, "Delete");
    let mut block = restored("r", "1Gi");
    block["spec"]["volumeMode"] = json!("Block");
    world.apply(block);
    run(&mut world, 300);
    assert!(world.said("ProvisioningFailed")[0].contains("modifies the mode of the source volume"), "{:?}", world.events);
    let content = the_content(&world)["metadata"]["name"].as_str().unwrap().to_owned();
    let allow = json!({"metadata": {"annotations": {snapshots::ALLOW_MODE_CHANGE: "true"}}});
    world.write(&Write::merge(Key::new(snapshots::contents(), "", &content), allow)).unwrap();
    world.settle();
    assert_eq!(world.json(Kind::PersistentVolumeClaim, "default", "r")["status"]["phase"], "Bound");
}

#[test]
fn e10_a_claim_is_cloned_and_stays_meanwhile() {
    let mut world = bound(10);
    world.apply(pod("app", "c"));
    world.settle();
    world.refusals.push(("CreateVolume", Error::new(Code::Internal, "not now")));
    let mut clone = claim("d", "now", "ReadWriteOnce", "1Gi");
    clone["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "c"});
    world.apply(clone.clone());
    while world.said("ProvisioningFailed").is_empty() {
        world.step();
    }
    world.delete(Kind::Pod, "default", "app");
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    run(&mut world, 400);
    let held = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert!(finalizers(&held).contains(&"provisioner.storage.kubernetes.io/cloning-protection"), "{held:#}");
    // As upstream: a clone that did not come before its source is being deleted does not come, and the source waits for it to go.
    let last = world.said("ProvisioningFailed").pop().unwrap().to_owned();
    assert!(last.ends_with("the PVC DataSource c is currently being deleted"), "{last}");
    world.delete(Kind::PersistentVolumeClaim, "default", "d");
    world.settle();
    assert_eq!(world.json(Kind::PersistentVolumeClaim, "default", "c"), Value::Null);
    assert!(world.volumes.is_empty(), "{:?}", world.volumes);

    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.apply(clone);
    world.settle();
    let source = world.json(Kind::PersistentVolumeClaim, "default", "c")["spec"]["volumeName"].as_str().unwrap().to_owned();
    let last = world.calls.iter().rev().find(|call| matches!(call, ControllerCall::CreateVolume { .. }));
    let Some(ControllerCall::CreateVolume { content_source, .. }) = last else { panic!("{last:?}") };
    assert_eq!(content_source, &Some(ContentSource::Volume(format!("vol-{source}"))));
    assert_eq!(world.json(Kind::PersistentVolumeClaim, "default", "d")["status"]["phase"], "Bound");
}
