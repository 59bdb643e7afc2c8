//! What a watch knows of the cluster: the objects of the storage path, and where to find them from each other.

mod learn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use model_kube::object::{Custom, Key};

use super::names::{Id, Names, Sym};
use super::seen::Seen;

/// A node that is not ready for this long counts as unhealthy for 6 minutes: its condition changes 50 s after its last sign of life.
const UNHEALTHY: Duration = Duration::from_secs(310);

#[derive(Debug, Default)]
pub(super) struct Known {
    pub names: Names,
    pub nodes: BTreeMap<Sym, Node>,
    /// The node of an instance.
    pub instances: BTreeMap<Sym, Sym>,
    pub pods: BTreeMap<Id, Pod>,
    pub pods_of_claim: BTreeMap<Id, BTreeSet<Id>>,
    pub pods_by_uid: BTreeMap<Sym, Id>,
    pub claims: BTreeMap<Id, Arc<core::PersistentVolumeClaim>>,
    pub pvs: BTreeMap<Sym, Pv>,
    /// The PersistentVolumes with a handle; more than one is a user's mistake.
    pub pvs_of_volume: BTreeMap<Sym, BTreeSet<Sym>>,
    pub attachments: BTreeMap<Sym, Attachment>,
    /// The VolumeAttachment of a volume and a node.
    pub attachment_of: BTreeMap<(Sym, Sym), Sym>,
    /// `attachRequired` of the CSIDrivers.
    pub attach_required: BTreeMap<Sym, bool>,
    /// The snapshot kinds, by plural and name.
    pub customs: BTreeMap<(Sym, Id), Arc<Custom>>,
    pub csi_nodes: BTreeMap<Sym, CsiNode>,
    /// How many pods on a node use a volume: by (node, driver), by volume.
    pub node_volumes: BTreeMap<(Sym, Sym), BTreeMap<Sym, usize>>,
    /// Until when the attach/detach controller may not have seen what was written before.
    pub attach_behind: Duration,
    /// The user wrote this; its change comes next.
    by_user: Option<Key>,
    /// The change that is looked at now is a user's.
    pub user: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub instance: Option<Sym>,
    pub limit: Option<usize>,
    pub object: Option<Arc<core::Node>>,
    pub unready_since: Option<Duration>,
    pub out_of_service: bool,
    pub in_use: BTreeSet<Sym>,
    pub attached: BTreeSet<Sym>,
    /// The kubelet runs, as far as is known.
    pub kubelet: bool,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub object: Arc<core::Pod>,
    pub uid: Sym,
    pub node: Option<Sym>,
    /// When it was bound to its node.
    pub bound_at: Duration,
    pub claims: Vec<Id>,
    /// What it adds to `node_volumes`: driver and volume.
    counted: Vec<(Sym, Sym)>,
}

#[derive(Debug)]
pub(super) struct Pv {
    pub object: Arc<core::PersistentVolume>,
    pub handle: Option<Sym>,
    pub driver: Sym,
    pub claim: Option<Id>,
}

#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub uid: Sym,
    pub pv: Option<Sym>,
    pub volume: Option<Sym>,
    pub node: Sym,
    pub attached: bool,
    pub deleting: bool,
    /// It has its attacher's finalizer.
    pub finalizer: bool,
}

#[derive(Debug)]
pub(super) struct CsiNode {
    pub since: Duration,
    /// Allocatable volumes by driver.
    pub limits: BTreeMap<Sym, usize>,
}

/// How a set of volumes changed.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub came: Vec<Sym>,
    pub went: Vec<Sym>,
}

/// What a write changed, when it touched the storage path.
#[derive(Debug)]
pub(super) enum Delta<'a> {
    Node {
        name: Sym,
        in_use: Turn,
        attached: Turn,
        gone: bool,
    },
    /// `old`: its object and node before; `last`: what is gone.
    Pod {
        id: Id,
        old: Option<(Arc<core::Pod>, Option<Sym>)>,
        last: Option<Pod>,
    },
    Claim {
        id: Id,
        old: Option<Arc<core::PersistentVolumeClaim>>,
        new: Option<&'a Arc<core::PersistentVolumeClaim>>,
    },
    Pv {
        name: Sym,
        old: Option<Arc<core::PersistentVolume>>,
        new: Option<&'a Arc<core::PersistentVolume>>,
    },
    Attachment {
        name: Sym,
        old: Option<Attachment>,
        new: Option<Attachment>,
    },
    Custom {
        plural: &'a str,
        object: &'a Arc<Custom>,
        old: Option<Arc<Custom>>,
        gone: bool,
    },
}

impl Known {
    /// What happened to nodes and kubelets; what monitors look at before it takes effect here.
    pub(super) fn happened(&mut self, seen: &Seen<'_>) {
        match *seen {
            Seen::Node { name, instance, zone: _, volume_limit } => {
                let (name, instance) = (self.names.sym(name), self.names.sym(instance));
                let node = self.node_mut(name);
                node.limit = Some(volume_limit);
                node.instance = Some(instance);
                self.instances.insert(instance, name);
            }
            Seen::KubeletStarted { node } | Seen::PowerBack { node } => self.set_kubelet(node, matches!(seen, Seen::KubeletStarted { .. })),
            Seen::KubeletStopped { node } | Seen::PowerLost { node } => self.set_kubelet(node, false),
            Seen::WatchBehind { until } => self.attach_behind = self.attach_behind.max(until),
            Seen::ByUser { key } => self.by_user = Some(key.clone()),
            _ => {}
        }
    }

    fn set_kubelet(&mut self, node: &str, runs: bool) {
        let node = self.names.sym(node);
        self.node_mut(node).kubelet = runs;
    }

    fn node_mut(&mut self, name: Sym) -> &mut Node {
        self.nodes.entry(name).or_insert(Node {
            instance: None,
            limit: None,
            object: None,
            unready_since: None,
            out_of_service: false,
            in_use: BTreeSet::new(),
            attached: BTreeSet::new(),
            kubelet: true,
        })
    }

    /// A name, or the name of the node behind an instance.
    pub(super) fn node_name(&self, instance: Sym) -> Sym {
        self.instances.get(&instance).copied().unwrap_or(instance)
    }

    pub(super) fn text(&self, sym: Sym) -> &str {
        self.names.text(sym)
    }

    /// Whether the control plane may detach from a node what is mounted there (S4).
    pub(super) fn may_force(&self, node: Sym, at: Duration) -> bool {
        self.nodes.get(&node).is_none_or(|node| {
            node.object.is_none() || node.out_of_service || node.unready_since.is_some_and(|since| at.saturating_sub(since) >= UNHEALTHY)
        })
    }

    /// The uid of the pod to which a target belongs: `…/pods/<uid>/…`, and `…/volumeDevices/publish/<pv>/<uid>` for a block device.
    pub(super) fn pod_of_target(&mut self, path: Sym) -> Sym {
        let path = self.names.text(path);
        let uid: Arc<str> = match path.split_once("/pods/") {
            Some((_, rest)) => rest.split('/').next().unwrap_or("").into(),
            None => path.rsplit('/').next().unwrap_or("").into(),
        };
        self.names.sym(&uid)
    }

    /// Whether a node says that it is ready.
    pub(super) fn is_ready(&self, node: Sym) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.object.is_some() && node.unready_since.is_none())
    }

    pub(super) fn kubelet_runs(&self, node: Sym) -> bool {
        self.nodes.get(&node).is_none_or(|node| node.kubelet)
    }

    /// Whether a driver's volumes are attached: its CSIDriver says so, or it was seen to be.
    pub(super) fn is_attachable(&self, driver: Sym) -> bool {
        self.attach_required.get(&driver).copied().unwrap_or(false)
    }

    pub(super) fn attachments_of(&self, volume: Sym) -> impl Iterator<Item = (Sym, &Attachment)> {
        let names = self.attachment_of.range((volume, Sym::MIN)..=(volume, Sym::MAX));
        names.filter_map(|(_, name)| Some((*name, self.attachments.get(name)?)))
    }

    /// The PersistentVolumes of a volume.
    pub(super) fn pvs_of(&self, volume: Sym) -> impl Iterator<Item = (Sym, &Pv)> {
        self.pvs_of_volume.get(&volume).into_iter().flatten().filter_map(|name| Some((*name, self.pvs.get(name)?)))
    }

    /// The pods whose claims have a volume, wherever they are.
    pub(super) fn pods_of(&self, volume: Sym) -> impl Iterator<Item = (Id, &Pod)> {
        let claims = self.pvs_of(volume).filter_map(|(_, pv)| pv.claim.filter(|claim| self.is_bound_to(pv, *claim)));
        claims.flat_map(|claim| self.pods_on_claim(claim))
    }

    /// Whether a claim is the one that a PersistentVolume names, and not another that came later under the same name.
    fn is_bound_to(&self, pv: &Pv, claim: Id) -> bool {
        let named = pv.object.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|reference| reference.uid.as_deref());
        let there = self.claims.get(&claim).and_then(|claim| claim.metadata.uid.as_deref());
        named.zip(there).is_none_or(|(named, there)| named.is_empty() || named == there)
    }

    pub(super) fn pods_on_claim(&self, claim: Id) -> impl Iterator<Item = (Id, &Pod)> {
        self.pods_of_claim.get(&claim).into_iter().flatten().filter_map(|id| Some((*id, self.pods.get(id)?)))
    }

    /// The PersistentVolume that a claim names.
    pub(super) fn pv_of_claim(&self, claim: Id) -> Option<&Pv> {
        let name = self.claims.get(&claim)?.spec.as_ref()?.volume_name.as_deref()?;
        self.pvs.get(&self.names.find(name)?)
    }

    /// The volumes behind claims: driver and handle.
    pub(super) fn volumes_of(&self, claims: &[Id]) -> Vec<(Sym, Sym)> {
        claims.iter().filter_map(|claim| self.pv_of_claim(*claim)).filter_map(|pv| Some((pv.driver, pv.handle?))).collect()
    }
}

impl Pod {
    pub(super) fn is_done(&self) -> bool {
        is_done(&self.object)
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether the attach/detach controller no longer wants its volumes attached (§2.1): it ended, or it is being deleted and no
    /// container of it runs.
    pub(super) fn is_terminated(&self) -> bool {
        let status = self.object.status.as_ref();
        let all = status.into_iter().flat_map(|status| {
            let (containers, init) = (status.container_statuses.iter().flatten(), status.init_container_statuses.iter().flatten());
            containers.chain(init).chain(status.ephemeral_container_statuses.iter().flatten())
        });
        let still = |status: &core::ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        self.is_done() || (self.is_deleting() && !all.into_iter().any(still))
    }
}

impl Pv {
    pub(super) fn modes(&self) -> impl Iterator<Item = &str> {
        self.object.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).map(String::as_str)
    }

    /// ReadWriteOnce, or ReadWriteOncePod, and nothing wider.
    pub(super) fn is_single_node(&self) -> bool {
        self.modes().all(|mode| matches!(mode, "ReadWriteOnce" | "ReadWriteOncePod"))
    }

    pub(super) fn is_single_pod(&self) -> bool {
        self.modes().eq(["ReadWriteOncePod"])
    }

    pub(super) fn is_block(&self) -> bool {
        self.object.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
    }

    pub(super) fn policy(&self) -> &str {
        self.object.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
    }

    pub(super) fn phase(&self) -> &str {
        self.object.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
    }
}

/// Succeeded or failed: nothing of the pod runs, nor ever will.
pub(super) fn is_done(pod: &core::Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
