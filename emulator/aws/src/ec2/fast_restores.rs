//! EnableFastSnapshotRestores, DisableFastSnapshotRestores, DescribeFastSnapshotRestores.

use model_aws::ec2::{self, Command, FastRestore, FastRestoreState, Filter, Reject, Reply, reject_to_error};
use serde::{Deserialize, Serialize};

use super::{Answer, check_lists, end_of_dry_run, error_of, no_reply, paging, run, time};
use crate::ctx::Ctx;
use crate::query::Params;
use crate::xml::XmlBody;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeRequest {
    #[serde(default)]
    availability_zone: Vec<String>,
    #[serde(default)]
    availability_zone_id: Vec<String>,
    #[serde(default)]
    source_snapshot_id: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RestoreXml {
    snapshot_id: String,
    availability_zone: String,
    availability_zone_id: Option<String>,
    state: &'static str,
    state_transition_reason: &'static str,
    owner_id: String,
    enabling_time: Option<String>,
    optimizing_time: Option<String>,
    enabled_time: Option<String>,
    disabling_time: Option<String>,
    disabled_time: Option<String>,
}

impl RestoreXml {
    fn new(ctx: &Ctx, snapshot_id: String, zone: &str, restore: &FastRestore) -> Self {
        let since = |state: FastRestoreState| restore.since.iter().find(|(other, _)| *other == state).map(|(_, at)| time(*at));
        Self {
            snapshot_id,
            availability_zone: zone.to_owned(),
            availability_zone_id: zone_id(ctx, zone),
            state: restore.state.name(),
            state_transition_reason: match restore.state {
                FastRestoreState::Enabling | FastRestoreState::Disabling => "Client.UserInitiated",
                FastRestoreState::Optimizing | FastRestoreState::Enabled | FastRestoreState::Disabled => {
                    "Client.UserInitiated - Lifecycle state transition"
                }
            },
            owner_id: ctx.world.account.clone(),
            enabling_time: since(FastRestoreState::Enabling),
            optimizing_time: since(FastRestoreState::Optimizing),
            enabled_time: since(FastRestoreState::Enabled),
            disabling_time: since(FastRestoreState::Disabling),
            disabled_time: since(FastRestoreState::Disabled),
        }
    }
}

fn zone_id(ctx: &Ctx, name: &str) -> Option<String> {
    ctx.world.zones.iter().find(|zone| zone.name == name).map(|zone| zone.id.clone())
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    successful: Vec<RestoreXml>,
    unsuccessful: Vec<Unsuccessful>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Unsuccessful {
    snapshot_id: String,
    fast_snapshot_restore_state_error_set: Vec<StateError>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StateError {
    availability_zone: String,
    availability_zone_id: Option<String>,
    error: ErrorXml,
}

#[derive(Debug, Serialize)]
struct ErrorXml {
    code: &'static str,
    message: String,
}

/// What did not succeed, each snapshot once with its zones.
fn unsuccessful(ctx: &Ctx, list: Vec<(String, String, Reject)>) -> Vec<Unsuccessful> {
    let mut shown: Vec<Unsuccessful> = Vec::new();
    for (snapshot_id, availability_zone, reject) in list {
        let (code, message, _) = reject_to_error(&reject);
        let availability_zone_id = zone_id(ctx, &availability_zone);
        let error = StateError { availability_zone, availability_zone_id, error: ErrorXml { code, message } };
        match shown.iter_mut().find(|item| item.snapshot_id == snapshot_id) {
            Some(item) => item.fast_snapshot_restore_state_error_set.push(error),
            None => shown.push(Unsuccessful { snapshot_id, fast_snapshot_restore_state_error_set: vec![error] }),
        }
    }
    shown
}

pub async fn change(ctx: &Ctx, action: &str, params: &Params, enable: bool) -> Answer {
    let request: ChangeRequest = params.read()?;
    let command = Command::FastRestores(ec2::FastRestores {
        enable,
        zones: request.availability_zone,
        zone_ids: request.availability_zone_id,
        snapshots: request.source_snapshot_id,
    });
    match run(ctx, params, command).await? {
        Reply::FastRestores { successful, unsuccessful: failed } => {
            let shown = |(key, zone, restore): (ec2::SnapshotKey, String, FastRestore)| {
                RestoreXml::new(ctx, key.id(ctx.world.seed), &zone, &restore)
            };
            let successful = successful.into_iter().map(shown).collect();
            XmlBody::new(action, &Changed { successful, unsuccessful: unsuccessful(ctx, failed) })
        }
        _ => Err(no_reply()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DescribeRequest {
    filter: Vec<Filter>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restores {
    fast_snapshot_restore_set: Vec<RestoreXml>,
    next_token: Option<String>,
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let request: DescribeRequest = params.read()?;
    check_lists(0, &request.filter)?;
    let paging = paging(request.max_results, request.next_token)?;
    end_of_dry_run(params)?;
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_fast_restores(&request.filter, &paging)?;
        let shown =
            page.items.into_iter().map(|(snapshot, zone, restore)| RestoreXml::new(ctx, snapshot.key.id(aws.ec2.seed()), zone, restore));
        Ok(Restores { fast_snapshot_restore_set: shown.collect(), next_token: page.next_token })
    });
    XmlBody::new("DescribeFastSnapshotRestores", &answer.await.map_err(|reject| error_of(&reject))?)
}
