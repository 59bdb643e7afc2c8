use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, pod, volume};
use crate::write::Write;

mod alone;

#[test]
fn a_claim_in_use_stays_until_its_pod_is_gone() {
    let mut world = World::new(1);
    world.apply(class("now", "ebs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "now", "ReadWriteOnce", "1Gi"));
    world.apply(pod("app", "c"));
    world.settle();
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    world.settle();
    let held = world.json(Kind::PersistentVolumeClaim, "default", "c");
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    world.delete(Kind::Pod, "default", "app");
    world.settle();
    assert!(world.store.object(&Key::new(Kind::PersistentVolumeClaim, "default", "c")).is_none());
}

#[test]
fn a_pod_without_a_node_holds_nothing() {
    let mut world = World::new(2);
    world.apply(class("late", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("c", "late", "ReadWriteOnce", "1Gi"));
    let mut waiting = pod("app", "c");
    waiting["spec"]["nodeSelector"] = serde_json::json!({"no": "such"});
    world.apply(waiting);
    world.settle();
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    world.settle();
    assert!(world.store.object(&Key::new(Kind::PersistentVolumeClaim, "default", "c")).is_none());
}

#[test]
fn a_bound_volume_stays() {
    let mut world = World::new(3);
    world.apply(volume("v", "h", "1Gi"));
    world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
    world.settle();
    world.write(&Write::delete(Key::new(Kind::PersistentVolume, "", "v"))).unwrap();
    world.settle();
    assert!(world.json(Kind::PersistentVolume, "", "v")["metadata"]["deletionTimestamp"].is_string());
    world.delete(Kind::PersistentVolumeClaim, "default", "c");
    world.settle();
    assert!(world.store.object(&Key::new(Kind::PersistentVolume, "", "v")).is_none());
}
