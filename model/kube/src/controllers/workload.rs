//! What the workload controllers share: which objects are a workload's own, pods from templates, when a pod is available, names by hash
//! (`pkg/controller/controller_utils.go`, `controller_ref_manager.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::{is_finished, name, namespace};
use crate::machine::Cache;
use crate::object::{Key, Object, Typed};
use crate::selector::labels_match;
use crate::write::ApiError;

mod core;
pub mod revisions;

pub(crate) use self::core::{Core, Member};

/// A kind whose objects own pods or other objects that its selector finds.
pub(crate) trait Workload: Typed {
    fn selector(&self) -> Option<&LabelSelector>;
}

macro_rules! workloads {
    ($($kind:ty: $selector:expr),* $(,)?) => {$(
        impl Workload for $kind {
            fn selector(&self) -> Option<&LabelSelector> {
                #[allow(clippy::redundant_closure_call, reason = "the closure is the macro's argument")]
                self.spec.as_ref().and_then($selector)
            }
        }
    )*};
}

workloads! {
    ReplicaSet: |spec| Some(&spec.selector),
    Deployment: |spec| Some(&spec.selector),
    StatefulSet: |spec| Some(&spec.selector),
    DaemonSet: |spec| Some(&spec.selector),
    Job: |spec| spec.selector.as_ref(),
}

/// The owner that controls an object (`GetControllerOf`).
pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub(crate) fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or("")
}

pub(crate) fn is_leaving(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

pub(crate) fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
}

/// `NewControllerRef`.
pub(crate) fn controller_reference<T: Typed>(owner: &T) -> OwnerReference {
    let reference = crate::events::reference(owner);
    OwnerReference {
        api_version: reference.api_version.unwrap_or_default(),
        kind: reference.kind.unwrap_or_default(),
        name: name(owner.metadata()).to_owned(),
        uid: uid(owner.metadata()).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the selector of a workload finds these labels. A selector that selects nothing in particular finds nothing.
pub(crate) fn selects<W: Workload>(owner: &W, metadata: &ObjectMeta) -> bool {
    owner.selector().is_some_and(|selector| {
        let is_empty =
            selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
        !is_empty && labels_match(selector, metadata.labels.as_ref())
    })
}

/// The workloads of a kind that a change of an object concerns: its owner now, its owner before, and for an object that nobody controls
/// those that would adopt it.
pub(crate) fn concerned<W: Workload>(cache: &Cache, before: Option<&Object>, after: &ObjectMeta) -> Vec<Key> {
    let owner = |metadata: &ObjectMeta| {
        controller_of(metadata)
            .filter(|owner| owner.kind == W::KIND.kind_name())
            .map(|owner| Key::new(W::KIND, namespace(metadata), &owner.name))
    };
    let before = before.map(Object::metadata);
    let mut keys: Vec<Key> = before.and_then(owner).into_iter().chain(owner(after)).collect();
    keys.dedup();
    let is_new = before.is_none_or(|before| before.labels != after.labels || controller_of(before).is_some());
    if controller_of(after).is_none() && is_new {
        keys.extend(cache.list_in::<W>(namespace(after)).filter(|workload| selects(&***workload, after)).map(|workload| workload.key()));
    }
    keys
}

/// A pod as a template wants it (`GetPodFromTemplate`); its name comes from the prefix.
pub(crate) fn pod_from<T: Typed>(template: &PodTemplateSpec, owner: &T) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(owner.metadata()))),
            namespace: owner.metadata().namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Neither over nor on its way out (`IsPodActive`).
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_leaving(&pod.metadata)
}

/// Whether the pod's condition `Ready` is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a create was refused because the namespace goes.
pub(crate) fn is_terminating_namespace(error: &ApiError) -> bool {
    error.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
}

/// A number, or that part of a total (`GetScaledValueFromIntOrPercent`); nonsense is 0, which validation lets in nowhere.
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.saturating_mul(i64::from(total));
            let value = if round_up { product.saturating_add(99) / 100 } else { product / 100 };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

/// The hash in the name of what is made from a template: FNV-1a, in letters and digits that make no words (`SafeEncodeString`). The real
/// one hashes Go's dump of the structure; the texts differ, the form does not.
pub(crate) fn hash(json: &Value, collisions: Option<i32>) -> String {
    const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    let hash = json.to_string().bytes().fold(2_166_136_261, fold);
    let hash = collisions.filter(|count| *count != 0).map_or(hash, |count| count.to_string().bytes().fold(hash, fold));
    hash.to_string().bytes().map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()])).collect()
}

/// The patch that makes an object a workload's own.
fn adoption<W: Workload>(owner: &W, adopted: &ObjectMeta) -> Value {
    json!({"metadata": {"ownerReferences": [controller_reference(owner)], "uid": adopted.uid}})
}

/// The patch that lets an object go.
fn release<W: Workload>(owner: &W, released: &ObjectMeta) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner.metadata().uid}], "uid": released.uid}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_total() {
        let percent = |text: &str| Some(IntOrString::String(text.to_owned()));
        for (value, total, up, expected) in [
            (percent("25%"), 10, true, 3),
            (percent("25%"), 10, false, 2),
            (percent("0%"), 10, true, 0),
            (percent("100%"), 3, false, 3),
            (Some(IntOrString::Int(4)), 3, true, 4),
            (percent("rubbish"), 3, true, 0),
            (None, 3, true, 0),
        ] {
            assert_eq!(scaled(value.as_ref(), total, up), expected, "{value:?} of {total}");
        }
    }

    #[test]
    fn a_hash_is_a_label_and_follows_the_content() {
        let one = hash(&json!({"a": 1}), None);
        assert!((5..=10).contains(&one.len()) && one.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{one}");
        assert_eq!(one, hash(&json!({"a": 1}), Some(0)));
        assert_ne!(one, hash(&json!({"a": 2}), None));
        assert_ne!(one, hash(&json!({"a": 1}), Some(1)));
    }
}
