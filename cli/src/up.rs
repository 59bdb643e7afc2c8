//! `ebbtide up`: everything in one process, and the nodes beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use emulator_common::places::Places;
use emulator_node::efs_utils::EfsUtils;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use model_aws::world::World;
use tokio_util::sync::CancellationToken;

use crate::args::{Auth, UpArgs};
use crate::node::{Start, Starts, Supervisor};
use crate::state::{Lock, Up};
use emulator_common::process::Process;

/// How long nodes may take until they are Ready before `up` says so and goes on.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Nodes none of which could be started for so long are not waited for.
const START_LIMIT: Duration = Duration::from_secs(4);

pub fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let places = args.data.places()?;
    if args.detach {
        return detach(args, &places);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(run(args, &places))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the same command in the background and waits until it is ready.
fn detach(args: &UpArgs, places: &Places) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(places.data()).with_context(|| format!("making the data directory {}", places.data().display()))?;
    if let Ok(up) = Up::running(places) {
        bail!("ebbtide already runs on {} (pid {}); stop it with `ebbtide down`", places.data().display(), up.process.pid);
    }
    Up::remove(places);
    let log_path = places.data().join("up.log");
    let log = std::fs::File::create(&log_path).with_context(|| format!("making {}", log_path.display()))?;
    let arguments = std::env::args_os().skip(1).filter(|arg| arg != "-d" && arg != "--detach");
    let mut command = Command::new(std::env::current_exe().context("finding the own program")?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // A session of its own: the terminal's Ctrl-C and hang-up do not reach it.
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    let mut child = command.spawn().context("starting ebbtide in the background")?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(10)..].join("\n"));
            bail!("ebbtide did not start ({status}); the whole log is in {}", log_path.display());
        }
        if let Ok(up) = Up::running(places) {
            crate::output::print(args.data.output, &up, |up| {
                format!("{}Ready in {:.2} s. Log: {}\n", greeting(up), started.elapsed().as_secs_f64(), log_path.display())
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn greeting(up: &Up) -> String {
    let trouble: String = up.not_ready.iter().map(|(node, why)| format!("NOT READY   {node}: {why}\n")).collect();
    format!(
        "AWS         {}   ({})\nKubernetes  https://{}   (KUBECONFIG={})\nNodes       {}\n{trouble}Use it      eval \"$(ebbtide env)\"\n",
        up.endpoint(),
        up.region,
        up.kube,
        up.kubeconfig.display(),
        if up.nodes.is_empty() { "none".to_owned() } else { up.nodes.join(", ") },
    )
}

/// Binds a listener. Port 0 means: the port of the last time when it is free (the nodes and kubeconfigs know it), else any.
fn bind(what: &str, option: &str, wanted: SocketAddr, last: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    let last = last.filter(|last| wanted.port() == 0 && last.ip() == wanted.ip());
    if let Some(Ok(listener)) = last.map(TcpListener::bind) {
        return Ok(listener);
    }
    TcpListener::bind(wanted)
        .with_context(|| format!("{what} cannot listen on {wanted}; choose another address with {option} (port 0: any free one)"))
}

/// The world of this data directory: the one it was started with first.
fn world(args: &UpArgs, places: &Places) -> anyhow::Result<World> {
    let kept = places.data().join("world.yaml");
    let read = |path: &PathBuf| -> anyhow::Result<World> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the world {}", path.display()))?;
        let world: World = serde_yaml::from_str(&text).with_context(|| format!("the world {} is not valid", path.display()))?;
        world.check().with_context(|| format!("the world {} is not valid", path.display()))?;
        Ok(world)
    };
    let world = match (&args.world, kept.exists()) {
        (None, true) => return read(&kept),
        (None, false) => World::default(),
        (Some(given), true) => {
            let (given_world, kept_world) = (read(given)?, read(&kept)?);
            if given_world != kept_world {
                bail!(
                    "{} already holds another world; delete its state with `ebbtide reset`, or use another --data-dir for {}",
                    places.data().display(),
                    given.display()
                );
            }
            return Ok(kept_world);
        }
        (Some(given), false) => read(given)?,
    };
    // Whole or not at all: a crash here must not leave a world that no later start can read.
    let new = kept.with_extension("yaml.new");
    std::fs::write(&new, serde_yaml::to_string(&world)?).with_context(|| format!("writing {}", new.display()))?;
    std::fs::rename(&new, &kept).with_context(|| format!("writing {}", kept.display()))?;
    Ok(world)
}

/// The path of a socket given as `unix:///path` or as a path.
fn socket(given: &str) -> anyhow::Result<PathBuf> {
    let path = given.strip_prefix("unix://").unwrap_or(given);
    if !path.starts_with('/') {
        bail!("{given} is not the address of a CSI driver; give unix:///path/to/csi.sock");
    }
    Ok(PathBuf::from(path))
}

async fn run(args: &UpArgs, places: &Places) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    let _lock = Lock::take(places)?;
    let last = Up::last(places);
    Up::remove(places);
    let world = world(args, places)?;
    let root = rustix::process::geteuid().is_root();
    if !root && !args.no_nodes {
        tracing::warn!(
            "not root: the APIs work, but there are no nodes, no block devices and no mounts; start with sudo for the full product"
        );
    }
    let with_nodes = root && !args.no_nodes && !args.external_nodes;
    if (!args.listen.ip().is_loopback() || !args.kube_listen.ip().is_loopback()) && args.auth != Auth::Verify {
        bail!("an address that is not loopback needs --auth verify: whoever reaches it commands root on this machine");
    }

    let efs_utils =
        args.faithful.as_deref().filter(|_| with_nodes).map(|root| EfsUtils::find(&std::path::absolute(root)?).context("--faithful"));
    let efs_utils = efs_utils.transpose()?;
    let stop = CancellationToken::new();
    let aws_listener = bind("the AWS endpoint", "--listen", args.listen, last.as_ref().map(|up| up.aws))?;
    let kube_listener = bind("the Kubernetes API", "--kube-listen", args.kube_listen, last.as_ref().map(|up| up.kube))?;
    let metadata = crate::metadata::bind(places, &world.nodes())?;
    let kube_address = kube_listener.local_addr().context("reading the address of the Kubernetes API")?;
    let provider = emulator_aws::identity::IdentityProvider {
        issuer: format!("https://{}", SocketAddr::new(loopback(kube_address), kube_address.port())),
        keys: places.key_set(),
    };
    let aws = emulator_aws::start(emulator_aws::Config {
        listener: aws_listener,
        places: places.clone(),
        world: world.clone(),
        profile: args.profile.into(),
        auth: match args.auth {
            Auth::Accept => emulator_aws::Auth::Accept,
            Auth::Verify => emulator_aws::Auth::Verify { keys: BTreeMap::from([(args.access_key.clone(), args.secret_key.clone())]) },
        },
        devices: !args.no_nodes,
        no_devices: (!root).then(|| "ebbtide runs without root, which loop devices and mounts need; start it with sudo".to_owned()),
        journal: true,
        journal_effects: args.journal,
        hosts: args.hosts.clone(),
        metadata,
        identity_providers: vec![provider],
    })
    .await
    .context("starting the AWS endpoint")?;
    let local_aws = SocketAddr::new(loopback(aws.addr), aws.addr.port());
    tracing::info!(address = %aws.addr, "the AWS endpoint answers");

    let credentials = (args.access_key.clone(), args.secret_key.clone());
    let drivers_off: BTreeSet<String> = args.drivers_off.iter().cloned().collect();
    let mut drivers = BTreeMap::new();
    for (name, short, given) in [("ebs.csi.aws.com", "ebs", &args.ebs_driver), ("efs.csi.aws.com", "efs", &args.efs_driver)] {
        let path = match given {
            Some(given) => socket(given)?,
            None if drivers_off.contains(name) => continue,
            None => places.csi_socket(short),
        };
        drivers.insert(name.to_owned(), path);
    }
    let built_in = |name: &str, short: &str| drivers.get(name).filter(|socket| **socket == places.csi_socket(short)).cloned();
    let controllers = tokio::spawn(emulator_node::serve_controllers(
        emulator_node::ControllersConfig {
            ebs_socket: built_in("ebs.csi.aws.com", "ebs"),
            efs_socket: built_in("efs.csi.aws.com", "efs"),
            aws_endpoint: format!("http://{local_aws}"),
            region: world.region.clone(),
            credentials,
            faults: places.csi_faults(),
        },
        stop.clone(),
    ));

    let kube = emulator_kube::start(emulator_kube::Config {
        listener: kube_listener,
        places: places.clone(),
        drivers,
        controllers_off: args.controllers_off.iter().cloned().collect(),
        journal: args.journal,
    })
    .await
    .context("starting the Kubernetes API")?;
    tracing::info!(address = %kube.addr, kubeconfig = %kube.kubeconfig.display(), "the Kubernetes API answers");

    let nodes = if with_nodes { world.nodes() } else { Vec::new() };
    let endpoint = format!("http://{local_aws}");
    let supervisor = Supervisor::start(places, &nodes, &endpoint, &kube.kubeconfig, &drivers_off, efs_utils.as_ref(), args.journal)?;
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let waited = tokio::select! {
        not_ready = wait_ready(&kube, &names, supervisor.starts()) => Some(not_ready),
        () = signals.wait() => None,
    };
    if let Some(not_ready) = waited {
        for (node, why) in &not_ready {
            tracing::warn!(node, "not Ready: {why}");
        }
        let up = Up {
            process: Process::this().context("reading /proc/self/stat; is /proc mounted?")?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            aws: local_aws,
            kube: SocketAddr::new(loopback(kube.addr), kube.addr.port()),
            kubeconfig: kube.kubeconfig.clone(),
            region: world.region.clone(),
            profile: args.profile.into(),
            access_key: args.access_key.clone(),
            nodes: names,
            not_ready,
        };
        up.write(places)?;
        tracing::info!("ready in {:.2} s", started.elapsed().as_secs_f64());
        print!("{}", greeting(&up));
        signals.wait().await;
    }

    tracing::info!("stopping");
    // The nodes first, while both APIs still answer them: pods end, volumes are unmounted.
    tokio::task::spawn_blocking(move || supervisor.stop()).await.context("stopping the nodes")?;
    kube.stop().await;
    stop.cancel();
    let _ = controllers.await;
    aws.stop().await;
    crate::node::clean(places);
    Up::remove(places);
    tracing::info!("stopped");
    Ok(())
}

/// The address by which this machine itself reaches a listener.
fn loopback(address: SocketAddr) -> std::net::IpAddr {
    match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Waits until all nodes are Ready; returns those that are not in time, or that could not be started several times, and why.
async fn wait_ready(kube: &emulator_kube::Running, names: &[String], starts: &Starts) -> BTreeMap<String, String> {
    let (started, began) = (Instant::now(), Timestamp::now());
    // What the store says of a node that is only starting is what its last kubelet said.
    let ready = |name: &str, node: &Node| match starts.of(name) {
        Some(Start::Adopted) => is_ready(node, Timestamp::MIN),
        Some(Start::Started) => is_ready(node, began),
        Some(Start::Failed(_)) | None => false,
    };
    let failure = |name: &str| match starts.of(name) {
        Some(Start::Failed(why)) => Some(why),
        Some(Start::Adopted | Start::Started) | None => None,
    };
    loop {
        let waiting: Vec<&String> =
            kube.api.read(|store| names.iter().filter(|name| !store.get::<Node>("", name).is_some_and(|node| ready(name, node))).collect());
        let late = started.elapsed() > READY_LIMIT;
        // Tried a few times by then.
        let hopeless = started.elapsed() > START_LIMIT && waiting.iter().all(|name| failure(name).is_some());
        if waiting.is_empty() || late || hopeless {
            let slow = || format!("it is not after {READY_LIMIT:?}; see its log in the directory `nodes` of the data directory");
            return waiting.into_iter().map(|name| (name.clone(), failure(name).unwrap_or_else(slow))).collect();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether its kubelet said so since then; it tells seconds.
fn is_ready(node: &Node, since: Timestamp) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| {
        let heard = condition.last_heartbeat_time.as_ref().is_some_and(|time| time.0.as_second() >= since.as_second());
        condition.type_ == "Ready" && condition.status == "True" && heard
    })
}

/// SIGINT and SIGTERM, from the moment it is made.
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("watching SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("watching SIGTERM")?,
        })
    }

    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_a_socket() {
        assert_eq!(socket("unix:///run/csi.sock").unwrap(), PathBuf::from("/run/csi.sock"));
        assert!(socket("tcp://1.2.3.4:5").is_err());
    }
}
