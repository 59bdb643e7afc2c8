//! The attacher told by hand: what it asks of the driver, and what it says when it cannot.

use serde_json::{Value, json};

use super::super::Attacher;
use crate::controllers::Driver;
use crate::machine::{Effect, Input};
use crate::object::Change;
use crate::testing::{object, volume};
use crate::write::{Subresource, Write};

const FINALIZER: &str = "external-attacher/ebs-csi-aws-com";

/// The CSINode, the volume and an attachment that is ready to be carried out, or undone, as a test changes them.
fn ready() -> [Value; 3] {
    let node = json!({"kind": "CSINode", "metadata": {"name": "n"},
        "spec": {"drivers": [{"name": "another.driver", "nodeID": "not this one", "topologyKeys": []},
            {"name": "ebs.csi.aws.com", "nodeID": "i-1", "topologyKeys": []}]}});
    let mut volume = volume("v", "vol-1", "1Gi");
    volume["metadata"]["finalizers"] = json!([FINALIZER]);
    volume["spec"]["csi"]["volumeAttributes"] = json!({"partition": "1"});
    let attachment = json!({"kind": "VolumeAttachment",
        "metadata": {"name": "va", "uid": "u", "finalizers": [FINALIZER], "annotations": {"csi.alpha.kubernetes.io/node-id": "i-1"}},
        "spec": {"attacher": "ebs.csi.aws.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    [node, volume, attachment]
}

/// The first thing it does in such a world: a call, an object's metadata, or the errors in an attachment's status.
fn first(changes: &[(usize, &str, Value)]) -> Value {
    let mut known = ready();
    for (which, pointer, value) in changes {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        known[*which].pointer_mut(parent).unwrap()[last] = value.clone();
    }
    let (mut machine, mut out) = (Attacher::new(Driver::ebs()), Vec::new());
    for one in known {
        machine.step(&Input::Changed(Change::Added(object(one))), &mut out).unwrap();
    }
    machine.step(&Input::Booted, &mut out).unwrap();
    assert!(out.len() <= 1, "{out:?}");
    match out.pop() {
        None => Value::Null,
        Some(Effect::Csi { request, .. }) => json!(format!("{request:?}")),
        Some(Effect::Write { write: Write::Update { object, subresource }, .. }) => {
            let json = object.to_json().unwrap();
            match subresource {
                Subresource::None => json["metadata"].clone(),
                _ => json["status"].clone(),
            }
        }
        Some(other) => panic!("{other:?}"),
    }
}

const GOING: &str = "2026-01-01T00:00:00Z";

#[test]
fn what_it_asks_of_the_driver() {
    let asked = first(&[]).to_string();
    assert!(asked.contains("ControllerPublishVolume") && asked.contains("vol-1") && asked.contains("i-1"), "{asked}");
    assert!(asked.contains("partition") && asked.contains("readonly: false"), "{asked}");
    let asked = first(&[(2, "/metadata/deletionTimestamp", json!(GOING))]).to_string();
    assert!(asked.contains("ControllerUnpublishVolume") && asked.contains("vol-1") && asked.contains("i-1"), "{asked}");
    // The node has another id now than when it was attached, and no CSINode any more (#67853).
    for (pointer, value, id) in [("/spec/drivers/1/nodeID", json!("i-2"), "i-2"), ("/spec/drivers", json!([]), "i-1")] {
        let asked = first(&[(0, pointer, value), (2, "/metadata/deletionTimestamp", json!(GOING))]).to_string();
        assert!(asked.contains("ControllerUnpublishVolume") && asked.contains(id), "{asked}");
    }
}

/// An attachment that is not its own, that is done, or that has let go of it, is left alone.
#[test]
fn what_it_leaves_alone() {
    assert_eq!(first(&[(2, "/spec/attacher", json!("another.driver"))]), Value::Null);
    assert_eq!(first(&[(2, "/status", json!({"attached": true}))]), Value::Null);
    let gone = [(2, "/metadata/deletionTimestamp", json!(GOING)), (2, "/metadata/finalizers", json!(["another"]))];
    assert_eq!(first(&gone), Value::Null);
    // A volume that goes is kept by the attachment that names it, and by nothing of ours without the finalizer.
    let done = || (2, "/status", json!({"attached": true}));
    let elsewhere = || (2, "/spec/source/persistentVolumeName", json!("w"));
    let going = || (1, "/metadata/deletionTimestamp", json!(GOING));
    assert_eq!(first(&[done(), going()]), Value::Null);
    assert_eq!(first(&[done(), going(), elsewhere(), (1, "/metadata/finalizers", json!(["another"]))]), Value::Null);
    assert_eq!(first(&[done(), elsewhere()]), Value::Null);
    let freed = first(&[done(), going(), elsewhere(), (1, "/metadata/finalizers", json!([FINALIZER, "another"]))]);
    assert_eq!((&freed["name"], &freed["finalizers"]), (&json!("v"), &json!(["another"])));
}

/// Finalizers and the node's id come first, each once.
#[test]
fn what_it_writes_before_it_asks() {
    let on_volume = first(&[(1, "/metadata/finalizers", json!(["another"]))]);
    assert_eq!((&on_volume["name"], &on_volume["finalizers"]), (&json!("v"), &json!(["another", FINALIZER])));
    for (pointer, value) in [
        ("/metadata/finalizers", json!([])),
        ("/metadata/annotations", json!({})),
        ("/metadata/annotations", json!({"csi.alpha.kubernetes.io/node-id": "i-0"})),
    ] {
        let on_attachment = first(&[(2, pointer, value)]);
        assert_eq!(on_attachment["finalizers"], json!([FINALIZER]), "{pointer}");
        assert_eq!(on_attachment["annotations"], json!({"csi.alpha.kubernetes.io/node-id": "i-1"}), "{pointer}");
    }
}

/// What stands in the status when the driver cannot be asked.
#[test]
fn what_it_says_when_it_cannot() {
    let table = [
        ((0, "/spec/drivers", json!([])), "CSINode n does not contain driver ebs.csi.aws.com"),
        ((1, "/metadata/name", json!("w")), "persistentvolume \"v\" not found"),
        (
            (1, "/metadata/deletionTimestamp", json!(GOING)),
            "could not add PersistentVolume finalizer: PersistentVolume \"v\" is marked for deletion",
        ),
        ((1, "/spec/csi", Value::Null), "volume has no CSI volume source"),
        ((1, "/spec/accessModes", json!(["No such"])), "unsupported AccessMode combination: [\"No such\"]"),
    ];
    for (change, why) in table {
        assert_eq!(first(&[change])["attachError"], json!({"message": why}));
    }
    let going = || (2, "/metadata/deletionTimestamp", json!(GOING));
    let table = [
        (vec![(1, "/metadata/name", json!("w"))], "persistentvolume \"v\" not found"),
        (vec![(1, "/spec/csi", Value::Null)], "volume has no CSI volume source"),
        (
            vec![(0, "/spec/drivers", json!([])), (2, "/metadata/annotations", json!({}))],
            "could not get NodeID: CSINode n does not contain driver ebs.csi.aws.com",
        ),
    ];
    for (mut changes, why) in table {
        changes.push(going());
        assert_eq!(first(&changes)["detachError"], json!({"message": why}));
    }
}
