//! The EC2 actions: request and response types, one handler each.
//!
//! To add an action: a request struct (`Deserialize`, PascalCase), a response struct (`Serialize`, camelCase), a handler, a line
//! in [`handle`].

mod attachments;
mod effects;
mod fast_restores;
pub mod instances;
mod locks;
mod modifications;
mod network;
mod rules;
mod security_groups;
mod snapshots;
mod tags;
mod volume_xml;
mod volumes;

use std::fmt;
use std::time::Duration;

use model_aws::ec2::{Command, Effect, Filter, Paging, Reject, Reply, State, TagItem, Tags};
use model_aws::{At, Input};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

pub use effects::{instance_of, observe, perform};

use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

type Answer = Result<XmlBody, Ec2Error>;

/// Answers one EC2 action.
pub async fn handle(ctx: &Ctx, action: &str, params: Params) -> Answer {
    let params = &params;
    match action {
        "AttachVolume" => attachments::attach(ctx, params).await,
        "AuthorizeSecurityGroupEgress" => security_groups::authorize(ctx, action, params, false).await,
        "AuthorizeSecurityGroupIngress" => security_groups::authorize(ctx, action, params, true).await,
        "CopyVolumes" => volumes::copy(ctx, params).await,
        "CreateSecurityGroup" => security_groups::create(ctx, params).await,
        "CreateSnapshot" => snapshots::create(ctx, params).await,
        "CreateTags" => tags::create(ctx, params).await,
        "CreateVolume" => volumes::create(ctx, params).await,
        "DeleteSecurityGroup" => security_groups::delete(ctx, params).await,
        "DeleteSnapshot" => snapshots::delete(ctx, params).await,
        "DeleteTags" => tags::delete(ctx, params).await,
        "DeleteVolume" => volumes::delete(ctx, params).await,
        "DescribeAvailabilityZones" => network::zones(ctx, params).await,
        "DescribeFastSnapshotRestores" => fast_restores::describe(ctx, params).await,
        "DescribeInstanceTypes" => instances::types(ctx, params).await,
        "DescribeInstances" => instances::describe(ctx, params).await,
        "DescribeLockedSnapshots" => locks::describe(ctx, params).await,
        "DescribeNetworkInterfaces" => network::interfaces(ctx, params).await,
        "DescribeRegions" => network::regions(ctx, params).await,
        "DescribeSecurityGroupRules" => security_groups::describe_rules(ctx, params).await,
        "DescribeSecurityGroups" => security_groups::describe(ctx, params).await,
        "DescribeSnapshots" => snapshots::describe(ctx, params).await,
        "DescribeSubnets" => network::subnets(ctx, params).await,
        "DescribeTags" => tags::describe(ctx, params).await,
        "DescribeVolumeStatus" => volumes::describe_status(ctx, params).await,
        "DescribeVolumes" => volumes::describe(ctx, params).await,
        "DescribeVolumesModifications" => modifications::describe(ctx, params).await,
        "DescribeVpcs" => network::vpcs(ctx, params).await,
        "DetachVolume" => attachments::detach(ctx, params).await,
        "DisableFastSnapshotRestores" => fast_restores::change(ctx, action, params, false).await,
        "EnableFastSnapshotRestores" => fast_restores::change(ctx, action, params, true).await,
        "LockSnapshot" => locks::lock(ctx, params).await,
        "ModifyInstanceMetadataOptions" => instances::modify_metadata(ctx, params).await,
        "ModifyVolume" => modifications::modify(ctx, params).await,
        "RevokeSecurityGroupEgress" => security_groups::revoke(ctx, action, params, false).await,
        "RevokeSecurityGroupIngress" => security_groups::revoke(ctx, action, params, true).await,
        "UnlockSnapshot" => locks::unlock(ctx, params).await,
        "CopySnapshot"
        | "RunInstances"
        | "StartInstances"
        | "StopInstances"
        | "TerminateInstances"
        | "RebootInstances"
        | "CreateVpc"
        | "CreateSubnet"
        | "EnableVolumeIO"
        | "ModifyVolumeAttribute"
        | "DescribeVolumeAttribute"
        | "DescribeSnapshotAttribute"
        | "ModifySnapshotAttribute" => {
            Err(Ec2Error::new("UnsupportedOperation", format!("ebbtide does not have the action {action} yet.")))
        }
        _ => Err(Ec2Error::invalid_action(action)),
    }
}

/// Carries a command out, or only checks it when the request is a dry run.
async fn run(ctx: &Ctx, params: &Params, command: Command) -> Result<Reply, Ec2Error> {
    if params.dry_run()? {
        return match ctx.engine.read(|aws| aws.dry_run(&command)).await {
            Ok(()) => Err(Ec2Error::dry_run()),
            Err(reject) => Err(error_of(&reject)),
        };
    }
    let effects = ctx.engine.command(Input::Ec2(model_aws::ec2::Input::Command(command))).await.map_err(|reject| match reject {
        model_aws::Reject::Ec2(reject) => error_of(&reject),
        other @ (model_aws::Reject::Efs(_) | model_aws::Reject::Kms(_) | model_aws::Reject::Faults(_)) => {
            Ec2Error::new("InternalError", other.to_string())
        }
    })?;
    let reply = effects.into_iter().find_map(|effect| match effect {
        model_aws::Effect::Ec2(Effect::Reply(reply)) => Some(reply),
        model_aws::Effect::Ec2(_) | model_aws::Effect::Efs(_) | model_aws::Effect::Kms(_) | model_aws::Effect::Faults(_) => None,
    });
    reply.ok_or_else(no_reply)
}

/// Longest that an answer waits for a copy; shorter than what the SDKs wait for an answer.
const COPY_LIMIT: Duration = Duration::from_secs(25);

/// Waits until a copy has read its blocks. A snapshot or copy shows a volume as it was when the call returned: what is written
/// after the answer must not get into it, so that the answer must not leave before. The writers stand still at least from the
/// beginning of the copy on, and one that takes longer than an answer may is told of as `pending` meanwhile.
async fn until_read(ctx: &Ctx, read: impl Fn(&State) -> bool) {
    let mut events = ctx.engine.events();
    let done = async {
        while !ctx.engine.read(|aws| read(&aws.ec2)).await {
            if let Err(RecvError::Closed) = events.recv().await {
                return;
            }
        }
    };
    if tokio::time::timeout(COPY_LIMIT, done).await.is_err() {
        tracing::warn!("a copy takes long; its call is answered before it ends");
    }
}

/// A describe call that is a dry run ends here, after its parameters were read.
fn end_of_dry_run(params: &Params) -> Result<(), Ec2Error> {
    if params.dry_run()? { Err(Ec2Error::dry_run()) } else { Ok(()) }
}

fn no_reply() -> Ec2Error {
    Ec2Error::new("InternalError", "The machine gave no reply of this action.")
}

fn error_of(reject: &Reject) -> Ec2Error {
    let (code, message, status) = model_aws::ec2::reject_to_error(reject);
    Ec2Error { code: code.into(), message, status }
}

/// Displays as `2026-11-23T03:49:25.123Z`.
#[derive(Debug, Clone, Copy)]
struct Time(At);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0.0) {
            // Two for each row of an answer: digit by digit, as ids are (`Hex17`).
            Ok(time) => {
                let time = jiff::tz::Offset::UTC.to_datetime(time);
                let mut text = *b"0000-00-00T00:00:00.000Z";
                let mut put = |end: usize, digits: usize, number: i32| {
                    let mut rest = number.unsigned_abs();
                    for at in (end - digits..end).rev() {
                        text[at] = b'0' + (rest % 10) as u8;
                        rest /= 10;
                    }
                };
                put(4, 4, time.year().into());
                put(7, 2, time.month().into());
                put(10, 2, time.day().into());
                put(13, 2, time.hour().into());
                put(16, 2, time.minute().into());
                put(19, 2, time.second().into());
                put(23, 3, time.millisecond().into());
                f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
            // Outside of what a calendar can show; our own clock never is.
            Err(_) => f.write_str("1970-01-01T00:00:00.000Z"),
        }
    }
}

fn time(at: At) -> String {
    Time(at).to_string()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagSpecification {
    #[serde(default)]
    resource_type: Option<String>,
    #[serde(default, rename = "Tag")]
    tags: Vec<TagItem>,
}

/// The tags that a request gives to the resource it makes.
fn tags_for(resource_type: &str, specifications: Vec<TagSpecification>) -> Result<Vec<TagItem>, Ec2Error> {
    let mut tags = Vec::new();
    for specification in specifications {
        match specification.resource_type.as_deref() {
            Some(name) if name == resource_type => tags.extend(specification.tags),
            Some(name) => {
                return Err(Ec2Error::new(
                    "InvalidParameterValue",
                    format!("'{name}' is not a valid taggable resource type for this operation."),
                ));
            }
            None => return Err(Ec2Error::new("MissingParameter", "Tag specification resource type must have a value")),
        }
    }
    Ok(tags)
}

#[derive(Debug, Clone, Serialize)]
struct Tag {
    key: String,
    value: String,
}

/// The `tagSet` of a resource; absent where there is none.
fn tag_set(tags: &Tags) -> Option<Vec<Tag>> {
    let tags: Vec<Tag> = tags.iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect();
    (!tags.is_empty()).then_some(tags)
}

/// Declares the request of a describe call: the name of its ids (and their type, where one answer may be asked for many), and lists
/// that it has beside the common parameters.
macro_rules! describe_request {
    ($name:ident, $ids:literal $(, $extra:ident)*) => {
        $crate::ec2::describe_request!($name, $ids: String $(, $extra)*);
    };
    ($name:ident, $ids:literal: $id:ty $(, $extra:ident)*) => {
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct $name {
            #[serde(rename = $ids)]
            ids: Vec<$id>,
            filter: Vec<model_aws::ec2::Filter>,
            max_results: Option<i64>,
            next_token: Option<String>,
            /// Read for its form: there are no managed resources here.
            #[serde(rename = "IncludeManagedResources")]
            _managed: Option<bool>,
            $($extra: Vec<String>,)*
        }

        impl $name {
            /// Reads and checks the parameters; a dry run ends here.
            fn read(params: &crate::query::Params) -> Result<(Self, model_aws::ec2::Paging), crate::error::Ec2Error> {
                let request: Self = params.read()?;
                crate::ec2::check_lists(request.ids.len(), &request.filter)?;
                let paging = crate::ec2::paging(request.max_results, request.next_token.clone())?;
                crate::ec2::end_of_dry_run(params)?;
                Ok((request, paging))
            }
        }
    };
}
use describe_request;

fn check_lists(ids: usize, filters: &[Filter]) -> Result<(), Ec2Error> {
    if filters.len() > 200 || filters.iter().any(|filter| filter.values.len() > 200) {
        return Err(Ec2Error::new("FilterLimitExceeded", "The maximum number of filters or of filter values is 200."));
    }
    if ids > 1000 {
        return Err(Ec2Error::new("InvalidParameterValue", "The maximum number of resource ids in a request is 1000."));
    }
    Ok(())
}

fn paging(max_results: Option<i64>, next_token: Option<String>) -> Result<Paging, Ec2Error> {
    let number = |number: i64| {
        let invalid = || Ec2Error::new("InvalidParameterValue", format!("Value ( {number} ) for parameter maxResults is invalid."));
        u32::try_from(number).map_err(|_| invalid())
    };
    Ok(Paging { max_results: max_results.map(number).transpose()?, next_token })
}

#[cfg(test)]
mod tests;
