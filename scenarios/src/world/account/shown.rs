//! What the aws CLI shows of things.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use model_aws::ec2::{self, SnapshotStatus};
use model_aws::{At, efs};
use serde_json::{Value, json};

use super::super::World;

fn time(at: At) -> String {
    Timestamp::from_millisecond(at.0).map(|time| time.to_string()).unwrap_or_default()
}

pub(super) fn tags(tags: &BTreeMap<String, String>) -> Value {
    tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

impl World {
    pub(super) fn show_volume(&self, volume: &ec2::Volume) -> Value {
        let id = volume.key.id(self.aws.ec2.seed());
        let attachments = volume.attachments.iter().map(|(instance, attachment)| show_attachment(&id, instance, attachment));
        let mut shown = json!({
            "VolumeId": id, "Size": volume.spec.size_gib, "State": volume.status().name(), "VolumeType": volume.spec.volume_type.name(),
            "AvailabilityZone": volume.zone, "Encrypted": volume.encrypted, "MultiAttachEnabled": volume.spec.multi_attach,
            "CreateTime": time(volume.created_at), "Attachments": attachments.collect::<Vec<_>>(),
            "SnapshotId": volume.source_id.as_deref().filter(|id| id.starts_with("snap-")).unwrap_or_default(),
        });
        let optional = [("Iops", volume.spec.iops), ("Throughput", volume.spec.throughput)];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            shown[name] = json!(value);
        }
        if !volume.tags.is_empty() {
            shown["Tags"] = tags(&volume.tags);
        }
        shown
    }

    pub(super) fn show_snapshot(&self, snapshot: &ec2::Snapshot) -> Value {
        // EC2 shows no progress of a snapshot that has only begun.
        let progress = match (snapshot.status(), snapshot.progress()) {
            (SnapshotStatus::Pending, 0) => String::new(),
            (_, percent) => format!("{percent}%"),
        };
        json!({
            "SnapshotId": snapshot.key.id(self.aws.ec2.seed()), "VolumeId": snapshot.volume_id, "State": snapshot.status().name(),
            "StartTime": time(snapshot.started_at), "Progress": progress, "OwnerId": self.aws.ec2.network().account,
            "VolumeSize": snapshot.size_gib, "Description": snapshot.description, "Encrypted": snapshot.encrypted, "Tags": tags(&snapshot.tags),
        })
    }

    pub(super) fn show_modification(&self, volume: &str, modification: &ec2::Modification) -> Value {
        let (original, target) = (&modification.original, &modification.target);
        let mut shown = json!({
            "VolumeId": volume, "ModificationState": modification.state.name(), "Progress": modification.progress(),
            "TargetSize": target.size_gib, "TargetVolumeType": target.volume_type.name(), "TargetMultiAttachEnabled": target.multi_attach,
            "OriginalSize": original.size_gib, "OriginalVolumeType": original.volume_type.name(),
            "OriginalMultiAttachEnabled": original.multi_attach, "StartTime": time(modification.started_at),
        });
        let optional = [
            ("TargetIops", target.iops),
            ("TargetThroughput", target.throughput),
            ("OriginalIops", original.iops),
            ("OriginalThroughput", original.throughput),
        ];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            shown[name] = json!(value);
        }
        shown
    }

    fn efs_arn(&self, kind: &str, id: &str) -> String {
        let network = self.aws.ec2.network();
        format!("arn:aws:elasticfilesystem:{}:{}:{kind}/{id}", network.region, network.account)
    }

    pub(super) fn show_file_system(&self, row: &efs::FileSystem, targets: usize) -> Value {
        json!({
            "OwnerId": self.aws.ec2.network().account, "CreationToken": row.creation_token, "FileSystemId": row.id,
            "FileSystemArn": self.efs_arn("file-system", &row.id), "CreationTime": time(row.created), "LifeCycleState": row.shown().as_str(),
            "NumberOfMountTargets": targets, "SizeInBytes": {"Value": row.metered_bytes}, "PerformanceMode": row.performance_mode,
            "ThroughputMode": row.throughput_mode, "Encrypted": row.encrypted, "Tags": tags(&row.tags),
        })
    }

    pub(super) fn show_mount_target(&self, row: &efs::MountTarget) -> Value {
        json!({
            "OwnerId": self.aws.ec2.network().account, "MountTargetId": row.id, "FileSystemId": row.file_system_id, "SubnetId": row.subnet_id,
            "LifeCycleState": row.state.as_str(), "IpAddress": row.ip.to_string(), "NetworkInterfaceId": row.network_interface_id,
            "AvailabilityZoneId": row.zone.1, "AvailabilityZoneName": row.zone.0, "VpcId": row.vpc_id,
        })
    }

    pub(super) fn show_access_point(&self, row: &efs::AccessPoint) -> Value {
        let mut root = json!({"Path": row.path});
        if let Some(creation) = &row.creation {
            root["CreationInfo"] =
                json!({"OwnerUid": creation.owner_uid, "OwnerGid": creation.owner_gid, "Permissions": creation.permissions});
        }
        let mut shown = json!({
            "ClientToken": row.client_token, "Tags": tags(&row.tags), "AccessPointId": row.id,
            "AccessPointArn": self.efs_arn("access-point", &row.id), "FileSystemId": row.file_system_id, "RootDirectory": root,
            "OwnerId": self.aws.ec2.network().account, "LifeCycleState": row.state.as_str(),
        });
        if let Some(user) = &row.posix_user {
            shown["PosixUser"] = json!({"Uid": user.uid, "Gid": user.gid});
        }
        shown
    }
}

pub(super) fn show_attachment(volume: &str, instance: &str, attachment: &ec2::Attachment) -> Value {
    json!({
        "VolumeId": volume, "InstanceId": instance, "Device": attachment.device, "State": attachment.status().name(),
        "AttachTime": time(attachment.attached_at), "DeleteOnTermination": false,
    })
}
