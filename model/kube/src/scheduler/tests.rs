//! Where pods go, and the words when they go nowhere.

use serde_json::{Value, json};

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, pod, volume};
use crate::write::Write;
use model_common::csi::{Code, Error};

mod alone;

const NOT_HELPFUL: &str = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

fn node_of(world: &World, pod: &str) -> Value {
    world.json(Kind::Pod, "default", pod)["spec"]["nodeName"].clone()
}

#[test]
fn the_words_of_the_real_scheduler() {
    let mut world = World::new(1);
    world.apply(pod("lost", "nosuch"));
    world.settle();
    assert_eq!(
        world.said("FailedScheduling"),
        [format!("0/2 nodes are available: persistentvolumeclaim \"nosuch\" not found. {NOT_HELPFUL}")]
    );
    let condition = &world.json(Kind::Pod, "default", "lost")["status"]["conditions"][0];
    assert_eq!((condition["type"].as_str(), condition["reason"].as_str()), (Some("PodScheduled"), Some("Unschedulable")));
    assert!(condition["lastTransitionTime"].is_string());

    let mut world = World::new(2);
    world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
    world.apply(pod("app", "c"));
    world.settle();
    let expected = format!("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {NOT_HELPFUL}");
    assert_eq!(world.said("FailedScheduling").last(), Some(&expected.as_str()));
    // The claim is bound, and the pod goes.
    world.apply(volume("v", "vol-1", "1Gi"));
    world.settle();
    assert!(node_of(&world, "app").is_string());
}

#[test]
fn reasons_are_counted_and_sorted() {
    let mut world = World::new(3);
    let mut zonal = volume("v", "vol-1", "1Gi");
    zonal["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "topology.ebs.csi.aws.com/zone", "operator": "In", "values": ["us-east-1c"]}]}]}});
    world.apply(zonal);
    world.apply(claim("c", "", "ReadWriteOnce", "1Gi"));
    world.settle();
    let key = Key::new(Kind::Node, "", "node-a");
    world
        .write(&Write::merge(
            key,
            json!({"spec": {"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
        ))
        .unwrap();
    world.settle();
    world.apply(pod("app", "c"));
    world.settle();
    let expected = format!(
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) were unschedulable. {NOT_HELPFUL}"
    );
    assert_eq!(world.said("FailedScheduling"), [expected]);
}

#[test]
fn a_selector_and_an_untolerated_taint_decide() {
    let mut world = World::new(4);
    let mut chosen = pod("chosen", "none");
    chosen["spec"]["volumes"] = json!([]);
    chosen["spec"]["containers"][0]["volumeMounts"] = json!([]);
    chosen["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-b"});
    world.apply(chosen.clone());
    world.settle();
    assert_eq!(node_of(&world, "chosen"), "node-b");
    let key = Key::new(Kind::Node, "", "node-b");
    world.write(&Write::merge(key, json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))).unwrap();
    world.settle();
    chosen["metadata"]["name"] = json!("second");
    world.apply(chosen.clone());
    world.settle();
    let expected = format!(
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s). {NOT_HELPFUL}"
    );
    assert_eq!(world.said("FailedScheduling"), [expected]);
    chosen["metadata"]["name"] = json!("third");
    chosen["spec"]["tolerations"] = json!([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]);
    world.apply(chosen);
    world.settle();
    assert_eq!(node_of(&world, "third"), "node-b");
}

#[test]
fn a_node_that_cannot_provision_is_chosen_again() {
    // ResourceExhausted takes the annotation off; the pod is scheduled anew (§1.8, §4.1, L6).
    let mut world = World::new(5);
    world.refusals.push(("CreateVolume", Error::new(Code::ResourceExhausted, "no room in the zone")));
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("c", "ebs-sc", "ReadWriteOnce", "1Gi"));
    world.apply(pod("app", "c"));
    world.settle();
    assert_eq!(world.json(Kind::Pod, "default", "app")["status"]["phase"], "Running");
    let failed = world.said("FailedScheduling");
    assert_eq!(failed, ["running PreBind plugin \"VolumeBinding\": provisioning failed for PVC \"c\""]);
}

#[test]
fn a_full_node_takes_no_more_volumes() {
    let mut world = World::new(6);
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    for node in ["node-a", "node-b"] {
        let key = Key::new(Kind::CSINode, "", node);
        world
            .write(&Write::merge(
                key,
                json!({"spec": {"drivers": [{"name": "ebs.csi.aws.com", "nodeID": format!("i-{node}"),
            "topologyKeys": ["topology.ebs.csi.aws.com/zone"], "allocatable": {"count": 1}}]}}),
            ))
            .unwrap();
    }
    world.settle();
    for n in 0..3 {
        world.apply(claim(&format!("c{n}"), "ebs-sc", "ReadWriteOnce", "1Gi"));
        world.apply(pod(&format!("p{n}"), &format!("c{n}")));
    }
    world.settle();
    let placed = (0..3).filter(|n| node_of(&world, &format!("p{n}")).is_string()).count();
    assert_eq!(placed, 2);
    let expected = "0/2 nodes are available: 2 node(s) exceed max volume count. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert!(world.said("FailedScheduling").contains(&expected), "{:?}", world.said("FailedScheduling"));
}

#[test]
fn a_read_write_once_pod_claim_has_one_pod() {
    let mut world = World::new(7);
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("c", "ebs-sc", "ReadWriteOncePod", "1Gi"));
    world.apply(pod("first", "c"));
    world.settle();
    world.apply(pod("second", "c"));
    world.settle();
    assert_eq!(node_of(&world, "second"), Value::Null);
    assert!(
        world.said("FailedScheduling")[0]
            .contains("2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
    );
    world.delete(Kind::Pod, "default", "first");
    world.settle();
    assert_eq!(world.json(Kind::Pod, "default", "second")["status"]["phase"], "Running");
}

#[test]
fn pods_spread_over_the_nodes() {
    let mut world = World::new(8);
    world.apply(class("efs-sc", "efs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "efs-sc", "ReadWriteMany", "1Gi"));
    world.settle();
    for name in ["a", "b"] {
        world.apply(pod(name, "c"));
        world.settle();
    }
    assert_ne!(node_of(&world, "a"), node_of(&world, "b"));
}
