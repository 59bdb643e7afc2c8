//! Claims, their volumes and what keeps them: S10 to S13, S20, S24 to S26 and S29.

mod capacity;
mod leaks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model_common::csi::{ContentSource, ControllerCall, ControllerReply};
use model_kube::controllers::holds_claim;
use model_kube::selector;

use super::attach::Attach;
use super::calls::{Call, Verb};
use super::known::{Delta, Known, Pv};
use super::mounts::Mounts;
use super::names::{Id, Sym};
use super::table::Rule;
use super::watch::Log;
use capacity::Grown;
pub(super) use capacity::capacity_of;

/// The tag with the name that the provisioner gave a volume (ebs.md §4).
const NAME_TAG: &str = "CSIVolumeName";

#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The claims that are bound to a PersistentVolume.
    bound: BTreeMap<Sym, BTreeSet<Id>>,
    /// What drivers made and did not delete, with the name that the provisioner gave it.
    made: BTreeMap<Sym, Sym>,
    snapshots: BTreeMap<Sym, Snapshot>,
    /// Volumes that were deleted through their driver.
    deleted: BTreeSet<Sym>,
    grown: BTreeMap<Sym, Grown>,
    /// How many bytes the file system on a volume spans.
    file_systems: BTreeMap<Sym, u64>,
    /// What a copy holds: by the snapshot, or by the clone.
    cuts: BTreeMap<Sym, u64>,
}

#[derive(Debug, Default)]
struct Snapshot {
    name: Option<Sym>,
    /// What the driver said last.
    ready: Option<bool>,
    /// The VolumeSnapshotContents that refer to it.
    contents: usize,
    /// A user's object, of policy Retain, gave it up.
    given_up: bool,
}

impl Claims {
    pub(super) fn made(&mut self, volume: &str, tags: &BTreeMap<String, String>, known: &mut Known) {
        if let Some(name) = tags.get(NAME_TAG) {
            let (volume, name) = (known.names.sym(volume), known.names.sym(name));
            self.made.insert(volume, name);
        }
    }

    pub(super) fn gone(&mut self, volume: &str, known: &mut Known) {
        let volume = known.names.sym(volume);
        self.made.remove(&volume);
        self.file_systems.remove(&volume);
        self.grown.remove(&volume);
    }

    /// S10, S12 and S26, where a call begins.
    #[allow(clippy::too_many_arguments)] // the call, and all that is known
    pub(super) fn began(
        &mut self,
        at: Duration,
        call: &Call,
        asked: &ControllerCall,
        known: &mut Known,
        mounts: &Mounts,
        attach: &Attach,
        log: &mut Log,
    ) {
        if let ControllerCall::CreateVolume { content_source: Some(ContentSource::Snapshot(snapshot)), name, .. } = asked {
            let id = known.names.sym(snapshot);
            if self.snapshots.get(&id).is_some_and(|snapshot| snapshot.ready == Some(false)) {
                log.say(at, Rule::S26, || format!("CreateVolume {name} from {snapshot} began before that was ready to use"));
            }
        }
        if call.verb != Verb::DeleteVolume {
            return;
        }
        let known = &*known;
        let volume = call.volume;
        let words = |what: String| format!("DeleteVolume of {} began while {what}", known.text(volume));
        for node in attach.nodes_of(volume) {
            log.say(at, Rule::S10, || words(format!("it is attached to {}", known.text(node))));
        }
        for node in mounts.nodes_of(volume) {
            log.say(at, Rule::S10, || words(format!("it is {} on {}", mounts.how(volume, node), known.text(node))));
        }
        for (name, pv) in known.pvs_of(volume) {
            let of = || format!("PersistentVolume {} ", known.text(name));
            if !matches!(pv.phase(), "Released" | "Failed") {
                log.say(at, Rule::S10, || words(format!("{}is {}", of(), pv.phase())));
            }
            if pv.policy() != "Delete" {
                log.say(at, Rule::S10, || words(format!("{}has the policy {}", of(), pv.policy())));
            }
            if pv.policy() == "Retain" {
                log.say(at, Rule::S12, || words(format!("{}has the policy Retain", of())));
            }
            if let Some(claim) = pv.claim.filter(|claim| is_owner(pv, *claim, known)) {
                log.say(at, Rule::S10, || words(format!("{}belongs to claim {}, which is there", of(), known.names.path(claim))));
            }
        }
    }

    /// What a driver did.
    pub(super) fn ended(&mut self, call: &Call, reply: &ControllerReply, known: &mut Known) {
        match reply {
            ControllerReply::CreateVolume(volume) => {
                let id = known.names.sym(&volume.volume_id);
                self.made.insert(id, call.volume);
                self.deleted.remove(&id);
            }
            ControllerReply::DeleteVolume => {
                self.made.remove(&call.volume);
                self.deleted.insert(call.volume);
            }
            ControllerReply::ControllerExpandVolume { capacity_bytes, node_expansion_required } => {
                let grown = self.grown.entry(call.volume).or_default();
                (grown.controller, grown.node_expansion) = (*capacity_bytes, *node_expansion_required);
            }
            ControllerReply::CreateSnapshot(snapshot) => {
                let id = known.names.sym(&snapshot.snapshot_id);
                let state = self.snapshots.entry(id).or_default();
                (state.name, state.ready) = (Some(call.volume), Some(snapshot.ready_to_use));
            }
            ControllerReply::DeleteSnapshot => drop(self.snapshots.remove(&call.volume)),
            ControllerReply::ListSnapshots { entries, .. } => {
                for entry in entries {
                    let id = known.names.sym(&entry.snapshot_id);
                    if let Some(state) = self.snapshots.get_mut(&id) {
                        state.ready = Some(entry.ready_to_use);
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn cut(&mut self, cut: &str, digest: u64, known: &mut Known) {
        let cut = known.names.sym(cut);
        self.cuts.insert(cut, digest);
    }

    /// S26.
    pub(super) fn filled(&mut self, at: Duration, volume: &str, cut: &str, digest: u64, known: &mut Known, log: &mut Log) {
        let id = known.names.sym(cut);
        if self.cuts.get(&id).is_some_and(|cut| *cut != digest) {
            log.say(at, Rule::S26, || format!("{volume} was filled from {cut} and has other content than that had when it was cut"));
        }
    }

    pub(super) fn object(&mut self, at: Duration, delta: &Delta<'_>, known: &mut Known, log: &mut Log) {
        match delta {
            Delta::Claim { id, old, new } => self.claim(at, *id, old.as_ref(), *new, known, log),
            Delta::Pv { name, old, new } => self.pv(at, *name, old.as_ref(), *new, known, log),
            Delta::Pod { id, old, last: None } => {
                let pod = known.pods.get(id);
                if old.as_ref().and_then(|(_, node)| *node).is_none()
                    && let Some(pod) = pod.filter(|pod| pod.node.is_some())
                {
                    pod.claims.iter().for_each(|claim| affinity(at, *claim, known, log));
                }
            }
            Delta::Custom { plural: "volumesnapshotcontents", object, old, gone } => {
                let handle = |object: &model_kube::object::Custom| -> Option<String> {
                    let status = object.fields.get("status").and_then(|status| status.get("snapshotHandle"));
                    let source = || object.fields.get("spec").and_then(|spec| spec.pointer("/source/snapshotHandle"));
                    status.or_else(source).and_then(|handle| handle.as_str()).map(str::to_owned)
                };
                let (before, now) = (old.as_ref().and_then(|old| handle(old)), handle(object).filter(|_| !gone));
                if before != now {
                    if let Some(state) = before.and_then(|handle| self.snapshots.get_mut(&known.names.find(&handle)?)) {
                        state.contents = state.contents.saturating_sub(1);
                        let policy = object.fields.get("spec").and_then(|spec| spec.get("deletionPolicy"));
                        state.given_up |= *gone && policy.and_then(|policy| policy.as_str()) == Some("Retain");
                    }
                    if let Some(handle) = now {
                        let id = known.names.sym(&handle);
                        self.snapshots.entry(id).or_default().contents += 1;
                    }
                }
            }
            _ => {}
        }
    }

    fn claim(
        &mut self,
        at: Duration,
        id: Id,
        old: Option<&Arc<core::PersistentVolumeClaim>>,
        new: Option<&Arc<core::PersistentVolumeClaim>>,
        known: &mut Known,
        log: &mut Log,
    ) {
        let volume = |claim: &Arc<core::PersistentVolumeClaim>| is_bound(claim).then(|| claim.spec.as_ref()?.volume_name.clone()).flatten();
        let (before, now) = (old.and_then(volume), new.and_then(volume));
        if before != now {
            if let Some(before) = &before {
                let pv = known.names.sym(before);
                if let Some(claims) = self.bound.get_mut(&pv) {
                    claims.remove(&id);
                }
            }
            if let Some(now) = &now {
                let pv = known.names.sym(now);
                self.bound.entry(pv).or_default().insert(id);
                self.bound_once(at, pv, known, log);
                affinity(at, id, known, log);
            }
        }
        let known = &*known;
        let path = || known.names.path(id);
        if let (Some(old), Some(new)) = (old, new)
            && old.metadata.uid == new.metadata.uid
        {
            let named = |claim: &Arc<core::PersistentVolumeClaim>| claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
            let (was, is) = (named(old), named(new));
            if is_bound(old) && was != is {
                log.say(at, Rule::S12, || {
                    format!("bound claim {} changed its volume from {} to {}", path(), was.unwrap_or_default(), is.unwrap_or_default())
                });
            }
            let (was, is) = (capacity_of(old), capacity_of(new));
            if let Some(is) = is
                && was != Some(is)
            {
                self.capacity(at, id, new, known, log);
                if was.is_some_and(|was| is > was) {
                    self.grew(at, id, is, known, log);
                }
            }
        }
        let Some(old) = old else { return };
        let blocks = || known.pods_on_claim(id).find(|(_, pod)| holds_claim(&pod.object, old));
        if new.is_none()
            && let Some((pod, _)) = blocks()
        {
            log.say(at, Rule::S13, || format!("claim {} vanished while pod {} refers to it", path(), known.names.path(pod)));
        }
        if lost(&old.metadata, new.map(|new| &new.metadata), "kubernetes.io/pvc-protection")
            && let Some((pod, _)) = blocks()
        {
            log.say(at, Rule::S29, || {
                format!("claim {} lost the finalizer kubernetes.io/pvc-protection while pod {} refers to it", path(), known.names.path(pod))
            });
        }
    }

    /// S11.
    fn bound_once(&self, at: Duration, pv: Sym, known: &Known, log: &mut Log) {
        let Some(claims) = self.bound.get(&pv) else { return };
        let mut all = claims.iter();
        if let (Some(first), Some(second)) = (all.next(), all.next()) {
            log.say(at, Rule::S11, || {
                let (first, second) = (known.names.path(*first), known.names.path(*second));
                format!("PersistentVolume {} is bound to {first} and {second}", known.text(pv))
            });
        }
        let Some(state) = known.pvs.get(&pv) else { return };
        let Some(uid) = claim_uid(&state.object) else { return };
        for id in claims {
            if let Some(claim) = known.claims.get(id)
                && claim.metadata.uid.as_deref() != Some(uid)
            {
                log.say(at, Rule::S11, || {
                    let owner = state.claim.map(|owner| known.names.path(owner)).unwrap_or_default();
                    format!("{} is bound to PersistentVolume {}, which names {owner} (uid {uid})", known.names.path(*id), known.text(pv))
                });
            }
        }
    }

    fn pv(
        &mut self,
        at: Duration,
        name: Sym,
        old: Option<&Arc<core::PersistentVolume>>,
        new: Option<&Arc<core::PersistentVolume>>,
        known: &Known,
        log: &mut Log,
    ) {
        let Some(old) = old else {
            self.bound_once(at, name, known, log);
            return;
        };
        let text = || known.text(name);
        if let Some(new) = new.filter(|new| new.metadata.uid == old.metadata.uid) {
            let (was, is) = (claim_uid(old), claim_uid(new));
            if let (Some(was), Some(is)) = (was, is)
                && was != is
            {
                log.say(at, Rule::S11, || format!("the claimRef of PersistentVolume {} changed its uid from {was} to {is}", text()));
            }
            if was != is {
                self.bound_once(at, name, known, log);
            }
        }
        let before = Pv { object: old.clone(), handle: None, driver: name, claim: None };
        let handle = old.spec.as_ref().and_then(|spec| known.names.find(&spec.csi.as_ref()?.volume_handle));
        if new.is_none()
            && before.policy() == "Retain"
            && let Some(handle) = handle
        {
            // The volume is the user's from here on.
            self.made.remove(&handle);
        }
        let after = new.map(|new| &new.metadata);
        if lost(&old.metadata, after, "kubernetes.io/pv-protection") && before.phase() == "Bound" {
            log.say(at, Rule::S29, || format!("PersistentVolume {} lost the finalizer kubernetes.io/pv-protection while Bound", text()));
        }
        if lost(&old.metadata, after, "external-provisioner.volume.kubernetes.io/finalizer")
            && before.policy() == "Delete"
            && let Some(handle) = handle.filter(|handle| self.made.contains_key(handle) && !self.deleted.contains(handle))
        {
            log.say(at, Rule::S29, || {
                format!("PersistentVolume {} lost its provisioner's finalizer, and {} was not deleted", text(), known.text(handle))
            });
        }
        let attacher = |finalizer: &&String| finalizer.starts_with("external-attacher/");
        if let Some(finalizer) = old.metadata.finalizers.iter().flatten().find(attacher)
            && lost(&old.metadata, after, finalizer)
            && let Some(attachment) = handle.and_then(|handle| known.attachments_of(handle).find(|(_, of)| of.pv == Some(name)))
        {
            log.say(at, Rule::S29, || {
                format!(
                    "PersistentVolume {} lost the finalizer {finalizer} while VolumeAttachment {} is there",
                    text(),
                    known.text(attachment.0)
                )
            });
        }
    }
}

/// S24.
fn affinity(at: Duration, claim: Id, known: &Known, log: &mut Log) {
    let Some(pv) = known.pv_of_claim(claim) else { return };
    if pv.object.spec.as_ref().is_none_or(|spec| spec.node_affinity.is_none()) {
        return;
    }
    for (id, pod) in known.pods_on_claim(claim).filter(|(_, pod)| !pod.is_done()) {
        let Some(name) = pod.node else { continue };
        let Some(node) = known.nodes.get(&name).and_then(|node| node.object.as_ref()) else { continue };
        if !selector::volume_fits(&pv.object, node) {
            log.say(at, Rule::S24, || {
                let volume = pv.object.metadata.name.as_deref().unwrap_or_default();
                format!(
                    "pod {} is on {}, which the nodeAffinity of its PersistentVolume {volume} does not allow",
                    known.names.path(id),
                    known.text(name)
                )
            });
        }
    }
}

/// Whether the claim of a PersistentVolume's claimRef is there, and is that one.
fn is_owner(pv: &Pv, claim: Id, known: &Known) -> bool {
    known.claims.get(&claim).is_some_and(|claim| claim_uid(&pv.object).is_none_or(|uid| claim.metadata.uid.as_deref() == Some(uid)))
}

fn claim_uid(pv: &core::PersistentVolume) -> Option<&str> {
    pv.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref().filter(|uid| !uid.is_empty())
}

pub(super) fn is_bound(claim: &core::PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether a finalizer was there and no longer is.
pub(super) fn lost(old: &ObjectMeta, new: Option<&ObjectMeta>, finalizer: &str) -> bool {
    let has = |metadata: &ObjectMeta| metadata.finalizers.iter().flatten().any(|known| known == finalizer);
    has(old) && !new.is_some_and(has)
}
