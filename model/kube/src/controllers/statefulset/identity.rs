//! Who is who: ordinals, names, the pod of an ordinal (`stateful_set_utils.go`).

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use super::REVISION;
use crate::controllers::name;
use crate::controllers::workload::{label, pod_from};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of a pod of a set; none for a pod that is not its own by name.
pub(crate) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let ordinal = digits.parse().ok().filter(|_| is_number)?;
    // `web-01` is not the name of an ordinal.
    (format!("{ordinal}") == digits).then_some(ordinal)
}

/// The ordinals that a set has: from the first, before the second.
pub(crate) fn range(set: &StatefulSet) -> std::ops::Range<i32> {
    let spec = set.spec.as_ref();
    let start = spec.and_then(|spec| spec.ordinals.as_ref()).and_then(|ordinals| ordinals.start).unwrap_or(0);
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    start..start.saturating_add(replicas.max(0))
}

/// The claims of the pod of an ordinal, with the names of their templates.
pub(crate) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let of = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        let template_name = name(&template.metadata).to_owned();
        claim.metadata.name = Some(format!("{template_name}-{}-{ordinal}", name(&set.metadata)));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        let labels = spec.selector.match_labels.clone().unwrap_or_default();
        claim.metadata.labels.get_or_insert_default().extend(labels);
        claim.status = None;
        (template_name, claim)
    };
    spec.volume_claim_templates.iter().flatten().map(of).collect()
}

/// The pod of an ordinal at a revision.
pub(crate) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_from(template, set);
    let pod_name = format!("{}-{ordinal}", name(&set.metadata));
    pod.metadata.name = Some(pod_name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    identify(&mut pod, ordinal);
    put_volumes(set, &mut pod, ordinal);
    pod.metadata.labels.get_or_insert_default().insert(REVISION.to_owned(), revision.to_owned());
    pod
}

/// The labels of a pod's identity (`updateIdentity`).
pub(crate) fn identify(pod: &mut Pod, ordinal: i32) {
    let pod_name = name(&pod.metadata).to_owned();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), pod_name);
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
}

/// The claims as volumes, before the template's own; those take the place of the template's of the same name (`updateStorage`).
pub(crate) fn put_volumes(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let claims = claims(set, ordinal);
    let spec = pod.spec.get_or_insert_default();
    let others = spec.volumes.take().unwrap_or_default().into_iter().filter(|volume| claims.iter().all(|(name, _)| *name != volume.name));
    let own = claims.iter().map(|(name, claim)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.metadata.name.clone().unwrap_or_default(),
            read_only: None,
        }),
        ..Volume::default()
    });
    let volumes: Vec<Volume> = own.chain(others).collect();
    spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
}

/// Whether a pod has its identity and its storage (`identityMatches`, `storageMatches`).
pub(crate) fn fits(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    label(&pod.metadata, POD_NAME) == Some(name(&pod.metadata))
        && claims(set, ordinal).iter().all(|(template, claim)| {
            volumes().any(|volume| {
                volume.name == *template
                    && volume.persistent_volume_claim.as_ref().map(|source| &source.claim_name) == claim.metadata.name.as_ref()
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals() {
        for (pod, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-01", None),
            ("web-", None),
            ("web-x", None),
            ("web-+1", None),
            ("webs-0", None),
        ] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
        assert_eq!(ordinal("web", "web-99999999999"), None);
    }
}
