//! The controllers' shell: runs the machines of `model_kube::controllers` against the API and the drivers.
//!
//! One task a machine: it awaits (watch events, answers, timers) in one place and steps the machine in another; effects run as
//! tasks of their own, so a slow driver holds up nobody else. A driver's sidecars start when its socket answers and says it is ready.
//! Nothing is saved here: what a machine must know after a restart is in the API or in the driver, as in a real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use model_kube::controllers::Controller;
use model_kube::write::Write;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod backend;
mod events;
mod readiness;
mod shell;
mod timers;

pub use backend::Backend;

/// What runs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// CSI driver name → unix socket of its controller service.
    pub drivers: BTreeMap<String, PathBuf>,
    /// Controllers that do not run, by name ([`Controller::NAMES`]).
    pub off: BTreeSet<String>,
}

/// The running controllers.
#[derive(Debug)]
pub struct Controllers {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Makes the definitions of the snapshot kinds where they are missing: on a real cluster they come with the snapshot controller. Without
/// it they are whoever's who runs another one.
pub async fn define<B: Backend>(api: &B, off: &BTreeSet<String>) {
    if off.contains("snapshot-controller") {
        return;
    }
    for definition in model_kube::snapshots::definitions() {
        let name = definition.metadata.name.clone().unwrap_or_default();
        if let Err(error) = api.write(Write::create(definition)).await
            && !error.is_already_exists()
        {
            tracing::warn!("cannot make the definition of {name}; snapshots cannot be made: {error}");
        }
    }
}

/// Starts the controllers. Returns at once; must be called inside a tokio runtime.
pub fn start<B: Backend>(api: B, config: Config) -> Controllers {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let events = events::start(api.clone(), stop.clone(), &mut tasks);
    let is_on = |name: &str| !config.off.contains(name);
    for machine in Controller::builtin() {
        if is_on(machine.name()) {
            tasks.spawn(shell::run(machine, None, api.clone(), events.clone(), stop.clone()));
        }
    }
    for (name, socket) in &config.drivers {
        let (name, socket, api, events, stop, off) =
            (name.clone(), socket.clone(), api.clone(), events.clone(), stop.clone(), config.off.clone());
        tasks.spawn(async move {
            let channel = emulator_common::csi::connect(&socket);
            let Some(driver) = readiness::wait(&name, &socket, &channel, &stop).await else { return };
            let mut sidecars = JoinSet::new();
            for machine in Controller::sidecars(&driver) {
                if !off.contains(machine.name()) {
                    sidecars.spawn(shell::run(machine, Some(channel.clone()), api.clone(), events.clone(), stop.clone()));
                }
            }
            while sidecars.join_next().await.is_some() {}
        });
    }
    Controllers { stop, tasks }
}

impl Controllers {
    /// Stops all controllers; calls in flight are left to the drivers, as when a controller is killed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
