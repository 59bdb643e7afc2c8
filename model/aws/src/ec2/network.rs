//! The network: zones, the default VPC, subnets, security groups and the instances' network interfaces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::Tags;
use crate::world::{Cidr, World};

/// The network of one region.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Network {
    pub account: String,
    pub region: String,
    /// In the world's order.
    pub zones: Vec<Zone>,
    pub vpc: Vpc,
    /// By id.
    pub subnets: BTreeMap<String, Subnet>,
    /// By id.
    pub security_groups: BTreeMap<String, SecurityGroup>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Zone {
    pub name: String,
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vpc {
    pub id: String,
    pub cidr: String,
    pub tags: Tags,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subnet {
    pub id: String,
    pub vpc_id: String,
    pub zone: Zone,
    pub cidr: Cidr,
    pub tags: Tags,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: String,
    pub vpc_id: String,
    pub name: String,
    pub description: String,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
    pub tags: Tags,
}

/// What one rule lets through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// `sgr-` and 17 hex digits.
    pub id: String,
    /// `tcp`, `udp`, `icmp`, a number, or `-1` for all.
    pub protocol: String,
    /// First and last port (type and code for ICMP); none: all.
    pub ports: Option<(i32, i32)>,
    pub peer: Peer,
    pub description: Option<String>,
}

/// The other side of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    Cidr(String),
    Cidr6(String),
    Group(String),
    PrefixList(String),
}

impl Rule {
    /// Whether the rule lets a connection through to `port`, from an address that carries the given security groups.
    pub fn allows(&self, protocol: &str, port: u16, from: Ipv4Addr, from_groups: &[String]) -> bool {
        let port = i32::from(port);
        (self.protocol == "-1" || self.protocol == protocol)
            && self.ports.is_none_or(|(first, last)| (first == -1 && last == -1) || (first <= port && port <= last))
            && match &self.peer {
                Peer::Cidr(cidr) => Cidr::parse(cidr).is_some_and(|cidr| cidr.contains(from)),
                Peer::Group(group) => from_groups.contains(group),
                Peer::Cidr6(_) | Peer::PrefixList(_) => false,
            }
    }
}

impl SecurityGroup {
    /// Whether any ingress rule lets a connection in.
    pub fn admits(&self, protocol: &str, port: u16, from: Ipv4Addr, from_groups: &[String]) -> bool {
        self.ingress.iter().any(|rule| rule.allows(protocol, port, from, from_groups))
    }
}

impl Network {
    pub(crate) fn new(world: &World) -> Self {
        let vpc = Vpc { id: world.own_id("vpc", 0), cidr: world.vpc.cidr.clone(), tags: Tags::new() };
        let zones: Vec<Zone> = world.zones.iter().map(|zone| Zone { name: zone.name.clone(), id: zone.id.clone() }).collect();
        let subnets = world.vpc.subnets.iter().enumerate().filter_map(|(index, subnet)| {
            let zone = zones.iter().find(|zone| zone.name == subnet.zone)?.clone();
            let id = world.own_id("subnet", index);
            Some((id.clone(), Subnet { id, vpc_id: vpc.id.clone(), zone, cidr: Cidr::parse(&subnet.cidr)?, tags: Tags::new() }))
        });
        let subnets = subnets.collect();
        let group = world.own_id("sg", 0);
        let all = |index, peer| Rule { id: world.own_id("sgr", index), protocol: "-1".to_owned(), ports: None, peer, description: None };
        let default = SecurityGroup {
            vpc_id: vpc.id.clone(),
            name: "default".to_owned(),
            description: "default VPC security group".to_owned(),
            ingress: vec![all(0, Peer::Group(group.clone()))],
            egress: vec![all(1, Peer::Cidr("0.0.0.0/0".to_owned()))],
            tags: Tags::new(),
            id: group.clone(),
        };
        Self {
            account: world.account.clone(),
            region: world.region.clone(),
            zones,
            vpc,
            subnets,
            security_groups: BTreeMap::from([(group, default)]),
        }
    }

    /// The zone of a name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.name == name)
    }

    pub fn subnet(&self, id: &str) -> Option<&Subnet> {
        self.subnets.get(id)
    }

    pub fn security_group(&self, id: &str) -> Option<&SecurityGroup> {
        self.security_groups.get(id)
    }

    /// The VPC's own group, which an interface gets when it names none.
    pub fn default_security_group(&self) -> Option<&SecurityGroup> {
        self.security_groups.values().find(|group| group.name == "default")
    }
}
