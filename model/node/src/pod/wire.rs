//! What a pod says to its shell: timers, effects, and why a start failed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ProbeKind;

/// A pod's timers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PodTimer {
    /// The next try after a failed sync, or the next look at a running pod.
    Sync,
    /// `WaitForAttachAndMount` gives up: 2 m 3 s.
    VolumesDue,
    /// The end of a container's crash-loop wait.
    Restart(String),
    /// A container ran long enough to forget its crashes.
    Forget(String),
    /// The grace period is over.
    Kill,
    /// `activeDeadlineSeconds`.
    Deadline,
    /// A container's probe is due.
    Probe(String, ProbeKind),
    /// The grace of a container that its probe ended is over.
    Stop(String),
}

/// What a pod wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum PodEffect {
    /// Read the claims and volumes behind the pod's volumes, live.
    Resolve,
    /// Look whether one of the pod's volumes cannot be attached because its node takes no more of them.
    AttachLimit,
    /// Make the pod's directories and the volumes that need no driver.
    SetUpLocal,
    Start {
        container: String,
        attempt: u32,
    },
    /// SIGTERM, or with `kill` SIGKILL.
    Signal {
        container: String,
        kill: bool,
    },
    /// Look whether a container is well, with its probe of this kind.
    Probe {
        container: String,
        kind: ProbeKind,
        attempt: u32,
    },
    /// Remove the pod's directory.
    TearDownLocal,
    /// The status shown has changed.
    Status,
    /// Write the final status, then delete the object with grace 0 and its uid as precondition.
    Delete,
    Record {
        container: Option<String>,
        warning: bool,
        reason: &'static str,
        message: String,
    },
    Arm(PodTimer, Duration),
    Disarm(PodTimer),
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StartError {
    /// Its configuration cannot be carried out: `CreateContainerConfigError`.
    Config(String),
    /// Its command could not be executed: `StartError`, exit code 128.
    Exec(String),
}
