//! All controllers together, in any order of events, with faults and crashes: the exercises of users.md §2.

use proptest::prelude::*;
use serde_json::json;

use crate::controllers::{Controller, Driver};
use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, pod, volume};
use crate::write::Write;

mod reference;

fn dynamic(world: &mut World) {
    // The workshop's order: pod, claim, class.
    world.apply(pod("app", "ebs-claim"));
    world.apply(claim("ebs-claim", "ebs-sc", "ReadWriteOnce", "10Gi"));
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
}

fn phase(world: &World, kind: Kind, namespace: &str, name: &str) -> String {
    world.json(kind, namespace, name)["status"]["phase"].as_str().unwrap_or("gone").to_owned()
}

#[test]
fn every_controller_has_its_name() {
    let mut names: Vec<&str> = Controller::builtin().iter().chain(&Controller::sidecars(&Driver::ebs())).map(Controller::name).collect();
    names.sort_unstable();
    // The resizer is two machines.
    names.dedup();
    let mut listed = Controller::NAMES;
    listed.sort_unstable();
    assert_eq!(names, listed);
}

#[test]
fn e03_a_dynamic_volume_comes_and_goes() {
    let mut world = World::new(1);
    dynamic(&mut world);
    world.settle();
    assert_eq!(phase(&world, Kind::Pod, "default", "app"), "Running");
    let claim = world.json(Kind::PersistentVolumeClaim, "default", "ebs-claim");
    assert_eq!(claim["status"]["phase"], "Bound");
    assert_eq!(claim["status"]["capacity"]["storage"], "10Gi");
    let uid = claim["metadata"]["uid"].as_str().unwrap().to_owned();
    let volume_name = format!("pvc-{uid}");
    let volume = world.json(Kind::PersistentVolume, "", &volume_name);
    assert_eq!(volume["status"]["phase"], "Bound");
    assert_eq!(volume["spec"]["csi"]["fsType"], "ext4");
    let node = world.json(Kind::Pod, "default", "app")["spec"]["nodeName"].as_str().unwrap().to_owned();
    let zone = if node == "node-a" { "us-east-1a" } else { "us-east-1b" };
    let affinity = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(affinity, &json!({"key": "topology.ebs.csi.aws.com/zone", "operator": "In", "values": [zone]}));
    assert_eq!(world.said("SuccessfulAttachVolume"), [format!("AttachVolume.Attach succeeded for volume \"{volume_name}\" ")]);
    assert_eq!(world.said("ProvisioningSucceeded"), [format!("Successfully provisioned volume {volume_name}")]);
    assert_eq!(world.said("Provisioning"), ["External provisioner is provisioning volume for claim \"default/ebs-claim\""]);
    assert_eq!(world.said("Scheduled"), [format!("Successfully assigned default/app to {node}")]);
    // Away again; the class goes at once.
    world.delete(Kind::Pod, "default", "app");
    world.delete(Kind::PersistentVolumeClaim, "default", "ebs-claim");
    world.delete(Kind::StorageClass, "", "ebs-sc");
    world.settle();
    assert_eq!(phase(&world, Kind::PersistentVolumeClaim, "default", "ebs-claim"), "gone");
    assert_eq!(phase(&world, Kind::PersistentVolume, "", &volume_name), "gone");
    assert_eq!(world.store.all(&Kind::VolumeAttachment).count(), 0);
    assert!(world.volumes.is_empty() && world.deleted.len() == 1);
    let status = world.json(Kind::Node, "", &node)["status"].clone();
    assert_eq!(status["volumesAttached"].as_array().map_or(0, Vec::len), 0, "{status}");
}

#[test]
fn e01_a_static_volume_outlives_its_claim() {
    let mut world = World::new(2);
    world.apply(volume("test-pv", "vol-1", "10Gi"));
    let mut wanted = claim("ebs-claim", "", "ReadWriteOnce", "10Gi");
    wanted["spec"]["volumeName"] = json!("test-pv");
    world.apply(wanted);
    world.apply(pod("app", "ebs-claim"));
    world.settle();
    assert_eq!(phase(&world, Kind::Pod, "default", "app"), "Running");
    assert_eq!(phase(&world, Kind::PersistentVolume, "", "test-pv"), "Bound");
    world.delete(Kind::Pod, "default", "app");
    world.settle();
    world.apply(pod("app", "ebs-claim"));
    world.settle();
    assert_eq!(phase(&world, Kind::Pod, "default", "app"), "Running");
    world.delete(Kind::Pod, "default", "app");
    world.delete(Kind::PersistentVolumeClaim, "default", "ebs-claim");
    world.settle();
    assert_eq!(phase(&world, Kind::PersistentVolume, "", "test-pv"), "Released");
    world.delete(Kind::PersistentVolume, "", "test-pv");
    world.settle();
    assert_eq!(phase(&world, Kind::PersistentVolume, "", "test-pv"), "gone");
    assert!(world.deleted.is_empty(), "Retain");
    assert!(world.attached["vol-1"].is_empty());
}

#[test]
fn f02_an_efs_claim_binds_at_once_and_nothing_is_attached() {
    let mut world = World::new(3);
    world.apply(class("efs-sc", "efs.csi.aws.com", "Immediate"));
    world.apply(claim("efs-claim", "efs-sc", "ReadWriteMany", "5Gi"));
    world.apply(pod("a", "efs-claim"));
    world.apply(pod("b", "efs-claim"));
    world.settle();
    assert_eq!(phase(&world, Kind::Pod, "default", "a"), "Running");
    assert_eq!(phase(&world, Kind::Pod, "default", "b"), "Running");
    assert!(world.attached.is_empty());
    assert_eq!(world.store.all(&Kind::VolumeAttachment).count(), 0);
}

#[test]
fn e07_a_claim_grows() {
    let mut world = World::new(4);
    dynamic(&mut world);
    world.settle();
    let key = Key::new(Kind::PersistentVolumeClaim, "default", "ebs-claim");
    world.write(&Write::merge(key, json!({"spec": {"resources": {"requests": {"storage": "20Gi"}}}}))).unwrap();
    world.settle();
    let claim = world.json(Kind::PersistentVolumeClaim, "default", "ebs-claim");
    assert_eq!(claim["status"]["allocatedResourceStatuses"]["storage"], "NodeResizePending");
    assert_eq!(claim["status"]["capacity"]["storage"], "10Gi", "the kubelet's to change");
    assert_eq!(claim["status"]["conditions"][0]["type"], "FileSystemResizePending");
    let volume = claim["spec"]["volumeName"].as_str().unwrap().to_owned();
    assert_eq!(world.json(Kind::PersistentVolume, "", &volume)["spec"]["capacity"]["storage"], "20Gi");
    assert_eq!(world.said("Resizing"), [format!("External resizer is resizing volume {volume}")]);
    assert_eq!(world.said("FileSystemResizeRequired"), ["Require file system resize of volume on node"]);
    assert_eq!(world.said("ExternalExpanding"), ["waiting for an external controller to expand this PVC"]);
}

/// What may happen to a world before it is left alone.
#[derive(Debug, Clone)]
enum Deed {
    Steps(u8),
    Crash(usize),
    DeletePod,
    PodAgain,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (1..60u8).prop_map(Deed::Steps),
        2 => (0..7usize).prop_map(Deed::Crash),
        1 => Just(Deed::DeletePod),
        1 => Just(Deed::PodAgain),
    ];
    prop::collection::vec(deed, 1..12)
}

const NAMES: [&str; 7] = ["pv-binder", "provisioner", "attachdetach", "attacher", "scheduler", "pvc-protection", "pv-protection"];

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    /// Whatever fails and crashes: at most one claim has a volume, nothing is mounted that is not attached, no volume is deleted
    /// while attached (all checked after each step), and left alone it all becomes well; then all goes, and nothing is left.
    #[test]
    fn left_alone_it_becomes_well(seed in any::<u64>(), faults in 0..12usize, deeds in deeds()) {
        let mut world = World::new(seed);
        world.faults = faults;
        dynamic(&mut world);
        for deed in deeds {
            match deed {
                Deed::Steps(steps) => for _ in 0..steps { world.step(); },
                Deed::Crash(which) => world.crash(NAMES[which]),
                Deed::DeletePod => { let _ = world.write(&Write::delete(Key::new(Kind::Pod, "default", "app"))); }
                Deed::PodAgain => { let _ = world.write(&Write::create(crate::testing::object(pod("app", "ebs-claim")))); }
            }
        }
        world.faults = 0;
        world.settle();
        let _ = world.write(&Write::create(crate::testing::object(pod("app", "ebs-claim"))));
        world.settle();
        prop_assert_eq!(phase(&world, Kind::Pod, "default", "app"), "Running");
        prop_assert_eq!(phase(&world, Kind::PersistentVolumeClaim, "default", "ebs-claim"), "Bound");
        prop_assert_eq!(world.volumes.len(), 1);
        world.delete(Kind::Pod, "default", "app");
        world.delete(Kind::PersistentVolumeClaim, "default", "ebs-claim");
        world.settle();
        world.resync();
        prop_assert_eq!(world.store.all(&Kind::PersistentVolume).count(), 0);
        prop_assert_eq!(world.store.all(&Kind::VolumeAttachment).count(), 0);
        prop_assert!(world.volumes.is_empty());
    }
}
