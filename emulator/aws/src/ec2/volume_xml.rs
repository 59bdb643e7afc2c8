//! Volumes and attachments as answers show them. Written element by element: one answer may show thousands, and serde takes twice
//! as long.

use model_aws::ec2::{Attachment, Source, State, Volume, VolumeId};

use super::Time;
use crate::ctx::Ctx;
use crate::xml::{Fields, Plain, USUAL_SIZE, element};

/// A volume as CreateVolume and DescribeVolumes show it.
pub struct VolumeXml<'a> {
    seed: u64,
    zone_id: ZoneId<'a>,
    volume: &'a Volume,
    /// CreateVolume shows no attachments.
    attachments: bool,
}

/// Where the id of the volume's zone is from.
enum ZoneId<'a> {
    Known(Option<&'a str>),
    /// Looked up only where the row is written anew: with many rows each look at a volume is a wait for memory.
    Of(&'a State),
}

impl<'a> VolumeXml<'a> {
    /// The volumes of an answer.
    pub fn all(state: &'a State, volumes: &[&'a Volume]) -> impl Iterator<Item = Self> {
        volumes.iter().map(move |volume| Self { seed: state.seed(), zone_id: ZoneId::Of(state), volume, attachments: true })
    }

    /// Of a reply.
    pub fn made(ctx: &'a Ctx, volume: &'a Volume) -> Self {
        let zone_id = ctx.world.zones.iter().find(|zone| zone.name == volume.zone).map(|zone| zone.id.as_str());
        Self { seed: ctx.world.seed, zone_id: ZoneId::Known(zone_id), volume, attachments: false }
    }

    fn zone_id(&self) -> Option<&'a str> {
        match self.zone_id {
            ZoneId::Known(id) => id,
            ZoneId::Of(state) => state.network().zone(&self.volume.zone).map(|zone| zone.id.as_str()),
        }
    }

    /// What DescribeVolumes shows is kept with the volume; a reply has a copy of its own.
    pub fn write(&self, out: &mut String) {
        if self.attachments {
            self.volume.shown.write(out, |out| self.write_elements(out));
        } else {
            self.write_elements(out);
        }
    }

    fn write_elements(&self, out: &mut String) {
        let Self { seed, volume, attachments, .. } = *self;
        let id = volume.key.shown(seed);
        let source = |wanted: bool| volume.source_id.as_deref().filter(|_| wanted);
        element!(out, "volumeId", Plain(id));
        element!(out, "size", volume.spec.size_gib);
        // Empty where there is none, as on EC2.
        element!(out, "snapshotId", source(matches!(volume.source, Source::Snapshot(_))).unwrap_or_default());
        element!(out, "sourceVolumeId", source(matches!(volume.source, Source::Volume(_))));
        element!(out, "availabilityZone", volume.zone.as_str());
        element!(out, "availabilityZoneId", self.zone_id());
        element!(out, "status", Plain(volume.status().name()));
        element!(out, "createTime", Plain(Time(volume.created_at)));
        let write_attachments = |out: &mut String| {
            for (instance, attachment) in &volume.attachments {
                element!(out, "item", Fields(|out: &mut String| write_attachment(out, id, instance, attachment)));
            }
        };
        element!(out, "attachmentSet", attachments.then_some(Fields(write_attachments)));
        let write_tags = |out: &mut String| {
            for (key, value) in &volume.tags {
                let write_tag = |out: &mut String| {
                    element!(out, "key", key.as_str());
                    element!(out, "value", value.as_str());
                };
                element!(out, "item", Fields(write_tag));
            }
        };
        element!(out, "tagSet", (!volume.tags.is_empty()).then_some(Fields(write_tags)));
        element!(out, "volumeType", Plain(volume.spec.volume_type.name()));
        element!(out, "iops", volume.spec.iops);
        element!(out, "throughput", volume.spec.throughput);
        element!(out, "encrypted", volume.encrypted);
        element!(out, "kmsKeyId", volume.kms_key_id.as_deref());
        element!(out, "multiAttachEnabled", volume.spec.multi_attach);
        element!(out, "fastRestored", volume.fast_restored.then_some(true));
        element!(out, "volumeInitializationRate", volume.initialization_rate);
    }
}

/// About how many bytes a `volumeSet` takes.
pub fn size(volumes: &[&Volume]) -> usize {
    volumes.iter().map(|volume| volume.shown.known_len().max(USUAL_SIZE)).sum()
}

/// The `volumeSet` of an answer, and the token of its next page.
pub fn write_set<'a>(out: &mut String, volumes: impl Iterator<Item = VolumeXml<'a>>, next_token: Option<&str>) {
    let write_items = |out: &mut String| {
        for volume in volumes {
            element!(out, "item", Fields(|out: &mut String| volume.write(out)));
        }
    };
    element!(out, "volumeSet", Fields(write_items));
    element!(out, "nextToken", next_token);
}

pub fn write_attachment(out: &mut String, volume: VolumeId, instance: &str, attachment: &Attachment) {
    element!(out, "volumeId", Plain(volume));
    element!(out, "instanceId", instance);
    element!(out, "device", attachment.device.as_str());
    element!(out, "status", Plain(attachment.status().name()));
    element!(out, "attachTime", Plain(Time(attachment.attached_at)));
    element!(out, "deleteOnTermination", false);
    element!(out, "ebsCardIndex", attachment.card_index);
}

#[cfg(test)]
mod tests;
