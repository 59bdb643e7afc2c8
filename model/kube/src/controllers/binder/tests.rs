//! The rules of §1.3–1.6, in the world of `testing`.

use proptest::prelude::*;
use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, object, pod, volume};
use crate::write::{Patch, Subresource, Write};

fn phases(world: &World, claim: &str, volume: &str) -> (String, String) {
    let phase = |json: serde_json::Value| json["status"]["phase"].as_str().unwrap_or("gone").to_owned();
    (phase(world.json(Kind::PersistentVolumeClaim, "default", claim)), phase(world.json(Kind::PersistentVolume, "", volume)))
}

#[test]
fn the_fewest_modes_then_the_smallest_wins() {
    let mut world = World::new(1);
    for (name, size, modes) in [
        ("big", "20Gi", vec!["ReadWriteOnce"]),
        ("fit", "10Gi", vec!["ReadWriteOnce"]),
        ("tight", "5Gi", vec!["ReadWriteOnce", "ReadWriteMany"]),
        ("small", "1Gi", vec!["ReadWriteOnce"]),
    ] {
        let mut json = volume(name, name, size);
        json["spec"]["accessModes"] = json!(modes);
        world.apply(json);
    }
    world.settle();
    world.apply(claim("c", "", "ReadWriteOnce", "5Gi"));
    world.settle();
    assert_eq!(phases(&world, "c", "fit"), ("Bound".into(), "Bound".into()));
    let bound = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert_eq!(bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(bound["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    assert_eq!(bound["status"]["capacity"]["storage"], "10Gi");
    assert_eq!(world.json(Kind::PersistentVolume, "", "fit")["spec"]["claimRef"]["uid"], bound["metadata"]["uid"]);
}

#[test]
fn why_a_claim_waits() {
    let mut world = World::new(2);
    world.apply(claim("none", "", "ReadWriteOnce", "1Gi"));
    world.apply(claim("missing", "nosuch", "ReadWriteOnce", "1Gi"));
    world.apply(class("late", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("delayed", "late", "ReadWriteOnce", "1Gi"));
    world.apply(volume("test-pv", "v", "1Gi"));
    let mut wrong = claim("big", "", "ReadWriteOnce", "2Gi");
    wrong["spec"]["volumeName"] = json!("test-pv");
    world.apply(wrong);
    world.settle();
    assert_eq!(world.said("WaitForFirstConsumer"), ["waiting for first consumer to be created before binding"]);
    assert_eq!(world.said("ProvisioningFailed"), ["storageclass.storage.k8s.io \"nosuch\" not found"]);
    assert_eq!(world.said("VolumeMismatch"), ["Cannot bind to requested volume \"test-pv\": requested PV is too small"]);
    // "none" found the volume that "big" may not have.
    assert_eq!(phases(&world, "none", "test-pv"), ("Bound".into(), "Bound".into()));
    world.apply(claim("more", "", "ReadWriteOnce", "1Gi"));
    world.settle();
    assert_eq!(world.said("FailedBinding").last(), Some(&"no persistent volumes available for this claim and no storage class is set"));
    // The periodic sync says it again; that is where the counts of `kubectl describe` come from.
    world.resync();
    assert_eq!(world.said("WaitForFirstConsumer").len(), 2);
}

#[test]
fn a_default_class_counts_for_claims_that_are_there_already() {
    let mut world = World::new(3);
    let mut json = claim("c", "", "ReadWriteOnce", "1Gi");
    json["spec"].as_object_mut().unwrap().remove("storageClassName");
    world.apply(json);
    world.settle();
    let mut default = class("gp3", "ebs.csi.aws.com", "Immediate");
    default["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    world.apply(default);
    world.settle();
    let bound = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert_eq!((bound["spec"]["storageClassName"].as_str(), bound["status"]["phase"].as_str()), (Some("gp3"), Some("Bound")));
}

#[test]
fn a_claim_whose_volume_vanishes_is_lost() {
    let mut world = World::new(4);
    world.apply(volume("v", "v", "1Gi"));
    world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
    world.settle();
    world.delete(Kind::PersistentVolume, "", "v");
    // Someone takes the finalizer off by hand.
    world.write(&Write::merge(Key::new(Kind::PersistentVolume, "", "v"), json!({"metadata": {"finalizers": null}}))).unwrap();
    world.settle();
    assert_eq!(phases(&world, "c", "v"), ("Lost".into(), "gone".into()));
    assert_eq!(world.said("ClaimLost"), ["Bound claim has lost its PersistentVolume. Data on the volume is lost!"]);
}

#[test]
fn a_volume_that_comes_before_its_claim_is_not_released() {
    // #83177: the controller sees the volume long before the claim; only a live read may release it.
    for seed in 0..20 {
        let mut world = World::new(seed);
        let made = world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
        let mut early = volume("v", "v", "1Gi");
        early["spec"]["claimRef"] = json!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": made.uid()});
        world.apply(early);
        world.settle();
        assert_eq!(phases(&world, "c", "v"), ("Bound".into(), "Bound".into()));
        let released = world.store.since(0).unwrap().any(|entry| entry.change.object().to_json().unwrap()["status"]["phase"] == "Released");
        assert!(!released, "seed {seed}");
    }
}

#[test]
fn a_released_volume_is_free_again_when_its_claim_ref_is_taken_off() {
    let mut world = World::new(5);
    world.apply(volume("v", "v", "1Gi"));
    world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
    world.settle();
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    world.settle();
    assert_eq!(phases(&world, "c", "v"), ("gone".into(), "Released".into()));
    world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
    world.settle();
    assert_eq!(phases(&world, "c", "v"), ("Pending".into(), "Released".into()), "a new claim of the same name does not get it");
    let patch = Patch::Merge(json!({"spec": {"claimRef": null}}));
    world.write(&Write::Patch { key: Key::new(Kind::PersistentVolume, "", "v"), patch, subresource: Subresource::None }).unwrap();
    world.settle();
    assert_eq!(phases(&world, "c", "v"), ("Bound".into(), "Bound".into()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 16, ..ProptestConfig::default() })]

    /// Claims compete for volumes while writes fail and the binder crashes: no volume is bound twice (checked after each step),
    /// and in the end as many are bound as there are matches, with both sides of one mind.
    #[test]
    fn a_volume_has_one_claim(seed in any::<u64>(), faults in 0..8usize, claims in 1..4usize, volumes in 1..4usize, crash in 0..120usize) {
        let mut world = World::new(seed);
        world.faults = faults;
        for n in 0..volumes {
            world.apply(volume(&format!("v{n}"), &format!("h{n}"), "1Gi"));
        }
        for n in 0..claims {
            world.apply(claim(&format!("c{n}"), "", "ReadWriteOnce", "1Gi"));
        }
        for _ in 0..crash {
            world.step();
        }
        world.crash("pv-binder");
        world.faults = 0;
        world.settle();
        world.resync();
        let mut bound = 0;
        for n in 0..claims {
            let claim = world.json(Kind::PersistentVolumeClaim, "default", &format!("c{n}"));
            if claim["status"]["phase"] == "Bound" {
                bound += 1;
                let volume = world.json(Kind::PersistentVolume, "", claim["spec"]["volumeName"].as_str().unwrap());
                prop_assert_eq!(&volume["spec"]["claimRef"]["uid"], &claim["metadata"]["uid"]);
                prop_assert_eq!(&volume["status"]["phase"], "Bound");
            }
        }
        prop_assert_eq!(bound, claims.min(volumes));
    }
}

#[test]
fn a_waiting_pod_is_named() {
    let mut world = World::new(6);
    world.apply(class("late", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    let mut waiting = pod("app", "delayed");
    waiting["spec"]["nodeSelector"] = json!({"no": "such"});
    world.write(&Write::create(object(waiting))).unwrap();
    world.settle();
    world.apply(claim("delayed", "late", "ReadWriteOnce", "1Gi"));
    world.settle();
    assert!(world.said("WaitForPodScheduled").contains(&"waiting for pod app to be scheduled"));
}
