//! Instances that the world does not describe: nodes of another Kubernetes, which say which instance they are.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::ids::Kind;
use super::instance::{self, Parts};
use super::records::Changed;
use super::{Effect, Reject, Reply, State, Tags};
use crate::At;

/// A node of another Kubernetes that says which instance it is, by its providerID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    pub instance_id: String,
    /// The Kubernetes node's name.
    pub node: String,
    pub zone: String,
    pub instance_type: String,
    /// The address to have, where it lies in a subnet of the zone and is free; another one otherwise.
    pub private_ip: Option<Ipv4Addr>,
}

/// A registered instance as it is saved; the rest follows from the world.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registered {
    order: usize,
    node: String,
    zone: String,
    instance_type: String,
    subnet_id: String,
    private_ip: Ipv4Addr,
    launched: At,
}

impl State {
    /// The subnet and the address that a registration gets. `taken`: by whom EC2 does not know.
    pub(super) fn plan_register(&self, new: &Registration, taken: impl Fn(&Ipv4Addr) -> bool) -> Result<(String, Ipv4Addr), Reject> {
        if !Kind::Instance.well_formed(&new.instance_id) {
            return Err(Reject::MalformedId { kind: Kind::Instance, parameter: "instanceId".to_owned(), id: new.instance_id.clone() });
        }
        if new.instance_type.is_empty() {
            return Err(Reject::MissingParameter("InstanceType".to_owned()));
        }
        if self.network.zone(&new.zone).is_none() {
            return Err(Reject::NoSuchZone { zone: new.zone.clone() });
        }
        let used = self.addresses();
        let free = |ip: &Ipv4Addr| !used.contains(ip) && !taken(ip);
        let subnets = || self.network.subnets.values().filter(|subnet| subnet.zone.name == new.zone);
        let wish =
            new.private_ip.filter(free).and_then(|ip| subnets().find(|subnet| subnet.cidr.hosts().any(|host| host == ip)).zip(Some(ip)));
        let found = wish.or_else(|| subnets().find_map(|subnet| Some(subnet).zip(subnet.cidr.hosts().find(free))));
        found.map(|(subnet, ip)| (subnet.id.clone(), ip)).ok_or_else(|| Reject::NoFreeAddress { zone: new.zone.clone() })
    }

    /// Makes an instance of a node that nobody described before; one that is there stays as it is.
    pub(crate) fn register(
        &mut self,
        at: At,
        new: &Registration,
        taken: impl Fn(&Ipv4Addr) -> bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        if !self.instances.contains_key(new.instance_id.as_str()) {
            let (subnet_id, private_ip) = self.plan_register(new, taken)?;
            let order = self.instances.values().map(|instance| instance.order + 1).max().unwrap_or(0);
            let (node, zone, instance_type) = (new.node.clone(), new.zone.clone(), new.instance_type.clone());
            let registered = Registered { order, node, zone, instance_type, subnet_id, private_ip, launched: at };
            self.insert_registered(&new.instance_id, registered);
            self.dirty.insert(Changed::Instance(new.instance_id.as_str().into()));
        }
        out.push(Effect::Reply(Reply::Done));
        Ok(())
    }

    /// The world's instance of the same id goes before.
    pub(super) fn insert_registered(&mut self, id: &str, registered: Registered) {
        let Registered { order, node, zone, instance_type, subnet_id, private_ip, launched } = registered;
        let (node, launched) = (Some(node), Some(launched));
        let parts = Parts { id: id.into(), order, instance_type, zone, subnet_id, private_ip, node, tags: Tags::new(), launched };
        let made = instance::instance(self.seed, &self.network, parts);
        self.instances.entry(id.into()).or_insert(made);
    }

    /// What is saved of an instance; nothing of one that the world describes.
    pub(super) fn registered(&self, id: &str) -> Option<Registered> {
        let instance = self.instances.get(id)?;
        Some(Registered {
            order: instance.order,
            node: instance.node.clone()?,
            zone: instance.zone.clone(),
            instance_type: instance.instance_type.clone(),
            subnet_id: instance.subnet_id.clone(),
            private_ip: instance.private_ip,
            launched: instance.launched?,
        })
    }

    /// The addresses that instances have.
    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.instances.values().map(|instance| instance.private_ip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use crate::{Aws, Input, Profile, ec2, efs};

    fn wish(id: &str) -> Registration {
        let (node, zone, instance_type) = ("kind-worker".to_owned(), "us-east-1a".to_owned(), "c5.large".to_owned());
        Registration { instance_id: id.to_owned(), node, zone, instance_type, private_ip: None }
    }

    fn register(aws: &mut Aws, new: Registration) -> Result<(), ec2::Reject> {
        match aws.step(At(9), &Input::Ec2(ec2::Input::Command(ec2::Command::Register(new))), &mut Vec::new()) {
            Ok(()) => Ok(()),
            Err(crate::Reject::Ec2(reject)) => Err(reject),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_registered_instance_is_saved_with_what_is_set_on_it() {
        let world = World::default();
        let mut aws = Aws::new(&world, Profile::Instant);
        register(&mut aws, wish("i-00000000000000001")).unwrap();
        let made = aws.ec2.instance("i-00000000000000001").unwrap().clone();
        assert_eq!((made.order, made.private_ip, made.launched), (2, Ipv4Addr::new(10, 0, 1, 4), Some(At(9))));
        assert_eq!((&*made.private_dns_name, made.node.as_deref()), ("ip-10-0-1-4.ec2.internal", Some("kind-worker")));
        assert_eq!(made.interface.security_groups.len(), 1);
        assert!(aws.ec2.instances().all(|other| other.id == made.id || other.interface.id != made.interface.id));
        // Again, as with each connection: nothing changes, and nothing is saved.
        aws.take_dirty();
        register(&mut aws, Registration { instance_type: "m5.large".to_owned(), ..wish("i-00000000000000001") }).unwrap();
        assert_eq!(aws.take_dirty(), vec![]);
        assert_eq!(aws.ec2.instance("i-00000000000000001"), Some(&made));

        let mut aws = Aws::new(&world, Profile::Instant);
        register(&mut aws, wish("i-00000000000000001")).unwrap();
        let tags = vec![ec2::TagItem { key: "a".to_owned(), value: Some("b".to_owned()) }];
        let tagging = ec2::Command::CreateTags { resources: vec!["i-00000000000000001".to_owned()], tags };
        aws.step(At(9), &Input::Ec2(ec2::Input::Command(tagging)), &mut Vec::new()).unwrap();
        let mut records = aws.take_dirty();
        records.sort_by_key(|dirty| Aws::tables().position(|table| table == dirty.table));
        let records = records.iter().map(|dirty| (dirty.table, dirty.key.as_str(), dirty.value.as_deref().unwrap()));
        let loaded = Aws::load(&world, Profile::Instant, records).unwrap();
        let again = loaded.ec2.instance("i-00000000000000001").unwrap();
        assert_eq!(again, aws.ec2.instance("i-00000000000000001").unwrap());
        assert_eq!(again.tags["a"], "b");
    }

    #[test]
    fn a_registration_has_a_zone_an_id_and_a_free_address() {
        let mut aws = Aws::new(&World::default(), Profile::Instant);
        assert!(matches!(register(&mut aws, wish("kind-worker")), Err(Reject::MalformedId { kind: Kind::Instance, .. })));
        let elsewhere = Registration { zone: "eu-west-1a".to_owned(), ..wish("i-00000000000000001") };
        assert_eq!(register(&mut aws, elsewhere), Err(Reject::NoSuchZone { zone: "eu-west-1a".to_owned() }));
        assert_eq!(aws.ec2.instances().count(), 2);

        // Another address than its wish: of the machine's own network, of an instance. And one that is free.
        let address = |last| Some(Ipv4Addr::new(10, 0, 1, last));
        let wishes = [(Some(Ipv4Addr::new(172, 18, 0, 2)), 4), (address(10), 5), (address(77), 77)];
        for (number, (private_ip, got)) in wishes.into_iter().enumerate() {
            let id = format!("i-0000000000000000{number}");
            register(&mut aws, Registration { private_ip, ..wish(&id) }).unwrap();
            assert_eq!(Some(aws.ec2.instance(&id).unwrap().private_ip), address(got), "for {private_ip:?}");
        }
    }

    #[test]
    fn mount_targets_and_instances_share_the_addresses_of_a_subnet() {
        let mut world = World::default();
        world.vpc.subnets[0].cidr = "10.0.1.0/28".to_owned();
        let mut aws = Aws::new(&world, Profile::Instant);
        register(&mut aws, wish("i-00000000000000001")).unwrap();
        let new = efs::NewFileSystem { creation_token: "t".to_owned(), ..Default::default() };
        let mut inputs = vec![efs::Input::Command(efs::Command::CreateFileSystem(new))];
        let mut made = None;
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            aws.step(At(9), &Input::Efs(input), &mut out).unwrap();
            for effect in out {
                match effect {
                    crate::Effect::Efs(efs::Effect::Work(work)) => inputs.push(efs::Input::Done(work, Ok(0))),
                    crate::Effect::Efs(efs::Effect::Arm(timer @ efs::Timer::FileSystem(_), _)) => inputs.push(efs::Input::Fired(timer)),
                    crate::Effect::Efs(efs::Effect::Reply(efs::Reply::FileSystem(file_system, _))) => made = Some(file_system.id),
                    _ => {}
                }
            }
        }
        let subnet_id = aws.ec2.network().subnets.values().find(|subnet| subnet.zone.name == "us-east-1a").unwrap().id.clone();
        let target = efs::NewMountTarget { file_system_id: made.unwrap(), subnet_id, ..Default::default() };
        aws.step(At(9), &Input::Efs(efs::Input::Command(efs::Command::CreateMountTarget(target))), &mut Vec::new()).unwrap();
        assert_eq!(aws.efs.mount_targets().map(|target| target.ip).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 1, 5)]);
        // Eleven addresses, of which the world's instance, the mount target and the first registered one have three.
        for number in 2..10 {
            register(&mut aws, wish(&format!("i-{number:017x}"))).unwrap();
        }
        assert_eq!(aws.ec2.addresses().into_iter().filter(|ip| *ip == Ipv4Addr::new(10, 0, 1, 5)).count(), 0);
        assert_eq!(register(&mut aws, wish("i-0ffffffffffffffff")), Err(Reject::NoFreeAddress { zone: "us-east-1a".to_owned() }));
    }
}
