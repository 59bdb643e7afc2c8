//! The kubelet's volume manager (kubernetes-storage-path.md §3): what shall be mounted (desired), what is (actual), and the
//! operations that bring one to the other.
//!
//! ```text
//!  Want ─▶ desired ─▶ reconcile ─▶ Verify ─▶ Mount{MountDevice ─▶ SetUp} ─▶ mounted
//!  Unwant ──────────▶ reconcile ─▶ Unmount ─▶ UnmountDevice ─▶ detached (leaves volumesInUse)
//! ```
//!
//! Nothing here is saved: after a crash the disk, the kernel and the API are the truth ([`Input::Booted`]).

mod attach_limit;
mod claim_status;
mod expand;
mod mount;
mod reconcile;
mod reconstruct;
mod resolve;
mod spec;
mod unmount;
mod wire;

#[cfg(test)]
mod check;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model_common::bugs::{self, Bug};
use model_common::fixes::{Fix, Fixes};
use serde::{Deserialize, Serialize};

pub use attach_limit::is_exhausted;
pub use claim_status::claim_resize_status;
pub use resolve::{PodClaim, ResolveError, claim_volume, pod_claims, resolve_pod_volume};
pub use spec::{
    AccessMode, ClaimRef, FsGroupPolicy, Layout, PodUid, PodVolume, PodWant, VolData, VolumeName, VolumeSpec, attachment_name, unique_name,
};
pub use wire::{Action, Answer, Attachment, Class, Effect, Event, Failure, Found, Input, Reject, ResizePhase, Target, Timer};

use crate::pending::{Key, OpName, Pending};

/// The reconciler's period.
pub const TICK: Duration = Duration::from_millis(100);

/// What does not change while a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// The node's name.
    pub node: String,
    pub layout: Layout,
    /// Ask for the attachment only once the node's watch shows it, instead of asking and backing off as upstream does. The
    /// linearizable read of §2.5 is made in both cases; this only saves waiting.
    pub eager: bool,
    /// The changes proposed upstream that this kubelet has.
    #[serde(default, skip_serializing_if = "Fixes::is_empty")]
    pub fixes: Fixes,
}

/// The device mount of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Device {
    NotMounted,
    /// May be mounted.
    Uncertain,
    Mounted,
}

/// Whether the attach/detach controller owns the attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Attachable {
    Yes,
    No,
    Uncertain,
}

/// A pod's mount of a volume; no entry means not mounted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct PodMount {
    /// What was mounted: pods may have PersistentVolumes of different names with one handle, which are one volume.
    spec: Arc<VolumeSpec>,
    /// Mounted for certain, else maybe.
    certain: bool,
    /// A driver wants to publish again.
    remount: bool,
    /// Found at the start: a final error does not prove that it is not mounted.
    reconstructed: bool,
}

/// A volume in the actual state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Volume {
    spec: Arc<VolumeSpec>,
    device: Device,
    attachable: Attachable,
    /// Bytes of the file system or device as far as known.
    size: u64,
    /// An expansion met FAILED_PRECONDITION: not tried again on this node until the volume is mounted anew.
    expand_in_use: bool,
    reconstructed: bool,
    pods: BTreeMap<PodUid, PodMount>,
}

/// A running operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Op {
    NodeStatus,
    Verify(Arc<VolumeSpec>),
    Mount(Box<mount::Mount>),
    Unmount(Box<unmount::Unmount>),
    UnmountDevice(Box<unmount::UnmountDevice>),
    Expand(Box<expand::Expand>),
}

/// How an operation goes on.
#[allow(clippy::large_enum_variant)] // lives for one call
enum Next {
    Do(Op, Action),
    End(End),
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Succeeded,
    /// Retried after the backoff.
    Failed,
    /// Retried at the next look: it never became an operation upstream.
    Again,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeManager {
    config: Config,
    desired: BTreeMap<PodUid, Arc<PodWant>>,
    actual: BTreeMap<VolumeName, Volume>,
    pending: Pending,
    running: BTreeMap<Key, Op>,
    booted: bool,
    sources_ready: bool,
    /// Reconstructed volumes whose attachability is not known yet (`volumesNeedUpdateFromNodeStatus`).
    unsettled: bool,
    attached: BTreeSet<VolumeName>,
    /// `volumesInUse` as it was last written durably.
    reported: BTreeSet<VolumeName>,
    /// The write of it that is under way, and may be durable at any moment.
    reporting: Option<BTreeSet<VolumeName>>,
    /// Whether anything was reported since the start.
    ever_reported: bool,
    ticking: bool,
    /// What ended with [`End::Again`]: not before the next tick.
    held: BTreeSet<Key>,
    look_again: bool,
}

impl VolumeManager {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            desired: BTreeMap::new(),
            actual: BTreeMap::new(),
            pending: Pending::default(),
            running: BTreeMap::new(),
            booted: false,
            sources_ready: false,
            unsettled: false,
            attached: BTreeSet::new(),
            reported: BTreeSet::new(),
            reporting: None,
            ever_reported: false,
            ticking: false,
            held: BTreeSet::new(),
            look_again: false,
        }
    }

    /// The machine's one entry.
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted(found) => self.booted(found)?,
            Input::Want(want) => self.want(want),
            Input::Unwant(pod) => {
                self.desired.remove(pod);
            }
            Input::SourcesReady => self.sources_ready = true,
            Input::NodeAttached(attached) => self.attached.clone_from(attached),
            Input::Reported(reported) => {
                self.reported.clone_from(reported);
                self.reporting = None;
                self.ever_reported = true;
            }
            Input::Done { op, result } => self.done(op, result.clone(), out)?,
            Input::Fired(Timer::Tick) => {
                self.ticking = false;
                self.held.clear();
            }
            Input::Fired(Timer::Backoff(key)) => self.pending.backoff_over(key),
        }
        if self.booted {
            self.reconcile(out);
            self.report(out);
        }
        Ok(())
    }

    fn want(&mut self, want: &PodWant) {
        for wanted in want.volumes.iter().filter(|volume| volume.spec.republish) {
            if let Some(mount) = self.actual.get_mut(&wanted.spec.name).and_then(|volume| volume.pods.get_mut(&want.uid)) {
                mount.remount = mount.certain;
            }
        }
        self.desired.insert(want.uid.clone(), Arc::new(want.clone()));
    }

    fn done(&mut self, key: &Key, result: Result<Answer, Failure>, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let Some(op) = self.running.remove(key) else {
            return Err(Reject::NoSuchOperation { volume: key.volume.to_string(), pod: key.pod.to_string() });
        };
        let next = match op {
            Op::NodeStatus => self.node_status(result),
            Op::Verify(spec) => self.verify(&spec, result),
            Op::Mount(op) => self.mount_step(*op, result, out),
            Op::Unmount(op) => self.unmount_step(*op, result),
            Op::UnmountDevice(op) => self.unmount_device_step(*op, result),
            Op::Expand(op) => self.expand_step(*op, result, out),
        };
        self.follow(key, next, out);
        Ok(())
    }

    /// Starts an operation if the table permits it.
    fn start(&mut self, key: Key, name: OpName, begin: impl FnOnce(&mut Self, &mut Vec<Effect>) -> Next, out: &mut Vec<Effect>) {
        if self.held.contains(&key) {
            return;
        }
        match self.pending.run(&key, name) {
            Ok(stale) => {
                out.extend(stale.map(|key| Effect::Disarm(Timer::Backoff(key))));
                let next = begin(self, out);
                self.look_again |= matches!(next, Next::End(End::Succeeded));
                self.follow(&key, next, out);
            }
            // The end of the running operation, or of the backoff, is a new look.
            Err(crate::pending::Refused::AlreadyExists | crate::pending::Refused::Backoff) => {}
        }
    }

    fn follow(&mut self, key: &Key, next: Next, out: &mut Vec<Effect>) {
        match next {
            Next::Do(op, action) => {
                self.running.insert(key.clone(), op);
                out.push(Effect::Do { op: key.clone(), action });
            }
            Next::End(End::Succeeded) => self.pending.succeeded(key),
            Next::End(End::Failed) => {
                if let Some(wait) = self.pending.failed(key) {
                    out.push(Effect::Arm(Timer::Backoff(key.clone()), wait));
                }
            }
            Next::End(End::Again) => {
                self.pending.succeeded(key);
                self.held.insert(key.clone());
                self.tick(out);
            }
        }
    }

    fn tick(&mut self, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.ticking, true) {
            out.push(Effect::Arm(Timer::Tick, TICK));
        }
    }

    /// The first of the handshake's two flags (§2.5): `volumesInUse` of the node. Not before the state found at the start is
    /// settled, so that the API keeps the old value until then.
    fn report(&mut self, out: &mut Vec<Effect>) {
        if self.reporting.is_some() || self.unsettled || !self.sources_ready {
            return;
        }
        let in_use = self.volumes_in_use();
        if in_use != self.reported || !self.ever_reported {
            self.reporting = Some(in_use.clone());
            out.push(Effect::ReportInUse(in_use));
        }
    }

    /// `volumesInUse` as the API must have it; none: nothing was written yet since the start, or a write of it is under way.
    pub fn reported(&self) -> Option<&BTreeSet<VolumeName>> {
        (self.ever_reported && self.reporting.is_none()).then_some(&self.reported)
    }

    /// The attachable volumes, desired or actual. Also those whose attachment is being read: what that read says counts only if the
    /// flag stood all the while (§2.5), and another pod may want the volume before it ends.
    pub fn volumes_in_use(&self) -> BTreeSet<VolumeName> {
        let desired = self.desired.values().flat_map(|want| &want.volumes).filter(|volume| volume.spec.attachable);
        let actual = self.actual.iter().filter(|(_, volume)| volume.attachable == Attachable::Yes);
        let read = self.running.values().filter_map(|op| match op {
            Op::Verify(spec) => Some(spec.name.clone()),
            Op::NodeStatus | Op::Mount(_) | Op::Unmount(_) | Op::UnmountDevice(_) | Op::Expand(_) => None,
        });
        desired.map(|volume| volume.spec.name.clone()).chain(actual.map(|(name, _)| name.clone())).chain(read).collect()
    }

    /// The pod's volumes (their names in the pod) that are not mounted for certain.
    pub fn unmounted(&self, pod: &str) -> Vec<String> {
        let Some(want) = self.desired.get(pod) else { return Vec::new() };
        let mounted = |volume: &PodVolume| {
            self.actual
                .get(&volume.spec.name)
                .is_some_and(|actual| actual.pods.get(pod).is_some_and(|mount| mount.certain) && actual.device == Device::Mounted)
        };
        want.volumes.iter().filter(|volume| !mounted(volume)).map(|volume| volume.name.clone()).collect()
    }

    /// The pod's volumes that wait for their attachment.
    pub fn unattached(&self, pod: &str) -> Vec<String> {
        self.waiting(pod).map(|volume| volume.name.clone()).collect()
    }

    /// The same, with what they are.
    pub fn waiting<'a>(&'a self, pod: &str) -> impl Iterator<Item = &'a PodVolume> + use<'a> {
        let volumes = self.desired.get(pod).map(|want| want.volumes.as_slice()).unwrap_or_default();
        volumes.iter().filter(|volume| volume.spec.attachable && !self.actual.contains_key(&volume.spec.name))
    }

    /// Whether the pod's volumes shall be mounted.
    pub fn desires(&self, pod: &str) -> bool {
        self.desired.contains_key(pod)
    }

    /// Whether any volume may still be mounted for the pod.
    pub fn possibly_mounted(&self, pod: &str) -> bool {
        self.actual.values().any(|volume| volume.pods.contains_key(pod))
    }

    /// The state of a volume's device mount, and the pods that may have it mounted. For invariants.
    pub fn mounts(&self) -> impl Iterator<Item = (&VolumeName, Device, Vec<&PodUid>)> {
        self.actual.iter().map(|(name, volume)| (name, volume.device, volume.pods.keys().collect()))
    }

    /// Whether nothing runs, waits or differs.
    pub fn settled(&self) -> bool {
        self.running.is_empty()
            && self.pending.is_idle()
            && self.reporting.is_none()
            && !self.unsettled
            && self.desired.keys().all(|pod| self.unmounted(pod).is_empty())
            && self.actual.values().all(|volume| volume.pods.keys().all(|pod| self.desired.contains_key(pod)))
            && self.actual.keys().all(|name| self.is_desired(name))
    }

    /// Whether the API has the volume in `volumesInUse`, and no write under way takes it out.
    fn is_reported(&self, name: &VolumeName) -> bool {
        let ignored = bugs::on(Bug::ReportUnderWayIgnored);
        self.reported.contains(name) && self.reporting.as_ref().is_none_or(|underway| ignored || underway.contains(name))
    }

    fn is_desired(&self, name: &VolumeName) -> bool {
        self.desired.values().any(|want| want.volumes.iter().any(|volume| volume.spec.name == *name))
    }

    fn wants(&self, pod: &str, name: &VolumeName) -> bool {
        self.desired.get(pod).is_some_and(|want| want.volumes.iter().any(|volume| volume.spec.name == *name))
    }
}
