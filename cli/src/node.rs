//! Nodes from the outside: started and kept running by `up`, listed, entered, killed; and what runs inside one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use emulator_common::csi::faults::Rule;
use emulator_common::places::Places;
use emulator_node::NodeConfig;
use emulator_node::config::{MetadataEndpoints, first_loop, inside};
use emulator_node::efs_utils::EfsUtils;
use model_aws::world::Node;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::{DataArgs, NodeArgs, NodeCommand};
use crate::state::Up;

/// How long a node may take to stop its pods in order.
const GRACE: Duration = Duration::from_secs(20);

/// A node that crashed boots again after so long; each time after twice as long.
const REBOOT: Duration = Duration::from_millis(500);
/// The longest wait: a node that cannot live, one that the AWS side refuses for instance, does not keep the machine busy.
const LONGEST_REBOOT: Duration = Duration::from_secs(30);
/// A node that ran so long starts its waits anew.
const STABLE: Duration = Duration::from_secs(60);

/// A file beside a node's others that says: switched off by hand, do not start it.
const OFF: &str = "off";

/// Keeps the nodes of one `up` running.
pub struct Supervisor {
    places: Places,
    stop: CancellationToken,
    starts: Starts,
}

/// What came of the last start of each node.
#[derive(Clone, Default)]
pub struct Starts(Arc<Mutex<BTreeMap<String, Start>>>);

/// What came of the last start of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// It ran before this `up` did.
    Adopted,
    Started,
    Failed(String),
}

impl Starts {
    fn note(&self, node: &str, start: Start) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), start);
    }

    /// None: it was not started yet.
    pub fn of(&self, node: &str) -> Option<Start> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

impl Supervisor {
    /// Adopts the nodes that run already and starts the others.
    pub fn start(
        places: &Places,
        nodes: &[Node],
        aws_endpoint: &str,
        kubeconfig: &Path,
        drivers_off: &BTreeSet<String>,
        efs_utils: Option<&EfsUtils>,
        journal: bool,
    ) -> anyhow::Result<Self> {
        let (stop, starts) = (CancellationToken::new(), Starts::default());
        for node in nodes {
            let config = NodeConfig {
                name: node.name.clone(),
                instance_id: node.instance_id.clone(),
                region: node.region.clone(),
                zone: node.zone.clone(),
                instance_type: node.instance_type.clone(),
                internal_ip: node.private_ip.to_string(),
                labels: node.labels.clone(),
                aws_endpoint: aws_endpoint.to_owned(),
                kubeconfig: Some(kubeconfig.to_owned()),
                metadata: crate::metadata::endpoints(places, &node.instance_id),
                data: places.data().to_owned(),
                drivers_off: drivers_off.clone(),
                first_loop: first_loop(),
                efs_socket: inside::EFS_SOCKET.into(),
                efs_utils: efs_utils.cloned(),
                journal,
            };
            tokio::spawn(keep(config, starts.clone(), stop.clone()));
        }
        Ok(Self { places: places.clone(), stop, starts })
    }

    pub fn starts(&self) -> &Starts {
        &self.starts
    }

    /// Stops all nodes, at the same time. Blocks until they are gone.
    pub fn stop(self) {
        self.stop.cancel();
        stop_all(&self.places);
    }
}

/// The waits before a node boots again.
struct Waits(Duration);

impl Waits {
    /// The wait after a run of so long.
    fn after(&mut self, ran: Duration) -> Duration {
        let wait = if ran < STABLE { self.0 } else { REBOOT };
        self.0 = (wait * 2).min(LONGEST_REBOOT);
        wait
    }
}

/// Runs one node for as long as `up` runs: a crash of it is a reboot.
async fn keep(config: NodeConfig, starts: Starts, stop: CancellationToken) {
    let off = config.places().node(&config.name).join(OFF);
    let mut waits = Waits(REBOOT);
    loop {
        if off.exists() {
            waits = Waits(REBOOT);
            without_power(&config, &off, &stop).await;
            if stop.is_cancelled() {
                return;
            }
        }
        let started = Instant::now();
        let spawned = {
            let config = config.clone();
            let exe = std::env::current_exe();
            tokio::task::spawn_blocking(move || anyhow::Ok(emulator_node::spawn(&config, &exe?)?)).await
        };
        match spawned {
            Ok(Ok(node)) => {
                starts.note(&config.name, if node.adopted { Start::Adopted } else { Start::Started });
                let verb = if node.adopted { "still runs" } else { "started" };
                tracing::info!(node = config.name, pid = node.process.pid, "the node {verb}");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = node.ended() => {}
                }
                if off.exists() {
                    continue;
                }
            }
            Ok(Err(error)) => {
                tracing::error!(node = config.name, "{error:#}");
                starts.note(&config.name, Start::Failed(format!("{error:#}")));
            }
            Err(error) => tracing::error!(node = config.name, "starting the node: {error}"),
        }
        let wait = waits.after(started.elapsed());
        tracing::warn!(node = config.name, "the node ended; it boots again in {wait:?}");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Until a node is switched on again, or everything stops: EC2 goes on with its volumes meanwhile.
async fn without_power(config: &NodeConfig, off: &Path, stop: &CancellationToken) {
    let over = stop.child_token();
    let hand = tokio::spawn(emulator_node::off::run(Arc::new(config.clone()), over.clone()));
    while off.exists() && !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(REBOOT) => {}
        }
    }
    over.cancel();
    // The node's own agent comes after it.
    match hand.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(node = config.name, "its devices while it had no power: {:#}", anyhow::Error::from(error)),
        Err(error) => tracing::error!(node = config.name, "its devices while it had no power: {error}"),
    }
}

/// A node's process, as the data directory and the kernel have it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    pub name: String,
    pub instance_id: String,
    pub zone: String,
    /// None: it does not run.
    pub pid: Option<i32>,
    /// Switched off by `ebbtide node kill`.
    pub off: bool,
    /// Where its instance metadata service is.
    pub metadata: Option<MetadataEndpoints>,
}

impl NodeState {
    /// The titles of [`NodeState::row`].
    pub const COLUMNS: [&str; 6] = ["NODE", "INSTANCE", "ZONE", "PID", "STATE", "METADATA"];

    pub fn row(&self) -> Vec<String> {
        let state = match (self.pid, self.off) {
            (Some(_), _) => "running",
            (None, true) => "off",
            (None, false) => "stopped",
        };
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let metadata = self.metadata.as_ref().map_or_else(|| "-".to_owned(), |metadata| metadata.node.clone());
        vec![self.name.clone(), self.instance_id.clone(), self.zone.clone(), pid, state.to_owned(), metadata]
    }
}

/// All nodes that a data directory knows.
pub fn list(places: &Places) -> Vec<NodeState> {
    let world = std::fs::read_to_string(places.data().join("world.yaml")).unwrap_or_default();
    let Ok(world) = serde_yaml::from_str::<model_aws::world::World>(&world) else { return Vec::new() };
    let nodes = world.nodes().into_iter().filter(|node| places.node(&node.name).exists());
    nodes
        .map(|node| NodeState {
            pid: emulator_node::find(places, &node.name).map(|record| record.pid),
            off: places.node(&node.name).join(OFF).exists(),
            metadata: crate::metadata::endpoints(places, &node.instance_id),
            name: node.name,
            instance_id: node.instance_id,
            zone: node.zone,
        })
        .collect()
}

/// Stops the nodes of a data directory, whoever started them, at the same time. False: none ran.
pub fn stop_all(places: &Places) -> bool {
    std::thread::scope(|scope| {
        let stop = |node: NodeState| scope.spawn(move || emulator_node::stop(places, &node.name, GRACE));
        let stopping: Vec<_> = list(places).into_iter().map(stop).collect();
        // All are waited for; a thread that panicked stopped nothing.
        stopping.into_iter().filter_map(|thread| thread.join().ok()).filter(|stopped| *stopped).count() > 0
    })
}

/// Takes away what only the kernel still holds when all nodes are gone: the loop devices over this directory's volumes.
pub fn clean(places: &Places) {
    emulator_node::loops::remove_all_under(&places.volumes());
    // Sockets that nobody serves any more.
    let _ = std::fs::remove_dir_all(places.run());
    // Faults of a run that did not come to its end.
    let _ = std::fs::remove_file(places.csi_faults());
}

pub fn node(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let Some(command) = args.command else { return crate::agent::agent(args.agent) };
    match command {
        NodeCommand::Ls(data) => ls(&data),
        NodeCommand::Exec { data, node, command } => {
            let status = emulator_node::exec(&data.places()?, &node, &command)?;
            let code =
                std::os::unix::process::ExitStatusExt::signal(&status).map_or_else(|| status.code().unwrap_or(1), |signal| 128 + signal);
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        NodeCommand::Kill { data, node } => {
            power_off(&data.places()?, &node)?;
            println!("{node} is off; `ebbtide node start {node}` boots it");
            Ok(ExitCode::SUCCESS)
        }
        NodeCommand::Start { data, node } => {
            let places = data.places()?;
            Up::running(&places)?;
            match power_on(&places, &node)? {
                true => println!("{node} boots"),
                false => println!("{node} is not switched off"),
            }
            Ok(ExitCode::SUCCESS)
        }
        NodeCommand::Run { config } => {
            let text = std::fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
            let config: NodeConfig =
                serde_json::from_str(&text).with_context(|| format!("{} is not a node's configuration", config.display()))?;
            let hooks = emulator_node::NodeHooks { efs: Some(Box::new(crate::efs::serve)) };
            match emulator_node::run(config, hooks)? {}
        }
    }
}

/// Cuts a node's power; it stays off.
fn power_off(places: &Places, node: &str) -> anyhow::Result<()> {
    let dir = known(places, node)?;
    std::fs::write(dir.join(OFF), b"").with_context(|| format!("writing in {}", dir.display()))?;
    emulator_node::stop(places, node, Duration::ZERO);
    Ok(())
}

/// Lets a node boot. False: it was not switched off.
fn power_on(places: &Places, node: &str) -> anyhow::Result<bool> {
    match std::fs::remove_file(known(places, node)?.join(OFF)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("removing the mark of a node that is off"),
    }
}

/// The machines of an ebbtide, for live runs.
pub struct Machines(pub Places);

impl scenarios::live::Machines for Machines {
    fn power_off(&self, node: &str) -> Result<(), String> {
        power_off(&self.0, node).map_err(|error| format!("{error:#}"))
    }

    fn power_on(&self, node: &str) -> Result<(), String> {
        power_on(&self.0, node).map(drop).map_err(|error| format!("{error:#}"))
    }

    fn meet(&self, rules: &[Rule]) -> Result<(), String> {
        let file = self.0.csi_faults();
        let failed = |error: std::io::Error| format!("writing {}: {error}", file.display());
        if rules.is_empty() {
            return match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        // Whole or not at all: drivers read it at any time.
        let new = file.with_extension("new");
        let text = serde_json::to_vec_pretty(rules).map_err(|error| error.to_string())?;
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file)).map_err(failed)
    }
}

fn ls(data: &DataArgs) -> anyhow::Result<ExitCode> {
    let nodes = list(&data.places()?);
    crate::output::print(data.output, &nodes, |nodes| {
        let rows: Vec<_> = nodes.iter().map(NodeState::row).collect();
        crate::output::table(&NodeState::COLUMNS, &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The directory of a node that exists; the error names those that do.
fn known(places: &Places, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let nodes = list(places);
    if !nodes.iter().any(|node| node.name == name) {
        let names: Vec<_> = nodes.into_iter().map(|node| node.name).collect();
        bail!("there is no node {name}; nodes: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    }
    Ok(places.node(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_live_boots_less_and_less_often() {
        let mut waits = Waits(REBOOT);
        let seconds: Vec<f64> = (0..8).map(|_| waits.after(Duration::from_secs(1)).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(waits.after(STABLE), REBOOT, "it ran for a minute");
        assert_eq!(waits.after(Duration::ZERO), REBOOT * 2);
    }
}
