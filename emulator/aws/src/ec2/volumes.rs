//! CreateVolume, CopyVolumes, DeleteVolume, DescribeVolumes, DescribeVolumeStatus.

use model_aws::ec2::{self, Command, File, Reply, Source, State, Volume, VolumeStatus};
use serde::{Deserialize, Serialize};

use super::volume_xml::{self, VolumeXml};
use super::{Answer, Tag, TagSpecification, error_of, no_reply, run, tags_for, until_read};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::{USUAL_SIZE, XmlBody};

// Ids are short enough to need no allocation each.
super::describe_request!(DescribeVolumesRequest, "VolumeId": compact_str::CompactString);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateVolumeRequest {
    availability_zone: Option<String>,
    availability_zone_id: Option<String>,
    encrypted: Option<bool>,
    iops: Option<u32>,
    kms_key_id: Option<String>,
    outpost_arn: Option<String>,
    size: Option<u32>,
    snapshot_id: Option<String>,
    volume_type: Option<String>,
    #[serde(default)]
    tag_specification: Vec<TagSpecification>,
    multi_attach_enabled: Option<bool>,
    throughput: Option<u32>,
    client_token: Option<String>,
    volume_initialization_rate: Option<u32>,
    operator: Option<Operator>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Operator {
    #[serde(rename = "Principal")]
    _principal: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CopyVolumesRequest {
    source_volume_id: String,
    iops: Option<u32>,
    size: Option<u32>,
    volume_type: Option<String>,
    #[serde(default)]
    tag_specification: Vec<TagSpecification>,
    multi_attach_enabled: Option<bool>,
    throughput: Option<u32>,
    client_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeIdRequest {
    volume_id: String,
}

pub async fn create(ctx: &Ctx, params: &Params) -> Answer {
    let request: CreateVolumeRequest = params.read()?;
    if request.outpost_arn.is_some() {
        return Err(Ec2Error::new("UnsupportedOperation", "There are no Outposts here."));
    }
    if let Some(Operator { .. }) = request.operator {
        return Err(Ec2Error::new("UnsupportedOperation", "Managed volumes (Operator) are not supported here."));
    }
    let command = Command::CreateVolume(ec2::CreateVolume {
        client_token: request.client_token,
        zone: request.availability_zone,
        zone_id: request.availability_zone_id,
        size_gib: request.size,
        volume_type: request.volume_type,
        iops: request.iops,
        throughput: request.throughput,
        encrypted: request.encrypted.unwrap_or(false),
        kms_key_id: request.kms_key_id,
        multi_attach: request.multi_attach_enabled.unwrap_or(false),
        snapshot_id: request.snapshot_id,
        initialization_rate: request.volume_initialization_rate,
        tags: tags_for("volume", request.tag_specification)?,
    });
    match run(ctx, params, command).await? {
        Reply::Volume(volume) => Ok(XmlBody::written("CreateVolume", USUAL_SIZE, |out| VolumeXml::made(ctx, &volume).write(out))),
        _ => Err(no_reply()),
    }
}

pub async fn copy(ctx: &Ctx, params: &Params) -> Answer {
    let request: CopyVolumesRequest = params.read()?;
    let command = Command::CopyVolumes(ec2::CopyVolumes {
        client_token: request.client_token,
        source_volume_id: request.source_volume_id,
        size_gib: request.size,
        volume_type: request.volume_type,
        iops: request.iops,
        throughput: request.throughput,
        multi_attach: request.multi_attach_enabled.unwrap_or(false),
        tags: tags_for("volume", request.tag_specification)?,
    });
    match run(ctx, params, command).await? {
        Reply::Volumes(volumes) => {
            let read = |made: &Volume| made.file != File::Absent || made.refused;
            until_read(ctx, |ec2| volumes.iter().all(|made| ec2.volume(made.key).is_none_or(read))).await;
            let shown = volumes.iter().map(|volume| VolumeXml::made(ctx, volume));
            Ok(XmlBody::written("CopyVolumes", USUAL_SIZE, |out| volume_xml::write_set(out, shown, None)))
        }
        _ => Err(no_reply()),
    }
}

pub async fn delete(ctx: &Ctx, params: &Params) -> Answer {
    let request: VolumeIdRequest = params.read()?;
    run(ctx, params, Command::DeleteVolume { volume_id: request.volume_id }).await?;
    XmlBody::ok("DeleteVolume")
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeVolumesRequest::read(params)?;
    // Written under the lock: to copy the volumes first takes longer.
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_volumes(&request.ids, &request.filter, &paging).map_err(|reject| error_of(&reject))?;
        let (shown, size) = (VolumeXml::all(&aws.ec2, &page.items), volume_xml::size(&page.items));
        Ok(XmlBody::written("DescribeVolumes", size, |out| volume_xml::write_set(out, shown, page.next_token.as_deref())))
    });
    answer.await
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Statuses {
    volume_status_set: Vec<StatusItem>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusItem {
    volume_id: String,
    availability_zone: String,
    availability_zone_id: Option<String>,
    volume_status: Status,
    events_set: Vec<Tag>,
    actions_set: Vec<Tag>,
    attachment_statuses: Vec<AttachmentHealth>,
    initialization_status_details: Option<Initialization>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    status: &'static str,
    details: Vec<Detail>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    name: &'static str,
    status: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentHealth {
    io_performance: &'static str,
    instance_id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Initialization {
    initialization_type: &'static str,
    progress: u32,
    estimated_time_to_complete_in_seconds: u32,
}

impl StatusItem {
    /// Blocks are here in full before a volume becomes available, so its initialization is complete from then on.
    fn new(state: &State, volume: &Volume) -> Self {
        let (ok, done) = match volume.status() {
            VolumeStatus::Available | VolumeStatus::InUse => ("ok", true),
            VolumeStatus::Creating => ("insufficient-data", false),
            VolumeStatus::Deleting => ("ok", true),
            VolumeStatus::Error => ("impaired", false),
        };
        let enabled = if ok == "impaired" { "failed" } else { "passed" };
        let initialization_type = match volume.source {
            Source::Empty => None,
            Source::Snapshot(_) if volume.initialization_rate.is_some() => Some("provisioned-rate"),
            Source::Snapshot(_) => Some("default"),
            Source::Volume(_) => Some("volume-copy"),
        };
        Self {
            volume_id: volume.key.id(state.seed()),
            availability_zone: volume.zone.clone(),
            availability_zone_id: state.network().zone(&volume.zone).map(|zone| zone.id.clone()),
            volume_status: Status {
                status: ok,
                details: vec![
                    Detail { name: "io-enabled", status: enabled },
                    Detail { name: "io-performance", status: "not-applicable" },
                    Detail { name: "initialization-state", status: if done { "completed" } else { "initializing" } },
                ],
            },
            events_set: Vec::new(),
            actions_set: Vec::new(),
            attachment_statuses: volume
                .attachments
                .keys()
                .map(|instance| AttachmentHealth { io_performance: "not-applicable", instance_id: instance.to_string() })
                .collect(),
            initialization_status_details: initialization_type.map(|initialization_type| Initialization {
                initialization_type,
                progress: if done { 100 } else { 0 },
                estimated_time_to_complete_in_seconds: 0,
            }),
        }
    }
}

/// The filters of this call speak of health; those that speak of the volume are the same as of DescribeVolumes.
pub async fn describe_status(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeVolumesRequest::read(params)?;
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_volumes(&request.ids, &request.filter, &paging)?;
        let volume_status_set = page.items.into_iter().map(|volume| StatusItem::new(&aws.ec2, volume)).collect();
        Ok(Statuses { volume_status_set, next_token: page.next_token })
    });
    XmlBody::new("DescribeVolumeStatus", &answer.await.map_err(|reject| error_of(&reject))?)
}
