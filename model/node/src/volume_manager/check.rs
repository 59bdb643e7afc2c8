//! The mount machine, exhaustively: two pods share one volume on a node; each comes and goes once; any call may be applied
//! without its answer arriving in time (an uncertain error), and the kubelet may crash at any point. A disk that is as simple
//! as possible says what is really staged and published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model_common::csi::{self, NodeCall, NodeCapability, NodeReply};
use stateright::{Checker, Model, Property};

use super::tests::{config, spec, want};
use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    machine: VolumeManager,
    /// Operation → what is in flight, and whether it was applied already.
    flying: BTreeMap<Key, (Action, bool)>,
    reporting: Option<BTreeSet<VolumeName>>,
    timers: BTreeSet<Timer>,
    wanted: BTreeSet<PodUid>,
    unwanted: BTreeSet<PodUid>,
    disk: Disk,
    crashes: u8,
    failures: u8,
    broken: Option<&'static str>,
}

/// What is true on the node, whatever the kubelet thinks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Disk {
    staged: bool,
    published: BTreeSet<String>,
    data: BTreeMap<String, VolData>,
}

impl Disk {
    /// Carries an action out. Idempotent, as the driver's calls are.
    fn apply(&mut self, action: &Action) -> Answer {
        match action {
            Action::ReadNode => Answer::Attached(BTreeSet::from([spec().name.clone()])),
            Action::ReadAttachment { .. } => Answer::Attachment(Some(Attachment { attached: true, ..Attachment::default() })),
            Action::MakeDir { data, .. } => {
                self.data.extend(data.clone());
                Answer::Done
            }
            Action::RemoveMount { mount, data_dir } => {
                if self.published.contains(mount) || self.staged && mount.ends_with("globalmount") {
                    return Answer::StillMounted;
                }
                self.data.remove(data_dir);
                Answer::Done
            }
            Action::ReadVolData { dir } => Answer::VolData(self.data.get(dir).cloned()),
            Action::MountRefs { .. } => Answer::Refs(self.published.iter().cloned().collect()),
            Action::Csi { call, .. } => Answer::Csi(self.call(call)),
            Action::ApplyFsGroup { .. }
            | Action::CleanSubPaths { .. }
            | Action::FindVolData { .. }
            | Action::MapDevice { .. }
            | Action::UnmapDevice { .. }
            | Action::RemovePaths { .. }
            | Action::ClaimResize { .. } => Answer::Done,
        }
    }

    fn call(&mut self, call: &NodeCall) -> NodeReply {
        match call {
            NodeCall::NodeStageVolume { .. } => {
                self.staged = true;
                NodeReply::NodeStageVolume
            }
            NodeCall::NodeUnstageVolume { .. } => {
                self.staged = false;
                NodeReply::NodeUnstageVolume
            }
            NodeCall::NodePublishVolume { target_path, .. } => {
                self.published.insert(target_path.clone());
                NodeReply::NodePublishVolume
            }
            NodeCall::NodeUnpublishVolume { target_path, .. } => {
                self.published.remove(target_path);
                NodeReply::NodeUnpublishVolume
            }
            _ => NodeReply::NodeGetCapabilities(vec![NodeCapability::StageUnstageVolume]),
        }
    }

    /// A rule that this call would break if the driver acted on it now (S5, S6).
    fn forbids(&self, action: &Action) -> Option<&'static str> {
        match action {
            Action::Csi { call: NodeCall::NodePublishVolume { .. }, .. } if !self.staged => Some("published before staged"),
            Action::Csi { call: NodeCall::NodeUnstageVolume { .. }, .. } if !self.published.is_empty() => Some("unstaged while published"),
            _ => None,
        }
    }

    fn found(&self) -> Vec<Found> {
        let pod_dirs = self.data.iter().filter(|(dir, _)| dir.contains("/pods/"));
        let found = pod_dirs.filter_map(|(dir, data)| {
            let pod = dir.split("/pods/").nth(1)?.split('/').next()?;
            Some(Found::of_pod(pod, data.spec_vol_id.clone(), false, Some(data.clone())))
        });
        let plugins = config().layout.plugins();
        let staged = self.data.iter().filter_map(|(dir, data)| {
            let place = dir.strip_prefix(&plugins)?.strip_prefix('/')?;
            Some(Found::staged(place, false, data.clone()))
        });
        found.chain(staged).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    /// The action takes effect; its answer is not there yet.
    Apply(Key),
    Answer(Key),
    /// The answer is lost: the deadline passed.
    Lose(Key),
    Report,
    Fire(Timer),
    Unwant(PodUid),
    Crash,
}

/// A node whose kubelet has these changes.
struct Node(Fixes);

impl State {
    fn feed(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.step(&input, &mut out).expect("the world gives only inputs that fit");
        for effect in out {
            match effect {
                Effect::Do { op, action } => {
                    if self.flying.insert(op, (action, false)).is_some() {
                        self.broken = Some("two actions in flight for one operation");
                    }
                }
                Effect::ReportInUse(volumes) => self.reporting = Some(volumes),
                Effect::Record(_) => {}
                Effect::Arm(timer, _) => _ = self.timers.insert(timer),
                Effect::Disarm(timer) => _ = self.timers.remove(&timer),
            }
        }
        let csi =
            |(action, _): &&(Action, bool)| matches!(action, Action::Csi { call, .. } if !matches!(call, NodeCall::NodeGetCapabilities));
        let overlapping = self.flying.iter().filter(|(key, flying)| key.pod.is_empty() && csi(flying)).count() > 0
            && self.flying.values().filter(csi).count() > 1;
        if overlapping {
            self.broken = Some("a call on the device beside another call of its volume");
        }
    }

    fn boot(&mut self) {
        self.machine = VolumeManager::new(self.machine.config.clone());
        self.flying.clear();
        self.timers.clear();
        self.reporting = None;
        self.feed(Input::Booted(self.disk.found()));
        self.feed(Input::NodeAttached(BTreeSet::from([spec().name.clone()])));
        for pod in self.wanted.clone() {
            self.feed(Input::Want(want(&pod)));
        }
        self.feed(Input::SourcesReady);
    }

    fn apply(&mut self, key: &Key) -> Option<Answer> {
        let (action, applied) = self.flying.get_mut(key)?;
        if !*applied && let Some(rule) = self.disk.forbids(action) {
            self.broken = Some(rule);
        }
        *applied = true;
        Some(self.disk.apply(action))
    }
}

impl Model for Node {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            machine: VolumeManager::new(Config { fixes: self.0.clone(), ..config() }),
            flying: BTreeMap::new(),
            reporting: None,
            timers: BTreeSet::new(),
            wanted: ["a", "b"].map(Arc::from).into(),
            unwanted: BTreeSet::new(),
            disk: Disk::default(),
            crashes: 0,
            failures: 0,
            broken: None,
        };
        state.boot();
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (key, (action, applied)) in &state.flying {
            let changes = matches!(action, Action::Csi { call, .. } if !matches!(call, NodeCall::NodeGetCapabilities));
            if changes && !applied {
                steps.push(Step::Apply(key.clone()));
            } else {
                steps.push(Step::Answer(key.clone()));
            }
            if changes && state.failures < 1 {
                steps.push(Step::Lose(key.clone()));
            }
        }
        if state.reporting.is_some() {
            steps.push(Step::Report);
        }
        steps.extend(state.timers.iter().cloned().map(Step::Fire));
        steps.extend(state.wanted.iter().cloned().map(Step::Unwant));
        if state.crashes < 1 {
            steps.push(Step::Crash);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Apply(key) => _ = state.apply(&key),
            Step::Answer(key) => {
                let answer = state.apply(&key)?;
                state.flying.remove(&key);
                state.feed(Input::Done { op: key, result: Ok(answer) });
            }
            Step::Lose(key) => {
                state.failures += 1;
                state.flying.remove(&key);
                let error = csi::Error::new(csi::Code::DeadlineExceeded, "context deadline exceeded");
                state.feed(Input::Done { op: key, result: Err(Failure::Rpc(error)) });
            }
            Step::Report => {
                let volumes = state.reporting.take()?;
                state.feed(Input::Reported(volumes));
            }
            Step::Fire(timer) => {
                state.timers.remove(&timer);
                state.feed(Input::Fired(timer));
            }
            Step::Unwant(pod) => {
                state.wanted.remove(&pod);
                state.unwanted.insert(pod.clone());
                state.feed(Input::Unwant(pod));
            }
            Step::Crash => {
                state.crashes += 1;
                state.boot();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("publish only after stage, no unstage while published", |_, state: &State| state.broken.is_none()),
            Property::always("mounted is what is mounted", |_, state: &State| {
                let truly = |pod: &PodUid| state.disk.published.contains(&config().layout.pod_mount(pod, "pv"));
                state.wanted.iter().all(|pod| !state.machine.unmounted(pod).is_empty() || truly(pod))
            }),
            Property::always("left alone it settles, and leaves nothing behind", |model, state: &State| {
                let mut steps = Vec::new();
                model.actions(state, &mut steps);
                steps.retain(|step| *step != Step::Crash);
                // A volume of which only the staging is left is invisible after a crash (#121937, not fixed in 1.36.2).
                let forgets = state.crashes > 0 && model.0.is_empty();
                let clean = state.disk.published.is_empty() && (!state.disk.staged || forgets);
                !steps.is_empty() || state.machine.settled() && clean && state.machine.volumes_in_use().is_empty()
            }),
            Property::sometimes("both pods have it mounted", |_, state: &State| state.disk.published.len() == 2),
            Property::sometimes("all is gone again", |_, state: &State| state.wanted.is_empty() && state.disk == Disk::default()),
        ]
    }
}

#[test]
fn every_order_of_calls_losses_and_a_crash_is_safe_and_settles() {
    for fixes in [Fixes::default(), Fixes::all()] {
        let checker = Node(fixes.clone()).checker().spawn_bfs().join();
        println!("{} states with {fixes:?}", checker.unique_state_count());
        checker.assert_properties();
        assert!(checker.unique_state_count() <= 60_000, "the model grew to {} states", checker.unique_state_count());
    }
}
