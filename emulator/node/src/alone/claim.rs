//! Which instance this node is, and what the endpoint knows of it.

use std::path::PathBuf;
use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use k8s_openapi::api::core::v1::Node;
use model_common::agent::Register;
use serde::Deserialize;

use super::Alone;
use crate::NodeConfig;
use crate::agent::{self, AgentError};

/// The type of an instance whose Node has no label for it.
const TYPE: &str = "m5.large";
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
        "the world of {endpoint} has no instance {instance}; it has {known}. Give one of these by --instance-id, or say --node-name: a \
         Node of Kubernetes with the providerID aws:///ZONE/{instance} is registered. Or add to the `instances` of the world that \
         `ebbtide up --world FILE` reads first: {{privateIp: ADDRESS-IN-A-SUBNET, zone: ZONE, type: m5.large, id: {instance}}}"
    )]
    Unknown { endpoint: String, instance: String, known: String },
    #[error("the Node {node} cannot be registered as {instance} at {endpoint}")]
    Register {
        node: String,
        endpoint: String,
        instance: String,
        #[source]
        source: AgentError,
    },
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

/// The instance that this node is.
pub(super) struct Claimed {
    pub config: NodeConfig,
    /// What made it one, or would have; none: it was named by its id.
    pub register: Option<Register>,
}

/// Finds out who we are; waits for what is not there yet. A Node that is no instance yet is registered.
pub(super) async fn claim(alone: &Alone) -> Result<Claimed, ClaimError> {
    let endpoint = alone.endpoint.clone();
    let (instance, register) = match &alone.who {
        Who::Instance(id) => (id.clone(), None),
        Who::Node { name, kubeconfig } => {
            let wish = registration(name, kubeconfig.as_ref()).await?;
            let instance = wish.instance_id.clone();
            agent::register(&endpoint, &wish).await.map_err(|source| ClaimError::Register {
                node: name.clone(),
                endpoint: endpoint.clone(),
                instance: instance.clone(),
                source,
            })?;
            (instance, Some(wish))
        }
    };
    let info = info(&endpoint).await?;
    let known = info.nodes.iter().map(|node| format!("{} ({})", node.instance_id, node.zone)).collect::<Vec<_>>().join(", ");
    let Some(node) = info.nodes.into_iter().find(|node| node.instance_id == instance) else {
        return Err(ClaimError::Unknown { endpoint, instance, known });
    };
    if let Some(wish) = register.as_ref().filter(|wish| wish.availability_zone != node.zone) {
        let (node_name, says) = (wish.node_name.clone(), wish.availability_zone.clone());
        return Err(ClaimError::Zone { node: node_name, says, endpoint, instance, has: node.zone });
    }
    let data = alone.data.clone().unwrap_or(info.data_directory);
    // Its first file; a directory that a container's runtime made for want of the real one is empty.
    if !data.join("world.yaml").is_file() {
        return Err(ClaimError::Elsewhere(data));
    }
    let config = NodeConfig {
        name: register.as_ref().map_or(node.name, |wish| wish.node_name.clone()),
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
        journal: false,
    };
    Ok(Claimed { config, register })
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

/// What a Kubernetes node is registered by, as soon as it is there and has a providerID.
async fn registration(node: &str, kubeconfig: Option<&PathBuf>) -> Result<Register, ClaimError> {
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
            Ok(found) => match found.spec.as_ref().and_then(|spec| spec.provider_id.clone()) {
                Some(provider) => {
                    return of_node(node, &found, &provider).ok_or_else(|| ClaimError::Foreign { node: node.to_owned(), provider });
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

/// The registration of a node; none: its providerID is none of AWS.
fn of_node(name: &str, node: &Node, provider: &str) -> Option<Register> {
    let (availability_zone, instance_id) = parse_provider_id(provider)?;
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).cloned();
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal_ip = addresses.filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok());
    Some(Register {
        instance_id,
        node_name: name.to_owned(),
        availability_zone,
        instance_type: label("node.kubernetes.io/instance-type")
            .or_else(|| label("beta.kubernetes.io/instance-type"))
            .unwrap_or_else(|| TYPE.to_owned()),
        internal_ip,
    })
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
