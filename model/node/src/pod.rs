//! One pod on a node (kubernetes-storage-path.md §3.9).
//!
//! ```text
//!  Resolving ─▶ Volumes ─▶ Local ─▶ Running ─▶ Terminating ─▶ Unmounting ─▶ Cleaning ─▶ Finished | Deleting
//!  (live GETs)  (mounted)  (emptyDir …)  (init containers in order, then all; restarts with backoff)
//! ```
//!
//! The order of the end is the safety rule: containers dead, then volumes unmounted, then the final status, then the delete
//! with grace 0. A pod that was never started takes the same way and finds nothing to do.

mod probe;
mod spec;
mod view;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use probe::{ProbeKind, ProbeSpec};
pub use spec::{ContainerSpec, PodSpec, RestartPolicy};
pub use wire::{PodEffect, PodTimer, StartError};

/// The first crash-loop wait, doubled at each further exit.
pub const CRASH_BACKOFF: Duration = Duration::from_secs(10);
/// The longest crash-loop wait.
pub const MAX_CRASH_BACKOFF: Duration = Duration::from_secs(300);
/// A container that ran so long starts its waits anew.
pub const CRASH_RESET: Duration = Duration::from_secs(600);
/// The wait after a failed sync of a pod.
pub const SYNC_BACKOFF: Duration = Duration::from_secs(10);
/// No container gets less time between SIGTERM and SIGKILL.
pub const MIN_GRACE: Duration = Duration::from_secs(2);

/// Where the pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// The claims and volumes behind it are being read.
    Resolving,
    /// Its volumes are being attached and mounted.
    Volumes,
    /// The volumes that need no driver are being made.
    Local,
    Running,
    /// Its containers are being stopped.
    Terminating,
    /// Its volumes are being unmounted.
    Unmounting,
    /// Its directory is being removed.
    Cleaning,
    /// A pod that ended by itself; its object stays.
    Finished,
    /// Its object is being deleted.
    Deleting,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    /// `Completed`, `Error`, `StartError`.
    pub reason: String,
    pub message: String,
}

/// A container's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Not started; the reason and message the status shows.
    Waiting {
        reason: String,
        message: String,
    },
    /// Its start is in flight.
    Starting,
    Running,
    Exited(Exit),
}

/// A container of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Container {
    /// The restart count of the current or next start.
    pub attempt: u32,
    pub state: State,
    /// How it ended before.
    pub last: Option<Exit>,
    /// Exits that count for the crash-loop wait.
    crashes: u32,
    /// The crash-loop wait is running.
    backing_off: bool,
    started: bool,
    stopping: bool,
    /// The results of its probes while it runs.
    probes: BTreeMap<ProbeKind, probe::Probe>,
}

impl Container {
    fn new(previous: Option<u32>) -> Self {
        Self {
            attempt: previous.map_or(0, |count| count.saturating_add(1)),
            state: State::Waiting { reason: "ContainerCreating".into(), message: String::new() },
            last: None,
            crashes: 0,
            backing_off: false,
            started: false,
            stopping: false,
            probes: BTreeMap::new(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    fn alive(&self) -> bool {
        matches!(self.state, State::Running | State::Starting)
    }
}

/// A pod's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pod {
    pub spec: Arc<PodSpec>,
    pub stage: Stage,
    /// The object is marked for deletion.
    pub deleting: bool,
    /// The object is gone: nothing is left to delete.
    pub orphan: bool,
    /// Its claims were read at least once, well or not.
    pub resolved: bool,
    /// Its containers may run: what `PodReadyToStartContainers` shows.
    pub sandbox: bool,
    /// The phase it ended with, as found in the API.
    pub ended: Option<Phase>,
    /// `reason` and `message` of a pod that the node ended.
    pub verdict: Option<(String, String)>,
    containers: BTreeMap<String, Container>,
    /// Its directory could not be removed: wait for the next look.
    pub hold: bool,
    /// Its containers ran when this kubelet began: their volumes stay until they have ended, also when it is being deleted.
    pub adopted: bool,
    resolving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Pod {
    /// A pod that the node sees for the first time. `previous`: restart counts of containers that have run before.
    pub fn new(spec: Arc<PodSpec>, previous: &BTreeMap<String, u32>) -> Self {
        let all = spec.init.iter().chain(&spec.containers);
        let containers = all.map(|container| (container.name.clone(), Container::new(previous.get(&container.name).copied()))).collect();
        Self {
            spec,
            stage: Stage::Resolving,
            deleting: false,
            orphan: false,
            resolved: false,
            sandbox: false,
            ended: None,
            verdict: None,
            containers,
            hold: false,
            adopted: false,
            resolving: false,
        }
    }

    /// Takes over containers that run already: they go on while the volumes are looked at, and end as any other.
    pub fn adopt(&mut self, running: &BTreeMap<String, u32>, out: &mut Vec<PodEffect>) {
        for (name, attempt) in running {
            let Some(container) = self.containers.get_mut(name) else { continue };
            container.attempt = *attempt;
            container.state = State::Running;
            container.started = true;
            self.sandbox = true;
            self.adopted = true;
            out.push(PodEffect::Arm(PodTimer::Forget(name.clone()), CRASH_RESET));
        }
    }

    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.get(name)
    }

    /// Asks for the claims, unless that is being done.
    pub fn resolve(&mut self, out: &mut Vec<PodEffect>) {
        if !std::mem::replace(&mut self.resolving, true) {
            out.push(PodEffect::Resolve);
        }
    }

    /// The claims were read, well or not. Of a pod whose containers ran before this kubelet they must be read well: until then it is
    /// not known what is theirs.
    pub fn was_resolved(&mut self, well: bool) {
        self.resolving = false;
        self.resolved |= well || !self.adopted;
    }

    /// The volumes are there: containers may start.
    pub fn run(&mut self, out: &mut Vec<PodEffect>) {
        self.stage = Stage::Running;
        self.sandbox = true;
        if let Some(deadline) = self.spec.active_deadline {
            out.push(PodEffect::Arm(PodTimer::Deadline, deadline));
        }
        let adopted: Vec<String> =
            self.containers.iter().filter(|(_, container)| container.is_running()).map(|(name, _)| name.clone()).collect();
        adopted.iter().for_each(|name| self.begin_probes(name, out));
        self.drive(out);
    }

    /// Starts what shall run now, or ends a pod whose containers are done.
    pub fn drive(&mut self, out: &mut Vec<PodEffect>) {
        if self.stage != Stage::Running {
            return;
        }
        let spec = self.spec.clone();
        for init in &spec.init {
            let Some(container) = self.containers.get(&init.name) else { continue };
            match &container.state {
                State::Exited(exit) if exit.code == 0 && !init.sidecar => continue,
                State::Running if init.sidecar && container.is_started() => continue,
                State::Exited(_) if spec.restart_policy == RestartPolicy::Never && !init.sidecar => {
                    return self.terminate(None, out);
                }
                State::Starting | State::Running => {}
                State::Waiting { .. } | State::Exited(_) => self.start(init, out),
            }
            // A sidecar is waited for once, not each time that it is restarted.
            if !init.sidecar || !self.initialized() {
                return;
            }
        }
        let mut done = true;
        for container in &spec.containers {
            let Some(state) = self.containers.get(&container.name).map(|container| &container.state) else { continue };
            let restart = match state {
                State::Exited(exit) => self.restarts(exit),
                State::Waiting { .. } => true,
                State::Starting | State::Running => {
                    done = false;
                    continue;
                }
            };
            if restart {
                done = false;
                self.start(container, out);
            }
        }
        if done {
            self.terminate(None, out);
        }
    }

    fn restarts(&self, exit: &Exit) -> bool {
        match self.spec.restart_policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit.code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// Starts a container, unless its crash-loop wait is running.
    fn start(&mut self, spec: &ContainerSpec, out: &mut Vec<PodEffect>) {
        let full_name = self.spec.full_name();
        let Some(container) = self.containers.get_mut(&spec.name) else { return };
        if container.backing_off {
            return;
        }
        if let State::Exited(exit) = &container.state {
            container.last = Some(exit.clone());
            let crashes = container.crashes;
            if crashes > 1 {
                let wait = (CRASH_BACKOFF * 2u32.saturating_pow((crashes - 2).min(10))).min(MAX_CRASH_BACKOFF);
                let message = format!("back-off {} restarting failed container={} pod={full_name}", go_duration(wait), spec.name);
                container.state = State::Waiting { reason: "CrashLoopBackOff".into(), message };
                container.backing_off = true;
                out.push(PodEffect::Arm(PodTimer::Restart(spec.name.clone()), wait));
                out.push(PodEffect::Record {
                    container: Some(spec.name.clone()),
                    warning: true,
                    reason: "BackOff",
                    message: format!("Back-off restarting failed container {} in pod {full_name}", spec.name),
                });
                out.push(PodEffect::Status);
                return;
            }
            container.attempt += 1;
        } else if container.last.is_some() && container.started {
            container.attempt += 1;
        }
        container.started = false;
        container.stopping = false;
        container.state = State::Starting;
        out.push(PodEffect::Record {
            container: Some(spec.name.clone()),
            warning: false,
            reason: "Pulled",
            message: format!("Container image \"{}\" already present on machine and can be accessed by the pod", spec.image),
        });
        out.push(PodEffect::Start { container: spec.name.clone(), attempt: container.attempt });
    }

    /// The start of a container ended.
    pub fn started(&mut self, name: &str, result: &Result<(), StartError>, out: &mut Vec<PodEffect>) {
        let stopping = self.stage != Stage::Running;
        let Some(container) = self.containers.get_mut(name).filter(|container| container.state == State::Starting) else { return };
        let event = |warning, reason, message: String| PodEffect::Record { container: Some(name.into()), warning, reason, message };
        match result {
            Ok(()) => {
                container.state = State::Running;
                container.started = true;
                out.push(event(false, "Created", "Container created".into()));
                out.push(event(false, "Started", "Container started".into()));
                out.push(PodEffect::Arm(PodTimer::Forget(name.into()), CRASH_RESET));
                self.begin_probes(name, out);
            }
            Err(StartError::Config(why)) => {
                container.state = State::Waiting { reason: "CreateContainerConfigError".into(), message: why.clone() };
                out.push(event(true, "Failed", format!("Error: {why}")));
                if !stopping {
                    container.backing_off = true;
                    out.push(PodEffect::Arm(PodTimer::Restart(name.into()), SYNC_BACKOFF));
                }
            }
            Err(StartError::Exec(why)) => {
                container.crashes = container.crashes.saturating_add(1);
                container.started = true;
                container.state = State::Exited(Exit { code: 128, reason: "StartError".into(), message: why.clone() });
                out.push(event(false, "Created", "Container created".into()));
                out.push(event(true, "Failed", format!("Error: {why}")));
            }
        }
        out.push(PodEffect::Status);
        if self.stage == Stage::Terminating {
            self.stop_next(out);
        } else {
            self.drive(out);
        }
    }

    /// A container's process ended.
    pub fn exited(&mut self, name: &str, code: i32, out: &mut Vec<PodEffect>) {
        let Some(container) = self.containers.get_mut(name).filter(|container| container.alive()) else { return };
        let reason = if code == 0 { "Completed" } else { "Error" };
        container.state = State::Exited(Exit { code, reason: reason.into(), message: String::new() });
        container.crashes = container.crashes.saturating_add(1);
        out.push(PodEffect::Disarm(PodTimer::Forget(name.into())));
        self.end_probes(name, out);
        out.push(PodEffect::Status);
        if self.stage == Stage::Terminating {
            self.stop_next(out);
        } else {
            self.drive(out);
        }
    }

    /// A timer of a container fired.
    pub fn restart_due(&mut self, name: &str, out: &mut Vec<PodEffect>) {
        if let Some(container) = self.containers.get_mut(name).filter(|container| container.backing_off) {
            container.backing_off = false;
            self.drive(out);
        }
    }

    /// The container ran long enough.
    pub fn forget_crashes(&mut self, name: &str) {
        if let Some(container) = self.containers.get_mut(name).filter(|container| container.is_running()) {
            container.crashes = 0;
        }
    }

    /// Ends the pod. `grace`: of a deletion; none when its containers are done (then only sidecars are left).
    pub fn terminate(&mut self, grace: Option<Duration>, out: &mut Vec<PodEffect>) {
        if self.stage > Stage::Terminating {
            return;
        }
        let before = std::mem::replace(&mut self.stage, Stage::Terminating);
        if before != Stage::Terminating {
            for timer in [PodTimer::Sync, PodTimer::VolumesDue, PodTimer::Deadline] {
                out.push(PodEffect::Disarm(timer));
            }
            let waiting = self.containers.iter().filter(|(_, container)| container.backing_off);
            out.extend(waiting.map(|(name, _)| PodEffect::Disarm(PodTimer::Restart(name.clone()))));
            for container in self.containers.values_mut() {
                container.backing_off = false;
            }
        }
        let grace = grace.unwrap_or(Duration::from_secs(30)).max(MIN_GRACE);
        out.push(PodEffect::Arm(PodTimer::Kill, grace));
        self.stop_next(out);
    }

    /// Stops the main containers, then the sidecars from the last to the first.
    fn stop_next(&mut self, out: &mut Vec<PodEffect>) {
        let spec = self.spec.clone();
        let alive = |pod: &Self, name: &str| pod.containers.get(name).is_some_and(Container::alive);
        let main: Vec<_> = spec.containers.iter().chain(spec.init.iter().filter(|init| !init.sidecar)).collect();
        let mut targets: Vec<_> = main.into_iter().filter(|container| alive(self, &container.name)).collect();
        if targets.is_empty() {
            targets.extend(spec.init.iter().rev().find(|init| alive(self, &init.name)));
        }
        if targets.is_empty() {
            out.push(PodEffect::Disarm(PodTimer::Kill));
            out.push(PodEffect::Status);
            self.stage = Stage::Unmounting;
            return;
        }
        for target in targets {
            let Some(container) = self.containers.get_mut(&target.name) else { continue };
            if container.is_running() && !std::mem::replace(&mut container.stopping, true) {
                out.push(PodEffect::Record {
                    container: Some(target.name.clone()),
                    warning: false,
                    reason: "Killing",
                    message: format!("Stopping container {}", target.name),
                });
                out.push(PodEffect::Signal { container: target.name.clone(), kill: false });
            }
        }
    }

    /// The grace period is over.
    pub fn kill(&mut self, out: &mut Vec<PodEffect>) {
        if self.stage == Stage::Terminating {
            let alive = self.containers.iter().filter(|(_, container)| container.alive());
            out.extend(alive.map(|(name, _)| PodEffect::Signal { container: name.clone(), kill: true }));
            // Sidecars that start dying only now get a last look.
            out.push(PodEffect::Arm(PodTimer::Kill, MIN_GRACE));
        }
    }

    /// The deadline of the pod.
    /// The node cannot take the pod after all: it fails, and whoever made it makes another (`rejectPod`).
    pub fn reject(&mut self, reason: &'static str, message: String, out: &mut Vec<PodEffect>) {
        if self.stage == Stage::Volumes {
            self.verdict = Some((reason.into(), message.clone()));
            out.push(PodEffect::Record { container: None, warning: true, reason, message });
            self.terminate(None, out);
        }
    }

    pub fn deadline(&mut self, out: &mut Vec<PodEffect>) {
        if self.stage == Stage::Running {
            let message = "Pod was active on the node longer than the specified deadline";
            self.verdict = Some(("DeadlineExceeded".into(), message.into()));
            out.push(PodEffect::Record { container: None, warning: false, reason: "DeadlineExceeded", message: message.into() });
            self.terminate(None, out);
        }
    }
}

/// A duration as Go prints it, for whole seconds: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}
