//! Whether a pod fits a node, and the words for it when it does not (§4; the plugins' `ErrReason…`, `FitError.Error`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};

use super::volumes::{self, Claims, Found};
use crate::controllers::nodelifecycle::tolerates;
use crate::controllers::{amount, is_finished, name, namespace};
use crate::machine::{Cache, Index};
use crate::object::Key;
use crate::selector;

/// What pods that are on their way to a node have taken.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Node → pods.
    pub assumed: BTreeMap<String, BTreeSet<Key>>,
    /// PersistentVolume → `<namespace>/<claim>` it is meant for.
    pub volumes: BTreeMap<String, String>,
}

/// The volumes that a pod's claims are to be bound to, each with its claim's address.
pub fn meant<'a>(pod: &'a Key, fixed: &'a BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> + 'a {
    fixed.iter().map(|(claim, volume)| (volume.clone(), format!("{}/{claim}", pod.namespace)))
}

impl World {
    /// A pod is on its way to a node.
    pub fn add(&mut self, pod: &Key, node: &str, fixed: &BTreeMap<String, String>) {
        self.assumed.entry(node.to_owned()).or_default().insert(pod.clone());
        self.volumes.extend(meant(pod, fixed));
    }

    /// A pod is no longer on its way to a node.
    pub fn remove(&mut self, pod: &Key, node: &str) {
        if let Some(pods) = self.assumed.get_mut(node) {
            pods.remove(pod);
            if pods.is_empty() {
                self.assumed.remove(node);
            }
        }
    }

    /// The pods that are or will be on a node.
    pub fn pods_on<'a>(&'a self, cache: &'a Cache, node: &str) -> impl Iterator<Item = &'a Pod> {
        let assumed = self.assumed.get(node).into_iter().flatten().filter_map(|key| cache.at::<Pod>(key));
        cache.found::<Pod>(Index::PodsByNode, node).chain(assumed).map(|pod| &**pod).filter(|pod| !is_finished(pod))
    }
}

/// Why a pod does not fit a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub reasons: Vec<String>,
    /// Whether evicting pods could help (`Unschedulable`, not `UnschedulableAndUnresolvable`).
    pub preemptible: bool,
}

fn never(reason: &str) -> Verdict {
    Verdict { reasons: vec![reason.to_owned()], preemptible: false }
}

/// All filters in the order of the default plugins; the first that refuses decides.
pub fn check(cache: &Cache, world: &World, pod: &Pod, node: &Node, claims: &Claims) -> Result<Found, Verdict> {
    unschedulable(pod, node)?;
    taints(pod, node)?;
    node_affinity(pod, node)?;
    resources(cache, world, pod, node)?;
    read_write_once_pod(cache, world, pod)?;
    limits(cache, world, pod, node)?;
    let found = volumes::find(cache, world, claims, node)
        .map_err(|reasons| Verdict { reasons: reasons.into_iter().map(str::to_owned).collect(), preemptible: false })?;
    zone(cache, claims, node)?;
    Ok(found)
}

fn unschedulable(pod: &Pod, node: &Node) -> Result<(), Verdict> {
    let is_off = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    let taint = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    let tolerated = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(|toleration| tolerates(toleration, &taint));
    if is_off && !tolerated { Err(never("node(s) were unschedulable")) } else { Ok(()) }
}

pub(crate) fn taints(pod: &Pod, node: &Node) -> Result<(), Verdict> {
    let untolerated = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .any(|taint| !pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(|toleration| tolerates(toleration, taint)));
    if untolerated { Err(never("node(s) had untolerated taint(s)")) } else { Ok(()) }
}

pub(crate) fn node_affinity(pod: &Pod, node: &Node) -> Result<(), Verdict> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let labels = node.metadata.labels.as_ref();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if selected && required.is_none_or(|required| selector::node_matches(required, node)) {
        Ok(())
    } else {
        Err(never("node(s) didn't match Pod's node affinity/selector"))
    }
}

/// A pod's requests of cpu (thousandths) and memory (bytes): the sum of its containers, or the largest init container.
fn requests(pod: &Pod) -> (i128, i128) {
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let get = |key: &str| requests.and_then(|requests| requests.get(key)).map_or(0, amount::milli);
        (get("cpu"), get("memory") / 1000)
    };
    let Some(spec) = &pod.spec else { return (0, 0) };
    let sum = spec.containers.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    spec.init_containers.iter().flatten().map(of).fold(sum, |sum, one| (sum.0.max(one.0), sum.1.max(one.1)))
}

fn resources(cache: &Cache, world: &World, pod: &Pod, node: &Node) -> Result<(), Verdict> {
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else { return Ok(()) };
    let (mut count, mut cpu, mut memory) = (0_u64, 0_i128, 0_i128);
    for other in world.pods_on(cache, name(&node.metadata)) {
        let (its_cpu, its_memory) = requests(other);
        count += 1;
        cpu += its_cpu;
        memory += its_memory;
    }
    let (its_cpu, its_memory) = requests(pod);
    let mut reasons = Vec::new();
    if allocatable.get("pods").is_some_and(|pods| count + 1 > amount::value(pods)) {
        reasons.push("Too many pods".to_owned());
    }
    if its_cpu > 0 && allocatable.get("cpu").is_some_and(|has| cpu + its_cpu > amount::milli(has)) {
        reasons.push("Insufficient cpu".to_owned());
    }
    if its_memory > 0 && allocatable.get("memory").is_some_and(|has| memory + its_memory > amount::milli(has) / 1000) {
        reasons.push("Insufficient memory".to_owned());
    }
    if reasons.is_empty() { Ok(()) } else { Err(Verdict { reasons, preemptible: true }) }
}

/// VolumeRestrictions: a ReadWriteOncePod claim has one pod (§4.4).
fn read_write_once_pod(cache: &Cache, world: &World, pod: &Pod) -> Result<(), Verdict> {
    for claim_name in super::claim_names(pod) {
        let Some(claim) = cache.get::<PersistentVolumeClaim>(namespace(&pod.metadata), &claim_name) else { continue };
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
        if !modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            continue;
        }
        let address = format!("{}/{claim_name}", namespace(&pod.metadata));
        let taken = cache.found::<Pod>(Index::PodsByClaim, &address).any(|other| {
            let placed = !crate::controllers::node_of(other).is_empty()
                || world.assumed.values().any(|pods| pods.contains(&crate::object::Typed::key(&**other)));
            other.metadata.uid != pod.metadata.uid && placed && !is_finished(other)
        });
        if taken {
            let reason = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
            return Err(Verdict { reasons: vec![reason.to_owned()], preemptible: true });
        }
    }
    Ok(())
}

/// The (driver, unique name) of a claim's volume; a claim that is to be provisioned counts under its own name.
fn unique_volume(cache: &Cache, claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|volume| !volume.is_empty());
    if let Some(volume) = volume {
        let csi = cache.get::<PersistentVolume>("", volume)?.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = cache.get::<k8s_openapi::api::storage::v1::StorageClass>("", crate::controllers::class_of_claim(claim))?;
    Some((class.provisioner.clone(), format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata))))
}

fn volumes_of(cache: &Cache, pod: &Pod) -> BTreeSet<(String, String)> {
    super::claim_names(pod)
        .iter()
        .filter_map(|claim| cache.get::<PersistentVolumeClaim>(namespace(&pod.metadata), claim))
        .filter_map(|claim| unique_volume(cache, claim))
        .collect()
}

/// NodeVolumeLimits: what the driver says a node can hold (§4.3). A node without a CSINode has no limit.
fn limits(cache: &Cache, world: &World, pod: &Pod, node: &Node) -> Result<(), Verdict> {
    let node_name = name(&node.metadata);
    let wanted = volumes_of(cache, pod);
    let Some(csi_node) = cache.get::<CSINode>("", node_name).filter(|_| !wanted.is_empty()) else { return Ok(()) };
    let mut used: BTreeSet<(String, String)> = world.pods_on(cache, node_name).flat_map(|pod| volumes_of(cache, pod)).collect();
    for attachment in cache.found::<VolumeAttachment>(Index::AttachmentsByNode, node_name) {
        let volume = attachment.spec.source.persistent_volume_name.as_deref().and_then(|volume| cache.get::<PersistentVolume>("", volume));
        if let Some(csi) = volume.and_then(|volume| volume.spec.as_ref()).and_then(|spec| spec.csi.as_ref()) {
            used.insert((csi.driver.clone(), csi.volume_handle.clone()));
        }
    }
    for driver in &csi_node.spec.drivers {
        let Some(limit) = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count) else { continue };
        let of_driver = |volume: &&(String, String)| volume.0 == driver.name;
        let new = wanted.difference(&used).filter(of_driver).count();
        let has = used.iter().filter(of_driver).count();
        if new > 0 && has + new > usize::try_from(limit).unwrap_or(0) {
            return Err(Verdict { reasons: vec!["node(s) exceed max volume count".to_owned()], preemptible: true });
        }
    }
    Ok(())
}

/// VolumeZone: zone and region labels of bound volumes (§4.2).
fn zone(cache: &Cache, claims: &Claims, node: &Node) -> Result<(), Verdict> {
    const KEYS: [&str; 4] = [
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    ];
    let of_node = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    if KEYS.iter().all(|key| of_node(key).is_none()) {
        return Ok(());
    }
    for claim in &claims.bound {
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        let Some(volume) = cache.get::<PersistentVolume>("", volume) else { continue };
        for key in KEYS {
            let Some(allowed) = volume.metadata.labels.as_ref().and_then(|labels| labels.get(key)) else { continue };
            if !of_node(key).is_some_and(|value| allowed.split("__").any(|allowed| allowed == value)) {
                return Err(never("node(s) had no available volume zone"));
            }
        }
    }
    Ok(())
}

/// The text of a pod that no node can take, whatever the node.
pub fn pre_filter_text(nodes: usize, why: &str) -> String {
    format!(
        "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling."
    )
}

/// The text of a pod that no node fits: the reasons with their counts, sorted as text, then what preemption says.
pub fn fit_text(verdicts: &BTreeMap<String, Verdict>) -> String {
    let nodes = verdicts.len();
    let histogram = |reasons: Vec<&str>| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in reasons {
            *counts.entry(reason).or_default() += 1;
        }
        let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        texts.join(", ")
    };
    let reasons = histogram(verdicts.values().flat_map(|verdict| verdict.reasons.iter().map(String::as_str)).collect());
    let preemption = histogram(
        verdicts
            .values()
            .map(|verdict| {
                if verdict.preemptible {
                    // Evicting helps only against pods of lower priority, and all have the same here.
                    "No preemption victims found for incoming pod"
                } else {
                    "Preemption is not helpful for scheduling"
                }
            })
            .collect(),
    );
    format!("0/{nodes} nodes are available: {reasons}. preemption: 0/{nodes} nodes are available: {preemption}.")
}
