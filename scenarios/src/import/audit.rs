//! The audit log of a Kubernetes API server (users.md §6.2): the writes of people and tools, whole where the log's level has them.

use model_kube::controllers::Controller;
use model_kube::resource::BUILT_IN;
use serde_json::{Value, json};

use super::ImportError;
use super::infer;
use super::read::Record;
use super::timeline::{Machine, Timeline, What, text, time};

/// Kinds whose objects matter to the storage path. Others are left out.
const KINDS: [&str; 13] = [
    "Namespace",
    "Node",
    "Pod",
    "PersistentVolumeClaim",
    "PersistentVolume",
    "StorageClass",
    "VolumeAttachment",
    "VolumeAttributesClass",
    "StatefulSet",
    "Deployment",
    "ReplicaSet",
    "DaemonSet",
    "Job",
];

/// Who makes pods for whom: the service account, its kind, and the name of the world's controller.
const WORKLOADS: [(&str, &str, &str); 5] = [
    ("statefulset-controller", "StatefulSet", "statefulset"),
    ("deployment-controller", "Deployment", "deployment"),
    ("replicaset-controller", "ReplicaSet", "replicaset"),
    ("daemon-set-controller", "DaemonSet", "daemonset"),
    ("job-controller", "Job", "job"),
];

enum Author {
    /// A person, a tool, an operator.
    User,
    /// A controller that the world lacks: its writes are played as a user's.
    Absent,
    /// One of the world's own parts.
    Part,
}

fn has(controller: &str) -> bool {
    Controller::NAMES.contains(&controller)
}

fn author(user: &str) -> Author {
    if let Some(name) = user.strip_prefix("system:serviceaccount:kube-system:") {
        return match WORKLOADS.iter().find(|(account, ..)| *account == name) {
            Some((.., controller)) if !has(controller) => Author::Absent,
            _ => Author::Part,
        };
    }
    let part = ["system:node:", "system:kube-", "system:apiserver", "eks:", "system:serviceaccount:kube-"];
    if part.iter().any(|start| user.starts_with(start)) { Author::Part } else { Author::User }
}

/// Whether a name is a person's or a tool's.
pub(super) fn is_user(name: &str) -> bool {
    matches!(author(name), Author::User)
}

pub(super) fn read(record: &Record, timeline: &mut Timeline) -> Result<(), ImportError> {
    let (json, from) = (&record.json, record.from.as_str());
    let at = time(record, &["requestReceivedTimestamp", "stageTimestamp"])?;
    let wrong = |message: String| ImportError::Record { record: from.to_owned(), message };
    let verb = text(json, "/verb").ok_or_else(|| wrong("an audit event without a verb".into()))?;
    if json["stage"].as_str().is_some_and(|stage| stage != "ResponseComplete") {
        return left(timeline, "audit: other stages than ResponseComplete");
    }
    let resource = text(json, "/objectRef/resource").unwrap_or_default();
    let subresource = text(json, "/objectRef/subresource").unwrap_or_default();
    if resource == "nodes" {
        node(json, timeline);
    }
    if resource == "pods" && subresource == "binding" {
        bound(json, timeline);
        return left(timeline, "audit: bindings, by which pods are put on their nodes");
    }
    if !matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection") {
        return left(timeline, "audit: requests that only read");
    }
    let kind = BUILT_IN.into_iter().find(|kind| kind.plural() == resource).map(|kind| kind.kind_name().to_owned());
    let Some(kind) = kind.and_then(|kind| KINDS.into_iter().find(|known| *known == kind)) else {
        return left(timeline, &format!("audit: writes of {resource}"));
    };
    let code = json.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(200);
    if code >= 300 {
        return left(timeline, "audit: writes that were refused");
    }
    let user = text(json, "/user/username").unwrap_or_default();
    match author(user) {
        Author::Part => return left(timeline, "audit: writes of controllers and kubelets, which the world's own do themselves"),
        Author::Absent if kind != "Pod" && kind != "PersistentVolumeClaim" => {
            return left(timeline, "audit: writes of controllers that the world lacks, of other things than pods and claims");
        }
        Author::Absent | Author::User => {}
    }
    if let Some((.., controller)) = WORKLOADS.iter().find(|(_, workload, _)| *workload == kind)
        && !has(controller)
    {
        timeline.unknown("", format!("the world has no controller of {kind}s: what it did to pods is played instead"));
        return left(timeline, &format!("audit: writes of {kind}s"));
    }
    let namespace = text(json, "/objectRef/namespace").unwrap_or_default().to_owned();
    let body = &json["requestObject"];
    let named = [text(json, "/objectRef/name"), text(json, "/responseObject/metadata/name"), text(body, "/metadata/name")];
    let Some(name) = named.into_iter().flatten().next().map(str::to_owned) else {
        timeline.unknown(from, format!("{verb} of {kind}s without a name in the record; it is not played"));
        return Ok(());
    };
    let tie = text(json, "/auditID").unwrap_or_default();
    let what = match (verb, subresource) {
        ("delete", "") | ("create", "eviction") => {
            let grace = ["/gracePeriodSeconds", "/deleteOptions/gracePeriodSeconds"].into_iter().find_map(|at| body.pointer(at)?.as_u64());
            What::Delete { kind, namespace, name, grace: grace.and_then(|seconds| u32::try_from(seconds).ok()) }
        }
        ("deletecollection", _) => {
            timeline.unknown(from, format!("which {kind}s a deletecollection met is not in the record; it is not played"));
            return Ok(());
        }
        (_, "") => match object(json, kind, &namespace, &name) {
            Some(object) => What::Apply(object),
            None if verb != "create" => {
                timeline
                    .unknown(from, format!("the log's level leaves out what was changed of {kind} {namespace}/{name}; it is not played"));
                return Ok(());
            }
            None => match infer::object(kind, &namespace, &name) {
                Some(object) => {
                    timeline.unknown(from, format!("the log's level leaves out what {kind} {namespace}/{name} was; {}", infer::ASSUMED));
                    What::Apply(object)
                }
                None => {
                    timeline.unknown(from, format!("the log's level leaves out what {kind} {namespace}/{name} was; it is not played"));
                    return Ok(());
                }
            },
        },
        _ => return left(timeline, &format!("audit: writes of {resource}/{subresource}")),
    };
    timeline.push(at, tie, from, what);
    Ok(())
}

fn left(timeline: &mut Timeline, why: &str) -> Result<(), ImportError> {
    timeline.leave(why);
    Ok(())
}

/// What was written: the request where it is there, with the names that a patch lacks; else what came of it.
fn object(json: &Value, kind: &str, namespace: &str, name: &str) -> Option<Value> {
    let body = [&json["requestObject"], &json["responseObject"]].into_iter().find(|body| body.is_object() && body["kind"] != "Status")?;
    let mut object = body.clone();
    let info = BUILT_IN.into_iter().find(|known| known.kind_name() == kind)?.info()?;
    object["apiVersion"] = json!(if info.group.is_empty() { info.version.to_owned() } else { format!("{}/{}", info.group, info.version) });
    object["kind"] = json!(kind);
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["name"] = json!(name);
    if info.namespaced {
        object["metadata"]["namespace"] = json!(namespace);
    }
    Some(object)
}

fn node(json: &Value, timeline: &mut Timeline) {
    let object = [&json["responseObject"], &json["requestObject"]].into_iter().find(|body| text(body, "/spec/providerID").is_some());
    let name = text(json, "/objectRef/name").map(str::to_owned);
    let provider = object.and_then(|object| text(object, "/spec/providerID")).and_then(|id| id.rsplit('/').next()).map(str::to_owned);
    let label = |name: &str| object.and_then(|object| text(object, name)).map(str::to_owned);
    if name.is_some() {
        timeline.machine(Machine {
            node: name,
            instance: provider,
            zone: label("/metadata/labels/topology.kubernetes.io~1zone"),
            instance_type: label("/metadata/labels/node.kubernetes.io~1instance-type"),
        });
    }
}

fn bound(json: &Value, timeline: &mut Timeline) {
    let pod = (text(json, "/objectRef/namespace"), text(json, "/objectRef/name"));
    if let ((Some(namespace), Some(name)), Some(node)) = (pod, text(json, "/requestObject/target/name")) {
        timeline.machine(Machine { node: Some(node.to_owned()), ..Machine::default() });
        timeline.placed.insert(format!("{namespace}/{name}"), node.to_owned());
    }
}
