//! The stream of `/_ebbtide/events`: one JSON line for every change of a resource, after it became durable.
//!
//! `{"time":"2026-11-23T04:00:00.000Z","kind":"volume","id":"vol-…","state":"in-use","record":{…}}`; a resource that is gone has
//! the state `deleted` and no record.

use model_aws::{At, Aws, Dirty};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Event<'a> {
    time: String,
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
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
    serde_json::to_string(&Event { time: timestamp(at), kind, id: &id, state, record }).ok()
}

/// The line of a reset.
pub fn reset(at: At) -> String {
    format!("{{\"time\":\"{}\",\"kind\":\"reset\"}}", timestamp(at))
}

fn resource<'a>(aws: &'a Aws, dirty: &'a Dirty) -> Option<(&'a str, std::borrow::Cow<'a, str>, Option<&'a str>)> {
    let (service, kind) = dirty.table.split_once('/').unwrap_or(("", dirty.table));
    if service == "efs" {
        let (kind, id, state) = aws.efs.changed(dirty)?;
        return Some((kind, id, state));
    }
    Some((kind, std::borrow::Cow::Borrowed(dirty.key.as_str()), None))
}
