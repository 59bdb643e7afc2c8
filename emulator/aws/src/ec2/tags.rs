//! CreateTags, DeleteTags, DescribeTags.

use model_aws::ec2::{Command, Filter, TagItem};
use serde::{Deserialize, Serialize};

use super::{Answer, check_lists, end_of_dry_run, error_of, paging, run};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagsRequest {
    #[serde(default)]
    resource_id: Vec<String>,
    #[serde(default)]
    tag: Vec<TagItem>,
}

impl TagsRequest {
    fn read(params: &Params) -> Result<Self, Ec2Error> {
        let request: Self = params.read()?;
        if request.resource_id.is_empty() {
            return Err(Ec2Error::new("MissingParameter", "The request must contain the parameter resourceIdSet"));
        }
        if request.resource_id.len() > 1000 {
            return Err(Ec2Error::new("InvalidParameterValue", "The maximum number of resource ids in a request is 1000."));
        }
        Ok(request)
    }
}

pub async fn create(ctx: &Ctx, params: &Params) -> Answer {
    let TagsRequest { resource_id, tag } = TagsRequest::read(params)?;
    if tag.is_empty() {
        return Err(Ec2Error::new("MissingParameter", "The request must contain the parameter tagSet"));
    }
    run(ctx, params, Command::CreateTags { resources: resource_id, tags: tag }).await?;
    XmlBody::ok("CreateTags")
}

pub async fn delete(ctx: &Ctx, params: &Params) -> Answer {
    let TagsRequest { resource_id, tag } = TagsRequest::read(params)?;
    run(ctx, params, Command::DeleteTags { resources: resource_id, tags: tag }).await?;
    XmlBody::ok("DeleteTags")
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DescribeTagsRequest {
    filter: Vec<Filter>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tags {
    tag_set: Vec<TagDescription>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TagDescription {
    resource_id: String,
    resource_type: &'static str,
    key: String,
    value: String,
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let request: DescribeTagsRequest = params.read()?;
    check_lists(0, &request.filter)?;
    let paging = paging(request.max_results, request.next_token)?;
    end_of_dry_run(params)?;
    let answer = ctx.engine.read(|aws| {
        let page = aws.ec2.describe_tags(&request.filter, &paging)?;
        let tag_set = page.items.into_iter().map(|(kind, resource_id, key, value)| TagDescription {
            resource_id,
            resource_type: kind.name(),
            key: key.to_owned(),
            value: value.to_owned(),
        });
        Ok(Tags { tag_set: tag_set.collect(), next_token: page.next_token })
    });
    XmlBody::new("DescribeTags", &answer.await.map_err(|reject| error_of(&reject))?)
}
