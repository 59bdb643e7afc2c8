//! CreateSnapshot, DeleteSnapshot, DescribeSnapshots.

use model_aws::ec2::{Command, File, Reply, Snapshot, SnapshotStatus};
use serde::{Deserialize, Serialize};

use super::{Answer, Tag, TagSpecification, error_of, no_reply, run, tag_set, tags_for, time, until_read};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

super::describe_request!(DescribeSnapshotsRequest, "SnapshotId", owner, restorable_by);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateSnapshotRequest {
    volume_id: String,
    description: Option<String>,
    outpost_arn: Option<String>,
    location: Option<String>,
    #[serde(default)]
    tag_specification: Vec<TagSpecification>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteSnapshotRequest {
    snapshot_id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SnapshotXml {
    snapshot_id: String,
    volume_id: String,
    status: &'static str,
    start_time: String,
    completion_time: Option<String>,
    progress: String,
    owner_id: String,
    volume_size: u32,
    description: String,
    tag_set: Option<Vec<Tag>>,
    encrypted: bool,
    kms_key_id: Option<String>,
    storage_tier: Option<&'static str>,
}

impl SnapshotXml {
    fn new(seed: u64, owner: &str, snapshot: &Snapshot) -> Self {
        // EC2 shows no progress of a snapshot that has only begun.
        let progress = match (snapshot.status(), snapshot.progress()) {
            (SnapshotStatus::Pending, 0) => String::new(),
            (_, percent) => format!("{percent}%"),
        };
        Self {
            snapshot_id: snapshot.key.id(seed),
            volume_id: snapshot.volume_id.clone(),
            status: snapshot.status().name(),
            start_time: time(snapshot.started_at),
            completion_time: snapshot.completed_at.map(time),
            progress,
            owner_id: owner.to_owned(),
            volume_size: snapshot.size_gib,
            description: snapshot.description.clone(),
            tag_set: tag_set(&snapshot.tags),
            encrypted: snapshot.encrypted,
            kms_key_id: snapshot.kms_key_id.clone(),
            storage_tier: Some("standard"),
        }
    }
}

pub async fn create(ctx: &Ctx, params: &Params) -> Answer {
    let request: CreateSnapshotRequest = params.read()?;
    if request.outpost_arn.is_some() || request.location.as_deref().is_some_and(|location| location != "regional") {
        return Err(Ec2Error::new("UnsupportedOperation", "There are no Outposts and no Local Zones here."));
    }
    let command = Command::CreateSnapshot {
        volume_id: request.volume_id,
        description: request.description.unwrap_or_default(),
        tags: tags_for("snapshot", request.tag_specification)?,
    };
    match run(ctx, params, command).await? {
        Reply::Snapshot(snapshot) => {
            until_read(ctx, |ec2| ec2.snapshot(snapshot.key).is_none_or(|snapshot| snapshot.file != File::Absent)).await;
            XmlBody::new("CreateSnapshot", &SnapshotXml::new(ctx.world.seed, &ctx.world.account, &snapshot))
        }
        _ => Err(no_reply()),
    }
}

pub async fn delete(ctx: &Ctx, params: &Params) -> Answer {
    let request: DeleteSnapshotRequest = params.read()?;
    run(ctx, params, Command::DeleteSnapshot { snapshot_id: request.snapshot_id }).await?;
    XmlBody::ok("DeleteSnapshot")
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshots {
    snapshot_set: Vec<SnapshotXml>,
    next_token: Option<String>,
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeSnapshotsRequest::read(params)?;
    // There is one account: a request for another owner's snapshots finds none.
    let mine = |owner: &String| owner == "self" || *owner == ctx.world.account;
    let shared = |who: &String| mine(who) || who == "all";
    let visible = (request.owner.is_empty() || request.owner.iter().any(mine))
        && (request.restorable_by.is_empty() || request.restorable_by.iter().any(shared));
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_snapshots(&request.ids, &request.filter, &paging)?;
        let shown = |snapshot: &Snapshot| SnapshotXml::new(aws.ec2.seed(), &aws.ec2.network().account, snapshot);
        Ok(if visible {
            Snapshots { snapshot_set: page.items.into_iter().map(shown).collect(), next_token: page.next_token }
        } else {
            Snapshots { snapshot_set: Vec::new(), next_token: None }
        })
    });
    XmlBody::new("DescribeSnapshots", &answer.await.map_err(|reject| error_of(&reject))?)
}
