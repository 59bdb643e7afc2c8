//! What filters find in each kind of resource.

use super::filter::Filtered;
use super::ids::Kind;
use super::instance::Instance;
use super::snapshot::Snapshot;
use super::volume::Volume;
use super::{State, Tags};

/// A resource with the state beside it, for values that the record alone does not have.
pub(super) struct Fields<'a, R> {
    pub(super) of: R,
    pub(super) state: &'a State,
}

pub(super) struct Modified<'a> {
    pub(super) of: &'a Volume,
    pub(super) state: &'a State,
}

pub(super) struct TagFields<'a> {
    pub(super) kind: Kind,
    pub(super) id: &'a str,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) tags: &'a Tags,
}

impl Filtered for Fields<'_, &Volume> {
    const NAMES: &'static [&'static str] = &[
        "attachment.delete-on-termination",
        "attachment.device",
        "attachment.instance-id",
        "attachment.status",
        "availability-zone",
        "availability-zone-id",
        "encrypted",
        "fast-restored",
        "multi-attach-enabled",
        "size",
        "snapshot-id",
        "source-volume-id",
        "status",
        "volume-id",
        "volume-type",
    ];

    fn tags(&self) -> &Tags {
        &self.of.tags
    }

    fn values(&self, name: &str, give: &mut dyn FnMut(&str)) {
        let volume = self.of;
        match name {
            "attachment.delete-on-termination" => volume.attachments.values().for_each(|_| give("false")),
            "attachment.device" => volume.attachments.values().for_each(|attachment| give(&attachment.device)),
            "attachment.instance-id" => volume.attachments.keys().for_each(|id| give(id)),
            "attachment.status" => volume.attachments.values().for_each(|attachment| give(attachment.status().name())),
            "availability-zone" => give(&volume.zone),
            "availability-zone-id" => {
                if let Some(zone) = self.state.network.zone(&volume.zone) {
                    give(&zone.id);
                }
            }
            "encrypted" => give(bool_text(volume.encrypted)),
            "fast-restored" => give(bool_text(volume.fast_restored)),
            "multi-attach-enabled" => give(bool_text(volume.spec.multi_attach)),
            "size" => give(&volume.spec.size_gib.to_string()),
            "snapshot-id" => {
                if let (super::Source::Snapshot(_), Some(id)) = (volume.source, &volume.source_id) {
                    give(id);
                }
            }
            "source-volume-id" => {
                if let (super::Source::Volume(_), Some(id)) = (volume.source, &volume.source_id) {
                    give(id);
                }
            }
            "status" => give(volume.status().name()),
            "volume-id" => give(&volume.key.id(self.state.seed)),
            "volume-type" => give(volume.spec.volume_type.name()),
            _ => {}
        }
    }
}

impl Filtered for Modified<'_> {
    const NAMES: &'static [&'static str] = &[
        "modification-state",
        "original-iops",
        "original-size",
        "original-volume-type",
        "target-iops",
        "target-size",
        "target-volume-type",
        "originalMultiAttachEnabled",
        "targetMultiAttachEnabled",
        "volume-id",
    ];

    fn tags(&self) -> &Tags {
        &self.of.tags
    }

    fn values(&self, name: &str, give: &mut dyn FnMut(&str)) {
        let Some(modification) = &self.of.modification else { return };
        let (original, target) = (&modification.original, &modification.target);
        match name {
            "modification-state" => give(modification.state.name()),
            "original-iops" => give(&original.iops.unwrap_or(0).to_string()),
            "original-size" => give(&original.size_gib.to_string()),
            "original-volume-type" => give(original.volume_type.name()),
            "target-iops" => give(&target.iops.unwrap_or(0).to_string()),
            "target-size" => give(&target.size_gib.to_string()),
            "target-volume-type" => give(target.volume_type.name()),
            "originalMultiAttachEnabled" => give(bool_text(original.multi_attach)),
            "targetMultiAttachEnabled" => give(bool_text(target.multi_attach)),
            "volume-id" => give(&self.of.key.id(self.state.seed)),
            _ => {}
        }
    }
}

impl Filtered for Fields<'_, &Snapshot> {
    const NAMES: &'static [&'static str] = &[
        "description",
        "encrypted",
        "owner-alias",
        "owner-id",
        "progress",
        "snapshot-id",
        "status",
        "storage-tier",
        "volume-id",
        "volume-size",
    ];

    fn tags(&self) -> &Tags {
        &self.of.tags
    }

    fn values(&self, name: &str, give: &mut dyn FnMut(&str)) {
        let snapshot = self.of;
        match name {
            "description" => give(&snapshot.description),
            "encrypted" => give(bool_text(snapshot.encrypted)),
            "owner-id" => give(&self.state.network.account),
            "progress" => give(&format!("{}%", snapshot.progress())),
            "snapshot-id" => give(&snapshot.key.id(self.state.seed)),
            "status" => give(snapshot.status().name()),
            "storage-tier" => give("standard"),
            "volume-id" => give(&snapshot.volume_id),
            "volume-size" => give(&snapshot.size_gib.to_string()),
            // owner-alias: no snapshot here is Amazon's.
            _ => {}
        }
    }
}

impl Filtered for Fields<'_, &Instance> {
    const NAMES: &'static [&'static str] = &[
        "architecture",
        "availability-zone",
        "availability-zone-id",
        "block-device-mapping.device-name",
        "block-device-mapping.status",
        "block-device-mapping.volume-id",
        "instance-id",
        "instance-state-code",
        "instance-state-name",
        "instance-type",
        "instance.group-id",
        "metadata-options.http-endpoint",
        "metadata-options.http-put-response-hop-limit",
        "metadata-options.http-tokens",
        "metadata-options.instance-metadata-tags",
        "network-interface.network-interface-id",
        "owner-id",
        "private-dns-name",
        "private-ip-address",
        "root-device-name",
        "subnet-id",
        "vpc-id",
    ];

    fn tags(&self) -> &Tags {
        &self.of.tags
    }

    fn values(&self, name: &str, give: &mut dyn FnMut(&str)) {
        let instance = self.of;
        match name {
            "architecture" => give(super::InstanceType::find(&instance.instance_type).map_or("x86_64", |found| found.arch)),
            "availability-zone" => give(&instance.zone),
            "availability-zone-id" => {
                if let Some(zone) = self.state.network.zone(&instance.zone) {
                    give(&zone.id);
                }
            }
            "block-device-mapping.device-name" => self.state.attached_to(&instance.id).for_each(|(_, a)| give(&a.device)),
            "block-device-mapping.status" => self.state.attached_to(&instance.id).for_each(|(_, a)| give(a.status().name())),
            "block-device-mapping.volume-id" => {
                self.state.attached_to(&instance.id).for_each(|(key, _)| give(&key.id(self.state.seed)));
            }
            "instance-id" => give(&instance.id),
            "instance-state-code" => give("16"),
            "instance-state-name" => give("running"),
            "instance-type" => give(&instance.instance_type),
            "instance.group-id" => instance.interface.security_groups.iter().for_each(|group| give(group)),
            "metadata-options.http-endpoint" => give(switch_text(instance.metadata.wanted.endpoint)),
            "metadata-options.http-put-response-hop-limit" => give(&instance.metadata.wanted.hop_limit.to_string()),
            "metadata-options.http-tokens" => give(if instance.metadata.wanted.tokens_required { "required" } else { "optional" }),
            "metadata-options.instance-metadata-tags" => give(switch_text(instance.metadata.wanted.tags)),
            "network-interface.network-interface-id" => give(&instance.interface.id),
            "owner-id" => give(&self.state.network.account),
            "private-dns-name" => give(&instance.private_dns_name),
            "private-ip-address" => give(&instance.private_ip.to_string()),
            "root-device-name" => give(&instance.root_device),
            "subnet-id" => give(&instance.subnet_id),
            "vpc-id" => give(&instance.vpc_id),
            _ => {}
        }
    }
}

impl Filtered for TagFields<'_> {
    const NAMES: &'static [&'static str] = &["key", "resource-id", "resource-type", "value"];

    fn tags(&self) -> &Tags {
        self.tags
    }

    fn values(&self, name: &str, give: &mut dyn FnMut(&str)) {
        match name {
            "key" => give(self.key),
            "resource-id" => give(self.id),
            "resource-type" => give(self.kind.name()),
            "value" => give(self.value),
            _ => {}
        }
    }
}

fn switch_text(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}
