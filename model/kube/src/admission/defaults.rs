//! Defaults that the server fills in (kube-api.md §6).

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Container, NamespaceSpec, NamespaceStatus, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, PersistentVolumeStatus, PodSpec,
    PodStatus, PodTemplateSpec, Probe, Toleration, Volume,
};

use crate::object::Object;
use crate::quantity::Quantity;

/// Empties what a client cannot set: the status, and what else the strategy of the kind resets.
pub fn prepare_create(object: &mut Object) {
    match object {
        Object::Pod(pod) => {
            let pod = Arc::make_mut(pod);
            let class = qos_class(pod.spec.as_ref());
            pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), qos_class: Some(class.to_owned()), ..PodStatus::default() });
        }
        Object::PersistentVolumeClaim(claim) => {
            Arc::make_mut(claim).status =
                Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..PersistentVolumeClaimStatus::default() });
        }
        Object::PersistentVolume(volume) => {
            Arc::make_mut(volume).status =
                Some(PersistentVolumeStatus { phase: Some("Pending".to_owned()), ..PersistentVolumeStatus::default() });
        }
        Object::Namespace(namespace) => {
            let namespace = Arc::make_mut(namespace);
            namespace.spec = Some(NamespaceSpec { finalizers: Some(vec!["kubernetes".to_owned()]) });
            namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..NamespaceStatus::default() });
        }
        Object::VolumeAttachment(attachment) => {
            Arc::make_mut(attachment).status =
                Some(k8s_openapi::api::storage::v1::VolumeAttachmentStatus { attached: false, ..Default::default() });
        }
        Object::StatefulSet(object) => Arc::make_mut(object).status = Some(Default::default()),
        Object::Deployment(object) => Arc::make_mut(object).status = Some(Default::default()),
        Object::ReplicaSet(object) => Arc::make_mut(object).status = Some(Default::default()),
        Object::DaemonSet(object) => Arc::make_mut(object).status = Some(Default::default()),
        Object::Job(object) => {
            let object = Arc::make_mut(object);
            object.status = Some(Default::default());
            select_own_pods(object);
        }
        _ => {}
    }
}

/// Gives a Job the labels and the selector that find its pods only (`generateSelector`).
fn select_own_pods(job: &mut Job) {
    const UID: &str = "batch.kubernetes.io/controller-uid";
    let (name, uid) = (job.metadata.name.clone().unwrap_or_default(), job.metadata.uid.clone().unwrap_or_default());
    let Some(spec) = job.spec.as_mut().filter(|spec| spec.manual_selector != Some(true)) else { return };
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [("job-name", &name), ("batch.kubernetes.io/job-name", &name), ("controller-uid", &uid), (UID, &uid)] {
        labels.entry(key.to_owned()).or_insert_with(|| value.clone());
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(UID.to_owned()).or_insert(uid);
}

/// Fills in defaults; the same on every write, so that an update that leaves them out changes nothing.
pub fn default(object: &mut Object) {
    match object {
        Object::Pod(pod) => {
            if let Some(spec) = Arc::make_mut(pod).spec.as_mut() {
                pod_spec(spec);
                or(&mut spec.enable_service_links, true);
                limits_are_requests(spec);
            }
        }
        Object::PersistentVolumeClaim(claim) => {
            if let Some(spec) = Arc::make_mut(claim).spec.as_mut() {
                claim_spec(spec);
            }
        }
        Object::PersistentVolume(volume) => {
            if let Some(spec) = Arc::make_mut(volume).spec.as_mut() {
                or(&mut spec.persistent_volume_reclaim_policy, "Retain");
                or(&mut spec.volume_mode, "Filesystem");
                spec.capacity.iter_mut().flatten().for_each(|(_, quantity)| canonical(quantity));
                if let Some(claim) = spec.claim_ref.as_mut() {
                    or(&mut claim.kind, "PersistentVolumeClaim");
                    or(&mut claim.api_version, "v1");
                }
            }
        }
        Object::StorageClass(class) => {
            let class = Arc::make_mut(class);
            or(&mut class.reclaim_policy, "Delete");
            or(&mut class.volume_binding_mode, "Immediate");
        }
        Object::CSIDriver(driver) => {
            let spec = &mut Arc::make_mut(driver).spec;
            or(&mut spec.attach_required, true);
            or(&mut spec.pod_info_on_mount, false);
            or(&mut spec.storage_capacity, false);
            or(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType");
            or(&mut spec.requires_republish, false);
            or(&mut spec.se_linux_mount, false);
            spec.volume_lifecycle_modes.get_or_insert_with(|| vec!["Persistent".to_owned()]);
        }
        Object::Namespace(namespace) => {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            let labels = Arc::make_mut(namespace).metadata.labels.get_or_insert_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
        Object::Secret(secret) => {
            let secret = Arc::make_mut(secret);
            or(&mut secret.type_, "Opaque");
            for (key, text) in secret.string_data.take().into_iter().flatten() {
                secret.data.get_or_insert_default().insert(key, k8s_openapi::ByteString(text.into_bytes()));
            }
        }
        Object::Deployment(object) => {
            if let Some(spec) = Arc::make_mut(object).spec.as_mut() {
                or(&mut spec.replicas, 1);
                or(&mut spec.revision_history_limit, 10);
                or(&mut spec.progress_deadline_seconds, 600);
                let strategy = spec.strategy.get_or_insert_default();
                if strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()) == "RollingUpdate" {
                    let quarter = || k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("25%".to_owned());
                    let rolling = strategy.rolling_update.get_or_insert_default();
                    rolling.max_surge.get_or_insert_with(quarter);
                    rolling.max_unavailable.get_or_insert_with(quarter);
                }
                template(&mut spec.template);
            }
        }
        Object::StatefulSet(object) => {
            if let Some(spec) = Arc::make_mut(object).spec.as_mut() {
                or(&mut spec.replicas, 1);
                or(&mut spec.revision_history_limit, 10);
                or(&mut spec.pod_management_policy, "OrderedReady");
                let strategy = spec.update_strategy.get_or_insert_default();
                if strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()) == "RollingUpdate" {
                    or(&mut strategy.rolling_update.get_or_insert_default().partition, 0);
                }
                let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
                or(&mut retention.when_deleted, "Retain");
                or(&mut retention.when_scaled, "Retain");
                for claim in spec.volume_claim_templates.iter_mut().flatten() {
                    or_text(&mut claim.metadata.name, "");
                    claim.status.get_or_insert_default().phase = Some("Pending".to_owned());
                    if let Some(spec) = claim.spec.as_mut() {
                        claim_spec(spec);
                    }
                }
                template(&mut spec.template);
            }
        }
        Object::ReplicaSet(object) => {
            if let Some(spec) = Arc::make_mut(object).spec.as_mut() {
                or(&mut spec.replicas, 1);
                if let Some(pod) = spec.template.as_mut() {
                    template(pod);
                }
            }
        }
        Object::DaemonSet(object) => {
            if let Some(spec) = Arc::make_mut(object).spec.as_mut() {
                or(&mut spec.revision_history_limit, 10);
                let strategy = spec.update_strategy.get_or_insert_default();
                if strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()) == "RollingUpdate" {
                    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int;
                    let rolling = strategy.rolling_update.get_or_insert_default();
                    rolling.max_unavailable.get_or_insert(Int(1));
                    rolling.max_surge.get_or_insert(Int(0));
                }
                template(&mut spec.template);
            }
        }
        Object::Job(object) => {
            let object = Arc::make_mut(object);
            if let Some(spec) = object.spec.as_mut() {
                if spec.parallelism.is_none() {
                    or(&mut spec.completions, 1);
                }
                or(&mut spec.parallelism, 1);
                or(&mut spec.backoff_limit, if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
                or(&mut spec.completion_mode, "NonIndexed");
                or(&mut spec.suspend, false);
                or(&mut spec.pod_replacement_policy, if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" });
                or(&mut spec.manual_selector, false);
                let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
                if object.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
                    object.metadata.labels = labels;
                }
                template(&mut spec.template);
            }
        }
        _ => {}
    }
}

/// A field with a default; `From` lets texts be given as literals.
fn or<T>(field: &mut Option<T>, value: impl Into<T>) {
    if field.is_none() {
        *field = Some(value.into());
    }
}

fn or_text(field: &mut Option<String>, value: &str) {
    if field.is_none() && !value.is_empty() {
        *field = Some(value.to_owned());
    }
}

fn canonical(quantity: &mut k8s_openapi::apimachinery::pkg::api::resource::Quantity) {
    if let Ok(parsed) = quantity.0.parse::<Quantity>() {
        quantity.0 = parsed.to_string();
    }
}

fn claim_spec(spec: &mut PersistentVolumeClaimSpec) {
    or(&mut spec.volume_mode, "Filesystem");
    if let Some(resources) = spec.resources.as_mut() {
        resources.requests.iter_mut().flatten().for_each(|(_, quantity)| canonical(quantity));
        resources.limits.iter_mut().flatten().for_each(|(_, quantity)| canonical(quantity));
    }
    // The two fields mirror each other where the reference stays in the namespace.
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(k8s_openapi::api::core::v1::TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(reference)) if reference.namespace.is_none() => {
            spec.data_source = Some(k8s_openapi::api::core::v1::TypedLocalObjectReference {
                api_group: reference.api_group.clone(),
                kind: reference.kind.clone(),
                name: reference.name.clone(),
            });
        }
        _ => {}
    }
}

fn template(template: &mut PodTemplateSpec) {
    if let Some(spec) = template.spec.as_mut() {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut PodSpec) {
    or(&mut spec.restart_policy, "Always");
    or(&mut spec.termination_grace_period_seconds, 30);
    or(&mut spec.dns_policy, "ClusterFirst");
    spec.security_context.get_or_insert_default();
    or(&mut spec.scheduler_name, "default-scheduler");
    for volume in spec.volumes.iter_mut().flatten() {
        pod_volume(volume);
    }
    for one in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container(one);
    }
    if let Some(account) = spec.service_account_name.clone().or_else(|| spec.service_account.clone()) {
        spec.service_account = Some(account.clone());
        spec.service_account_name = Some(account);
    }
}

fn container(container: &mut Container) {
    let resources = container.resources.get_or_insert_default();
    resources.requests.iter_mut().flatten().for_each(|(_, quantity)| canonical(quantity));
    resources.limits.iter_mut().flatten().for_each(|(_, quantity)| canonical(quantity));
    or(&mut container.termination_message_path, "/dev/termination-log");
    or(&mut container.termination_message_policy, "File");
    if container.image_pull_policy.as_deref().unwrap_or("").is_empty() {
        let image = container.image.as_deref().unwrap_or("");
        let last = image.rsplit('/').next().unwrap_or("");
        let tag = if image.contains('@') { Some("digest") } else { last.split_once(':').map(|(_, tag)| tag) };
        let policy = if matches!(tag, None | Some("latest")) { "Always" } else { "IfNotPresent" };
        container.image_pull_policy = Some(policy.to_owned());
    }
    for port in container.ports.iter_mut().flatten() {
        or(&mut port.protocol, "TCP");
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|source| source.field_ref.as_mut()) {
            or(&mut field.api_version, "v1");
        }
    }
    for found in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        if let Some(found) = found.as_mut() {
            probe(found);
        }
    }
}

fn probe(probe: &mut Probe) {
    or(&mut probe.timeout_seconds, 1);
    or(&mut probe.period_seconds, 10);
    or(&mut probe.success_threshold, 1);
    or(&mut probe.failure_threshold, 3);
    if let Some(get) = probe.http_get.as_mut() {
        or(&mut get.path, "/");
        or(&mut get.scheme, "HTTP");
    }
}

fn pod_volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;
    if let Some(source) = volume.config_map.as_mut() {
        or(&mut source.default_mode, MODE);
    }
    if let Some(source) = volume.secret.as_mut() {
        or(&mut source.default_mode, MODE);
    }
    if let Some(source) = volume.downward_api.as_mut() {
        or(&mut source.default_mode, MODE);
        for field in source.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()) {
            or(&mut field.api_version, "v1");
        }
    }
    if let Some(source) = volume.projected.as_mut() {
        or(&mut source.default_mode, MODE);
        for token in source.sources.iter_mut().flatten().filter_map(|source| source.service_account_token.as_mut()) {
            or(&mut token.expiration_seconds, 3600);
        }
    }
    if let Some(source) = volume.host_path.as_mut() {
        or(&mut source.type_, "");
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut()) {
        claim_spec(&mut template.spec);
    }
}

/// A limit without a request is the request.
fn limits_are_requests(spec: &mut PodSpec) {
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(resources) = container.resources.as_mut() else { continue };
        for (name, limit) in resources.limits.clone().into_iter().flatten() {
            resources.requests.get_or_insert_default().entry(name).or_insert(limit);
        }
    }
}

/// `status.qosClass`.
fn qos_class(spec: Option<&PodSpec>) -> &'static str {
    let containers = || spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let resources = |container: &Container| container.resources.clone().unwrap_or_default();
    let none = containers().all(|container| {
        let resources = resources(container);
        resources.limits.unwrap_or_default().is_empty() && resources.requests.unwrap_or_default().is_empty()
    });
    if none {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        let resources = resources(container);
        let limits = resources.limits.unwrap_or_default();
        let requests = resources.requests.unwrap_or_default();
        ["cpu", "memory"]
            .iter()
            .all(|name| limits.get(*name).is_some_and(|limit| requests.get(*name).is_none_or(|request| request == limit)))
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// The tolerations that the DefaultTolerationSeconds plugin adds to every pod.
pub(super) fn default_tolerations(spec: &mut PodSpec) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        let there = tolerations.iter().any(|toleration| {
            toleration.key.as_deref().is_none_or(|found| found.is_empty() || found == key)
                && toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == "NoExecute")
        });
        if !there {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(300),
                ..Toleration::default()
            });
        }
    }
}
