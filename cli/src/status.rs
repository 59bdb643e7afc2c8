//! `ebbtide status`, `down` and `reset`.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use emulator_common::places::Places;
use serde::Serialize;

use crate::args::{DataArgs, ResetArgs};
use crate::node::{NodeState, list};
use crate::output::table;
use crate::state::{Lock, Up};

/// How long `up` may take to stop in order: pods get their grace period, volumes are unmounted.
const STOP_LIMIT: Duration = Duration::from_secs(45);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    data_dir: String,
    running: bool,
    #[serde(flatten)]
    up: Option<Up>,
    /// What `/_ebbtide/health` answers; none when it does not.
    health: Option<serde_json::Value>,
    node_processes: Vec<NodeState>,
    loop_devices: Vec<LoopDevice>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoopDevice {
    pub device: String,
    pub file: String,
}

/// The loop devices over volumes of this data directory, from the kernel.
pub fn loop_devices(places: &Places) -> Vec<LoopDevice> {
    let volumes = places.volumes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        let file = file.trim_end_matches('\n');
        if std::path::Path::new(file).starts_with(&volumes) {
            found.push(LoopDevice { device: format!("/dev/{}", entry.file_name().to_string_lossy()), file: file.to_owned() });
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

pub fn status(args: &DataArgs) -> anyhow::Result<ExitCode> {
    let places = args.places()?;
    let up = Up::running(&places).ok();
    let health = up.as_ref().and_then(|up| get(&up.endpoint(), "/_ebbtide/info").ok());
    let status = Status {
        data_dir: places.data().display().to_string(),
        running: up.is_some(),
        health,
        node_processes: list(&places),
        loop_devices: loop_devices(&places),
        up,
    };
    let running = status.running;
    crate::output::print(args.output, &status, text)?;
    Ok(if running { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(status: &Status) -> String {
    let Some(up) = &status.up else {
        let mut out = format!("not running on {}; start it with `ebbtide up -d`\n", status.data_dir);
        if !status.node_processes.is_empty() {
            out.push_str("but nodes of it run; `ebbtide up` takes them over, `ebbtide down` stops them\n");
        }
        return out;
    };
    let mut out = format!(
        "ebbtide {}   pid {}   data {}\nAWS          {}   {}\nKubernetes   https://{}   KUBECONFIG={}\n",
        up.version,
        up.process.pid,
        status.data_dir,
        up.endpoint(),
        if status.health.is_some() { "answers" } else { "does not answer" },
        up.kube,
        up.kubeconfig.display(),
    );
    if !status.node_processes.is_empty() {
        let rows: Vec<_> = status.node_processes.iter().map(NodeState::row).collect();
        out.push_str(&format!("\n{}", table(&NodeState::COLUMNS, &rows)));
    }
    if !status.loop_devices.is_empty() {
        let rows: Vec<_> = status.loop_devices.iter().map(|device| vec![device.device.clone(), device.file.clone()]).collect();
        out.push_str(&format!("\n{}", table(&["DEVICE", "VOLUME FILE"], &rows)));
    }
    out
}

/// One GET of the running ebbtide.
fn get(endpoint: &str, path: &str) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build()?;
        Ok(client.get(format!("{endpoint}{path}")).send().await?.error_for_status()?.json().await?)
    })
}

/// Stops what runs on a data directory; true when anything did.
fn stop(places: &Places) -> anyhow::Result<bool> {
    // Also one that is still starting, of which there is no `up.json`.
    let up = Lock::holder(places);
    if let Some(up) = up {
        up.signal(rustix::process::Signal::TERM);
        if !up.wait_gone(Duration::from_secs(1)) {
            eprintln!("stopping: pods get their grace period, volumes are unmounted (at most {} s)", STOP_LIMIT.as_secs());
        }
        if !up.wait_gone(STOP_LIMIT) {
            eprintln!("ebbtide: pid {} does not stop; killing it", up.pid);
            up.signal(rustix::process::Signal::KILL);
            up.wait_gone(Duration::from_secs(5));
        }
    }
    // Also after a crash of `up`, which its nodes survive.
    let nodes = crate::node::stop_all(places);
    crate::node::clean(places);
    Up::remove(places);
    Ok(up.is_some() || nodes)
}

pub fn down(args: &DataArgs) -> anyhow::Result<ExitCode> {
    let places = args.places()?;
    let stopped = stop(&places)?;
    let left = loop_devices(&places);
    if !left.is_empty() {
        let left: Vec<_> = left.iter().map(|device| device.device.as_str()).collect();
        bail!("these loop devices are still in use, by something outside of ebbtide: {}", left.join(", "));
    }
    match stopped {
        true => println!("stopped; the state is kept in {}", places.data().display()),
        false => println!("nothing ran on {}", places.data().display()),
    }
    Ok(ExitCode::SUCCESS)
}

/// What in a data directory is ebbtide's: nothing else is deleted.
const OURS: [&str; 12] =
    ["state", "metadata", "volumes", "snapshots", "efs", "kube", "nodes", "journal", "csi-faults.json", "world.yaml", "up.json", "up.log"];

pub fn reset(args: &ResetArgs) -> anyhow::Result<ExitCode> {
    let places = args.data.places()?;
    if !places.data().exists() {
        println!("there is no state in {}", places.data().display());
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            bail!("reset deletes all volumes, file systems and objects in {}; say --yes", places.data().display());
        }
        print!("Delete all volumes, file systems and Kubernetes objects in {}? [y/N] ", places.data().display());
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            println!("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    stop(&places)?;
    if let Some(device) = loop_devices(&places).first() {
        bail!("{} ({}) is still in use, by something outside of ebbtide; nothing was deleted", device.device, device.file);
    }
    // Deleting follows mounts: data of somebody else may lie behind one.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount) =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|mount| std::path::Path::new(mount).starts_with(places.data()))
    {
        bail!("{mount} is mounted; unmount it first (umount {mount}); nothing was deleted");
    }
    for name in OURS {
        let path = places.data().join(name);
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(_) => Ok(()),
        };
        removed.with_context(|| format!("deleting {}", path.display()))?;
    }
    println!("all state in {} is deleted; `ebbtide up` starts anew", places.data().display());
    Ok(ExitCode::SUCCESS)
}
