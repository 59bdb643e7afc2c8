//! Trouble in the virtual world: who is down, paused or cut off, and what calls and writes meet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model_common::csi::{Code, Error};
use model_kube::object::Kind;
use model_kube::write::{ApiError, Write};

use super::{Event, Told, Watcher, Which, World};
use crate::engine::EngineError;
use crate::invariants::Seen;
use crate::language::{ApiOutcome, Fault, Span, Trouble, code_of};

mod processes;

/// A process of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Actor {
    Controller(usize),
    /// A driver's controller service.
    Driver(Which),
    Kubelet(usize),
    /// A driver's node service.
    Plugin(usize, Which),
}

/// The faults at work.
#[derive(Default)]
pub(super) struct State {
    rules: Vec<Rule>,
    next: u64,
    down: BTreeSet<Actor>,
    /// What waits for a paused process.
    pub(super) paused: BTreeMap<Actor, Vec<Event>>,
    /// Volumes of a node that something outside of any pod holds.
    busy: BTreeSet<(usize, String)>,
    /// Until when something is late that met a fault: it is a fault at work as long, whatever has become of the rule.
    late: Duration,
    /// What was last told to the invariants.
    told: usize,
}

/// Trouble that meets calls, writes or watches.
struct Rule {
    number: u64,
    trouble: Trouble,
    /// How many it still meets; none: all.
    left: Option<u64>,
    /// For rules about actors: whom they mean.
    actors: Vec<Actor>,
}

/// What a call to a driver meets.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub delay: Duration,
    /// Answered without doing anything.
    pub refused: Option<Error>,
    /// Answered after doing it.
    pub instead: Option<Error>,
    pub hang: bool,
}

impl State {
    pub(super) fn is_down(&self, actor: Actor) -> bool {
        self.down.contains(&actor)
    }

    pub(super) fn holds(&self, node: usize, volume: &str) -> bool {
        !self.busy.is_empty() && self.busy.contains(&(node, volume.to_owned()))
    }

    /// The first rule that fits uses up one of its count.
    pub(super) fn meet_rpc(&mut self, name: &str, on: Option<&str>, subject: &str) -> Met {
        let fits = |rule: &Rule| match &rule.trouble {
            Trouble::Rpc { call, node, volume, .. } => {
                call == name
                    && node.as_deref().is_none_or(|node| Some(node) == on)
                    && volume.as_deref().is_none_or(|volume| volume == subject)
            }
            _ => false,
        };
        let Some(Trouble::Rpc { delay, code, applied, hang, .. }) = self.take(fits) else { return Met::default() };
        let error = code.map(|name| {
            Error::new(code_of(&name).unwrap_or(Code::Unknown), format!("rpc error: code = {name} desc = a fault of the scenario"))
        });
        let delay = delay.map_or(Duration::ZERO, |Span(delay)| delay);
        match applied {
            true => Met { delay, instead: error, hang, ..Met::default() },
            false => Met { delay, refused: error, hang, ..Met::default() },
        }
    }

    /// What a controller's write meets.
    pub(super) fn meet_write(&mut self, number: usize, write: &Write) -> Option<ApiOutcome> {
        if self.rules.is_empty() {
            return None;
        }
        let key = write.key();
        let written = match write {
            Write::Create { .. } => "create",
            Write::Update { .. } => "update",
            Write::Delete { .. } => "delete",
            _ => "patch",
        };
        let fits = |rule: &Rule| match &rule.trouble {
            Trouble::Api { actor, verb, kind, name, .. } => {
                (actor.is_none() || rule.actors.contains(&Actor::Controller(number)))
                    && verb.as_deref().is_none_or(|verb| verb == written)
                    && kind.as_deref().is_none_or(|kind| kind == key.kind.kind_name())
                    && name.as_deref().is_none_or(|name| name == &*key.name)
            }
            _ => false,
        };
        match self.take(fits)? {
            Trouble::Api { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    fn take(&mut self, fits: impl Fn(&Rule) -> bool) -> Option<Trouble> {
        let at = self.rules.iter().position(fits)?;
        let rule = &mut self.rules[at];
        let trouble = rule.trouble.clone();
        if let Some(left) = &mut rule.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.rules.remove(at);
            }
        }
        Some(trouble)
    }
}

impl World {
    /// How much a watch is behind.
    pub(super) fn lag(&self, watcher: Watcher, kind: &Kind) -> Duration {
        self.behind(watcher, kind, false)
    }

    /// How old what it lists is.
    pub(super) fn staleness(&self, watcher: Watcher, kind: &Kind) -> Duration {
        self.behind(watcher, kind, true)
    }

    fn behind(&self, watcher: Watcher, kind: &Kind, lists: bool) -> Duration {
        if self.trouble.rules.is_empty() {
            return Duration::ZERO;
        }
        let watching = match watcher {
            Watcher::Controller(number) => Actor::Controller(number),
            Watcher::Node(number) => Actor::Kubelet(number),
        };
        let lag = |rule: &Rule| match &rule.trouble {
            Trouble::WatchLag { kind: wanted, delay: Span(delay), stale, .. }
                if (*stale || !lists)
                    && rule.actors.contains(&watching)
                    && wanted.as_deref().is_none_or(|wanted| wanted == kind.kind_name()) =>
            {
                Some(*delay)
            }
            _ => None,
        };
        self.trouble.rules.iter().filter_map(lag).max().unwrap_or_default()
    }

    /// Causes what a scenario says.
    pub(super) fn cause(&mut self, fault: &Fault) -> Result<(), EngineError> {
        self.note("fault").value(fault);
        self.trace(|_| Told::new("fault", fault.to_string()));
        match fault {
            Fault::Aws(rule) => self.cause_in_aws(rule)?,
            Fault::Cluster(trouble) => self.trouble(trouble)?,
        }
        self.faults_changed();
        Ok(())
    }

    fn trouble(&mut self, trouble: &Trouble) -> Result<(), EngineError> {
        match trouble {
            Trouble::Crash { actor, node, duration } => {
                for actor in self.actors(actor, node.as_deref())? {
                    self.stop(actor);
                }
                if let Some(Span(duration)) = duration {
                    let (actor, node) = (actor.clone(), node.clone());
                    self.clock.after(*duration, Event::Cause(Box::new(Trouble::Start { actor, node })));
                }
            }
            Trouble::Start { actor, node } => {
                for actor in self.actors(actor, node.as_deref())? {
                    self.start_actor(actor);
                }
            }
            Trouble::Restart { actor, node } => {
                let actors = self.actors(actor, node.as_deref())?;
                actors.iter().for_each(|actor| self.stop(*actor));
                actors.iter().for_each(|actor| self.start_actor(*actor));
            }
            Trouble::Pause { actor, node, duration: Span(duration) } => {
                for actor in self.actors(actor, node.as_deref())? {
                    self.trouble.paused.entry(actor).or_default();
                    self.trace_actor(actor, "paused", "paused");
                    self.clock.after(*duration, Event::Resume(actor));
                }
            }
            Trouble::Partition { node, duration } => {
                let number = self.node_named(node)?;
                self.nodes[number].cut = true;
                self.trace_machine(number, "cut off from the API server", "cut off");
                if let Some(Span(duration)) = duration {
                    self.clock.after(*duration, Event::Cause(Box::new(Trouble::Heal { node: node.clone() })));
                }
            }
            Trouble::Heal { node } => {
                let number = self.node_named(node)?;
                self.heal(number);
            }
            Trouble::Stop { node, start_instances_after_duration } => {
                let number = self.node_named(node)?;
                self.power_off(number);
                if let Some(Span(duration)) = start_instances_after_duration {
                    self.clock.after(*duration, Event::Cause(Box::new(Trouble::PowerOn { node: node.clone() })));
                }
            }
            Trouble::PowerOn { node } => {
                let number = self.node_named(node)?;
                self.power_on(number);
            }
            Trouble::Reboot { node } => {
                let number = self.node_named(node)?;
                self.power_off(number);
                self.power_on(number);
            }
            Trouble::Rpc { count, node, .. } => {
                if let Some(node) = node {
                    self.node_named(node)?;
                }
                self.add_rule(trouble, *count, Vec::new(), None);
            }
            Trouble::Api { count, actor, .. } => {
                let actors = actor.as_deref().map_or(Ok(Vec::new()), |actor| self.actors(actor, None))?;
                self.add_rule(trouble, *count, actors, None);
            }
            Trouble::WatchLag { actor, stale: true, .. } if actor == "kubelet" => {
                return Err(EngineError::Unsupported("kubelets list what is there; `stale` is for controllers".into()));
            }
            Trouble::WatchLag { actor, node, duration, .. } => {
                let actors = self.actors(actor, node.as_deref())?;
                self.add_rule(trouble, None, actors, duration.map(|Span(duration)| duration));
            }
            Trouble::RemoveVolData { node, pod } => {
                let number = self.node_named(node)?;
                let uid = self.pod_on(number, pod)?;
                self.lose_vol_data(number, &uid);
            }
            Trouble::Busy { node, volume, duration } => {
                let number = self.node_named(node)?;
                self.trouble.busy.insert((number, volume.clone()));
                if let Some(Span(duration)) = duration {
                    self.clock.after(*duration, Event::Release(number, volume.clone()));
                }
            }
            Trouble::ManyFiles { volume, count } => self.tree_named(volume)?.many = *count,
            Trouble::MountsEachTime { volume } => self.tree_named(volume)?.mounts_each_time = true,
            Trouble::DeletedIsAbsent { volume } => self.tree_named(volume)?.deleted_is_absent = true,
            Trouble::Clear {} => self.clear(),
        }
        Ok(())
    }

    fn tree_named(&mut self, volume: &str) -> Result<&mut super::files::Tree, EngineError> {
        self.trees.get_mut(volume).ok_or_else(|| EngineError::Unsupported(format!("there is no volume or file system `{volume}`")))
    }

    fn add_rule(&mut self, trouble: &Trouble, left: Option<u64>, actors: Vec<Actor>, duration: Option<Duration>) {
        self.trouble.next += 1;
        let number = self.trouble.next;
        self.trouble.rules.push(Rule { number, trouble: trouble.clone(), left, actors });
        if let Some(duration) = duration {
            self.clock.after(duration, Event::EndRule(number));
        }
    }

    pub(super) fn end_rule(&mut self, number: u64) {
        self.end_rules(|rule| rule.number == number);
    }

    /// Rules end; what is on its way to a watch stays late.
    fn end_rules(&mut self, ends: impl Fn(&Rule) -> bool) {
        let mut lag = Duration::ZERO;
        self.trouble.rules.retain(|rule| {
            if let Trouble::WatchLag { delay: Span(delay), .. } = rule.trouble
                && ends(rule)
            {
                lag = lag.max(delay);
            }
            !ends(rule)
        });
        self.late(lag);
    }

    /// Something met a fault, and is late by that much.
    pub(super) fn late(&mut self, delay: Duration) {
        let until = self.clock.now().saturating_add(delay);
        if !delay.is_zero() && until > self.trouble.late {
            self.trouble.late = until;
            self.clock.after(delay, Event::InTime);
        }
        self.faults_changed();
    }

    pub(super) fn release(&mut self, node: usize, volume: String) {
        self.trouble.busy.remove(&(node, volume));
        self.faults_changed();
    }

    /// A process goes on after a pause: what waited for it comes first, in its order.
    pub(super) fn resume(&mut self, actor: Actor) {
        if let Some(held) = self.trouble.paused.remove(&actor) {
            self.trace_actor(actor, "goes on", "up");
            held.into_iter().for_each(|event| self.happen(event));
        }
        self.faults_changed();
    }

    fn clear(&mut self) {
        self.end_rules(|_| true);
        self.trouble.busy.clear();
        self.clear_aws();
        let paused: Vec<_> = self.trouble.paused.keys().copied().collect();
        paused.into_iter().for_each(|actor| self.resume(actor));
        for number in 0..self.nodes.len() {
            self.power_on(number);
            self.heal(number);
        }
        let down: Vec<_> = self.trouble.down.iter().copied().collect();
        down.into_iter().for_each(|actor| self.start_actor(actor));
    }

    /// Tells the invariants how many faults are at work, when that changed.
    pub(super) fn faults_changed(&mut self) {
        let nodes = self.nodes.iter().filter(|node| node.cut || !node.power).count();
        let cluster = self.trouble.rules.len() + self.trouble.down.len() + self.trouble.paused.len() + self.trouble.busy.len();
        let late = usize::from(self.trouble.late > self.clock.now());
        let active = nodes + cluster + late + self.aws.faults.faults().filter(|fault| !fault.spent()).count();
        if active != std::mem::replace(&mut self.trouble.told, active) {
            self.see(&Seen::Faults { active });
        }
    }
}

/// What a controller is told of a write that met a fault.
pub(super) fn api_error(outcome: ApiOutcome, write: &Write) -> ApiError {
    let key = write.key();
    match outcome {
        ApiOutcome::Conflict => ApiError::conflict(
            &key.kind,
            &key.name,
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        ApiOutcome::InternalError => ApiError::internal("an error on the server has prevented the request from succeeding"),
        ApiOutcome::AckLost => ApiError::internal("http2: client connection lost"),
    }
}
