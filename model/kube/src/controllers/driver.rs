//! What the controllers know of a CSI driver, and how its sidecars are set up (§6.1).

use std::time::Duration;

/// A driver with its sidecars' settings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Driver {
    /// `ebs.csi.aws.com`.
    pub name: String,
    /// CREATE_DELETE_VOLUME.
    pub provisions: bool,
    /// PUBLISH_UNPUBLISH_VOLUME.
    pub attaches: bool,
    /// EXPAND_VOLUME.
    pub expands: bool,
    /// MODIFY_VOLUME.
    pub modifies: bool,
    /// CREATE_DELETE_SNAPSHOT.
    pub snapshots: bool,
    /// LIST_SNAPSHOTS.
    pub lists_snapshots: bool,
    /// CLONE_VOLUME.
    pub clones: bool,
    /// VOLUME_ACCESSIBILITY_CONSTRAINTS.
    pub topology: bool,
    /// SINGLE_NODE_MULTI_WRITER.
    pub single_node_multi_writer: bool,
    /// `--default-fstype`; empty for none.
    pub default_fstype: String,
    /// `--extra-create-metadata`.
    pub extra_create_metadata: bool,
    /// `--strict-topology`.
    pub strict_topology: bool,
    pub provision_timeout: Duration,
    pub attach_timeout: Duration,
    pub expand_timeout: Duration,
    pub snapshot_timeout: Duration,
    /// `--retry-interval-max` of provisioner, resizer and snapshotter.
    pub longest_retry: Duration,
    /// `storage.kubernetes.io/csiProvisionerIdentity` of the volumes it makes: `<ms>-<random>-<driver>`.
    pub identity: String,
    /// `source.component` of the provisioner's events: `<driver>_<pod>_<uuid>`.
    pub component: String,
}

impl Driver {
    /// A driver that can do everything, with the sidecars' own defaults.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            provisions: true,
            attaches: true,
            expands: true,
            modifies: true,
            snapshots: true,
            lists_snapshots: true,
            clones: true,
            topology: true,
            single_node_multi_writer: false,
            default_fstype: String::new(),
            extra_create_metadata: false,
            strict_topology: false,
            provision_timeout: Duration::from_secs(10),
            attach_timeout: Duration::from_secs(15),
            expand_timeout: Duration::from_secs(10),
            snapshot_timeout: Duration::from_secs(60),
            longest_retry: Duration::from_secs(300),
            identity: format!("0-0-{name}"),
            component: name.to_owned(),
        }
    }

    /// The EBS driver as its manifests deploy it.
    pub fn ebs() -> Self {
        Self {
            default_fstype: "ext4".to_owned(),
            extra_create_metadata: true,
            provision_timeout: Duration::from_secs(60),
            attach_timeout: Duration::from_secs(360),
            expand_timeout: Duration::from_secs(60),
            longest_retry: Duration::from_secs(1800),
            ..Self::new("ebs.csi.aws.com")
        }
    }

    /// The EFS driver as its manifests deploy it: no attach, no expansion, no snapshots, no topology.
    pub fn efs() -> Self {
        Self {
            attaches: false,
            expands: false,
            modifies: false,
            snapshots: false,
            lists_snapshots: false,
            clones: false,
            topology: false,
            extra_create_metadata: true,
            provision_timeout: Duration::from_secs(15),
            ..Self::new("efs.csi.aws.com")
        }
    }

    /// The settings for a driver of that name: the deployed ones for the two AWS drivers.
    pub fn named(name: &str) -> Self {
        match name {
            "ebs.csi.aws.com" => Self::ebs(),
            "efs.csi.aws.com" => Self::efs(),
            other => Self::new(other),
        }
    }
}
