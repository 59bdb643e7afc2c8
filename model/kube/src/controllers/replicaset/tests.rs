use serde_json::json;

use crate::object::{Key, Kind};
use crate::testing::{World, pod, workload};
use crate::write::{Propagation, Write};

mod alone;

fn world(seed: u64, replicas: i32) -> World {
    let mut world = World::new(seed);
    world.apply(workload("ReplicaSet", "rs", replicas));
    world.settle();
    world
}

fn key() -> Key {
    Key::new(Kind::ReplicaSet, "default", "rs")
}

fn names(world: &World) -> Vec<String> {
    world.store.all(&Kind::Pod).map(|(key, _)| key.name.to_string()).collect()
}

#[test]
fn it_keeps_the_number_and_says_what_it_does() {
    let mut world = world(1, 3);
    assert_eq!(names(&world).len(), 3);
    assert!(names(&world).iter().all(|name| name.starts_with("rs-") && name.len() == 8), "{:?}", names(&world));
    let status = world.json(Kind::ReplicaSet, "default", "rs")["status"].clone();
    assert_eq!(
        status,
        json!({"replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 3, "availableReplicas": 3, "terminatingReplicas": 0, "observedGeneration": 1})
    );
    let mut said: Vec<String> = names(&world).iter().map(|name| format!("Created pod: {name}")).collect();
    let mut heard: Vec<&str> = world.said("SuccessfulCreate");
    said.sort();
    heard.sort_unstable();
    assert_eq!(heard, said);
    let gone = names(&world)[0].clone();
    world.delete(Kind::Pod, "default", &gone);
    world.settle();
    assert!(names(&world).len() == 3 && !names(&world).contains(&gone));
    world.write(&Write::Scale { key: key(), replicas: 1, resource_version: None }).unwrap();
    world.settle();
    assert_eq!(names(&world).len(), 1);
    assert_eq!(world.said("SuccessfulDelete").len(), 2);
}

#[test]
fn it_takes_in_and_lets_go_by_labels() {
    let mut world = World::new(2);
    let mut free = pod("free", "c");
    free["metadata"]["labels"] = json!({"app": "rs"});
    free["spec"]["volumes"] = json!(null);
    free["spec"]["containers"][0]["volumeMounts"] = json!(null);
    world.apply(free);
    world.apply(workload("ReplicaSet", "rs", 2));
    world.settle();
    assert_eq!(names(&world).len(), 2);
    assert_eq!(world.json(Kind::Pod, "default", "free")["metadata"]["ownerReferences"][0]["name"], "rs");
    world.write(&Write::merge(Key::new(Kind::Pod, "default", "free"), json!({"metadata": {"labels": {"app": "mine"}}}))).unwrap();
    world.settle();
    assert_eq!(world.json(Kind::Pod, "default", "free")["metadata"]["ownerReferences"], json!(null));
    assert_eq!(names(&world).len(), 3);
    // With `--cascade=orphan` the pods stay.
    let write = Write::Delete { key: key(), uid: None, resource_version: None, grace_seconds: None, propagation: Propagation::Orphan };
    world.write(&write).unwrap();
    world.settle();
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn what_cannot_be_made_is_said() {
    let mut world = World::new(3);
    let mut set = workload("ReplicaSet", "rs", 2);
    set["spec"]["template"]["spec"]["serviceAccountName"] = json!("nobody");
    world.apply(set);
    for _ in 0..400 {
        world.step();
    }
    let condition = world.json(Kind::ReplicaSet, "default", "rs")["status"]["conditions"][0].clone();
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("ReplicaFailure"), &json!("FailedCreate")));
    let why = "error looking up service account default/nobody: serviceaccounts \"nobody\" not found";
    assert!(condition["message"].as_str().unwrap().ends_with(why), "{condition}");
    assert!(world.said("FailedCreate")[0].starts_with("Error creating: pods \"rs-"), "{:?}", world.said("FailedCreate"));
    world.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "default"}}));
    world.settle();
    assert_eq!(names(&world).len(), 2);
    assert_eq!(world.json(Kind::ReplicaSet, "default", "rs")["status"]["conditions"], json!(null));
}
