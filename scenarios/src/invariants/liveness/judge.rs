//! Whether a duty whose time is over was one: the excuses that the specification grants.

use k8s_openapi::api::core::v1 as core;
use model_kube::{quantity, selector};

use super::super::known::{Known, Pod};
use super::super::names::{Id, Sym};
use super::{Duty, Liveness, View, capacity_of, is_bound};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What becomes of a duty.
pub(super) enum Verdict {
    /// It was not done, and nothing excuses that.
    Broken(String),
    /// Not now; it begins anew.
    Excused,
    /// Nobody wants it any more.
    Moot,
}

use Verdict::{Broken, Excused, Moot};

pub(super) fn judge(duty: Duty, liveness: &Liveness, view: View<'_>) -> Verdict {
    let View { known, mounts, attach } = view;
    let text = |sym: Sym| known.text(sym);
    match duty {
        Duty::Run { pod: id, uid } => {
            let Some(pod) = known.pods.get(&id).filter(|pod| pod.uid == uid) else { return Moot };
            if waits(pod, liveness, view) {
                return Excused;
            }
            let path = known.names.path(id);
            Broken(match pod.node {
                Some(node) => format!("pod {path} is bound to {} and does not run for 10 minutes", text(node)),
                None => format!("pod {path} was not bound to a node in 10 minutes, and one would serve it"),
            })
        }
        Duty::Go { pod: id, uid } => {
            let Some(pod) = known.pods.get(&id).filter(|pod| pod.uid == uid) else { return Moot };
            let held = pod.object.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
            if held || is_dead(pod, known) {
                return Excused;
            }
            Broken(format!("pod {} is being deleted for 5 minutes beyond its grace and is not gone", known.names.path(id)))
        }
        Duty::Unmount { pod: id, uid } => {
            let Some(pod) = known.pods.get(&id).filter(|pod| pod.uid == uid) else { return Moot };
            let Some(path) = pod.node.and_then(|node| mounts.target_of(node, uid)) else { return Moot };
            if is_dead(pod, known) {
                return Excused;
            }
            Broken(format!("pod {} is being deleted for 10 minutes and {} is still mounted", known.names.path(id), text(path)))
        }
        Duty::Detach { volume, node } => {
            if !attach.is_attached(volume, node) || is_wanted(volume, node, known) {
                return Moot;
            }
            Broken(format!("{} is attached to {} for 10 minutes without a pod there that uses it", text(volume), text(node)))
        }
        Duty::Free { attachment, uid } => {
            let Some(of) = known.attachments.get(&attachment).filter(|of| of.uid == uid) else { return Moot };
            if of.volume.is_some_and(|volume| known.is_ready(of.node) && is_wanted(volume, of.node, known)) {
                return Moot;
            }
            Broken(format!("VolumeAttachment {} is there 10 minutes after its node {} was deleted", text(attachment), text(of.node)))
        }
        Duty::DropClaim { claim: id, uid } => {
            let Some(claim) = known.claims.get(&id) else { return Moot };
            let foreign = |name: &String| name != "kubernetes.io/pvc-protection";
            if known.pods_on_claim(id).next().is_some() || claim.metadata.finalizers.iter().flatten().any(foreign) {
                return Excused;
            }
            if claim.metadata.uid.as_deref() != Some(text(uid)) {
                return Moot;
            }
            Broken(format!("claim {} is being deleted for 15 minutes and is not gone", known.names.path(id)))
        }
        Duty::DropVolume { pv } => {
            let Some(state) = known.pvs.get(&pv) else { return Moot };
            let volume = state.handle.map_or("", text);
            Broken(format!("PersistentVolume {} is Released for 15 minutes, of policy Delete, and {volume} is not deleted", text(pv)))
        }
        Duty::Reselect { claim: id, node } => {
            let Some(claim) = known.claims.get(&id).filter(|claim| !is_bound(claim)) else { return Moot };
            if known.pods_on_claim(id).next().is_none() || !liveness.is_provisionable(claim, known) {
                return Excused;
            }
            Broken(format!(
                "claim {} is not bound 15 minutes after {} was selected for it, and keeps that node",
                known.names.path(id),
                text(node)
            ))
        }
        Duty::Expand { claim: id } => {
            let Some(claim) = known.claims.get(&id).filter(|claim| grows(claim)) else { return Moot };
            // A node's part is done where a pod uses the volume, and nowhere else.
            if is_pending_on_node(claim) && !known.pods_on_claim(id).any(|(_, pod)| pod.node.is_some() && !pod.is_terminated()) {
                return Excused;
            }
            Broken(format!("claim {} asks for more for 15 minutes and neither has it nor is told that it cannot", known.names.path(id)))
        }
        Duty::Snapshot { id, .. } => {
            Broken(format!("VolumeSnapshot {} is neither ready nor failed after 20 minutes", known.names.path(id)))
        }
        Duty::DropSnapshot { id, .. } => {
            Broken(format!("VolumeSnapshot {} is being deleted for 20 minutes and is not gone", known.names.path(id)))
        }
        Duty::Retry { volume, node } => {
            let on_node = |(_, pod): &(Id, &Pod)| pod.node == Some(node);
            let mounting = known.pods_of(volume).filter(on_node).any(|(_, pod)| !pod.is_terminated() && !super::runs(&pod.object));
            let unmounting = mounts.is_mounted(volume, node) && !known.pods_of(volume).filter(on_node).any(|(_, pod)| !pod.is_terminated());
            if !known.kubelet_runs(node) || !known.is_ready(node) || (!mounting && !unmounting) {
                return Moot;
            }
            Broken(format!(
                "the kubelet of {} did not try again in 2 minutes 2 seconds after a call for {} failed",
                text(node),
                text(volume)
            ))
        }
        Duty::Report { volume, node } => {
            if !is_ghost(volume, node, view) {
                return Moot;
            }
            if !known.kubelet_runs(node) || !known.is_ready(node) {
                return Excused;
            }
            Broken(format!("{} is in volumesInUse of {} for 5 minutes and 10 seconds and not on it", text(volume), text(node)))
        }
        Duty::Io { tree, node } => Broken(format!("I/O on {} hangs on {} for 30 seconds", text(tree), text(node))),
    }
}

/// Whether a pod's kubelet cannot do anything for it, and nobody said that it never will.
fn is_dead(pod: &Pod, known: &Known) -> bool {
    pod.node.is_some_and(|name| {
        known.nodes.get(&name).is_some_and(|node| node.object.is_some() && !node.out_of_service)
            && !(known.is_ready(name) && known.kubelet_runs(name))
    })
}

/// Whether a volume's place is on a node: a pod there uses it that has not come to its end. One that is being deleted on a node
/// that is not ready never gets there (#65392).
pub(super) fn is_wanted(volume: Sym, node: Sym, known: &Known) -> bool {
    let stays = |pod: &Pod| !pod.is_terminated() && (!pod.is_deleting() || known.is_ready(node));
    known.pods_of(volume).any(|(_, pod)| pod.node == Some(node) && stays(pod))
}

/// Whether a volume is in a node's volumesInUse, and neither mounted there nor a pod's.
pub(super) fn is_ghost(volume: Sym, node: Sym, view: View<'_>) -> bool {
    view.known.nodes.get(&node).is_some_and(|node| node.in_use.contains(&volume))
        && !view.mounts.is_held(volume, node)
        && !view.known.pods_of(volume).any(|(_, pod)| pod.node == Some(node))
}

pub(super) fn selected_node(claim: &core::PersistentVolumeClaim, known: &Known) -> Option<Sym> {
    known.names.find(claim.metadata.annotations.as_ref()?.get(SELECTED_NODE)?)
}

/// Whether a bound claim asks for more than it has, and was not told that it cannot have it.
pub(super) fn grows(claim: &core::PersistentVolumeClaim) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let asked = asked.and_then(|quantity| quantity::bytes(&quantity.0)).and_then(|bytes| u64::try_from(bytes).ok());
    let more = asked.zip(capacity_of(claim)).is_some_and(|(asked, has)| asked > has);
    is_bound(claim) && more && !resize_status(claim).is_some_and(|status| status.ends_with("Infeasible"))
}

fn resize_status(claim: &core::PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.allocated_resource_statuses.as_ref()?.get("storage").map(String::as_str)
}

fn is_pending_on_node(claim: &core::PersistentVolumeClaim) -> bool {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    resize_status(claim) == Some("NodeResizePending")
        || conditions.into_iter().any(|condition| condition.type_ == "FileSystemResizePending")
}

/// Whether a pod that does not run waits for something that is not the storage path's to bring.
fn waits(pod: &Pod, liveness: &Liveness, view: View<'_>) -> bool {
    let known = view.known;
    for id in &pod.claims {
        let Some(claim) = known.claims.get(id) else { return true };
        if !is_bound(claim) && (claim.metadata.deletion_timestamp.is_some() || !liveness.is_provisionable(claim, known)) {
            return true;
        }
        if let Some(pv) = known.pv_of_claim(*id) {
            // ReadWriteOnce: elsewhere, or another pod's alone, until that one ends.
            let other = |(other, of): &(Id, &Pod)| {
                let elsewhere = pv.is_single_node() && known.is_attachable(pv.driver) && of.node.is_some() && of.node != pod.node;
                of.uid != pod.uid && !of.is_done() && (elsewhere || pv.is_single_pod()) && known.pods.contains_key(other)
            };
            if known.pods_on_claim(*id).any(|of| other(&of)) {
                return true;
            }
        }
    }
    match pod.node {
        Some(node) => !known.is_ready(node) || !known.kubelet_runs(node),
        None => !known.nodes.keys().any(|node| would_serve(pod, *node, known)),
    }
}

/// Whether a node would take a pod, as far as its volumes and the plainest rules go; what is not looked at here counts as no.
fn would_serve(pod: &Pod, name: Sym, known: &Known) -> bool {
    let Some(node) = known.nodes.get(&name).and_then(|node| node.object.as_ref()).filter(|_| known.is_ready(name)) else { return false };
    let Some(spec) = &pod.object.spec else { return false };
    let node_spec = node.spec.as_ref();
    let closed = node_spec.is_some_and(|spec| {
        spec.unschedulable == Some(true) || spec.taints.iter().flatten().any(|taint| taint.effect != "PreferNoSchedule")
    });
    let labels = node.metadata.labels.as_ref();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let asks = spec.affinity.is_some()
        || spec.topology_spread_constraints.is_some()
        || spec.containers.iter().any(|container| container.resources.as_ref().is_some_and(|resources| resources.requests.is_some()));
    let fits = |id: &Id| known.pv_of_claim(*id).is_none_or(|pv| selector::volume_fits(&pv.object, node));
    let room = known.csi_nodes.get(&name).is_none_or(|csi| {
        csi.limits.iter().all(|(driver, limit)| known.node_volumes.get(&(name, *driver)).map_or(0, |used| used.len()) < *limit)
    });
    !closed && selected && !asks && pod.claims.iter().all(fits) && room
}
