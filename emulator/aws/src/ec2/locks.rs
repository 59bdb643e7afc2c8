//! LockSnapshot, UnlockSnapshot, DescribeLockedSnapshots.

use model_aws::At;
use model_aws::ec2::{self, Command, Reply, SnapshotLock};
use serde::{Deserialize, Serialize};

use super::{Answer, error_of, no_reply, run, time};
use crate::ctx::Ctx;
use crate::engine::now;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

super::describe_request!(DescribeLockedSnapshotsRequest, "SnapshotId");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LockRequest {
    snapshot_id: String,
    lock_mode: String,
    cool_off_period: Option<u32>,
    lock_duration: Option<u32>,
    expiration_date: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UnlockRequest {
    snapshot_id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LockXml {
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_id: Option<String>,
    snapshot_id: String,
    lock_state: &'static str,
    lock_duration: u32,
    cool_off_period: Option<u32>,
    cool_off_period_expires_on: Option<String>,
    lock_created_on: String,
    lock_duration_start_time: Option<String>,
    lock_expires_on: Option<String>,
}

impl LockXml {
    fn new(snapshot_id: String, owner_id: Option<String>, lock: &SnapshotLock) -> Self {
        Self {
            owner_id,
            snapshot_id,
            lock_state: lock.state(),
            lock_duration: lock.days,
            cool_off_period: lock.cool_off_hours,
            cool_off_period_expires_on: lock.cool_off_until.map(time),
            lock_created_on: time(lock.created_on),
            lock_duration_start_time: lock.starts_on.map(time),
            lock_expires_on: lock.expires_on.map(time),
        }
    }
}

/// A date as the SDKs write it.
fn date(text: &str) -> Result<At, Ec2Error> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(At(time.as_millisecond())),
        Err(_) => Err(Ec2Error::new(
            "InvalidParameterValue",
            format!("Value ({text}) for parameter ExpirationDate is invalid. Expected a date such as 2030-12-31T23:59:59Z."),
        )),
    }
}

pub async fn lock(ctx: &Ctx, params: &Params) -> Answer {
    let request: LockRequest = params.read()?;
    let command = Command::LockSnapshot(ec2::LockSnapshot {
        snapshot_id: request.snapshot_id,
        mode: request.lock_mode,
        cool_off_hours: request.cool_off_period,
        days: request.lock_duration,
        expires_on: request.expiration_date.as_deref().map(date).transpose()?,
        asked_at: now(),
    });
    match run(ctx, params, command).await? {
        Reply::Lock { snapshot, lock } => XmlBody::new("LockSnapshot", &LockXml::new(snapshot.id(ctx.world.seed), None, &lock)),
        _ => Err(no_reply()),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Unlocked {
    snapshot_id: String,
}

pub async fn unlock(ctx: &Ctx, params: &Params) -> Answer {
    let UnlockRequest { snapshot_id } = params.read()?;
    run(ctx, params, Command::UnlockSnapshot { snapshot_id: snapshot_id.clone() }).await?;
    XmlBody::new("UnlockSnapshot", &Unlocked { snapshot_id })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Locks {
    snapshot_set: Vec<LockXml>,
    next_token: Option<String>,
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeLockedSnapshotsRequest::read(params)?;
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_locks(&request.ids, &request.filter, &paging)?;
        let owner = || Some(ctx.world.account.clone());
        let shown = page.items.into_iter().map(|(snapshot, lock)| LockXml::new(snapshot.key.id(aws.ec2.seed()), owner(), lock));
        Ok(Locks { snapshot_set: shown.collect(), next_token: page.next_token })
    });
    XmlBody::new("DescribeLockedSnapshots", &answer.await.map_err(|reject| error_of(&reject))?)
}
