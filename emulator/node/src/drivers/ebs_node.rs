//! The node service of the EBS driver (`pkg/driver/node.go`, ebs.md §3).

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emulator_common::csi::server::{self, NodeService};
use model_common::csi::{
    Access, AccessMode, Code, Error, NodeCall, NodeCapability, NodeReply, Segments, Usage, UsageUnit, VolumeCapability,
};
use model_node::driver::ebs::{self, DEVICE_PATH};
use tokio_util::sync::CancellationToken;

use super::in_flight::InFlight;
use super::{identity, tools};
use crate::{NodeConfig, mounts};

const FILE_SYSTEMS: [&str; 4] = ["ext3", "ext4", "xfs", "ntfs"];
const DEFAULT_FILE_SYSTEM: &str = "ext4";

/// Serves the node plugin until `stop`.
pub(crate) async fn serve(socket: &Path, config: &NodeConfig, stop: CancellationToken) -> std::io::Result<()> {
    let service = super::faulty(Arc::new(EbsNode::new(config, PathBuf::from("/dev"))), config);
    server::serve(socket, identity(ebs::DRIVER, ebs::VERSION), None, Some(service), stop.cancelled_owned()).await
}

struct EbsNode {
    node_id: String,
    zone: String,
    instance_type: String,
    /// Where devices are; `/dev`.
    dev: PathBuf,
    in_flight: InFlight,
}

fn error(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, message)
}

fn invalid(message: impl Into<String>) -> Error {
    error(Code::InvalidArgument, message)
}

fn internal(message: impl Into<String>) -> Error {
    error(Code::Internal, message)
}

/// `isValidCapability`.
fn supported(capability: &VolumeCapability) -> bool {
    match capability.mode {
        AccessMode::SingleNodeWriter => true,
        AccessMode::MultiNodeMultiWriter => capability.access == Access::Block,
        _ => false,
    }
}

fn file_system(fs_type: &str, call: &str) -> Result<String, Error> {
    let kind = if fs_type.is_empty() { DEFAULT_FILE_SYSTEM } else { fs_type };
    if FILE_SYSTEMS.contains(&kind.to_lowercase().as_str()) {
        Ok(kind.to_owned())
    } else {
        Err(invalid(format!("{call}: invalid fstype {kind}")))
    }
}

/// `collectMountOptions`. XFS refuses a second volume with the same UUID, as a clone's is, unless told otherwise.
fn mount_options<'a>(kind: &str, flags: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for flag in flags {
        if !options.contains(flag) {
            options.push(flag.clone());
        }
    }
    if kind == "xfs" && !options.iter().any(|option| option == "nouuid") {
        options.push("nouuid".to_owned());
    }
    options
}

/// The options of mkfs that the volume's context asks for.
fn format_options(context: &BTreeMap<String, String>, kind: &str) -> Result<Vec<String>, Error> {
    let xfs = kind == "xfs";
    let mut options = Vec::new();
    for (key, flag, prefix) in [
        ("blocksize", "-b", if xfs { "size=" } else { "" }),
        ("inodesize", if xfs { "-i" } else { "-I" }, if xfs { "size=" } else { "" }),
        ("bytesperinode", "-i", ""),
        ("numberofinodes", "-N", ""),
        ("ext4bigalloc", "-O", "bigalloc"),
        ("ext4clustersize", "-C", ""),
        ("ext4encryptionsupport", "-O", "encrypt"),
    ] {
        let Some(value) = context.get(key) else { continue };
        // The controller looked at this, but it ends on a command line, and a PV can be written by hand.
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(invalid(format!("Invalid {key} (aborting!): {value}")));
        }
        if !ebs::formatting_supported(key, &kind.to_lowercase()) {
            return Err(invalid(format!("Cannot use {key} with fstype {kind}")));
        }
        match flag {
            "-O" if value == "true" => options.extend([flag.to_owned(), prefix.to_owned()]),
            "-O" => {}
            _ => options.extend([flag.to_owned(), format!("{prefix}{value}")]),
        }
    }
    Ok(options)
}

/// The partition that a volume's context names; none for the whole disk.
fn partition(context: &BTreeMap<String, String>, what: &str) -> Result<Option<String>, Error> {
    match context.get("partition") {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(text.clone())),
            Err(_) => Err(invalid(what)),
        },
    }
}

impl EbsNode {
    fn new(config: &NodeConfig, dev: PathBuf) -> Self {
        Self {
            node_id: config.instance_id.clone(),
            zone: config.zone.clone(),
            instance_type: config.instance_type.clone(),
            dev,
            in_flight: InFlight::default(),
        }
    }

    /// Holds a volume for one operation.
    fn hold(&self, volume_id: &str) -> Result<super::in_flight::Held<'_>, Error> {
        let busy = || error(Code::Aborted, format!("An operation with the given volume={volume_id:?} is already in progress"));
        self.in_flight.begin(volume_id).ok_or_else(busy)
    }

    /// `FindDevicePath` (ebs.md §3.1).
    async fn find_device(&self, device_path: &str, volume_id: &str, partition: Option<&str>) -> Result<String, String> {
        let bare = volume_id.replace('-', "");
        // In tests the devices lie elsewhere.
        let here = |path: &str| match path.strip_prefix("/dev/") {
            Some(rest) => self.dev.join(rest),
            None => PathBuf::from(path),
        };
        let path = here(device_path);
        let by_id = self.dev.join("disk/by-id").join(format!("nvme-Amazon_Elastic_Block_Store_{bare}"));
        let is_link = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink());
        let found = if path.exists() {
            if is_link(&path) {
                std::fs::canonicalize(&path).map_err(|error| format!("failed to evaluate symlink {device_path:?}: {error}"))?
            } else {
                path
            }
        } else if is_link(&by_id) {
            std::fs::canonicalize(&by_id).map_err(|error| format!("error reading target of symlink {by_id:?}: {error}"))?
        } else {
            return Err(format!("no device path for device {device_path:?} volume {volume_id:?} found"));
        };
        let plain = found.parent() == Some(self.dev.as_path())
            && found.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_alphanumeric));
        let found = found.display().to_string();
        if !plain {
            return Err(format!("refusing to mount {found} (raw: {found}) because it does not appear to be a valid device"));
        }
        self.verify(&found, &bare).await?;
        Ok(match partition {
            None => found,
            Some(number) if found.starts_with("/dev/nvme") => format!("{found}p{number}"),
            Some(number) => format!("{found}{number}"),
        })
    }

    /// `verifyVolumeSerialMatch`. Loop devices have no serial, so that the by-id link of this node is asked as well: what the agent
    /// called another volume is never mounted for this one.
    async fn verify(&self, device: &str, bare: &str) -> Result<(), String> {
        let claims = |claimed: &str| format!("refusing to mount {device} because it claims to be {claimed} but should be {bare}");
        if let Ok(output) = tools::run("lsblk", &["--noheadings", "--ascii", "--nodeps", "--output", "SERIAL", "--", device]).await
            && let Some(claimed) = output.stdout.split_whitespace().find(|word| word.starts_with("vol"))
            && claimed != bare
        {
            return Err(claims(claimed));
        }
        let links = std::fs::read_dir(self.dev.join("disk/by-id")).into_iter().flatten().flatten();
        for link in links {
            let name = link.file_name();
            let Some(claimed) = name.to_str().and_then(|name| name.strip_prefix("nvme-Amazon_Elastic_Block_Store_")) else { continue };
            if claimed != bare && std::fs::canonicalize(link.path()).is_ok_and(|target| target == Path::new(device)) {
                return Err(claims(claimed));
            }
        }
        Ok(())
    }

    async fn stage(
        &self,
        volume_id: &str,
        publish_context: &BTreeMap<String, String>,
        target: &str,
        capability: &VolumeCapability,
        context: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        required(volume_id, "Volume ID not provided")?;
        required(target, "Staging target not provided")?;
        if !supported(capability) {
            return Err(invalid("Volume capability not supported"));
        }
        let partition = partition(context, "Volume Attribute is not valid")?;
        let Access::Mount { fs_type, mount_flags, .. } = &capability.access else { return Ok(()) };
        let kind = file_system(fs_type, "NodeStageVolume")?;
        let format_options = format_options(context, &kind)?;
        let options = mount_options(&kind, mount_flags);
        let _held = self.hold(volume_id)?;
        let device_path = publish_context.get(DEVICE_PATH).ok_or_else(|| invalid("Device path not provided"))?;
        let source = self
            .find_device(device_path, volume_id, partition.as_deref())
            .await
            .map_err(|why| error(Code::NotFound, format!("Failed to find device path {device_path}. {why}")))?;
        make_dir(target).map_err(|why| internal(format!("could not create target dir {target:?}: {why}")))?;
        // Staged already.
        if mounts::at(Path::new(target)).is_some_and(|mount| mount.source == source) {
            return Ok(());
        }
        tools::format_and_mount(&source, target, &kind, &options, &format_options)
            .await
            .map_err(|why| internal(format!("could not format {source:?} and mount it at {target:?}: {why}")))?;
        let needs = tools::needs_resize(&source, target)
            .await
            .map_err(|why| internal(format!("Could not determine if volume {volume_id:?} ({source:?}) need to be resized:  {why}")))?;
        if needs {
            let resized = tools::resize(&source, target).await;
            resized.map_err(|why| internal(format!("Could not resize volume {volume_id:?} ({source:?}):  {why}")))?;
        }
        Ok(())
    }

    async fn unstage(&self, volume_id: &str, target: &str) -> Result<(), Error> {
        required(volume_id, "Volume ID not provided")?;
        required(target, "Staging target not provided")?;
        let _held = self.hold(volume_id)?;
        if mounts::at(Path::new(target)).is_none() {
            return Ok(());
        }
        tools::clean_up(target).await.map_err(|why| internal(format!("Could not unmount target {target:?}: {why}")))
    }

    #[allow(clippy::too_many_arguments)] // the members of the request
    async fn publish(
        &self,
        volume_id: &str,
        publish_context: &BTreeMap<String, String>,
        source: &str,
        target: &str,
        capability: &VolumeCapability,
        readonly: bool,
        context: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        required(volume_id, "Volume ID not provided")?;
        required(source, "Staging target not provided")?;
        required(target, "Target path not provided")?;
        if !supported(capability) {
            return Err(invalid("Volume capability not supported"));
        }
        let _held = self.hold(volume_id)?;
        let mut options = vec!["bind".to_owned()];
        options.extend(readonly.then(|| "ro".to_owned()));
        match &capability.access {
            Access::Block => self.publish_block(volume_id, publish_context, target, &options, context).await,
            Access::Mount { fs_type, mount_flags, .. } => {
                make_dir(target).map_err(|why| internal(format!("could not create dir {target:?}: {why}")))?;
                if mounts::at(Path::new(target)).is_some() {
                    return Ok(());
                }
                let kind = file_system(fs_type, "NodePublishVolume")?;
                let options = mount_options(&kind, options.iter().chain(mount_flags));
                let mounted = tools::bind(source, target, &kind, &options).await;
                mounted.map_err(|why| internal(format!("Could not mount {source:?} at {target:?}: {why}")))
            }
        }
    }

    async fn publish_block(
        &self,
        volume_id: &str,
        publish_context: &BTreeMap<String, String>,
        target: &str,
        options: &[String],
        context: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let device_path = publish_context.get(DEVICE_PATH).ok_or_else(|| invalid("Device path not provided"))?;
        let partition = partition(context, "Volume Attribute is invalid")?;
        let source = self
            .find_device(device_path, volume_id, partition.as_deref())
            .await
            .map_err(|why| error(Code::NotFound, format!("Failed to find device path {device_path}. {why}")))?;
        if let Some(parent) = Path::new(target).parent() {
            let parent = parent.display().to_string();
            make_dir(&parent).map_err(|why| internal(format!("Could not create dir {parent:?}: {why}")))?;
        }
        // A device node is bound over a file.
        let made = std::fs::OpenOptions::new().create(true).append(true).open(target);
        made.map_err(|why| internal(format!("Could not create file {target:?}: {why}")))?;
        if mounts::at(Path::new(target)).is_some() {
            return Ok(());
        }
        if let Err(why) = tools::bind(&source, target, "", options).await {
            let _ = std::fs::remove_file(target);
            return Err(internal(format!("Could not mount {source:?} at {target:?}: {why}")));
        }
        Ok(())
    }

    async fn unpublish(&self, volume_id: &str, target: &str) -> Result<(), Error> {
        required(volume_id, "Volume ID not provided")?;
        required(target, "Target path not provided")?;
        let _held = self.hold(volume_id)?;
        tools::clean_up(target).await.map_err(|why| internal(format!("Could not unmount {target:?}: {why}")))
    }

    async fn expand(&self, volume_id: &str, volume_path: &str, capability: Option<&VolumeCapability>) -> Result<u64, Error> {
        required(volume_id, "Volume ID not provided")?;
        required(volume_path, "volume path must be provided")?;
        let _held = self.hold(volume_id)?;
        let size_of = |why: String| internal(format!("failed to get block capacity on path {volume_path}: {why}"));
        match capability {
            Some(capability) if !supported(capability) => return Err(invalid("VolumeCapability is invalid")),
            Some(VolumeCapability { access: Access::Block, .. }) => return Ok(0),
            Some(_) => {}
            None => {
                let meta = std::fs::metadata(volume_path).map_err(|why| {
                    // CSI's code for a volume that is not there; the real driver says Internal.
                    let code = if why.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Internal };
                    error(code, format!("failed to determine if volumePath [{volume_path}] is a block device: {why}"))
                })?;
                if meta.file_type().is_block_device() {
                    return tools::block_size(volume_path).await.map_err(size_of);
                }
            }
        }
        let device = mounts::at(Path::new(volume_path)).map(|mount| mount.source).unwrap_or_default();
        let source = self.find_device(&device, volume_id, None).await.map_err(|why| {
            error(Code::NotFound, format!("failed to find device path for device name {device} for mount {volume_path}: {why}"))
        })?;
        let resized = tools::resize(&source, volume_path).await;
        resized.map_err(|why| internal(format!("Could not resize volume {volume_id:?} ({source:?}): {why}")))?;
        tools::block_size(&source).await.map_err(size_of)
    }

    async fn stats(&self, volume_id: &str, path: &str) -> Result<Vec<Usage>, Error> {
        required(volume_id, "NodeGetVolumeStats volume ID was empty")?;
        required(path, "NodeGetVolumeStats volume path was empty")?;
        let meta = std::fs::metadata(path).map_err(|why| match why.kind() {
            std::io::ErrorKind::NotFound => error(Code::NotFound, format!("path {path} does not exist")),
            _ => internal(format!("unknown error when stat on {path}: {why}")),
        })?;
        if meta.file_type().is_block_device() {
            let size = tools::block_size(path).await;
            let total = size.map_err(|why| internal(format!("failed to get block capacity on path {path}: {why}")))?;
            return Ok(vec![Usage { unit: UsageUnit::Bytes, total, used: 0, available: 0 }]);
        }
        usage(path).await.map_err(|why| internal(format!("failed to get fs info on path {path}: {why}")))
    }
}

/// Bytes and inodes of the file system on a path. `statfs` can hang on a dead server, so it has a thread of its own.
pub(super) async fn usage(path: &str) -> Result<Vec<Usage>, String> {
    let path = path.to_owned();
    let asked = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(path.as_str())).await;
    let stat = asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let block = stat.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(block);
    let mut lines = vec![Usage {
        unit: UsageUnit::Bytes,
        total: bytes(stat.blocks()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        available: bytes(stat.blocks_available()),
    }];
    if stat.files() != 0 {
        lines.push(Usage {
            unit: UsageUnit::Inodes,
            total: stat.files(),
            used: stat.files().saturating_sub(stat.files_free()),
            available: stat.files_free(),
        });
    }
    Ok(lines)
}

pub(super) fn required(value: &str, otherwise: &str) -> Result<(), Error> {
    if value.is_empty() { Err(invalid(otherwise)) } else { Ok(()) }
}

/// As `os.MkdirAll(path, 0755)`.
pub(super) fn make_dir(path: &str) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

#[tonic::async_trait]
impl NodeService for EbsNode {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error> {
        tracing::debug!(?call, "called");
        let result = match &call {
            NodeCall::NodeStageVolume { volume_id, publish_context, staging_target_path, capability, volume_context } => self
                .stage(volume_id, publish_context, staging_target_path, capability, volume_context)
                .await
                .map(|()| NodeReply::NodeStageVolume),
            NodeCall::NodeUnstageVolume { volume_id, staging_target_path } => {
                self.unstage(volume_id, staging_target_path).await.map(|()| NodeReply::NodeUnstageVolume)
            }
            NodeCall::NodePublishVolume {
                volume_id,
                publish_context,
                staging_target_path,
                target_path,
                capability,
                readonly,
                volume_context,
            } => self
                .publish(volume_id, publish_context, staging_target_path, target_path, capability, *readonly, volume_context)
                .await
                .map(|()| NodeReply::NodePublishVolume),
            NodeCall::NodeUnpublishVolume { volume_id, target_path } => {
                self.unpublish(volume_id, target_path).await.map(|()| NodeReply::NodeUnpublishVolume)
            }
            NodeCall::NodeExpandVolume { volume_id, volume_path, capability, .. } => self
                .expand(volume_id, volume_path, capability.as_ref())
                .await
                .map(|capacity_bytes| NodeReply::NodeExpandVolume { capacity_bytes }),
            NodeCall::NodeGetVolumeStats { volume_id, volume_path, .. } => {
                self.stats(volume_id, volume_path).await.map(NodeReply::NodeGetVolumeStats)
            }
            NodeCall::NodeGetCapabilities => Ok(NodeReply::NodeGetCapabilities(vec![
                NodeCapability::StageUnstageVolume,
                NodeCapability::ExpandVolume,
                NodeCapability::GetVolumeStats,
            ])),
            NodeCall::NodeGetInfo => Ok(NodeReply::NodeGetInfo {
                node_id: self.node_id.clone(),
                max_volumes_per_node: ebs::max_volumes(&self.instance_type),
                accessible_topology: Some(Segments::from([
                    ("topology.ebs.csi.aws.com/zone".to_owned(), self.zone.clone()),
                    ("topology.kubernetes.io/zone".to_owned(), self.zone.clone()),
                    ("kubernetes.io/os".to_owned(), "linux".to_owned()),
                ])),
            }),
        };
        if let Err(error) = &result {
            tracing::warn!(?call, %error, "a CSI call failed");
        }
        result
    }
}

#[cfg(test)]
mod tests;
