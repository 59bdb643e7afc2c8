//! The mount target: a file system's address in one zone (efs.md §5.4).

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::Row;
use super::{Effect, Key, LifeCycle, Reject, Reply, State, Timer};
use crate::ec2;

/// A CreateMountTarget request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewMountTarget {
    pub file_system_id: String,
    pub subnet_id: String,
    pub ip_address: Option<String>,
    /// None: the VPC's default group.
    pub security_groups: Option<Vec<String>>,
}

/// A mount target as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountTarget {
    /// `fsmt-` and 17 hex digits.
    pub id: String,
    pub file_system_id: String,
    pub(super) file_system: Key,
    pub subnet_id: String,
    pub vpc_id: String,
    /// Name and id of its zone.
    pub zone: (String, String),
    pub ip: Ipv4Addr,
    /// `eni-` and 17 hex digits.
    pub network_interface_id: String,
    pub security_groups: Vec<String>,
    /// Only time moves it.
    pub state: LifeCycle,
}

impl Row for MountTarget {
    const TABLE: &'static str = "efs/mount-targets";

    fn id(&self) -> &str {
        &self.id
    }
}

impl State {
    pub(super) fn index_mount_target(&mut self, key: Key, row: &MountTarget) {
        self.targets_of.entry(row.file_system).or_default().insert(key);
        self.addresses.insert(row.ip, key);
    }

    pub(super) fn mount_target_key(&self, id: &str) -> Result<Key, Reject> {
        self.mount_targets.key(id).ok_or_else(|| Reject::NoMountTarget(id.to_owned()))
    }

    pub fn mount_target(&self, id: &str) -> Result<&MountTarget, Reject> {
        self.mount_targets.get(self.mount_target_key(id)?).ok_or_else(|| Reject::NoMountTarget(id.to_owned()))
    }

    /// All mount targets, in the order of creation: their interfaces are among EC2's, and hold security groups.
    pub fn mount_targets(&self) -> impl Iterator<Item = &MountTarget> {
        self.mount_targets.iter().map(|(_, row)| row)
    }

    pub(super) fn targets_of(&self, file_system: Key) -> impl Iterator<Item = (Key, &MountTarget)> {
        let keys = self.targets_of.get(&file_system).into_iter().flatten();
        keys.filter_map(|key| self.mount_targets.get(*key).map(|row| (*key, row)))
    }

    fn check_groups(&self, ec2: &ec2::State, vpc: &str, groups: &[String]) -> Result<(), Reject> {
        if groups.len() > self.limits.security_groups {
            return Err(Reject::SecurityGroupLimit(self.limits.security_groups));
        }
        let known = |id: &String| ec2.network().security_group(id).is_some_and(|group| group.vpc_id == vpc);
        match groups.iter().find(|id| !known(id)) {
            Some(id) => Err(Reject::NoSecurityGroup(id.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn create_mount_target(&mut self, ec2: &ec2::State, new: &NewMountTarget, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        let file_system = self.available(&new.file_system_id)?;
        let Some(parent) = self.file_systems.get(file_system) else { return Err(Reject::NoFileSystem(new.file_system_id.clone())) };
        let file_system_id = parent.id.clone();
        let network = ec2.network();
        let subnet = network.subnet(&new.subnet_id).ok_or_else(|| Reject::NoSubnet(new.subnet_id.clone()))?;
        if let Some((zone, _)) = &parent.zone
            && *zone != subnet.zone.name
        {
            return Err(Reject::ZoneMismatch { file_system: zone.clone(), subnet: subnet.zone.name.clone() });
        }
        for (_, other) in self.targets_of(file_system) {
            if other.vpc_id != subnet.vpc_id {
                return Err(Reject::OtherVpc(new.subnet_id.clone()));
            }
            if other.zone.0 == subnet.zone.name {
                return Err(Reject::ZoneTaken);
            }
        }
        let groups = match &new.security_groups {
            Some(groups) if !groups.is_empty() => groups.clone(),
            _ => network.default_security_group().map(|group| group.id.clone()).into_iter().collect(),
        };
        self.check_groups(ec2, &subnet.vpc_id, &groups)?;
        let ip = self.address(ec2, subnet, new.ip_address.as_deref())?;
        if self.mount_targets.iter().filter(|(_, row)| row.vpc_id == subnet.vpc_id).count() >= self.limits.mount_targets {
            return Err(Reject::MountTargetLimit(self.limits.mount_targets));
        }
        let row = |state: &mut Self, key| MountTarget {
            id: state.new_id("fsmt", key),
            file_system_id,
            file_system,
            subnet_id: subnet.id.clone(),
            vpc_id: subnet.vpc_id.clone(),
            zone: (subnet.zone.name.clone(), subnet.zone.id.clone()),
            ip,
            network_interface_id: state.new_id("eni", key),
            security_groups: groups,
            state: LifeCycle::Creating,
        };
        let key = self.new_key();
        let row = row(self, key);
        self.index_mount_target(key, &row);
        self.mount_targets.insert(key, row.clone());
        out.push(Effect::Arm(Timer::MountTarget(key), self.delays.mount_target));
        Ok(Reply::MountTarget(Box::new(row)))
    }

    /// The address asked for, or the first free one of the subnet.
    fn address(&self, ec2: &ec2::State, subnet: &ec2::network::Subnet, wish: Option<&str>) -> Result<Ipv4Addr, Reject> {
        let instances = ec2.addresses();
        let free = |ip: &Ipv4Addr| !instances.contains(ip) && !self.addresses.contains_key(ip);
        match wish {
            None => subnet.cidr.hosts().find(free).ok_or_else(|| Reject::NoFreeAddress(subnet.id.clone())),
            Some(text) => {
                let ip: Ipv4Addr = text.parse().map_err(|_| Reject::invalid("ipAddress", text, "Member must be an IPv4 address"))?;
                if !subnet.cidr.hosts().any(|host| host == ip) {
                    return Err(Reject::BadRequest(format!("The address {ip} is not in the range of the subnet {}.", subnet.id)));
                }
                if free(&ip) { Ok(ip) } else { Err(Reject::AddressInUse(ip.to_string())) }
            }
        }
    }

    pub(super) fn set_security_groups(&mut self, ec2: &ec2::State, id: &str, groups: &[String]) -> Result<Reply, Reject> {
        let key = self.mount_target_key(id)?;
        let row = self.mount_target(id)?;
        if row.state != LifeCycle::Available {
            return Err(Reject::MountTargetState { id: id.to_owned(), state: row.state.as_str().to_owned() });
        }
        let groups = match groups {
            [] => ec2.network().default_security_group().map(|group| group.id.clone()).into_iter().collect(),
            groups => groups.to_vec(),
        };
        self.check_groups(ec2, &row.vpc_id, &groups)?;
        if let Some(row) = self.mount_targets.get_mut(key) {
            row.security_groups = groups;
        }
        Ok(Reply::Done)
    }

    pub(super) fn delete_mount_target(&mut self, id: &str, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        let key = self.mount_target_key(id)?;
        let after = self.delays.mount_target_gone;
        if let Some(row) = self.mount_targets.get_mut(key)
            && row.state != LifeCycle::Deleting
        {
            row.state = LifeCycle::Deleting;
            out.push(Effect::Arm(Timer::MountTarget(key), after));
        }
        Ok(Reply::Done)
    }

    /// How long a state lasts; none: until a command ends it.
    pub(super) fn mount_target_delay(&self, state: LifeCycle) -> Option<Duration> {
        match state {
            LifeCycle::Creating => Some(self.delays.mount_target),
            LifeCycle::Deleting => Some(self.delays.mount_target_gone),
            LifeCycle::Available | LifeCycle::Updating | LifeCycle::Error => None,
        }
    }

    pub(super) fn mount_target_due(&mut self, key: Key) {
        match self.mount_targets.get(key).map(|row| row.state) {
            Some(LifeCycle::Creating) => {
                if let Some(row) = self.mount_targets.get_mut(key) {
                    row.state = LifeCycle::Available;
                }
            }
            Some(LifeCycle::Deleting) => {
                if let Some(row) = self.mount_targets.remove(key) {
                    self.addresses.remove(&row.ip);
                    super::access_point::unlink(&mut self.targets_of, row.file_system, key);
                }
            }
            Some(LifeCycle::Available | LifeCycle::Updating | LifeCycle::Error) | None => {}
        }
    }
}
