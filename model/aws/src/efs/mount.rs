//! May a client mount, and what does it get? (efs.md §1.4, §3.3, §4.1, §8)

use std::net::Ipv4Addr;

use model_common::agent::{CreationInfo, EfsMount, EfsMountTarget, EfsNetwork, EfsRefusal, EfsRefusalKind, PosixUser};

use super::{LifeCycle, MountTarget, State};
use crate::ec2;

/// Who mounts.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The name of its zone.
    pub zone: &'a str,
    pub ip: Ipv4Addr,
    /// The security groups of its network interface.
    pub groups: &'a [String],
}

/// What a mount gets; the shell adds where the tree lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub file_system_id: String,
    pub root_directory: String,
    pub identity: Option<PosixUser>,
    pub creation: Option<CreationInfo>,
    pub mount_target_ip: String,
    pub metered_bytes: u64,
}

const NFS: u16 = 2049;

fn refusal(kind: EfsRefusalKind, message: String) -> EfsRefusal {
    EfsRefusal { kind, message }
}

impl State {
    /// Decides as the network and the server do, in their order: name, address, security group, access point.
    pub fn mount(&self, ec2: &ec2::State, request: &EfsMount, client: Client<'_>) -> Result<Grant, EfsRefusal> {
        let target = self.target_for(request, client)?;
        if !admitted(ec2, target, client) {
            return Err(refusal(EfsRefusalKind::Unreachable, unreachable_text(&target.ip.to_string())));
        }
        let denied = || refusal(EfsRefusalKind::Denied, "mount.nfs4: access denied by server while mounting 127.0.0.1:/".to_owned());
        let Ok(file_system) = self.file_system(&target.file_system_id) else { return Err(denied()) };
        let (root_directory, identity, creation) = match &request.access_point_id {
            None => ("/".to_owned(), None, None),
            Some(id) => match self.access_point(id) {
                Ok(point) if point.file_system == target.file_system && point.state == LifeCycle::Available => {
                    (point.path.clone(), point.posix_user.clone(), point.creation.as_ref().map(|creation| creation.info()))
                }
                Ok(_) | Err(_) => return Err(denied()),
            },
        };
        Ok(Grant {
            file_system_id: file_system.id.clone(),
            root_directory,
            identity,
            creation,
            mount_target_ip: target.ip.to_string(),
            metered_bytes: file_system.metered_bytes,
        })
    }

    /// The mount targets that a client's name server and router know.
    pub fn network(&self, ec2: &ec2::State, client: Client<'_>) -> EfsNetwork {
        let up = self.mount_targets.iter().map(|(_, target)| target).filter(|target| target.state == LifeCycle::Available);
        let seen = |target: &MountTarget| EfsMountTarget {
            file_system_id: target.file_system_id.clone(),
            zone: target.zone.0.clone(),
            zone_id: target.zone.1.clone(),
            ip: target.ip,
            reachable: admitted(ec2, target, client),
        };
        EfsNetwork { region: self.region.clone(), zone: client.zone.to_owned(), mount_targets: up.map(seen).collect() }
    }

    /// The mount target that the client's name resolution finds: by address, else in the zone asked for, else in its own zone.
    fn target_for(&self, request: &EfsMount, client: Client<'_>) -> Result<&MountTarget, EfsRefusal> {
        let id = &request.file_system_id;
        let up = |target: &&MountTarget| target.state == LifeCycle::Available;
        if let Some(ip) = &request.mount_target_ip {
            let target = ip.parse().ok().and_then(|ip: Ipv4Addr| self.addresses.get(&ip)).and_then(|key| self.mount_targets.get(*key));
            return target
                .filter(up)
                .filter(|target| target.file_system_id == *id)
                .ok_or_else(|| refusal(EfsRefusalKind::Unreachable, unreachable_text(ip)));
        }
        let zone = request.availability_zone.as_deref().unwrap_or(client.zone);
        let unresolved = |reason: String| {
            let host = match &request.availability_zone {
                Some(zone) => format!("{zone}.{id}.efs.{}.amazonaws.com", self.region),
                None => format!("{id}.efs.{}.amazonaws.com", self.region),
            };
            refusal(
                EfsRefusalKind::Unresolved,
                format!(
                    "Failed to resolve \"{host}\" - check that your file system ID is correct, and ensure that the VPC has an EFS mount target for this file system ID.\n\
                     See https://docs.aws.amazon.com/console/efs/mount-dns-name for more detail.\n\
                     Attempting to lookup mount target ip address using botocore. {reason}"
                ),
            )
        };
        let Ok(key) = self.file_system_key(id) else { return Err(unresolved(format!("The file system {id} is not found"))) };
        let mut targets = self.targets_of(key).map(|(_, target)| target).peekable();
        if targets.peek().is_none() {
            return Err(unresolved(format!("Cannot find mount target for the file system {id}, please create a mount target in {zone}.")));
        }
        let all: Vec<&MountTarget> = targets.collect();
        let available: Vec<&MountTarget> = all.iter().copied().filter(up).collect();
        if available.is_empty() {
            return Err(unresolved(format!(
                "No mount target created for the file system {id} is in available state yet, please retry in 5 minutes."
            )));
        }
        // As Python prints a list.
        let zones: Vec<String> = available.iter().map(|target| format!("'{}'", target.zone.0)).collect();
        let others = format!("Available mount target(s) are in az [{}]", zones.join(", "));
        // `crossaccount` asks by the zone's id.
        match all.iter().find(|target| target.zone.0 == zone || target.zone.1 == zone) {
            Some(target) if up(target) => Ok(target),
            Some(target) if target.state == LifeCycle::Deleting => Err(unresolved(format!(
                // The quotation marks are efs-utils' own.
                "Mount target in the availability zone {zone} is {state}, please create a new one in {zone}, or use the \" \"mount target in the other az by passing the availability zone name option. {others}",
                state = target.state.as_str()
            ))),
            Some(target) => Err(unresolved(format!(
                "Mount target in the az {zone} is {state}, please retry in 5 minutes, or use the mount target in the other az by passing the availability zone name option. {others}",
                state = target.state.as_str()
            ))),
            None => Err(unresolved(format!(
                "No matching mount target in the az {zone}. Please create one mount target in {zone}, or try the mount target in another AZ by passing the availability zone name option. {others}"
            ))),
        }
    }
}

/// Do the security groups of the mount target let this client through?
fn admitted(ec2: &ec2::State, target: &MountTarget, client: Client<'_>) -> bool {
    let mut groups = target.security_groups.iter().filter_map(|id| ec2.network().security_group(id));
    groups.any(|group| group.admits("tcp", NFS, client.ip, client.groups))
}

fn unreachable_text(ip: &str) -> String {
    format!(
        "Cannot connect to file system mount target ip address {ip}. \nConnection to the mount target IP address {ip} timeout. Please retry in 5 minutes if the mount target is newly created. Otherwise check your VPC and security group configuration to ensure your file system is reachable via TCP port 2049 from your instance."
    )
}
