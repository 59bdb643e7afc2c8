use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, pod};

mod alone;

fn ephemeral() -> serde_json::Value {
    let mut pod = pod("app", "");
    let template = claim("ignored", "ebs-sc", "ReadWriteOnce", "1Gi")["spec"].clone();
    pod["spec"]["volumes"] =
        json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": template}}}]);
    pod
}

#[test]
fn the_claim_lives_and_dies_with_the_pod() {
    let mut world = World::new(1);
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(ephemeral());
    world.settle();
    let made = world.json(Kind::PersistentVolumeClaim, "default", "app-data");
    assert_eq!(made["metadata"]["labels"]["a"], "b");
    assert_eq!(made["metadata"]["ownerReferences"][0]["controller"], true);
    assert_eq!(world.json(Kind::Pod, "default", "app")["status"]["phase"], "Running");
    world.delete(Kind::Pod, "default", "app");
    world.settle();
    assert!(world.store.object(&Key::new(Kind::PersistentVolumeClaim, "default", "app-data")).is_none());
    assert!(world.volumes.is_empty());
}

#[test]
fn a_claim_of_that_name_that_is_not_its_own_is_not_taken() {
    let mut world = World::new(2);
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("app-data", "ebs-sc", "ReadWriteOnce", "1Gi"));
    world.apply(ephemeral());
    world.settle();
    let expected = "ephemeral volume data: PVC default/app-data was not created for pod default/app (pod is not owner)";
    assert_eq!(world.said("FailedBinding"), [expected]);
    assert!(world.json(Kind::Pod, "default", "app")["spec"]["nodeName"].is_null());
}
