//! The controllers, one machine each. Every machine is alone: it has its own [`Cache`](crate::machine::Cache) and knows the
//! others only by what they write to the API, as in a real cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use model_common::fixes::Fixes;

use crate::machine::{Effect, Input, Reject};
use crate::object::Kind;

pub mod amount;
pub mod attachdetach;
pub mod attacher;
pub mod binder;
pub mod capability;
pub mod daemonset;
pub mod deployment;
pub mod driver;
pub mod ephemeral;
pub mod expand;
pub mod job;
pub mod modifier;
pub mod nodelifecycle;
pub mod podgc;
pub mod protection;
pub mod provisioner;
pub mod replicaset;
pub mod resizer;
pub mod snapshot;
pub mod snapshotter;
pub mod statefulset;
pub(crate) mod workload;

pub use driver::Driver;

/// A controller of any sort.
#[derive(Debug, Clone)]
pub enum Controller {
    Binder(binder::Binder),
    Provisioner(provisioner::Provisioner),
    AttachDetach(attachdetach::AttachDetach),
    Attacher(attacher::Attacher),
    Resizer(resizer::Resizer),
    Modifier(modifier::Modifier),
    ClaimProtection(protection::ClaimProtection),
    VolumeProtection(protection::VolumeProtection),
    AttributesProtection(protection::AttributesProtection),
    Ephemeral(ephemeral::Ephemeral),
    Expand(expand::Expand),
    NodeLifecycle(nodelifecycle::NodeLifecycle),
    PodGc(podgc::PodGc),
    DaemonSets(daemonset::DaemonSets),
    Jobs(job::Jobs),
    Deployments(deployment::Deployments),
    ReplicaSets(replicaset::ReplicaSets),
    StatefulSets(statefulset::StatefulSets),
    Scheduler(crate::scheduler::Scheduler),
    Snapshots(snapshot::SnapshotController),
    Snapshotter(snapshotter::Snapshotter),
}

/// What a controller begins with: a journal's first line, from which it is made again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Begin {
    /// As [`Controller::journal`].
    pub controller: String,
    pub driver: Option<Driver>,
}

impl Begin {
    /// The controller that begins so; none: there is none of this name.
    pub fn start(&self) -> Option<Controller> {
        let driver = self.driver.as_ref();
        let all = driver.map_or_else(Controller::builtin, Controller::sidecars);
        all.into_iter().find(|machine| machine.journal(driver) == self.controller)
    }
}

macro_rules! each {
    ($self:expr, $machine:ident => $result:expr) => {
        match $self {
            Controller::Binder($machine) => $result,
            Controller::Provisioner($machine) => $result,
            Controller::AttachDetach($machine) => $result,
            Controller::Attacher($machine) => $result,
            Controller::Resizer($machine) => $result,
            Controller::Modifier($machine) => $result,
            Controller::ClaimProtection($machine) => $result,
            Controller::VolumeProtection($machine) => $result,
            Controller::AttributesProtection($machine) => $result,
            Controller::Ephemeral($machine) => $result,
            Controller::Expand($machine) => $result,
            Controller::NodeLifecycle($machine) => $result,
            Controller::PodGc($machine) => $result,
            Controller::DaemonSets($machine) => $result,
            Controller::Jobs($machine) => $result,
            Controller::Deployments($machine) => $result,
            Controller::ReplicaSets($machine) => $result,
            Controller::StatefulSets($machine) => $result,
            Controller::Scheduler($machine) => $result,
            Controller::Snapshots($machine) => $result,
            Controller::Snapshotter($machine) => $result,
        }
    };
}

impl Controller {
    /// The names of all controllers, by which they are switched off.
    pub const NAMES: [&'static str; 20] = [
        "pv-binder",
        "provisioner",
        "attachdetach",
        "attacher",
        "resizer",
        "pvc-protection",
        "pv-protection",
        "vac-protection",
        "ephemeral-volume",
        "volume-expand",
        "node-lifecycle",
        "pod-gc",
        "daemonset",
        "job",
        "deployment",
        "replicaset",
        "statefulset",
        "scheduler",
        "snapshot-controller",
        "snapshotter",
    ];

    /// The controllers that need no driver.
    pub fn builtin() -> Vec<Self> {
        Self::builtin_with(&Fixes::default())
    }

    /// The same, with changes that are proposed upstream.
    pub fn builtin_with(fixes: &Fixes) -> Vec<Self> {
        vec![
            Self::Binder(binder::Binder::default()),
            Self::ClaimProtection(protection::ClaimProtection::default()),
            Self::VolumeProtection(protection::VolumeProtection::default()),
            Self::AttributesProtection(protection::AttributesProtection::default()),
            Self::AttachDetach(attachdetach::AttachDetach::with(fixes.clone())),
            Self::Ephemeral(ephemeral::Ephemeral::default()),
            Self::Expand(expand::Expand::default()),
            Self::NodeLifecycle(nodelifecycle::NodeLifecycle::default()),
            Self::PodGc(podgc::PodGc::default()),
            Self::DaemonSets(daemonset::DaemonSets::default()),
            Self::Jobs(job::Jobs::default()),
            Self::Deployments(deployment::Deployments::default()),
            Self::ReplicaSets(replicaset::ReplicaSets::default()),
            Self::StatefulSets(statefulset::StatefulSets::default()),
            Self::Scheduler(crate::scheduler::Scheduler::default()),
            Self::Snapshots(snapshot::SnapshotController::default()),
        ]
    }

    /// The sidecars that stand beside a driver's controller service, as the driver's manifests deploy them.
    pub fn sidecars(driver: &Driver) -> Vec<Self> {
        Self::sidecars_with(driver, &Fixes::default())
    }

    /// The same, with changes that are proposed upstream.
    pub fn sidecars_with(driver: &Driver, fixes: &Fixes) -> Vec<Self> {
        let mut sidecars = Vec::new();
        if driver.provisions {
            sidecars.push(Self::Provisioner(provisioner::Provisioner::with(driver.clone(), fixes.clone())));
        }
        if driver.attaches {
            sidecars.push(Self::Attacher(attacher::Attacher::new(driver.clone())));
        }
        if driver.expands {
            sidecars.push(Self::Resizer(resizer::Resizer::new(driver.clone())));
        }
        if driver.modifies {
            sidecars.push(Self::Modifier(modifier::Modifier::new(driver.clone())));
        }
        if driver.snapshots {
            sidecars.push(Self::Snapshotter(snapshotter::Snapshotter::new(driver.clone())));
        }
        sidecars
    }

    /// The name by which it is switched off, one of [`Self::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Binder(_) => "pv-binder",
            Self::Provisioner(_) => "provisioner",
            Self::AttachDetach(_) => "attachdetach",
            Self::Attacher(_) => "attacher",
            // One sidecar, two machines.
            Self::Resizer(_) | Self::Modifier(_) => "resizer",
            Self::ClaimProtection(_) => "pvc-protection",
            Self::VolumeProtection(_) => "pv-protection",
            Self::AttributesProtection(_) => "vac-protection",
            Self::Ephemeral(_) => "ephemeral-volume",
            Self::Expand(_) => "volume-expand",
            Self::NodeLifecycle(_) => "node-lifecycle",
            Self::PodGc(_) => "pod-gc",
            Self::DaemonSets(_) => "daemonset",
            Self::Jobs(_) => "job",
            Self::Deployments(_) => "deployment",
            Self::ReplicaSets(_) => "replicaset",
            Self::StatefulSets(_) => "statefulset",
            Self::Scheduler(_) => "scheduler",
            Self::Snapshots(_) => "snapshot-controller",
            Self::Snapshotter(_) => "snapshotter",
        }
    }

    /// The name of its journal: as [`Self::name`], but of each machine its own.
    pub fn journal(&self, driver: Option<&Driver>) -> String {
        let name = if matches!(self, Self::Modifier(_)) { "modifier" } else { self.name() };
        driver.map_or_else(|| name.to_owned(), |driver| format!("{name}.{}", driver.name))
    }

    /// The kinds whose watch events it needs.
    pub fn kinds(&self) -> Vec<Kind> {
        use Kind::*;
        match self {
            Self::Binder(_) => vec![PersistentVolumeClaim, PersistentVolume, StorageClass, Pod],
            Self::Provisioner(_) => provisioner::kinds(),
            Self::AttachDetach(_) => vec![Node, Pod, PersistentVolumeClaim, PersistentVolume, VolumeAttachment, CSIDriver],
            Self::Attacher(_) => vec![VolumeAttachment, PersistentVolume, CSINode],
            Self::Resizer(_) => vec![PersistentVolumeClaim, PersistentVolume, StorageClass],
            Self::ClaimProtection(_) => vec![PersistentVolumeClaim, Pod],
            Self::VolumeProtection(_) => vec![PersistentVolume],
            Self::AttributesProtection(_) => vec![VolumeAttributesClass, PersistentVolumeClaim, PersistentVolume],
            Self::Modifier(_) => vec![PersistentVolumeClaim, PersistentVolume, VolumeAttributesClass],
            Self::Ephemeral(_) => vec![Pod, PersistentVolumeClaim],
            Self::Expand(_) => vec![PersistentVolumeClaim, PersistentVolume],
            Self::NodeLifecycle(_) => vec![Node, Lease, Pod],
            Self::PodGc(_) => vec![Node, Pod],
            Self::Snapshots(_) => snapshot::kinds(),
            Self::Snapshotter(_) => snapshotter::kinds(),
            Self::DaemonSets(_) => vec![DaemonSet, Pod, Node, ControllerRevision],
            Self::Jobs(_) => vec![Job, Pod],
            Self::Deployments(_) => vec![Deployment, ReplicaSet, Pod],
            Self::ReplicaSets(_) => vec![ReplicaSet, Pod],
            Self::StatefulSets(_) => vec![StatefulSet, Pod, PersistentVolumeClaim, ControllerRevision],
            Self::Scheduler(_) => {
                vec![
                    Pod,
                    Node,
                    PersistentVolumeClaim,
                    PersistentVolume,
                    StorageClass,
                    CSINode,
                    CSIDriver,
                    CSIStorageCapacity,
                    VolumeAttachment,
                ]
            }
        }
    }

    /// The one entry: total, deterministic, without a clock.
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        each!(self, machine => machine.step(input, out))
    }

    /// How long a call to the driver may take (§6.1).
    pub fn call_timeout(&self) -> Duration {
        match self {
            Self::Provisioner(machine) => machine.driver().provision_timeout,
            Self::Attacher(machine) => machine.driver().attach_timeout,
            Self::Resizer(machine) => machine.driver().expand_timeout,
            Self::Modifier(machine) => machine.driver().expand_timeout,
            Self::Snapshotter(machine) => machine.driver().snapshot_timeout,
            _ => Duration::from_secs(60),
        }
    }
}

/// The claim of a pod's volume: named, or made for it (generic ephemeral: `<pod>-<volume>`).
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.metadata.name.as_deref().unwrap_or(""), volume.name))
}

/// All claims that a pod uses.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(move |volume| claim_of(pod, volume))
}

/// Whether the kubelet is done with a pod that goes, or somebody forced it away (pvc_protection_controller.go, `podIsShutDown`). A
/// finalizer may keep the object.
pub fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether a scheduled pod that refers to a claim keeps it from going: until the pod's object is gone, even when the pod has finished. The
/// claim that was made for the pod is free as soon as that has shut down.
pub fn holds_claim(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owned = claim.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    let free = owned && is_shut_down(pod);
    !node_of(pod).is_empty() && !free
}

/// Whether all is over for a pod: Succeeded or Failed.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase_of(pod), "Succeeded" | "Failed")
}

/// `status.phase`, empty where it has none.
pub fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// The node a pod is on, empty where it is not scheduled.
pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

pub(crate) fn name(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or("")
}

pub(crate) fn namespace(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("")
}

pub(crate) fn annotation<'a>(metadata: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).map(String::as_str)
}

/// Sets or adds an annotation; says whether that changed anything.
pub(crate) fn annotate(annotations: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) -> bool {
    let annotations = annotations.get_or_insert_default();
    if annotations.get(key).is_some_and(|known| known == value) {
        return false;
    }
    annotations.insert(key.to_owned(), value.to_owned());
    true
}

pub(crate) fn has_finalizer(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|known| known == finalizer)
}

pub(crate) fn drop_finalizer(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut metadata.finalizers {
        finalizers.retain(|known| known != finalizer);
        if finalizers.is_empty() {
            metadata.finalizers = None;
        }
    }
}

/// Whether a volume's claimRef names this claim, by uid where it has one (`IsVolumeBoundToClaim`).
pub fn is_claimed_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The class of a claim: the old annotation wins, as everywhere in Kubernetes.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    annotation(&claim.metadata, "volume.beta.kubernetes.io/storage-class")
        .or_else(|| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or("")
}

/// The class of a volume.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, "volume.beta.kubernetes.io/storage-class")
        .or_else(|| volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()))
        .unwrap_or("")
}

#[cfg(test)]
mod tests;
