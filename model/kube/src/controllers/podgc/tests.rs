use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, pod};

mod alone;

fn placed(seed: u64) -> World {
    let mut world = World::new(seed);
    let mut app = pod("app", "");
    app["spec"]["volumes"] = json!([]);
    app["spec"]["containers"][0]["volumeMounts"] = json!([]);
    app["spec"]["nodeName"] = json!("node-a");
    world.apply(app);
    world.settle();
    world
}

#[test]
fn a_pod_goes_40_s_after_its_node() {
    let mut world = placed(1);
    world.dead.insert("node-a".into());
    world.delete(Kind::Node, "", "node-a");
    let start = world.now;
    world.settle();
    assert!(world.store.object(&Key::new(Kind::Pod, "default", "app")).is_none());
    assert_eq!(world.now.duration_since(start).as_secs(), 40);
    let told = world.store.since(0).unwrap().any(|entry| {
        entry.change.object().to_json().unwrap()["status"]["conditions"]
            .as_array()
            .is_some_and(|conditions| conditions.iter().any(|known| known["message"] == "PodGC: node no longer exists"))
    });
    assert!(told);
}

#[test]
fn a_node_that_comes_back_keeps_its_pod() {
    let mut world = placed(2);
    world.delete(Kind::Node, "", "node-a");
    world.dead.insert("node-a".into());
    for _ in 0..30 {
        world.step();
    }
    if world.store.object(&Key::new(Kind::Pod, "default", "app")).is_some() {
        world.write(&crate::write::Write::delete(Key::new(Kind::CSINode, "", "node-a"))).unwrap();
        world.node("node-a", "us-east-1a");
        world.dead.clear();
        world.settle();
        assert!(world.store.object(&Key::new(Kind::Pod, "default", "app")).is_some());
    }
}
