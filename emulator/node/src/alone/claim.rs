//! Which instance this node is, and what the endpoint knows of it.

use std::path::PathBuf;
use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;

use super::Alone;
use crate::NodeConfig;

/// Between two questions to an endpoint or a cluster that is not there yet.
const AGAIN: Duration = Duration::from_millis(250);
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How the agent learns which instance it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// By its id.
    Instance(String),
    /// By the providerID of a Kubernetes node, as the AWS drivers do it.
    Node {
        name: String,
        /// None: the service account of the pod that this is.
        kubeconfig: Option<PathBuf>,
    },
}

/// Why an instance could not be claimed. What may still come (the endpoint, the Node, its providerID) is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "the world of {endpoint} has no instance {instance}; it has {known}. Give one of these as the Node's providerID \
         (aws:///ZONE/INSTANCE) or by --instance-id, or add to the `instances` of the world that `ebbtide up --world FILE` reads first: \
         {{privateIp: ADDRESS-IN-A-SUBNET, zone: {zone}, type: m5.large, id: {instance}}}"
    )]
    Unknown { endpoint: String, instance: String, zone: String, known: String },
    #[error("the Node {node} says the providerID {provider:?}, which is none of AWS: start its kubelet with --provider-id=aws:///ZONE/i-…")]
    Foreign { node: String, provider: String },
    #[error("the Node {node} says that it is in {says}, and the world of {endpoint} has {instance} in {has}")]
    Zone { node: String, says: String, endpoint: String, instance: String, has: String },
    #[error(
        "the endpoint keeps its state in {0}, which is not to be seen here; mount its data directory at the same path, or say where it \
         is with --data-dir"
    )]
    Elsewhere(PathBuf),
    #[error("cannot reach the Kubernetes API: {0}")]
    Kubernetes(String),
    #[error("cannot make a client for the endpoint")]
    Client(#[from] reqwest::Error),
}

/// What `/_ebbtide/info` says, as far as it is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    data_directory: PathBuf,
    region: String,
    nodes: Vec<Known>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    name: String,
    instance_id: String,
    zone: String,
    instance_type: String,
    private_ip: String,
}

/// Finds out who we are; waits for what is not there yet.
pub(super) async fn claim(alone: &Alone) -> Result<NodeConfig, ClaimError> {
    let (instance, name, zone) = match &alone.who {
        Who::Instance(id) => (id.clone(), None, None),
        Who::Node { name, kubeconfig } => {
            let (zone, instance) = provider_id(name, kubeconfig.as_ref()).await?;
            (instance, Some(name.clone()), Some(zone))
        }
    };
    let info = info(&alone.endpoint).await?;
    let endpoint = alone.endpoint.clone();
    let known = info.nodes.iter().map(|node| format!("{} ({})", node.instance_id, node.zone)).collect::<Vec<_>>().join(", ");
    let Some(node) = info.nodes.into_iter().find(|node| node.instance_id == instance) else {
        return Err(ClaimError::Unknown { endpoint, instance, zone: zone.unwrap_or_else(|| "ZONE".to_owned()), known });
    };
    if let Some(says) = zone.filter(|says| *says != node.zone) {
        return Err(ClaimError::Zone { node: name.unwrap_or_default(), says, endpoint, instance, has: node.zone });
    }
    let data = alone.data.clone().unwrap_or(info.data_directory);
    // Its first file; a directory that a container's runtime made for want of the real one is empty.
    if !data.join("world.yaml").is_file() {
        return Err(ClaimError::Elsewhere(data));
    }
    Ok(NodeConfig {
        name: name.unwrap_or(node.name),
        instance_id: instance,
        region: info.region,
        zone: node.zone,
        instance_type: node.instance_type,
        internal_ip: node.private_ip,
        labels: Default::default(),
        aws_endpoint: alone.endpoint.trim_end_matches('/').to_owned(),
        kubeconfig: None,
        metadata: None,
        data,
        drivers_off: Default::default(),
        first_loop: alone.first_loop,
        efs_socket: alone.efs_socket.clone(),
        efs_utils: None,
    })
}

/// Asks the endpoint until it answers.
async fn info(endpoint: &str) -> Result<Info, ClaimError> {
    let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build()?;
    let url = format!("{}/_ebbtide/info", endpoint.trim_end_matches('/'));
    let signer = Signer::from_env();
    let (method, host) = ("GET", sigv4::host(endpoint));
    let signable = Signable { service: "ebbtide", method, host, path: "/_ebbtide/info", query: "", content_type: None, body: b"" };
    let mut said = String::new();
    loop {
        let answered = async {
            let mut ask = client.get(&url);
            for (name, value) in signer.sign(&signable, jiff::Timestamp::now()) {
                ask = ask.header(name, value);
            }
            ask.send().await?.error_for_status()?.json::<Info>().await
        };
        match answered.await {
            Ok(info) => return Ok(info),
            Err(error) => say_once(&mut said, || format!("waiting for {url}: {}", crate::host::chain(&error))),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn say_once(said: &mut String, text: impl FnOnce() -> String) {
    let text = text();
    if text != *said {
        tracing::info!("{text}");
        *said = text;
    }
}

/// Zone and instance id of a Kubernetes node, as soon as it is there and has them.
async fn provider_id(node: &str, kubeconfig: Option<&PathBuf>) -> Result<(String, String), ClaimError> {
    let failed = |error: &dyn std::error::Error| ClaimError::Kubernetes(crate::host::chain(error));
    let config = match kubeconfig {
        Some(path) => {
            let read = kube::config::Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await.map_err(|error| failed(&error))?
        }
        None => kube::Config::incluster().map_err(|error| failed(&error))?,
    };
    let nodes: kube::Api<Node> = kube::Api::all(kube::Client::try_from(config).map_err(|error| failed(&error))?);
    let mut said = String::new();
    loop {
        match nodes.get(node).await {
            Ok(found) => match found.spec.and_then(|spec| spec.provider_id) {
                Some(provider) => {
                    return parse_provider_id(&provider).ok_or_else(|| ClaimError::Foreign { node: node.to_owned(), provider });
                }
                None => say_once(&mut said, || format!("the Node {node} has no providerID yet")),
            },
            // Who may not ask is not allowed later either.
            Err(kube::Error::Api(status)) if status.code == 401 || status.code == 403 => {
                return Err(ClaimError::Kubernetes(status.message));
            }
            Err(error) => say_once(&mut said, || format!("waiting for the Node {node}: {}", crate::host::chain(&error))),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// `aws:///us-east-1a/i-0123…` → zone and instance id.
fn parse_provider_id(provider: &str) -> Option<(String, String)> {
    let (zone, instance) = provider.strip_prefix("aws:///")?.split_once('/')?;
    (!zone.is_empty() && instance.starts_with("i-") && !instance.contains('/')).then(|| (zone.to_owned(), instance.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_ids() {
        let parsed = |text: &str| parse_provider_id(text);
        assert_eq!(parsed("aws:///us-east-1a/i-0123456789abcdef0"), Some(("us-east-1a".into(), "i-0123456789abcdef0".into())));
        for foreign in ["kind://docker/kind/kind-worker", "aws:///us-east-1a", "aws:////i-0", "aws:///us-east-1a/fargate-10", ""] {
            assert_eq!(parsed(foreign), None, "{foreign}");
        }
    }
}
