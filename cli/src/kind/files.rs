//! The files of `deploy/`, as they are for the default world, and filled in for another one.
//!
//! What is filled in stands in the files as a value that is right for most, in double quotes or whole on its line, so that they can be
//! used as they lie there; the tests see to it that every replaced text is found.

use std::path::Path;

use anyhow::bail;
use clap::ValueEnum;
use model_aws::world::{Node, World};
use model_common::digest::Digest;

const CONFIG: &str = include_str!("../../../deploy/kind-config.yaml");
const ACCESS: &str = include_str!("../../../deploy/access.yaml");
const AGENT: &str = include_str!("../../../deploy/agent.yaml");
const VALUES_EBS: &str = include_str!("../../../deploy/values-ebs.yaml");
const VALUES_EFS: &str = include_str!("../../../deploy/values-efs.yaml");

/// Where a worker begins in kind-config.yaml.
const WORKER: &str = "- role: worker\n";

/// A driver with an upstream chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    Ebs,
    Efs,
}

/// Where a chart comes from.
pub struct Chart {
    pub name: &'static str,
    pub repository: &'static str,
    pub version: &'static str,
}

impl Driver {
    pub fn chart(self) -> Chart {
        match self {
            Self::Ebs => {
                Chart { name: "aws-ebs-csi-driver", repository: "https://kubernetes-sigs.github.io/aws-ebs-csi-driver", version: "2.64.0" }
            }
            Self::Efs => {
                Chart { name: "aws-efs-csi-driver", repository: "https://kubernetes-sigs.github.io/aws-efs-csi-driver", version: "4.4.1" }
            }
        }
    }
}

/// What pods need in order to call the endpoint.
#[derive(Debug, Clone)]
pub struct Access {
    pub endpoint: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Access {
    /// Changes when any of it does.
    pub fn digest(&self) -> String {
        let mut digest = Digest::default();
        digest.add(&[&self.endpoint, &self.region, &self.access_key, &self.secret_key]);
        digest.to_string()
    }
}

/// Any text as one YAML scalar.
fn quote(text: &str) -> String {
    // Strings always have a JSON form, and that is YAML.
    serde_json::to_string(text).unwrap_or_default()
}

fn fill(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A configuration for kind: a worker for each node of the world.
pub fn config(world: &World, data: &Path) -> anyhow::Result<String> {
    let nodes = world.nodes();
    if nodes.is_empty() {
        bail!("the world has no instance that is a node; give its `instances` one without `node: false`");
    }
    let (head, workers) = CONFIG.split_at(CONFIG.find(WORKER).unwrap_or(CONFIG.len()));
    let end = workers.get(1..).and_then(|rest| rest.find(WORKER)).map_or(workers.len(), |at| at + 1);
    let first = World::default().nodes().remove(0);
    let mut out = head.to_owned();
    for node in &nodes {
        out.push_str(&fill(
            &workers[..end],
            &[
                (&first.provider_id, node.provider_id.clone()),
                (
                    "    node.kubernetes.io/instance-type: m5.large\n",
                    format!("    node.kubernetes.io/instance-type: {}\n", node.instance_type),
                ),
                ("    topology.kubernetes.io/region: us-east-1\n", format!("    topology.kubernetes.io/region: {}\n", node.region)),
                (
                    "    topology.kubernetes.io/zone: us-east-1a\n",
                    format!("    topology.kubernetes.io/zone: {}\n{}", node.zone, more_labels(node)),
                ),
                ("\"/var/lib/ebbtide\"", quote(&data.display().to_string())),
            ],
        ));
    }
    Ok(out)
}

/// Labels of the world beyond those that every node has. Most of those that begin with Kubernetes' own domains a kubelet refuses to set.
fn more_labels(node: &Node) -> String {
    let others = node.labels.iter().filter(|(key, _)| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let kubernetes = ["kubernetes.io", "k8s.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}")));
        !kubernetes && !domain.starts_with("k8s.io") && domain != "topology.k8s.aws" && domain != "eks.amazonaws.com"
    });
    others.map(|(key, value)| format!("    {}: {}\n", quote(key), quote(value))).collect()
}

/// The values for a driver's chart.
pub fn values(driver: Driver, region: &str) -> String {
    let text = match driver {
        Driver::Ebs => VALUES_EBS,
        Driver::Efs => VALUES_EFS,
    };
    fill(text, &[("\"us-east-1\"", quote(region))])
}

/// Namespace, endpoint and keys.
pub fn access(access: &Access) -> String {
    fill(
        ACCESS,
        &[
            ("\"http://172.18.0.1:4566\"", quote(&access.endpoint)),
            ("\"us-east-1\"", quote(&access.region)),
            ("key_id: \"test\"", format!("key_id: {}", quote(&access.access_key))),
            ("  access_key: \"test\"", format!("  access_key: {}", quote(&access.secret_key))),
            ("ACCESS_KEY_ID: \"test\"", format!("ACCESS_KEY_ID: {}", quote(&access.access_key))),
            ("SECRET_ACCESS_KEY: \"test\"", format!("SECRET_ACCESS_KEY: {}", quote(&access.secret_key))),
        ],
    )
}

/// The agent's DaemonSet with what it needs.
pub fn agent(image: &str, data: &Path, access: &Access) -> String {
    fill(
        AGENT,
        &[
            ("\"ebbtide:latest\"", quote(image)),
            ("\"/var/lib/ebbtide\"", quote(&data.display().to_string())),
            ("ebbtide/access: \"none\"", format!("ebbtide/access: {}", quote(&access.digest()))),
        ],
    )
}

#[cfg(test)]
mod tests;
