//! Access modes of claims and volumes as CSI volume capabilities (§5; csi-lib-utils `accessmodes`, external-attacher
//! `GetVolumeCapabilities`, external-provisioner `getVolumeCapabilities`).

use k8s_openapi::api::core::v1::PersistentVolumeSpec;
use model_common::csi::{Access, AccessMode, VolumeCapability};

/// How a driver is told one Kubernetes access mode.
pub fn access_mode(mode: &str, single_node_multi_writer: bool) -> Option<AccessMode> {
    Some(match (mode, single_node_multi_writer) {
        ("ReadWriteOnce", false) | ("ReadWriteOncePod", false) => AccessMode::SingleNodeWriter,
        ("ReadWriteOnce", true) => AccessMode::SingleNodeMultiWriter,
        ("ReadWriteOncePod", true) => AccessMode::SingleNodeSingleWriter,
        ("ReadOnlyMany", _) => AccessMode::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => AccessMode::MultiNodeMultiWriter,
        _ => return None,
    })
}

/// How the volume is presented: a block device or a file system.
pub fn access(block: bool, fs_type: &str, mount_flags: Option<&Vec<String>>) -> Access {
    if block {
        return Access::Block;
    }
    Access::Mount { fs_type: fs_type.to_owned(), mount_flags: mount_flags.cloned().unwrap_or_default(), volume_mount_group: String::new() }
}

/// The one capability of a volume with several access modes: the widest (csi-lib-utils `ToCSIAccessMode`).
pub fn of_volume(spec: &PersistentVolumeSpec, single_node_multi_writer: bool) -> Result<VolumeCapability, String> {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|known| known == mode);
    let mode = if has("ReadWriteOncePod") {
        if modes.len() > 1 {
            return Err("CSI does not support ReadWriteOncePod with other access modes on the same PersistentVolume".to_owned());
        }
        access_mode("ReadWriteOncePod", single_node_multi_writer)
    } else if has("ReadWriteMany") {
        Some(AccessMode::MultiNodeMultiWriter)
    } else if has("ReadOnlyMany") && has("ReadWriteOnce") {
        return Err("CSI does not support ReadOnlyMany and ReadWriteOnce on the same PersistentVolume".to_owned());
    } else {
        modes.first().and_then(|mode| access_mode(mode, single_node_multi_writer))
    };
    let mode = mode.ok_or_else(|| format!("unsupported AccessMode combination: {modes:?}"))?;
    let block = spec.volume_mode.as_deref() == Some("Block");
    let fs_type = spec.csi.as_ref().and_then(|csi| csi.fs_type.as_deref()).unwrap_or("");
    Ok(VolumeCapability { access: access(block, fs_type, spec.mount_options.as_ref()), mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_become_one() {
        let of = |modes: &[&str]| {
            let spec = PersistentVolumeSpec {
                access_modes: Some(modes.iter().map(|mode| (*mode).to_owned()).collect()),
                ..PersistentVolumeSpec::default()
            };
            of_volume(&spec, false).map(|capability| capability.mode)
        };
        assert_eq!(of(&["ReadWriteOnce"]), Ok(AccessMode::SingleNodeWriter));
        assert_eq!(of(&["ReadWriteOncePod"]), Ok(AccessMode::SingleNodeWriter));
        assert_eq!(of(&["ReadWriteOnce", "ReadWriteMany"]), Ok(AccessMode::MultiNodeMultiWriter));
        assert_eq!(of(&["ReadOnlyMany"]), Ok(AccessMode::MultiNodeReaderOnly));
        assert!(of(&["ReadOnlyMany", "ReadWriteOnce"]).is_err());
        assert!(of(&[]).is_err());
    }
}
