use model_common::csi::{Access, AccessMode, Code, ControllerCall, Error};
use serde_json::json;

use crate::object::Kind;
use crate::testing::{World, claim, class, pod};

mod alone;

#[test]
fn the_request_says_what_the_real_one_says() {
    let mut world = World::new(1);
    let mut fast = class("fast", "ebs.csi.aws.com", "Immediate");
    fast["parameters"] = json!({"csi.storage.k8s.io/fstype": "xfs", "type": "io1", "iopsPerGB": "50"});
    fast["mountOptions"] = json!(["noatime"]);
    world.apply(fast);
    let made = world.apply(claim("c", "fast", "ReadWriteOnce", "4Gi"));
    world.settle();
    let ControllerCall::CreateVolume { name, capacity, capabilities, parameters, topology, .. } = world.calls[0].clone() else {
        panic!("{:?}", world.calls)
    };
    assert_eq!((name.as_str(), capacity.required_bytes, capacity.limit_bytes), (format!("pvc-{}", made.uid()).as_str(), 4 << 30, 0));
    let access = Access::Mount { fs_type: "xfs".into(), mount_flags: vec!["noatime".into()], volume_mount_group: String::new() };
    assert_eq!((capabilities[0].mode, &capabilities[0].access), (AccessMode::SingleNodeWriter, &access));
    let keys: Vec<&str> = parameters.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["csi.storage.k8s.io/pv/name", "csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace", "iopsPerGB", "type"]
    );
    let topology = topology.unwrap();
    assert_eq!(topology.requisite.len(), 2, "both zones");
    let volume = world.json(Kind::PersistentVolume, "", &name);
    assert_eq!(volume["spec"]["csi"]["fsType"], "xfs");
    assert_eq!(volume["spec"]["mountOptions"], json!(["noatime"]));
    assert_eq!(volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], "ebs.csi.aws.com");
    assert!(volume["metadata"]["finalizers"].as_array().unwrap().contains(&json!("external-provisioner.volume.kubernetes.io/finalizer")));
}

#[test]
fn the_schedulers_node_comes_first() {
    let mut world = World::new(2);
    world.apply(class("late", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("c", "late", "ReadWriteOnce", "1Gi"));
    let mut chosen = pod("app", "c");
    chosen["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-b"});
    world.apply(chosen);
    world.settle();
    let ControllerCall::CreateVolume { topology: Some(topology), .. } = world.calls[0].clone() else { panic!("{:?}", world.calls) };
    assert_eq!(topology.preferred[0]["topology.ebs.csi.aws.com/zone"], "us-east-1b");
}

#[test]
fn a_failure_is_told_and_tried_again() {
    let mut world = World::new(3);
    world.refusals.push(("CreateVolume", Error::new(Code::Internal, "boom")));
    world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.settle();
    let expected = "failed to provision volume with StorageClass \"now\": rpc error: code = Internal desc = boom";
    assert_eq!(world.said("ProvisioningFailed"), [expected]);
    assert_eq!(world.said("ProvisioningSucceeded").len(), 1);
}

#[test]
fn a_reserved_parameter_that_nobody_knows_is_refused() {
    let mut world = World::new(4);
    let mut odd = class("odd", "ebs.csi.aws.com", "Immediate");
    odd["parameters"] = json!({"csi.storage.k8s.io/oops": "1"});
    world.apply(odd);
    world.apply(claim("c", "odd", "ReadWriteOnce", "1Gi"));
    for _ in 0..400 {
        world.step();
    }
    assert!(world.calls.is_empty());
    assert!(world.said("ProvisioningFailed")[0].contains("found unknown parameter key \"csi.storage.k8s.io/oops\""));
}

#[test]
fn a_volume_whose_claim_went_meanwhile_is_not_leaked() {
    // prov#131: CreateVolume is applied and times out; the claim is deleted before the retry.
    for seed in 0..10 {
        let mut world = World::new(seed);
        world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
        world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
        while world.calls.is_empty() {
            world.step();
        }
        world.delete(Kind::PersistentVolumeClaim, "default", "c");
        world.settle();
        world.resync();
        assert!(world.volumes.is_empty(), "seed {seed}: {:?}", world.volumes);
        assert_eq!(world.store.all(&Kind::PersistentVolume).count(), 0);
    }
}

#[test]
fn retain_deletes_nothing() {
    let mut world = World::new(5);
    let mut keep = class("keep", "ebs.csi.aws.com", "Immediate");
    keep["reclaimPolicy"] = json!("Retain");
    world.apply(keep);
    world.apply(claim("c", "keep", "ReadWriteOnce", "1Gi"));
    world.settle();
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    world.settle();
    assert_eq!(world.volumes.len(), 1);
    assert!(world.deleted.is_empty());
}
