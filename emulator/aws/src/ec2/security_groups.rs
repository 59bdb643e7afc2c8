//! Security groups: Create, Delete, Describe, rules.

use model_aws::ec2::network::{Peer, Rule, SecurityGroup};
use model_aws::ec2::{Command, Filter, Kind, Reply, State};
use serde::{Deserialize, Serialize};

use super::network::check_ids;
use super::rules::change;
use super::{Answer, Tag, TagSpecification, check_lists, end_of_dry_run, error_of, no_reply, paging, run, tag_set, tags_for};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

super::describe_request!(DescribeGroupsRequest, "GroupId", group_name);

/// A group as other resources name it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupName {
    pub group_id: String,
    pub group_name: String,
}

impl GroupName {
    pub fn all(state: &State, ids: &[String]) -> Vec<Self> {
        let name = |id: &String| state.network().security_group(id).map(|group| group.name.clone()).unwrap_or_default();
        ids.iter().map(|id| Self { group_id: id.clone(), group_name: name(id) }).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateGroupRequest {
    group_name: String,
    group_description: String,
    vpc_id: Option<String>,
    #[serde(default)]
    tag_specification: Vec<TagSpecification>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    #[serde(rename = "return")]
    done: bool,
    group_id: String,
    security_group_arn: Option<String>,
    tag_set: Option<Vec<Tag>>,
}

pub async fn create(ctx: &Ctx, params: &Params) -> Answer {
    let request: CreateGroupRequest = params.read()?;
    let tags = tags_for("security-group", request.tag_specification)?;
    let shown = tags.iter().map(|tag| (tag.key.clone(), tag.value.clone().unwrap_or_default())).collect();
    let command =
        Command::CreateSecurityGroup { name: request.group_name, description: request.group_description, vpc_id: request.vpc_id, tags };
    match run(ctx, params, command).await? {
        Reply::SecurityGroup { id } => {
            let arn = arn(&ctx.world.region, &ctx.world.account, "security-group", &id);
            XmlBody::new(
                "CreateSecurityGroup",
                &Created { done: true, group_id: id, security_group_arn: Some(arn), tag_set: tag_set(&shown) },
            )
        }
        _ => Err(no_reply()),
    }
}

fn arn(region: &str, account: &str, kind: &str, id: &str) -> String {
    format!("arn:aws:ec2:{region}:{account}:{kind}/{id}")
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteGroupRequest {
    group_id: Option<String>,
    group_name: Option<String>,
}

pub async fn delete(ctx: &Ctx, params: &Params) -> Answer {
    let request: DeleteGroupRequest = params.read()?;
    let group_id = match (request.group_id, request.group_name) {
        (Some(id), _) => id,
        (None, Some(name)) => {
            let found = ctx.engine.read(|aws| {
                let group = aws.ec2.network().security_groups.values().find(|group| group.name == name);
                group.map(|group| group.id.clone())
            });
            let missing = || Ec2Error::new("InvalidGroup.NotFound", format!("The security group '{name}' does not exist in default VPC"));
            found.await.ok_or_else(missing)?
        }
        (None, None) => return Err(Ec2Error::new("MissingParameter", "The request must contain the parameter groupName or groupId")),
    };
    match run(ctx, params, Command::DeleteSecurityGroup { group_id }).await? {
        Reply::SecurityGroup { id } => {
            XmlBody::new("DeleteSecurityGroup", &Created { done: true, group_id: id, security_group_arn: None, tag_set: None })
        }
        _ => Err(no_reply()),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RulesXml {
    #[serde(rename = "return")]
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    security_group_rule_set: Option<Vec<RuleXml>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_security_group_rule_set: Option<Vec<RuleXml>>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleXml {
    security_group_rule_id: String,
    group_id: String,
    group_owner_id: String,
    is_egress: bool,
    ip_protocol: String,
    from_port: i32,
    to_port: i32,
    cidr_ipv4: Option<String>,
    cidr_ipv6: Option<String>,
    prefix_list_id: Option<String>,
    referenced_group_info: Option<Referenced>,
    description: Option<String>,
    security_group_rule_arn: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Referenced {
    group_id: String,
    user_id: String,
}

impl RuleXml {
    fn new(ctx: &Ctx, group: &str, rule: Rule, is_egress: bool) -> Self {
        let (from_port, to_port) = rule.ports.unwrap_or((-1, -1));
        let owner = &ctx.world.account;
        let (mut cidr_ipv4, mut cidr_ipv6, mut prefix_list_id, mut referenced) = (None, None, None, None);
        match rule.peer {
            Peer::Cidr(cidr) => cidr_ipv4 = Some(cidr),
            Peer::Cidr6(cidr) => cidr_ipv6 = Some(cidr),
            Peer::PrefixList(list) => prefix_list_id = Some(list),
            Peer::Group(id) => referenced = Some(Referenced { group_id: id, user_id: owner.clone() }),
        }
        Self {
            security_group_rule_arn: arn(&ctx.world.region, owner, "security-group-rule", &rule.id),
            security_group_rule_id: rule.id,
            group_id: group.to_owned(),
            group_owner_id: owner.clone(),
            is_egress,
            ip_protocol: rule.protocol,
            from_port,
            to_port,
            cidr_ipv4,
            cidr_ipv6,
            prefix_list_id,
            referenced_group_info: referenced,
            description: rule.description,
        }
    }
}

pub async fn authorize(ctx: &Ctx, action: &str, params: &Params, ingress: bool) -> Answer {
    let change = change(ctx, params).await?;
    let command = if ingress { Command::AuthorizeIngress(change) } else { Command::AuthorizeEgress(change) };
    match run(ctx, params, command).await? {
        Reply::Rules { group, rules } => {
            let rules = rules.into_iter().map(|rule| RuleXml::new(ctx, &group, rule, !ingress)).collect();
            let answer =
                RulesXml { done: true, security_group_rule_set: Some(rules), revoked_security_group_rule_set: None, next_token: None };
            XmlBody::new(action, &answer)
        }
        _ => Err(no_reply()),
    }
}

pub async fn revoke(ctx: &Ctx, action: &str, params: &Params, ingress: bool) -> Answer {
    let change = change(ctx, params).await?;
    let command = if ingress { Command::RevokeIngress(change) } else { Command::RevokeEgress(change) };
    match run(ctx, params, command).await? {
        Reply::Rules { group, rules } => {
            let rules = rules.into_iter().map(|rule| RuleXml::new(ctx, &group, rule, !ingress)).collect();
            let answer =
                RulesXml { done: true, security_group_rule_set: None, revoked_security_group_rule_set: Some(rules), next_token: None };
            XmlBody::new(action, &answer)
        }
        _ => Err(no_reply()),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Groups {
    security_group_info: Vec<GroupXml>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupXml {
    owner_id: String,
    group_id: String,
    group_name: String,
    group_description: String,
    vpc_id: String,
    ip_permissions: Vec<PermissionXml>,
    ip_permissions_egress: Vec<PermissionXml>,
    tag_set: Option<Vec<Tag>>,
    security_group_arn: String,
}

/// Rules of the same protocol and ports, as DescribeSecurityGroups puts them together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PermissionXml {
    ip_protocol: String,
    from_port: Option<i32>,
    to_port: Option<i32>,
    groups: Vec<PeerXml>,
    ip_ranges: Vec<RangeXml>,
    ipv6_ranges: Vec<Range6Xml>,
    prefix_list_ids: Vec<PrefixListXml>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerXml {
    user_id: String,
    group_id: String,
    description: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RangeXml {
    cidr_ip: String,
    description: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Range6Xml {
    cidr_ipv6: String,
    description: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PrefixListXml {
    prefix_list_id: String,
    description: Option<String>,
}

fn permissions(owner: &str, rules: &[Rule]) -> Vec<PermissionXml> {
    let mut found: Vec<PermissionXml> = Vec::new();
    for rule in rules {
        let (from, to) = rule.ports.map_or((None, None), |(from, to)| (Some(from), Some(to)));
        let same = |known: &PermissionXml| known.ip_protocol == rule.protocol && (known.from_port, known.to_port) == (from, to);
        let at = found.iter().position(same).unwrap_or_else(|| {
            found.push(PermissionXml {
                ip_protocol: rule.protocol.clone(),
                from_port: from,
                to_port: to,
                groups: Vec::new(),
                ip_ranges: Vec::new(),
                ipv6_ranges: Vec::new(),
                prefix_list_ids: Vec::new(),
            });
            found.len() - 1
        });
        let (known, description) = (&mut found[at], rule.description.clone());
        match &rule.peer {
            Peer::Cidr(cidr) => known.ip_ranges.push(RangeXml { cidr_ip: cidr.clone(), description }),
            Peer::Cidr6(cidr) => known.ipv6_ranges.push(Range6Xml { cidr_ipv6: cidr.clone(), description }),
            Peer::Group(id) => known.groups.push(PeerXml { user_id: owner.to_owned(), group_id: id.clone(), description }),
            Peer::PrefixList(id) => known.prefix_list_ids.push(PrefixListXml { prefix_list_id: id.clone(), description }),
        }
    }
    found
}

impl GroupXml {
    fn new(state: &State, group: &SecurityGroup) -> Self {
        let network = state.network();
        Self {
            owner_id: network.account.clone(),
            group_id: group.id.clone(),
            group_name: group.name.clone(),
            group_description: group.description.clone(),
            vpc_id: group.vpc_id.clone(),
            ip_permissions: permissions(&network.account, &group.ingress),
            ip_permissions_egress: permissions(&network.account, &group.egress),
            tag_set: tag_set(&group.tags),
            security_group_arn: arn(&network.region, &network.account, "security-group", &group.id),
        }
    }
}

pub async fn describe(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeGroupsRequest::read(params)?;
    const NAMES: &[&str] = &[
        "description",
        "group-id",
        "group-name",
        "ip-permission.cidr",
        "ip-permission.from-port",
        "ip-permission.group-id",
        "ip-permission.protocol",
        "ip-permission.to-port",
        "owner-id",
        "vpc-id",
    ];
    let answer = ctx.engine.read(|aws| {
        let groups = aws.ec2.security_groups();
        check_ids(Kind::SecurityGroup, &request.ids, groups.iter().map(|group| group.id.as_str()))?;
        if let Some(name) = request.group_name.iter().find(|name| !groups.iter().any(|group| group.name == **name)) {
            return Err(model_aws::ec2::Reject::NoSuchGroupName { name: name.clone(), vpc: aws.ec2.network().vpc.id.clone() });
        }
        let mut kept = Vec::new();
        for group in groups {
            let port =
                |pick: fn((i32, i32)) -> i32| group.ingress.iter().filter_map(move |rule| rule.ports.map(pick)).map(|p| p.to_string());
            let fields = |name: &str| match name {
                "description" => vec![group.description.clone()],
                "group-id" => vec![group.id.clone()],
                "group-name" => vec![group.name.clone()],
                "ip-permission.cidr" => {
                    group.ingress.iter().filter_map(|r| if let Peer::Cidr(c) = &r.peer { Some(c.clone()) } else { None }).collect()
                }
                "ip-permission.group-id" => {
                    group.ingress.iter().filter_map(|r| if let Peer::Group(g) = &r.peer { Some(g.clone()) } else { None }).collect()
                }
                "ip-permission.from-port" => port(|(from, _)| from).collect(),
                "ip-permission.to-port" => port(|(_, to)| to).collect(),
                "ip-permission.protocol" => group.ingress.iter().map(|rule| rule.protocol.clone()).collect(),
                "owner-id" => vec![aws.ec2.network().account.clone()],
                _ => vec![group.vpc_id.clone()],
            };
            let named = (request.ids.is_empty() || request.ids.contains(&group.id))
                && (request.group_name.is_empty() || request.group_name.contains(&group.name));
            if aws.ec2.filter_world(&request.filter, NAMES, &group.tags, fields)? && named {
                kept.push(GroupXml::new(&aws.ec2, group));
            }
        }
        let page = aws.ec2.page(kept.into_iter(), &paging, !request.ids.is_empty())?;
        Ok(Groups { security_group_info: page.items, next_token: page.next_token })
    });
    XmlBody::new("DescribeSecurityGroups", &answer.await.map_err(|reject| error_of(&reject))?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DescribeRulesRequest {
    security_group_rule_id: Vec<String>,
    filter: Vec<Filter>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

pub async fn describe_rules(ctx: &Ctx, params: &Params) -> Answer {
    let request: DescribeRulesRequest = params.read()?;
    check_lists(request.security_group_rule_id.len(), &request.filter)?;
    let paging = paging(request.max_results, request.next_token)?;
    end_of_dry_run(params)?;
    let answer = ctx.engine.read(|aws| {
        let mut kept = Vec::new();
        let mut missing: Vec<&String> = request.security_group_rule_id.iter().collect();
        for group in aws.ec2.security_groups() {
            let ingress = group.ingress.iter().map(|rule| (rule, false));
            for (rule, is_egress) in ingress.chain(group.egress.iter().map(|rule| (rule, true))) {
                missing.retain(|id| **id != rule.id);
                let fields = |name: &str| vec![if name == "group-id" { group.id.clone() } else { rule.id.clone() }];
                let named = request.security_group_rule_id.is_empty() || request.security_group_rule_id.contains(&rule.id);
                let fits = aws.ec2.filter_world(&request.filter, &["group-id", "security-group-rule-id"], &Default::default(), fields)?;
                if named && fits {
                    kept.push(RuleXml::new(ctx, &group.id, rule.clone(), is_egress));
                }
            }
        }
        if let Some(id) = missing.first() {
            return Err(model_aws::ec2::Reject::NoSuchRuleId { rule: (*id).clone() });
        }
        let page = aws.ec2.page(kept.into_iter(), &paging, !request.security_group_rule_id.is_empty())?;
        Ok(RulesXml {
            done: true,
            security_group_rule_set: Some(page.items),
            revoked_security_group_rule_set: None,
            next_token: page.next_token,
        })
    });
    XmlBody::new("DescribeSecurityGroupRules", &answer.await.map_err(|reject| error_of(&reject))?)
}
