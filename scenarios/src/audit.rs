//! The audit log of a Kubernetes API server as a run of the model: its writes are told to the monitors in the order in which the server
//! made them, and each write after which something does not hold is named.
//!
//! It shows that the order of the writes of PersistentVolumeClaims, PersistentVolumes, VolumeAttachments, Pods and Nodes is one that the
//! invariants of the API allow (`Reach::Api`). It does not show that the model would have made the same writes: what is between the
//! components (calls to drivers, mounts) is not in the log, and what the log's policy leaves out cannot be judged. The log needs the level
//! `RequestResponse` for these kinds; records without an object are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model_kube::object::{Change, Key, Kind, Object};
use serde_json::{Value, json};

use crate::import::{self, ImportError, Source};
use crate::invariants::{Found, Seen, Watch};
use crate::live::changes::Objects;
use crate::live::check;

/// What an audit log showed.
#[derive(Debug, Default)]
pub struct Audited {
    /// What did not hold, each with the record after which that was so.
    pub found: Vec<(Found, String)>,
    /// Writes that were judged.
    pub writes: usize,
    /// Records that were not, by why.
    pub left: BTreeMap<String, usize>,
}

/// A write of the log.
struct Write {
    at: Duration,
    /// The version of the object after it; of the write before, where the log does not tell.
    version: u64,
    /// Where it stands, who did it and what it was.
    words: String,
    by_user: bool,
    key: Key,
    what: What,
}

enum What {
    There(Object),
    Gone(Option<Object>),
    /// A client that asked for metadata only, as the garbage collector does.
    Metadata {
        metadata: Box<ObjectMeta>,
        gone: bool,
    },
    /// `pods/binding`: the node.
    Bound(String),
}

/// Reads audit logs, and judges them. `names`: the invariants; all that the API shows when none.
pub fn audit(sources: &[Source<'_>], names: Option<&[String]>) -> Result<Audited, ImportError> {
    let mut audited = Audited::default();
    let mut writes = Vec::new();
    for (from, json) in import::audit_records(sources)? {
        match read(&from, &json)? {
            Ok(write) => writes.push(write),
            Err(why) => *audited.left.entry(why).or_default() += 1,
        }
    }
    let mut last = 0;
    writes.sort_by_key(|write| write.at);
    for write in &mut writes {
        if write.version == 0 {
            write.version = last;
        }
        last = last.max(write.version);
    }
    writes.sort_by_key(|write| write.version);
    let names = check::names(names, false);
    let mut watch = Watch::of_a_cluster(Some(&names));
    let mut objects = Objects::default();
    let mut at = Duration::ZERO;
    for write in writes {
        at = at.max(write.at);
        watch.pass(at);
        audited.found.extend(watch.take().into_iter().map(|found| (found, "too late".to_owned())));
        let changes = match write.what {
            What::There(object) => objects.there(object),
            What::Gone(last) => {
                let last = last.or_else(|| objects.get(&write.key).cloned());
                last.and_then(|last| objects.gone(last)).into_iter().collect()
            }
            What::Metadata { metadata, gone } => match objects.get(&write.key).and_then(|known| with_metadata(known, &metadata)) {
                Some(object) if gone => objects.gone(object).into_iter().collect(),
                Some(object) => objects.there(object),
                None => Vec::new(),
            },
            What::Bound(node) => {
                objects.get(&write.key).and_then(|pod| bound(pod, &node)).map(|pod| objects.there(pod)).unwrap_or_default()
            }
        };
        if write.by_user {
            watch.see(at, &Seen::ByUser { key: &write.key });
        }
        changes.iter().for_each(|change: &Change| watch.see(at, &Seen::Object(change)));
        audited.writes += 1;
        audited.found.extend(watch.take().into_iter().map(|found| (found, write.words.clone())));
    }
    watch.pass(at);
    audited.found.extend(watch.take().into_iter().map(|found| (found, "too late".to_owned())));
    Ok(audited)
}

/// A record as a write of the storage path; else why it is none.
fn read(from: &str, json: &Value) -> Result<Result<Write, String>, ImportError> {
    let wrong = |message: String| ImportError::Record { record: from.to_owned(), message };
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if json["stage"].as_str().is_some_and(|stage| stage != "ResponseComplete") {
        return Ok(Err("other stages than ResponseComplete".into()));
    }
    let (verb, resource, subresource) = (text("/verb"), text("/objectRef/resource"), text("/objectRef/subresource"));
    if !matches!(verb, "create" | "update" | "patch" | "delete") {
        return Ok(Err("requests that only read, and deletions of whole collections".into()));
    }
    let kinds = check::KINDS.iter().map(|(_, kind)| kind);
    let Some(kind) = kinds.into_iter().find(|kind| kind.plural() == resource && kind.group() == text("/objectRef/apiGroup")) else {
        return Ok(Err("writes of kinds that the storage path does not judge".into()));
    };
    if json.pointer("/responseStatus/code").and_then(Value::as_u64).is_some_and(|code| code >= 300) {
        return Ok(Err("writes that were refused".into()));
    }
    if json.pointer("/requestURI").and_then(Value::as_str).is_some_and(|uri| uri.contains("dryRun=All")) {
        return Ok(Err("writes that were only tried".into()));
    }
    let time = ["/stageTimestamp", "/requestReceivedTimestamp"].into_iter().map(&text).find(|time| !time.is_empty()).unwrap_or_default();
    let at: jiff::Timestamp = time.parse().map_err(|_| wrong(format!("`{time}` is no time")))?;
    let at = Duration::try_from(at.as_duration()).unwrap_or_default();
    let body = Some(&json["responseObject"]).filter(|body| body.is_object() && body["kind"] != "Status");
    let named = [text("/objectRef/name"), text("/responseObject/metadata/name")].into_iter().find(|name| !name.is_empty());
    let Some(name) = named else { return Ok(Err("writes without the name of their object".into())) };
    let key = Key::new(kind.clone(), text("/objectRef/namespace"), name);
    let user = text("/user/username");
    let slash = if subresource.is_empty() { "" } else { "/" };
    let words = format!("{from}: {verb} {resource}{slash}{subresource} {name} by {user} at {time}");
    let broken = |error: &dyn std::fmt::Display| wrong(error.to_string());
    let (object, partial) = match body {
        Some(body) if body["kind"] == "PartialObjectMetadata" => {
            let metadata: ObjectMeta = serde_json::from_value(body["metadata"].clone()).map_err(|error| broken(&error))?;
            (None, Some(metadata))
        }
        Some(body) => (Some(Object::from_json(kind, body.clone()).map_err(|error| broken(&error))?), None),
        None => (None, None),
    };
    let metadata = partial.as_ref().or(object.as_ref().map(Object::metadata));
    let gone = metadata.is_some_and(|metadata| is_gone(verb, metadata));
    let version = match metadata.and_then(|metadata| metadata.resource_version.as_deref()) {
        // A write that ends a deletion shows the object as it was: without a version of its own.
        _ if gone && verb != "delete" => 0,
        version => version.and_then(|version| version.parse().ok()).unwrap_or(0),
    };
    let what = match (verb, subresource, object) {
        ("create", "binding", _) => What::Bound(text("/requestObject/target/name").to_owned()),
        ("create", "eviction", _) => return Ok(Err("evictions: the deletion that follows is judged".into())),
        (_, _, None) if let Some(metadata) = partial => What::Metadata { metadata: Box::new(metadata), gone },
        ("delete", _, None) => What::Gone(None),
        (_, _, None) => return Ok(Err("writes whose object is not in the log: its policy needs the level RequestResponse".into())),
        (_, _, Some(object)) if gone => What::Gone(Some(object)),
        (_, _, Some(object)) => What::There(object),
    };
    let by_user = import::is_user(user);
    Ok(Ok(Write { at, version, words, by_user, key, what }))
}

/// Whether an object is no more after a write: nothing held it (registry/generic/registry/store.go, `Delete` and `deleteWithoutFinalizers`).
fn is_gone(verb: &str, metadata: &ObjectMeta) -> bool {
    let held = metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    let grace = metadata.deletion_grace_period_seconds.unwrap_or(0) > 0;
    !held && !grace && (metadata.deletion_timestamp.is_some() || verb == "delete")
}

fn with_metadata(object: &Object, metadata: &ObjectMeta) -> Option<Object> {
    let mut json = object.to_json().ok()?;
    json["metadata"] = json!(metadata);
    Object::from_json(&object.kind(), json).ok()
}

/// A pod as the binding leaves it; its version is told by the next write.
fn bound(pod: &Object, node: &str) -> Option<Object> {
    let mut json = pod.to_json().ok()?;
    json["spec"]["nodeName"] = json!(node);
    json["metadata"]["resourceVersion"] = Value::Null;
    Object::from_json(&Kind::Pod, json).ok()
}

#[cfg(test)]
mod tests;
