//! The probes of containers (`pkg/kubelet/prober`): when they run, and what their results mean.
//!
//! A startup probe holds the two others back until it succeeds; readiness decides what the pod's condition shows; a
//! liveness or startup probe that failed often enough ends the container.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// When a probe runs, and how often it must agree with itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProbeSpec {
    pub delay: Duration,
    pub period: Duration,
    pub success: u32,
    pub failure: u32,
    /// What the container gets between SIGTERM and SIGKILL, when that is not the pod's.
    pub grace: Option<Duration>,
}

impl ProbeSpec {
    /// The probes of an API container.
    pub(super) fn all(container: &core::Container) -> BTreeMap<ProbeKind, Self> {
        let seconds = |value: i64| Duration::from_secs(u64::try_from(value).unwrap_or(0));
        let count = |value: Option<i32>, default: u32| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default).max(1);
        let one = |probe: &core::Probe| Self {
            delay: seconds(probe.initial_delay_seconds.unwrap_or(0).into()),
            period: seconds(i64::from(count(probe.period_seconds, 10))),
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
            grace: probe.termination_grace_period_seconds.map(seconds),
        };
        let all = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
        ];
        all.into_iter().filter_map(|(kind, probe)| probe.as_ref().map(|probe| (kind, one(probe)))).collect()
    }
}

/// What a probe of a running container has said.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Probe {
    well: bool,
    /// Results of the same kind in a row.
    successes: u32,
    failures: u32,
    in_flight: bool,
    /// It is due, but the startup probe has not succeeded.
    held: bool,
}

impl Container {
    /// Whether its startup probe succeeded, if it has one.
    pub fn is_started(&self) -> bool {
        self.is_running() && self.probes.get(&ProbeKind::Startup).is_none_or(|probe| probe.well)
    }

    /// Whether its readiness probe says so, if it has one.
    pub fn is_ready(&self) -> bool {
        self.is_started() && self.probes.get(&ProbeKind::Readiness).is_none_or(|probe| probe.well)
    }
}

impl Pod {
    fn probe_spec(&self, name: &str, kind: ProbeKind) -> Option<ProbeSpec> {
        let mut all = self.spec.init.iter().chain(&self.spec.containers);
        all.find(|container| container.name == name).and_then(|container| container.probes.get(&kind)).cloned()
    }

    /// A container started: its probes begin.
    pub(super) fn begin_probes(&mut self, name: &str, out: &mut Vec<PodEffect>) {
        let spec = self.spec.clone();
        let specs = spec.init.iter().chain(&spec.containers).filter(|container| container.name == name);
        let Some(container) = self.containers.get_mut(name) else { return };
        for (kind, probe) in specs.flat_map(|container| &container.probes) {
            let well = *kind == ProbeKind::Liveness;
            container.probes.insert(*kind, Probe { well, successes: 0, failures: 0, in_flight: false, held: false });
            out.push(PodEffect::Arm(PodTimer::Probe(name.into(), *kind), probe.delay));
        }
    }

    /// A container ended: so do its probes.
    pub(super) fn end_probes(&mut self, name: &str, out: &mut Vec<PodEffect>) {
        let Some(container) = self.containers.get_mut(name) else { return };
        let probes = std::mem::take(&mut container.probes);
        out.extend(probes.into_keys().map(|kind| PodEffect::Disarm(PodTimer::Probe(name.into(), kind))));
        out.push(PodEffect::Disarm(PodTimer::Stop(name.into())));
    }

    /// A probe's timer fired.
    pub fn probe_due(&mut self, name: &str, kind: ProbeKind, out: &mut Vec<PodEffect>) {
        let (Some(spec), Stage::Running) = (self.probe_spec(name, kind), self.stage) else { return };
        let Some(container) = self.containers.get_mut(name).filter(|container| container.is_running() && !container.stopping) else {
            return;
        };
        let started = container.is_started();
        let Some(probe) = container.probes.get_mut(&kind) else { return };
        probe.held = kind != ProbeKind::Startup && !started;
        if probe.held {
            return;
        }
        out.push(PodEffect::Arm(PodTimer::Probe(name.into(), kind), spec.period));
        if !std::mem::replace(&mut probe.in_flight, true) {
            out.push(PodEffect::Probe { container: name.into(), kind, attempt: container.attempt });
        }
    }

    /// The answer to [`PodEffect::Probe`].
    pub fn probed(&mut self, name: &str, kind: ProbeKind, attempt: u32, result: &Result<(), String>, out: &mut Vec<PodEffect>) {
        let Some(spec) = self.probe_spec(name, kind) else { return };
        let current = |container: &&mut Container| container.attempt == attempt && container.is_running() && !container.stopping;
        let Some(container) = self.containers.get_mut(name).filter(current) else { return };
        let Some(probe) = container.probes.get_mut(&kind) else { return };
        probe.in_flight = false;
        let before = probe.well;
        match result {
            Ok(()) => {
                (probe.successes, probe.failures) = (probe.successes.saturating_add(1), 0);
                probe.well |= probe.successes >= spec.success;
            }
            Err(why) => {
                (probe.successes, probe.failures) = (0, probe.failures.saturating_add(1));
                probe.well &= probe.failures < spec.failure;
                let message = format!("{} probe failed: {why}", kind.name());
                out.push(PodEffect::Record { container: Some(name.into()), warning: true, reason: "Unhealthy", message });
            }
        }
        let (well, failed) = (probe.well, probe.failures >= spec.failure);
        if well != before {
            out.push(PodEffect::Status);
        }
        match kind {
            ProbeKind::Startup if well => {
                out.push(PodEffect::Disarm(PodTimer::Probe(name.into(), kind)));
                let held: Vec<_> = container.probes.iter().filter(|(_, probe)| probe.held).map(|(kind, _)| *kind).collect();
                held.into_iter().for_each(|kind| self.probe_due(name, kind, out));
                // Containers after a sidecar wait for it.
                self.drive(out);
            }
            ProbeKind::Startup | ProbeKind::Liveness if failed && self.stage == Stage::Running => {
                self.stop_unhealthy(name, kind, &spec, out)
            }
            ProbeKind::Startup | ProbeKind::Liveness | ProbeKind::Readiness => {}
        }
    }

    fn stop_unhealthy(&mut self, name: &str, kind: ProbeKind, spec: &ProbeSpec, out: &mut Vec<PodEffect>) {
        let Some(container) = self.containers.get_mut(name) else { return };
        container.stopping = true;
        let message = format!("Container {name} failed {} probe, will be restarted", kind.name().to_lowercase());
        out.push(PodEffect::Record { container: Some(name.into()), warning: false, reason: "Killing", message });
        out.push(PodEffect::Signal { container: name.into(), kill: false });
        out.push(PodEffect::Arm(PodTimer::Stop(name.into()), spec.grace.unwrap_or(self.spec.grace).max(MIN_GRACE)));
    }

    /// A container that its probe ended had its grace.
    pub fn stop_due(&mut self, name: &str, out: &mut Vec<PodEffect>) {
        if self.containers.get(name).is_some_and(|container| container.is_running() && container.stopping) {
            out.push(PodEffect::Signal { container: name.into(), kill: true });
        }
    }
}
