//! The cells of the workload kinds.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::format::{age, duration, labels, name, selector};

/// Names and images of the containers.
fn containers(spec: Option<&PodSpec>) -> [Value; 2] {
    let all = || spec.into_iter().flat_map(|spec| &spec.containers);
    let names: Vec<&str> = all().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> = all().map(|container| container.image.as_deref().unwrap_or("")).collect();
    [json!(names.join(",")), json!(images.join(","))]
}

pub fn stateful_set(set: &StatefulSet, now: jiff::Timestamp) -> Vec<Value> {
    let spec = set.spec.clone().unwrap_or_default();
    let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let [names, images] = containers(spec.template.spec.as_ref());
    let ready = format!("{ready}/{}", spec.replicas.unwrap_or(0));
    vec![name(&set.metadata), json!(ready), age(&set.metadata, now), names, images]
}

pub fn deployment(deployment: &Deployment, now: jiff::Timestamp) -> Vec<Value> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let [names, images] = containers(spec.template.spec.as_ref());
    vec![
        name(&deployment.metadata),
        json!(format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0))),
        json!(status.updated_replicas.unwrap_or(0)),
        json!(status.available_replicas.unwrap_or(0)),
        age(&deployment.metadata, now),
        names,
        images,
        json!(selector(Some(&spec.selector))),
    ]
}

pub fn replica_set(set: &ReplicaSet, now: jiff::Timestamp) -> Vec<Value> {
    let spec = set.spec.clone().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    let [names, images] = containers(spec.template.as_ref().and_then(|template| template.spec.as_ref()));
    vec![
        name(&set.metadata),
        json!(spec.replicas.unwrap_or(0)),
        json!(status.replicas),
        json!(status.ready_replicas.unwrap_or(0)),
        age(&set.metadata, now),
        names,
        images,
        json!(selector(Some(&spec.selector))),
    ]
}

pub fn revision(revision: &ControllerRevision, now: jiff::Timestamp) -> Vec<Value> {
    let owners = revision.metadata.owner_references.iter().flatten();
    let mut controller = owners.filter(|owner| owner.controller == Some(true)).map(|owner| {
        let kind = owner.kind.to_lowercase();
        match owner.api_version.split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
            None => format!("{kind}/{}", owner.name),
        }
    });
    let controller = controller.next_back().unwrap_or_else(|| "<none>".to_owned());
    vec![name(&revision.metadata), json!(controller), json!(revision.revision), age(&revision.metadata, now)]
}

pub fn daemon_set(set: &DaemonSet, now: jiff::Timestamp) -> Vec<Value> {
    let spec = set.spec.clone().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    let [names, images] = containers(spec.template.spec.as_ref());
    vec![
        name(&set.metadata),
        json!(status.desired_number_scheduled),
        json!(status.current_number_scheduled),
        json!(status.number_ready),
        json!(status.updated_number_scheduled.unwrap_or(0)),
        json!(status.number_available.unwrap_or(0)),
        json!(labels(spec.template.spec.as_ref().and_then(|spec| spec.node_selector.as_ref()))),
        age(&set.metadata, now),
        names,
        images,
        json!(selector(Some(&spec.selector))),
    ]
}

pub fn job(job: &Job, now: jiff::Timestamp) -> Vec<Value> {
    let spec = job.spec.clone().unwrap_or_default();
    let status = job.status.clone().unwrap_or_default();
    let done = status.succeeded.unwrap_or(0);
    let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    };
    let took = status.start_time.as_ref().map_or_else(String::new, |start| {
        let end = status.completion_time.as_ref().map_or(now, |end| end.0);
        duration(end.as_second() - start.0.as_second())
    });
    let has = |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True");
    let state = if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| has(kind)).unwrap_or("Running")
    };
    let [names, images] = containers(spec.template.spec.as_ref());
    vec![
        name(&job.metadata),
        json!(state),
        json!(completions),
        json!(took),
        age(&job.metadata, now),
        names,
        images,
        json!(selector(spec.selector.as_ref())),
    ]
}
