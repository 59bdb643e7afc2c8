//! What a pod's state looks like from outside.

use super::*;

impl Pod {
    /// Whether all init containers are done (or, sidecars, up).
    pub fn initialized(&self) -> bool {
        self.spec.init.iter().all(|init| match self.containers.get(&init.name).map(|container| &container.state) {
            Some(State::Exited(exit)) => exit.code == 0 || init.sidecar,
            Some(State::Running) => init.sidecar && self.containers.get(&init.name).is_some_and(Container::is_started),
            Some(State::Waiting { .. } | State::Starting) | None => false,
        }) || self.spec.containers.iter().any(|container| self.containers.get(&container.name).is_some_and(|state| state.started))
    }

    /// Whether all containers run and are ready.
    pub fn ready(&self) -> bool {
        let all = self.spec.containers.iter().chain(self.spec.init.iter().filter(|init| init.sidecar));
        self.stage == Stage::Running
            && all.map(|container| self.containers.get(&container.name)).all(|state| state.is_some_and(Container::is_ready))
    }

    /// The phase the status shows (`getPhase`).
    pub fn phase(&self) -> Phase {
        if let Some(phase) = self.ended {
            return phase;
        }
        if self.verdict.is_some() && self.stage >= Stage::Terminating {
            return Phase::Failed;
        }
        let states = || self.spec.containers.iter().filter_map(|container| self.containers.get(&container.name));
        let over = self.stage > Stage::Terminating;
        if over && !states().any(|container| container.alive()) {
            let inits = self.spec.init.iter().filter(|init| !init.sidecar).filter_map(|init| self.containers.get(&init.name));
            let well = |container: &Container| matches!(&container.state, State::Exited(exit) if exit.code == 0);
            return if states().chain(inits).all(well) { Phase::Succeeded } else { Phase::Failed };
        }
        if !self.initialized() {
            return Phase::Pending;
        }
        let ran = |container: &Container| container.is_running() || container.last.is_some() || matches!(container.state, State::Exited(_));
        match states().all(ran) {
            true => Phase::Running,
            false => Phase::Pending,
        }
    }
}
