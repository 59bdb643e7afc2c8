mod status;

use super::*;
use crate::write::{Patch, Propagation, Reason, Subresource};
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn store() -> Store {
    let mut store = Store::new(1);
    store.bootstrap(at(0), &mut Vec::new()).unwrap();
    store
}

fn object(kind: Kind, json: Value) -> Object {
    Object::from_json(&kind, json).unwrap()
}

fn pod(name: &str) -> Object {
    object(
        Kind::Pod,
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "centos"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]}}),
    )
}

fn claim(name: &str) -> Object {
    object(
        Kind::PersistentVolumeClaim,
        json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4096Mi"}}}}),
    )
}

/// Applies a write and returns the object in the reply.
#[track_caller]
fn ok(store: &mut Store, write: Write) -> (Object, Outcome) {
    let mut out = Vec::new();
    store.step(at(10), &write, &mut out).unwrap();
    out.into_iter()
        .find_map(|effect| match effect {
            Effect::Reply { object, outcome } => Some((object, outcome)),
            _ => None,
        })
        .unwrap()
}

#[track_caller]
fn refused(store: &mut Store, write: Write) -> ApiError {
    let version = store.version();
    let mut out = Vec::new();
    let error = store.step(at(10), &write, &mut out).unwrap_err();
    assert_eq!((store.version(), out.len()), (version, 0), "a refused write changes nothing");
    error
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, "default", name)
}

#[test]
fn a_pod_gets_its_defaults() {
    let mut store = store();
    let (pod, _) = ok(&mut store, Write::create(pod("p")));
    let json = pod.to_json().unwrap();
    let expected = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
        "schedulerName": "default-scheduler", "enableServiceLinks": true, "priority": 0, "preemptionPolicy": "PreemptLowerPriority"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&json["spec"][name], value, "{name}");
    }
    assert_eq!(json["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(json["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(json["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(json["metadata"]["generation"], 1);
}

#[test]
fn a_claim_gets_the_newest_default_class_and_its_finalizer() {
    let mut store = store();
    for (second, name) in [(1, "old"), (2, "new")] {
        let class =
            json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"});
        store.step(at(second), &Write::create(object(Kind::StorageClass, class)), &mut Vec::new()).unwrap();
    }
    let (claim, _) = ok(&mut store, Write::create(claim("c")));
    let json = claim.to_json().unwrap();
    assert_eq!(json["spec"]["storageClassName"], "new");
    assert_eq!(json["spec"]["resources"]["requests"]["storage"], "4Gi");
    assert_eq!(json["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

#[test]
fn a_stale_update_conflicts_and_an_equal_one_changes_nothing() {
    let mut store = store();
    let (first, _) = ok(&mut store, Write::create(claim("c")));
    let version = store.version();
    assert_eq!(ok(&mut store, Write::update(first.clone())).0, first);
    assert_eq!(store.version(), version);
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    ok(&mut store, Write::merge(key(Kind::PersistentVolumeClaim, "c"), patch));
    let error = refused(&mut store, Write::update(first));
    assert_eq!(
        error.message,
        "Operation cannot be fulfilled on persistentvolumeclaims \"c\": the object has been modified; please apply your changes to the latest version and try again"
    );
}

#[test]
fn status_and_spec_are_written_apart() {
    let mut store = store();
    ok(&mut store, Write::create(claim("c")));
    let key = key(Kind::PersistentVolumeClaim, "c");
    let both = json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    let (object, _) = ok(&mut store, Write::merge(key.clone(), both.clone()));
    assert_eq!(object.to_json().unwrap()["status"]["phase"], "Pending");
    assert_eq!(object.to_json().unwrap()["spec"]["volumeName"], "pv");
    let change = json!({"spec": {"volumeName": "other"}, "status": {"phase": "Bound"}});
    let (object, _) = ok(&mut store, Write::Patch { key: key.clone(), patch: Patch::Strategic(change), subresource: Subresource::Status });
    assert_eq!(object.to_json().unwrap()["status"]["phase"], "Bound");
    assert_eq!(object.to_json().unwrap()["spec"]["volumeName"], "pv");
    let error = refused(&mut store, Write::merge(key.clone(), json!({"spec": {"accessModes": ["ReadWriteMany"]}})));
    assert!(error.message.starts_with("PersistentVolumeClaim \"c\" is invalid: spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@"), "{error}");
    ok(&mut store, Write::merge(key, json!({"spec": {"resources": {"requests": {"storage": "8Gi"}}}})));
}

#[test]
fn a_finalizer_holds_a_deleted_object() {
    let mut store = store();
    ok(&mut store, Write::create(claim("c")));
    let key = key(Kind::PersistentVolumeClaim, "c");
    let (object, outcome) = ok(&mut store, Write::delete(key.clone()));
    assert_eq!(outcome, Outcome::Deleting);
    assert!(object.metadata().deletion_timestamp.is_some());
    let more = json!({"metadata": {"finalizers": ["a.b/c", "kubernetes.io/pvc-protection"]}});
    assert_eq!(refused(&mut store, Write::merge(key.clone(), more)).reason, Reason::Invalid);
    let (_, outcome) = ok(&mut store, Write::merge(key.clone(), json!({"metadata": {"finalizers": null}})));
    assert_eq!(outcome, Outcome::Removed);
    assert!(refused(&mut store, Write::delete(key)).is_not_found());
}

#[test]
fn a_scheduled_pod_waits_for_its_kubelet() {
    let mut store = store();
    ok(&mut store, Write::create(pod("p")));
    let key = key(Kind::Pod, "p");
    ok(&mut store, Write::Bind { pod: key.clone(), uid: None, node: "n".into() });
    assert_eq!(store.pods_on("n").count(), 1);
    assert_eq!(store.pods_using("default", "claim").count(), 1);
    let error = refused(&mut store, Write::Bind { pod: key.clone(), uid: None, node: "m".into() });
    assert_eq!(error.message, "Operation cannot be fulfilled on pods \"p\": pod p is already assigned to node \"n\"");
    let (object, outcome) = ok(&mut store, Write::delete(key.clone()));
    assert_eq!(outcome, Outcome::Deleting);
    assert_eq!(object.metadata().deletion_timestamp.as_ref().unwrap().0, at(40));
    let uid = Some(object.uid().to_owned());
    let last =
        Write::Delete { key: key.clone(), uid, resource_version: None, grace_seconds: Some(0), propagation: Propagation::Background };
    assert_eq!(ok(&mut store, last).1, Outcome::Removed);
    assert_eq!(store.pods_on("n").count() + store.pods_using("default", "claim").count(), 0);
    ok(&mut store, Write::create(pod("p")));
    assert_eq!(ok(&mut store, Write::delete(key)).1, Outcome::Removed, "an unscheduled pod goes at once");
}

#[test]
fn what_a_pod_owns_goes_with_it() {
    let mut store = store();
    let (owner, _) = ok(&mut store, Write::create(pod("p")));
    let reference =
        |block: bool| json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner.uid(), "blockOwnerDeletion": block}]);
    let map = |name: &str, block| {
        object(Kind::ConfigMap, json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": reference(block)}}))
    };
    ok(&mut store, Write::create(map("a", true)));
    let mut held = map("b", true);
    held.metadata_mut().finalizers = Some(vec!["x.y/z".into()]);
    ok(&mut store, Write::create(held));
    let foreground =
        Write::Delete { key: owner.key(), uid: None, resource_version: None, grace_seconds: None, propagation: Propagation::Foreground };
    assert_eq!(ok(&mut store, foreground).1, Outcome::Deleting);
    assert!(store.object(&key(Kind::ConfigMap, "a")).is_none());
    assert!(store.object(&owner.key()).is_some(), "b blocks its owner");
    ok(&mut store, Write::merge(key(Kind::ConfigMap, "b"), json!({"metadata": {"finalizers": null}})));
    assert!(store.object(&owner.key()).is_none());
}

/// `owner` ← `middle` ← `leaf`, each blocking; the leaf is held by a finalizer as a pod is by its grace.
fn chain(store: &mut Store) -> [Object; 3] {
    let map = |name: &str, owner: Option<&Object>| {
        let owners = owner.map(|owner| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner.metadata().name, "uid": owner.uid(), "blockOwnerDeletion": true}]));
        object(Kind::ConfigMap, json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owners}}))
    };
    let (owner, _) = ok(store, Write::create(map("owner", None)));
    let (middle, _) = ok(store, Write::create(map("middle", Some(&owner))));
    let mut leaf = map("leaf", Some(&middle));
    leaf.metadata_mut().finalizers = Some(vec!["x.y/z".into()]);
    let (leaf, _) = ok(store, Write::create(leaf));
    [owner, middle, leaf]
}

fn in_foreground(object: &Object) -> Write {
    Write::Delete { key: object.key(), uid: None, resource_version: None, grace_seconds: None, propagation: Propagation::Foreground }
}

#[test]
fn who_goes_last_waits_for_all_below() {
    let mut store = store();
    let [owner, middle, leaf] = chain(&mut store);
    assert_eq!(ok(&mut store, in_foreground(&owner)).1, Outcome::Deleting);
    for held in [&owner, &middle] {
        let found = store.object(&held.key()).expect("it waits for the leaf");
        assert_eq!(found.metadata().finalizers.as_deref(), Some(&["foregroundDeletion".to_owned()][..]));
    }
    ok(&mut store, Write::merge(leaf.key(), json!({"metadata": {"finalizers": null}})));
    assert!([&owner, &middle, &leaf].iter().all(|object| store.object(&object.key()).is_none()));
}

#[test]
fn an_owner_that_is_no_longer_owned_by_its_dependent_goes() {
    let mut store = store();
    let [owner, middle, leaf] = chain(&mut store);
    ok(&mut store, in_foreground(&owner));
    ok(&mut store, Write::merge(leaf.key(), json!({"metadata": {"ownerReferences": null}})));
    assert!([&owner, &middle].iter().all(|object| store.object(&object.key()).is_none()));
    assert!(store.object(&leaf.key()).is_some(), "it is being deleted, and held");
}

#[test]
fn owners_in_a_circle_go_all_the_same() {
    let mut store = store();
    let [owner, middle, leaf] = chain(&mut store);
    let closing = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "leaf", "uid": leaf.uid(), "blockOwnerDeletion": true}]);
    ok(&mut store, Write::merge(owner.key(), json!({"metadata": {"ownerReferences": closing}})));
    ok(&mut store, in_foreground(&owner));
    ok(&mut store, Write::merge(leaf.key(), json!({"metadata": {"finalizers": null}})));
    let left: Vec<_> = [&owner, &middle, &leaf].into_iter().filter(|object| store.object(&object.key()).is_some()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_deleted_namespace_empties() {
    let mut store = store();
    let namespace = object(Kind::Namespace, json!({"metadata": {"name": "n"}}));
    ok(&mut store, Write::create(namespace.clone()));
    let mut inside = claim("c");
    inside.metadata_mut().namespace = Some("n".into());
    ok(&mut store, Write::create(inside.clone()));
    assert_eq!(ok(&mut store, Write::delete(namespace.key())).1, Outcome::Deleting);
    inside.metadata_mut().name = Some("d".into());
    assert!(refused(&mut store, Write::create(inside.clone())).message.contains("because it is being terminated"));
    ok(&mut store, Write::merge(Key::new(Kind::PersistentVolumeClaim, "n", "c"), json!({"metadata": {"finalizers": null}})));
    assert!(store.object(&namespace.key()).is_none());
    assert_eq!(refused(&mut store, Write::create(inside)).message, "namespaces \"n\" not found");
    assert_eq!(refused(&mut store, Write::delete(Key::new(Kind::Namespace, "", "default"))).code, 403);
}

#[test]
fn the_log_tells_every_change_once_and_expires() {
    let mut store = store();
    let from = store.version();
    ok(&mut store, Write::create(claim("c")));
    ok(&mut store, Write::delete(key(Kind::PersistentVolumeClaim, "c")));
    let versions: Vec<u64> = store.since(from).unwrap().map(|entry| entry.version).collect();
    assert_eq!(versions, [from + 1, from + 2]);
    let records: Vec<_> = store.take_dirty().into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    assert!(store.take_dirty().is_empty());
    let again = Store::load(2, records).unwrap();
    assert_eq!(again.version(), store.version());
    assert_eq!(again.objects, store.objects);
    assert_eq!(again.since(from).err().unwrap().reason, Reason::Expired);
    assert!(again.since(again.version()).is_ok());
}

#[test]
fn an_earlier_version_can_be_read_while_its_changes_are_kept() {
    let mut store = store();
    let from = Key::new(Kind::PersistentVolumeClaim, "", "");
    let change = |metadata: Value| Write::Patch {
        key: key(Kind::PersistentVolumeClaim, "b"),
        patch: Patch::Merge(json!({"metadata": metadata})),
        subresource: Subresource::None,
    };
    let writes = [
        Write::create(claim("b")),
        Write::create(claim("a")),
        change(json!({"labels": {"x": "1"}})),
        Write::create(pod("p")),
        change(json!({"labels": {"x": "2"}, "finalizers": null})),
        Write::delete(key(Kind::Pod, "p")),
        Write::delete(key(Kind::PersistentVolumeClaim, "b")),
        Write::create(claim("b")),
    ];
    let now = |store: &Store| -> (u64, Vec<(Key, Object)>) {
        (store.version(), store.range_from(from.clone()).map(|(key, object)| (key.clone(), object.clone())).collect())
    };
    let mut states = vec![now(&store)];
    for write in writes {
        ok(&mut store, write);
        states.push(now(&store));
    }
    for (version, state) in states {
        let found: Vec<(Key, Object)> = store.range_at(from.clone(), version).unwrap().map(|(key, object)| (key, object.clone())).collect();
        assert_eq!(found, state, "at {version}");
    }
    // From a key on, as a later page begins.
    let later = store.range_at(key(Kind::PersistentVolumeClaim, "b"), store.version()).unwrap();
    assert_eq!(later.map(|(key, _)| key.name.to_string()).collect::<Vec<_>>(), ["b"]);
    let again = Store::load(2, store.take_dirty().into_iter().filter_map(|(key, value)| Some((key, value?))).collect::<Vec<_>>()).unwrap();
    assert_eq!(again.range_at(from, 1).err().unwrap().reason, Reason::Expired);
}

#[test]
fn a_dry_run_stores_nothing() {
    let mut store = store();
    let version = store.version();
    let mut out = Vec::new();
    let options = Options { dry_run: true, ..Options::default() };
    store.step_with(at(1), &Write::create(claim("c")), &options, &mut out).unwrap();
    assert!(matches!(out.as_slice(), [Effect::Reply { .. }]));
    assert_eq!((store.version(), store.object(&key(Kind::PersistentVolumeClaim, "c"))), (version, None));
}

#[test]
fn server_side_apply_owns_and_conflicts() {
    let mut store = store();
    let map = key(Kind::ConfigMap, "m");
    let apply = |store: &mut Store, manager: &str, data: Value, force: bool| {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": data});
        let write = Write::Patch { key: map.clone(), patch: Patch::Apply { object, force }, subresource: Subresource::None };
        let options = Options { field_manager: Some(manager.into()), ..Options::default() };
        store.step_with(at(1), &write, &options, &mut Vec::new())
    };
    apply(&mut store, "a", json!({"x": "1", "y": "1"}), false).unwrap();
    let version = store.version();
    apply(&mut store, "a", json!({"x": "1", "y": "1"}), false).unwrap();
    assert_eq!(store.version(), version, "applying the same changes nothing");
    let error = apply(&mut store, "b", json!({"x": "2"}), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"a\" using v1: .data.x");
    apply(&mut store, "b", json!({"x": "2"}), true).unwrap();
    apply(&mut store, "a", json!({"z": "1"}), false).unwrap();
    let json = store.object(&map).unwrap().to_json().unwrap();
    assert_eq!(json["data"], json!({"x": "2", "z": "1"}), "y was a's alone and went");
}

#[test]
fn what_admission_adds_is_nobodys() {
    let mut store = store();
    let options = Options { field_manager: Some("kubectl".into()), ..Options::default() };
    store.step_with(at(1), &Write::create(claim("c")), &options, &mut Vec::new()).unwrap();
    let json = store.object(&key(Kind::PersistentVolumeClaim, "c")).unwrap().to_json().unwrap();
    let fields = &json["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:spec"]["f:volumeMode"], json!({}));
    assert_eq!((fields.get("f:metadata"), fields.get("f:status")), (None, None));
}

#[test]
fn who_creates_an_object_does_not_own_its_status() {
    let mut store = store();
    let options = Options { field_manager: Some("csi-provisioner".into()), ..Options::default() };
    let volume = json!({"metadata": {"name": "v"}, "status": {},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}});
    let write = Write::Create { object: object(Kind::PersistentVolume, volume) };
    store.step_with(at(1), &write, &options, &mut Vec::new()).unwrap();
    let json = store.object(&Key::new(Kind::PersistentVolume, "", "v")).unwrap().to_json().unwrap();
    let fields = &json["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:spec"]["f:csi"], json!({"f:driver": {}, "f:volumeHandle": {}}));
    assert_eq!(fields.get("f:status"), None, "{fields:#}");
}

#[test]
fn a_pods_spec_is_fixed() {
    let mut store = store();
    ok(&mut store, Write::create(pod("p")));
    let change = |spec: Value| Write::Patch {
        key: key(Kind::Pod, "p"),
        patch: Patch::Strategic(json!({"spec": spec})),
        subresource: Subresource::None,
    };
    let (object, _) = ok(&mut store, change(json!({"containers": [{"name": "c", "image": "other:1"}]})));
    assert_eq!(object.metadata().generation, Some(2));
    let error = refused(&mut store, change(json!({"containers": [{"name": "c", "command": ["sh"]}]})));
    assert!(
        error
            .message
            .starts_with("Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"),
        "{error}"
    );
    assert!(error.message.contains("+   \"Command\": ["), "{error}");
}

#[test]
fn a_long_chain_of_owners_goes_without_a_deep_stack() {
    let mut store = store();
    let mut owner: Option<String> = None;
    for index in 0..5000 {
        let mut json = json!({"metadata": {"name": format!("m{index}"), "namespace": "default"}});
        if let Some(uid) = &owner {
            json["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": uid}]);
        }
        owner = Some(ok(&mut store, Write::create(object(Kind::ConfigMap, json))).0.uid().to_owned());
    }
    ok(&mut store, Write::delete(key(Kind::ConfigMap, "m0")));
    assert_eq!(store.all(&Kind::ConfigMap).count(), 0);
}

#[test]
fn a_definition_goes_after_its_last_object() {
    let mut store = store();
    let definition = json!({"metadata": {"name": "things.x.io"}, "spec": {"group": "x.io", "scope": "Cluster",
        "names": {"kind": "Thing", "plural": "things"}, "versions": [{"name": "v1", "served": true, "storage": true}]}});
    ok(&mut store, Write::create(object(Kind::CustomResourceDefinition, definition)));
    let kind = Kind::Custom { group: "x.io".into(), plural: "things".into() };
    let thing = json!({"apiVersion": "x.io/v1", "kind": "Thing", "metadata": {"name": "t", "finalizers": ["a.b/c"]}});
    ok(&mut store, Write::create(object(kind.clone(), thing)));
    let name = Key::new(Kind::CustomResourceDefinition, "", "things.x.io");
    assert!(store.object(&name).unwrap().to_json().unwrap()["status"]["conditions"][1]["type"] == "Established");
    // Its own finalizer has no domain in front of a slash, and is no obstacle to a change.
    ok(&mut store, Write::merge(name.clone(), json!({"metadata": {"labels": {"a": "b"}}})));
    assert_eq!(ok(&mut store, Write::delete(name.clone())).1, Outcome::Deleting);
    assert!(store.object(&name).is_some());
    ok(&mut store, Write::merge(Key::new(kind, "", "t"), json!({"metadata": {"finalizers": null}})));
    assert!(store.object(&name).is_none());
}
