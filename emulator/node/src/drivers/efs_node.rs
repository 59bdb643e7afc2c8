//! The node service of the EFS driver (`pkg/driver/node.go`, efs.md §3.1).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use emulator_common::csi::server::{self, NodeService};
use model_common::csi::{Access, Code, Error, NodeCall, NodeCapability, NodeReply, Segments, VolumeCapability};
use model_node::driver::efs::{self, Handle};
use tokio_util::sync::CancellationToken;

use super::ebs_node::{make_dir, required, usage};
use super::{identity, tools};
use crate::{NodeConfig, mounts};

/// Serves the node plugin until `stop`.
pub(crate) async fn serve(socket: &Path, config: &NodeConfig, stop: CancellationToken) -> std::io::Result<()> {
    let service = super::faulty(Arc::new(EfsNode { node_id: config.instance_id.clone(), zone: config.zone.clone() }), config);
    server::serve(socket, identity(efs::DRIVER, efs::VERSION), None, Some(service), stop.cancelled_owned()).await
}

struct EfsNode {
    node_id: String,
    zone: String,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// What `mount` is called with.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    source: String,
    options: Vec<String>,
}

/// Go's `strconv.ParseBool`.
fn boolean(key: &str, value: &str) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(invalid(format!(
            "Volume context property {key:?} must be a boolean value: strconv.ParseBool: parsing {value:?}: invalid syntax"
        ))),
    }
}

/// What a publish mounts, and how.
fn plan(
    volume_id: &str,
    capability: &VolumeCapability,
    readonly: bool,
    context: &BTreeMap<String, String>,
    zone: &str,
) -> Result<Mount, Error> {
    efs::check_capabilities(std::slice::from_ref(capability)).map_err(|why| invalid(format!("Volume capability not supported: {why}")))?;
    let Access::Mount { mount_flags, .. } = &capability.access else {
        return Err(invalid("Volume capability access type must be mount"));
    };
    let mut options: Vec<String> = Vec::new();
    let (mut encrypt, mut cross_account) = (true, false);
    for (key, value) in context {
        match key.to_lowercase().as_str() {
            "storage.kubernetes.io/csiprovisioneridentity" => {}
            "encryptintransit" => encrypt = boolean(key, value)?,
            "crossaccount" => cross_account = boolean(key, value)?,
            "mounttargetip" => {
                if value.parse::<IpAddr>().is_err() {
                    return Err(invalid(format!("Volume context property {key:?}={value:?} is not a valid IP address")));
                }
                options.push(format!("mounttargetip={value}"));
            }
            "mounttargetipmap" => {
                let map: BTreeMap<String, String> =
                    serde_json::from_str(value).map_err(|error| invalid(format!("Failed to parse mounttargetipmap: {error}")))?;
                // Any will do where this zone has none.
                if let Some(ip) = map.get(zone).or_else(|| map.values().next()) {
                    options.push(format!("mounttargetip={ip}"));
                }
            }
            _ => return Err(invalid(format!("Volume context property {key} not supported."))),
        }
    }
    let handle = Handle::parse(volume_id)?;
    let path = if handle.path.is_empty() { "/" } else { &handle.path };
    let source = format!("{}:{path}", handle.file_system_id);
    if !handle.access_point_id.is_empty() {
        options.extend([format!("accesspoint={}", handle.access_point_id), "tls".to_owned()]);
    }
    let mut add = |option: String| {
        if !options.contains(&option) {
            options.push(option);
        }
    };
    if encrypt {
        add("tls".to_owned());
    }
    if cross_account {
        add("crossaccount".to_owned());
    }
    if readonly {
        add("ro".to_owned());
    }
    for flag in mount_flags {
        // The real driver does this too, so that `jwtpath=/Path` breaks.
        let flag = flag.to_lowercase();
        if let Some(point) = flag.strip_prefix("accesspoint=")
            && !handle.access_point_id.is_empty()
            && point != handle.access_point_id
        {
            return Err(invalid(format!(
                "Found conflicting access point IDs in mountOptions ({point}) and volumeHandle ({})",
                handle.access_point_id
            )));
        }
        if flag == "tls" && !encrypt {
            return Err(invalid("Found tls in mountOptions but encryptInTransit is false"));
        }
        if !flag.starts_with("awscredsuri") {
            add(flag);
        }
    }
    Ok(Mount { source, options })
}

impl EfsNode {
    async fn publish(
        &self,
        volume_id: &str,
        target: &str,
        capability: &VolumeCapability,
        readonly: bool,
        context: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        required(target, "Target path not provided")?;
        let Mount { source, options } = plan(volume_id, capability, readonly, context, &self.zone)?;
        make_dir(target).map_err(|why| Error::new(Code::Internal, format!("Could not create dir {target:?}: {why}")))?;
        if let Err(why) = tools::mount(&source, target, "efs", &options).await {
            let _ = std::fs::remove_dir(target);
            return Err(Error::new(Code::Internal, format!("Could not mount {source:?} at {target:?}: {why}")));
        }
        Ok(())
    }

    async fn unpublish(&self, target: &str) -> Result<(), Error> {
        required(target, "Target path not provided")?;
        let failed = |why: String| Error::new(Code::Internal, format!("Could not unmount {target:?}: {why}"));
        if mounts::at(Path::new(target)).is_some() {
            tools::umount(target).await.map_err(failed)?;
        }
        // CSI has the driver remove what it made. The real one leaves it to the kubelet, which does not mind that it is gone. Another
        // layer below the one just unmounted (the real driver does not look whether it mounted already) stays as it is.
        if mounts::at(Path::new(target)).is_some() {
            return Ok(());
        }
        match std::fs::remove_dir(target) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(failed(format!("remove {target}: {why}"))),
            _ => Ok(()),
        }
    }

    async fn stats(&self, volume_id: &str, path: &str) -> Result<NodeReply, Error> {
        required(volume_id, "Volume ID not provided")?;
        required(path, "Volume Path not provided")?;
        std::fs::metadata(path).map_err(|why| match why.kind() {
            std::io::ErrorKind::NotFound => Error::new(Code::NotFound, format!("Volume Path {path} does not exist")),
            _ => Error::new(Code::Internal, format!("Failed to invoke stat on volume path {path}: {why}")),
        })?;
        let usage = usage(path).await.map_err(|why| Error::new(Code::Internal, format!("Could not get metrics: {why} ")))?;
        Ok(NodeReply::NodeGetVolumeStats(usage))
    }
}

#[tonic::async_trait]
impl NodeService for EfsNode {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error> {
        tracing::debug!(?call, "called");
        let unimplemented = || Err(Error::new(Code::Unimplemented, ""));
        let result = match &call {
            NodeCall::NodeStageVolume { .. } | NodeCall::NodeUnstageVolume { .. } | NodeCall::NodeExpandVolume { .. } => unimplemented(),
            NodeCall::NodePublishVolume { volume_id, target_path, capability, readonly, volume_context, .. } => {
                self.publish(volume_id, target_path, capability, *readonly, volume_context).await.map(|()| NodeReply::NodePublishVolume)
            }
            NodeCall::NodeUnpublishVolume { target_path, .. } => self.unpublish(target_path).await.map(|()| NodeReply::NodeUnpublishVolume),
            NodeCall::NodeGetVolumeStats { volume_id, volume_path, .. } => self.stats(volume_id, volume_path).await,
            NodeCall::NodeGetCapabilities => Ok(NodeReply::NodeGetCapabilities(vec![NodeCapability::GetVolumeStats])),
            NodeCall::NodeGetInfo => Ok(NodeReply::NodeGetInfo {
                node_id: self.node_id.clone(),
                max_volumes_per_node: 0,
                accessible_topology: Some(Segments::from([("topology.kubernetes.io/zone".to_owned(), self.zone.clone())])),
            }),
        };
        if let Err(error) = &result
            && error.code != Code::Unimplemented
        {
            tracing::warn!(?call, %error, "a CSI call failed");
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use model_common::csi::AccessMode;

    use super::*;

    fn planned(volume_id: &str, flags: &[&str], readonly: bool, context: &[(&str, &str)]) -> Result<String, String> {
        let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let access = Access::Mount { fs_type: String::new(), mount_flags, volume_mount_group: String::new() };
        let capability = VolumeCapability { access, mode: AccessMode::MultiNodeMultiWriter };
        let context = context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let plan = plan(volume_id, &capability, readonly, &context, "us-east-1a");
        plan.map(|mount| format!("-o {} {}", mount.options.join(","), mount.source)).map_err(|error| error.message)
    }

    /// The four rows of real-drivers.md §3, and the checks.
    #[test]
    fn mounts_are_called_as_the_real_driver_calls_them() {
        let (fs, dynamic) = ("fs-0123456789abcdef0", "efs:fs-0123456789abcdef0::fsap-0123456789abcdef0");
        let ap = "accesspoint=fsap-0123456789abcdef0";
        for (volume, flags, readonly, context, expected) in [
            (fs, &[][..], false, &[][..], Ok(format!("-o tls {fs}:/"))),
            ("fs-0123456789abcdef0:/sub", &[], false, &[("encryptInTransit", "false")], Ok(format!("-o  {fs}:/sub"))),
            (dynamic, &[], false, &[], Ok(format!("-o {ap},tls {fs}:/"))),
            (dynamic, &["iam"], true, &[], Ok(format!("-o {ap},tls,ro,iam {fs}:/"))),
            (dynamic, &["TLS", "awscredsuri=/x", ap], false, &[], Ok(format!("-o {ap},tls {fs}:/"))),
            (fs, &[], false, &[("mounttargetip", "10.0.0.1")], Ok(format!("-o mounttargetip=10.0.0.1,tls {fs}:/"))),
            (
                fs,
                &[],
                false,
                &[("mounttargetipmap", r#"{"us-east-1a":"10.0.0.1","us-east-1b":"10.0.0.2"}"#)],
                Ok(format!("-o mounttargetip=10.0.0.1,tls {fs}:/")),
            ),
            (fs, &[], false, &[("path", "/x")], Err("Volume context property path not supported.".to_owned())),
            (
                fs,
                &["tls"],
                false,
                &[("encryptintransit", "false")],
                Err("Found tls in mountOptions but encryptInTransit is false".to_owned()),
            ),
            (
                fs,
                &[],
                false,
                &[("mounttargetip", "x")],
                Err("Volume context property \"mounttargetip\"=\"x\" is not a valid IP address".to_owned()),
            ),
        ] {
            assert_eq!(planned(volume, flags, readonly, context), expected, "{volume} {flags:?}");
        }
        let conflict = planned(dynamic, &["accesspoint=fsap-1111111111111111f"], false, &[]).unwrap_err();
        assert!(conflict.starts_with("Found conflicting access point IDs"), "{conflict}");
        assert!(planned(fs, &["crossaccount"], false, &[]).unwrap_err().contains("cannot be set manually"));
    }

    #[tokio::test]
    async fn an_unpublished_target_is_gone() {
        let node = EfsNode { node_id: "i-1".into(), zone: "us-east-1a".into() };
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        for _ in 0..2 {
            node.unpublish(target.to_str().unwrap()).await.unwrap();
            assert!(!target.exists());
        }
        // What the driver did not make is not removed.
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("file"), "mine").unwrap();
        let error = node.unpublish(target.to_str().unwrap()).await.unwrap_err();
        assert!(error.code == Code::Internal && target.join("file").exists(), "{error}");
    }
}
