//! How each kind is called in the API: group, version, plural, short names, scope, subresources (kube-api.md §2).

use crate::object::Kind;

/// The names of a built-in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    pub kind: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub namespaced: bool,
    /// Whether `…/status` exists.
    pub status: bool,
    /// Whether `metadata.generation` counts changes of the spec.
    pub generation: bool,
    /// Whether `kubectl get all` shows it.
    pub all: bool,
}

const fn info(
    kind: &'static str,
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    flags: &'static str,
) -> Info {
    let (mut namespaced, mut status, mut generation, mut all) = (false, false, false, false);
    let flags = flags.as_bytes();
    let mut i = 0;
    while i < flags.len() {
        match flags[i] {
            b'n' => namespaced = true,
            b's' => status = true,
            b'g' => generation = true,
            b'a' => all = true,
            _ => {}
        }
        i += 1;
    }
    Info { kind, group, version: "v1", plural, singular, short, namespaced, status, generation, all }
}

const STORAGE: &str = "storage.k8s.io";

// Flags: n namespaced, s status subresource, g generation counts, a in category "all".
static NAMESPACE: Info = info("Namespace", "", "namespaces", "namespace", &["ns"], "s");
static NODE: Info = info("Node", "", "nodes", "node", &["no"], "s");
static POD: Info = info("Pod", "", "pods", "pod", &["po"], "nsga");
static PVC: Info = info("PersistentVolumeClaim", "", "persistentvolumeclaims", "persistentvolumeclaim", &["pvc"], "ns");
static PV: Info = info("PersistentVolume", "", "persistentvolumes", "persistentvolume", &["pv"], "s");
static EVENT: Info = info("Event", "", "events", "event", &["ev"], "n");
static CONFIG_MAP: Info = info("ConfigMap", "", "configmaps", "configmap", &["cm"], "n");
static SECRET: Info = info("Secret", "", "secrets", "secret", &[], "n");
static SERVICE_ACCOUNT: Info = info("ServiceAccount", "", "serviceaccounts", "serviceaccount", &["sa"], "n");
static LEASE: Info = info("Lease", "coordination.k8s.io", "leases", "lease", &[], "n");
static STORAGE_CLASS: Info = info("StorageClass", STORAGE, "storageclasses", "storageclass", &["sc"], "");
static VOLUME_ATTACHMENT: Info = info("VolumeAttachment", STORAGE, "volumeattachments", "volumeattachment", &[], "s");
static CSI_DRIVER: Info = info("CSIDriver", STORAGE, "csidrivers", "csidriver", &[], "");
static CSI_NODE: Info = info("CSINode", STORAGE, "csinodes", "csinode", &[], "");
static CSI_STORAGE_CAPACITY: Info = info("CSIStorageCapacity", STORAGE, "csistoragecapacities", "csistoragecapacity", &[], "n");
static VOLUME_ATTRIBUTES_CLASS: Info =
    info("VolumeAttributesClass", STORAGE, "volumeattributesclasses", "volumeattributesclass", &["vac"], "");
static STATEFUL_SET: Info = info("StatefulSet", "apps", "statefulsets", "statefulset", &["sts"], "nsga");
static DEPLOYMENT: Info = info("Deployment", "apps", "deployments", "deployment", &["deploy"], "nsga");
static REPLICA_SET: Info = info("ReplicaSet", "apps", "replicasets", "replicaset", &["rs"], "nsga");
static DAEMON_SET: Info = info("DaemonSet", "apps", "daemonsets", "daemonset", &["ds"], "nsga");
static JOB: Info = info("Job", "batch", "jobs", "job", &[], "nsga");
static CONTROLLER_REVISION: Info = info("ControllerRevision", "apps", "controllerrevisions", "controllerrevision", &[], "n");
static CUSTOM_RESOURCE_DEFINITION: Info = info(
    "CustomResourceDefinition",
    "apiextensions.k8s.io",
    "customresourcedefinitions",
    "customresourcedefinition",
    &["crd", "crds"],
    "sg",
);

/// All kinds that need no CustomResourceDefinition.
pub const BUILT_IN: [Kind; 23] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
    Kind::Event,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::ServiceAccount,
    Kind::Lease,
    Kind::StorageClass,
    Kind::VolumeAttachment,
    Kind::CSIDriver,
    Kind::CSINode,
    Kind::CSIStorageCapacity,
    Kind::VolumeAttributesClass,
    Kind::StatefulSet,
    Kind::Deployment,
    Kind::ReplicaSet,
    Kind::DaemonSet,
    Kind::Job,
    Kind::ControllerRevision,
    Kind::CustomResourceDefinition,
];

impl Kind {
    /// The names of a built-in kind; none for a kind of a CustomResourceDefinition.
    pub fn info(&self) -> Option<&'static Info> {
        Some(match self {
            Self::Namespace => &NAMESPACE,
            Self::Node => &NODE,
            Self::Pod => &POD,
            Self::PersistentVolumeClaim => &PVC,
            Self::PersistentVolume => &PV,
            Self::Event => &EVENT,
            Self::ConfigMap => &CONFIG_MAP,
            Self::Secret => &SECRET,
            Self::ServiceAccount => &SERVICE_ACCOUNT,
            Self::Lease => &LEASE,
            Self::StorageClass => &STORAGE_CLASS,
            Self::VolumeAttachment => &VOLUME_ATTACHMENT,
            Self::CSIDriver => &CSI_DRIVER,
            Self::CSINode => &CSI_NODE,
            Self::CSIStorageCapacity => &CSI_STORAGE_CAPACITY,
            Self::VolumeAttributesClass => &VOLUME_ATTRIBUTES_CLASS,
            Self::StatefulSet => &STATEFUL_SET,
            Self::Deployment => &DEPLOYMENT,
            Self::ReplicaSet => &REPLICA_SET,
            Self::DaemonSet => &DAEMON_SET,
            Self::Job => &JOB,
            Self::ControllerRevision => &CONTROLLER_REVISION,
            Self::CustomResourceDefinition => &CUSTOM_RESOURCE_DEFINITION,
            Self::Custom { .. } => return None,
        })
    }

    /// The API group; empty for the core group.
    pub fn group(&self) -> &str {
        match self {
            Self::Custom { group, .. } => group,
            built_in => built_in.info().map_or("", |info| info.group),
        }
    }

    /// The plural: what stands in the path.
    pub fn plural(&self) -> &str {
        match self {
            Self::Custom { plural, .. } => plural,
            built_in => built_in.info().map_or("", |info| info.plural),
        }
    }

    /// `PersistentVolumeClaim`; the plural for a custom kind, whose name only its definition knows.
    pub fn kind_name(&self) -> &str {
        match self {
            Self::Custom { plural, .. } => plural,
            built_in => built_in.info().map_or("", |info| info.kind),
        }
    }

    /// `pods`, `deployments.apps`: as error messages name it.
    pub fn qualified(&self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_kind_is_known_once() {
        let mut names: Vec<String> = BUILT_IN.iter().map(Kind::qualified).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), BUILT_IN.len());
        assert!(BUILT_IN.iter().all(|kind| kind.info().is_some_and(|info| !info.plural.is_empty())));
    }
}
