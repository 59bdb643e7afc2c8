use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, workload};
use crate::write::Write;

mod alone;

fn set() -> serde_json::Value {
    let mut set = workload("DaemonSet", "ds", 1);
    set["spec"].as_object_mut().unwrap().remove("replicas");
    set
}

fn nodes(world: &World) -> Vec<String> {
    let mut nodes: Vec<String> = world
        .store
        .all(&Kind::Pod)
        .map(|(key, _)| world.json(Kind::Pod, "default", &key.name)["spec"]["nodeName"].as_str().unwrap_or("").to_owned())
        .collect();
    nodes.sort();
    nodes
}

#[test]
fn each_node_has_one_and_a_new_node_gets_one() {
    let mut world = World::new(1);
    world.apply(set());
    world.settle();
    assert_eq!(nodes(&world), ["node-a", "node-b"]);
    world.node("node-c", "us-east-1c");
    world.settle();
    assert_eq!(nodes(&world), ["node-a", "node-b", "node-c"]);
    let status = world.json(Kind::DaemonSet, "default", "ds")["status"].clone();
    assert!(status["desiredNumberScheduled"] == 3 && status["numberAvailable"] == 3 && status["updatedNumberScheduled"] == 3, "{status}");
    let pod = world.store.all(&Kind::Pod).next().map(|(_, pod)| pod.to_json().unwrap()).unwrap();
    let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchFields"], json!([{"key": "metadata.name", "operator": "In", "values": [pod["spec"]["nodeName"]]}]));
    let tolerated = pod["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerated.iter().any(|one| one["key"] == "node.kubernetes.io/unschedulable" && one["effect"] == "NoSchedule"));
    // Not where a taint forbids it, nor where the selector does not match.
    let key = Key::new(Kind::Node, "", "node-c");
    world.write(&Write::merge(key, json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}))).unwrap();
    world.settle();
    assert_eq!(nodes(&world), ["node-a", "node-b"]);
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-b"}}}}});
    world.write(&Write::merge(Key::new(Kind::DaemonSet, "default", "ds"), selector)).unwrap();
    world.settle();
    assert_eq!(nodes(&world), ["node-b"]);
}

#[test]
fn a_new_template_goes_round_one_node_at_a_time() {
    let mut world = World::new(2);
    world.apply(set());
    world.settle();
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}});
    world.write(&Write::merge(Key::new(Kind::DaemonSet, "default", "ds"), patch)).unwrap();
    world.settle();
    assert_eq!(nodes(&world), ["node-a", "node-b"]);
    for (key, _) in world.store.all(&Kind::Pod) {
        assert_eq!(world.json(Kind::Pod, "default", &key.name)["metadata"]["annotations"]["a"], "b");
    }
    assert_eq!(world.said("SuccessfulDelete").len(), 2);
    assert_eq!(world.store.all(&Kind::ControllerRevision).count(), 2);
}
