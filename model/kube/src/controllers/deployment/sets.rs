//! A Deployment's ReplicaSets: which is the new one, what their annotations say, how many pods they may have
//! (`deployment_util.go`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::controllers::workload::{controller_reference, hash, scaled};
use crate::controllers::{annotate, annotation, name};

pub const HASH: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// What a ReplicaSet does not get from its Deployment.
const OWN: [&str; 6] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX, "deprecated.deployment.rollback.to"];

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

/// How many pods may be too many, and how many may be missing (`ResolveFenceposts`).
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let wanted = wanted(deployment);
    if !is_rolling(deployment) || wanted == 0 {
        return (0, 0);
    }
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.rolling_update.clone());
    let rolling = rolling.unwrap_or_default();
    let surge = scaled(rolling.max_surge.as_ref(), wanted, true);
    let unavailable = scaled(rolling.max_unavailable.as_ref(), wanted, false);
    // Both may be rounded to nothing; then one pod may be missing.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    (surge, unavailable.min(wanted))
}

/// The ReplicaSet whose template is the Deployment's, the oldest of them (`FindNewReplicaSet`).
pub fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let template = plain(&deployment.spec.as_ref()?.template);
    let is_it =
        |set: &&Arc<ReplicaSet>| set.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|found| plain(found) == template);
    sets.iter().filter(is_it).min_by_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone())).cloned()
}

/// A template without the hash that a ReplicaSet's has.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut plain = template.clone();
    let metadata = plain.metadata.get_or_insert_default();
    if let Some(labels) = metadata.labels.as_mut() {
        labels.remove(HASH);
    }
    metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
    plain
}

/// The number in a revision annotation.
pub fn revision(metadata: &ObjectMeta) -> i64 {
    annotation(metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The number of pods that the Deployment had when it last scaled a set.
pub fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, DESIRED)?.parse().ok()
}

/// Notes the wanted and the highest number of pods; whether that is news.
pub fn note_replicas(deployment: &Deployment, set: &mut ReplicaSet) -> bool {
    let wanted = wanted(deployment);
    let most = wanted.saturating_add(fenceposts(deployment).0);
    let is_desired_new = annotate(&mut set.metadata.annotations, DESIRED, &wanted.to_string());
    annotate(&mut set.metadata.annotations, MAX, &most.to_string()) || is_desired_new
}

/// The annotations of the new set, as they should be (`SetNewReplicaSetAnnotations`).
pub fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, next: i64) {
    for (key, value) in deployment.metadata.annotations.iter().flatten().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        annotate(&mut set.metadata.annotations, key, value);
    }
    let old = annotation(&set.metadata, REVISION).map(str::to_owned);
    if revision(&set.metadata) >= next {
        return;
    }
    annotate(&mut set.metadata.annotations, REVISION, &next.to_string());
    if let Some(old) = old {
        // It is rolled back to: what it was is kept.
        let history = match annotation(&set.metadata, HISTORY).filter(|history| !history.is_empty()) {
            Some(history) => format!("{history},{old}"),
            None => old,
        };
        annotate(&mut set.metadata.annotations, HISTORY, &history);
    }
}

/// A ReplicaSet for the Deployment's template.
pub fn make(deployment: &Deployment, old: &[Arc<ReplicaSet>], collisions: Option<i32>) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = hash(&json!(spec.template), collisions);
    let mut template = spec.template.clone();
    template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(new_replicas(deployment, old, 0)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let last = old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
    annotate_new(deployment, &mut set, last + 1);
    note_replicas(deployment, &mut set);
    set
}

/// How many pods the new set may have beside the others (`NewRSNewReplicas`).
pub fn new_replicas(deployment: &Deployment, others: &[Arc<ReplicaSet>], current: i32) -> i32 {
    let wanted = wanted(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let room = wanted.saturating_add(fenceposts(deployment).0) - total(others) - current;
    if room <= 0 { current } else { current.saturating_add(room.min(wanted - current)) }
}

/// The pods that all sets want together.
pub fn total(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().fold(0, |sum, set| sum.saturating_add(replicas(set)))
}

/// The sizes of all active sets when the Deployment is scaled in the middle of a rollout: each in its proportion, the rest to the largest.
pub fn proportions(deployment: &Deployment, active: &[Arc<ReplicaSet>]) -> Vec<(Arc<ReplicaSet>, i32)> {
    let wanted = wanted(deployment);
    let most = if wanted > 0 { wanted.saturating_add(fenceposts(deployment).0) } else { 0 };
    let to_add = most - total(active);
    let mut sorted = active.to_vec();
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.clone();
    // The largest first; of one size the newer when pods are added, the older when they go.
    sorted.sort_by(|a, b| {
        let by_age = if to_add > 0 { created(b).cmp(&created(a)) } else { created(a).cmp(&created(b)) };
        replicas(b).cmp(&replicas(a)).then(by_age).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    let mut added = 0;
    let mut sizes: Vec<(Arc<ReplicaSet>, i32)> = Vec::new();
    for set in sorted {
        let size = replicas(&set);
        let share = if to_add == 0 || to_add == added {
            0
        } else {
            let before = annotation(&set.metadata, MAX).and_then(|text| text.parse().ok()).filter(|count| *count != 0);
            let before = before.unwrap_or_else(|| deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0));
            let part = match (wanted, before) {
                (0, _) => -size,
                (_, 0) => 0,
                _ => {
                    let scaled = i64::from(size) * i64::from(most) * 2 + i64::from(before);
                    i32::try_from(scaled.div_euclid(i64::from(before) * 2)).unwrap_or(i32::MAX) - size
                }
            };
            if to_add > 0 { part.min(to_add - added) } else { part.max(to_add - added) }
        };
        added += share;
        sizes.push((set, size + share));
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}
