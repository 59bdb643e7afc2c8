//! The stream of `/_ebbtide/events`: one JSON line for every change of a resource, after it became durable.
//!
//! `{"time":"2026-11-23T04:00:00.000Z","kind":"volume","id":"vol-…","state":"in-use","record":{…}}`; a volume has
//! its `attachments` beside; a resource that is gone has the state `deleted` and no record.

use std::borrow::Cow;

use model_aws::faults::Hit;
use model_aws::{At, Aws, Dirty};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attached<'a> {
    instance_id: &'a str,
    device: &'a str,
    state: &'static str,
}

#[derive(Serialize)]
struct Event<'a> {
    time: String,
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachments: Option<Vec<Attached<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
}

/// A time to the second: `2026-11-23T04:00:00Z`.
pub fn seconds(at: At) -> String {
    let whole = timestamp(at);
    format!("{}Z", whole.get(..19).unwrap_or(&whole))
}

/// A time as AWS writes it: `2026-11-23T04:00:00.123Z`.
pub fn timestamp(at: At) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

/// The line of a changed record; none for the machines' own book-keeping.
pub fn describe(at: At, aws: &Aws, dirty: &Dirty) -> Option<String> {
    let (kind, id, state) = resource(aws, dirty)?;
    let record = dirty.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
    let record = record.and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let state = if dirty.value.is_some() { state } else { Some("deleted") };
    serde_json::to_string(&Event { time: timestamp(at), kind, id: &id, state, attachments: attachments(aws, dirty), record }).ok()
}

/// The line of a fault that was met.
pub fn hit(at: At, hit: &Hit) -> Option<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        kind: &'static str,
        id: &'a str,
        state: &'static str,
        record: &'a Hit,
    }
    serde_json::to_string(&Line { time: timestamp(at), kind: "fault", id: &hit.fault, state: "hit", record: hit }).ok()
}

/// The line of a reset.
pub fn reset(at: At) -> String {
    format!("{{\"time\":\"{}\",\"kind\":\"reset\"}}", timestamp(at))
}

type Resource<'a> = (&'a str, Cow<'a, str>, Option<&'a str>);

fn resource<'a>(aws: &'a Aws, dirty: &'a Dirty) -> Option<Resource<'a>> {
    let id = || Cow::Borrowed(dirty.key.as_str());
    match dirty.table {
        "ec2.volumes" => Some(("volume", id(), aws.ec2.volume_by_id(&dirty.key).map(|volume| volume.status().name()))),
        "ec2.snapshots" => {
            // Snapshots change seldom: a walk over them is no cost that matters.
            let seed = aws.ec2.seed();
            let snapshot = aws.ec2.snapshots().find(|snapshot| snapshot.key.id(seed) == dirty.key);
            Some(("snapshot", id(), snapshot.map(|snapshot| snapshot.status().name())))
        }
        "faults" => {
            // That it came and that it went; its hits are told one by one.
            let fault = aws.faults.fault(&dirty.key);
            let told = dirty.value.is_none() || fault.is_some_and(|fault| fault.calls == 0);
            told.then(|| ("fault", id(), Some("active")))
        }
        "ec2.securityGroups" => Some(("securityGroup", id(), None)),
        _ => aws.efs.changed(dirty).or_else(|| aws.kms.changed(dirty)),
    }
}

/// The attachments of a changed volume, as users see them.
fn attachments<'a>(aws: &'a Aws, dirty: &Dirty) -> Option<Vec<Attached<'a>>> {
    if dirty.table != "ec2.volumes" {
        return None;
    }
    let volume = aws.ec2.volume_by_id(&dirty.key)?;
    let shown = volume.attachments.iter().map(|(instance, attachment)| Attached {
        instance_id: instance,
        device: &attachment.device,
        state: attachment.status().name(),
    });
    Some(shown.collect())
}
