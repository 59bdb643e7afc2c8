//! Objects as people write them: without what a server added, and without what the world of a scenario has not got.

use serde_json::{Map, Value, json};

use super::infer;

/// What of a pod's spec matters to its volumes.
const POD: [&str; 4] = ["restartPolicy", "securityContext", "terminationGracePeriodSeconds", "volumes"];
const CONTAINER: [&str; 6] = ["name", "image", "command", "args", "volumeMounts", "volumeDevices"];
/// What of other kinds is kept: of the spec, or of the object where it has none.
const KEPT: [(&str, &[&str]); 5] = [
    (
        "PersistentVolumeClaim",
        &["accessModes", "dataSource", "resources", "storageClassName", "volumeAttributesClassName", "volumeMode", "volumeName"],
    ),
    (
        "PersistentVolume",
        &[
            "accessModes",
            "capacity",
            "csi",
            "mountOptions",
            "nodeAffinity",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "volumeMode",
        ],
    ),
    ("Node", &["taints", "unschedulable"]),
    (
        "StorageClass",
        &["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode", "allowVolumeExpansion", "allowedTopologies", "mountOptions"],
    ),
    ("VolumeAttributesClass", &["driverName", "parameters"]),
];

/// The object to apply, and what was left out of it; none: nothing of it matters.
pub(super) fn clean(object: &Value, redact: bool) -> Option<(Value, Vec<String>)> {
    let kind = object["kind"].as_str()?;
    let mut metadata = Map::new();
    for name in ["name", "namespace", "labels"] {
        if let Some(value) = object["metadata"].get(name).filter(|value| !value.is_null() && value.as_str() != Some("")) {
            metadata.insert(name.into(), value.clone());
        }
    }
    // A class is the default by an annotation.
    let default = "storageclass.kubernetes.io/is-default-class";
    if let Some(value) = object["metadata"]["annotations"].get(default) {
        metadata.insert("annotations".into(), json!({default: value}));
    }
    let mut made = json!({"apiVersion": object["apiVersion"], "kind": kind, "metadata": metadata});
    let mut left = Vec::new();
    match kind {
        "Namespace" => {}
        "Pod" => made["spec"] = pod(&object["spec"], redact, &mut left),
        "StorageClass" | "VolumeAttributesClass" => {
            let fields = kept(kind, object);
            made.as_object_mut()?.extend(fields);
        }
        "PersistentVolumeClaim" | "PersistentVolume" | "Node" => {
            let fields = kept(kind, &object["spec"]);
            if fields.is_empty() {
                return None;
            }
            made["spec"] = fields.into();
        }
        // The world's controllers make pods of these from their templates.
        _ => {
            let mut spec = object["spec"].clone();
            if let Some(template) = spec.pointer_mut("/template/spec") {
                *template = pod(template, redact, &mut left);
            }
            made["spec"] = spec;
        }
    }
    Some((made, left))
}

fn kept(kind: &str, fields: &Value) -> Map<String, Value> {
    let names = KEPT.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, names)| names);
    names.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(*name).filter(|value| !value.is_null())?.clone()))).collect()
}

fn pod(spec: &Value, redact: bool, left: &mut Vec<String>) -> Value {
    let pick = |from: &Value, names: &[&str]| -> Map<String, Value> {
        names.iter().filter_map(|name| Some(((*name).to_owned(), from.get(*name).filter(|value| !value.is_null())?.clone()))).collect()
    };
    let mut made = pick(spec, &POD);
    let storage = |volume: &&Value| ["persistentVolumeClaim", "emptyDir", "ephemeral"].iter().any(|kind| volume.get(*kind).is_some());
    let all: Vec<Value> = spec["volumes"].as_array().cloned().unwrap_or_default();
    let volumes: Vec<Value> = all.iter().filter(storage).cloned().collect();
    if volumes.len() < all.len() {
        left.push("volumes that are no storage of AWS".into());
    }
    let names: Vec<&Value> = volumes.iter().map(|volume| &volume["name"]).collect();
    for list in ["containers", "initContainers"] {
        let Some(containers) = spec[list].as_array() else { continue };
        let cleaned = containers.iter().map(|container| {
            let mut made = pick(container, &CONTAINER);
            if let Some(Value::Array(mounts)) = made.get_mut("volumeMounts") {
                mounts.retain(|mount| names.contains(&&mount["name"]));
            }
            if !redact && let Some(env) = container.get("env") {
                made.insert("env".into(), env.clone());
            }
            Value::from(made)
        });
        made.insert(list.into(), cleaned.collect());
    }
    made.insert("volumes".into(), volumes.into());
    let constraints = ["affinity", "nodeSelector", "topologySpreadConstraints", "tolerations"];
    left.extend(constraints.iter().filter(|name| spec.get(**name).is_some_and(|value| !value.is_null())).map(|name| (*name).to_owned()));
    made.into()
}

/// The claims that a pod names.
pub(super) fn claims(object: &Value) -> Vec<String> {
    let volumes = object.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    volumes.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str().map(str::to_owned)).collect()
}

/// A claim's class: its own, or the one that stands for the default, which the records do not show.
pub(super) fn class(claim: &mut Value) -> Option<String> {
    let spec = claim.get_mut("spec")?.as_object_mut()?;
    let whole = spec.contains_key("accessModes");
    match spec.get("storageClassName").and_then(Value::as_str) {
        Some("") => None,
        Some(class) => Some(class.to_owned()),
        None if !whole || spec.contains_key("volumeName") => None,
        None => {
            spec.insert("storageClassName".into(), json!(infer::CLASS));
            Some(infer::CLASS.to_owned())
        }
    }
}
