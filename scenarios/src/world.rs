//! The virtual world: the machines of `model/*` driven by one queue of events in virtual time.
//!
//! ```text
//!  user ─▶ store ─watch─▶ controllers ─csi─▶ drivers ─cloud─▶ AWS ─device─▶ node devices
//!            ▲   └─watch─▶ kubelets ──csi──▶ plugins ─mount─▶ virtual mounts ─▶ trees of files
//!            └──────writes───┘
//! ```
//! Every arrow takes time, drawn from the seed. No rule of AWS, Kubernetes or a node is written here; what is written here is what a shell
//! does: carry effects out and bring the answers back.

mod account;
mod actors;
mod api;
mod clock;
mod cloud;
mod containers;
mod disk;
mod drivers;
mod exec;
mod files;
pub mod kernel;
mod kubelet;
mod lanes;
mod plugin;
mod programs;
mod rpc;
mod status;
mod story;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use model_aws::{Aws, Profile, ec2, efs};
use model_common::csi;
use model_common::fixes::Fixes;
use model_common::pick::Seeded;
use model_common::trail::Trail;
use model_kube::machine as kube;
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::store::Store;
use model_kube::write::{ApiError, Write};
use model_node::driver::cloud::{CloudCall, CloudError, CloudReply};
use model_node::driver::{self, CallId};
use model_node::pod::{PodEffect, PodTimer};
use model_node::{kubelet as node, pending, volume_manager};
use serde_json::Value;

use crate::engine::{Applied, Engine, EngineError, Output};
use crate::invariants::{Facts, Found, Watch};
use crate::language::{ApiOutcome, Fault, Scenario, Target, Trouble};
use crate::report::{Observer, Report, Silent};
use crate::runner;
use actors::Caller;
use clock::{Clock, Latencies, Part};
pub use story::{Patch, Told};
use trouble::Actor;

/// When virtual time begins: 2026-01-01T00:00:00Z, in seconds since the Unix epoch.
const EPOCH: i64 = 1_767_225_600;

/// Plays a scenario in virtual time.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    run_watched(scenario, seed, &mut Silent)
}

/// Plays a scenario in virtual time while somebody watches.
pub fn run_watched(scenario: &Scenario, seed: u64, observer: &mut dyn Observer) -> Report {
    play(scenario, seed, Vec::new(), observer, false).0
}

/// Plays a scenario in virtual time, and tells what happened.
pub fn run_told(scenario: &Scenario, seed: u64) -> (Report, Vec<Told>) {
    play(scenario, seed, Vec::new(), &mut Silent, true)
}

/// Plays a scenario whose latencies are drawn from bytes, and from the seed when those are used up; `tell`: and tells what happened.
pub fn run_tape(scenario: &Scenario, seed: u64, tape: Vec<u8>, tell: bool) -> (Report, Vec<Told>) {
    play(scenario, seed, tape, &mut Silent, tell)
}

/// The world of a scenario, to be driven by something else than its steps.
pub fn open(scenario: &Scenario, seed: u64) -> Result<impl Engine, String> {
    World::new(scenario, seed, Vec::new(), false)
}

fn play(scenario: &Scenario, seed: u64, tape: Vec<u8>, observer: &mut dyn Observer, tell: bool) -> (Report, Vec<Told>) {
    let wall = std::time::Instant::now();
    let (played, digest, inputs, time, story) = match World::new(scenario, seed, tape, tell) {
        Ok(mut world) => {
            let played = crate::ready(runner::play(scenario, &mut world, observer));
            world.note("end").add(&played.passed);
            (played, world.trail, world.inputs, world.clock.now(), world.story.unwrap_or_default().told)
        }
        Err(error) => (runner::Played::not_begun(error), Trail::default(), 0, Duration::ZERO, Vec::new()),
    };
    // What the player did comes before what it led to at the same time.
    let mut told = played.story;
    told.extend(story);
    told.sort_by_key(|told| told.at);
    let report = Report {
        scenario: scenario.metadata.name.clone(),
        engine: "virtual",
        passed: played.passed,
        interrupted: played.interrupted,
        steps: played.steps,
        violations: played.violations,
        error: played.error,
        left: played.left,
        seed: Some(seed),
        digest: Some(digest.to_string()),
        inputs: Some(inputs),
        virtual_time: Some(time),
        wall: wall.elapsed(),
    };
    (report, if tell { told } else { Vec::new() })
}

/// Who gets watch events: a controller or a node, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Watcher {
    Controller(usize),
    Node(usize),
}

/// The built-in drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Which {
    Ebs,
    Efs,
}

/// The name of a timer of any machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
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
    Fault(model_aws::faults::Timer),
    Volume(usize, volume_manager::Timer),
    Pod(usize, volume_manager::PodUid, PodTimer),
}

/// Something that happens at its time.
#[derive(Debug)]
enum Event {
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
        /// It met its faults already.
        met: bool,
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
    fn is_for(&self) -> Option<Actor> {
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

struct World {
    clock: Clock<Event, Timer>,
    latencies: Latencies,
    /// The hash of all that happened.
    trail: Trail,
    /// How many inputs the machines took: each call of a `step` is one.
    inputs: u64,
    aws: Aws,
    store: Store,
    controllers: Vec<actors::Controller>,
    /// The controllers that watch a kind.
    watchers: BTreeMap<Kind, Vec<usize>>,
    /// The changes proposed upstream that the machines have.
    fixes: Fixes,
    drivers: drivers::Drivers,
    nodes: Vec<kubelet::Node>,
    /// The nodes by their names, and by their instances' ids.
    numbers: BTreeMap<String, usize>,
    /// What lies on volumes and file systems, by id.
    trees: BTreeMap<String, files::Tree>,
    /// What snapshots and clones that are being made will hold: their source when they were asked for.
    cuts: BTreeMap<String, files::Tree>,
    /// Events of one kind reach a watcher in order.
    delivered: BTreeMap<(Watcher, Kind), Duration>,
    /// When the last changes were made, by version.
    changed: VecDeque<(Duration, u64)>,
    /// How many Events were told; their names are made from their nanoseconds, which must differ.
    told: i64,
    trouble: trouble::State,
    rpcs: rpc::Rpcs,
    watch: Watch,
    /// EC2's attachments, as the invariants were last told.
    attachments: BTreeMap<String, BTreeMap<String, &'static str>>,
    /// What happened, for people; none: nobody wants to know.
    story: Option<story::Story>,
}

impl World {
    fn new(scenario: &Scenario, seed: u64, tape: Vec<u8>, tell: bool) -> Result<Self, String> {
        let given = scenario.spec.world.clone().unwrap_or_default();
        let world = account::world(&given, seed)?;
        let profile = if given.instant { Profile::Instant } else { Profile::Aws };
        let source = Seeded::new(seed);
        let nodes: Vec<_> = world.nodes().into_iter().enumerate().map(|(n, info)| kubelet::Node::new(info, given.nodes.get(n))).collect();
        let controllers = actors::all(given.as_of.fixes());
        let mut this = Self {
            clock: Clock::new(),
            latencies: Latencies::new(&source.child("world"), &given.latency, tape),
            trail: Trail::default(),
            inputs: 0,
            aws: Aws::new(&world, profile),
            store: Store::new(source.child("uids").next_u64()),
            watchers: actors::watchers(&controllers),
            controllers,
            fixes: given.as_of.fixes().clone(),
            drivers: drivers::Drivers::new(seed),
            numbers: kubelet::numbers(&nodes),
            nodes,
            trees: BTreeMap::new(),
            cuts: BTreeMap::new(),
            delivered: BTreeMap::new(),
            changed: VecDeque::new(),
            told: 0,
            trouble: trouble::State::default(),
            rpcs: rpc::Rpcs::default(),
            watch: Watch::default(),
            attachments: BTreeMap::new(),
            story: tell.then(story::Story::default),
        };
        this.note("seed").add(&seed);
        this.boot()?;
        Ok(this)
    }

    /// Everything starts: AWS, the API with its objects, the nodes, the controllers.
    fn boot(&mut self) -> Result<(), String> {
        let mut told = Vec::new();
        let at = self.timestamp();
        self.store.bootstrap(at, &mut told).map_err(|error| error.to_string())?;
        for definition in model_kube::snapshots::definitions() {
            self.store.step(at, &Write::create(definition), &mut told).map_err(|error| error.to_string())?;
        }
        self.boot_aws()?;
        for node in 0..self.nodes.len() {
            self.boot_node(node);
        }
        for controller in 0..self.controllers.len() {
            self.boot_controller(controller);
        }
        // Until the controllers have seen the nodes.
        self.advance(Duration::from_secs(1));
        Ok(())
    }

    fn timestamp(&self) -> Timestamp {
        let now = self.clock.now();
        // Hundreds of thousands of years away from the end of time.
        Timestamp::new(EPOCH + now.as_secs() as i64, now.subsec_nanos() as i32).unwrap_or(Timestamp::MAX)
    }

    /// Now, for an Event: no two are told at the same nanosecond.
    fn event_time(&mut self) -> Timestamp {
        self.told += 1;
        let now = self.timestamp();
        now.checked_add(k8s_openapi::jiff::SignedDuration::from_nanos(self.told)).unwrap_or(now)
    }

    fn at(&self) -> model_aws::At {
        model_aws::At(self.timestamp().as_millisecond())
    }

    /// The hash of the run, to add what happens to it.
    fn note(&mut self, who: &str) -> &mut Trail {
        let now = self.clock.now();
        self.trail.add(&(now.as_secs(), now.subsec_nanos(), who))
    }

    /// The same for what a machine is told.
    fn input(&mut self, who: &str) -> &mut Trail {
        self.inputs += 1;
        self.note(who)
    }

    fn soon(&mut self, part: Part, event: Event) {
        let latency = self.latencies.draw(part);
        self.clock.after(latency, event);
    }

    fn arm(&mut self, timer: Timer, span: Duration) {
        self.clock.arm(timer.clone(), span, Event::Fired(timer));
    }

    /// Lets virtual time pass.
    fn advance(&mut self, span: Duration) {
        let until = self.clock.now().saturating_add(span);
        while let Some(event) = self.clock.next(until) {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
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

impl Engine for World {
    fn now(&self) -> Duration {
        self.clock.now()
    }
    fn poll_every(&self) -> Duration {
        Duration::from_millis(250)
    }
    fn is_live(&self) -> bool {
        false
    }
    async fn pause(&mut self, span: Duration) {
        self.advance(span);
    }
    async fn aws(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        let there = self.latencies.draw(Part::Cloud);
        self.advance(there);
        let answer = self.user_calls(service, command, parameters);
        self.note("user").value(&(service, command, parameters)).verdict(&answer);
        if let Ok(answer) = &answer {
            self.trail.value(answer);
        }
        let back = self.latencies.draw(Part::Cloud);
        self.advance(back);
        answer
    }
    async fn get(&mut self, target: &Target) -> Result<Option<Value>, EngineError> {
        self.read(target)
    }
    async fn list(&mut self, _api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError> {
        self.read_all(kind, namespace)
    }
    async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError> {
        let there = self.latencies.draw(Part::Write);
        self.advance(there);
        self.apply_object(object)
    }
    async fn delete(&mut self, target: &Target, grace_seconds: Option<u32>) -> Result<(), EngineError> {
        let there = self.latencies.draw(Part::Write);
        self.advance(there);
        self.delete_object(target, grace_seconds)
    }
    async fn exec(&mut self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> Result<Output, EngineError> {
        let there = self.latencies.draw(Part::Mount);
        self.advance(there);
        self.look(namespace, pod, container, command)
    }
    async fn fault(&mut self, fault: &Fault) -> Result<(), EngineError> {
        self.cause(fault)
    }
    fn inputs(&self) -> Option<u64> {
        Some(self.inputs)
    }
    async fn settled(&mut self) {
        let now = self.clock.now();
        self.watch.end(now);
    }
    async fn violations(&mut self) -> Vec<Found> {
        self.watch.take()
    }
    async fn facts(&mut self) -> Result<Facts, EngineError> {
        Ok(self.tell_facts())
    }
}
