use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{CLAIM_FINALIZER, ClaimProtection, has_finalizer, holds_claim};
use crate::machine::{Effect, Input};
use crate::object::{Change, Key, Kind};
use crate::testing::{World, claim, class, object, pod, volume};
use crate::write::Write;

mod alone;
mod attributes;

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

/// As the API server's audit log of External.Storage's ephemeral volumes shows: a finalizer keeps the object of a pod whose kubelet is done
/// with it.
#[test]
fn the_claim_of_an_ephemeral_volume_is_free_when_its_pod_has_shut_down() {
    let pod = |change: serde_json::Value| -> Pod {
        let mut json = pod("app", "c");
        json["metadata"]["uid"] = "u".into();
        json["spec"]["nodeName"] = "node-a".into();
        json["metadata"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        object(json).get::<Pod>().unwrap().as_ref().clone()
    };
    let claim = |owner: &str| -> PersistentVolumeClaim {
        let mut json = claim("c", "", "ReadWriteOnce", "1Gi");
        json["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": "app", "uid": owner}]);
        object(json).get::<PersistentVolumeClaim>().unwrap().as_ref().clone()
    };
    let gone = |grace: u64| json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace});
    assert!(!holds_claim(&pod(gone(0)), &claim("u")));
    assert!(holds_claim(&pod(gone(0)), &claim("another")), "an ordinary claim waits for the object's end");
    assert!(holds_claim(&pod(gone(30)), &claim("u")) && holds_claim(&pod(json!({})), &claim("u")));
}

/// The watch of pods is behind when the claim is deleted.
#[test]
fn a_pod_that_no_watch_has_shown_yet_holds_its_claim() {
    let mut machine = ClaimProtection::default();
    let mut store = World::new(4).store;
    let mut out = Vec::new();
    let mut going = claim("c", "", "ReadWriteOnce", "1Gi");
    going["metadata"]["uid"] = "u".into();
    going["metadata"]["finalizers"] = serde_json::json!([CLAIM_FINALIZER]);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    machine.step(&Input::Changed(Change::Added(object(going))), &mut out).unwrap();
    machine.step(&Input::Booted, &mut out).unwrap();
    let Some(Effect::List { call, kind: Kind::Pod, namespace }) = out.pop() else { panic!("no live list: {out:?}") };
    assert_eq!(namespace, "default");
    let mut late = pod("app", "c");
    late["spec"]["nodeName"] = "node-a".into();
    store.step(Timestamp::UNIX_EPOCH, &Write::create(object(late)), &mut Vec::new()).unwrap();
    let pods = || store.range(&Kind::Pod, "default", "").map(|(_, pod)| pod.clone()).collect::<Vec<_>>();
    machine.step(&Input::Listed { call, result: Ok(pods()) }, &mut out).unwrap();
    assert_eq!(out, [], "the pod holds it");
    machine.step(&Input::Changed(Change::Added(pods()[0].clone())), &mut out).unwrap();
    assert_eq!(out, [], "and so it does when the watch has come");
    machine.step(&Input::Changed(Change::Deleted(pods()[0].clone())), &mut out).unwrap();
    let Some(Effect::List { call, .. }) = out.pop() else { panic!("no live list: {out:?}") };
    machine.step(&Input::Listed { call, result: Ok(Vec::new()) }, &mut out).unwrap();
    let Some(Effect::Write { write: Write::Update { object, .. }, .. }) = out.pop() else {
        panic!("the claim is held for nothing: {out:?}")
    };
    assert!(!has_finalizer(object.metadata(), CLAIM_FINALIZER));
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
