//! NodePublishVolume: what is mounted, and how (`pkg/driver/node.go`, efs.md §3.1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use model_common::csi::{Access, Error, VolumeCapability};

use super::{Handle, check_capabilities, invalid};

/// What `mount` is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `fs-…:/path`.
    pub source: String,
    pub options: Vec<String>,
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
pub fn plan(
    volume_id: &str,
    capability: &VolumeCapability,
    readonly: bool,
    context: &BTreeMap<String, String>,
    zone: &str,
) -> Result<Mount, Error> {
    check_capabilities(std::slice::from_ref(capability)).map_err(|why| invalid(format!("Volume capability not supported: {why}")))?;
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
}
