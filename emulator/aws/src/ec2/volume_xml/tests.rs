//! What is written by hand is, byte for byte, what serde's writer makes of the same shape.

use model_aws::At;
use model_aws::ec2::{Tags, VolumeKey};
use proptest::option::of;
use proptest::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::*;
use crate::xml::write_fields;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    volume_id: String,
    size: u32,
    snapshot_id: &'a str,
    source_volume_id: Option<&'a str>,
    availability_zone: &'a str,
    availability_zone_id: Option<&'a str>,
    status: &'static str,
    create_time: String,
    attachment_set: Option<Vec<AttachmentShape<'a>>>,
    tag_set: Option<Vec<TagShape<'a>>>,
    volume_type: &'static str,
    iops: Option<u32>,
    throughput: Option<u32>,
    encrypted: bool,
    kms_key_id: Option<&'a str>,
    multi_attach_enabled: bool,
    fast_restored: Option<bool>,
    volume_initialization_rate: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentShape<'a> {
    volume_id: String,
    instance_id: &'a str,
    device: &'a str,
    status: &'static str,
    attach_time: String,
    delete_on_termination: bool,
    ebs_card_index: Option<u32>,
}

#[derive(Serialize)]
struct TagShape<'a> {
    key: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Set<'a> {
    volume_set: Vec<Shape<'a>>,
    next_token: Option<&'a str>,
}

impl<'a> Shape<'a> {
    fn of(shown: &VolumeXml<'a>) -> Self {
        let volume = shown.volume;
        let id = volume.key.shown(shown.seed);
        let (snapshot, copied) = match volume.source {
            Source::Empty => (None, None),
            Source::Snapshot(_) => (volume.source_id.as_deref(), None),
            Source::Volume(_) => (None, volume.source_id.as_deref()),
        };
        let attachments = volume.attachments.iter().map(|(instance_id, attachment)| AttachmentShape {
            volume_id: id.to_string(),
            instance_id,
            device: &attachment.device,
            status: attachment.status().name(),
            attach_time: Time(attachment.attached_at).to_string(),
            delete_on_termination: false,
            ebs_card_index: attachment.card_index,
        });
        let tags = volume.tags.iter().map(|(key, value)| TagShape { key, value });
        Self {
            volume_id: id.to_string(),
            size: volume.spec.size_gib,
            snapshot_id: snapshot.unwrap_or_default(),
            source_volume_id: copied,
            availability_zone: &volume.zone,
            availability_zone_id: shown.zone_id(),
            status: volume.status().name(),
            create_time: Time(volume.created_at).to_string(),
            attachment_set: shown.attachments.then(|| attachments.collect()),
            tag_set: (!volume.tags.is_empty()).then(|| tags.collect()),
            volume_type: volume.spec.volume_type.name(),
            iops: volume.spec.iops,
            throughput: volume.spec.throughput,
            encrypted: volume.encrypted,
            kms_key_id: volume.kms_key_id.as_deref(),
            multi_attach_enabled: volume.spec.multi_attach,
            fast_restored: volume.fast_restored.then_some(true),
            volume_initialization_rate: volume.initialization_rate,
        }
    }
}

/// Text that has to be escaped, also at its ends, and none.
fn text() -> impl Strategy<Value = String> {
    "[a-z<>&\"\r\t\u{0}\u{fffe}é]{0,6}"
}

prop_compose! {
    fn attachment()(
        device in text(), wanted: bool, settled: bool, up: bool, busy in of(text()), card_index in of(any::<u32>()), attached_at: i64,
    ) -> Attachment {
        let have = if up { json!({"up": {"bytes": 1}}) } else { json!("down") };
        let attachment = json!({
            "device": device, "wanted": wanted, "have": have, "settled": settled, "busy": busy, "cardIndex": card_index,
            "attachedAt": attached_at,
        });
        serde_json::from_value(attachment).unwrap()
    }
}

prop_compose! {
    fn volume()(
        (key, size, created_at) in any::<(u64, u32, i64)>(),
        kind in prop::sample::select(vec!["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"]),
        (iops, throughput, rate) in (of(any::<u32>()), of(any::<u32>()), of(any::<u32>())),
        (encrypted, multi_attach, fast_restored, wanted, settled) in any::<(bool, bool, bool, bool, bool)>(),
        (zone, kms_key_id, source_id) in (text(), of(text()), of(text())),
        (source, file) in (0..3usize, 0..3usize),
        tags in prop::collection::btree_map(text(), text(), 0..3),
        attachments in prop::collection::btree_map(text(), attachment(), 0..3),
    ) -> Volume {
        let source = [json!("empty"), json!({"snapshot": 1}), json!({"volume": 2})][source].clone();
        let file = [json!("absent"), json!({"present": {"bytes": 1}}), json!("lost")][file].clone();
        let spec = json!({
            "volume_type": kind, "size_gib": size, "iops": iops, "throughput": throughput, "multi_attach": multi_attach,
        });
        let bare = json!({
            "key": 0, "zone": zone, "spec": spec, "encrypted": encrypted, "source": source, "wanted": wanted, "file": file,
            "settled": settled, "createdAt": created_at,
        });
        let bare: Volume = serde_json::from_value(bare).unwrap();
        Volume {
            key: VolumeKey(key),
            kms_key_id,
            source_id,
            initialization_rate: rate,
            tags: Tags::from_iter(tags),
            fast_restored,
            attachments: attachments.into_iter().map(|(instance, attachment)| (instance.into(), attachment)).collect(),
            created_at: At(created_at),
            ..bare
        }
    }
}

proptest! {
    #[test]
    fn it_is_what_serde_writes(
        volumes in prop::collection::vec((volume(), of(text()), any::<bool>()), 0..4), seed: u64, next_token in of(text()),
    ) {
        let shown = || volumes.iter().map(|(volume, zone_id, attachments)| {
            VolumeXml { seed, zone_id: ZoneId::Known(zone_id.as_deref()), volume, attachments: *attachments }
        });
        let mut expected = String::new();
        let set = Set { volume_set: shown().map(|shown| Shape::of(&shown)).collect(), next_token: next_token.as_deref() };
        write_fields(&mut expected, &set, "item").unwrap();
        let mut written = String::new();
        write_set(&mut written, shown(), next_token.as_deref());
        prop_assert_eq!(&written, &expected);
        // And again, now that the rows keep it.
        let mut again = String::new();
        write_set(&mut again, shown(), next_token.as_deref());
        prop_assert_eq!(again, expected);
    }
}
