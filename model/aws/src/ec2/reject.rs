//! Why a request was refused, and the one place where that becomes EC2's code, text and HTTP status (ebs.md §1.6, §1.11).

use serde::{Deserialize, Serialize};

use super::attachment::AttachmentStatus;
use super::ids::Kind;
use super::lock::LockReject;
use super::modification::ModificationState;
use super::spec::VolumeType;
use super::volume::VolumeStatus;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[error("{}: {}", reject_to_error(self).0, reject_to_error(self).1)]
pub enum Reject {
    MalformedId {
        kind: Kind,
        parameter: String,
        id: String,
    },
    NotFound {
        kind: Kind,
        ids: Vec<String>,
    },
    NoSuchZone {
        zone: String,
    },
    /// No subnet of the zone has an address left for an instance.
    NoFreeAddress {
        zone: String,
    },
    MissingParameter(String),
    InvalidParameterValue {
        message: String,
    },
    UnknownVolumeType(String),
    SizeMissing,
    SizeTooSmall {
        volume_type: VolumeType,
        size_gib: u32,
        least: u32,
    },
    SizeTooLarge {
        volume_type: VolumeType,
        size_gib: u32,
        most: u32,
    },
    SmallerThanSnapshot {
        size_gib: u32,
        snapshot: String,
        least: u32,
    },
    SmallerThanSource {
        size_gib: u32,
        least: u32,
    },
    IopsRequired(VolumeType),
    IopsNotSupported(VolumeType),
    IopsTooLow {
        iops: u32,
        least: u32,
    },
    IopsTooHigh {
        iops: u32,
        most: u32,
    },
    IopsRatio {
        iops: u32,
        size_gib: u32,
        ratio: u32,
    },
    Io2TooHigh,
    ThroughputNotSupported(VolumeType),
    ThroughputTooLow {
        throughput: u32,
        least: u32,
    },
    ThroughputTooHigh {
        throughput: u32,
        most: u32,
    },
    ThroughputRatio {
        throughput: u32,
        iops: u32,
    },
    NoMultiAttach(VolumeType),
    TokenMismatch,
    TokenDeleted,
    VolumeInUse {
        volume: String,
        instance: String,
    },
    VolumeState {
        volume: String,
        status: VolumeStatus,
    },
    NotAvailable {
        volume: String,
    },
    AlreadyAttached {
        volume: String,
    },
    AttachmentState {
        volume: String,
        status: AttachmentStatus,
    },
    NotAttached {
        volume: String,
        instance: String,
    },
    ZoneMismatch {
        volume: String,
        instance: String,
    },
    InvalidDevice {
        device: String,
    },
    DeviceInUse {
        device: String,
    },
    AttachmentLimit {
        limit: u32,
    },
    MultiAttachLimit {
        volume: String,
        limit: usize,
    },
    /// The volume's key does not exist or is not enabled.
    KeyRevoked {
        volume: String,
    },
    /// The instance's node can raise no block devices.
    NoDevices {
        instance: String,
        reason: String,
    },
    NothingToModify,
    SmallerThanNow,
    ModificationState {
        volume: String,
        state: ModificationState,
    },
    ModificationRate {
        limit: usize,
    },
    NoSuchModification {
        volume: String,
    },
    SnapshotNotCompleted {
        snapshot: String,
    },
    /// What a lock of a snapshot forbids.
    Lock(LockReject),
    NoFastRestore {
        snapshot: String,
        zone: String,
    },
    SnapshotRate,
    ConcurrentSnapshots {
        limit: usize,
    },
    TooManyTags,
    TagKeyLength {
        key: String,
    },
    TagValueLength {
        key: String,
    },
    ReservedTagKey,
    DuplicateTagKey {
        key: String,
    },
    InvalidResourceId {
        id: String,
    },
    UnknownFilter {
        name: String,
    },
    FilterWithoutValues {
        name: String,
    },
    MaxResultsTooSmall {
        given: u32,
        least: u32,
    },
    IdsWithMaxResults,
    InvalidNextToken {
        token: String,
    },
    DuplicateGroup {
        name: String,
        vpc: String,
    },
    NoSuchGroupName {
        name: String,
        vpc: String,
    },
    CannotDeleteDefaultGroup {
        group: String,
    },
    GroupInUse {
        group: String,
    },
    DuplicateRule {
        rule: String,
    },
    NoSuchRule,
    NoSuchRuleId {
        rule: String,
    },
}

/// EC2's error code, message and HTTP status of a reject.
pub fn reject_to_error(reject: &Reject) -> (&'static str, String, u16) {
    use Reject::*;
    let (code, message) = match reject {
        MalformedId { kind: Kind::Instance, id, .. } => ("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\" (expecting \"i-...\")")),
        MalformedId { kind: Kind::SecurityGroup, id, .. } => {
            ("InvalidGroupId.Malformed", format!("Invalid id: \"{id}\" (expecting \"sg-...\")"))
        }
        MalformedId {
            kind: kind @ (Kind::Volume | Kind::Snapshot | Kind::Subnet | Kind::Vpc | Kind::NetworkInterface), parameter, id
        } => {
            let expected = kind.prefix();
            ("InvalidParameterValue", format!("Value ({id}) for parameter {parameter} is invalid. Expected: '{expected}-...'."))
        }
        NotFound { kind, ids } => not_found(*kind, ids),
        NoSuchZone { zone } => ("InvalidZone.NotFound", format!("The zone '{zone}' does not exist.")),
        NoFreeAddress { zone } => ("InsufficientFreeAddressesInSubnet", format!("The subnets of '{zone}' do not have enough free addresses.")),
        MissingParameter(name) => ("MissingParameter", format!("The request must contain the parameter {name}")),
        InvalidParameterValue { message } => ("InvalidParameterValue", message.clone()),
        UnknownVolumeType(name) => ("UnknownVolumeType", format!("Unknown volume type: {name}")),
        SizeMissing => ("MissingParameter", "The request must contain the parameter size/snapshot".to_owned()),
        SizeTooSmall { volume_type, size_gib, least } => {
            ("InvalidParameterValue", format!("Volume of {size_gib}GiB is too small for volume type {volume_type}; minimum is {least}GiB."))
        }
        SizeTooLarge { volume_type, size_gib, most } => {
            ("InvalidParameterValue", format!("Volume of {size_gib}GiB is too large for volume type {volume_type}; maximum is {most}GiB."))
        }
        SmallerThanSnapshot { size_gib, snapshot, least } => (
            "InvalidParameterValue",
            format!("Volume of {size_gib}GiB is smaller than snapshot '{snapshot}', expect size >= {least}GiB"),
        ),
        SmallerThanSource { size_gib, least } => {
            ("InvalidParameterValue", format!("Volume of {size_gib}GiB is smaller than the source volume, expect size >= {least}GiB"))
        }
        IopsRequired(volume_type) => {
            ("InvalidParameterCombination", format!("The parameter iops must be specified for {volume_type} volumes."))
        }
        IopsNotSupported(volume_type) => {
            ("InvalidParameterCombination", format!("The parameter iops is not supported for {volume_type} volumes."))
        }
        IopsTooLow { iops, least } => ("InvalidParameterValue", format!("Volume iops of {iops} is too low; minimum is {least}.")),
        IopsTooHigh { iops, most } => ("InvalidParameterValue", format!("Volume iops of {iops} is too high; maximum is {most}")),
        IopsRatio { iops, size_gib, ratio } => (
            "InvalidParameterValue",
            format!("Iops to volume size ratio of {} is too high; maximum is {ratio}", hundredths(*iops, *size_gib)),
        ),
        Io2TooHigh => (
            "InvalidParameterCombination",
            "io2 volumes configured with greater than 64 TiB or 256K IOPS or 1000:1 IOPS:GB ratio are not supported".to_owned(),
        ),
        ThroughputNotSupported(volume_type) => {
            ("InvalidParameterCombination", format!("The parameter throughput is not supported for {volume_type} volumes."))
        }
        ThroughputTooLow { throughput, least } => {
            ("InvalidParameterValue", format!("Throughput of {throughput} MiBps is too low; minimum is {least} MiBps."))
        }
        ThroughputTooHigh { throughput, most } => {
            ("InvalidParameterValue", format!("Throughput of {throughput} MiBps is too high; maximum is {most} MiBps."))
        }
        ThroughputRatio { throughput, iops } => (
            "InvalidParameterValue",
            format!(
                "Throughput (MiBps) to iops ratio of {} is too high; maximum is 0.25 MiBps per iops.",
                hundredths(*throughput, *iops)
            ),
        ),
        NoMultiAttach(volume_type) => (
            "InvalidParameterCombination",
            format!("The parameter MultiAttachEnabled is not supported for {volume_type} volumes; it is for io1 and io2 volumes."),
        ),
        TokenMismatch => (
            "IdempotentParameterMismatch",
            "The client token you have provided has already been used with different request parameters.".to_owned(),
        ),
        TokenDeleted => (
            "IdempotentParameterMismatch",
            "The client token you have provided is associated with a resource that is already deleted. Please use a different client token."
                .to_owned(),
        ),
        VolumeInUse { volume, instance } => ("VolumeInUse", format!("Volume {volume} is currently attached to {instance}")),
        VolumeState { volume, status } => ("IncorrectState", format!("Volume '{volume}' is in the '{}' state.", status.name())),
        NotAvailable { volume } => ("IncorrectState", format!("{volume} is not 'available'.")),
        AlreadyAttached { volume } => ("VolumeInUse", format!("{volume} is already attached to an instance")),
        AttachmentState { volume, status } => ("IncorrectState", format!("Volume '{volume}' is in the '{}' state.", status.name())),
        NotAttached { volume, instance } => {
            ("InvalidAttachment.NotFound", format!("Volume '{volume}' is not attached to instance '{instance}'."))
        }
        ZoneMismatch { volume, instance } => (
            "InvalidVolume.ZoneMismatch",
            format!("The volume '{volume}' is not in the same availability zone as instance '{instance}'"),
        ),
        InvalidDevice { device } => (
            "InvalidParameterValue",
            format!("Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name."),
        ),
        DeviceInUse { device } => (
            "InvalidParameterValue",
            format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"),
        ),
        AttachmentLimit { limit } => ("AttachmentLimitExceeded", format!("You may attach up to {limit} devices for this instance type.")),
        MultiAttachLimit { volume, limit } => {
            ("AttachmentLimitExceeded", format!("The volume '{volume}' is attached to {limit} instances, which is the limit."))
        }
        KeyRevoked { volume } => (
            "CustomerKeyHasBeenRevoked",
            format!("Volume {volume} cannot be attached. The encrypted volume was unable to access the KMS key."),
        ),
        NoDevices { instance, reason } => (
            "UnsupportedOperation",
            format!("The instance '{instance}' cannot have block devices on this machine: {reason}. Run `ebbtide doctor` to see what is missing."),
        ),
        NothingToModify => (
            "InvalidParameterValue",
            "At least one of the parameters Size, VolumeType, Iops, Throughput or MultiAttachEnabled must be specified.".to_owned(),
        ),
        SmallerThanNow => ("InvalidParameterValue", "New size cannot be smaller than existing size".to_owned()),
        ModificationState { volume, state } => (
            "IncorrectModificationState",
            format!("Volume {volume} cannot be modified in modification state {}", state.name().to_uppercase()),
        ),
        ModificationRate { limit } => (
            "VolumeModificationRateExceeded",
            format!(
                "You've reached the maximum modification rate per volume limit. You can modify a volume up to {limit} times in a rolling 24-hour period."
            ),
        ),
        NoSuchModification { volume } => {
            ("InvalidVolumeModification.NotFound", format!("Modification for volume '{volume}' does not exist."))
        }
        SnapshotNotCompleted { snapshot } => ("IncorrectState", format!("Snapshot '{snapshot}' is not in the 'completed' state.")),
        Lock(reject) => reject.to_error(),
        NoFastRestore { snapshot, zone } => {
            ("IncorrectState", format!("Fast snapshot restore is not enabled for snapshot '{snapshot}' in zone '{zone}'."))
        }
        SnapshotRate => (
            "SnapshotCreationPerVolumeRateExceeded",
            "The maximum per volume CreateSnapshot request rate has been exceeded. Use an increasing or variable sleep interval between requests."
                .to_owned(),
        ),
        ConcurrentSnapshots { limit } => (
            "ConcurrentSnapshotLimitExceeded",
            format!("Maximum allowed in-progress snapshots ({limit}) for a single volume exceeded."),
        ),
        TooManyTags => ("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.".to_owned()),
        TagKeyLength { key } => {
            ("InvalidParameterValue", format!("Tag key '{key}' is invalid. Tag keys must have between 1 and 128 characters."))
        }
        TagValueLength { key } => {
            ("InvalidParameterValue", format!("The value of tag '{key}' exceeds the maximum length of 256 characters."))
        }
        ReservedTagKey => {
            ("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use".to_owned())
        }
        DuplicateTagKey { key } => ("InvalidParameterValue", format!("Duplicate tag key '{key}' specified.")),
        InvalidResourceId { id } => ("InvalidID", format!("The ID '{id}' is not valid")),
        UnknownFilter { name } => ("InvalidParameterValue", format!("The filter '{name}' is invalid")),
        FilterWithoutValues { name } => ("InvalidParameterValue", format!("The filter '{name}' must have at least one value")),
        MaxResultsTooSmall { given, least } => (
            "InvalidParameterValue",
            format!("Value ( {given} ) for parameter maxResults is invalid. Expecting a value greater than {least}."),
        ),
        IdsWithMaxResults => (
            "InvalidParameterCombination",
            "The parameter MaxResults cannot be used with resource ids in the same request".to_owned(),
        ),
        InvalidNextToken { token } => ("InvalidNextToken", format!("The token '{token}' is invalid")),
        DuplicateGroup { name, vpc } => {
            ("InvalidGroup.Duplicate", format!("The security group '{name}' already exists for VPC '{vpc}'"))
        }
        NoSuchGroupName { name, vpc } => {
            ("InvalidGroup.NotFound", format!("The security group '{name}' does not exist in VPC '{vpc}'"))
        }
        CannotDeleteDefaultGroup { group } => ("CannotDelete", format!("the specified group: \"{group}\" name: \"default\" cannot be deleted by a user")),
        GroupInUse { group } => ("DependencyViolation", format!("resource {group} has a dependent object")),
        DuplicateRule { rule } => {
            ("InvalidPermission.Duplicate", format!("the specified rule \"{rule}\" already exists"))
        }
        NoSuchRule => ("InvalidPermission.NotFound", "The specified rule does not exist in this security group.".to_owned()),
        NoSuchRuleId { rule } => {
            ("InvalidSecurityGroupRuleId.NotFound", format!("The security group rule ID '{rule}' does not exist"))
        }
    };
    (code, message, 400)
}

/// One id: the singular text; several: the plural (ebs.md §1.8).
fn not_found(kind: Kind, ids: &[String]) -> (&'static str, String) {
    let list = ids.join(", ");
    let many = ids.len() > 1;
    let say = |one: &str, several: &str, stop: &str| {
        if many { format!("The {several} '{list}' do not exist{stop}") } else { format!("The {one} '{list}' does not exist{stop}") }
    };
    match kind {
        Kind::Volume => ("InvalidVolume.NotFound", say("volume", "volumes", ".")),
        Kind::Snapshot => ("InvalidSnapshot.NotFound", say("snapshot", "snapshots", ".")),
        Kind::Instance => ("InvalidInstanceID.NotFound", say("instance ID", "instance IDs", "")),
        Kind::SecurityGroup => ("InvalidGroup.NotFound", say("security group", "security groups", "")),
        Kind::Subnet => ("InvalidSubnetID.NotFound", say("subnet ID", "subnet IDs", "")),
        Kind::Vpc => ("InvalidVpcID.NotFound", say("vpc ID", "vpc IDs", "")),
        Kind::NetworkInterface => ("InvalidNetworkInterfaceID.NotFound", say("networkInterface ID", "networkInterface IDs", "")),
    }
}

/// `a/b` with two digits, as EC2's texts have ratios; without floats.
fn hundredths(a: u32, b: u32) -> String {
    let hundredths = u64::from(a) * 100 / u64::from(b.max(1));
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
