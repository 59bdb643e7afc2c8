//! Who the node is: its Node object and its Lease (kube-api.md §7; kubernetes-storage-path.md §3.11, §7).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams, PostParams};
use model_node::node_status::{self, Reports};
use serde_json::json;

use super::drivers::Drivers;
use super::{KubeletConfig, api_message, plugins};

/// The Lease's duration; it is renewed each quarter of it.
const LEASE_SECONDS: u64 = 40;

/// Makes the Node object what it shall be and says that the node is ready. Retries until the API takes it; then keeps the
/// lease, and the status as [`node_status`] says.
pub async fn run(client: kube::Client, config: &KubeletConfig, drivers: &Drivers) {
    let mut wait = Duration::from_millis(100);
    while let Err(error) = register(&client, config, drivers).await {
        tracing::debug!(error = api_message(&error), "the node is not registered yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
    tracing::info!(node = config.node_name, "node registered");
    let built_in = drivers.built_in(&config.drivers);
    let plugins = plugins::run(drivers, config.kubelet_dir.join("plugins_registry"));
    let lease = keep_lease(&client, config);
    let status = keep_status(&client, config);
    tokio::join!(built_in, plugins, lease, status);
}

async fn register(client: &kube::Client, config: &KubeletConfig, drivers: &Drivers) -> Result<(), kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let mut labels = config.labels.clone();
    let own = [
        ("kubernetes.io/arch", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", &config.node_name),
        ("node.kubernetes.io/instance-type", &config.instance_type),
        ("topology.kubernetes.io/region", &config.region),
        ("topology.kubernetes.io/zone", &config.zone),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    let object = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels, "annotations": annotations},
        "spec": {"providerID": config.provider_id}});
    match nodes.get_opt(&config.node_name).await? {
        None => {
            let node: Node = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            match nodes.create(&PostParams::default(), &node).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Some(_) => {
            let patch = json!({"metadata": object["metadata"], "spec": object["spec"]});
            nodes.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
    }
    drivers.init().await?;
    report(client, config).await
}

/// Looks at the Node and writes its status when it is due, for ever.
async fn keep_status(client: &kube::Client, config: &KubeletConfig) {
    let nodes = Api::<Node>::all(client.clone());
    let (mut reports, mut posted) = (Reports::default(), Instant::now());
    loop {
        tokio::time::sleep(node_status::LOOK + spread(node_status::LOOK_SPREAD)).await;
        let result = async {
            let shown = nodes.get(&config.node_name).await?.status.unwrap_or_default();
            let is = status(config).map_err(kube::Error::SerdeError)?;
            let conditions = shown.conditions.as_deref().unwrap_or_default();
            let changed = node_status::conditions_differ(conditions) || node_status::identity_differs(&shown, &is);
            if reports.look(changed, Some(posted.elapsed()), spread(node_status::REPORT)) {
                report(client, config).await?;
                posted = Instant::now();
            }
            Ok::<_, kube::Error>(())
        };
        if let Err(error) = result.await {
            tracing::debug!(error = api_message(&error), "the node's status was not looked at or not written");
        }
    }
}

/// Some time below `width`; the clock's last digits are chance enough to keep nodes apart.
fn spread(width: Duration) -> Duration {
    let width = u64::try_from(width.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(u64::from(jiff::Timestamp::now().subsec_nanosecond().unsigned_abs()) / 1000 % width)
}

/// The node's status but for what changes with every write: its conditions, and `volumesInUse`, which the volume manager writes.
fn status(config: &KubeletConfig) -> Result<NodeStatus, serde_json::Error> {
    let cpu = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let memory = memory.as_deref().and_then(|text| text.lines().next()).and_then(|line| line.split_whitespace().nth(1)).unwrap_or("0");
    let capacity = json!({"cpu": cpu, "memory": format!("{memory}Ki"), "pods": "110", "ephemeral-storage": "20Gi"});
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    serde_json::from_value(json!({
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": config.internal_ip}, {"type": "InternalDNS", "address": config.node_name},
                      {"type": "Hostname", "address": config.node_name}],
        "nodeInfo": {
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "operatingSystem": "linux",
            "bootID": boot_id.trim(), "machineID": machine.trim(), "systemUUID": machine.trim(), "kernelVersion": release.trim(),
            "osImage": os_image(), "containerRuntimeVersion": concat!("ebbtide://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": "v1.36.3", "kubeProxyVersion": "",
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }))
}

/// Writes the node's status. Conditions of others stay.
async fn report(client: &kube::Client, config: &KubeletConfig) -> Result<(), kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let before = nodes.get(&config.node_name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
    let mut status = status(config).map_err(kube::Error::SerdeError)?;
    status.conditions = Some(node_status::conditions(&before, &Time(jiff::Timestamp::now())));
    nodes.patch_status(&config.node_name, &PatchParams::default(), &Patch::Strategic(json!({"status": status}))).await?;
    Ok(())
}

fn os_image() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

async fn keep_lease(client: &kube::Client, config: &KubeletConfig) {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    loop {
        let spec = json!({"holderIdentity": config.node_name, "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()});
        let patched = leases.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await;
        let result = match patched {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let uid = Api::<Node>::all(client.clone()).get(&config.node_name).await.ok().and_then(|node| node.metadata.uid);
                let owners = uid.map(|uid| json!([{"apiVersion": "v1", "kind": "Node", "name": config.node_name, "uid": uid}]));
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": config.node_name, "ownerReferences": owners}, "spec": spec});
                match serde_json::from_value::<Lease>(lease) {
                    Ok(lease) => leases.create(&PostParams::default(), &lease).await.map(drop),
                    Err(error) => Err(kube::Error::SerdeError(error)),
                }
            }
            other => other.map(drop),
        };
        let wait = match result {
            Ok(()) => LEASE_SECONDS / 4,
            Err(error) => {
                tracing::debug!(error = api_message(&error), "the lease was not renewed");
                1
            }
        };
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
}
