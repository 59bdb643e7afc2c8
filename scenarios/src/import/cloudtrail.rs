//! CloudTrail's records (users.md §6.1): calls of people and tools as calls, those of the CSI drivers as calls or as their failures only.

use serde_json::{Map, Value, json};

use super::ImportError;
use super::read::Record;
use super::timeline::{Call, Machine, Timeline, What, text, time};

/// A call as a record and as the aws CLI spell it, and its parameters likewise.
type Spelling = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// What can be played.
const COMMANDS: [Spelling; 9] = [
    (
        "CreateVolume",
        "create-volume",
        &[
            ("availabilityZone", "AvailabilityZone"),
            ("zone", "AvailabilityZone"),
            ("size", "Size"),
            ("volumeType", "VolumeType"),
            ("iops", "Iops"),
            ("throughput", "Throughput"),
            ("encrypted", "Encrypted"),
            ("multiAttachEnabled", "MultiAttachEnabled"),
            ("tagSpecificationSet", "TagSpecifications"),
            ("clientToken", "ClientToken"),
        ],
    ),
    ("DeleteVolume", "delete-volume", &[("volumeId", "VolumeId")]),
    ("AttachVolume", "attach-volume", &[("volumeId", "VolumeId"), ("instanceId", "InstanceId"), ("device", "Device")]),
    ("DetachVolume", "detach-volume", &[("volumeId", "VolumeId"), ("instanceId", "InstanceId"), ("device", "Device"), ("force", "Force")]),
    (
        "CreateFileSystem",
        "create-file-system",
        &[
            ("creationToken", "CreationToken"),
            ("performanceMode", "PerformanceMode"),
            ("throughputMode", "ThroughputMode"),
            ("encrypted", "Encrypted"),
            ("availabilityZoneName", "AvailabilityZoneName"),
            ("tags", "Tags"),
        ],
    ),
    ("DeleteFileSystem", "delete-file-system", &[("fileSystemId", "FileSystemId")]),
    ("CreateMountTarget", "create-mount-target", &[("fileSystemId", "FileSystemId"), ("subnetId", "SubnetId")]),
    ("DeleteMountTarget", "delete-mount-target", &[("mountTargetId", "MountTargetId")]),
    ("DeleteAccessPoint", "delete-access-point", &[("accessPointId", "AccessPointId")]),
];

/// Errors that come from how things stand: the world says them by itself.
const OWN: [&str; 16] = [
    "VolumeInUse",
    "IncorrectState",
    "IncorrectInstanceState",
    "IncorrectModificationState",
    "InvalidVolume.NotFound",
    "InvalidVolume.ZoneMismatch",
    "InvalidVolumeID.Malformed",
    "InvalidInstanceID.NotFound",
    "InvalidAttachment.NotFound",
    "InvalidParameterValue",
    "AttachmentLimitExceeded",
    "FileSystemNotFound",
    "FileSystemInUse",
    "FileSystemAlreadyExists",
    "MountTargetConflict",
    "MountTargetNotFound",
];

pub(super) fn read(record: &Record, timeline: &mut Timeline) -> Result<(), ImportError> {
    let (json, from) = (&record.json, record.from.as_str());
    let at = time(record, &["eventTime"])?;
    let source = text(json, "/eventSource").unwrap_or_default();
    let name = text(json, "/eventName").unwrap_or_default();
    let service = match source {
        "ec2.amazonaws.com" => "ec2",
        "elasticfilesystem.amazonaws.com" => "efs",
        other => {
            timeline.leave(&format!("CloudTrail: calls to {other}"));
            return Ok(());
        }
    };
    let reads = ["Describe", "List", "Get"].iter().any(|verb| name.starts_with(verb));
    if reads || json["readOnly"] == json!(true) {
        timeline.leave("CloudTrail: calls that only read");
        return Ok(());
    }
    if json["eventType"].as_str().is_some_and(|kind| kind == "AwsServiceEvent") {
        timeline.leave("CloudTrail: events of a service, not calls");
        return Ok(());
    }
    let tie = text(json, "/requestID").unwrap_or_default();
    let request = &json["requestParameters"];
    let error = text(json, "/errorCode").map(|code| code.trim_start_matches("Client.").trim_start_matches("Server.").to_owned());
    let agent = text(json, "/userAgent").unwrap_or_default();
    let driver = ["ebs-csi", "efs-csi"].iter().any(|name| agent.contains(name));
    if let Some(instance) = text(request, "/instanceId") {
        timeline.machine(Machine { instance: Some(instance.to_owned()), ..Machine::default() });
    }
    if driver && timeline.audited {
        match error {
            Some(code) if !OWN.contains(&code.as_str()) => timeline.push(at, tie, from, What::Meets(refusal(name, &code, json))),
            Some(_) => timeline.leave("CloudTrail: errors of the CSI drivers' calls that come from how things stand"),
            None => timeline.leave("CloudTrail: calls of the CSI drivers, which the world's drivers make themselves"),
        }
        return Ok(());
    }
    if machines(record, name, error.is_some(), timeline)? {
        return Ok(());
    }
    let Some((_, command, fields)) = COMMANDS.iter().find(|(operation, ..)| *operation == name) else {
        timeline.unknown(from, format!("{name} is not played: the virtual world does not take it from a user"));
        return Ok(());
    };
    if let Some(code) = error.as_ref().filter(|code| !OWN.contains(&code.as_str())) {
        let message = text(json, "/errorMessage").unwrap_or_default();
        timeline.unknown(from, format!("{name} was refused with {code}, which has no cause in the world: it is not called"));
        timeline.push(at, tie, from, What::Say(format!("{name} was refused: {code} {message}")));
        return Ok(());
    }
    let parameters = parameters(request, fields, from, timeline);
    let response = json["responseElements"].clone();
    if let (Some(instance), Some(zone)) = (text(request, "/instanceId"), text(&response, "/availabilityZone")) {
        timeline.machine(Machine { instance: Some(instance.into()), zone: Some(zone.into()), ..Machine::default() });
    }
    let call = Call { service, command: (*command).to_owned(), parameters, response, error };
    timeline.push(at, tie, from, What::Call(call));
    Ok(())
}

/// A refusal of a driver's call, as a fault.
fn refusal(operation: &str, code: &str, json: &Value) -> Value {
    match code {
        "RequestLimitExceeded" | "Throttling" | "ThrottlingException" => {
            json!({"actionId": "aws:fis:inject-api-throttle-error", "operation": operation, "count": 1})
        }
        "InternalError" | "InternalFailure" => json!({"actionId": "aws:fis:inject-api-internal-error", "operation": operation, "count": 1}),
        "Unavailable" | "ServiceUnavailable" => {
            json!({"actionId": "aws:fis:inject-api-unavailable-error", "operation": operation, "count": 1})
        }
        _ => {
            let message = text(json, "/errorMessage").unwrap_or(code);
            let status = if text(json, "/errorCode").is_some_and(|code| code.starts_with("Server.")) { 500 } else { 400 };
            let error = json!({"statusCode": status, "code": code, "message": message});
            json!({"actionId": "local:api:error", "operation": operation, "count": 1, "error": error})
        }
    }
}

/// Machines come, stop and go; whether the record was of them.
fn machines(record: &Record, name: &str, failed: bool, timeline: &mut Timeline) -> Result<bool, ImportError> {
    let (json, from) = (&record.json, record.from.as_str());
    let known = ["RunInstances", "StopInstances", "StartInstances", "RebootInstances", "TerminateInstances"];
    if !known.contains(&name) {
        return Ok(false);
    }
    if failed {
        timeline.leave("CloudTrail: calls about instances that were refused");
        return Ok(true);
    }
    let at = time(record, &["eventTime"])?;
    let tie = text(json, "/requestID").unwrap_or_default();
    let list = |pointer: &str| json.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut items = list("/responseElements/instancesSet/items");
    if items.is_empty() {
        items = list("/requestParameters/instancesSet/items");
    }
    for item in items {
        let Some(instance) = text(&item, "/instanceId") else { continue };
        timeline.machine(Machine {
            instance: Some(instance.to_owned()),
            node: text(&item, "/privateDnsName").map(str::to_owned),
            zone: text(&item, "/placement/availabilityZone").map(str::to_owned),
            instance_type: text(&item, "/instanceType").map(str::to_owned),
        });
        let action = match name {
            "StopInstances" => "aws:ec2:stop-instances",
            "StartInstances" => "local:power-on",
            "RebootInstances" => "aws:ec2:reboot-instances",
            "TerminateInstances" => {
                timeline.unknown(from, format!("{instance} was terminated; the world stops it, and its Node and attachments stay"));
                "aws:ec2:stop-instances"
            }
            _ => {
                timeline.unknown(from, format!("{instance} was launched then; in the world it is there from the start"));
                continue;
            }
        };
        timeline.push(at, tie, from, What::Fault(json!({"actionId": action, "node": instance})));
    }
    Ok(true)
}

fn parameters(request: &Value, fields: &[(&str, &str)], from: &str, timeline: &mut Timeline) -> Map<String, Value> {
    let mut parameters = Map::new();
    let mut unread = Vec::new();
    for (name, value) in request.as_object().into_iter().flatten() {
        match fields.iter().find(|(known, _)| known == name) {
            _ if value.is_null() => {}
            Some((_, wanted)) => drop(parameters.insert((*wanted).to_owned(), plain(wanted, value))),
            None => unread.push(name.as_str()),
        }
    }
    if !unread.is_empty() {
        timeline.unknown(from, format!("left out of the call: {}", unread.join(", ")));
    }
    parameters
}

/// A value as the aws CLI has it: lists without their `items`, names with a capital, numbers as numbers.
fn plain(name: &str, value: &Value) -> Value {
    match value {
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("items") => plain(name, &fields["items"]),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let mut letters = name.chars();
                let name: String = letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect();
                let value = plain(&name, value);
                (name, value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(|item| plain(name, item)).collect(),
        // Old records have numbers as texts, and so do some tags: only what must be a number becomes one.
        Value::String(text) if matches!(name, "Size" | "Iops" | "Throughput") => {
            text.parse::<u32>().map_or_else(|_| value.clone(), Value::from)
        }
        Value::String(text) if matches!(name, "Encrypted" | "MultiAttachEnabled" | "Force") => json!(text == "true"),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
