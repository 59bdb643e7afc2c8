//! The controllers' shell: runs the machines of `model_kube::controllers` against the API and the drivers.
//!
//! One task a machine: it awaits (watch events, answers, timers) in one place and steps the machine in another; effects run as
//! tasks of their own, so a slow driver holds up nobody else. A driver's sidecars start when its socket answers and says it is ready.
//! Nothing is saved here: what a machine must know after a restart is in the API or in the driver, as in a real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use model_kube::controllers::Controller;
use model_kube::write::Write;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod backend;
mod events;
mod readiness;
mod shell;
mod timers;

use crate::journal::ControllerJournal;
pub use backend::Backend;
use shell::Around;

/// What runs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// CSI driver name → unix socket of its controller service.
    pub drivers: BTreeMap<String, PathBuf>,
    /// Controllers that do not run, by name ([`Controller::NAMES`]).
    pub off: BTreeSet<String>,
    /// Where each keeps a journal of what it was told.
    pub journal: Option<PathBuf>,
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
            let journal = journal(config.journal.as_deref(), &machine, None);
            let around = Around { channel: None, api: api.clone(), events: events.clone(), journal, stop: stop.clone() };
            tasks.spawn(shell::run(machine, around));
        }
    }
    for (name, socket) in &config.drivers {
        let (name, socket, api, events, stop, config) =
            (name.clone(), socket.clone(), api.clone(), events.clone(), stop.clone(), config.clone());
        tasks.spawn(async move {
            let channel = emulator_common::csi::connect(&socket);
            let Some(driver) = readiness::wait(&name, &socket, &channel, &stop).await else { return };
            let mut sidecars = JoinSet::new();
            for machine in Controller::sidecars(&driver) {
                if !config.off.contains(machine.name()) {
                    let journal = journal(config.journal.as_deref(), &machine, Some(&driver));
                    let channel = Some(channel.clone());
                    let around = Around { channel, api: api.clone(), events: events.clone(), journal, stop: stop.clone() };
                    sidecars.spawn(shell::run(machine, around));
                }
            }
            while sidecars.join_next().await.is_some() {}
        });
    }
    Controllers { stop, tasks }
}

/// A controller's journal; one that cannot be opened is evidence lost, and nothing else.
fn journal(directory: Option<&Path>, machine: &Controller, driver: Option<&model_kube::controllers::Driver>) -> Option<ControllerJournal> {
    let opened = ControllerJournal::open(directory?, machine, driver);
    opened.inspect_err(|error| tracing::warn!(%error, controller = machine.name(), "cannot open its journal")).ok()
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
