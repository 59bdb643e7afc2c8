//! The name of an EFS operation, from its method and path (efs.md §6).

use http::Method;

/// The segments of a path, decoded: an ARN has slashes and colons.
pub fn segments(path: &str) -> Vec<String> {
    let decoded =
        |segment: &str| form_urlencoded::parse(segment.replace('+', "%2B").as_bytes()).map(|(name, _)| name.into_owned()).collect();
    path.trim_end_matches('/').split('/').map(decoded).collect()
}

/// `CreateFileSystem` for `POST file-systems`; `Unknown` for what is no operation.
pub fn operation(method: &Method, segments: &[&str]) -> &'static str {
    match (method.as_str(), segments) {
        ("POST", ["file-systems"]) => "CreateFileSystem",
        ("GET", ["file-systems"]) => "DescribeFileSystems",
        ("GET", ["file-systems", "replication-configurations"]) => "DescribeReplicationConfigurations",
        ("PUT", ["file-systems", _]) => "UpdateFileSystem",
        ("DELETE", ["file-systems", _]) => "DeleteFileSystem",
        ("PUT", ["file-systems", _, "protection"]) => "UpdateFileSystemProtection",
        ("GET", ["file-systems", _, "lifecycle-configuration"]) => "DescribeLifecycleConfiguration",
        ("PUT", ["file-systems", _, "lifecycle-configuration"]) => "PutLifecycleConfiguration",
        ("GET", ["file-systems", _, "backup-policy"]) => "DescribeBackupPolicy",
        ("PUT", ["file-systems", _, "backup-policy"]) => "PutBackupPolicy",
        ("GET", ["file-systems", _, "policy"]) => "DescribeFileSystemPolicy",
        ("PUT", ["file-systems", _, "policy"]) => "PutFileSystemPolicy",
        ("DELETE", ["file-systems", _, "policy"]) => "DeleteFileSystemPolicy",
        ("POST", ["mount-targets"]) => "CreateMountTarget",
        ("GET", ["mount-targets"]) => "DescribeMountTargets",
        ("DELETE", ["mount-targets", _]) => "DeleteMountTarget",
        ("GET", ["mount-targets", _, "security-groups"]) => "DescribeMountTargetSecurityGroups",
        ("PUT", ["mount-targets", _, "security-groups"]) => "ModifyMountTargetSecurityGroups",
        ("POST", ["access-points"]) => "CreateAccessPoint",
        ("GET", ["access-points"]) => "DescribeAccessPoints",
        ("DELETE", ["access-points", _]) => "DeleteAccessPoint",
        ("GET", ["resource-tags", ..]) => "ListTagsForResource",
        ("POST", ["resource-tags", ..]) => "TagResource",
        ("DELETE", ["resource-tags", ..]) => "UntagResource",
        ("GET", ["account-preferences"]) => "DescribeAccountPreferences",
        ("PUT", ["account-preferences"]) => "PutAccountPreferences",
        _ => "Unknown",
    }
}
