//! The attach/detach controller (§2.1–§2.5; `pkg/controller/volume/attachdetach`, `pkg/volume/csi/csi_attacher.go`).
//!
//! For each pair of a volume and a node: *wanted* while a pod on the node needs the volume, *had* from the moment an attach
//! starts until a detach is known to be over. One operation at a time runs for a pair, and for a volume that only one node may
//! have, one in all.
//!
//! ```text
//!            wanted                              VA attached
//!   absent ─────────▶ Attaching (VA created) ───────────────▶ confirmed ◀──────────── wanted again
//!                       │ error, 2 m                              │ not wanted, not in use (or 6 m and unhealthy, or out of service)
//!                       ▼                                         ▼
//!                   uncertain ── not wanted ──────────▶ Unreporting: volumesAttached −= v, then live read of the node
//!                                                                 │ v ∉ volumesAttached, v ∉ volumesInUse (§2.5, r2)
//!                                                                 ▼
//!                                                             Detaching (VA deleted) ── VA gone ──▶ absent
//!                                                                 └ error, 2 m ▶ uncertain
//! ```
//! The handshake: the node's `volumesAttached` is durably without the volume before the live read that looks for it in
//! `volumesInUse`; the kubelet writes `volumesInUse` before it looks for the volume in `volumesAttached`. So never both.
//! The real controller loops every 100 ms; this one syncs a pair when something of it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model_common::bugs::{self, Bug};
use model_common::fixes::{Fix, Fixes};
use sha2::{Digest, Sha256};

use super::{name, namespace};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::{ApiError, Write};

mod boot;
mod desired;
mod pairs;
mod report;

use pairs::Pairs;
use report::attached_of;

pub(crate) const COMPONENT: &str = "attachdetach-controller";
/// `maxWaitForUnmountDuration` (§7 row 9).
const FORCE_DETACH: Duration = Duration::from_secs(360);
/// How long an attach or a detach may take (§7 row 12).
const OPERATION: Duration = Duration::from_secs(120);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A volume (`kubernetes.io/csi/<driver>^<handle>`) and a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    volume: String,
    node: String,
}

impl Pair {
    /// The driver and the handle of the unique name.
    fn parts(&self) -> Option<(&str, &str)> {
        self.volume.strip_prefix("kubernetes.io/csi/")?.split_once('^')
    }

    /// The key of the pair's VolumeAttachment.
    fn item(&self) -> Key {
        let (driver, handle) = self.parts().unwrap_or(("", &self.volume));
        Key::new(Kind::VolumeAttachment, "", &attachment_name(handle, driver, &self.node))
    }
}

/// `csi-` and the SHA-256 of handle, driver and node (`getAttachmentName`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let mut name = "csi-".to_owned();
    for byte in digest {
        name.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    name
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Idle,
    Attaching,
    Unreporting,
    Detaching,
}

/// What is known of an attachment that is or may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Have {
    op: Op,
    /// Attached for sure; false: it may be.
    confirmed: bool,
    /// It is to stand in the node's `volumesAttached`, once confirmed.
    reported: bool,
    /// The wait for the unmount has begun.
    detach_requested: bool,
    /// …and has lasted 6 minutes.
    expired: bool,
    /// The API has said of the VolumeAttachment, since the operation began, that it is there (of an attach) or that it is deleted (of a
    /// detach), whatever the watch shows.
    told: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    /// The PersistentVolume's name.
    volume: String,
    pods: BTreeSet<Key>,
    multi_attach_told: bool,
}

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct AttachDetach {
    cache: Cache,
    work: Queue,
    booted: bool,
    /// The pairs of each pod that counts.
    by_pod: BTreeMap<Key, BTreeSet<Pair>>,
    wanted: BTreeMap<Pair, Wanted>,
    have: BTreeMap<Pair, Have>,
    /// `volumesInUse` as last seen of each node, and each new attachment until the node says otherwise.
    in_use: BTreeMap<String, BTreeSet<String>>,
    pairs: Pairs,
    fixes: Fixes,
    /// Detached, and with the bug to be detached once more.
    detached: BTreeSet<Key>,
}

fn timer(purpose: Purpose, item: &Key) -> Timer {
    Timer { purpose, item: item.clone() }
}

impl AttachDetach {
    /// A machine with changes that are proposed upstream.
    pub fn with(fixes: Fixes) -> Self {
        Self { fixes, ..Self::default() }
    }

    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                self.touched(change.object());
            }
            Input::Written { call, result: Err(error) } if self.work.creates(*call) => {
                let item = self.work.finish(*call)?.item;
                self.not_created(&item, error, out);
            }
            Input::Written { call, result } => {
                let done = self.work.answer_part(&mut self.cache, *call, result, Backoff::OPERATION, out)?;
                if done.reads {
                    self.verified(&done.item, result.as_ref().ok(), out);
                }
                if done.deletes && result.as_ref().err().is_none_or(ApiError::is_not_found) {
                    self.deleted(&done.item, result.is_err(), out);
                }
            }
            Input::Fired(fired) => self.fired(fired, out),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            match item.kind {
                Kind::Node => self.sync_node(&item, out),
                _ => {
                    if let Some(pair) = self.pairs.get(&item).cloned() {
                        self.sync_pair(&item, &pair, out);
                    }
                }
            }
        }
        Ok(())
    }

    fn touched(&mut self, object: &Object) {
        if !self.booted {
            return;
        }
        match object {
            Object::Pod(_) => self.update_pod(&object.key()),
            Object::PersistentVolumeClaim(claim) => {
                self.update_pods_of(&format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata)));
            }
            Object::PersistentVolume(volume) => {
                if let Some(claim) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
                    let (namespace, claim) = (claim.namespace.as_deref().unwrap_or(""), claim.name.as_deref().unwrap_or(""));
                    self.update_pods_of(&format!("{namespace}/{claim}"));
                }
            }
            Object::Node(node) => {
                self.set_in_use(node);
                self.work.mark(object.key());
                let node_name = name(&node.metadata).to_owned();
                let pods: Vec<Key> = self.cache.find(Index::PodsByNode, &node_name).cloned().collect();
                pods.iter().for_each(|pod| self.update_pod(pod));
                let items: Vec<Key> = self.pairs.of_node(&node_name).map(|(item, _)| item.clone()).collect();
                items.into_iter().for_each(|item| self.work.mark_gently(item));
            }
            Object::VolumeAttachment(attachment) => {
                let failing = attachment
                    .status
                    .as_ref()
                    .is_some_and(|status| !status.attached && (status.attach_error.is_some() || status.detach_error.is_some()));
                // An error must not cut the backoff that it starts.
                if failing { self.work.mark_gently(object.key()) } else { self.work.mark(object.key()) }
            }
            Object::CSIDriver(_) => {
                for pod in self.cache.keys(&Kind::Pod) {
                    self.update_pod(&pod);
                }
            }
            _ => {}
        }
    }

    fn update_pods_of(&mut self, claim: &str) {
        let pods: Vec<Key> = self.cache.find(Index::PodsByClaim, claim).cloned().collect();
        pods.iter().for_each(|pod| self.update_pod(pod));
    }

    fn fired(&mut self, fired: &Timer, out: &mut Vec<Effect>) {
        let pair = self.pairs.get(&fired.item).cloned();
        match (fired.purpose, pair) {
            (Purpose::ForceDetach, Some(pair)) => {
                if let Some(have) = self.have.get_mut(&pair) {
                    have.expired = have.detach_requested;
                }
                self.work.mark_gently(fired.item.clone());
            }
            (Purpose::Deadline, Some(pair)) => {
                let (driver, handle) = pair.parts().unwrap_or_default();
                match self.have.get(&pair).map(|have| have.op) {
                    Some(Op::Attaching) => {
                        let why = format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}");
                        self.attach_failed(&fired.item, &pair, &why, out);
                    }
                    Some(Op::Detaching) => self.detach_failed(&fired.item, &pair, out),
                    Some(Op::Idle | Op::Unreporting) | None => {}
                }
            }
            _ => self.work.retry(&fired.item),
        }
    }

    fn sync_pair(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        let is_wanted = self.wanted.contains_key(pair);
        match (self.have.get(pair).map(|have| (have.op, have.confirmed)), is_wanted) {
            (None, false) => {
                self.pairs.remove(item);
                self.work.forget(item, out);
            }
            (Some((Op::Attaching, _)), _) => self.go_on_attaching(item, pair, out),
            (Some((Op::Detaching, _)), _) => self.go_on_detaching(item, pair, out),
            (Some((Op::Unreporting, _)), true) => {
                self.give_up_detach(pair);
                self.work.mark(item.clone());
            }
            (Some((Op::Unreporting, _)), false) => self.go_on_unreporting(item, pair, out),
            (Some((Op::Idle, true)), true) => self.keep(item, pair, out),
            (None | Some((Op::Idle, false)), true) => self.start_attach(item, pair, out),
            (Some((Op::Idle, _)), false) => self.start_detach(item, pair, out),
        }
    }

    /// Attached and wanted: a detach that was asked for before is off.
    fn keep(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if self.detached.remove(item) {
            self.work.write(item, Write::delete(item.clone()), out);
        }
        let Some(have) = self.have.get_mut(pair) else { return };
        if have.detach_requested {
            have.detach_requested = false;
            have.expired = false;
            out.push(Effect::Disarm(timer(Purpose::ForceDetach, item)));
        }
        if !have.reported {
            have.reported = true;
            self.work.mark(Key::new(Kind::Node, "", &pair.node));
        }
    }

    /// Other pairs of the same volume.
    fn siblings<'a>(&'a self, pair: &'a Pair) -> impl Iterator<Item = (&'a Pair, &'a Have)> {
        let first = Pair { volume: pair.volume.clone(), node: String::new() };
        self.have.range(first..).take_while(|(other, _)| other.volume == pair.volume).filter(move |(other, _)| *other != pair)
    }

    fn mark_siblings(&mut self, pair: &Pair) {
        let items: Vec<Key> = self.pairs.of_volume(&pair.volume).cloned().collect();
        items.into_iter().for_each(|item| self.work.mark_gently(item));
    }

    /// Whether an operation of another node on a volume that only one node may have holds this one up.
    fn is_locked(&self, pair: &Pair) -> bool {
        !self.multi_attach(pair) && self.siblings(pair).any(|(_, have)| have.op != Op::Idle)
    }

    fn start_attach(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if self.is_locked(pair) {
            return;
        }
        // As in the real controller an uncertain attachment elsewhere does not count (§10 F6); EC2 itself refuses.
        let counts = |have: &Have| have.confirmed || self.fixes.has(Fix::UncertainAttachmentCounts);
        let elsewhere: Vec<String> = self.siblings(pair).filter(|(_, have)| counts(have)).map(|(other, _)| other.node.clone()).collect();
        if !self.multi_attach(pair) && !elsewhere.is_empty() && !bugs::on(Bug::AttachedElsewhereIgnored) {
            return self.tell_multi_attach(pair, &elsewhere, out);
        }
        let existing = self.cache.at::<VolumeAttachment>(item);
        if existing.is_some_and(|attachment| attachment.metadata.deletion_timestamp.is_some()) {
            return; // Its end is a watch event.
        }
        if !self.have.contains_key(pair) {
            self.had(pair.clone(), false);
        }
        if let Some(have) = self.have.get_mut(pair) {
            (have.op, have.told) = (Op::Attaching, false);
        }
        out.push(Effect::Arm(timer(Purpose::Deadline, item), OPERATION));
        self.go_on_attaching(item, pair, out);
    }

    fn go_on_attaching(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        let Some(attachment) = self.cache.at::<VolumeAttachment>(item).cloned() else {
            if self.have.get(pair).is_some_and(|have| have.told) {
                return; // The watch shows it any moment, or the time for the attach ends.
            }
            let Some(attachment) = self.attachment(item, pair) else {
                // Nobody wants it any more and there is nothing to wait for.
                return self.end(item, pair, out);
            };
            self.work.write(item, Write::create(attachment), out);
            return;
        };
        let status = attachment.status.clone().unwrap_or_default();
        if self.is_of_dead_volume(&attachment, pair) && self.fixes.has(Fix::AttachmentOfDeadVolumeIsReplaced) {
            // Its end is a watch event, and then a new one is written. While the attacher has not let go of it, that waits.
            if attachment.metadata.deletion_timestamp.is_none() {
                self.work.write(item, Write::delete(item.clone()), out);
            }
            return;
        }
        if attachment.metadata.deletion_timestamp.is_some() {
            let why = format!("volume attachment {} is being deleted", name(&attachment.metadata));
            return self.attach_failed(item, pair, &why, out);
        }
        if status.attached {
            if let Some(have) = self.have.get_mut(pair) {
                have.op = Op::Idle;
                have.confirmed = true;
                have.reported = true;
            }
            self.work.succeed(item);
            out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
            self.tell_pods(pair, false, |volume| format!("AttachVolume.Attach succeeded for volume \"{volume}\" "), out);
            self.work.mark(Key::new(Kind::Node, "", &pair.node));
            self.work.mark(item.clone());
            self.mark_siblings(pair);
        } else if let Some(error) = status.attach_error {
            self.attach_failed(item, pair, error.message.as_deref().unwrap_or(""), out);
        }
    }

    /// A create failed: it may have been carried out all the same, and then nobody else deletes what it made. "Already exists" is as good
    /// as done (`csi_attacher.go`, `Attach`).
    fn not_created(&mut self, item: &Key, error: &ApiError, out: &mut Vec<Effect>) {
        let Some(pair) = self.pairs.get(item).cloned() else { return };
        match self.have.get_mut(&pair).filter(|have| have.op == Op::Attaching) {
            Some(have) if error.is_already_exists() => have.told = true,
            Some(_) => self.attach_failed(item, &pair, &error.to_string(), out),
            None => {}
        }
    }

    fn attach_failed(&mut self, item: &Key, pair: &Pair, why: &str, out: &mut Vec<Effect>) {
        if let Some(have) = self.have.get_mut(pair) {
            have.op = Op::Idle;
            have.confirmed = false;
        }
        out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
        self.tell_pods(pair, true, |volume| format!("AttachVolume.Attach failed for volume \"{volume}\" : {why}"), out);
        self.work.fail(item, Backoff::OPERATION, out);
        if !self.wanted.contains_key(pair) {
            // A detach does not wait for the backoff of an attach.
            self.work.succeed(item);
        }
        self.mark_siblings(pair);
    }

    fn start_detach(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if self.is_locked(pair) {
            return;
        }
        let in_use = self.in_use.get(&pair.node).is_some_and(|volumes| volumes.contains(&pair.volume));
        let (healthy, out_of_service) = self.health(&pair.node);
        let Some(have) = self.have.get_mut(pair) else { return };
        if !have.detach_requested {
            have.detach_requested = true;
            out.push(Effect::Arm(timer(Purpose::ForceDetach, item), FORCE_DETACH));
        }
        let forced = out_of_service || (have.expired && !healthy);
        if in_use && !forced {
            return;
        }
        if bugs::on(Bug::DetachUnannounced) {
            (have.op, have.told) = (Op::Detaching, false);
            out.push(Effect::Arm(timer(Purpose::Deadline, item), OPERATION));
            return self.go_on_detaching(item, pair, out);
        }
        have.op = Op::Unreporting;
        have.reported = false;
        self.go_on_unreporting(item, pair, out);
    }

    /// First the write that takes the volume off the node's list, then the live read.
    fn go_on_unreporting(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        let key = Key::new(Kind::Node, "", &pair.node);
        let reports = self.cache.at::<Node>(&key).is_some_and(|node| attached_of(node).any(|volume| volume == pair.volume));
        if reports {
            if let Some(write) = self.report(&key) {
                self.work.write(item, write, out);
            }
            return;
        }
        if bugs::on(Bug::HandshakeByWatch) {
            let node = self.cache.at::<Node>(&key).cloned().map(Object::Node);
            self.verified(item, node.as_ref(), out);
            // Given up, it waits.
            if self.have.get(pair).is_some_and(|have| have.op == Op::Detaching) {
                self.work.mark(item.clone());
            }
            return;
        }
        self.work.read(item, key, out);
    }

    /// The live read has shown the node; none: there is no such node.
    fn verified(&mut self, item: &Key, node: Option<&Object>, out: &mut Vec<Effect>) {
        let Some(pair) = self.pairs.get(item).cloned() else { return };
        if self.work.is_backing_off(item) || self.have.get(&pair).is_none_or(|have| have.op != Op::Unreporting) {
            return;
        }
        if self.wanted.contains_key(&pair) {
            return; // The sync gives the detach up.
        }
        let (_, out_of_service) = self.health(&pair.node);
        let forced = self.have.get(&pair).is_some_and(|have| have.expired) || out_of_service;
        if let Some(Object::Node(node)) = node {
            if attached_of(node).any(|volume| volume == pair.volume) {
                return; // The list in the cache is now this one: the sync writes again.
            }
            let in_use = node.status.iter().flat_map(|status| status.volumes_in_use.iter().flatten()).any(|volume| *volume == pair.volume);
            if in_use && !forced {
                self.give_up_detach(&pair);
                self.work.fail(item, Backoff::OPERATION, out);
                return;
            }
        }
        if let Some(have) = self.have.get_mut(&pair) {
            (have.op, have.told) = (Op::Detaching, false);
        }
        out.push(Effect::Arm(timer(Purpose::Deadline, item), OPERATION));
    }

    fn give_up_detach(&mut self, pair: &Pair) {
        if let Some(have) = self.have.get_mut(pair) {
            have.op = Op::Idle;
            have.reported = true;
        }
        self.work.mark(Key::new(Kind::Node, "", &pair.node));
        self.mark_siblings(pair);
    }

    fn go_on_detaching(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        match self.cache.at::<VolumeAttachment>(item).cloned() {
            None if self.have.get(pair).is_some_and(|have| have.told) => self.end(item, pair, out),
            // It is deleted in the API, whether or not the watch has shown it (`csi_attacher.go`, `Detach`).
            None => drop(self.work.write(item, Write::delete(item.clone()), out)),
            Some(attachment) if attachment.metadata.deletion_timestamp.is_none() => {
                self.work.write(item, Write::delete(item.clone()), out);
            }
            Some(attachment) => {
                if attachment.status.as_ref().is_some_and(|status| status.detach_error.is_some()) {
                    self.detach_failed(item, pair, out);
                }
            }
        }
    }

    /// A delete was carried out; `gone`: it found nothing, and the detach is over.
    fn deleted(&mut self, item: &Key, gone: bool, out: &mut Vec<Effect>) {
        let Some(pair) = self.pairs.get(item).cloned() else { return };
        let Some(have) = self.have.get_mut(&pair).filter(|have| have.op == Op::Detaching) else { return };
        have.told = true;
        if gone {
            self.end(item, &pair, out);
        }
    }

    fn detach_failed(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if let Some(have) = self.have.get_mut(pair) {
            have.op = Op::Idle;
            // It must be attached anew before it is reported again.
            have.confirmed = false;
        }
        out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
        self.work.fail(item, Backoff::OPERATION, out);
        self.mark_siblings(pair);
    }

    /// The attachment is gone.
    fn end(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if bugs::on(Bug::DetachedTwice) {
            self.detached.insert(item.clone());
        }
        self.have.remove(pair);
        out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
        out.push(Effect::Disarm(timer(Purpose::ForceDetach, item)));
        self.work.succeed(item);
        self.work.mark(item.clone());
        self.work.mark(Key::new(Kind::Node, "", &pair.node));
        self.mark_siblings(pair);
    }

    /// Whether a VolumeAttachment that was never attached names another PersistentVolume than the wanted one, which is gone: its name is
    /// made of handle, driver and node only.
    fn is_of_dead_volume(&self, attachment: &VolumeAttachment, pair: &Pair) -> bool {
        let named = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or("");
        let wanted = self.wanted.get(pair).is_some_and(|wanted| wanted.volume != named);
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        wanted && !attached && self.cache.get::<PersistentVolume>("", named).is_none()
    }

    /// The new VolumeAttachment; none when no pod names its volume.
    fn attachment(&self, item: &Key, pair: &Pair) -> Option<VolumeAttachment> {
        let wanted = self.wanted.get(pair)?;
        let (driver, _) = pair.parts()?;
        Some(VolumeAttachment {
            metadata: ObjectMeta { name: Some(item.name.to_string()), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: driver.to_owned(),
                node_name: pair.node.clone(),
                source: VolumeAttachmentSource { persistent_volume_name: Some(wanted.volume.clone()), ..VolumeAttachmentSource::default() },
            },
            status: None,
        })
    }

    /// Whether several nodes may have the volume: RWX or ROX, or its access modes are not known.
    fn multi_attach(&self, pair: &Pair) -> bool {
        let named = self.wanted.get(pair).map(|wanted| wanted.volume.clone()).or_else(|| {
            let attachment = self.cache.at::<VolumeAttachment>(&self.pairs.item(pair))?;
            attachment.spec.source.persistent_volume_name.clone()
        });
        let Some(volume) = named.and_then(|volume| self.cache.get::<PersistentVolume>("", &volume).cloned()) else { return true };
        let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
        modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
    }
}

#[cfg(test)]
mod tests;
