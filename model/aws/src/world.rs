//! The world: what an AWS account holds before anyone has called it. `world.yaml` has this form; every field has a default.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use model_common::pick::hex17;
use serde::{Deserialize, Serialize};

/// Ids of the world's own things are made from another seed than those of created things, so that they never meet.
const WORLD_SALT: u64 = 0x6562_6274_6964_6521;

/// An account, a region and what is in it from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct World {
    /// 12 digits.
    pub account: String,
    pub region: String,
    /// From which all ids are made.
    pub seed: u64,
    /// Off: attachments are records only, no device is raised anywhere.
    pub devices: bool,
    pub zones: Vec<Zone>,
    pub vpc: Vpc,
    pub instances: Vec<Instance>,
    /// Roles of service accounts (EKS Pod Identity).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod_identity_associations: Vec<PodIdentityAssociation>,
}

/// Which role the pods of a service account have, as `eks:CreatePodIdentityAssociation` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodIdentityAssociation {
    pub namespace: String,
    pub service_account: String,
    /// `arn:aws:iam::000000000000:role/name`
    pub role_arn: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Zone {
    /// `us-east-1a`
    pub name: String,
    /// `use1-az1`
    pub id: String,
}

/// The default VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vpc {
    pub cidr: String,
    pub subnets: Vec<Subnet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subnet {
    /// The name of its zone.
    pub zone: String,
    pub cidr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// Must lie in a subnet of the zone; the node's name is made from it.
    pub private_ip: Ipv4Addr,
    /// The name of its zone.
    pub zone: String,
    /// `m5.large`
    #[serde(rename = "type")]
    pub instance_type: String,
    /// `i-` and 17 hex digits; made from the seed when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether it is a node of the cluster. Where it is not, nobody raises devices in it: attachments are records only.
    #[serde(default = "yes")]
    pub node: bool,
    /// Kubernetes labels beyond those that every EKS node has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// EC2 tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// What is wrong with a world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    #[error("account must be 12 digits, not {0:?}")]
    Account(String),
    #[error("there must be at least one zone and one subnet")]
    Empty,
    #[error("the zone {0:?} is given twice")]
    DuplicateZone(String),
    #[error("{what} names the zone {zone:?}, which is not among the zones")]
    UnknownZone { what: String, zone: String },
    #[error("{0:?} is not a block of addresses such as 10.0.1.0/24")]
    Cidr(String),
    #[error("the address {ip} lies in no subnet of {zone}")]
    NoSubnet { ip: Ipv4Addr, zone: String },
    #[error("the pod identity association of {account} has the role {arn:?}, which must be like arn:aws:iam::{number}:role/name")]
    RoleArn { account: String, arn: String, number: String },
    #[error("the address {0} is given twice")]
    DuplicateAddress(Ipv4Addr),
    #[error("the instance id {0:?} is not `i-` with 8 or 17 hex digits, or is given twice")]
    InstanceId(String),
}

impl PodIdentityAssociation {
    /// The account and the name of the role.
    pub fn role(&self) -> Option<(&str, &str)> {
        let (account, path) = self.role_arn.strip_prefix("arn:aws:iam::")?.split_once(":role/")?;
        let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
        (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some((account, name))
    }
}

impl Default for World {
    fn default() -> Self {
        let region = "us-east-1";
        let node = |subnet: u8, zone: &str| Instance {
            private_ip: Ipv4Addr::new(10, 0, subnet, 10),
            zone: format!("{region}{zone}"),
            instance_type: "m5.large".to_owned(),
            id: None,
            node: true,
            labels: BTreeMap::new(),
            tags: BTreeMap::new(),
        };
        let zones = ["a", "b", "c"];
        Self {
            account: "000000000000".to_owned(),
            region: region.to_owned(),
            seed: 0,
            devices: true,
            zones: (1..).zip(zones).map(|(n, zone)| Zone { name: format!("{region}{zone}"), id: format!("use1-az{n}") }).collect(),
            vpc: Vpc {
                cidr: "10.0.0.0/16".to_owned(),
                subnets: (1..)
                    .zip(zones)
                    .map(|(n, zone)| Subnet { zone: format!("{region}{zone}"), cidr: format!("10.0.{n}.0/24") })
                    .collect(),
            },
            instances: vec![node(1, "a"), node(2, "b")],
            pod_identity_associations: Vec::new(),
        }
    }
}

/// A node of the cluster as the world describes it: what `ebbtide node` and its kubelet are started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `ip-10-0-1-10.ec2.internal`
    pub name: String,
    pub instance_id: String,
    pub instance_type: String,
    pub zone: String,
    pub region: String,
    pub private_ip: Ipv4Addr,
    /// `aws:///us-east-1a/i-…`
    pub provider_id: String,
    /// All labels, EKS's own included.
    pub labels: BTreeMap<String, String>,
}

/// An IPv4 block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub network: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    /// Reads `10.0.1.0/24`.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, prefix) = text.split_once('/')?;
        let cidr = Self { network: network.parse().ok()?, prefix: prefix.parse().ok()? };
        (cidr.prefix <= 32 && u32::from(cidr.network) & !cidr.mask() == 0).then_some(cidr)
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.network)
    }

    /// The addresses AWS gives out: all but the first four and the last.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = u64::from(u32::from(self.network)) + 4;
        let end = u64::from(u32::from(self.network) | !self.mask());
        (first..end).map(|ip| Ipv4Addr::from(ip as u32))
    }
}

impl World {
    /// Checks what the types cannot.
    pub fn check(&self) -> Result<(), WorldError> {
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(WorldError::Account(self.account.clone()));
        }
        if self.zones.is_empty() || self.vpc.subnets.is_empty() {
            return Err(WorldError::Empty);
        }
        let mut zones = BTreeSet::new();
        for zone in &self.zones {
            if !zones.insert(zone.name.as_str()) {
                return Err(WorldError::DuplicateZone(zone.name.clone()));
            }
        }
        Cidr::parse(&self.vpc.cidr).ok_or_else(|| WorldError::Cidr(self.vpc.cidr.clone()))?;
        for subnet in &self.vpc.subnets {
            Cidr::parse(&subnet.cidr).ok_or_else(|| WorldError::Cidr(subnet.cidr.clone()))?;
            if !zones.contains(subnet.zone.as_str()) {
                return Err(WorldError::UnknownZone { what: format!("the subnet {}", subnet.cidr), zone: subnet.zone.clone() });
            }
        }
        for association in &self.pod_identity_associations {
            if association.role().is_none() {
                return Err(WorldError::RoleArn {
                    account: format!("{}/{}", association.namespace, association.service_account),
                    arn: association.role_arn.clone(),
                    number: self.account.clone(),
                });
            }
        }
        let (mut addresses, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for (index, instance) in self.instances.iter().enumerate() {
            if !zones.contains(instance.zone.as_str()) {
                return Err(WorldError::UnknownZone { what: format!("the instance {}", instance.private_ip), zone: instance.zone.clone() });
            }
            if self.subnet_of(instance).is_none() {
                return Err(WorldError::NoSubnet { ip: instance.private_ip, zone: instance.zone.clone() });
            }
            if !addresses.insert(instance.private_ip) {
                return Err(WorldError::DuplicateAddress(instance.private_ip));
            }
            let id = self.instance_id(index);
            let well_formed = id.strip_prefix("i-").is_some_and(|hex| {
                matches!(hex.len(), 8 | 17) && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            });
            if !well_formed || !ids.insert(id.clone()) {
                return Err(WorldError::InstanceId(id));
            }
        }
        Ok(())
    }

    /// An id for one of the world's own things: `kind` is the prefix, `index` its place.
    pub(crate) fn own_id(&self, kind: &str, index: usize) -> String {
        own_id(self.seed, kind, index)
    }

    /// The id of the instance at a place in [`World::instances`].
    pub fn instance_id(&self, index: usize) -> String {
        self.instances.get(index).and_then(|instance| instance.id.clone()).unwrap_or_else(|| self.own_id("i", index))
    }

    /// `ip-10-0-1-10.ec2.internal`: the private DNS name of an address in this region.
    pub fn dns_name(&self, ip: Ipv4Addr) -> String {
        dns_name(&self.region, ip)
    }

    /// The place in [`Vpc::subnets`] of the subnet an instance lies in.
    pub(crate) fn subnet_of(&self, instance: &Instance) -> Option<usize> {
        self.vpc.subnets.iter().position(|subnet| {
            subnet.zone == instance.zone && Cidr::parse(&subnet.cidr).is_some_and(|cidr| cidr.contains(instance.private_ip))
        })
    }

    /// The nodes of the cluster, in the order of the instances.
    pub fn nodes(&self) -> Vec<Node> {
        let nodes = self.instances.iter().enumerate().filter(|(_, instance)| instance.node);
        nodes.map(|(index, instance)| self.node(index, instance)).collect()
    }

    fn node(&self, index: usize, instance: &Instance) -> Node {
        let name = self.dns_name(instance.private_ip);
        let instance_id = self.instance_id(index);
        let zone_id = self.zones.iter().find(|zone| zone.name == instance.zone).map(|zone| zone.id.clone()).unwrap_or_default();
        let mut labels: BTreeMap<String, String> = [
            ("beta.kubernetes.io/arch", "amd64"),
            ("beta.kubernetes.io/instance-type", &instance.instance_type),
            ("beta.kubernetes.io/os", "linux"),
            ("eks.amazonaws.com/capacityType", "ON_DEMAND"),
            ("eks.amazonaws.com/nodegroup", "workers"),
            ("failure-domain.beta.kubernetes.io/region", &self.region),
            ("failure-domain.beta.kubernetes.io/zone", &instance.zone),
            ("k8s.io/cloud-provider-aws", "ebbtide"),
            ("kubernetes.io/arch", "amd64"),
            ("kubernetes.io/hostname", &name),
            ("kubernetes.io/os", "linux"),
            ("node.kubernetes.io/instance-type", &instance.instance_type),
            ("topology.k8s.aws/zone-id", &zone_id),
            ("topology.kubernetes.io/region", &self.region),
            ("topology.kubernetes.io/zone", &instance.zone),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        labels.extend(instance.labels.clone());
        Node {
            provider_id: format!("aws:///{}/{instance_id}", instance.zone),
            name,
            instance_id,
            instance_type: instance.instance_type.clone(),
            zone: instance.zone.clone(),
            region: self.region.clone(),
            private_ip: instance.private_ip,
            labels,
        }
    }
}

/// See [`World::own_id`].
pub(crate) fn own_id(seed: u64, kind: &str, index: usize) -> String {
    let salt = kind.bytes().fold(WORLD_SALT, |salt, byte| salt.rotate_left(8) ^ u64::from(byte));
    format!("{kind}-{}", hex17(seed ^ salt, index as u64))
}

/// See [`World::dns_name`].
pub(crate) fn dns_name(region: &str, ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    let domain = if region == "us-east-1" { "ec2".to_owned() } else { format!("{region}.compute") };
    format!("ip-{a}-{b}-{c}-{d}.{domain}.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_world_is_sound() {
        let world = World::default();
        world.check().unwrap();
        let nodes = world.nodes();
        assert_eq!(nodes[0].name, "ip-10-0-1-10.ec2.internal");
        assert_eq!(nodes[1].zone, "us-east-1b");
        assert_ne!(nodes[0].instance_id, nodes[1].instance_id);
        assert_eq!(nodes[0].labels["topology.kubernetes.io/zone"], "us-east-1a");
    }

    #[test]
    fn faults_in_a_world_are_named() {
        let with = |change: fn(&mut World)| {
            let mut world = World::default();
            change(&mut world);
            world.check()
        };
        assert!(matches!(with(|w| w.account = "1".into()), Err(WorldError::Account(_))));
        assert!(matches!(with(|w| w.zones[1].name = "us-east-1a".into()), Err(WorldError::DuplicateZone(_))));
        assert!(matches!(with(|w| w.vpc.subnets[0].cidr = "10.0.0.1/24".into()), Err(WorldError::Cidr(_))));
        assert!(matches!(
            with(|w| w.pod_identity_associations.push(PodIdentityAssociation {
                namespace: "a".into(),
                service_account: "b".into(),
                role_arn: "arn:aws:iam::1:role/x".into()
            })),
            Err(WorldError::RoleArn { .. })
        ));
        assert!(matches!(with(|w| w.instances[0].zone = "us-east-1c".into()), Err(WorldError::NoSubnet { .. })));
        assert!(matches!(with(|w| w.instances[0].id = Some("i-xyz".into())), Err(WorldError::InstanceId(_))));
    }

    #[test]
    fn the_first_four_addresses_and_the_last_are_not_given_out() {
        let hosts: Vec<_> = Cidr::parse("10.0.1.0/28").unwrap().hosts().collect();
        assert_eq!((hosts.len(), hosts[0]), (11, Ipv4Addr::new(10, 0, 1, 4)));
    }
}
