use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, pod};
use crate::write::{Patch, Subresource, Write};

mod alone;

fn silent() -> World {
    let mut world = World::new(1);
    world.apply(class("efs-sc", "efs.csi.aws.com", "Immediate"));
    world.apply(claim("c", "efs-sc", "ReadWriteMany", "1Gi"));
    let mut app = pod("app", "c");
    app["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-a"});
    world.apply(app);
    world.settle();
    world.dead.insert("node-a".into());
    world.crash("node-lifecycle");
    world
}

fn ready(world: &World) -> (String, String) {
    let node = world.json(Kind::Node, "", "node-a");
    let condition = node["status"]["conditions"].as_array().unwrap().iter().find(|known| known["type"] == "Ready").unwrap().clone();
    (condition["status"].as_str().unwrap().into(), condition["message"].as_str().unwrap_or("").into())
}

#[test]
fn a_silent_node_is_unknown_after_50_s_and_loses_its_pods_after_300_more() {
    let mut world = silent();
    let start = world.now;
    while ready(&world).0 == "True" {
        assert!(world.step());
    }
    assert_eq!(world.now.duration_since(start).as_secs(), 50);
    assert_eq!(ready(&world), ("Unknown".into(), "Kubelet stopped posting node status.".into()));
    while world.json(Kind::Pod, "default", "app")["metadata"]["deletionTimestamp"].is_null() {
        assert!(world.step());
    }
    assert_eq!(world.now.duration_since(start).as_secs(), 350);
    let taints = world.json(Kind::Node, "", "node-a")["spec"]["taints"].clone();
    let has =
        |effect: &str| {
            taints.as_array().unwrap().iter().any(|taint| {
                taint["key"] == "node.kubernetes.io/unreachable" && taint["effect"] == effect && taint["timeAdded"].is_string()
            })
        };
    assert!(has("NoExecute") && has("NoSchedule"), "{taints}");
    assert_eq!(world.said("TaintManagerEviction"), ["Marking for deletion Pod default/app"]);
    assert_eq!(world.said("NodeNotReady"), ["Node node-a status is now: NodeNotReady"]);
}

#[test]
fn a_node_that_speaks_again_keeps_its_pods() {
    let mut world = silent();
    while ready(&world).0 == "True" {
        assert!(world.step());
    }
    for _ in 0..50 {
        if world.json(Kind::Node, "", "node-a")["spec"]["taints"].is_array() {
            break;
        }
        world.step();
    }
    world.dead.clear();
    let patch =
        Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2030-01-01T00:00:00Z"}]}}));
    world.write(&Write::Patch { key: Key::new(Kind::Node, "", "node-a"), patch, subresource: Subresource::Status }).unwrap();
    world.settle();
    assert!(world.json(Kind::Node, "", "node-a")["spec"]["taints"].is_null());
    assert!(world.json(Kind::Pod, "default", "app")["metadata"]["deletionTimestamp"].is_null());
}
