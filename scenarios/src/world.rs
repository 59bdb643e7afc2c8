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
mod event;
mod exec;
mod files;
pub mod kernel;
mod kubelet;
mod lanes;
mod player;
mod plugin;
mod programs;
mod rpc;
mod status;
mod story;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use model_aws::{Aws, Profile};
use model_common::fixes::Fixes;
use model_common::pick::Seeded;
use model_common::trail::Trail;
use model_kube::object::Kind;
use model_kube::store::Store;
use model_kube::write::Write;

use crate::engine::Engine;
use crate::invariants::Watch;
use crate::language::Scenario;
use crate::report::{Observer, Report, Silent};
use crate::runner;
use clock::{Clock, Latencies, Part};
use event::{Event, Timer, Watcher, Which};
pub use story::{Patch, Told};

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
        let nodes: Vec<_> = world
            .nodes()
            .into_iter()
            .enumerate()
            .map(|(n, info)| kubelet::Node::new(info, given.nodes.get(n), given.as_of.fixes()))
            .collect();
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
}
