//! Instances and their agents.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::ids::InstanceId;
use super::instance_types::InstanceType;
use super::metadata::Metadata;
use super::network::Network;
use super::{Effect, Failure, RETRY, State, Tags, Timer, Work};
use crate::At;
use crate::world::{World, dns_name, own_id};

/// An instance: of the world, or registered by an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    pub id: InstanceId,
    /// Its place in the world, those registered after it; describe calls list by it.
    pub order: usize,
    pub instance_type: String,
    pub zone: String,
    pub subnet_id: String,
    pub vpc_id: String,
    pub private_ip: Ipv4Addr,
    /// `ip-10-0-1-10.ec2.internal`
    pub private_dns_name: String,
    /// The Kubernetes node's name; none where it is not a node, so that nobody raises devices in it.
    pub node: Option<String>,
    /// When it was registered; none: the world had it from the start.
    pub launched: Option<At>,
    pub root_device: String,
    pub interface: Interface,
    pub tags: Tags,
    pub metadata: Metadata,
    /// What is known of the agent. Not saved: after a start no agent is connected.
    pub agent: Agent,
    /// Devices of volumes that do not exist, which the agent reported: volume id to device.
    pub(super) strays: BTreeMap<String, Stray>,
}

/// The instance's primary network interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Interface {
    pub id: String,
    pub security_groups: Vec<String>,
    pub mac: String,
    pub tags: Tags,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Agent {
    /// It never connected, or its connection is gone: works on its devices wait.
    Away,
    Connected,
    /// It is there but cannot have devices.
    NoDevices {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stray {
    pub device: String,
    pub running: bool,
    /// The last try failed; the timer is armed.
    pub waiting: bool,
}

/// How many volumes an instance takes.
pub(super) struct Limit {
    /// Volumes that can be attached beside the root volume.
    pub free: usize,
    /// The number in the text of the reject.
    pub shown: u32,
}

impl Instance {
    pub(super) fn attachment_limit(&self) -> Limit {
        // A type that is not in the table: the common Nitro limit, as the CSI driver assumes too.
        let limit = InstanceType::find(&self.instance_type).map_or(27, |instance_type| instance_type.ebs_limit);
        // The root volume takes one; the one interface is not counted.
        Limit { free: limit.saturating_sub(1) as usize, shown: limit }
    }
}

/// What one instance differs in from another.
pub(super) struct Parts {
    pub id: InstanceId,
    pub order: usize,
    pub instance_type: String,
    pub zone: String,
    pub subnet_id: String,
    pub private_ip: Ipv4Addr,
    pub node: Option<String>,
    pub tags: Tags,
    pub launched: Option<At>,
}

pub(super) fn instance(seed: u64, network: &Network, parts: Parts) -> Instance {
    let [a, b, c, d] = parts.private_ip.octets();
    let mut tags = parts.tags;
    if parts.node.is_some() {
        tags.entry("Name".to_owned()).or_insert_with(|| "ebbtide-node".to_owned());
    }
    Instance {
        id: parts.id,
        order: parts.order,
        instance_type: parts.instance_type,
        zone: parts.zone,
        subnet_id: parts.subnet_id,
        vpc_id: network.vpc.id.clone(),
        private_ip: parts.private_ip,
        node: parts.node,
        private_dns_name: dns_name(&network.region, parts.private_ip),
        launched: parts.launched,
        root_device: "/dev/xvda".to_owned(),
        interface: Interface {
            id: own_id(seed, "eni", parts.order),
            security_groups: network.default_security_group().map(|group| group.id.clone()).into_iter().collect(),
            mac: format!("0a:ff:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            tags: Tags::new(),
        },
        tags,
        metadata: Metadata::default(),
        agent: Agent::Away,
        strays: BTreeMap::new(),
    }
}

/// The instances that a world has, each with its interface in the default security group.
pub(super) fn of_world(world: &World, network: &Network) -> BTreeMap<InstanceId, Instance> {
    let instances = world.instances.iter().enumerate().map(|(index, given)| {
        let id: InstanceId = world.instance_id(index).into();
        let parts = Parts {
            id: id.clone(),
            order: index,
            instance_type: given.instance_type.clone(),
            zone: given.zone.clone(),
            subnet_id: world.subnet_of(given).map(|subnet| world.own_id("subnet", subnet)).unwrap_or_default(),
            private_ip: given.private_ip,
            node: given.node.then(|| world.dns_name(given.private_ip)),
            tags: given.tags.clone(),
            launched: None,
        };
        (id, instance(world.seed, network, parts))
    });
    instances.collect()
}

impl State {
    /// Starts the removal of an instance's stray devices.
    pub(super) fn drive_strays(&mut self, instance: &InstanceId, out: &mut Vec<Effect>) {
        let Some(record) = self.instances.get_mut(instance).filter(|record| record.agent == Agent::Connected) else { return };
        for (volume_id, stray) in record.strays.iter_mut().filter(|(_, stray)| !stray.running && !stray.waiting) {
            stray.running = true;
            out.push(Effect::Run(Work::DetachStray {
                instance: instance.clone(),
                volume_id: volume_id.clone(),
                device: stray.device.clone(),
            }));
        }
    }

    pub(super) fn done_stray(&mut self, instance: &InstanceId, volume_id: &str, result: &Result<(), Failure>, out: &mut Vec<Effect>) {
        let Some(record) = self.instances.get_mut(instance) else { return };
        match (result, record.strays.get_mut(volume_id)) {
            (Ok(()), _) => {
                record.strays.remove(volume_id);
                self.forget_leftover(instance, volume_id);
            }
            (Err(_), Some(stray)) => {
                (stray.running, stray.waiting) = (false, true);
                out.push(Effect::Arm(Timer::Strays(instance.clone()), RETRY));
            }
            (Err(_), None) => {}
        }
    }

    pub(super) fn strays_fired(&mut self, instance: &InstanceId, out: &mut Vec<Effect>) {
        if let Some(record) = self.instances.get_mut(instance) {
            record.strays.values_mut().for_each(|stray| stray.waiting = false);
        }
        self.drive_strays(instance, out);
    }
}
