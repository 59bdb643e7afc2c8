//! ControllerRevisions: what a set's template was, kept as patches (`pkg/controller/history`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use super::{Core, Member, Workload, controller_of, controller_reference, hash, uid};
use crate::controllers::{name, namespace};
use crate::machine::{Backoff, Effect};
use crate::object::Key;
use crate::write::Write;

/// The label of a StatefulSet's revisions.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";
/// The label of a DaemonSet's revisions, and of its pods.
pub(crate) const REVISION_HASH: &str = "controller-revision-hash";
/// How many names with other content are passed over before a set waits.
const COLLISIONS: i32 = 16;

/// The revisions of a set, oldest first, and which of them its template is.
#[derive(Debug)]
pub(crate) struct Revisions {
    pub all: Vec<Arc<ControllerRevision>>,
    pub update: Arc<ControllerRevision>,
    pub collisions: i32,
}

/// The patch that restores a template (`getPatch`).
fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The revisions of a set: adopts free ones, makes one for a new template, numbers an old one anew that the set returns to. None while that
/// is under way.
pub(crate) fn of<W: Workload>(
    core: &mut Core,
    item: &Key,
    set: &W,
    template: &PodTemplateSpec,
    collisions: i32,
    hash_label: &str,
    out: &mut Vec<Effect>,
) -> Option<Revisions> {
    let mut all = core.claim::<W, ControllerRevision>(item, set, |_| Member::Yes, out)?;
    all.sort_by(|a, b| {
        let key = |revision: &ControllerRevision| {
            (revision.revision, revision.metadata.creation_timestamp.clone(), revision.metadata.name.clone())
        };
        key(a).cmp(&key(b))
    });
    let data = patch(template);
    let is_equal = |revision: &Arc<ControllerRevision>| revision.data.as_ref().is_some_and(|kept| kept.0 == data);
    let next = all.last().map_or(1, |last| last.revision.saturating_add(1));
    if let Some(last) = all.last().filter(|last| is_equal(last)).cloned() {
        return Some(Revisions { all, update: last, collisions });
    }
    if let Some(older) = all.iter().rev().find(|revision| is_equal(revision)) {
        let mut updated = (**older).clone();
        updated.revision = next;
        core.work.write(item, Write::update(updated), out);
        return None;
    }
    let metadata = set.metadata();
    let given = template.metadata.clone().unwrap_or_default();
    for collisions in collisions..collisions.saturating_add(COLLISIONS) {
        let hash = hash(&data, Some(collisions));
        let revision_name = format!("{}-{hash}", name(metadata));
        if let Some(known) = core.cache.get::<ControllerRevision>(namespace(metadata), &revision_name) {
            let is_mine = controller_of(&known.metadata).is_none_or(|owner| owner.uid == uid(metadata));
            if is_mine && is_equal(known) {
                // It was just made, or is about to be adopted.
                core.work.fail(item, Backoff::CONTROLLER, out);
                return None;
            }
            continue;
        }
        let mut labels = given.labels.clone().unwrap_or_default();
        labels.insert(hash_label.to_owned(), hash);
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(revision_name),
                namespace: metadata.namespace.clone(),
                labels: Some(labels),
                annotations: metadata.annotations.clone(),
                owner_references: Some(vec![controller_reference(set)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: next,
        };
        core.work.write(item, Write::create(revision), out);
        return None;
    }
    core.work.fail(item, Backoff::CONTROLLER, out);
    None
}

/// The oldest revision beyond the limit that nothing uses (`truncateHistory`).
pub(crate) fn surplus(revisions: &Revisions, limit: i32, is_live: impl Fn(&str) -> bool) -> Option<&Arc<ControllerRevision>> {
    let mut dead = revisions.all.iter().filter(|revision| !is_live(name(&revision.metadata)));
    let count = dead.clone().count();
    (count > usize::try_from(limit).unwrap_or(0)).then(|| dead.next()).flatten()
}
