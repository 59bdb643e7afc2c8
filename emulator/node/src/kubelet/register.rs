//! Who the node is: its Node object and its Lease (kube-api.md §7; kubernetes-storage-path.md §3.11, §7).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::drivers::Drivers;
use super::{KubeletConfig, plugins};

/// The Lease's duration; it is renewed each quarter of it.
const LEASE_SECONDS: u64 = 40;

/// Makes the Node object what it shall be and says that the node is ready. Retries until the API takes it; then keeps the
/// lease and reports again every five minutes.
pub async fn run(client: kube::Client, config: &KubeletConfig, drivers: &Drivers) {
    let mut wait = Duration::from_millis(100);
    while let Err(error) = register(&client, config).await {
        tracing::debug!(error = super::api_message(&error), "the node is not registered yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
    tracing::info!(node = config.node_name, "node registered");
    let built_in = drivers.built_in(&config.drivers);
    let plugins = plugins::run(drivers, config.kubelet_dir.join("plugins_registry"));
    let lease = keep_lease(&client, config);
    let status = async {
        loop {
            tokio::time::sleep(Duration::from_secs(300)).await;
            if let Err(error) = report(&client, config).await {
                tracing::debug!(error = super::api_message(&error), "the node's status was not written");
            }
        }
    };
    tokio::join!(built_in, plugins, lease, status);
}

async fn register(client: &kube::Client, config: &KubeletConfig) -> Result<(), kube::Error> {
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
    report(client, config).await
}

/// The node's status, without `volumesInUse`, which the volume manager writes.
async fn report(client: &kube::Client, config: &KubeletConfig) -> Result<(), kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let current = nodes.get(&config.node_name).await?;
    let before = current.status.and_then(|status| status.conditions).unwrap_or_default();
    let now = super::now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let since = same.and_then(|condition| condition.last_transition_time.as_ref()).map_or(json!(now), |time| json!(time));
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": since})
    };
    let cpu = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let memory = memory.as_deref().and_then(|text| text.lines().next()).and_then(|line| line.split_whitespace().nth(1)).unwrap_or("0");
    let capacity = json!({"cpu": cpu, "memory": format!("{memory}Ki"), "pods": "110", "ephemeral-storage": "20Gi"});
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let status = json!({
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": config.internal_ip}, {"type": "InternalDNS", "address": config.node_name},
                      {"type": "Hostname", "address": config.node_name}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "nodeInfo": {
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "operatingSystem": "linux",
            "bootID": boot_id.trim(), "machineID": machine.trim(), "systemUUID": machine.trim(), "kernelVersion": release.trim(),
            "osImage": os_image(), "containerRuntimeVersion": concat!("ebbtide://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": "v1.36.3", "kubeProxyVersion": "",
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    });
    nodes.patch_status(&config.node_name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await?;
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
                tracing::debug!(error = super::api_message(&error), "the lease was not renewed");
                1
            }
        };
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
}
