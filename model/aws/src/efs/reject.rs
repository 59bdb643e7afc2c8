//! Why a request was refused, and the one place where that becomes EFS's code, text and HTTP status.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reject {
    /// `field` is not what `rule` says.
    #[error("1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: {rule}")]
    Invalid { field: String, value: String, rule: String },
    #[error("{0}")]
    BadRequest(String),
    #[error("A resource can have at most {most} tags.")]
    TooManyTags { most: usize },
    #[error("File system '{0}' does not exist.")]
    NoFileSystem(String),
    #[error("File system '{id}' already exists with creation token '{token}'")]
    FileSystemExists { id: String, token: String },
    #[error("You have reached the maximum number of file systems ({0}) for your account.")]
    FileSystemLimit(usize),
    #[error("File system '{id}' is in the life cycle state '{state}'; it must be 'available'.")]
    FileSystemState { id: String, state: String },
    #[error("The file system '{id}' has {targets} mount targets. Delete them before you delete the file system.")]
    InUse { id: String, targets: usize },
    #[error("The Availability Zone '{0}' is not supported. Choose another Availability Zone of this Region.")]
    UnsupportedZone(String),
    #[error("The provisioned throughput must be between 1 and 3414 MiB/s.")]
    ThroughputLimit,
    #[error("No file system policy is set for file system '{0}'.")]
    NoPolicy(String),
    #[error("The KMS key '{0}' does not exist or is not enabled.")]
    UnusableKey(String),
    #[error("The policy is not valid: {0}")]
    InvalidPolicy(String),
    #[error("Mount target '{0}' does not exist.")]
    NoMountTarget(String),
    #[error("mount target already exists in this AZ")]
    ZoneTaken,
    #[error("The mount targets of a file system must be in one VPC; '{0}' is in another.")]
    OtherVpc(String),
    #[error("A VPC can have at most {0} mount targets.")]
    MountTargetLimit(usize),
    #[error("Mount target '{id}' is in the life cycle state '{state}'.")]
    MountTargetState { id: String, state: String },
    #[error("The file system is in the Availability Zone '{file_system}', the subnet is in '{subnet}'.")]
    ZoneMismatch { file_system: String, subnet: String },
    #[error("The subnet ID '{0}' does not exist.")]
    NoSubnet(String),
    #[error("The security group '{0}' does not exist in the VPC of the mount target.")]
    NoSecurityGroup(String),
    #[error("A mount target can have at most {0} security groups.")]
    SecurityGroupLimit(usize),
    #[error("The address {0} is already in use.")]
    AddressInUse(String),
    #[error("The subnet '{0}' has no free addresses.")]
    NoFreeAddress(String),
    #[error("Access point '{0}' does not exist.")]
    NoAccessPoint(String),
    #[error("Access point already exists with creation token {token}")]
    AccessPointExists { id: String, token: String },
    #[error(
        "You have reached the maximum number of access points ({most}) for your file system {id}. Delete an access point and add a new one."
    )]
    AccessPointLimit { id: String, most: usize },
}

impl Reject {
    pub(super) fn invalid(field: &str, value: impl Into<String>, rule: &str) -> Self {
        Self::Invalid { field: field.to_owned(), value: value.into(), rule: rule.to_owned() }
    }

    /// Of an id (`fs-`, `fsap-`) that nothing of its kind has: what is wrong with its form, or else `none`.
    pub(super) fn unknown(field: &str, kind: &str, prefix: &str, id: &str, none: fn(String) -> Self) -> Self {
        let digits = id.strip_prefix(prefix).unwrap_or_default();
        if (8..=40).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return none(id.to_owned());
        }
        let form = format!("{prefix}[0-9a-f]{{8,40}}");
        let rule = format!(
            "Member must satisfy regular expression pattern: ^(arn:aws[-a-z]*:elasticfilesystem:[0-9a-z-:]+:{kind}/{form}|{form})$"
        );
        Self::invalid(field, id, &rule)
    }
}

/// An error of the EFS API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// `ErrorCode` and `X-Amzn-ErrorType`.
    pub code: &'static str,
    pub message: String,
    /// The HTTP status.
    pub status: u16,
    /// What the two AlreadyExists errors carry beside: the field's name and the id.
    pub existing: Option<(&'static str, String)>,
}

/// EFS's error of a reject (efs.md §1.6, §6).
pub fn reject_to_error(reject: &Reject) -> Error {
    let (code, status) = match reject {
        Reject::Invalid { .. } | Reject::BadRequest(_) | Reject::TooManyTags { .. } | Reject::UnusableKey(_) => ("BadRequest", 400),
        Reject::NoFileSystem(_) => ("FileSystemNotFound", 404),
        Reject::FileSystemExists { .. } => ("FileSystemAlreadyExists", 409),
        Reject::FileSystemLimit(_) => ("FileSystemLimitExceeded", 403),
        Reject::FileSystemState { .. } => ("IncorrectFileSystemLifeCycleState", 409),
        Reject::InUse { .. } => ("FileSystemInUse", 409),
        Reject::UnsupportedZone(_) => ("UnsupportedAvailabilityZone", 400),
        Reject::ThroughputLimit => ("ThroughputLimitExceeded", 400),
        Reject::NoPolicy(_) => ("PolicyNotFound", 404),
        Reject::InvalidPolicy(_) => ("InvalidPolicyException", 400),
        Reject::NoMountTarget(_) => ("MountTargetNotFound", 404),
        Reject::ZoneTaken | Reject::OtherVpc(_) => ("MountTargetConflict", 409),
        Reject::MountTargetLimit(_) => ("NetworkInterfaceLimitExceeded", 409),
        Reject::MountTargetState { .. } => ("IncorrectMountTargetState", 409),
        Reject::ZoneMismatch { .. } => ("AvailabilityZonesMismatch", 400),
        Reject::NoSubnet(_) => ("SubnetNotFound", 400),
        Reject::NoSecurityGroup(_) => ("SecurityGroupNotFound", 400),
        Reject::SecurityGroupLimit(_) => ("SecurityGroupLimitExceeded", 400),
        Reject::AddressInUse(_) => ("IpAddressInUse", 409),
        Reject::NoFreeAddress(_) => ("NoFreeAddressesInSubnet", 409),
        Reject::NoAccessPoint(_) => ("AccessPointNotFound", 404),
        Reject::AccessPointExists { .. } => ("AccessPointAlreadyExists", 409),
        Reject::AccessPointLimit { .. } => ("AccessPointLimitExceeded", 403),
    };
    let existing = match reject {
        Reject::FileSystemExists { id, .. } => Some(("FileSystemId", id.clone())),
        Reject::AccessPointExists { id, .. } => Some(("AccessPointId", id.clone())),
        _ => None,
    };
    Error { code, message: reject.to_string(), status, existing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_the_form_of_an_id_is_said_to_be_wrong_and_not_missing() {
        let unknown = |id: &str| Reject::unknown("fileSystemId", "file-system", "fs-", id, Reject::NoFileSystem);
        for id in ["fs-0123abcd", "fs-0123456789abcdef0", &format!("fs-{}", "0".repeat(40))] {
            assert_eq!(unknown(id), Reject::NoFileSystem(id.to_owned()));
        }
        for id in ["", "fs-", "fs-xyz", "fs-0123ABCD", "fs-0123abc", "fsap-0123abcd", &format!("fs-{}", "0".repeat(41))] {
            let error = reject_to_error(&unknown(id));
            assert_eq!((error.status, error.code), (400, "BadRequest"), "{id}");
            assert!(error.message.ends_with("file-system/fs-[0-9a-f]{8,40}|fs-[0-9a-f]{8,40})$"), "{}", error.message);
        }
    }
}
