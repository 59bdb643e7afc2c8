use serde_json::{Value, json};

use crate::object::{Key, Kind};
use crate::testing::World;
use crate::write::{Patch, Subresource, Write};

mod alone;

fn job(completions: i32, parallelism: i32) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": "default"},
        "spec": {"completions": completions, "parallelism": parallelism, "backoffLimit": 2,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "x"}]}}}})
}

fn status(world: &World) -> Value {
    world.json(Kind::Job, "default", "job")["status"].clone()
}

/// The first pods that run end in that phase.
fn end(world: &mut World, phase: &str, count: usize) {
    let running = world.store.all(&Kind::Pod).map(|(key, _)| key.clone());
    let running: Vec<Key> =
        running.filter(|key| world.json(Kind::Pod, "default", &key.name)["status"]["phase"] == "Running").take(count).collect();
    assert_eq!(running.len(), count);
    for key in running {
        let patch = Patch::Merge(json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": "False"}]}}));
        world.write(&Write::Patch { key, patch, subresource: Subresource::Status }).unwrap();
    }
}

/// Lets things happen, but no pod end that the test did not end.
fn go_on(world: &mut World) {
    for _ in 0..600 {
        world.step();
    }
}

#[test]
fn it_is_complete_when_enough_have_succeeded() {
    let mut world = World::new(1);
    world.apply(job(3, 2));
    go_on(&mut world);
    assert_eq!(status(&world)["active"], 2);
    let made = world.json(Kind::Job, "default", "job");
    let selector = &made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"];
    assert_eq!(selector, &made["metadata"]["uid"]);
    assert_eq!(made["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"], "job");
    end(&mut world, "Succeeded", 2);
    go_on(&mut world);
    assert_eq!((&status(&world)["active"], &status(&world)["succeeded"]), (&json!(1), &json!(2)));
    end(&mut world, "Succeeded", 1);
    go_on(&mut world);
    let now = status(&world);
    assert!(now["succeeded"] == 3 && now["active"] == Value::Null && now["completionTime"].is_string(), "{now}");
    assert_eq!(now["conditions"][0]["type"], "SuccessCriteriaMet");
    assert_eq!(now["conditions"][1]["type"], "Complete");
    assert_eq!(world.said("Completed"), ["Job completed"]);
    for (_, pod) in world.store.all(&Kind::Pod) {
        assert_eq!(pod.metadata().finalizers, None, "nothing holds a counted pod");
    }
}

#[test]
fn it_fails_beyond_its_backoff_limit() {
    let mut world = World::new(2);
    world.apply(job(1, 1));
    for _ in 0..3 {
        go_on(&mut world);
        end(&mut world, "Failed", 1);
    }
    go_on(&mut world);
    let now = status(&world);
    assert_eq!(now["failed"], 3, "{now}");
    let failed = now["conditions"].as_array().unwrap().iter().find(|known| known["type"] == "Failed").unwrap().clone();
    assert_eq!(
        (&failed["reason"], &failed["message"]),
        (&json!("BackoffLimitExceeded"), &json!("Job has reached the specified backoff limit"))
    );
    assert_eq!(world.store.all(&Kind::Pod).count(), 3, "the pods stay for their logs");
}

#[test]
fn a_finished_job_goes_after_its_time_to_live() {
    let mut world = World::new(3);
    let mut job = job(1, 1);
    job["spec"]["ttlSecondsAfterFinished"] = json!(60);
    world.apply(job);
    go_on(&mut world);
    end(&mut world, "Succeeded", 1);
    let ended = world.now;
    world.settle();
    assert!(status(&world).is_null() && world.store.all(&Kind::Pod).count() == 0);
    assert!(world.now.duration_since(ended).as_secs() >= 60);
}
