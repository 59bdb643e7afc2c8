//! EC2: volumes, their attachments and modifications, snapshots, instances, network, tags and client tokens.
//!
//! ```text
//!  command ─▶ plan_*  (&self: reject, or what to do; a dry run ends here)
//!          └▶ apply   (want changes, the reply shows the state before anything has happened yet)
//!          └▶ drive   (level-triggered: compares want and have, starts at most one work a resource)
//!  Done, Fired, Connected, Booted ─▶ have changes ─▶ drive
//! ```
//! All device and file work on one volume is one at a time, whichever instance it concerns: a loop device is shared by the
//! instances of a multi-attach volume, and the last to let go takes it down.

mod attachment;
mod boot;
mod command;
mod drive;
mod fast_restore;
mod fields;
mod filter;
mod hold;
mod ids;
mod index;
mod instance;
mod instance_types;
mod lock;
mod memo;
mod metadata;
mod modification;
pub mod network;
mod query;
mod records;
mod register;
mod reject;
mod security_group;
mod snapshot;
mod spec;
mod tags;
#[cfg(test)]
mod tests;
mod token;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use attachment::{Attachment, AttachmentStatus, Have};
pub use boot::{Observed, ObservedDevice};
pub use command::{Command, CopyVolumes, CreateVolume, ModifyVolume, RuleChange};
pub use fast_restore::{FastRestore, FastRestoreState, FastRestores};
pub use filter::Filter;
pub use hold::{Held, Hold, HoldKind};
pub use ids::{InstanceId, Kind, SnapshotKey, VolumeId, VolumeKey};
pub use instance::{Agent, Instance};
pub use instance_types::InstanceType;
pub use lock::{LockMode, LockReject, LockSnapshot, SnapshotLock};
pub use memo::Memo;
pub use metadata::{Metadata, MetadataChange, MetadataOptions};
pub use modification::{Modification, ModificationState};
pub use query::{Page, Paging};
pub use register::Registration;
pub use reject::{Reject, reject_to_error};
pub use snapshot::{Snapshot, SnapshotStatus};
pub use spec::{Spec, VolumeType};
pub use tags::{TagItem, Tags};
pub use volume::{File, Source, Volume, VolumeStatus};

use crate::world::World;
use crate::{At, Profile, kms};

pub use records::TABLES;

/// All of EC2. What is in `index`, `storage` and `dirty` follows from the rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    seed: u64,
    profile: Profile,
    /// Off: attachments and files are records only.
    devices: bool,
    network: network::Network,
    /// The next key; keys are never used twice.
    next: u64,
    /// Boxed, so that the table itself stays small enough for the caches: a call with 50 ids waits for little but its 50 rows.
    volumes: BTreeMap<VolumeKey, Box<Volume>>,
    snapshots: BTreeMap<SnapshotKey, Snapshot>,
    instances: BTreeMap<InstanceId, Instance>,
    /// Volume id and device name of devices that an instance may still have: it was away when they were detached by force.
    leftovers: BTreeMap<InstanceId, BTreeMap<String, String>>,
    /// Client tokens, as `<action>/<token>`.
    tokens: BTreeMap<String, token::Token>,
    volume_index: index::Index<VolumeKey>,
    snapshot_index: index::Index<SnapshotKey>,
    dirty: BTreeSet<records::Changed>,
}

/// What the machine is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    Command(Command),
    /// A work ended.
    Done(Work, Result<(), Failure>),
    Fired(Timer),
    /// An instance's agent connected and said what it has; from now on device works can reach it. Comes after the
    /// `Done(.., Lost)` of the works that its former connection took with it.
    Connected {
        instance: InstanceId,
        /// Why it can have no devices.
        no_devices: Option<String>,
        devices: Vec<ObservedDevice>,
    },
    /// The agent's connection is gone.
    Disconnected {
        instance: InstanceId,
    },
    /// The instance was started, as its agent says; told again with each connection of the same boot.
    Started {
        instance: InstanceId,
        /// Another one with every boot.
        boot: String,
    },
    /// The process started with this state; this is what lies on disk.
    Booted(Observed),
}

/// What the shell shall do, in this order, after the state is saved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Reply(Reply),
    Arm(Timer, Duration),
    Disarm(Timer),
    /// Act outside, then say [`Input::Done`] with the same work.
    Run(Work),
}

/// What a command gives back: the resource as it was when the command was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Done,
    Volume(Box<Volume>),
    Volumes(Vec<Volume>),
    Attachment {
        volume: VolumeKey,
        instance: InstanceId,
        attachment: Attachment,
    },
    Modification {
        volume: VolumeKey,
        modification: Modification,
    },
    Snapshot(Box<Snapshot>),
    /// Each pair of snapshot and zone ends in one of the lists.
    FastRestores {
        successful: Vec<(SnapshotKey, String, FastRestore)>,
        unsuccessful: Vec<(String, String, Reject)>,
    },
    Lock {
        snapshot: SnapshotKey,
        lock: SnapshotLock,
    },
    MetadataOptions {
        instance: InstanceId,
        options: MetadataOptions,
    },
    SecurityGroup {
        id: String,
    },
    Rules {
        group: String,
        rules: Vec<network::Rule>,
    },
}

/// Something that is awaited. Armed again under the same name, a timer starts anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Timer {
    /// The volume's creation or deletion has taken its time.
    Settle(VolumeKey),
    /// An attachment or detachment has taken its time.
    Attachment(VolumeKey, InstanceId),
    /// A fault has held an attachment for its time.
    Hold(VolumeKey, InstanceId),
    SnapshotHold(SnapshotKey),
    /// Try failed works of the volume again.
    Retry(VolumeKey),
    /// `modifying` or `optimizing` has taken its time.
    Modification(VolumeKey),
    /// A modification no longer counts against the limit.
    ModificationForgotten(VolumeKey, u64),
    /// The next step of a snapshot's progress.
    Snapshot(SnapshotKey),
    SnapshotRetry(SnapshotKey),
    /// A state of a snapshot's fast restore in a zone has taken its time.
    FastRestore(SnapshotKey, String),
    /// The cooling-off period of a snapshot's lock is over.
    LockCoolOff(SnapshotKey),
    /// A snapshot's lock has expired.
    LockEnd(SnapshotKey),
    /// The volume may be snapshotted again.
    SnapshotRate(VolumeKey),
    /// A change of an instance's metadata options has taken its time.
    Metadata(InstanceId),
    /// Try again to remove the stray devices of an instance.
    Strays(InstanceId),
    /// A client token is forgotten.
    Token(String),
}

/// A work outside the state. Files are made beside their place and renamed, so that what exists is whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Make the volume's file of `bytes`, with the blocks of `source`. `freeze`: instances on which the source is attached.
    MakeFile {
        volume: VolumeKey,
        bytes: u64,
        source: Source,
        freeze: Vec<InstanceId>,
    },
    GrowFile {
        volume: VolumeKey,
        bytes: u64,
    },
    RemoveFile {
        volume: VolumeKey,
    },
    /// Raise the device, or find it raised.
    Attach {
        volume: VolumeKey,
        instance: InstanceId,
        device: String,
        bytes: u64,
    },
    /// Take the names away; `last`: the loop device too.
    Detach {
        volume: VolumeKey,
        instance: InstanceId,
        device: String,
        last: bool,
        force: bool,
    },
    Resize {
        volume: VolumeKey,
        instance: InstanceId,
        bytes: u64,
    },
    /// Copy the first `bytes` of the volume's file. `freeze`: instances on which it is attached.
    CopySnapshot {
        snapshot: SnapshotKey,
        volume: VolumeKey,
        bytes: u64,
        freeze: Vec<InstanceId>,
    },
    RemoveSnapshot {
        snapshot: SnapshotKey,
    },
    /// Take away a device of a volume that does not exist.
    DetachStray {
        instance: InstanceId,
        volume_id: String,
        device: String,
    },
    /// Remove a file that belongs to nothing, by the id in its name.
    RemoveStray {
        id: String,
    },
}

/// Why a work did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// The device is mounted or open.
    Busy { holder: String },
    /// The node can have no devices.
    Unsupported { reason: String },
    /// A system call failed.
    Failed { message: String },
    /// The agent is not there, or went away: whether it happened is not known.
    Lost,
}

/// How long the client tokens of EC2 are remembered (ebs.md §1.3, measured).
pub const TOKEN_MEMORY: Duration = Duration::from_secs(12 * 3600);
/// The window of the modification limit, and the limit (ebs.md §1.12).
pub const MODIFICATION_WINDOW: Duration = Duration::from_secs(24 * 3600);
pub const MODIFICATIONS_A_WINDOW: usize = 4;
/// How long until a failed or busy work is tried again.
pub const RETRY: Duration = Duration::from_secs(1);

/// How long AWS takes (ebs.md §12).
pub(crate) struct Timing {
    pub create: Duration,
    pub delete: Duration,
    pub attach: Duration,
    pub detach: Duration,
    pub modifying: Duration,
    pub optimizing: Duration,
    /// Until changed metadata options are applied.
    pub metadata: Duration,
    /// Each of the four steps of a snapshot's progress.
    pub snapshot_step: Duration,
    /// Least time between two snapshots of a volume; zero: no limit.
    pub snapshot_rate: Duration,
    /// `enabling`, `optimizing` and `disabling` of fast snapshot restores, each.
    pub fast_restore: Duration,
}

impl Timing {
    pub(crate) fn of(profile: Profile) -> Self {
        let ms = Duration::from_millis;
        match profile {
            Profile::Instant => Self {
                create: Duration::ZERO,
                delete: Duration::ZERO,
                attach: Duration::ZERO,
                detach: Duration::ZERO,
                modifying: Duration::ZERO,
                optimizing: Duration::ZERO,
                metadata: Duration::ZERO,
                snapshot_step: Duration::ZERO,
                snapshot_rate: Duration::ZERO,
                fast_restore: Duration::ZERO,
            },
            Profile::Aws => Self {
                create: ms(1_500),
                delete: ms(2_000),
                attach: ms(2_000),
                detach: ms(2_500),
                modifying: ms(5_000),
                optimizing: ms(300_000),
                metadata: ms(3_000),
                snapshot_step: ms(5_000),
                snapshot_rate: ms(15_000),
                fast_restore: ms(20_000),
            },
        }
    }
}

impl State {
    /// EC2 with only the world's own things in it.
    pub fn new(world: &World, profile: Profile) -> Self {
        let network = network::Network::new(world);
        let instances = instance::of_world(world, &network);
        Self {
            seed: world.seed,
            profile,
            devices: world.devices,
            network,
            next: 1,
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            instances,
            leftovers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            volume_index: index::Index::default(),
            snapshot_index: index::Index::default(),
            dirty: BTreeSet::new(),
        }
    }

    /// The seed of all ids.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Zones, the VPC, subnets and security groups.
    pub fn network(&self) -> &network::Network {
        &self.network
    }

    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// In the world's order.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        let mut instances: Vec<&Instance> = self.instances.values().collect();
        instances.sort_by_key(|instance| instance.order);
        instances.into_iter()
    }

    pub fn volume(&self, key: VolumeKey) -> Option<&Volume> {
        self.volumes.get(&key).map(Box::as_ref)
    }

    /// The volume of an id.
    pub fn volume_by_id(&self, id: &str) -> Option<&Volume> {
        self.volume(ids::volume_key(self.seed, "", id).ok()??)
    }

    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().map(Box::as_ref)
    }

    pub fn snapshot(&self, key: SnapshotKey) -> Option<&Snapshot> {
        self.snapshots.get(&key)
    }

    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.values()
    }

    fn timing(&self) -> Timing {
        Timing::of(self.profile)
    }

    fn fresh_key(&mut self) -> u64 {
        let key = self.next;
        self.next += 1;
        self.dirty.insert(records::Changed::Next);
        key
    }

    /// The one entry. Total: the input is applied, ignored or rejected; a rejected one changed nothing.
    pub fn step(&mut self, at: At, keys: &kms::State, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        self.step_held(at, keys, input, Held::default(), out)
    }

    /// A step that meets a fault: what the command begins is held.
    pub(crate) fn step_held(&mut self, at: At, keys: &kms::State, input: &Input, held: Held, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Command(command) => return self.command(at, keys, command, held, out),
            Input::Done(work, result) => self.done(at, work, result, out),
            Input::Fired(timer) => self.fired(at, timer, out),
            Input::Connected { instance, no_devices, devices } => {
                self.connected(at, instance, no_devices.as_deref(), devices, out);
            }
            Input::Disconnected { instance } => self.disconnected(instance),
            Input::Started { instance, boot } => self.started(instance, boot),
            Input::Booted(observed) => self.booted(at, observed, out),
        }
        Ok(())
    }
}
