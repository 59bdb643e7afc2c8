//! What happens in the virtual world, each at its time, and whom it reaches.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model_aws::{ec2, efs, faults};
use model_common::csi;
use model_kube::machine as kube;
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::write::{ApiError, Write};
use model_node::driver::cloud::{CloudCall, CloudError, CloudReply};
use model_node::driver::{self, CallId};
use model_node::pod::{PodEffect, PodTimer};
use model_node::{kubelet as node, pending, volume_manager};

use super::World;
use super::actors::Caller;
use super::clock::Part;
use super::trouble::{self, Actor};
use crate::language::{ApiOutcome, Fault, Trouble};

/// Who gets watch events: a controller or a node, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watcher {
    Controller(usize),
    Node(usize),
}

/// The built-in drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Which {
    Ebs,
    Efs,
}

/// The name of a timer of any machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    Ec2(ec2::Timer),
    Efs(efs::Timer),
    Controller(usize, kube::Timer),
    Driver(Which, driver::Timer),
    /// A sidecar's patience with a call.
    Deadline(CallId),
    /// A kubelet's patience with a call.
    Rpc(u64),
    /// A driver's next way to a kubelet.
    Registration(usize, Which),
    /// A kubelet's next look for directories that nobody needs.
    Housekeeping(usize),
    Fault(faults::Timer),
    Volume(usize, volume_manager::Timer),
    Pod(usize, volume_manager::PodUid, PodTimer),
}

/// Something that happens at its time.
#[derive(Debug)]
pub(super) enum Event {
    Fired(Timer),
    /// A change reaches a watcher.
    Watch(Watcher, Arc<Change>),
    /// A controller's request reaches the store.
    Write {
        from: Caller,
        call: u64,
        write: Box<Write>,
    },
    Get {
        from: Caller,
        call: u64,
        key: Key,
    },
    List {
        from: Caller,
        call: u64,
        kind: Kind,
        namespace: String,
    },
    Listed {
        to: Caller,
        call: u64,
        objects: Vec<Object>,
    },
    /// The answer reaches the controller.
    Written {
        to: Caller,
        call: u64,
        result: Box<Result<Object, ApiError>>,
    },
    /// A write whose answer nobody waits for: an Event, a heartbeat.
    Tell(Box<Write>),
    /// A sidecar's call reaches its driver.
    Call {
        which: Which,
        id: CallId,
        request: Box<csi::ControllerCall>,
    },
    /// The driver's answer reaches the sidecar.
    Returned {
        to: Caller,
        call: u64,
        result: Box<Result<csi::ControllerReply, csi::Error>>,
    },
    /// A driver's request reaches AWS.
    Cloud {
        which: Which,
        id: CallId,
        call: Box<CloudCall>,
        /// What of the table of faults it has yet to meet; none: the table was not asked.
        met: Option<Box<faults::Verdict>>,
    },
    /// AWS's answer reaches the driver.
    Answer {
        which: Which,
        id: CallId,
        result: Box<Result<CloudReply, CloudError>>,
    },
    /// A work on a file or device ends.
    Device(Box<ec2::Work>),
    /// A work on a file system's tree ends.
    Tree(efs::Work),
    /// Something reaches a kubelet.
    Kubelet(usize, Box<node::Input>),
    /// What a pod wants done ends.
    Pod(usize, volume_manager::PodUid, Box<PodEffect>),
    /// An action of a volume manager ends.
    Action(usize, pending::Key, Box<volume_manager::Action>),
    /// `volumesInUse` reaches the store.
    Report(usize, BTreeSet<volume_manager::VolumeName>),
    /// A kubelet renews its lease.
    Beat(usize),
    /// A kubelet tries to register, and how long it waits should it fail.
    Register(usize, Duration),
    /// A kubelet looks at its Node.
    Look(usize),
    /// A Node's status reaches the store.
    Post(usize),
    /// A kubelet asks a driver who it is, and how long it waits should it fail.
    RegisterDriver(usize, Which, Duration),
    /// A kubelet removes directories of pods that are gone.
    Housekeeping(usize),
    /// The tunnels of a node's EFS mounts are there again.
    IoGoesOn(usize),
    /// The driver's answer.
    Install(usize, Which, Duration),
    /// A driver's node service ends its work for a call, or a fault answers in its place.
    Worked {
        rpc: u64,
        refused: Option<Box<csi::Error>>,
    },
    /// A fault answers a sidecar's call in the driver's place.
    Refused(CallId, csi::Error),
    /// Trouble comes, or ends, by itself.
    Cause(Box<Trouble>),
    Resume(Actor),
    EndRule(u64),
    Release(usize, String),
    /// What met a fault is no longer late.
    InTime,
    /// A container's loop comes round.
    Line {
        node: usize,
        pod: volume_manager::PodUid,
        container: String,
        attempt: u32,
    },
}

impl Event {
    /// The process that it reaches.
    pub(super) fn is_for(&self) -> Option<Actor> {
        Some(match self {
            Self::Fired(Timer::Controller(number, _)) => Actor::Controller(*number),
            Self::Watch(Watcher::Controller(number), _) => Actor::Controller(*number),
            Self::Written { to, .. } | Self::Listed { to, .. } | Self::Returned { to, .. } => Actor::Controller(to.number),
            Self::Fired(Timer::Driver(which, _)) | Self::Call { which, .. } | Self::Answer { which, .. } => Actor::Driver(*which),
            Self::Fired(Timer::Volume(number, _) | Timer::Pod(number, ..)) => Actor::Kubelet(*number),
            Self::Watch(Watcher::Node(number), _)
            | Self::Kubelet(number, _)
            | Self::Pod(number, ..)
            | Self::Action(number, ..)
            | Self::Beat(number)
            | Self::Register(number, _)
            | Self::Look(number)
            | Self::Housekeeping(number)
            | Self::Post(number)
            | Self::RegisterDriver(number, ..)
            | Self::Install(number, ..)
            | Self::Report(number, _) => Actor::Kubelet(*number),
            _ => return None,
        })
    }
}

impl World {
    /// Something's time has come.
    pub(super) fn happen(&mut self, event: Event) {
        if !self.trouble.paused.is_empty()
            && let Some(held) = event.is_for().and_then(|actor| self.trouble.paused.get_mut(&actor))
        {
            return held.push(event);
        }
        match event {
            Event::Fired(timer) => {
                self.clock.fired(&timer);
                self.note("fired").add(&timer);
                self.fired(timer);
            }
            Event::Watch(watcher, change) => self.watched(watcher, &change),
            Event::Write { from, call, write } => {
                let result = match self.trouble.meet_write(from.number, &write) {
                    None => self.commit(&write),
                    Some(outcome) => {
                        self.faults_changed();
                        if outcome == ApiOutcome::AckLost {
                            // Whether it was applied is what its author must find out.
                            let _ = self.commit(&write);
                        }
                        Err(trouble::api_error(outcome, &write))
                    }
                };
                self.soon(Part::Write, Event::Written { to: from, call, result: Box::new(result) });
            }
            Event::Get { from, call, key } => {
                let result = self.store.object(&key).cloned().ok_or_else(|| ApiError::not_found(&key.kind, &key.name));
                self.soon(Part::Write, Event::Written { to: from, call, result: Box::new(result) });
            }
            Event::List { from, call, kind, namespace } => {
                let objects = self.store.range(&kind, &namespace, "").map(|(_, object)| object.clone()).collect();
                self.soon(Part::Write, Event::Listed { to: from, call, objects });
            }
            Event::Listed { to, call, objects } if self.lives(to) => {
                self.controller(to.number, &kube::Input::Listed { call, result: Ok(objects) });
            }
            Event::Written { to, call, result } if self.lives(to) => {
                if let Err(error) = &*result {
                    self.trace_refusal(to.number, error);
                }
                self.controller(to.number, &kube::Input::Written { call, result: *result });
            }
            Event::Returned { to, call, result } if self.lives(to) => {
                self.controller(to.number, &kube::Input::Csi { call, result: *result });
            }
            // Who asked is no more.
            Event::Written { .. } | Event::Listed { .. } | Event::Returned { .. } => {}
            Event::Tell(write) => drop(self.commit(&write)),
            Event::Call { which, id, request } => self.driver(which, &driver::Input::Call { id, request: *request }),
            Event::Cloud { which, id, call, met } => self.cloud_arrived(which, id, call, met),
            Event::Answer { which, id, result } => self.driver(which, &driver::Input::Cloud { id, result: *result }),
            Event::Device(work) => self.device_done(*work),
            Event::Tree(work) => self.tree_done(work),
            Event::Kubelet(node, input) => self.kubelet(node, &input),
            Event::Pod(node, pod, effect) => self.pod_done(node, &pod, *effect),
            Event::Action(node, op, action) => self.action_done(node, op, *action),
            Event::Report(node, in_use) => self.report_in_use(node, in_use),
            Event::Beat(node) => self.beat(node),
            Event::Register(node, wait) => self.register(node, Some(wait)),
            Event::Look(node) => self.look_at_node(node),
            Event::Housekeeping(node) => self.remove_orphans(node),
            Event::IoGoesOn(node) => self.tunnels_start(node),
            Event::Post(node) => self.post_status(node),
            Event::RegisterDriver(node, which, wait) => self.register_driver(node, which, Some(wait)),
            Event::Install(node, which, wait) => self.install_driver(node, which, wait),
            Event::Worked { rpc, refused } => self.worked(rpc, refused.map(|error| *error)),
            Event::Refused(id, error) => self.refuse_call(id, error),
            Event::Cause(trouble) => drop(self.cause(&Fault::Cluster(*trouble))),
            Event::Resume(actor) => self.resume(actor),
            Event::EndRule(number) => self.end_rule(number),
            Event::Release(node, volume) => self.release(node, volume),
            Event::InTime => self.faults_changed(),
            Event::Line { node, pod, container, attempt } => self.line(node, &pod, &container, attempt),
        }
    }

    fn fired(&mut self, timer: Timer) {
        match timer {
            Timer::Ec2(timer) => drop(self.aws(model_aws::Input::Ec2(ec2::Input::Fired(timer)))),
            Timer::Efs(timer) => drop(self.aws(model_aws::Input::Efs(efs::Input::Fired(timer)))),
            Timer::Controller(number, timer) => self.controller(number, &kube::Input::Fired(timer)),
            Timer::Driver(which, timer) => self.driver(which, &driver::Input::Fired(timer)),
            Timer::Deadline(id) => self.call_expired(id),
            Timer::Rpc(id) => self.rpc_expired(id),
            // Its event says what comes.
            Timer::Registration(..) | Timer::Housekeeping(_) => {}
            Timer::Fault(timer) => drop(self.aws(model_aws::Input::Faults(model_aws::faults::Input::Fired(timer)))),
            Timer::Volume(number, timer) => self.kubelet(number, &node::Input::Volume(volume_manager::Input::Fired(timer))),
            Timer::Pod(number, pod, timer) => self.kubelet(number, &node::Input::PodTimer { pod, timer }),
        }
    }
}
