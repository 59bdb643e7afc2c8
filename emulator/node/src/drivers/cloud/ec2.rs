//! EC2's query protocol: parameters out, XML in (ebs.md §1.2).

use std::collections::BTreeMap;

use jiff::Timestamp;
use model_node::driver::cloud::{
    Attachment, CloudCall, CloudError, CloudReply, Instance, NewCopy, NewVolume, Snapshot, SnapshotQuery, Volume, VolumeQuery,
};
use serde::Deserialize;

use super::{Request, Response, encode, transport};

const VERSION: &str = "2016-11-15";

/// Parameters in the order in which they were added.
struct Parameters(String);

impl Parameters {
    fn new(action: &str) -> Self {
        Self(format!("Action={action}&Version={VERSION}"))
    }

    fn add(&mut self, name: impl AsRef<str>, value: impl ToString) {
        self.0.push_str(&format!("&{}={}", encode(name.as_ref()), encode(&value.to_string())));
    }

    fn maybe(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn tags(&mut self, resource_type: &str, tags: &BTreeMap<String, String>) {
        if tags.is_empty() {
            return;
        }
        self.add("TagSpecification.1.ResourceType", resource_type);
        for (n, (key, value)) in (1..).zip(tags) {
            self.add(format!("TagSpecification.1.Tag.{n}.Key"), key);
            self.add(format!("TagSpecification.1.Tag.{n}.Value"), value);
        }
    }

    fn filter(&mut self, name: &str, value: &str) {
        self.add("Filter.1.Name", name);
        self.add("Filter.1.Value.1", value);
    }

    fn request(self) -> Request {
        Request {
            service: "ec2",
            method: reqwest::Method::POST,
            path: "/".to_owned(),
            query: String::new(),
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            body: self.0,
        }
    }
}

/// The dry run of the health check.
pub(super) fn probe() -> Request {
    let mut parameters = Parameters::new("DescribeAvailabilityZones");
    parameters.add("DryRun", true);
    parameters.request()
}

pub(super) fn request(call: &CloudCall) -> Request {
    let mut p = Parameters::new(call.operation().1);
    match call {
        CloudCall::CreateVolume(volume) => create_volume(&mut p, volume),
        CloudCall::CopyVolumes(copy) => copy_volumes(&mut p, copy),
        CloudCall::DeleteVolume { volume_id } => p.add("VolumeId", volume_id),
        CloudCall::DescribeVolumes(VolumeQuery::Id(id)) => p.add("VolumeId.1", id),
        CloudCall::DescribeVolumes(VolumeQuery::Name(name)) => p.filter("tag:CSIVolumeName", name),
        CloudCall::DescribeVolumeStatus { volume_id } | CloudCall::DescribeVolumesModifications { volume_id } => {
            p.add("VolumeId.1", volume_id);
        }
        CloudCall::ModifyVolume(modify) => {
            p.add("VolumeId", &modify.volume_id);
            p.maybe("Size", modify.size_gib);
            p.maybe("VolumeType", modify.volume_type.as_ref());
            p.maybe("Iops", modify.iops);
            p.maybe("Throughput", modify.throughput);
        }
        CloudCall::DescribeInstances { instance_id } => p.add("InstanceId.1", instance_id),
        CloudCall::AttachVolume { volume_id, instance_id, device } => {
            p.add("Device", device);
            p.add("InstanceId", instance_id);
            p.add("VolumeId", volume_id);
        }
        CloudCall::DetachVolume { volume_id, instance_id } => {
            p.add("InstanceId", instance_id);
            p.add("VolumeId", volume_id);
        }
        CloudCall::CreateTags { resource, tags } => {
            p.add("ResourceId.1", resource);
            for (n, (key, value)) in (1..).zip(tags) {
                p.add(format!("Tag.{n}.Key"), key);
                p.add(format!("Tag.{n}.Value"), value);
            }
        }
        CloudCall::DeleteTags { resource, keys } => {
            p.add("ResourceId.1", resource);
            for (n, key) in (1..).zip(keys) {
                p.add(format!("Tag.{n}.Key"), key);
            }
        }
        CloudCall::CreateSnapshot { volume_id, description, tags } => {
            p.add("VolumeId", volume_id);
            p.add("Description", description);
            p.tags("snapshot", tags);
        }
        CloudCall::DeleteSnapshot { snapshot_id } => {
            p.add("SnapshotId", snapshot_id);
            p.add("DryRun", false);
        }
        CloudCall::DescribeSnapshots(SnapshotQuery::Id(id)) => p.add("SnapshotId.1", id),
        CloudCall::DescribeSnapshots(SnapshotQuery::Name(name)) => p.filter("tag:CSIVolumeSnapshotName", name),
        CloudCall::DescribeSnapshots(SnapshotQuery::List { volume_id, max_results, next_token }) => {
            p.add("MaxResults", max_results);
            p.maybe("NextToken", next_token.as_ref());
            if let Some(id) = volume_id {
                p.filter("volume-id", id);
            }
        }
        CloudCall::DescribeAvailabilityZones
        | CloudCall::CreateAccessPoint(_)
        | CloudCall::DeleteAccessPoint { .. }
        | CloudCall::DescribeAccessPoints { .. }
        | CloudCall::DescribeFileSystems { .. } => {}
    }
    p.request()
}

fn create_volume(p: &mut Parameters, volume: &NewVolume) {
    p.maybe("AvailabilityZone", volume.availability_zone.as_ref());
    p.maybe("AvailabilityZoneId", volume.availability_zone_id.as_ref());
    // On a dry run the SDK draws a token by itself.
    p.add("ClientToken", volume.client_token.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()));
    if volume.dry_run {
        p.add("DryRun", true);
    }
    p.maybe("Encrypted", volume.encrypted);
    p.maybe("Iops", volume.iops);
    p.maybe("KmsKeyId", volume.kms_key_id.as_ref());
    p.maybe("MultiAttachEnabled", volume.multi_attach);
    p.add("Size", volume.size_gib);
    p.maybe("SnapshotId", volume.snapshot_id.as_ref());
    p.tags("volume", &volume.tags);
    p.maybe("Throughput", volume.throughput);
    p.maybe("VolumeInitializationRate", volume.initialization_rate);
    p.add("VolumeType", &volume.volume_type);
}

fn copy_volumes(p: &mut Parameters, copy: &NewCopy) {
    p.add("ClientToken", &copy.client_token);
    p.maybe("Iops", copy.iops);
    p.add("MultiAttachEnabled", copy.multi_attach);
    p.add("Size", copy.size_gib);
    p.add("SourceVolumeId", &copy.source_volume_id);
    p.tags("volume", &copy.tags);
    p.maybe("Throughput", copy.throughput);
    p.add("VolumeType", &copy.volume_type);
}

/// `…Set/item`.
#[derive(Deserialize)]
struct Set<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Body {
    volume_set: Set<VolumeXml>,
    snapshot_set: Set<SnapshotXml>,
    reservation_set: Set<Reservation>,
    availability_zone_info: Set<Zone>,
    volume_status_set: Set<StatusXml>,
    volume_modification_set: Set<Modification>,
    volume_modification: Option<Modification>,
    next_token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct VolumeXml {
    volume_id: String,
    size: i32,
    status: String,
    availability_zone: String,
    availability_zone_id: String,
    kms_key_id: String,
    volume_type: String,
    iops: Option<i32>,
    throughput: Option<i32>,
    multi_attach_enabled: bool,
    tag_set: Set<Tag>,
    attachment_set: Set<AttachmentXml>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tag {
    key: String,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AttachmentXml {
    instance_id: String,
    status: String,
    device: String,
    attach_time: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct SnapshotXml {
    snapshot_id: String,
    volume_id: String,
    volume_size: i32,
    start_time: String,
    status: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Reservation {
    instances_set: Set<InstanceXml>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct InstanceXml {
    instance_id: String,
    root_device_name: String,
    block_device_mapping: Set<Mapping>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Mapping {
    device_name: String,
    ebs: Ebs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Ebs {
    volume_id: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Zone {
    zone_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Modification {
    modification_state: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct StatusXml {
    volume_status: StatusDetails,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StatusDetails {
    details: Set<Detail>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Detail {
    name: String,
    status: String,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "Errors")]
    errors: Errors,
    #[serde(rename = "RequestID", default)]
    request_id: String,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(rename = "Error")]
    error: ErrorXml,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorXml {
    code: String,
    #[serde(default)]
    message: String,
}

pub(super) fn reply(call: &CloudCall, response: &Response) -> Result<CloudReply, CloudError> {
    if response.status >= 300 {
        return Err(match quick_xml::de::from_str::<Failure>(&response.body) {
            Ok(failure) => call.error(response.status, &failure.request_id, &failure.errors.error.code, &failure.errors.error.message),
            Err(_) => call.error(response.status, &response.request_id, "UnknownError", response.body.trim()),
        });
    }
    let broken = |error: quick_xml::DeError| transport(call, format!("deserialization failed, {error}"));
    // CreateVolume and CreateSnapshot answer the thing itself, without an element around it.
    match call {
        CloudCall::CreateVolume(_) => {
            return Ok(CloudReply::Volume(volume(quick_xml::de::from_str(&response.body).map_err(broken)?)));
        }
        CloudCall::CreateSnapshot { .. } => {
            return Ok(CloudReply::Snapshot(snapshot(quick_xml::de::from_str(&response.body).map_err(broken)?)));
        }
        _ => {}
    }
    let body: Body = quick_xml::de::from_str(&response.body).map_err(broken)?;
    Ok(match call {
        CloudCall::DescribeAvailabilityZones => {
            CloudReply::Zones(body.availability_zone_info.item.into_iter().map(|zone| zone.zone_name).collect())
        }
        CloudCall::CopyVolumes(_) => match body.volume_set.item.into_iter().map(volume).next() {
            Some(volume) => CloudReply::Volume(volume),
            None => return Err(transport(call, "copyResponse does not contain volume information".to_owned())),
        },
        CloudCall::DescribeVolumes(_) => CloudReply::Volumes(body.volume_set.item.into_iter().map(volume).collect()),
        CloudCall::DescribeVolumeStatus { .. } => CloudReply::VolumeStatus {
            initializing: body.volume_status_set.item.first().map(|status| {
                let details = &status.volume_status.details.item;
                details.iter().any(|detail| detail.name == "initialization-state" && detail.status == "initializing")
            }),
        },
        CloudCall::DescribeVolumesModifications { .. } => {
            CloudReply::Modification(body.volume_modification_set.item.into_iter().next_back().map(|last| last.modification_state))
        }
        CloudCall::ModifyVolume(_) => CloudReply::Modification(body.volume_modification.map(|now| now.modification_state)),
        CloudCall::DescribeInstances { .. } => {
            let instances = body.reservation_set.item.into_iter().flat_map(|reservation| reservation.instances_set.item);
            CloudReply::Instances(instances.map(instance).collect())
        }
        CloudCall::DescribeSnapshots(_) => CloudReply::Snapshots {
            snapshots: body.snapshot_set.item.into_iter().map(snapshot).collect(),
            next_token: body.next_token.filter(|token| !token.is_empty()),
        },
        _ => CloudReply::Done,
    })
}

fn volume(xml: VolumeXml) -> Volume {
    let now = Timestamp::now();
    Volume {
        volume_id: xml.volume_id,
        size_gib: xml.size,
        state: xml.status,
        availability_zone: xml.availability_zone,
        availability_zone_id: xml.availability_zone_id,
        kms_key_id: xml.kms_key_id,
        volume_type: xml.volume_type,
        iops: xml.iops,
        throughput: xml.throughput,
        multi_attach: xml.multi_attach_enabled,
        tags: xml.tag_set.item.into_iter().map(|tag| (tag.key, tag.value)).collect(),
        attachments: xml.attachment_set.item.into_iter().map(|xml| attachment(xml, now)).collect(),
    }
}

fn attachment(xml: AttachmentXml, now: Timestamp) -> Attachment {
    let since = xml.attach_time.parse::<Timestamp>().map(|time| now.as_second() - time.as_second());
    Attachment {
        instance_id: xml.instance_id,
        state: xml.status,
        device: xml.device,
        age_seconds: since.ok().and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default(),
    }
}

fn snapshot(xml: SnapshotXml) -> Snapshot {
    Snapshot {
        snapshot_id: xml.snapshot_id,
        volume_id: xml.volume_id,
        size_gib: xml.volume_size,
        start_time_ms: xml.start_time.parse::<Timestamp>().map(Timestamp::as_millisecond).unwrap_or_default(),
        state: xml.status,
    }
}

fn instance(xml: InstanceXml) -> Instance {
    Instance {
        instance_id: xml.instance_id,
        root_device_name: xml.root_device_name,
        block_devices: xml.block_device_mapping.item.into_iter().map(|mapping| (mapping.device_name, mapping.ebs.volume_id)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response { status, body: body.to_owned(), request_id: String::new(), error_type: String::new() }
    }

    #[test]
    fn a_volume_is_read() {
        let body = r#"<?xml version="1.0" encoding="UTF-8"?>
            <DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><volumeSet><item>
            <volumeId>vol-1</volumeId><size>4</size><snapshotId/><availabilityZone>us-east-1a</availabilityZone><status>in-use</status>
            <createTime>2026-01-01T00:00:00.000Z</createTime><attachmentSet><item><volumeId>vol-1</volumeId><instanceId>i-1</instanceId>
            <device>/dev/xvdaa</device><status>attached</status><attachTime>2026-01-01T00:00:00.000Z</attachTime></item></attachmentSet>
            <volumeType>gp3</volumeType><iops>3000</iops><multiAttachEnabled>false</multiAttachEnabled>
            <tagSet><item><key>a</key><value>b &amp; c</value></item><item><key>d</key><value/></item></tagSet></item></volumeSet>
            </DescribeVolumesResponse>"#;
        let call = CloudCall::DescribeVolumes(VolumeQuery::Id("vol-1".into()));
        let CloudReply::Volumes(volumes) = reply(&call, &response(200, body)).unwrap() else { panic!() };
        let [volume] = volumes.as_slice() else { panic!() };
        assert_eq!((volume.state.as_str(), volume.size_gib, volume.iops), ("in-use", 4, Some(3000)));
        assert_eq!(volume.tags, BTreeMap::from([("a".into(), "b & c".into()), ("d".into(), String::new())]));
        assert_eq!(volume.attachments[0].device, "/dev/xvdaa");
        assert!(volume.attachments[0].age_seconds > 1000);
        let empty = "<DescribeVolumesResponse><requestId>r</requestId><volumeSet/></DescribeVolumesResponse>";
        assert_eq!(reply(&call, &response(200, empty)), Ok(CloudReply::Volumes(Vec::new())));
    }

    #[test]
    fn errors_are_read() {
        let body = "<?xml version=\"1.0\"?><Response><Errors><Error><Code>IncorrectState</Code><Message>Volume 'vol-x' is in the \
                    'available' state.</Message></Error></Errors><RequestID>r-1</RequestID></Response>";
        let call = CloudCall::DetachVolume { volume_id: "vol-x".into(), instance_id: "i-1".into() };
        let error = reply(&call, &response(400, body)).unwrap_err();
        assert_eq!(error.code(), "IncorrectState");
        assert_eq!(
            error.to_string(),
            "operation error EC2: DetachVolume, https response error StatusCode: 400, RequestID: r-1, api error IncorrectState: \
             Volume 'vol-x' is in the 'available' state."
        );
        assert_eq!(reply(&call, &response(502, "bad gateway")).unwrap_err().code(), "UnknownError");
    }

    #[test]
    fn parameters_are_encoded() {
        let call = CloudCall::CreateTags { resource: "vol-1".into(), tags: [("a b/c".to_owned(), "é&=".to_owned())].into() };
        let body = request(&call).body;
        assert_eq!(body, "Action=CreateTags&Version=2016-11-15&ResourceId.1=vol-1&Tag.1.Key=a%20b%2Fc&Tag.1.Value=%C3%A9%26%3D");
    }
}
