//! What the built-in CSI drivers decide: the controller services of the EBS driver ([`ebs`]) and of the EFS driver ([`efs`]) as machines.
//!
//! ```text
//!   Call{id, request} ──▶ validate ──▶ Cloud{id, call} ──▶ Cloud{id, result} ──▶ … ──▶ Reply{id, result}
//!                                          ▲        │
//!                                          └─ Fired ◀─ Arm (poll again)
//! ```
//!
//! One call has at most one effect in flight: a question to the cloud, or a timer. A call whose caller went away is dropped by
//! [`Input::Cancelled`]; what the cloud still answers for it is ignored, as in the real drivers, whose requests are cancelled.
//! The drivers keep no state of record: after a restart everything is asked of the cloud again.
//!
//! The decisions, texts and status codes are those of aws-ebs-csi-driver v1.64 (`pkg/driver/controller.go`, `pkg/cloud/cloud.go`) and of
//! aws-efs-csi-driver v3.4 (`pkg/driver/controller.go`); ebs.md §1, efs.md §1 and §4.

pub mod cloud;
pub mod ebs;
pub mod efs;
mod go;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use model_common::csi::{ControllerCall, ControllerReply, Error};
use serde::{Deserialize, Serialize};

use cloud::{CloudCall, CloudError, CloudReply};

/// Names one call; the shell never uses a number twice.
pub type CallId = u64;

/// What happens to a driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A call arrived.
    Call { id: CallId, request: ControllerCall },
    /// The cloud answered what call `id` asked.
    Cloud { id: CallId, result: Result<CloudReply, CloudError> },
    /// A timer that was armed has run out.
    Fired(Timer),
    /// The caller of `id` went away: its deadline passed, or its connection was lost.
    Cancelled { id: CallId },
}

/// What a driver asks of its shell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Ask the cloud; answered by [`Input::Cloud`].
    Cloud { id: CallId, call: CloudCall },
    /// The answer to call `id`, which is over.
    Reply { id: CallId, result: Result<ControllerReply, Error> },
    /// Send [`Input::Fired`] after this time.
    Arm(Timer, Duration),
    /// That timer is of no more interest.
    Disarm(Timer),
}

/// The timer of a call: when it polls again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timer(pub CallId);

/// Why an input changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The shell used a number twice.
    #[error("call {0} is already being worked on")]
    SameCall(CallId),
    /// The call is over or was cancelled: a late answer.
    #[error("call {0} is not being worked on")]
    NoSuchCall(CallId),
    /// The call waits for something else.
    #[error("call {0} does not wait for that")]
    NotAwaited(CallId),
}

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Awaits {
    Cloud,
    Timer,
    /// Another call, which will wake it.
    Turn,
}

/// What happens to one call.
#[derive(Debug, Clone, Copy)]
enum Event<'a> {
    Start,
    Answer(&'a Result<CloudReply, CloudError>),
    /// The timer ran out, or the turn came.
    Go,
}

/// What a call does next.
#[derive(Debug)]
enum Next {
    Ask(CloudCall),
    Wait(Duration),
    /// Wait until [`Calls::wake`].
    Queue,
    Done(Result<ControllerReply, Error>),
}

impl Next {
    fn fail(error: Error) -> Self {
        Self::Done(Err(error))
    }
}

/// The calls being worked on. `Op` is one driver's set of operations.
#[derive(Debug, Clone)]
struct Calls<Op> {
    active: BTreeMap<CallId, (Op, Awaits)>,
}

impl<Op> Default for Calls<Op> {
    fn default() -> Self {
        Self { active: BTreeMap::new() }
    }
}

impl<Op> Calls<Op> {
    /// Takes the operation that an input is for, if it waits for that input.
    fn take(&mut self, id: CallId, awaits: Awaits) -> Result<Op, Reject> {
        match self.active.remove(&id) {
            Some((op, waiting)) if waiting == awaits => Ok(op),
            Some(other) => {
                self.active.insert(id, other);
                Err(Reject::NotAwaited(id))
            }
            None => Err(Reject::NoSuchCall(id)),
        }
    }

    /// Puts an operation back with what it waits for, or ends it. True: it ended.
    fn settle(&mut self, id: CallId, op: Op, next: Next, out: &mut Vec<Effect>) -> bool {
        match next {
            Next::Ask(call) => {
                out.push(Effect::Cloud { id, call });
                self.active.insert(id, (op, Awaits::Cloud));
                false
            }
            Next::Wait(time) => {
                out.push(Effect::Arm(Timer(id), time));
                self.active.insert(id, (op, Awaits::Timer));
                false
            }
            Next::Queue => {
                self.active.insert(id, (op, Awaits::Turn));
                false
            }
            Next::Done(result) => {
                out.push(Effect::Reply { id, result });
                true
            }
        }
    }
}
