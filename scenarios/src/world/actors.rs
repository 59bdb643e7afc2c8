//! The controllers and sidecars, each with its own delayed view of the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model_common::fixes::Fixes;
use model_common::trail::Trail;
use model_kube::controllers::{self, Driver};
use model_kube::events::{EventRecord, Recorder};
use model_kube::machine::{self, Effect, Input};
use model_kube::object::{Change, Key, Kind, Object};

use super::clock::Part;
use super::{Event, Timer, Watcher, Which, World};
use crate::invariants::Seen;

pub(super) struct Controller {
    pub(super) machine: controllers::Controller,
    /// The driver beside which it is deployed.
    pub(super) driver: Option<Which>,
    /// Whether its process runs.
    pub(super) up: bool,
    /// How often it was started; an answer to an earlier life is nobody's.
    pub(super) life: u32,
    recorder: Recorder,
}

/// Who asked: a controller in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub number: usize,
    pub life: u32,
}

/// Those of every cluster, and the sidecars of both drivers as they are deployed.
pub(super) fn all(fixes: &Fixes) -> Vec<Controller> {
    let own = controllers::Controller::builtin_with(fixes).into_iter().map(|machine| (None, machine));
    let beside = |which, driver: &Driver| {
        controllers::Controller::sidecars_with(driver, fixes).into_iter().map(move |machine| (Some(which), machine))
    };
    let machines = own.chain(beside(Which::Ebs, &Driver::ebs())).chain(beside(Which::Efs, &Driver::efs()));
    machines.map(|(driver, machine)| Controller { machine, driver, up: true, life: 0, recorder: Recorder::default() }).collect()
}

/// Who watches a kind.
pub(super) fn watchers(controllers: &[Controller]) -> BTreeMap<Kind, Vec<usize>> {
    let mut watchers: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for (number, controller) in controllers.iter().enumerate() {
        for kind in controller.machine.kinds() {
            watchers.entry(kind).or_default().push(number);
        }
    }
    watchers
}

impl World {
    /// The informers list what exists, then the controller begins.
    pub(super) fn boot_controller(&mut self, number: usize) {
        let kinds = self.controllers[number].machine.kinds();
        for kind in kinds {
            for object in self.listed(Watcher::Controller(number), &kind) {
                self.controller(number, &Input::Changed(Change::Added(object)));
            }
        }
        self.controller(number, &Input::Booted);
    }

    /// What a list shows. Where it is old, what has happened since is on its way.
    fn listed(&mut self, watcher: Watcher, kind: &Kind) -> Vec<Object> {
        let lag = self.staleness(watcher, kind);
        let then = self.clock.now().saturating_sub(lag);
        let version = self.changed.partition_point(|(time, _)| *time <= then).checked_sub(1).map_or(0, |last| self.changed[last].1);
        let old = if lag.is_zero() { None } else { self.store.range_at(Key::new(kind.clone(), "", ""), version).ok() };
        let Some(old) = old else { return self.store.all(kind).map(|(_, object)| object.clone()).collect() };
        let objects = old.map(|(_, object)| object.clone()).collect();
        let since = self.store.since(version).into_iter().flatten().filter(|entry| entry.change.object().kind() == *kind);
        for (version, change) in since.map(|entry| (entry.version, Arc::new(entry.change.clone()))).collect::<Vec<_>>() {
            let at = self.changed.partition_point(|(_, other)| *other < version);
            let made = self.changed.get(at).map_or(then, |(time, _)| *time);
            let last = self.delivered.entry((watcher, kind.clone())).or_default();
            *last = (made + lag).max(*last);
            self.clock.at(*last, Event::Watch(watcher, change));
        }
        objects
    }

    /// A step of a controller, and its effects on their way.
    pub(super) fn controller(&mut self, number: usize, input: &Input) {
        let mut effects = Vec::new();
        let actor = &mut self.controllers[number];
        let name = actor.machine.name();
        let timeout = actor.machine.call_timeout();
        let from = Caller { number, life: actor.life };
        let verdict = actor.machine.step(input, &mut effects);
        tell_of(input, self.input(name));
        self.trail.verdict(&verdict);
        for effect in effects {
            match effect {
                Effect::Write { call, mut write } => {
                    machine::stamp(&mut write, &Time(self.timestamp()));
                    self.trace_write(number, &write);
                    self.soon(Part::Write, Event::Write { from, call, write: Box::new(write) });
                }
                Effect::Get { call, key } => self.soon(Part::Write, Event::Get { from, call, key }),
                Effect::List { call, kind, namespace } => self.soon(Part::Write, Event::List { from, call, kind, namespace }),
                Effect::Csi { call, driver, request } => self.call_driver(from, call, &driver, request, timeout),
                Effect::Arm(timer, span) => self.arm(Timer::Controller(number, timer), span),
                Effect::Disarm(timer) => self.clock.disarm(&Timer::Controller(number, timer)),
                Effect::Record(record) => {
                    let at = self.event_time();
                    let write = self.controllers[number].recorder.record(&record, at);
                    self.tell(&record, write);
                }
            }
        }
    }

    /// Whether an answer still finds the life that asked.
    pub(super) fn lives(&self, caller: Caller) -> bool {
        let controller = &self.controllers[caller.number];
        controller.up && controller.life == caller.life
    }

    pub(super) fn tell(&mut self, record: &EventRecord, write: model_kube::write::Write) {
        self.note("event").add(&record.reason).add(&record.message);
        self.trace_record(record);
        self.soon(Part::Write, Event::Tell(Box::new(write)));
    }

    /// A change on its way to everybody who watches its kind, in order for each.
    pub(super) fn spread(&mut self, change: &Change) {
        let kind = change.object().kind();
        let controllers = self.watchers.get(&kind).into_iter().flatten().filter(|number| self.controllers[**number].up);
        let node = super::kubelet::seen_by(change.object()).and_then(|name| self.numbers.get(name));
        let node = node.filter(|number| self.nodes[**number].up);
        let watchers = controllers.copied().map(Watcher::Controller).chain(node.copied().map(Watcher::Node));
        let change = Arc::new(change.clone());
        for watcher in watchers.collect::<Vec<_>>() {
            let lag = self.lag(watcher, &kind);
            let latency = self.latencies.draw(Part::Watch) + lag;
            let last = self.delivered.entry((watcher, kind.clone())).or_default();
            *last = (self.clock.now() + latency).max(*last);
            let time = *last;
            if !lag.is_zero() && self.is_attach_detach(watcher) {
                self.see(&Seen::WatchBehind { until: time });
            }
            self.clock.at(time, Event::Watch(watcher, change.clone()));
        }
    }

    fn is_attach_detach(&self, watcher: Watcher) -> bool {
        matches!(watcher, Watcher::Controller(number) if matches!(self.controllers[number].machine, controllers::Controller::AttachDetach(_)))
    }

    pub(super) fn watched(&mut self, watcher: Watcher, change: &Change) {
        match watcher {
            Watcher::Controller(number) => self.controller(number, &Input::Changed(change.clone())),
            // What a node cannot be told waits until it can.
            Watcher::Node(number) if self.nodes[number].cut => self.nodes[number].missed.push(change.clone()),
            Watcher::Node(number) => self.node_sees(number, change),
        }
    }
}

/// Adds what tells an input from another; whole objects are added once, when they are written.
fn tell_of(input: &Input, trail: &mut Trail) {
    trail.add(&std::mem::discriminant(input));
    match input {
        Input::Booted => {}
        Input::Changed(change) => {
            let metadata = change.object().metadata();
            trail.add(&std::mem::discriminant(change)).add(&change.object().kind());
            trail.add(&metadata.namespace).add(&metadata.name).add(&metadata.resource_version);
        }
        Input::Written { call, result } => {
            trail.add(call).verdict(result);
            if let Ok(object) = result {
                trail.add(&object.metadata().resource_version);
            }
        }
        Input::Listed { call, result } => {
            trail.add(call);
            for object in result.iter().flatten() {
                trail.add(&object.metadata().resource_version);
            }
        }
        Input::Csi { call, result } => drop(trail.add(call).add(result)),
        Input::Fired(timer) => drop(trail.add(timer)),
    }
}
