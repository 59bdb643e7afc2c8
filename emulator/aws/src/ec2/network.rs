//! DescribeAvailabilityZones, DescribeRegions, DescribeVpcs, DescribeSubnets, DescribeNetworkInterfaces.

use std::collections::BTreeSet;

use model_aws::Aws;
use model_aws::ec2::network::Subnet;
use model_aws::ec2::{Filter, Kind, Reject, Tags};
use serde::{Deserialize, Serialize};

use super::instances::InterfaceAttachment;
use super::security_groups::GroupName;
use super::{Answer, Tag, check_lists, end_of_dry_run, error_of, tag_set};
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;
use crate::xml::XmlBody;

super::describe_request!(DescribeVpcsRequest, "VpcId");
super::describe_request!(DescribeSubnetsRequest, "SubnetId");
super::describe_request!(DescribeInterfacesRequest, "NetworkInterfaceId");

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DescribeZonesRequest {
    zone_name: Vec<String>,
    zone_id: Vec<String>,
    #[serde(rename = "AllAvailabilityZones")]
    _all: Option<bool>,
    filter: Vec<Filter>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Zones {
    availability_zone_info: Vec<ZoneXml>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ZoneXml {
    zone_name: String,
    zone_state: &'static str,
    region_name: String,
    message_set: Vec<Tag>,
    zone_id: String,
    zone_type: &'static str,
    group_name: String,
    group_long_name: String,
    network_border_group: String,
    opt_in_status: &'static str,
}

pub async fn zones(ctx: &Ctx, params: &Params) -> Answer {
    let request: DescribeZonesRequest = params.read()?;
    check_lists(0, &request.filter)?;
    let world = &ctx.world;
    let invalid = |given: &String| Ec2Error::new("InvalidParameterValue", format!("Invalid availability zone: [{given}]"));
    if let Some(name) = request.zone_name.iter().find(|name| !world.zones.iter().any(|zone| zone.name == **name)) {
        return Err(invalid(name));
    }
    if let Some(id) = request.zone_id.iter().find(|id| !world.zones.iter().any(|zone| zone.id == **id)) {
        return Err(invalid(id));
    }
    end_of_dry_run(params)?;
    const NAMES: &[&str] =
        &["zone-name", "zone-id", "region-name", "state", "zone-type", "group-name", "opt-in-status", "network-border-group", "message"];
    let answer = ctx.engine.read(|aws| {
        let mut zones = Vec::new();
        for zone in &aws.ec2.network().zones {
            let region = &aws.ec2.network().region;
            let fields = |name: &str| match name {
                "zone-name" => vec![zone.name.clone()],
                "zone-id" => vec![zone.id.clone()],
                "region-name" | "network-border-group" => vec![region.clone()],
                "state" => vec!["available".to_owned()],
                "zone-type" => vec!["availability-zone".to_owned()],
                "group-name" => vec![format!("{region}-zg-1")],
                "opt-in-status" => vec!["opt-in-not-required".to_owned()],
                _ => Vec::new(),
            };
            let named = (request.zone_name.is_empty() || request.zone_name.contains(&zone.name))
                && (request.zone_id.is_empty() || request.zone_id.contains(&zone.id));
            if aws.ec2.filter_world(&request.filter, NAMES, &Tags::new(), fields)? && named {
                zones.push(ZoneXml {
                    zone_name: zone.name.clone(),
                    zone_state: "available",
                    region_name: region.clone(),
                    message_set: Vec::new(),
                    zone_id: zone.id.clone(),
                    zone_type: "availability-zone",
                    group_name: format!("{region}-zg-1"),
                    group_long_name: format!("{region} 1"),
                    network_border_group: region.clone(),
                    opt_in_status: "opt-in-not-required",
                });
            }
        }
        Ok(Zones { availability_zone_info: zones })
    });
    XmlBody::new("DescribeAvailabilityZones", &answer.await.map_err(|reject| error_of(&reject))?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DescribeRegionsRequest {
    region_name: Vec<String>,
    #[serde(rename = "AllRegions")]
    _all: Option<bool>,
    filter: Vec<Filter>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Regions {
    region_info: Vec<RegionXml>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RegionXml {
    region_name: String,
    region_endpoint: String,
    opt_in_status: &'static str,
}

pub async fn regions(ctx: &Ctx, params: &Params) -> Answer {
    let request: DescribeRegionsRequest = params.read()?;
    check_lists(0, &request.filter)?;
    let region = &ctx.world.region;
    if let Some(name) = request.region_name.iter().find(|name| *name != region) {
        return Err(Ec2Error::new("InvalidParameterValue", format!("Invalid region: [{name}]")));
    }
    end_of_dry_run(params)?;
    let region = RegionXml {
        region_name: region.clone(),
        region_endpoint: format!("ec2.{region}.amazonaws.com"),
        opt_in_status: "opt-in-not-required",
    };
    let fields = |name: &str| match name {
        "region-name" => vec![region.region_name.clone()],
        "endpoint" => vec![region.region_endpoint.clone()],
        _ => vec![region.opt_in_status.to_owned()],
    };
    let kept =
        ctx.engine.read(|aws| aws.ec2.filter_world(&request.filter, &["region-name", "endpoint", "opt-in-status"], &Tags::new(), fields));
    let kept = kept.await.map_err(|reject| error_of(&reject))?;
    XmlBody::new("DescribeRegions", &Regions { region_info: kept.then_some(region).into_iter().collect() })
}

/// Refuses ids that are malformed or that nothing has; none given: all are meant.
pub fn check_ids<'a>(kind: Kind, ids: &[String], known: impl Iterator<Item = &'a str>) -> Result<(), Reject> {
    if let Some(id) = ids.iter().find(|id| !kind.well_formed(id)) {
        return Err(Reject::MalformedId { kind, parameter: format!("{kind}Id"), id: id.clone() });
    }
    let known: BTreeSet<&str> = known.collect();
    let missing: Vec<String> = ids.iter().filter(|id| !known.contains(id.as_str())).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(Reject::NotFound { kind, ids: missing }) }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Vpcs {
    vpc_set: Vec<VpcXml>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VpcXml {
    vpc_id: String,
    owner_id: String,
    state: &'static str,
    cidr_block: String,
    cidr_block_association_set: Vec<CidrAssociation>,
    dhcp_options_id: &'static str,
    tag_set: Option<Vec<Tag>>,
    instance_tenancy: &'static str,
    is_default: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CidrAssociation {
    association_id: String,
    cidr_block: String,
    cidr_block_state: CidrState,
}

#[derive(Debug, Serialize)]
struct CidrState {
    state: &'static str,
}

pub async fn vpcs(ctx: &Ctx, params: &Params) -> Answer {
    let (request, _) = DescribeVpcsRequest::read(params)?;
    const NAMES: &[&str] = &[
        "vpc-id",
        "cidr",
        "cidr-block",
        "cidr-block-association.cidr-block",
        "is-default",
        "isDefault",
        "owner-id",
        "state",
        "dhcp-options-id",
    ];
    let answer = ctx.engine.read(|aws| {
        let network = aws.ec2.network();
        let vpc = &network.vpc;
        check_ids(Kind::Vpc, &request.ids, std::iter::once(vpc.id.as_str()))?;
        let fields = |name: &str| match name {
            "vpc-id" => vec![vpc.id.clone()],
            "cidr" | "cidr-block" | "cidr-block-association.cidr-block" => vec![vpc.cidr.clone()],
            "is-default" | "isDefault" => vec!["true".to_owned()],
            "owner-id" => vec![network.account.clone()],
            "state" => vec!["available".to_owned()],
            _ => vec!["dopt-default".to_owned()],
        };
        let kept = aws.ec2.filter_world(&request.filter, NAMES, &vpc.tags, fields)?;
        let shown = VpcXml {
            vpc_id: vpc.id.clone(),
            owner_id: network.account.clone(),
            state: "available",
            cidr_block: vpc.cidr.clone(),
            cidr_block_association_set: vec![CidrAssociation {
                association_id: vpc.id.replace("vpc-", "vpc-cidr-assoc-"),
                cidr_block: vpc.cidr.clone(),
                cidr_block_state: CidrState { state: "associated" },
            }],
            dhcp_options_id: "dopt-default",
            tag_set: tag_set(&vpc.tags),
            instance_tenancy: "default",
            is_default: true,
        };
        Ok(Vpcs { vpc_set: kept.then_some(shown).into_iter().collect() })
    });
    XmlBody::new("DescribeVpcs", &answer.await.map_err(|reject| error_of(&reject))?)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Subnets {
    subnet_set: Vec<SubnetXml>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SubnetXml {
    subnet_id: String,
    subnet_arn: String,
    state: &'static str,
    owner_id: String,
    vpc_id: String,
    cidr_block: String,
    available_ip_address_count: usize,
    availability_zone: String,
    availability_zone_id: String,
    default_for_az: bool,
    map_public_ip_on_launch: bool,
    assign_ipv6_address_on_creation: bool,
    tag_set: Option<Vec<Tag>>,
}

impl SubnetXml {
    fn new(aws: &Aws, subnet: &Subnet) -> Self {
        let network = aws.ec2.network();
        let used = aws.ec2.instances().filter(|instance| instance.subnet_id == subnet.id).count()
            + aws.efs.mount_targets().filter(|target| target.subnet_id == subnet.id).count();
        Self {
            subnet_id: subnet.id.clone(),
            subnet_arn: format!("arn:aws:ec2:{}:{}:subnet/{}", network.region, network.account, subnet.id),
            state: "available",
            owner_id: network.account.clone(),
            vpc_id: subnet.vpc_id.clone(),
            cidr_block: format!("{}/{}", subnet.cidr.network, subnet.cidr.prefix),
            available_ip_address_count: subnet.cidr.hosts().count().saturating_sub(used),
            availability_zone: subnet.zone.name.clone(),
            availability_zone_id: subnet.zone.id.clone(),
            default_for_az: true,
            map_public_ip_on_launch: true,
            assign_ipv6_address_on_creation: false,
            tag_set: tag_set(&subnet.tags),
        }
    }
}

pub async fn subnets(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeSubnetsRequest::read(params)?;
    const NAMES: &[&str] = &[
        "availability-zone",
        "availabilityZone",
        "availability-zone-id",
        "availabilityZoneId",
        "cidr",
        "cidr-block",
        "cidrBlock",
        "default-for-az",
        "defaultForAz",
        "map-public-ip-on-launch",
        "owner-id",
        "state",
        "subnet-arn",
        "subnet-id",
        "vpc-id",
    ];
    let answer = ctx.engine.read(|aws| {
        let subnets = &aws.ec2.network().subnets;
        check_ids(Kind::Subnet, &request.ids, subnets.keys().map(String::as_str))?;
        let mut kept = Vec::new();
        for subnet in subnets.values() {
            let shown = SubnetXml::new(aws, subnet);
            let fields = |name: &str| match name {
                "availability-zone" | "availabilityZone" => vec![shown.availability_zone.clone()],
                "availability-zone-id" | "availabilityZoneId" => vec![shown.availability_zone_id.clone()],
                "cidr" | "cidr-block" | "cidrBlock" => vec![shown.cidr_block.clone()],
                "default-for-az" | "defaultForAz" | "map-public-ip-on-launch" => vec!["true".to_owned()],
                "owner-id" => vec![shown.owner_id.clone()],
                "state" => vec!["available".to_owned()],
                "subnet-arn" => vec![shown.subnet_arn.clone()],
                "subnet-id" => vec![shown.subnet_id.clone()],
                _ => vec![shown.vpc_id.clone()],
            };
            let named = request.ids.is_empty() || request.ids.contains(&subnet.id);
            if aws.ec2.filter_world(&request.filter, NAMES, &subnet.tags, fields)? && named {
                kept.push(shown);
            }
        }
        kept.sort_by(|a, b| a.availability_zone.cmp(&b.availability_zone));
        let page = aws.ec2.page(kept.into_iter(), &paging, !request.ids.is_empty())?;
        Ok(Subnets { subnet_set: page.items, next_token: page.next_token })
    });
    XmlBody::new("DescribeSubnets", &answer.await.map_err(|reject| error_of(&reject))?)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Interfaces {
    network_interface_set: Vec<InterfaceXml>,
    next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceXml {
    network_interface_id: String,
    subnet_id: String,
    vpc_id: String,
    availability_zone: String,
    description: String,
    owner_id: String,
    requester_id: Option<String>,
    requester_managed: bool,
    status: &'static str,
    mac_address: String,
    private_ip_address: String,
    private_dns_name: String,
    source_dest_check: bool,
    group_set: Vec<GroupName>,
    attachment: Option<InterfaceAttachment>,
    tag_set: Option<Vec<Tag>>,
    private_ip_addresses_set: Vec<PrivateAddress>,
    interface_type: &'static str,
    #[serde(skip)]
    instance_id: Option<String>,
    #[serde(skip)]
    tags: Tags,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PrivateAddress {
    private_ip_address: String,
    primary: bool,
}

/// The interfaces of instances, and those that EFS keeps for its mount targets.
fn all_interfaces(ctx: &Ctx, aws: &Aws) -> Vec<InterfaceXml> {
    let owner = &aws.ec2.network().account;
    let address = |ip: String| vec![PrivateAddress { private_ip_address: ip, primary: true }];
    let of_instances = aws.ec2.instances().map(|instance| InterfaceXml {
        network_interface_id: instance.interface.id.clone(),
        subnet_id: instance.subnet_id.clone(),
        vpc_id: instance.vpc_id.clone(),
        availability_zone: instance.zone.clone(),
        description: String::new(),
        owner_id: owner.clone(),
        requester_id: None,
        requester_managed: false,
        status: "in-use",
        mac_address: instance.interface.mac.clone(),
        private_ip_address: instance.private_ip.to_string(),
        private_dns_name: instance.private_dns_name.clone(),
        source_dest_check: true,
        group_set: GroupName::all(&aws.ec2, &instance.interface.security_groups),
        attachment: Some(InterfaceAttachment::new(instance, owner, true)),
        tag_set: tag_set(&instance.interface.tags),
        private_ip_addresses_set: address(instance.private_ip.to_string()),
        interface_type: "interface",
        instance_id: Some(instance.id.to_string()),
        tags: instance.interface.tags.clone(),
    });
    let of_mount_targets = aws.efs.mount_targets().map(|target| {
        let [a, b, c, d] = target.ip.octets();
        InterfaceXml {
            network_interface_id: target.network_interface_id.clone(),
            subnet_id: target.subnet_id.clone(),
            vpc_id: target.vpc_id.clone(),
            availability_zone: target.zone.0.clone(),
            description: format!("EFS mount target for {} ({})", target.file_system_id, target.id),
            owner_id: owner.clone(),
            requester_id: Some(owner.clone()),
            requester_managed: true,
            status: "in-use",
            mac_address: format!("0a:ef:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            private_ip_address: target.ip.to_string(),
            private_dns_name: ctx.world.dns_name(target.ip),
            source_dest_check: true,
            group_set: GroupName::all(&aws.ec2, &target.security_groups),
            attachment: None,
            tag_set: None,
            private_ip_addresses_set: address(target.ip.to_string()),
            interface_type: "efs",
            instance_id: None,
            tags: Tags::new(),
        }
    });
    of_instances.chain(of_mount_targets).collect()
}

pub async fn interfaces(ctx: &Ctx, params: &Params) -> Answer {
    let (request, paging) = DescribeInterfacesRequest::read(params)?;
    const NAMES: &[&str] = &[
        "addresses.private-ip-address",
        "attachment.instance-id",
        "attachment.status",
        "availability-zone",
        "description",
        "group-id",
        "group-name",
        "interface-type",
        "mac-address",
        "network-interface-id",
        "owner-id",
        "private-dns-name",
        "private-ip-address",
        "requester-managed",
        "status",
        "subnet-id",
        "vpc-id",
    ];
    let answer = ctx.engine.read(|aws| {
        let all = all_interfaces(ctx, aws);
        check_ids(Kind::NetworkInterface, &request.ids, all.iter().map(|shown| shown.network_interface_id.as_str()))?;
        let mut kept = Vec::new();
        for shown in all {
            let fields = |name: &str| match name {
                "addresses.private-ip-address" | "private-ip-address" => vec![shown.private_ip_address.clone()],
                "attachment.instance-id" => shown.instance_id.iter().cloned().collect(),
                "attachment.status" => shown.attachment.iter().map(|_| "attached".to_owned()).collect(),
                "availability-zone" => vec![shown.availability_zone.clone()],
                "description" => vec![shown.description.clone()],
                "group-id" => shown.group_set.iter().map(|group| group.group_id.clone()).collect(),
                "group-name" => shown.group_set.iter().map(|group| group.group_name.clone()).collect(),
                "interface-type" => vec![shown.interface_type.to_owned()],
                "mac-address" => vec![shown.mac_address.clone()],
                "network-interface-id" => vec![shown.network_interface_id.clone()],
                "owner-id" => vec![shown.owner_id.clone()],
                "private-dns-name" => vec![shown.private_dns_name.clone()],
                "requester-managed" => vec![shown.requester_managed.to_string()],
                "status" => vec![shown.status.to_owned()],
                "subnet-id" => vec![shown.subnet_id.clone()],
                _ => vec![shown.vpc_id.clone()],
            };
            let named = request.ids.is_empty() || request.ids.contains(&shown.network_interface_id);
            if aws.ec2.filter_world(&request.filter, NAMES, &shown.tags, fields)? && named {
                kept.push(shown);
            }
        }
        let page = aws.ec2.page(kept.into_iter(), &paging, !request.ids.is_empty())?;
        Ok(Interfaces { network_interface_set: page.items, next_token: page.next_token })
    });
    XmlBody::new("DescribeNetworkInterfaces", &answer.await.map_err(|reject| error_of(&reject))?)
}
