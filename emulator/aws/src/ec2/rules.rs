//! Rules of security groups as requests spell them: in permissions, in the short form, or by id.

use model_aws::ec2::RuleChange;
use model_aws::ec2::network::{Peer, Rule};
use serde::Deserialize;

use super::TagSpecification;
use crate::ctx::Ctx;
use crate::error::Ec2Error;
use crate::query::Params;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RulesRequest {
    group_id: Option<String>,
    group_name: Option<String>,
    ip_permissions: Vec<Permission>,
    ip_protocol: Option<String>,
    from_port: Option<i32>,
    to_port: Option<i32>,
    cidr_ip: Option<String>,
    source_security_group_name: Option<String>,
    #[serde(rename = "SourceSecurityGroupOwnerId")]
    _source_owner: Option<String>,
    security_group_rule_id: Vec<String>,
    #[serde(rename = "TagSpecification")]
    _tags: Vec<TagSpecification>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Permission {
    ip_protocol: String,
    from_port: Option<i32>,
    to_port: Option<i32>,
    groups: Vec<GroupPeer>,
    ip_ranges: Vec<Range>,
    ipv6_ranges: Vec<Range6>,
    prefix_list_ids: Vec<PrefixList>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GroupPeer {
    group_id: Option<String>,
    group_name: Option<String>,
    description: Option<String>,
    #[serde(rename = "UserId")]
    _user: Option<String>,
    #[serde(rename = "VpcId")]
    _vpc: Option<String>,
    #[serde(rename = "PeeringStatus")]
    _peering: Option<String>,
    #[serde(rename = "VpcPeeringConnectionId")]
    _connection: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Range {
    cidr_ip: String,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Range6 {
    cidr_ipv6: String,
    description: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PrefixList {
    prefix_list_id: String,
    description: Option<String>,
}

/// The protocol as EC2 shows it: names for the numbers of TCP, UDP and ICMP.
fn protocol(name: &str) -> Result<String, Ec2Error> {
    let known = match name.to_ascii_lowercase().as_str() {
        "tcp" | "6" => "tcp",
        "udp" | "17" => "udp",
        "icmp" | "1" => "icmp",
        "icmpv6" | "58" => "icmpv6",
        "-1" | "all" => "-1",
        other if other.parse::<u8>().is_ok() => return Ok(other.to_owned()),
        _ => {
            let message = format!("Invalid value '{name}' for IP protocol. Unknown protocol.");
            return Err(Ec2Error::new("InvalidParameterValue", message));
        }
    };
    Ok(known.to_owned())
}

impl Permission {
    /// One rule for each peer.
    fn rules(self, groups: &impl Fn(&str) -> Option<String>) -> Result<Vec<Rule>, Ec2Error> {
        if self.ip_protocol.is_empty() {
            return Err(Ec2Error::new("MissingParameter", "The request must contain the parameter ipProtocol"));
        }
        let protocol = protocol(&self.ip_protocol)?;
        let with_ports = matches!(protocol.as_str(), "tcp" | "udp");
        let ports = match (self.from_port, self.to_port) {
            _ if protocol == "-1" => None,
            (Some(from), Some(to)) => Some((from, to)),
            (None, None) if !with_ports => Some((-1, -1)),
            (Some(_), None) | (None, Some(_)) | (None, None) => {
                let message = "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.";
                return Err(Ec2Error::new("InvalidParameterValue", message));
            }
        };
        if let (true, Some((from, to))) = (with_ports, ports)
            && (from > to || !(0..=65_535).contains(&from) || !(0..=65_535).contains(&to))
        {
            return Err(Ec2Error::new("InvalidParameterValue", format!("Invalid TCP/UDP port range ({from}:{to})")));
        }
        let rule = |peer, description| Rule { id: String::new(), protocol: protocol.clone(), ports, peer, description };
        let mut rules = Vec::new();
        for peer in self.groups {
            let id = match (peer.group_id, peer.group_name) {
                (Some(id), _) => id,
                (None, Some(name)) => groups(&name)
                    .ok_or_else(|| Ec2Error::new("InvalidGroup.NotFound", format!("The security group '{name}' does not exist")))?,
                (None, None) => return Err(Ec2Error::new("MissingParameter", "The request must contain the parameter groupId")),
            };
            rules.push(rule(Peer::Group(id), peer.description));
        }
        rules.extend(self.ip_ranges.into_iter().map(|range| rule(Peer::Cidr(range.cidr_ip), range.description)));
        rules.extend(self.ipv6_ranges.into_iter().map(|range| rule(Peer::Cidr6(range.cidr_ipv6), range.description)));
        rules.extend(self.prefix_list_ids.into_iter().map(|list| rule(Peer::PrefixList(list.prefix_list_id), list.description)));
        Ok(rules)
    }
}

pub(super) async fn change(ctx: &Ctx, params: &Params) -> Result<RuleChange, Ec2Error> {
    let mut request: RulesRequest = params.read()?;
    if request.ip_protocol.is_some() || request.cidr_ip.is_some() || request.source_security_group_name.is_some() {
        // The short form: one rule, spelled out in the request itself.
        let group = |name| GroupPeer { group_name: Some(name), ..GroupPeer::default() };
        request.ip_permissions.push(Permission {
            ip_protocol: request.ip_protocol.unwrap_or_else(|| "-1".to_owned()),
            from_port: request.from_port,
            to_port: request.to_port,
            groups: request.source_security_group_name.map(group).into_iter().collect(),
            ip_ranges: request.cidr_ip.map(|cidr_ip| Range { cidr_ip, description: None }).into_iter().collect(),
            ..Permission::default()
        });
    }
    let names = ctx.engine.read(|aws| {
        let groups = aws.ec2.network().security_groups.values();
        groups.map(|group| (group.name.clone(), group.id.clone())).collect::<std::collections::BTreeMap<_, _>>()
    });
    let names = names.await;
    let mut rules = Vec::new();
    for permission in request.ip_permissions {
        rules.extend(permission.rules(&|name| names.get(name).cloned())?);
    }
    Ok(RuleChange { group_id: request.group_id, group_name: request.group_name, rules, rule_ids: request.security_group_rule_id })
}
