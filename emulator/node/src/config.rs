//! What a node is told about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use emulator_common::places::Places;
use serde::{Deserialize, Serialize};

use crate::efs_utils::EfsUtils;

/// One node. `ebbtide up` writes it beside the node's files; `ebbtide node run --config FILE` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The Kubernetes node's name and the host name inside, `ip-10-0-1-10.ec2.internal`.
    pub name: String,
    /// `i-` and 17 hex digits.
    pub instance_id: String,
    pub region: String,
    pub zone: String,
    /// `m5.large`
    pub instance_type: String,
    pub internal_ip: String,
    /// Kubernetes labels beyond those the kubelet sets itself.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `http://127.0.0.1:4566`
    pub aws_endpoint: String,
    /// The Kubernetes API's client configuration; none: no kubelet, only the agent and the drivers.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// Where this instance's metadata service is; none: nowhere.
    #[serde(default)]
    pub metadata: Option<MetadataEndpoints>,
    /// The data directory of this ebbtide, absolute.
    pub data: PathBuf,
    /// Built-in drivers whose node plugin does not run here: another one registers itself with the kubelet.
    #[serde(default)]
    pub drivers_off: BTreeSet<String>,
    /// The first loop device number that may be taken.
    #[serde(default = "first_loop")]
    pub first_loop: u32,
    /// Where the EFS server listens for `mount.efs`, as the node sees it.
    #[serde(default = "efs_socket")]
    pub efs_socket: PathBuf,
    /// The real `mount.efs` that mounts here; none: ebbtide's own.
    #[serde(default)]
    pub efs_utils: Option<EfsUtils>,
    /// Keep a journal of what the kubelet is told.
    #[serde(default)]
    pub journal: bool,
}

/// The addresses of an instance's metadata service, `http://127.0.0.1:…`: on EC2 both are http://169.254.169.254.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataEndpoints {
    /// For processes of the node and pods in its network.
    pub node: String,
    /// For pods with a network of their own, one hop further away.
    pub pods: String,
}

/// The variable by which the SDKs find the metadata service.
pub const METADATA_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// Others' loop devices have lower numbers.
pub fn first_loop() -> u32 {
    1000
}

fn efs_socket() -> PathBuf {
    inside::EFS_SOCKET.into()
}

impl NodeConfig {
    pub fn places(&self) -> Places {
        Places::new(&self.data)
    }

    /// `aws:///us-east-1a/i-0123…`, as the cloud controller manager sets it.
    pub fn provider_id(&self) -> String {
        format!("aws:///{}/{}", self.zone, self.instance_id)
    }
}

/// Where things are inside a node.
pub mod inside {
    /// The kubelet's directory.
    pub const KUBELET: &str = "/var/lib/kubelet";
    /// The node's sockets.
    pub const RUN: &str = "/run/ebbtide/node";
    /// Where the EFS server listens for `mount.efs`.
    pub const EFS_SOCKET: &str = "/run/ebbtide/node/efs.sock";
    /// Who lets programs of efs-utils into the instance's network, and that network.
    pub const VPC_SOCKET: &str = "/run/ebbtide/node/vpc.sock";
    pub const VPC_NETWORK: &str = "/run/ebbtide/node/vpc.netns";
    /// Where the kubelet serves logs and exec.
    pub const KUBELET_SOCKET: &str = "/run/ebbtide/node/kubelet.sock";

    /// The socket of a driver's node plugin.
    pub fn plugin_socket(driver: &str) -> std::path::PathBuf {
        std::path::Path::new(KUBELET).join("plugins").join(driver).join("csi.sock")
    }
}
