//! StorageClass parameters of the EFS driver (efs.md §4.2).

use std::collections::BTreeMap;

use model_common::csi::Error;

use super::invalid;
use crate::driver::cloud::AccessPoint;
use crate::driver::go::{parse_bool, parse_i64};

const FIRST_GID: i64 = 50_000;
/// Access points that a file system can have; also the longest range of gids that is looked through.
const ACCESS_POINTS: i64 = 10_000;

/// What the parameters say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub file_system_id: String,
    pub reuse_access_point: bool,
    pub enforce_zone_affinity: bool,
    pub enable_tagging: bool,
    pub directory_perms: String,
    pub base_path: String,
    /// Given by the user; none: allocated.
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub gid_min: i64,
    pub gid_max: i64,
    pub pvc_name: String,
    /// `subPathPattern` with its variables filled in.
    pub sub_path: Option<String>,
    pub unique_directory: bool,
}

impl Parameters {
    /// The flags that the real driver looks at before anything else.
    pub(super) fn parse_flags(parameters: &BTreeMap<String, String>, driver_tags: bool) -> Result<Self, Error> {
        let flag = |name: &str, default: bool| match parameters.get(name) {
            None => Ok(default),
            Some(value) => parse_bool(value).ok_or_else(|| invalid(format!("Invalid value for {name} parameter"))),
        };
        let parsed = Self {
            reuse_access_point: flag("reuseAccessPoint", false)?,
            enforce_zone_affinity: flag("enforceZoneAffinity", false)?,
            enable_tagging: flag("enableTagging", true)?,
            ..Self::default()
        };
        if !parsed.enable_tagging && driver_tags {
            return Err(invalid(
                "enableTagging is false but the driver is configured with --tags; set enableTagging=true or remove the --tags flag",
            ));
        }
        Ok(parsed)
    }

    /// Everything else.
    pub(super) fn parse_rest(&mut self, parameters: &BTreeMap<String, String>) -> Result<(), Error> {
        let get = |name: &str| parameters.get(name);
        self.file_system_id = match (get("fileSystemId"), get("fileSystemIdConfigRef").or(get("fileSystemIdSecretRef"))) {
            (Some(id), None) if !id.is_empty() => id.clone(),
            (_, Some(_)) => {
                return Err(invalid(
                    "Failed to resolve filesystem Id fileSystemIdConfigRef and fileSystemIdSecretRef are not supported by this driver; \
                     give fileSystemId",
                ));
            }
            _ => return Err(invalid("Failed to resolve filesystem Id Missing fileSystemId parameter")),
        };
        match get("provisioningMode").map(String::as_str) {
            Some("efs-ap") => {}
            Some(mode) => {
                return Err(invalid(format!(
                    "Provisioning mode {mode} is not supported. Only Access point provisioning 'efs-ap' or 's3files-ap' are supported"
                )));
            }
            None => return Err(invalid("Missing provisioningMode parameter")),
        }
        if get("az").is_some() && get("awsRoleArn").is_some() {
            return Err(invalid("Cross-account mounts are not supported by this driver"));
        }
        let number = |name: &str| {
            get(name).map(|value| parse_i64(value).map_err(|error| invalid(format!("Failed to parse invalid {name}: {error}")))).transpose()
        };
        let id = |name: &str| match number(name)? {
            Some(id) if id < 0 => Err(invalid(format!("{name} must be greater or equal than 0"))),
            id => Ok(id),
        };
        self.uid = id("uid")?;
        self.gid = id("gid")?;
        (self.gid_min, self.gid_max) = match (number("gidRangeStart")?, number("gidRangeEnd")?) {
            (Some(min), _) if min <= 0 => return Err(invalid("gidRangeStart must be greater than 0")),
            (None, Some(_)) => return Err(invalid("Missing gidRangeStart parameter")),
            (Some(_), None) => return Err(invalid("Missing gidRangeEnd parameter")),
            (Some(min), Some(max)) if max <= min => return Err(invalid("gidRangeEnd must be greater than gidRangeStart")),
            (Some(min), Some(max)) => (min, max),
            (None, None) => (FIRST_GID, FIRST_GID + ACCESS_POINTS),
        };
        self.base_path = get("basePath").cloned().unwrap_or_default();
        self.directory_perms = get("directoryPerms").cloned().unwrap_or_default();
        self.pvc_name = get("csi.storage.k8s.io/pvc/name").cloned().unwrap_or_default();
        self.sub_path = get("subPathPattern").map(|pattern| interpolate(pattern, parameters)).transpose()?;
        self.unique_directory = get("ensureUniqueDirectory").and_then(|value| parse_bool(value)).unwrap_or(true);
        Ok(())
    }

    /// The lowest gid that no access point of the file system has.
    pub(super) fn free_gid(&self, access_points: &[AccessPoint]) -> Option<i64> {
        let used: std::collections::BTreeSet<i64> = access_points.iter().filter_map(|point| point.posix_user).map(|(_, gid)| gid).collect();
        let last = self.gid_max.min(self.gid_min.saturating_add(ACCESS_POINTS));
        (self.gid_min..=last).find(|gid| !used.contains(gid))
    }

    /// Whether an access point that has our client token is the one we would have made (`validateExistingAccessPoint`).
    pub(super) fn check_existing(&self, existing: &AccessPoint) -> Result<(), &'static str> {
        if !existing.path.trim_start_matches('/').starts_with(self.base_path.strip_prefix('/').unwrap_or(&self.base_path)) {
            return Err("Access point found but has different base path than what's specified in storage class");
        }
        let Some((uid, gid)) = existing.posix_user else { return Err("Access point found but PosixUser is nil") };
        let range = self.gid_min..=self.gid_max;
        match self.gid {
            Some(wanted) if wanted != gid => return Err("Access point found but its GID is incorrect"),
            None if !range.contains(&gid) => return Err("Access point found but its GID is outside the specified range"),
            _ => {}
        }
        match self.uid {
            Some(wanted) if wanted != uid => Err("Access point found but its UID is incorrect"),
            None if !range.contains(&uid) => Err("Access point found but its UID is outside the specified range"),
            _ => Ok(()),
        }
    }
}

/// Fills `${.PVC.name}`, `${.PVC.namespace}` and `${.PV.name}` in.
fn interpolate(pattern: &str, parameters: &BTreeMap<String, String>) -> Result<String, Error> {
    let mut path = pattern.to_owned();
    for (variable, key) in [
        ("${.PVC.name}", "csi.storage.k8s.io/pvc/name"),
        ("${.PVC.namespace}", "csi.storage.k8s.io/pvc/namespace"),
        ("${.PV.name}", "csi.storage.k8s.io/pv/name"),
    ] {
        path = path.replace(variable, parameters.get(key).map_or("", String::as_str));
    }
    if path.contains("${") || path.contains('}') {
        return Err(invalid(format!(
            "Path specified \"{pattern}\" contains invalid elements. Can only contain [.PV.name .PVC.name .PVC.namespace]"
        )));
    }
    Ok(path)
}
