//! The CustomResourceDefinitions of the snapshot kinds, v1: what kubectl shows, and which values are possible.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::GROUP;

fn column(name: &str, path: &str, kind: &str, description: &str) -> Value {
    let mut column = json!({"name": name, "jsonPath": path, "type": kind});
    if !description.is_empty() {
        column["description"] = json!(description);
    }
    column
}

fn text() -> Value {
    json!({"type": "string"})
}

fn policy() -> Value {
    json!({"type": "string", "enum": ["Delete", "Retain"]})
}

/// When and why the last try failed.
fn error() -> Value {
    json!({"type": "object", "properties": {"message": text(), "time": {"type": "string", "format": "date-time"}}})
}

struct Given {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    scope: &'static str,
    columns: Vec<Value>,
    properties: Value,
    required: &'static [&'static str],
    status: bool,
}

fn definition(given: Given) -> Value {
    let Given { kind, plural, short, scope, mut columns, mut properties, required, status } = given;
    columns.push(column("Age", ".metadata.creationTimestamp", "date", ""));
    for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
        properties[name] = json!({"type": kind});
    }
    let subresources = if status { json!({"status": {}}) } else { json!({}) };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": scope,
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(), "shortNames": short},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": subresources, "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": properties, "required": required}},
            }],
        },
    })
}

fn snapshots() -> Value {
    definition(Given {
        kind: "VolumeSnapshot",
        plural: "volumesnapshots",
        short: &["vs"],
        scope: "Namespaced",
        columns: vec![
            column("ReadyToUse", ".status.readyToUse", "boolean", "Whether volumes can be made of it."),
            column("SourcePVC", ".spec.source.persistentVolumeClaimName", "string", "The claim that it is of."),
            column("SourceSnapshotContent", ".spec.source.volumeSnapshotContentName", "string", "The content that is its source."),
            column("RestoreSize", ".status.restoreSize", "string", "The least size of a volume that is made of it."),
            column("SnapshotClass", ".spec.volumeSnapshotClassName", "string", "Its class."),
            column("SnapshotContent", ".status.boundVolumeSnapshotContentName", "string", "The content that it is bound to."),
            column("CreationTime", ".status.creationTime", "date", "When the data was copied."),
        ],
        properties: json!({
            "spec": {"type": "object", "required": ["source"], "properties": {
                "source": {"type": "object", "properties": {"persistentVolumeClaimName": text(), "volumeSnapshotContentName": text()}},
                "volumeSnapshotClassName": text(),
            }},
            "status": {"type": "object", "properties": {
                "boundVolumeSnapshotContentName": text(),
                "creationTime": {"type": "string", "format": "date-time"},
                "error": error(),
                "readyToUse": {"type": "boolean"},
                "restoreSize": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true},
                "volumeGroupSnapshotName": text(),
            }},
        }),
        required: &["spec"],
        status: true,
    })
}

fn contents() -> Value {
    let reference = ["apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"];
    let reference: Value = reference.into_iter().map(|name| (name.to_owned(), text())).collect::<serde_json::Map<_, _>>().into();
    definition(Given {
        kind: "VolumeSnapshotContent",
        plural: "volumesnapshotcontents",
        short: &["vsc", "vscs"],
        scope: "Cluster",
        columns: vec![
            column("ReadyToUse", ".status.readyToUse", "boolean", "Whether volumes can be made of it."),
            column("RestoreSize", ".status.restoreSize", "integer", "The least size of a volume that is made of it, in bytes."),
            column("DeletionPolicy", ".spec.deletionPolicy", "string", "What becomes of it when its snapshot is deleted."),
            column("Driver", ".spec.driver", "string", "The driver that has it."),
            column("VolumeSnapshotClass", ".spec.volumeSnapshotClassName", "string", "Its class."),
            column("VolumeSnapshot", ".spec.volumeSnapshotRef.name", "string", "The snapshot that it is bound to."),
            column("VolumeSnapshotNamespace", ".spec.volumeSnapshotRef.namespace", "string", "The namespace of that snapshot."),
        ],
        properties: json!({
            "spec": {"type": "object", "required": ["deletionPolicy", "driver", "source", "volumeSnapshotRef"], "properties": {
                "deletionPolicy": policy(),
                "driver": text(),
                "source": {"type": "object", "properties": {"snapshotHandle": text(), "volumeHandle": text()}},
                "sourceVolumeMode": text(),
                "volumeSnapshotClassName": text(),
                "volumeSnapshotRef": {"type": "object", "properties": reference},
            }},
            "status": {"type": "object", "properties": {
                "creationTime": {"type": "integer", "format": "int64"},
                "error": error(),
                "readyToUse": {"type": "boolean"},
                "restoreSize": {"type": "integer", "format": "int64", "minimum": 0},
                "snapshotHandle": text(),
                "volumeGroupSnapshotHandle": text(),
            }},
        }),
        required: &["spec"],
        status: true,
    })
}

fn classes() -> Value {
    definition(Given {
        kind: "VolumeSnapshotClass",
        plural: "volumesnapshotclasses",
        short: &["vsclass", "vsclasses"],
        scope: "Cluster",
        columns: vec![
            column("Driver", ".driver", "string", ""),
            column("DeletionPolicy", ".deletionPolicy", "string", "What becomes of contents when their snapshots are deleted."),
        ],
        properties: json!({
            "deletionPolicy": policy(),
            "driver": text(),
            "parameters": {"type": "object", "additionalProperties": text()},
        }),
        required: &["deletionPolicy", "driver"],
        status: false,
    })
}

/// The definitions, in the order in which they are to be made.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    // They are fixed; a test reads each.
    [classes(), contents(), snapshots()].into_iter().filter_map(|json| serde_json::from_value(json).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_are_read() {
        let names: Vec<String> = definitions().into_iter().filter_map(|definition| definition.metadata.name).collect();
        assert_eq!(
            names,
            [
                "volumesnapshotclasses.snapshot.storage.k8s.io",
                "volumesnapshotcontents.snapshot.storage.k8s.io",
                "volumesnapshots.snapshot.storage.k8s.io"
            ]
        );
    }
}
