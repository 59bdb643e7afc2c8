//! Rules of pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

use super::{Causes, metadata, storage};
use crate::diff::diff;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate(pod: &Pod, causes: &mut Causes) {
    let Some(spec) = &pod.spec else {
        causes.required("spec.containers", "");
        return;
    };
    let volumes = volumes(spec, causes);
    if spec.containers.is_empty() {
        causes.required("spec.containers", "");
    }
    let mut names = BTreeSet::new();
    let lists =
        [("spec.containers", spec.containers.as_slice()), ("spec.initContainers", spec.init_containers.as_deref().unwrap_or_default())];
    for (field, list) in lists {
        for (index, one) in list.iter().enumerate() {
            let at = format!("{field}[{index}]");
            container(&at, one, &volumes, causes);
            if !one.name.is_empty() && !names.insert(&one.name) {
                causes.duplicate(format!("{at}.name"), &one.name);
            }
        }
    }
    if let Some(policy) = spec.restart_policy.as_deref() {
        causes.one_of("spec.restartPolicy", policy, &["Always", "OnFailure", "Never"]);
    }
    if let Some(policy) = spec.dns_policy.as_deref() {
        causes.one_of("spec.dnsPolicy", policy, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    }
    if spec.active_deadline_seconds.is_some_and(|seconds| seconds < 1) {
        causes.invalid("spec.activeDeadlineSeconds", &spec.active_deadline_seconds, "must be between 1 and 2147483647, inclusive");
    }
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        metadata::subdomain("spec.nodeName", node, causes);
    }
}

fn volumes<'a>(spec: &'a PodSpec, causes: &mut Causes) -> BTreeMap<&'a str, &'a Volume> {
    let mut found = BTreeMap::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = format!("spec.volumes[{index}]");
        let name = volume.name.as_str();
        if name.is_empty() {
            causes.required(format!("{at}.name"), "");
        } else {
            metadata::label(&format!("{at}.name"), name, causes);
        }
        if found.insert(name, volume).is_some() {
            causes.duplicate(format!("{at}.name"), name);
        }
        // Every other field of a volume is a source.
        let sources = serde_json::to_value(volume).ok().and_then(|json| json.as_object().map(serde_json::Map::len)).unwrap_or(1);
        match sources {
            0 | 1 => causes.required(&at, "must specify a volume type"),
            2 => {}
            _ => causes.forbidden(&at, "may not specify more than 1 volume type"),
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && claim.claim_name.is_empty()
        {
            causes.required(format!("{at}.persistentVolumeClaim.claimName"), "");
        }
        if let Some(source) = &volume.host_path
            && source.path.is_empty()
        {
            causes.required(format!("{at}.hostPath.path"), "");
        }
        if let Some(source) = &volume.csi
            && source.driver.is_empty()
        {
            causes.required(format!("{at}.csi.driver"), "");
        }
        if let Some(source) = &volume.ephemeral {
            match &source.volume_claim_template {
                Some(template) => storage::claim_spec(&format!("{at}.ephemeral.volumeClaimTemplate.spec"), &template.spec, causes),
                None => causes.required(format!("{at}.ephemeral.volumeClaimTemplate"), ""),
            }
        }
    }
    found
}

fn container(at: &str, container: &Container, volumes: &BTreeMap<&str, &Volume>, causes: &mut Causes) {
    if container.name.is_empty() {
        causes.required(format!("{at}.name"), "");
    } else {
        metadata::label(&format!("{at}.name"), &container.name, causes);
    }
    match container.image.as_deref() {
        None | Some("") => causes.required(format!("{at}.image"), ""),
        Some(image) if image.trim() != image => {
            causes.invalid(format!("{at}.image"), &image, "must not have leading or trailing whitespace");
        }
        Some(_) => {}
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        if variable.name.is_empty() {
            causes.required(format!("{at}.env[{index}].name"), "");
        }
        if variable.value.as_deref().is_some_and(|value| !value.is_empty()) && variable.value_from.is_some() {
            causes.invalid(format!("{at}.env[{index}].valueFrom"), &"", "may not be specified when `value` is not empty");
        }
    }
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        if mount.name.is_empty() {
            causes.required(format!("{at}.name"), "");
        }
        if !volumes.contains_key(mount.name.as_str()) {
            causes.not_found(format!("{at}.name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            causes.required(format!("{at}.mountPath"), "");
        }
        if !paths.insert(mount.mount_path.as_str()) {
            causes.invalid(format!("{at}.mountPath"), &mount.mount_path, "must be unique");
        }
        for (field, path) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            let Some(path) = path.as_deref() else { continue };
            // As in the real server, the index is missing from this path.
            let field = format!("{}.{field}", at.rsplit_once('[').map_or(at.as_str(), |(list, _)| list));
            if path.starts_with('/') {
                causes.invalid(&field, &path, "must be a relative path");
            }
            if path.split('/').any(|part| part == "..") {
                causes.invalid(&field, &path, "must not contain '..'");
            }
        }
    }
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = format!("{at}.volumeDevices[{index}]");
        match volumes.get(device.name.as_str()) {
            None => causes.not_found(format!("{at}.name"), &device.name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => causes.invalid(
                format!("{at}.name"),
                &device.name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            causes.required(format!("{at}.devicePath"), "");
        }
        if !paths.insert(device.device_path.as_str()) {
            causes.invalid(format!("{at}.devicePath"), &device.device_path, "must not already exist as a path in volumeMounts");
        }
    }
    if let Some(resources) = &container.resources {
        for (name, limit) in resources.limits.iter().flatten() {
            let over = resources.requests.iter().flatten().find(|(request, _)| *request == name).is_some_and(|(_, request)| {
                let parse = |text: &str| text.parse::<crate::quantity::Quantity>().ok().map(crate::quantity::Quantity::millis);
                parse(&request.0) > parse(&limit.0)
            });
            if over {
                let request = &resources.requests.as_ref().map(|requests| requests[name].0.clone());
                causes.invalid(
                    format!("{at}.resources.requests"),
                    request,
                    &format!("must be less than or equal to {name} limit of {}", limit.0),
                );
            }
        }
    }
}

/// A pod's spec is fixed but for a few fields (kube-api.md §2).
pub fn validate_update(new: &Pod, old: &Pod, causes: &mut Causes) {
    let (Some(after), Some(before)) = (&new.spec, &old.spec) else {
        causes.required("spec.containers", "");
        return;
    };
    if after.containers.len() != before.containers.len() {
        causes.forbidden("spec.containers", "pod updates may not add or remove containers");
        return;
    }
    let inits = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    if inits(after) != inits(before) {
        causes.forbidden("spec.initContainers", "pod updates may not add or remove containers");
        return;
    }
    let mut munged = after.clone();
    let images = |now: &mut [Container], then: &[Container]| {
        for (now, then) in now.iter_mut().zip(then) {
            now.image.clone_from(&then.image);
        }
    };
    images(&mut munged.containers, &before.containers);
    images(munged.init_containers.as_deref_mut().unwrap_or_default(), before.init_containers.as_deref().unwrap_or_default());
    for (index, container) in after.containers.iter().enumerate() {
        if container.image.as_deref().unwrap_or("").is_empty() {
            causes.required(format!("spec.containers[{index}].image"), "");
        }
    }
    let had = before.tolerations.as_deref().unwrap_or_default();
    let has = after.tolerations.as_deref().unwrap_or_default();
    if !had.iter().all(|toleration| has.iter().any(|now| now.key == toleration.key && now.effect == toleration.effect)) {
        causes.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
    munged.tolerations.clone_from(&before.tolerations);
    munged.active_deadline_seconds = before.active_deadline_seconds;
    match (before.active_deadline_seconds, after.active_deadline_seconds) {
        (Some(old), Some(new)) if new > old => {
            causes.invalid("spec.activeDeadlineSeconds", &new, &format!("must be less than or equal to previous value {old}"));
        }
        (Some(_), None) => {
            causes.invalid("spec.activeDeadlineSeconds", &None::<i64>, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    if munged.termination_grace_period_seconds == Some(1) && before.termination_grace_period_seconds.is_some_and(|old| old < 0) {
        munged.termination_grace_period_seconds = before.termination_grace_period_seconds;
    }
    // Gates only become fewer.
    let gates = |spec: &PodSpec| spec.scheduling_gates.clone().unwrap_or_default();
    if gates(after).iter().any(|gate| !gates(before).contains(gate)) {
        causes.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate");
    }
    munged.scheduling_gates.clone_from(&before.scheduling_gates);
    if munged != *before {
        let json = |spec: &PodSpec| serde_json::to_value(spec).unwrap_or_default();
        causes.forbidden(
            "spec",
            &format!("pod updates may not change fields other than {UPDATABLE}\n{}", diff(&json(before), &json(&munged))),
        );
    }
}
