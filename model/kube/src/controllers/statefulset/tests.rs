use serde_json::{Value, json};

use crate::object::{Key, Kind};
use crate::testing::{World, class, stateful_set};
use crate::write::{Propagation, Write};

mod alone;

fn world(seed: u64, set: Value) -> World {
    let mut world = World::new(seed);
    world.apply(class("ebs-sc", "ebs.csi.aws.com", "WaitForFirstConsumer"));
    world.apply(set);
    world.settle();
    world
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, "default", name)
}

fn names(world: &World, kind: &Kind) -> Vec<String> {
    world.store.all(kind).map(|(key, _)| key.name.to_string()).collect()
}

fn uid(world: &World, kind: Kind, name: &str) -> String {
    world.json(kind, "default", name)["metadata"]["uid"].as_str().unwrap_or("gone").to_owned()
}

fn patch(world: &mut World, patch: Value) {
    world.write(&Write::merge(key(Kind::StatefulSet, "web"), patch)).unwrap();
}

#[test]
fn pods_come_in_order_with_claims_of_their_own() {
    let mut world = world(1, stateful_set(3));
    assert_eq!(names(&world, &Kind::Pod), ["web-0", "web-1", "web-2"]);
    assert_eq!(names(&world, &Kind::PersistentVolumeClaim), ["data-web-0", "data-web-1", "data-web-2"]);
    let pod = world.json(Kind::Pod, "default", "web-1");
    assert_eq!(pod["spec"]["hostname"], "web-1");
    assert_eq!(pod["spec"]["subdomain"], "web");
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-web-1");
    assert_eq!(pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "web-1");
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    let set = world.json(Kind::StatefulSet, "default", "web");
    assert_eq!(pod["metadata"]["labels"]["controller-revision-hash"], set["status"]["updateRevision"]);
    assert_eq!(set["status"]["readyReplicas"], 3);
    assert_eq!(set["status"]["observedGeneration"], 1);
    let said: Vec<&str> = world.said("SuccessfulCreate");
    assert_eq!(said[0], "Create Claim data-web-0 Pod web-0 in StatefulSet web success");
    assert_eq!(said[1], "Create Pod web-0 in StatefulSet web successful");
    // Away from the top, and the claims stay.
    let claim = uid(&world, Kind::PersistentVolumeClaim, "data-web-2");
    world.write(&Write::Scale { key: key(Kind::StatefulSet, "web"), replicas: 1, resource_version: None }).unwrap();
    world.settle();
    assert_eq!(names(&world, &Kind::Pod), ["web-0"]);
    assert_eq!(
        world.said("SuccessfulDelete"),
        ["Delete Pod web-2 in StatefulSet web successful", "Delete Pod web-1 in StatefulSet web successful"]
    );
    world.write(&Write::Scale { key: key(Kind::StatefulSet, "web"), replicas: 3, resource_version: None }).unwrap();
    world.settle();
    assert_eq!(names(&world, &Kind::Pod), ["web-0", "web-1", "web-2"]);
    assert_eq!(uid(&world, Kind::PersistentVolumeClaim, "data-web-2"), claim);
}

#[test]
fn a_deleted_pod_comes_back_under_its_name() {
    let mut world = world(2, stateful_set(2));
    let (pod, claim) = (uid(&world, Kind::Pod, "web-0"), uid(&world, Kind::PersistentVolumeClaim, "data-web-0"));
    world.delete(Kind::Pod, "default", "web-0");
    world.settle();
    assert_ne!(uid(&world, Kind::Pod, "web-0"), pod);
    assert_eq!(uid(&world, Kind::PersistentVolumeClaim, "data-web-0"), claim);
    assert_eq!(world.json(Kind::Pod, "default", "web-0")["status"]["phase"], "Running");
}

/// §8.4 row 8: the set waits for ever for a pod on a lost node, until someone says that it is no more.
#[test]
fn a_lost_nodes_pod_is_not_replaced_until_it_is_gone() {
    let mut world = world(3, stateful_set(1));
    let node = world.json(Kind::Pod, "default", "web-0")["spec"]["nodeName"].as_str().unwrap().to_owned();
    let pod = uid(&world, Kind::Pod, "web-0");
    world.dead.insert(node);
    world.delete(Kind::Pod, "default", "web-0");
    world.settle();
    world.resync();
    assert_eq!(uid(&world, Kind::Pod, "web-0"), pod);
    assert!(world.json(Kind::Pod, "default", "web-0")["metadata"]["deletionTimestamp"].is_string());
    let write = Write::Delete {
        key: key(Kind::Pod, "web-0"),
        uid: None,
        resource_version: None,
        grace_seconds: Some(0),
        propagation: Propagation::Background,
    };
    world.write(&write).unwrap();
    for _ in 0..2000 {
        world.step();
    }
    assert_ne!(uid(&world, Kind::Pod, "web-0"), pod, "force delete is the promise that it no longer runs");
}

#[test]
fn a_new_template_rolls_from_the_top_down_to_the_partition() {
    let mut set = stateful_set(3);
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    let mut world = world(4, set);
    let before = [0, 1, 2].map(|n| uid(&world, Kind::Pod, &format!("web-{n}")));
    patch(&mut world, json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}));
    world.settle();
    let after = [0, 1, 2].map(|n| uid(&world, Kind::Pod, &format!("web-{n}")));
    assert!(before[0] == after[0] && before[1] != after[1] && before[2] != after[2]);
    assert_eq!(
        world.said("SuccessfulDelete"),
        ["Delete Pod web-2 in StatefulSet web successful", "Delete Pod web-1 in StatefulSet web successful"]
    );
    let status = world.json(Kind::StatefulSet, "default", "web")["status"].clone();
    assert!(
        status["updatedReplicas"] == 2 && status["currentReplicas"] == 1 && status["currentRevision"] != status["updateRevision"],
        "{status}"
    );
    // A pod below the partition comes back as it was.
    world.delete(Kind::Pod, "default", "web-0");
    world.settle();
    assert_eq!(world.json(Kind::Pod, "default", "web-0")["metadata"]["labels"]["controller-revision-hash"], status["currentRevision"]);
    // The old template again: the old revision is numbered anew.
    patch(
        &mut world,
        json!({"spec": {"template": {"metadata": {"annotations": null}},
        "updateStrategy": {"rollingUpdate": {"partition": 0}}}}),
    );
    world.settle();
    assert_eq!(names(&world, &Kind::ControllerRevision).len(), 2);
    let now = world.json(Kind::StatefulSet, "default", "web")["status"].clone();
    assert_eq!((&now["updateRevision"], &now["currentRevision"]), (&status["currentRevision"], &status["currentRevision"]));
    let revision = now["updateRevision"].as_str().unwrap().to_owned();
    assert_eq!(world.json(Kind::ControllerRevision, "default", &revision)["revision"], 3);
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut set = stateful_set(2);
    set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let mut world = world(5, set);
    let before = uid(&world, Kind::Pod, "web-1");
    patch(&mut world, json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}));
    world.settle();
    assert_eq!(uid(&world, Kind::Pod, "web-1"), before);
    world.delete(Kind::Pod, "default", "web-1");
    world.settle();
    assert_eq!(world.json(Kind::Pod, "default", "web-1")["metadata"]["annotations"]["a"], "b");
    assert_eq!(world.json(Kind::Pod, "default", "web-0")["metadata"]["annotations"], Value::Null);
}

#[test]
fn claims_go_with_what_the_policy_says() {
    let policy = |deleted: &str, scaled: &str| {
        let mut set = stateful_set(2);
        set["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": deleted, "whenScaled": scaled});
        set
    };
    let mut scaled = world(6, policy("Retain", "Delete"));
    patch(&mut scaled, json!({"spec": {"replicas": 1}}));
    scaled.settle();
    assert_eq!(names(&scaled, &Kind::PersistentVolumeClaim), ["data-web-0"]);
    scaled.delete(Kind::StatefulSet, "default", "web");
    scaled.settle();
    assert_eq!(names(&scaled, &Kind::Pod), Vec::<String>::new());
    assert_eq!(names(&scaled, &Kind::PersistentVolumeClaim), ["data-web-0"]);
    let mut deleted = world(7, policy("Delete", "Retain"));
    patch(&mut deleted, json!({"spec": {"replicas": 1}}));
    deleted.settle();
    assert_eq!(names(&deleted, &Kind::PersistentVolumeClaim), ["data-web-0", "data-web-1"]);
    deleted.delete(Kind::StatefulSet, "default", "web");
    deleted.settle();
    assert_eq!(names(&deleted, &Kind::PersistentVolumeClaim), Vec::<String>::new());
    assert!(deleted.volumes.is_empty(), "and their volumes: {:?}", deleted.volumes);
}
