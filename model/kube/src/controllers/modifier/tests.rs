use model_common::csi::{Code, ControllerCall, Error};
use serde_json::{Value, json};

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class};
use crate::write::Write;

mod alone;

pub(super) fn attributes(name: &str, iops: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": name},
        "driverName": "ebs.csi.aws.com", "parameters": {"iops": iops}})
}

fn bound(seed: u64) -> World {
    let mut world = World::new(seed);
    world.apply(attributes("fast", "5000"));
    world.apply(attributes("faster", "6000"));
    world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.settle();
    world
}

fn want(world: &mut World, class: &str) {
    let key = Key::new(Kind::PersistentVolumeClaim, "default", "c");
    world.write(&Write::merge(key, json!({"spec": {"volumeAttributesClassName": class}}))).unwrap();
}

fn shown(world: &World) -> Value {
    world.json(Kind::PersistentVolumeClaim, "default", "c")
}

fn modifications(world: &World) -> Vec<String> {
    let iops = |call: &ControllerCall| match call {
        ControllerCall::ControllerModifyVolume { mutable_parameters, .. } => Some(mutable_parameters["iops"].clone()),
        _ => None,
    };
    world.calls.iter().filter_map(iops).collect()
}

#[test]
fn e12_a_volume_gets_what_its_claims_class_says() {
    let mut world = bound(1);
    want(&mut world, "fast");
    world.settle();
    let claim = shown(&world);
    assert_eq!(claim["status"]["currentVolumeAttributesClassName"], "fast");
    assert_eq!((claim["status"].get("modifyVolumeStatus"), claim["status"].get("conditions")), (None, None), "{claim:#}");
    let volume = world.json(Kind::PersistentVolume, "", claim["spec"]["volumeName"].as_str().unwrap());
    assert_eq!(volume["spec"]["volumeAttributesClassName"], "fast");
    assert_eq!(modifications(&world), ["5000"]);
    assert_eq!(world.said("VolumeModify"), ["external resizer is modifying volume c with vac fast"]);
    assert_eq!(world.said("VolumeModifySuccessful"), ["external resizer modified volume c with vac fast successfully"]);
}

#[test]
fn what_cannot_be_is_told_and_another_class_is_tried_at_once() {
    let mut world = bound(2);
    world.refusals.push(("ControllerModifyVolume", Error::new(Code::InvalidArgument, "too fast")));
    want(&mut world, "fast");
    while shown(&world)["status"]["modifyVolumeStatus"]["status"] != "Infeasible" {
        world.step();
    }
    let conditions = shown(&world)["status"]["conditions"].clone();
    assert_eq!(
        (&conditions[0]["type"], &conditions[0]["message"]),
        (&json!("ModifyingVolume"), &json!("Modifying volume to \"fast\" failed. Waiting for retry."))
    );
    assert_eq!(
        (&conditions[1]["type"], &conditions[1]["reason"], &conditions[1]["message"]),
        (&json!("ModifyVolumeError"), &json!("InvalidArgument"), &json!("too fast"))
    );
    let before = world.now;
    want(&mut world, "faster");
    while shown(&world)["status"]["currentVolumeAttributesClassName"] != "faster" {
        assert!(world.step(), "{:#}", shown(&world));
    }
    assert_eq!(modifications(&world), ["5000", "6000"]);
    assert!(world.now.duration_since(before).as_secs() < 60, "it did not wait");
    assert_eq!(world.said("VolumeModifyFailed"), ["rpc error: code = InvalidArgument desc = too fast"]);
}

#[test]
fn a_modification_that_may_go_on_is_finished_first() {
    let mut world = bound(3);
    world.refusals.push(("ControllerModifyVolume", Error::new(Code::DeadlineExceeded, "slow")));
    want(&mut world, "fast");
    while world.said("VolumeModifyFailed").is_empty() {
        world.step();
    }
    assert_eq!(world.said("VolumeModifyFailed"), ["rpc error: code = DeadlineExceeded desc = slow. Still modifying to VAC fast"]);
    want(&mut world, "faster");
    world.settle();
    assert_eq!(modifications(&world), ["5000", "5000", "6000"]);
    assert_eq!(shown(&world)["status"]["currentVolumeAttributesClassName"], "faster");
}

#[test]
fn a_class_that_comes_later_is_found_at_the_resync() {
    let mut world = bound(4);
    want(&mut world, "late");
    world.settle();
    assert_eq!(shown(&world)["status"]["modifyVolumeStatus"]["status"], "Pending");
    assert_eq!(world.said("VolumeModifyFailed"), ["VAC \"late\" does not exist."]);
    world.apply(attributes("late", "7000"));
    world.settle();
    assert!(modifications(&world).is_empty());
    world.resync();
    assert_eq!(shown(&world)["status"]["currentVolumeAttributesClassName"], "late");
}

#[test]
fn a_class_at_provisioning_is_the_drivers_and_stays_while_it_is_used() {
    let mut world = bound(5);
    let mut wanted = claim("d", "now", "ReadWriteOnce", "1Gi");
    wanted["spec"]["volumeAttributesClassName"] = json!("fast");
    world.apply(wanted);
    world.settle();
    let made: Vec<_> = world
        .calls
        .iter()
        .filter_map(|call| match call {
            ControllerCall::CreateVolume { mutable_parameters, .. } if !mutable_parameters.is_empty() => {
                Some(mutable_parameters["iops"].clone())
            }
            _ => None,
        })
        .collect();
    assert_eq!(made, ["5000"]);
    let claim = world.json(Kind::PersistentVolumeClaim, "default", "d");
    assert_eq!(claim["status"]["currentVolumeAttributesClassName"], "fast");
    world.delete(Kind::VolumeAttributesClass, "", "fast");
    world.delete(Kind::VolumeAttributesClass, "", "faster");
    world.settle();
    assert_eq!(world.json(Kind::VolumeAttributesClass, "", "faster"), Value::Null, "nobody has it");
    assert_eq!(world.json(Kind::VolumeAttributesClass, "", "fast")["metadata"]["finalizers"], json!(["kubernetes.io/vac-protection"]));
    world.delete(Kind::PersistentVolumeClaim, "default", "d");
    world.settle();
    assert_eq!(world.json(Kind::VolumeAttributesClass, "", "fast"), Value::Null);
}
