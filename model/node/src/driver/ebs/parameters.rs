//! The parameters of CreateVolume: a StorageClass's, a VolumeAttributesClass's, and what the provisioner adds (ebs.md §4).

use std::collections::BTreeMap;

use model_common::csi::{Access, Error, VolumeCapability};

use super::{DRIVER, Options, invalid, tags};
use crate::driver::go::parse_i32;

/// What the parameters say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub volume_type: String,
    pub iops_per_gb: i32,
    pub allow_iops_increase: bool,
    pub iops: i32,
    pub throughput: i32,
    pub initialization_rate: i32,
    pub encrypted: bool,
    /// `encrypted` was given.
    pub encrypted_given: bool,
    pub kms_key_id: String,
    pub tags: BTreeMap<String, String>,
    /// What the node needs to know, returned as the volume's context.
    pub context: BTreeMap<String, String>,
}

/// Formatting parameters, and the file systems that cannot have them (`FileSystemConfigs`).
const FORMATTING: [(&str, &[&str]); 7] = [
    ("blocksize", &["ntfs"]),
    ("inodesize", &["ntfs"]),
    ("bytesperinode", &["xfs", "ntfs"]),
    ("numberofinodes", &["xfs", "ntfs"]),
    ("ext4bigalloc", &["ext3", "xfs", "ntfs"]),
    ("ext4clustersize", &["ext3", "xfs", "ntfs"]),
    ("ext4encryptionsupport", &["ext3", "xfs", "ntfs"]),
];

/// Whether a file system can be made with a formatting parameter. Also asked by the node service.
pub fn formatting_supported(parameter: &str, fs_type: &str) -> bool {
    FORMATTING.iter().find(|(name, _)| *name == parameter).is_none_or(|(_, not)| !not.contains(&fs_type))
}

impl Parameters {
    pub(super) fn parse(
        name: &str,
        parameters: &BTreeMap<String, String>,
        mutable: &BTreeMap<String, String>,
        capabilities: &[VolumeCapability],
        options: &Options,
    ) -> Result<Self, Error> {
        let mut parsed = Self::default();
        let mut specs = Vec::new();
        let mut properties: BTreeMap<&str, String> = ["PVCName", "PVCNamespace", "PVName"].map(|name| (name, String::new())).into();
        parsed.tags.insert("CSIVolumeName".to_owned(), name.to_owned());
        parsed.tags.insert(format!("{DRIVER}/cluster"), "true".to_owned());
        for (key, value) in parameters {
            let number = |what: &str| parse_i32(value).map_err(|error| invalid(format!("Could not parse invalid {what}: {error}")));
            let lower = key.to_lowercase();
            match lower.as_str() {
                "fstype" | "blockexpress" => {}
                "type" => parsed.volume_type.clone_from(value),
                "iopspergb" => {
                    parsed.iops_per_gb = number("iopsPerGB")?;
                    parsed.tags.insert(format!("{DRIVER}/IOPSPerGb"), parsed.iops_per_gb.to_string());
                }
                "allowautoiopsincreaseonmodify" => {
                    parsed.tags.insert(format!("{DRIVER}/AllowAutoIOPSIncreaseOnModify"), (value == "true").to_string());
                }
                "allowautoiopspergbincrease" => parsed.allow_iops_increase = value == "true",
                "iops" => parsed.iops = number("iops")?,
                "volumeinitializationrate" => parsed.initialization_rate = number("volumeInitializationRate")?,
                "throughput" => parsed.throughput = number("throughput")?,
                "encrypted" => (parsed.encrypted, parsed.encrypted_given) = (value == "true", !value.is_empty()),
                "kmskeyid" => parsed.kms_key_id.clone_from(value),
                "csi.storage.k8s.io/pvc/name" => parsed.created_for("pvc/name", "PVCName", value, &mut properties),
                "csi.storage.k8s.io/pvc/namespace" => parsed.created_for("pvc/namespace", "PVCNamespace", value, &mut properties),
                "csi.storage.k8s.io/pv/name" => parsed.created_for("pv/name", "PVName", value, &mut properties),
                "ext4bigalloc" | "ext4encryptionsupport" | "blockattachuntilinitialized" => {
                    if value == "true" {
                        parsed.context.insert(lower, value.clone());
                    }
                }
                "blocksize" | "inodesize" | "bytesperinode" | "numberofinodes" | "ext4clustersize" => {
                    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                        return Err(invalid(format!("Could not parse {key} ({value}): it must be alphanumeric")));
                    }
                    parsed.context.insert(lower, value.clone());
                }
                _ if key.starts_with("tagSpecification") => specs.push(value.clone()),
                _ => return Err(invalid(format!("Invalid parameter key {key} for CreateVolume"))),
            }
        }
        parsed.mutable(mutable, &mut specs)?;
        specs.extend(options.extra_tags.iter().map(|(key, value)| format!("{key}={value}")));
        let extra = tags::evaluate(&specs, &properties).map_err(|error| invalid(format!("Error interpolating tag value: {error}")))?;
        tags::validate(extra.keys()).map_err(|error| invalid(format!("Invalid tag value: {error}")))?;
        if let Some(cluster) = &options.cluster_id {
            parsed.tags.extend([
                (format!("kubernetes.io/cluster/{cluster}"), "owned".to_owned()),
                ("Name".to_owned(), format!("{cluster}-dynamic-{name}")),
                ("KubernetesCluster".to_owned(), cluster.clone()),
                (format!("{DRIVER}/cluster-name"), cluster.clone()),
            ]);
        }
        parsed.tags.extend(extra);
        parsed.check_formatting(capabilities)?;
        Ok(parsed)
    }

    /// A tag `kubernetes.io/created-for/…`, and the field of the same meaning for tag templates.
    fn created_for(&mut self, tag: &str, field: &'static str, value: &str, properties: &mut BTreeMap<&str, String>) {
        self.tags.insert(format!("kubernetes.io/created-for/{tag}"), value.to_owned());
        properties.insert(field, value.to_owned());
    }

    /// Mutable parameters win over parameters; their keys are case-sensitive.
    fn mutable(&mut self, mutable: &BTreeMap<String, String>, specs: &mut Vec<String>) -> Result<(), Error> {
        for (key, value) in mutable {
            match key.as_str() {
                "iops" => self.iops = parse_i32(value).map_err(|_| invalid(format!("Could not parse IOPS: {value:?}")))?,
                "throughput" => {
                    self.throughput = parse_i32(value).map_err(|_| invalid(format!("Could not parse throughput: {value:?}")))?;
                }
                "volumeType" if mutable.contains_key("type") => {}
                "volumeType" | "type" => self.volume_type.clone_from(value),
                _ if key.starts_with("tagSpecification") => specs.push(value.clone()),
                _ => return Err(invalid(format!("Invalid mutable parameter key: {key}"))),
            }
        }
        Ok(())
    }

    fn check_formatting(&self, capabilities: &[VolumeCapability]) -> Result<(), Error> {
        for (parameter, _) in FORMATTING.iter().filter(|(name, _)| self.context.contains_key(*name)) {
            for capability in capabilities {
                match &capability.access {
                    Access::Block => return Err(invalid(format!("Cannot use {parameter} with block volume"))),
                    Access::Mount { fs_type, .. } if !formatting_supported(parameter, fs_type) => {
                        return Err(invalid(format!("Cannot use {parameter} with fstype {fs_type}")));
                    }
                    Access::Mount { .. } => {}
                }
            }
        }
        if self.context.contains_key("ext4clustersize") && !self.context.contains_key("ext4bigalloc") {
            return Err(invalid("Cannot set ext4BigAllocClusterSize when ext4BigAlloc is false"));
        }
        Ok(())
    }
}
