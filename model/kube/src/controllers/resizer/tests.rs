use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class};
use crate::write::Write;
use model_common::csi::{Code, Error};

mod alone;

fn grown(world: &mut World, size: &str) {
    let key = Key::new(Kind::PersistentVolumeClaim, "default", "c");
    world.write(&Write::merge(key, json!({"spec": {"resources": {"requests": {"storage": size}}}}))).unwrap();
}

fn bound(seed: u64) -> World {
    let mut world = World::new(seed);
    world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.settle();
    world
}

#[test]
fn what_cannot_be_is_said_and_the_request_may_be_lowered() {
    let mut world = bound(1);
    world.refusals.push(("ControllerExpandVolume", Error::new(Code::OutOfRange, "too big")));
    grown(&mut world, "100Ti");
    while world.said("VolumeResizeFailed").is_empty() {
        world.step();
    }
    let volume = world.json(Kind::PersistentVolumeClaim, "default", "c")["spec"]["volumeName"].as_str().unwrap().to_owned();
    let expected = format!("resize volume \"{volume}\" by resizer \"ebs.csi.aws.com\" failed: rpc error: code = OutOfRange desc = too big");
    assert_eq!(world.said("VolumeResizeFailed"), [expected]);
    let infeasible = world.store.since(0).unwrap().count();
    for _ in 0..200 {
        world.step();
        let stage = world.json(Kind::PersistentVolumeClaim, "default", "c")["status"]["allocatedResourceStatuses"]["storage"].clone();
        if stage == "ControllerResizeInfeasible" {
            return;
        }
    }
    panic!("no ControllerResizeInfeasible after event {infeasible}");
}

#[test]
fn a_failure_is_tried_again() {
    let mut world = bound(2);
    world.refusals.push(("ControllerExpandVolume", Error::new(Code::Internal, "later")));
    grown(&mut world, "2Gi");
    world.settle();
    let claim = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert_eq!(claim["status"]["allocatedResourceStatuses"]["storage"], "NodeResizePending");
    assert_eq!(claim["status"]["allocatedResources"]["storage"], "2Gi");
    assert_eq!(world.said("Resizing").len(), 2);
}

#[test]
fn a_crash_in_between_changes_nothing() {
    for seed in 0..20 {
        let mut world = bound(seed);
        grown(&mut world, "2Gi");
        for _ in 0..(seed * 2) {
            world.step();
        }
        world.crash("resizer");
        world.settle();
        let claim = world.json(Kind::PersistentVolumeClaim, "default", "c");
        assert_eq!(claim["status"]["allocatedResourceStatuses"]["storage"], "NodeResizePending", "seed {seed}");
        let volume = claim["spec"]["volumeName"].as_str().unwrap().to_owned();
        assert_eq!(world.json(Kind::PersistentVolume, "", &volume)["spec"]["capacity"]["storage"], "2Gi");
    }
}
