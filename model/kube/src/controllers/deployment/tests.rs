use serde_json::{Value, json};

use crate::object::{Key, Kind};
use crate::testing::{World, claim, class, workload};
use crate::write::Write;

mod alone;

fn world(seed: u64, deployment: Value) -> World {
    let mut world = World::new(seed);
    world.apply(deployment);
    world.settle();
    world
}

fn key() -> Key {
    Key::new(Kind::Deployment, "default", "app")
}

fn names(world: &World, kind: &Kind) -> Vec<String> {
    world.store.all(kind).map(|(key, _)| key.name.to_string()).collect()
}

fn status(world: &World) -> Value {
    world.json(Kind::Deployment, "default", "app")["status"].clone()
}

fn condition(world: &World, kind: &str) -> (String, String) {
    let status = status(world);
    let found = status["conditions"].as_array().and_then(|all| all.iter().find(|known| known["type"] == kind)).cloned().unwrap_or_default();
    (found["status"].as_str().unwrap_or("").to_owned(), found["reason"].as_str().unwrap_or("").to_owned())
}

fn restart(world: &mut World, at: &str) {
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": at}}}}});
    world.write(&Write::merge(key(), patch)).unwrap();
}

#[test]
fn a_rollout_makes_a_new_set_and_keeps_the_old_one_empty() {
    let mut world = world(1, workload("Deployment", "app", 4));
    let first = names(&world, &Kind::ReplicaSet).pop().unwrap();
    assert_eq!(world.said("ScalingReplicaSet"), [format!("Scaled up replica set {first} from 0 to 4")]);
    let set = world.json(Kind::ReplicaSet, "default", &first);
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap().to_owned();
    assert_eq!(first, format!("app-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "app", "pod-template-hash": hash}));
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/desired-replicas"], "4");
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"], "5");
    assert!(names(&world, &Kind::Pod).iter().all(|name| name.starts_with(&format!("{first}-"))));
    assert_eq!(condition(&world, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert_eq!(condition(&world, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    restart(&mut world, "now");
    world.settle();
    assert_eq!(names(&world, &Kind::ReplicaSet).len(), 2);
    assert_eq!(world.json(Kind::ReplicaSet, "default", &first)["spec"]["replicas"], 0);
    let now = status(&world);
    assert!(now["updatedReplicas"] == 4 && now["replicas"] == 4 && now["availableReplicas"] == 4, "{now}");
    let numbers = world.json(Kind::Deployment, "default", "app")["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone();
    assert_eq!(numbers, "2");
    // Back again: the old set is numbered anew.
    world.write(&Write::merge(key(), json!({"spec": {"template": {"metadata": {"annotations": null}}}}))).unwrap();
    world.settle();
    let set = world.json(Kind::ReplicaSet, "default", &first);
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
    world.write(&Write::Scale { key: key(), replicas: 2, resource_version: None }).unwrap();
    world.settle();
    assert_eq!(names(&world, &Kind::Pod).len(), 2);
    world.delete(Kind::Deployment, "default", "app");
    world.settle();
    assert!(names(&world, &Kind::ReplicaSet).is_empty() && names(&world, &Kind::Pod).is_empty());
}

fn with_volume(strategy: &str) -> Value {
    let mut deployment = workload("Deployment", "app", 1);
    deployment["spec"]["strategy"] = json!({"type": strategy});
    let pod = &mut deployment["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    deployment
}

/// A volume for one node at a time, and the nodes of its zone: the new pod may be placed beside the old one, or where the volume is not.
fn with_two_nodes(seed: u64, strategy: &str) -> World {
    let mut world = World::new(seed);
    world.node("node-c", "us-east-1a");
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(claim("c", "ebs-sc", "ReadWriteOnce", "1Gi"));
    // Only this zone has two nodes.
    let mut deployment = with_volume(strategy);
    deployment["spec"]["template"]["spec"]["nodeSelector"] = json!({"topology.kubernetes.io/zone": "us-east-1a"});
    world.apply(deployment);
    world.settle();
    world
}

/// The trap: the new pod waits for the volume that the old one has, the old one for the new one to be ready.
#[test]
fn a_rolling_update_over_one_volume_waits_for_ever_and_recreate_does_not() {
    let mut world = with_two_nodes(3, "RollingUpdate");
    assert_eq!(status(&world)["availableReplicas"], 1);
    restart(&mut world, "now");
    world.settle();
    assert_eq!(status(&world)["updatedReplicas"], 1);
    assert_eq!(status(&world)["unavailableReplicas"], 1);
    assert_eq!(names(&world, &Kind::Pod).len(), 2);
    assert_eq!(condition(&world, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    let why = world.said("FailedAttachVolume");
    assert!(why.iter().any(|text| text.starts_with("Multi-Attach error for volume")), "{why:?}");

    let mut world = with_two_nodes(4, "Recreate");
    let before = names(&world, &Kind::Pod);
    restart(&mut world, "now");
    world.settle();
    let after = names(&world, &Kind::Pod);
    assert!(after.len() == 1 && before != after, "{before:?} {after:?}");
    assert_eq!(condition(&world, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}
