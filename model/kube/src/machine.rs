//! The shape that all controllers share: what goes in, what comes out, and the two parts each of them is built from,
//! the informer's [`Cache`] and the work [`Queue`] (kubernetes-storage-path.md §0A, §1.1).
//!
//! A controller is level-triggered: every input only updates the cache and marks items; then each marked item is *synced*, which
//! compares what is with what should be and starts at most one effect. Its answer marks the item again. So a lost answer, a
//! conflict or a restart needs no code of its own: the next sync sees what is there.
//!
//! ```text
//!   Changed, Written, Listed, Csi, Fired ──▶ cache, marks ──▶ sync(item) ──▶ Write | Get | List | Csi | Arm | Record
//!                                        ▲                              │ one in flight an item and a target
//!                                        └──────────── answer ──────────┘
//! ```

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use model_common::csi;
use serde::{Deserialize, Serialize};

use crate::events::EventRecord;
use crate::object::{Change, Key, Kind, Object};
use crate::write::{ApiError, Write};

mod cache;
mod queue;
mod stamp;

pub use cache::{Cache, Index};
pub use queue::{Backoff, Done, Queue};

/// What a controller is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// The informers have listed what exists (as `Changed(Added)`); from now on the controller acts.
    Booted,
    /// A watch event. Events of one object come in the order of their versions; kinds may lag one another.
    Changed(Change),
    /// The answer to [`Effect::Write`] and [`Effect::Get`].
    Written { call: u64, result: Result<Object, ApiError> },
    /// The answer to [`Effect::List`].
    Listed { call: u64, result: Result<Vec<Object>, ApiError> },
    /// The answer to [`Effect::Csi`].
    Csi { call: u64, result: Result<csi::ControllerReply, csi::Error> },
    /// A timer that was armed has run out.
    Fired(Timer),
}

/// What a controller wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write to the API; answered by [`Input::Written`]. The shell puts [`stamp`] before it.
    Write {
        call: u64,
        write: Write,
    },
    /// A linearizable read of one object, not from any cache; answered by [`Input::Written`].
    Get {
        call: u64,
        key: Key,
    },
    /// A linearizable read of all objects of a kind in a namespace; answered by [`Input::Listed`].
    List {
        call: u64,
        kind: Kind,
        namespace: String,
    },
    /// A call to the controller service of a driver; answered by [`Input::Csi`].
    Csi {
        call: u64,
        driver: String,
        request: csi::ControllerCall,
    },
    /// Start a timer, or start it anew when it runs.
    Arm(Timer, Duration),
    Disarm(Timer),
    /// Tell the user. Events are not answered, and losing one changes nothing.
    Record(EventRecord),
}

/// The name of a timer: one of its purpose runs for an item at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timer {
    pub purpose: Purpose,
    pub item: Key,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// The item's backoff is over.
    Retry,
    /// The periodic backstop of the whole controller; its item has no name.
    Resync,
    /// An operation takes too long (attach or detach 2 m, volume binding 600 s).
    Deadline,
    /// The wait for an unmount is over (6 m).
    ForceDetach,
    /// A node has said nothing for 50 s.
    NodeSilent,
    /// A pod's toleration of a taint is over.
    Evict,
    /// A pod's node has been gone for 40 s.
    Orphaned,
    /// A pod has been ready for its workload's `minReadySeconds`.
    Available,
    /// A Deployment has made no progress for its `progressDeadlineSeconds`.
    Progress,
    /// A finished Job's `ttlSecondsAfterFinished` is over.
    Expire,
}

/// Why an input was refused; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reject {
    /// An answer to a call that is not in flight: it was answered before, or belongs to an earlier run.
    #[error("no call {call} is in flight")]
    UnknownCall { call: u64 },
}

/// Sets the times that users see and machines do not know: every `lastTransitionTime`, `timeAdded` and error time that a
/// controller left open becomes `at`.
pub fn stamp(write: &mut Write, at: &Time) {
    // In whole seconds, as the API shows and saves it.
    let at = &Time(Timestamp::from_second(at.0.as_second()).unwrap_or(at.0));
    let (Write::Create { object } | Write::Update { object, .. }) = write else { return };
    let fill = |time: &mut Option<Time>| {
        time.get_or_insert_with(|| at.clone());
    };
    match object {
        Object::PersistentVolumeClaim(claim) => {
            let claim = std::sync::Arc::make_mut(claim);
            for condition in claim.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
                fill(&mut condition.last_transition_time);
            }
        }
        Object::PersistentVolume(volume) => {
            let volume = std::sync::Arc::make_mut(volume);
            if let Some(status) = &mut volume.status
                && status.phase.is_some()
            {
                fill(&mut status.last_phase_transition_time);
            }
        }
        Object::VolumeAttachment(attachment) => {
            let attachment = std::sync::Arc::make_mut(attachment);
            if let Some(status) = &mut attachment.status {
                status.attach_error.iter_mut().for_each(|error| fill(&mut error.time));
                status.detach_error.iter_mut().for_each(|error| fill(&mut error.time));
            }
        }
        Object::Node(node) => {
            let node = std::sync::Arc::make_mut(node);
            for taint in node.spec.iter_mut().flat_map(|spec| spec.taints.iter_mut().flatten()) {
                fill(&mut taint.time_added);
            }
            for condition in node.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
                fill(&mut condition.last_transition_time);
            }
        }
        Object::Pod(pod) => {
            let pod = std::sync::Arc::make_mut(pod);
            for condition in pod.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
                fill(&mut condition.last_transition_time);
            }
        }
        Object::Custom { object, .. } => {
            let custom = std::sync::Arc::make_mut(object);
            if let Some(error) = custom.fields.get_mut("status").and_then(|status| status.get_mut("error")?.as_object_mut()) {
                error.entry("time").or_insert_with(|| serde_json::json!(at));
            }
        }
        other => stamp::workload(other, at),
    }
}

#[cfg(test)]
mod tests;
