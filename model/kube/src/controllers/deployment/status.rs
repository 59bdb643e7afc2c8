//! What a Deployment says of itself (`calculateStatus`, `syncRolloutStatus`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::sets;
use crate::controllers::name;

/// The condition of a type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|known| known.type_ == kind)
}

/// Adds or changes a condition; what is said with the same reason stays as it is (`SetDeploymentCondition`).
pub fn set(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str) {
    let known = condition(status, kind).cloned();
    if known.as_ref().is_some_and(|known| known.status == value && known.reason.as_deref() == Some(reason)) {
        return;
    }
    let since = known.filter(|known| known.status == value).and_then(|known| known.last_transition_time);
    remove(status, kind);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since,
        last_update_time: None,
    });
}

pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    let conditions = status.conditions.take().unwrap_or_default();
    let left: Vec<_> = conditions.into_iter().filter(|known| known.type_ != kind).collect();
    status.conditions = Some(left).filter(|left| !left.is_empty());
}

/// Numbers and the condition `Available`.
pub fn of(deployment: &Deployment, all: &[Arc<ReplicaSet>], new: Option<&Arc<ReplicaSet>>) -> DeploymentStatus {
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| all.iter().map(|set| of(set)).sum::<i32>();
    let has = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let available = sum(&sets::available);
    let known = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(&has)),
        updated_replicas: some(new.map_or(0, |new| has(new))),
        ready_replicas: some(sum(&|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sets::total(all) - available).max(0)),
        terminating_replicas: Some(sum(&|set| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0))),
        collision_count: known.collision_count,
        conditions: known.conditions,
    };
    if available >= sets::wanted(deployment) - sets::fenceposts(deployment).1 {
        set(&mut status, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        set(&mut status, "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.");
    }
    status
}

/// Whether all pods are new and available (`DeploymentComplete`).
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = sets::wanted(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|count| count.unwrap_or(0) == wanted)
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether a deadline is set at all.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).filter(|seconds| *seconds != i32::MAX)
}

/// Adds what a rollout says of its progress.
pub fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    all: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    timed_out: bool,
) {
    let before = deployment.status.clone().unwrap_or_default();
    let known = condition(&before, "Progressing").cloned();
    let who = new
        .map_or_else(|| format!("Deployment \"{}\"", name(&deployment.metadata)), |new| format!("ReplicaSet \"{}\"", name(&new.metadata)));
    let count = |count: Option<i32>| count.unwrap_or(0);
    let was_complete = count(status.replicas) == count(status.updated_replicas)
        && known.as_ref().is_some_and(|known| known.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if deadline(deployment).is_none() {
        remove(status, "Progressing");
    } else if !was_complete {
        let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
        let has_progressed = count(status.updated_replicas) > count(before.updated_replicas)
            || old(status) < old(&before)
            || count(status.ready_replicas) > count(before.ready_replicas)
            || count(status.available_replicas) > count(before.available_replicas);
        if is_complete(deployment, status) {
            set(status, "Progressing", "True", "NewReplicaSetAvailable", &format!("{who} has successfully progressed."));
        } else if has_progressed {
            // The time of the update changes with each progress.
            remove(status, "Progressing");
            let since = known.filter(|known| known.status == "True").and_then(|known| known.last_transition_time);
            set(status, "Progressing", "True", "ReplicaSetUpdated", &format!("{who} is progressing."));
            if let Some(condition) = status.conditions.iter_mut().flatten().find(|known| known.type_ == "Progressing") {
                condition.last_transition_time = since;
            }
        } else if timed_out {
            set(status, "Progressing", "False", "ProgressDeadlineExceeded", &format!("{who} has timed out progressing."));
        }
    }
    let failure = new.into_iter().chain(all).flat_map(|set| set.status.iter()).flat_map(|status| status.conditions.iter().flatten());
    match failure.clone().find(|known| known.type_ == "ReplicaFailure") {
        Some(failure) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            set(status, "ReplicaFailure", &failure.status, &text(&failure.reason), &text(&failure.message));
        }
        None => remove(status, "ReplicaFailure"),
    }
}
