//! ModifyVolume, DescribeVolumesModifications.

use model_aws::ec2::{self, Command, Modification, Reply};
use serde::{Deserialize, Serialize};

use super::{Answer, error_of, no_reply, run, time};
use crate::ctx::Ctx;
use crate::query::Params;
use crate::xml::XmlBody;

super::describe_request!(DescribeModificationsRequest, "VolumeId");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyVolumeRequest {
    volume_id: String,
    size: Option<u32>,
    volume_type: Option<String>,
    iops: Option<u32>,
    throughput: Option<u32>,
    multi_attach_enabled: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModificationXml {
    volume_id: String,
    modification_state: &'static str,
    target_size: u32,
    target_iops: Option<u32>,
    target_volume_type: &'static str,
    target_throughput: Option<u32>,
    target_multi_attach_enabled: bool,
    original_size: u32,
    original_iops: Option<u32>,
    original_volume_type: &'static str,
    original_throughput: Option<u32>,
    original_multi_attach_enabled: bool,
    progress: u32,
    start_time: String,
    end_time: Option<String>,
}

impl ModificationXml {
    fn new(volume_id: String, modification: &Modification) -> Self {
        let (original, target) = (&modification.original, &modification.target);
        Self {
            volume_id,
            modification_state: modification.state.name(),
            target_size: target.size_gib,
            target_iops: target.iops,
            target_volume_type: target.volume_type.name(),
            target_throughput: target.throughput,
            target_multi_attach_enabled: target.multi_attach,
            original_size: original.size_gib,
            original_iops: original.iops,
            original_volume_type: original.volume_type.name(),
            original_throughput: original.throughput,
            original_multi_attach_enabled: original.multi_attach,
            progress: modification.progress(),
            start_time: time(modification.started_at),
            end_time: modification.ended_at.map(time),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Modified {
    volume_modification: ModificationXml,
}

pub async fn modify(ctx: &Ctx, params: &Params) -> Answer {
    let request: ModifyVolumeRequest = params.read()?;
    let command = Command::ModifyVolume(ec2::ModifyVolume {
        volume_id: request.volume_id,
        size_gib: request.size,
        volume_type: request.volume_type,
        iops: request.iops,
        throughput: request.throughput,
        multi_attach: request.multi_attach_enabled,
    });
    match run(ctx, params, command).await? {
        Reply::Modification { volume, modification } => {
            let volume_modification = ModificationXml::new(volume.id(ctx.world.seed), &modification);
            XmlBody::new("ModifyVolume", &Modified { volume_modification })
        }
        _ => Err(no_reply()),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Modifications {
    volume_modification_set: Vec<ModificationXml>,
    next_token: Option<String>,
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeModificationsRequest::read(params)?;
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_modifications(&request.ids, &request.filter, &paging)?;
        let shown = |volume: &ec2::Volume| Some(ModificationXml::new(volume.key.id(aws.ec2.seed()), volume.modification.as_ref()?));
        Ok(Modifications { volume_modification_set: page.items.into_iter().filter_map(shown).collect(), next_token: page.next_token })
    });
    XmlBody::new("DescribeVolumesModifications", &answer.await.map_err(|reject| error_of(&reject))?)
}
