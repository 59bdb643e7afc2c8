//! What goes in and out of the volume manager.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi;
use serde::{Deserialize, Serialize};

use super::spec::{ClaimRef, PodUid, PodWant, VolData, VolumeName};
use crate::pending::Key;

/// What the volume manager is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Input {
    /// The first input after a start: what the disk shows (§3.8).
    Booted(Vec<Found>),
    /// The pod's volumes shall be mounted. Given again when their specs were read anew.
    Want(PodWant),
    /// The pod's containers are gone (or it never ran here): its volumes shall be unmounted.
    Unwant(PodUid),
    /// All pods of this node were given at least once; from now on what is not wanted is unmounted.
    SourcesReady,
    /// `node.status.volumesAttached` as the watch shows it.
    NodeAttached(BTreeSet<VolumeName>),
    /// `node.status.volumesInUse` was written durably.
    Reported(BTreeSet<VolumeName>),
    /// An action ended.
    Done { op: Key, result: Result<Answer, Failure> },
    /// A timer fired.
    Fired(Timer),
}

/// What the volume manager wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Effect {
    /// Do this and answer with [`Input::Done`] of the same `op`. One action in flight per `op`.
    Do {
        op: Key,
        action: Action,
    },
    /// Write `node.status.volumesInUse`, as often as it takes, and answer with [`Input::Reported`].
    ReportInUse(BTreeSet<VolumeName>),
    /// Record an Event.
    Record(Event),
    Arm(Timer, Duration),
    Disarm(Timer),
}

/// The timers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Timer {
    /// The reconciler's next look: 100 ms.
    Tick,
    /// The end of an operation's backoff.
    Backoff(Key),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Action {
    /// Live GET of the own Node → [`Answer::Attached`].
    ReadNode,
    /// Live GET of a VolumeAttachment → [`Answer::Attachment`].
    ReadAttachment { name: String },
    /// A call to a driver's node service, at most 2 m → [`Answer::Csi`].
    Csi { driver: String, call: csi::NodeCall },
    /// Make `dir` with its parents; then write `data` to `vol_data.json` in the directory given beside it → [`Answer::Done`].
    MakeDir { dir: String, data: Option<(String, VolData)> },
    /// If `mount` is no mount point: remove it, `vol_data.json` in `data_dir`, and `data_dir` → [`Answer::Done`]; if it still is
    /// one: nothing, [`Answer::StillMounted`].
    RemoveMount { mount: String, data_dir: String },
    /// Read `vol_data.json` in a directory → [`Answer::VolData`].
    ReadVolData { dir: String },
    /// Read `vol_data.json` beside the staged file system that is bound at `mount` → [`Answer::VolData`].
    FindVolData { mount: String },
    /// Other mounts of what is mounted at `mount` → [`Answer::Refs`].
    MountRefs { mount: String },
    /// Give a mounted volume to a group (§3.10) → [`Answer::Done`].
    ApplyFsGroup { path: String, gid: u32, on_root_mismatch: bool },
    /// Undo a pod's subPath binds of one volume → [`Answer::Done`].
    CleanSubPaths { pod: PodUid, volume: String },
    /// Block: bind `publish` on `map` and link it from the pod's directory → [`Answer::Done`].
    MapDevice { publish: String, map: String, link: String },
    /// The reverse → [`Answer::Done`].
    UnmapDevice { map: String, link: String },
    /// Block: remove the published file, or the staging and data directories → [`Answer::Done`].
    RemovePaths { paths: Vec<String> },
    /// Write the claim's status (§1.9) → [`Answer::Done`].
    ClaimResize { claim: ClaimRef, phase: ResizePhase },
}

/// A step of an expansion as the claim's status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum ResizePhase {
    InProgress,
    /// `status.capacity`, in bytes.
    Finished(u64),
    /// Condition `NodeResizeError` with this message.
    Failed(String),
}

/// How an action answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    Done,
    StillMounted,
    /// None: the file is missing.
    VolData(Option<VolData>),
    Refs(Vec<String>),
    Csi(csi::NodeReply),
    /// `node.status.volumesAttached`.
    Attached(BTreeSet<VolumeName>),
    /// None: no such VolumeAttachment.
    Attachment(Option<Attachment>),
}

/// The parts of a VolumeAttachment that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    pub attached: bool,
    pub deleting: bool,
    pub attach_error: Option<String>,
    /// `status.attachmentMetadata`, the publish context.
    pub metadata: BTreeMap<String, String>,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The driver answered so, or the call ended so (2 m: DeadlineExceeded; no connection: Unavailable).
    #[error("{0}")]
    Rpc(csi::Error),
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NotRegistered(String),
    /// An API request failed.
    #[error("{0}")]
    Api(String),
    /// A file system operation failed.
    #[error("{0}")]
    Io(String),
}

/// What a failure says about the state behind it (`csi_client.go:714`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It did not happen and will not.
    Final,
    /// Nothing was tried.
    Transient,
    /// It may have happened, or may still.
    Uncertain,
}

impl Failure {
    pub fn class(&self) -> Class {
        use csi::Code::*;
        match self {
            Self::Rpc(error) => match error.code {
                Canceled | DeadlineExceeded | Unavailable | ResourceExhausted | Aborted => Class::Uncertain,
                Unknown | InvalidArgument | NotFound | AlreadyExists | PermissionDenied | FailedPrecondition | OutOfRange
                | Unimplemented | Internal | DataLoss | Unauthenticated => Class::Final,
            },
            Self::NotRegistered(_) | Self::Api(_) => Class::Transient,
            Self::Io(_) => Class::Final,
        }
    }
}

/// A mount found on disk at the start (§3.8).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Found {
    /// None: what is staged, which counts with kubernetes#138454 only.
    pub pod: Option<PodUid>,
    /// The directory's name: the PersistentVolume. Where a file system is staged, the driver and the directory: `driver/sha256`.
    pub pv: String,
    pub block: bool,
    /// None: no readable `vol_data.json`; such a volume cannot be reconstructed.
    pub data: Option<VolData>,
    /// The `vol_data.json` beside the staged file system that is bound at a pod's directory without its own; it counts as `pod: None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<VolData>,
}

impl Found {
    /// What a pod's directory shows.
    pub fn of_pod(pod: impl Into<PodUid>, pv: impl Into<String>, block: bool, data: Option<VolData>) -> Self {
        Self { pod: Some(pod.into()), pv: pv.into(), block, data, bound: None }
    }

    /// What a staging directory shows.
    pub fn staged(pv: impl Into<String>, block: bool, data: VolData) -> Self {
        Self { pod: None, pv: pv.into(), block, data: Some(data), bound: None }
    }
}

/// Whom an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Target {
    Pod(PodUid),
    Claim(ClaimRef),
}

/// An Event to record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Event {
    pub target: Target,
    /// `Warning`, else `Normal`.
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// An input that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reject {
    #[error("no operation on {volume} {pod} is waiting for an answer")]
    NoSuchOperation { volume: String, pod: String },
    #[error("the volume manager has already booted")]
    AlreadyBooted,
}
