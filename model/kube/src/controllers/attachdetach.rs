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
use k8s_openapi::api::storage::v1::VolumeAttachment;
use model_common::bugs::{self, Bug};
use model_common::fixes::Fixes;
use sha2::{Digest, Sha256};

use super::{name, namespace};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Purpose, Queue, Reject, Timer};
use crate::object::{Key, Kind, Object};
use crate::write::{ApiError, Write};

mod attach;
mod boot;
mod desired;
mod detach;
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
    /// The nodes for which the controller attaches, and whose pods it has looked at since it does.
    managed: BTreeSet<String>,
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
                if self.becomes_managed(&node_name) {
                    let pods: Vec<Key> = self.cache.find(Index::PodsByNode, &node_name).cloned().collect();
                    pods.iter().for_each(|pod| self.update_pod(pod));
                }
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
}

#[cfg(test)]
mod tests;
