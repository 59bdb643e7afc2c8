//! The protection of VolumeAttributesClasses, told by hand.

use serde_json::{Value, json};

use super::super::{ATTRIBUTES_FINALIZER, AttributesProtection};
use crate::controllers::has_finalizer;
use crate::machine::{Effect, Input};
use crate::object::{Change, Key, Kind};
use crate::testing::object;
use crate::write::Write;

fn class(finalizers: &[&str], is_going: bool) -> Value {
    let deleted = is_going.then_some("2026-01-01T00:00:00Z");
    json!({"kind": "VolumeAttributesClass", "driverName": "ebs.csi.aws.com",
        "metadata": {"name": "gold", "finalizers": finalizers, "deletionTimestamp": deleted}})
}

/// What it writes of the class once it has been told all this: whether the class has the finalizer then.
fn written(known: &[Value]) -> Option<bool> {
    let (mut machine, mut out) = (AttributesProtection::default(), Vec::new());
    machine.step(&Input::Booted, &mut out).unwrap();
    for one in known {
        machine.step(&Input::Changed(Change::Added(object(one.clone()))), &mut out).unwrap();
    }
    assert!(out.len() <= 1, "{out:?}");
    let Some(Effect::Write { write: Write::Update { object, .. }, .. }) = out.pop() else { return None };
    assert_eq!(object.key(), Key::new(Kind::VolumeAttributesClass, "", "gold"));
    Some(has_finalizer(object.metadata(), ATTRIBUTES_FINALIZER))
}

fn claim(spec: Value, status: Value) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"}, "spec": spec, "status": status})
}

/// Each way to have the class, to want it, or to be on the way to it (`vac_protection_controller.go`).
#[test]
fn a_class_goes_when_no_claim_and_no_volume_names_it() {
    let users: [fn(&str) -> Value; 4] = [
        |class| json!({"kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {"volumeAttributesClassName": class}}),
        |class| claim(json!({"volumeAttributesClassName": class}), json!({})),
        |class| claim(json!({}), json!({"currentVolumeAttributesClassName": class})),
        |class| claim(json!({}), json!({"modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": class}})),
    ];
    let going = || class(&[ATTRIBUTES_FINALIZER], true);
    for user in users {
        assert_eq!(written(&[user("gold"), going()]), None, "{}", user("gold"));
        assert_eq!(written(&[user("iron"), going()]), Some(false), "{}", user("iron"));
    }
    assert_eq!(written(&[claim(json!({}), json!({})), going()]), Some(false));
    // One that stays has the finalizer, and nothing is written twice.
    assert_eq!(written(&[class(&[], false)]), Some(true));
    assert_eq!(written(&[class(&[ATTRIBUTES_FINALIZER], false)]), None);
    assert_eq!(written(&[class(&[], true)]), None, "it is not put on what goes");
}

/// The last user lets go: the class that waits is looked at again, and one that does not wait is not.
#[test]
fn the_last_users_end_lets_the_class_go() {
    let (mut machine, mut out) = (AttributesProtection::default(), Vec::new());
    machine.step(&Input::Booted, &mut out).unwrap();
    let user = |class: &str| object(claim(json!({"volumeAttributesClassName": class}), json!({})));
    machine.step(&Input::Changed(Change::Added(user("gold"))), &mut out).unwrap();
    machine.step(&Input::Changed(Change::Added(object(class(&[ATTRIBUTES_FINALIZER], true)))), &mut out).unwrap();
    assert_eq!(out, []);
    machine.step(&Input::Changed(Change::Modified(user("iron"))), &mut out).unwrap();
    assert!(matches!(&out[..], [Effect::Write { .. }]), "{out:?}");
}
