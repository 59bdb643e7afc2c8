//! A pod and its containers as far as the life cycle goes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use super::{ProbeKind, ProbeSpec};
use crate::volume_manager::PodUid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// A container as far as its life cycle goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub name: String,
    pub image: String,
    /// An init container with `restartPolicy: Always`.
    pub sidecar: bool,
    pub probes: BTreeMap<ProbeKind, ProbeSpec>,
}

/// A pod as far as its life cycle goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodSpec {
    pub uid: PodUid,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    pub init: Vec<ContainerSpec>,
    pub containers: Vec<ContainerSpec>,
    pub restart_policy: RestartPolicy,
    pub active_deadline: Option<Duration>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// The names of all volumes that containers use.
    pub volumes: Vec<String>,
}

impl PodSpec {
    /// The life-cycle part of an API pod.
    pub fn from_api(pod: &core::Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut volumes: Vec<String> = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .flat_map(|container| {
                let mounts = container.volume_mounts.iter().flatten().map(|mount| mount.name.clone());
                mounts.chain(container.volume_devices.iter().flatten().map(|device| device.name.clone()))
            })
            .collect();
        volumes.sort();
        volumes.dedup();
        let container = |container: &core::Container| ContainerSpec {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            sidecar: container.restart_policy.as_deref() == Some("Always"),
            probes: ProbeSpec::all(container),
        };
        Self {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
            init: spec.init_containers.iter().flatten().map(container).collect(),
            containers: spec.containers.iter().map(container).collect(),
            restart_policy: match spec.restart_policy.as_deref() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            active_deadline: spec.active_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
            grace: Duration::from_secs(spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30)),
            volumes,
        }
    }

    /// `name_namespace(uid)`, as the kubelet prints a pod.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }
}
