//! `Table` output: the columns of kube-api.md §5 and what their cells say.

mod apps;
mod core;
mod custom;
mod format;
mod pod;
mod storage;

use model_kube::object::Object;
use model_kube::write::ApiError;
use serde_json::{Value, json};

use super::read::{partial, show};
use super::resource::Call;

/// A column: its name, whether only `-o wide` shows it, its type.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub wide: bool,
    pub kind: &'static str,
    pub format: &'static str,
    pub description: String,
}

fn columns(text: &str) -> Vec<Column> {
    text.split(", ")
        .map(|name| {
            let wide = name.ends_with('*');
            let name = name.trim_end_matches('*');
            let (kind, format) = if name == "Name" { ("string", "name") } else { ("string", "") };
            Column { name: name.to_owned(), wide, kind, format, description: name.to_owned() }
        })
        .collect()
}

const POD: &str = "Name, Ready, Status, Restarts, Age, IP*, Node*, Nominated Node*, Readiness Gates*";
const CLAIM: &str = "Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode*";
const VOLUME: &str =
    "Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age, VolumeMode*";
const NODE: &str = "Name, Status, Roles, Age, Version, Internal-IP*, External-IP*, OS-Image*, Kernel-Version*, Container-Runtime*";

/// The columns of a kind and the cells of an object.
fn cells(object: &Object, now: jiff::Timestamp) -> (&'static str, Vec<Value>) {
    match object {
        Object::Pod(pod) => (POD, pod::cells(pod, now)),
        Object::PersistentVolumeClaim(claim) => (CLAIM, storage::claim(claim, now)),
        Object::PersistentVolume(volume) => (VOLUME, storage::volume(volume, now)),
        Object::StorageClass(class) => {
            ("Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age", storage::class(class, now))
        }
        Object::Node(node) => (NODE, core::node(node, now)),
        Object::Event(event) => {
            ("Last Seen, Type, Reason, Object, Subobject*, Source*, Message, First Seen*, Count*, Name*", core::event(event, now))
        }
        Object::Namespace(namespace) => ("Name, Status, Age", core::namespace(namespace, now)),
        Object::ConfigMap(map) => ("Name, Data, Age", core::config_map(map, now)),
        Object::Secret(secret) => ("Name, Type, Data, Age", core::secret(secret, now)),
        Object::ServiceAccount(account) => ("Name, Age", core::service_account(account, now)),
        Object::Lease(lease) => ("Name, Holder, Age", core::lease(lease, now)),
        Object::CSIDriver(driver) => (
            "Name, AttachRequired, PodInfoOnMount, StorageCapacity, TokenRequests, RequiresRepublish, Modes, Age",
            storage::driver(driver, now),
        ),
        Object::CSINode(node) => ("Name, Drivers, Age", storage::csi_node(node, now)),
        Object::CSIStorageCapacity(capacity) => ("Name, StorageClassName, Capacity, Age", storage::capacity(capacity, now)),
        Object::VolumeAttachment(attachment) => ("Name, Attacher, PV, Node, Attached, Age", storage::attachment(attachment, now)),
        Object::VolumeAttributesClass(class) => ("Name, DriverName, Age", storage::attributes_class(class, now)),
        Object::StatefulSet(set) => ("Name, Ready, Age, Containers*, Images*", apps::stateful_set(set, now)),
        Object::Deployment(deployment) => {
            ("Name, Ready, Up-to-date, Available, Age, Containers*, Images*, Selector*", apps::deployment(deployment, now))
        }
        Object::ReplicaSet(set) => ("Name, Desired, Current, Ready, Age, Containers*, Images*, Selector*", apps::replica_set(set, now)),
        Object::ControllerRevision(revision) => ("Name, Controller, Revision, Age", apps::revision(revision, now)),
        Object::DaemonSet(set) => (
            "Name, Desired, Current, Ready, Up-to-date, Available, Node Selector, Age, Containers*, Images*, Selector*",
            apps::daemon_set(set, now),
        ),
        Object::Job(job) => ("Name, Status, Completions, Duration, Age, Containers*, Images*, Selector*", apps::job(job, now)),
        Object::CustomResourceDefinition(definition) => (
            "Name, Created At",
            vec![json!(definition.metadata.name), json!(definition.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()))],
        ),
        Object::Custom { object, .. } => ("Name, Age", vec![json!(object.metadata.name), format::age(&object.metadata, now)]),
    }
}

/// The columns of a kind, also when there is no object to show.
fn columns_of(call: &Call) -> Vec<Column> {
    let kind = &call.resource.kind;
    if let Some(columns) = custom::columns(call) {
        return columns;
    }
    // Every kind knows its columns from an empty object of it.
    let empty =
        Object::from_json(kind, json!({"apiVersion": call.resource.api_version(), "kind": call.resource.kind_name, "metadata": {}}));
    empty.map(|object| columns(cells(&object, jiff::Timestamp::UNIX_EPOCH).0)).unwrap_or_default()
}

/// The table of some objects; `metadata` is a list's, else the one object's.
pub fn of(call: &Call, objects: &[Object], metadata: Option<Value>) -> Result<Value, ApiError> {
    let now = crate::api::now();
    let columns = columns_of(call);
    let include = call.query.get("includeObject").unwrap_or("Metadata");
    let mut rows = Vec::with_capacity(objects.len());
    for object in objects {
        let cells = custom::cells(call, object, now).unwrap_or_else(|| cells(object, now).1);
        let mut row = json!({"cells": cells});
        match include {
            "None" => row["object"] = Value::Null,
            "Object" => row["object"] = show(&call.resource, object)?,
            _ => row["object"] = partial(object),
        }
        rows.push(row);
    }
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            json!({"name": column.name, "type": column.kind, "format": column.format, "description": column.description,
                "priority": i32::from(column.wide)})
        })
        .collect();
    let metadata = metadata.unwrap_or_else(|| match objects {
        [one] => json!({"resourceVersion": one.metadata().resource_version}),
        _ => json!({}),
    });
    Ok(json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows}))
}
