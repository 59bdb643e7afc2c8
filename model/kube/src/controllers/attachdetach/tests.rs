//! The attach/detach controller in the small world of `testing`; the handshake for itself is in `handshake`.

use serde_json::json;

use super::attachment_name;
use crate::object::{Key, Kind};
use crate::testing::{World, claim, pod, volume};
use crate::write::{Propagation, Write};

mod alone;
mod handshake;
mod lost;
mod table;

/// A static volume without nodeAffinity, used by `app` on node-a.
fn running(seed: u64) -> World {
    let mut world = World::new(seed);
    world.apply(volume("test-pv", "vol-1", "10Gi"));
    let mut wanted = claim("ebs-claim", "", "ReadWriteOnce", "10Gi");
    wanted["spec"]["volumeName"] = json!("test-pv");
    world.apply(wanted);
    world.apply(on("app", "node-a"));
    world.settle();
    assert!(world.attached["vol-1"].contains("node-a"));
    world
}

fn on(name: &str, node: &str) -> serde_json::Value {
    let mut pod = pod(name, "ebs-claim");
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn force_delete(world: &mut World, name: &str) {
    let key = Key::new(Kind::Pod, "default", name);
    world
        .write(&Write::Delete { key, uid: None, resource_version: None, grace_seconds: Some(0), propagation: Propagation::Background })
        .unwrap();
}

#[test]
fn the_attachment_has_the_real_name() {
    assert_eq!(
        attachment_name("vol-1", "ebs.csi.aws.com", "node-a"),
        "csi-7ba6b8ed285c3c863d675c3b4567d68ede4307ae1a37202e02bf2c4b9f42f28b"
    );
}

#[test]
fn a_second_node_gets_a_multi_attach_error_until_the_first_lets_go() {
    let mut world = running(1);
    world.apply(on("other", "node-b"));
    world.settle();
    assert_eq!(world.said("FailedAttachVolume"), ["Multi-Attach error for volume \"test-pv\" Volume is already used by pod(s) app"]);
    assert_eq!(world.attached["vol-1"].iter().collect::<Vec<_>>(), ["node-a"]);
    world.delete(Kind::Pod, "default", "app");
    world.settle();
    assert_eq!(world.attached["vol-1"].iter().collect::<Vec<_>>(), ["node-b"]);
    assert_eq!(world.json(Kind::Pod, "default", "other")["status"]["phase"], "Running");
}

#[test]
fn a_volume_in_use_on_a_healthy_node_is_never_detached_by_force() {
    // #106710: the kubelet does not unmount, the node is Ready.
    let mut world = running(2);
    world.dead.insert("node-a".into());
    force_delete(&mut world, "app");
    world.apply(on("other", "node-b"));
    world.settle();
    assert_eq!(world.attached["vol-1"].iter().collect::<Vec<_>>(), ["node-a"]);
}

#[test]
fn a_dead_node_loses_the_volume_after_six_minutes() {
    let mut world = running(3);
    world.dead.insert("node-a".into());
    world.crash("node-lifecycle");
    force_delete(&mut world, "app");
    world.apply(on("other", "node-b"));
    let start = world.now;
    world.settle();
    assert_eq!(world.attached["vol-1"].iter().collect::<Vec<_>>(), ["node-b"]);
    assert!(world.now.duration_since(start).as_secs() >= 360);
}

#[test]
fn a_node_out_of_service_loses_it_at_once() {
    let mut world = running(4);
    world.dead.insert("node-a".into());
    let node = Key::new(Kind::Node, "", "node-a");
    let taints = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    world.write(&Write::merge(node, json!({"spec": {"taints": taints}}))).unwrap();
    force_delete(&mut world, "app");
    let start = world.now;
    for _ in 0..2_000 {
        if world.now.duration_since(start).as_secs() > 10 || !world.step() {
            break;
        }
    }
    assert!(world.attached["vol-1"].is_empty());
}

#[test]
fn a_failed_attach_is_told_and_tried_again() {
    let mut world = World::new(5);
    let refusal = model_common::csi::Error::new(model_common::csi::Code::Internal, "Could not attach volume");
    world.refusals.push(("ControllerPublishVolume", refusal));
    world.apply(volume("test-pv", "vol-1", "10Gi"));
    let mut wanted = claim("ebs-claim", "", "ReadWriteOnce", "10Gi");
    wanted["spec"]["volumeName"] = json!("test-pv");
    world.apply(wanted);
    world.apply(on("app", "node-a"));
    world.settle();
    let told = world.said("FailedAttachVolume");
    let expected = "AttachVolume.Attach failed for volume \"test-pv\" : rpc error: code = Internal desc = Could not attach volume";
    assert!(!told.is_empty() && told.iter().all(|text| *text == expected), "{told:?}");
    assert!(world.attached["vol-1"].contains("node-a"));
    assert_eq!(world.said("SuccessfulAttachVolume").len(), 1);
}
