//! AttachVolume, DetachVolume.

use model_aws::ec2::{Command, Reply};
use serde::Deserialize;

use super::volume_xml;
use super::{Answer, no_reply, run};
use crate::ctx::Ctx;
use crate::query::Params;
use crate::xml::{USUAL_SIZE, XmlBody};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttachVolumeRequest {
    volume_id: String,
    instance_id: String,
    device: String,
    ebs_card_index: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DetachVolumeRequest {
    volume_id: String,
    instance_id: Option<String>,
    device: Option<String>,
    force: Option<bool>,
}

pub async fn attach(ctx: &Ctx, params: &Params) -> Answer {
    let AttachVolumeRequest { volume_id, instance_id, device, ebs_card_index } = params.read()?;
    let command = Command::AttachVolume { volume_id, instance_id, device, card_index: ebs_card_index };
    answer(ctx, "AttachVolume", run(ctx, params, command).await?)
}

pub async fn detach(ctx: &Ctx, params: &Params) -> Answer {
    let DetachVolumeRequest { volume_id, instance_id, device, force } = params.read()?;
    let command = Command::DetachVolume { volume_id, instance_id, device, force: force.unwrap_or(false) };
    answer(ctx, "DetachVolume", run(ctx, params, command).await?)
}

fn answer(ctx: &Ctx, action: &str, reply: Reply) -> Answer {
    match reply {
        Reply::Attachment { volume, instance, attachment } => {
            let volume = volume.shown(ctx.world.seed);
            Ok(XmlBody::written(action, USUAL_SIZE, |out| volume_xml::write_attachment(out, volume, &instance, &attachment)))
        }
        _ => Err(no_reply()),
    }
}
