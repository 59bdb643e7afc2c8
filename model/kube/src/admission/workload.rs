//! Rules of workloads (`pkg/apis/apps/validation`, `pkg/apis/batch/validation`).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, DaemonSetSpec, Deployment, DeploymentSpec, ReplicaSet, StatefulSet, StatefulSetSpec,
};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Causes, metadata, pod, storage};
use crate::object::Object;
use crate::selector::labels_match;

const KEPT: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// What is wrong with a workload.
pub fn validate(object: &Object, causes: &mut Causes) {
    match object {
        Object::StatefulSet(set) => stateful_set(set, causes),
        Object::Deployment(one) => deployment(one, causes),
        Object::ReplicaSet(set) => replica_set(set, causes),
        Object::DaemonSet(set) => daemon_set(set, causes),
        Object::Job(one) => job(one, causes),
        Object::ControllerRevision(revision) => controller_revision(revision, causes),
        _ => {}
    }
}

/// What is wrong with a change of one.
pub fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    match (new, old) {
        (Object::StatefulSet(new), Object::StatefulSet(old)) => {
            let (new, old) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
            let kept = StatefulSetSpec {
                replicas: old.replicas,
                template: old.template.clone(),
                update_strategy: old.update_strategy.clone(),
                min_ready_seconds: old.min_ready_seconds,
                ordinals: old.ordinals.clone(),
                revision_history_limit: old.revision_history_limit,
                persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
                ..new
            };
            if kept != old {
                causes.forbidden("spec", KEPT);
            }
        }
        (Object::Deployment(new), Object::Deployment(old)) => {
            selector_stays(new.spec.as_ref().map(|spec| &spec.selector), old.spec.as_ref().map(|spec| &spec.selector), causes)
        }
        (Object::ReplicaSet(new), Object::ReplicaSet(old)) => {
            selector_stays(new.spec.as_ref().map(|spec| &spec.selector), old.spec.as_ref().map(|spec| &spec.selector), causes)
        }
        (Object::DaemonSet(new), Object::DaemonSet(old)) => {
            selector_stays(new.spec.as_ref().map(|spec| &spec.selector), old.spec.as_ref().map(|spec| &spec.selector), causes)
        }
        (Object::Job(new), Object::Job(old)) => job_update(new, old, causes),
        (Object::ControllerRevision(new), Object::ControllerRevision(old)) => {
            causes.immutable("data", &old.data, &new.data);
        }
        _ => {}
    }
}

fn selector_stays(new: Option<&LabelSelector>, old: Option<&LabelSelector>, causes: &mut Causes) {
    causes.immutable("spec.selector", &old, &new);
}

fn not_negative(field: &str, value: Option<impl Into<i64>>, causes: &mut Causes) {
    let Some(value) = value.map(Into::into) else { return };
    if value < 0 {
        causes.invalid(field, &value, "must be greater than or equal to 0");
    }
}

/// A selector that selects something, and a template that it selects.
fn selected(selector: &LabelSelector, template: &PodTemplateSpec, kind: &str, causes: &mut Causes) {
    let is_empty =
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    if is_empty {
        causes.invalid("spec.selector", selector, &format!("empty selector is invalid for {kind}"));
        return;
    }
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    if !labels_match(selector, labels) {
        let labels = labels.cloned().unwrap_or_default();
        causes.invalid("spec.template.metadata.labels", &labels, "`selector` does not match template `labels`");
    }
}

/// The pods of a template.
fn template(template: &PodTemplateSpec, causes: &mut Causes) {
    let mut inside = Causes::default();
    pod::validate(&Pod { spec: template.spec.clone(), ..Pod::default() }, &mut inside);
    causes.absorb("spec.template.", inside);
}

/// Pods that run for ever.
fn runs_on(template: &PodTemplateSpec, kind: &str, causes: &mut Causes) {
    let Some(spec) = &template.spec else { return };
    causes.one_of("spec.template.spec.restartPolicy", spec.restart_policy.as_deref().unwrap_or(""), &["Always"]);
    if spec.active_deadline_seconds.is_some() {
        causes.forbidden("spec.template.spec.activeDeadlineSeconds", &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A count or a part; whether it is zero.
fn share(field: &str, value: Option<&IntOrString>, at_most_all: bool, causes: &mut Causes) -> bool {
    match value {
        Some(IntOrString::String(text)) if !is_percent(text) => {
            causes.invalid(field, text, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
            false
        }
        Some(IntOrString::String(text)) => {
            let number: u64 = text.trim_end_matches('%').parse().unwrap_or(u64::MAX);
            if at_most_all && number > 100 {
                causes.invalid(field, text, "must not be greater than 100%");
            }
            number == 0
        }
        Some(IntOrString::Int(number)) => {
            not_negative(field, Some(*number), causes);
            *number == 0
        }
        None => true,
    }
}

fn stateful_set(set: &StatefulSet, causes: &mut Causes) {
    if let Some(name) = set.metadata.name.as_deref() {
        metadata::label("metadata.name", name, causes);
    }
    let Some(spec) = &set.spec else { return causes.required("spec.selector", "") };
    match spec.pod_management_policy.as_deref() {
        Some("OrderedReady" | "Parallel") => {}
        other => causes.invalid("spec.podManagementPolicy", &other, "must be 'OrderedReady' or 'Parallel'"),
    }
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("OnDelete"), Some(rolling)) => {
            causes.invalid("spec.updateStrategy.rollingUpdate", rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        (Some("OnDelete"), None) => {}
        (Some("RollingUpdate"), rolling) => {
            not_negative("spec.updateStrategy.rollingUpdate.partition", rolling.as_ref().and_then(|rolling| rolling.partition), causes);
        }
        _ => causes.invalid("spec.updateStrategy", &strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let policy = spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    for (field, text) in [("whenDeleted", policy.when_deleted), ("whenScaled", policy.when_scaled)] {
        let field = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        causes.one_of(field, text.as_deref().unwrap_or(""), &["Retain", "Delete"]);
    }
    for (index, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
        storage::claim_spec(&format!("spec.volumeClaimTemplates[{index}].spec"), &claim.spec.clone().unwrap_or_default(), causes);
    }
    not_negative("spec.replicas", spec.replicas, causes);
    not_negative("spec.minReadySeconds", spec.min_ready_seconds, causes);
    not_negative("spec.ordinals.start", spec.ordinals.as_ref().and_then(|ordinals| ordinals.start), causes);
    if let Some(service) = spec.service_name.as_deref().filter(|name| !name.is_empty()) {
        metadata::label("spec.serviceName", service, causes);
    }
    selected(&spec.selector, &spec.template, "statefulset", causes);
    // The pods get the claims as volumes, in place of those of the same name.
    let mut with_claims = spec.template.clone();
    let names: Vec<String> = spec.volume_claim_templates.iter().flatten().filter_map(|claim| claim.metadata.name.clone()).collect();
    if let Some(pod) = with_claims.spec.as_mut() {
        let volumes = pod.volumes.get_or_insert_default();
        volumes.retain(|volume| !names.contains(&volume.name));
        volumes.extend(names.into_iter().map(|name| Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: None }),
            name,
            ..Volume::default()
        }));
    }
    template(&with_claims, causes);
    runs_on(&spec.template, "StatefulSet", causes);
}

fn deployment(deployment: &Deployment, causes: &mut Causes) {
    let spec: DeploymentSpec = deployment.spec.clone().unwrap_or_default();
    not_negative("spec.replicas", spec.replicas, causes);
    selected(&spec.selector, &spec.template, "deployment", causes);
    template(&spec.template, causes);
    runs_on(&spec.template, "ReplicaSet", causes);
    let strategy = spec.strategy.unwrap_or_default();
    match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("Recreate"), Some(_)) => {
            causes.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'");
        }
        (Some("Recreate"), None) => {}
        (Some("RollingUpdate"), Some(rolling)) => {
            let no_unavailable = share("spec.strategy.rollingUpdate.maxUnavailable", rolling.max_unavailable.as_ref(), true, causes);
            let no_surge = share("spec.strategy.rollingUpdate.maxSurge", rolling.max_surge.as_ref(), false, causes);
            if no_unavailable && no_surge {
                causes.invalid("spec.strategy.rollingUpdate.maxUnavailable", &rolling.max_unavailable, "may not be 0 when `maxSurge` is 0");
            }
        }
        (kind, _) => causes.one_of("spec.strategy", kind.unwrap_or(""), &["Recreate", "RollingUpdate"]),
    }
    not_negative("spec.minReadySeconds", spec.min_ready_seconds, causes);
    not_negative("spec.revisionHistoryLimit", spec.revision_history_limit, causes);
    not_negative("spec.progressDeadlineSeconds", spec.progress_deadline_seconds, causes);
    if spec.progress_deadline_seconds.is_some_and(|deadline| deadline <= spec.min_ready_seconds.unwrap_or(0)) {
        causes.invalid("spec.progressDeadlineSeconds", &spec.progress_deadline_seconds, "must be greater than minReadySeconds");
    }
}

fn replica_set(set: &ReplicaSet, causes: &mut Causes) {
    let spec = set.spec.clone().unwrap_or_default();
    not_negative("spec.replicas", spec.replicas, causes);
    not_negative("spec.minReadySeconds", spec.min_ready_seconds, causes);
    let pods = spec.template.unwrap_or_default();
    selected(&spec.selector, &pods, "replicaset", causes);
    template(&pods, causes);
    runs_on(&pods, "ReplicaSet", causes);
}

fn daemon_set(set: &DaemonSet, causes: &mut Causes) {
    let spec: DaemonSetSpec = set.spec.clone().unwrap_or_default();
    selected(&spec.selector, &spec.template, "daemonset", causes);
    template(&spec.template, causes);
    runs_on(&spec.template, "DaemonSet", causes);
    not_negative("spec.minReadySeconds", spec.min_ready_seconds, causes);
    not_negative("spec.revisionHistoryLimit", spec.revision_history_limit, causes);
    let strategy = spec.update_strategy.unwrap_or_default();
    match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("OnDelete"), _) => {}
        (Some("RollingUpdate"), Some(rolling)) => {
            let no_unavailable = share("spec.updateStrategy.rollingUpdate.maxUnavailable", rolling.max_unavailable.as_ref(), true, causes);
            let no_surge = share("spec.updateStrategy.rollingUpdate.maxSurge", rolling.max_surge.as_ref(), true, causes);
            if no_unavailable && no_surge {
                causes.required("spec.updateStrategy.rollingUpdate.maxUnavailable", "cannot be 0 when maxSurge is 0");
            } else if !no_unavailable && !no_surge {
                causes.invalid(
                    "spec.updateStrategy.rollingUpdate.maxSurge",
                    &rolling.max_surge,
                    "may not be set when maxUnavailable is non-zero",
                );
            }
        }
        (Some("RollingUpdate"), None) => causes.required("spec.updateStrategy.rollingUpdate", ""),
        (kind, _) => causes.one_of("spec.updateStrategy", kind.unwrap_or(""), &["RollingUpdate", "OnDelete"]),
    }
}

fn job(job: &Job, causes: &mut Causes) {
    let spec: JobSpec = job.spec.clone().unwrap_or_default();
    not_negative("spec.parallelism", spec.parallelism, causes);
    not_negative("spec.completions", spec.completions, causes);
    not_negative("spec.activeDeadlineSeconds", spec.active_deadline_seconds, causes);
    not_negative("spec.backoffLimit", spec.backoff_limit, causes);
    not_negative("spec.ttlSecondsAfterFinished", spec.ttl_seconds_after_finished, causes);
    // What the controller here does not do yet is refused, not ignored.
    if spec.pod_failure_policy.is_some() {
        causes.forbidden("spec.podFailurePolicy", "ebbtide's job controller has no pod failure policies yet");
    }
    if spec.completion_mode.as_deref() == Some("Indexed") {
        causes.forbidden("spec.completionMode", "ebbtide's job controller has no indexed jobs yet; use NonIndexed");
    }
    let mode = spec.completion_mode.as_deref().unwrap_or("NonIndexed");
    causes.one_of("spec.completionMode", mode, &["NonIndexed", "Indexed"]);
    if mode == "Indexed" && spec.completions.is_none() {
        causes.required("spec.completions", "when completion mode is Indexed");
    }
    if mode == "NonIndexed" && spec.backoff_limit_per_index.is_some() {
        causes.invalid("spec.backoffLimitPerIndex", &spec.backoff_limit_per_index, "requires indexed completion mode");
    }
    let supported: &[&str] = if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    causes.one_of("spec.podReplacementPolicy", spec.pod_replacement_policy.as_deref().unwrap_or(""), supported);
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    match &spec.selector {
        None => causes.required("spec.selector", ""),
        Some(selector) if !labels_match(selector, labels) => {
            let labels = labels.cloned().unwrap_or_default();
            causes.invalid("spec.template.metadata.labels", &labels, "`selector` does not match template `labels`");
        }
        Some(_) => {}
    }
    template(&spec.template, causes);
    let policy = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref()).unwrap_or("");
    match policy {
        "" | "Always" => causes.required("spec.template.spec.restartPolicy", "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.invalid("spec.template.spec.restartPolicy", &policy, detail);
        }
        "OnFailure" | "Never" => {}
        other => causes.one_of("spec.template.spec.restartPolicy", other, &["OnFailure", "Never"]),
    }
}

fn job_update(new: &Job, old: &Job, causes: &mut Causes) {
    let (new, old) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let is_elastic = new.completion_mode.as_deref() == Some("Indexed") && new.completions == new.parallelism;
    if !is_elastic {
        causes.immutable("spec.completions", &old.completions, &new.completions);
    }
    causes.immutable("spec.selector", &old.selector, &new.selector);
    // A suspended job may still be moved to other nodes.
    let mut template = new.template.clone();
    if let (Some(true), Some(after), Some(before)) = (old.suspend, template.spec.as_mut(), old.template.spec.as_ref()) {
        after.affinity.clone_from(&before.affinity);
        after.node_selector.clone_from(&before.node_selector);
        after.tolerations.clone_from(&before.tolerations);
        after.scheduling_gates.clone_from(&before.scheduling_gates);
    }
    causes.immutable("spec.template", &old.template, &template);
    causes.immutable("spec.completionMode", &old.completion_mode, &new.completion_mode);
    causes.immutable("spec.podFailurePolicy", &old.pod_failure_policy, &new.pod_failure_policy);
    causes.immutable("spec.backoffLimitPerIndex", &old.backoff_limit_per_index, &new.backoff_limit_per_index);
    causes.immutable("spec.managedBy", &old.managed_by, &new.managed_by);
    causes.immutable("spec.successPolicy", &old.success_policy, &new.success_policy);
}

fn controller_revision(revision: &ControllerRevision, causes: &mut Causes) {
    not_negative("revision", Some(revision.revision), causes);
    match &revision.data {
        None => causes.required("data", "data is mandatory"),
        Some(data) if data.0.is_null() => causes.required("data", "data is mandatory"),
        Some(data) if !data.0.is_object() => causes.required("data", "data must be a valid JSON object"),
        Some(_) => {}
    }
}
