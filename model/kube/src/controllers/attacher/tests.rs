use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, object, volume};
use crate::write::Write;
use model_common::csi::{Code, ControllerCall, Error};

mod alone;
mod table;

fn attachment(volume: &str, node: &str) -> serde_json::Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": format!("va-{volume}-{node}")},
        "spec": {"attacher": "ebs.csi.aws.com", "nodeName": node, "source": {"persistentVolumeName": volume}}})
}

#[test]
fn an_attachment_is_carried_out_and_undone() {
    let mut world = World::new(1);
    world.apply(volume("v", "vol-1", "1Gi"));
    world.write(&Write::create(object(attachment("v", "node-a")))).unwrap();
    world.settle();
    let made = world.json(Kind::VolumeAttachment, "", "va-v-node-a");
    assert_eq!(made["status"]["attached"], true);
    assert_eq!(made["status"]["attachmentMetadata"]["devicePath"], "/dev/xvdaa");
    assert_eq!(made["metadata"]["finalizers"], json!(["external-attacher/ebs-csi-aws-com"]));
    assert_eq!(made["metadata"]["annotations"]["csi.alpha.kubernetes.io/node-id"], "i-node-a");
    assert!(matches!(&world.calls[0], ControllerCall::ControllerPublishVolume { volume_id, node_id, readonly: false, .. }
        if volume_id == "vol-1" && node_id == "i-node-a"));
    // The node's CSINode goes first; the annotation still knows the id (#67853).
    world.delete(Kind::CSINode, "", "node-a");
    world.delete(Kind::VolumeAttachment, "", "va-v-node-a");
    world.settle();
    assert!(world.store.object(&Key::new(Kind::VolumeAttachment, "", "va-v-node-a")).is_none());
    assert!(world.attached["vol-1"].is_empty());
    world.delete(Kind::PersistentVolume, "", "v");
    world.settle();
    assert!(world.store.object(&Key::new(Kind::PersistentVolume, "", "v")).is_none(), "the finalizers are off");
}

#[test]
fn an_error_stands_in_the_status_until_it_works() {
    let mut world = World::new(2);
    world.refusals.push(("ControllerPublishVolume", Error::new(Code::NotFound, "Volume not found")));
    world.apply(volume("v", "vol-1", "1Gi"));
    world.write(&Write::create(object(attachment("v", "node-a")))).unwrap();
    let start = world.now;
    while world.json(Kind::VolumeAttachment, "", "va-v-node-a")["status"]["attached"] != true {
        assert!(world.step());
    }
    let seen = world.store.since(0).unwrap().any(|entry| {
        let error = entry.change.object().to_json().unwrap()["status"]["attachError"].clone();
        error["message"] == "rpc error: code = NotFound desc = Volume not found" && error["errorCode"] == 5 && error["time"].is_string()
    });
    assert!(seen);
    let made = world.json(Kind::VolumeAttachment, "", "va-v-node-a");
    assert_eq!((made["status"]["attached"].as_bool(), made["status"]["attachError"].is_null()), (Some(true), true));
    assert_eq!(world.now.duration_since(start).as_secs(), 1, "one retry after a second");
}

#[test]
fn a_node_without_the_driver_is_named() {
    let mut world = World::new(3);
    world.apply(volume("v", "vol-1", "1Gi"));
    world.write(&Write::create(object(attachment("v", "nosuch")))).unwrap();
    for _ in 0..400 {
        world.step();
    }
    let made = world.json(Kind::VolumeAttachment, "", "va-v-nosuch");
    assert_eq!(made["status"]["attachError"]["message"], "CSINode nosuch does not contain driver ebs.csi.aws.com");
    assert!(world.calls.is_empty());
}
