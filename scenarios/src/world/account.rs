//! The user's aws commands in the virtual world: parameters and answers as the aws CLI has them.

mod requests;
mod shown;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model_aws::ec2::network::{Peer, Rule};
use model_aws::ec2::{self, Filter, Paging, TagItem};
use model_aws::world::Cidr;
use model_aws::{Input, efs, world};
use model_common::agent::PosixUser;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::World;
use super::cloud::{Refusal, Reply, tag_items};
use crate::engine::EngineError;
use crate::language;
use requests::{
    Attach, Authorize, CreateAccessPoint, CreateFileSystem, CreateGroup, CreateMountTarget, CreateSnapshot, CreateVolume, Describe,
    GroupId, Ids, ModifyVolume, Permission, SnapshotId, TagSpecification, VolumeId,
};
use shown::{show_attachment, tags};

/// The world that AWS starts with: the scenario's nodes in the default world, or the default world.
pub(super) fn world(given: &language::World, seed: u64) -> Result<world::World, String> {
    let mut world = world::World { seed, ..world::World::default() };
    if !given.nodes.is_empty() {
        let mut taken: BTreeMap<&str, u32> = BTreeMap::new();
        // A subnet of the default world has room for so many; a larger cluster gets larger subnets.
        if given.nodes.len() > 200 {
            world.vpc.cidr = "10.0.0.0/8".into();
            (1..).zip(&mut world.vpc.subnets).for_each(|(n, subnet)| subnet.cidr = format!("10.{}.0.0/12", n * 16));
        }
        let subnets: Vec<Option<Cidr>> = world.vpc.subnets.iter().map(|subnet| Cidr::parse(&subnet.cidr)).collect();
        world.instances = given
            .nodes
            .iter()
            .map(|node| {
                // Each zone has one subnet, in the order of the zones.
                let subnet = world.zones.iter().zip(&subnets).find(|(zone, _)| zone.name == node.zone).and_then(|(_, subnet)| *subnet);
                let subnet = subnet.ok_or_else(|| format!("the node {} is in the zone {}, which is not there", node.name, node.zone))?;
                let host = taken.entry(&node.zone).or_insert(9);
                *host += 1;
                let private_ip = Ipv4Addr::from(u32::from(subnet.network).saturating_add(*host));
                let (zone, instance_type) = (node.zone.clone(), node.instance_type.clone());
                Ok(world::Instance {
                    private_ip,
                    zone,
                    instance_type,
                    id: None,
                    node: true,
                    labels: BTreeMap::new(),
                    tags: BTreeMap::new(),
                })
            })
            .collect::<Result<_, String>>()?;
    }
    world.check().map_err(|error| error.to_string())?;
    Ok(world)
}

/// Why a command gave no answer.
enum Trouble {
    Refused(Refusal),
    Unknown(String),
}

impl<R: Into<Refusal>> From<R> for Trouble {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

fn read<T: DeserializeOwned>(parameters: &Value) -> Result<T, Trouble> {
    T::deserialize(parameters).map_err(|error| Trouble::Unknown(error.to_string()))
}

impl World {
    /// An aws command of the user.
    pub(super) fn command(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        let result = match service {
            "ec2" => self.ec2_command(command, parameters),
            "efs" => self.efs_command(command, parameters),
            _ => Err(Trouble::Unknown(format!("the service `{service}` is not known; there are ec2 and efs"))),
        };
        result.map_err(|trouble| match trouble {
            Trouble::Refused(Refusal { code, message, .. }) => EngineError::Aws { command: command.into(), code, message },
            Trouble::Unknown(message) => EngineError::Unsupported(format!("aws {service} {command}: {message}")),
        })
    }

    fn ec2_command(&mut self, command: &str, parameters: &Value) -> Result<Value, Trouble> {
        let input = match command {
            "describe-volumes"
            | "describe-availability-zones"
            | "describe-vpcs"
            | "describe-subnets"
            | "describe-volumes-modifications"
            | "describe-snapshots"
            | "describe-instances"
            | "describe-security-groups" => return self.ec2_describe(command, read(parameters)?),
            "create-volume" => {
                let new: CreateVolume = read(parameters)?;
                ec2::Command::CreateVolume(ec2::CreateVolume {
                    client_token: new.client_token,
                    zone: new.availability_zone,
                    size_gib: new.size,
                    volume_type: new.volume_type,
                    iops: new.iops,
                    throughput: new.throughput,
                    encrypted: new.encrypted,
                    kms_key_id: new.kms_key_id,
                    multi_attach: new.multi_attach_enabled,
                    snapshot_id: new.snapshot_id,
                    tags: tags_for("volume", new.tag_specifications),
                    ..ec2::CreateVolume::default()
                })
            }
            "delete-volume" => ec2::Command::DeleteVolume { volume_id: read::<VolumeId>(parameters)?.volume_id },
            "modify-volume" => {
                let ModifyVolume { volume_id, size, volume_type, iops, throughput } = read(parameters)?;
                ec2::Command::ModifyVolume(ec2::ModifyVolume {
                    volume_id,
                    size_gib: size,
                    volume_type,
                    iops,
                    throughput,
                    multi_attach: None,
                })
            }
            "create-snapshot" => {
                let CreateSnapshot { volume_id, description, tag_specifications } = read(parameters)?;
                ec2::Command::CreateSnapshot { volume_id, description, tags: tags_for("snapshot", tag_specifications) }
            }
            "delete-snapshot" => ec2::Command::DeleteSnapshot { snapshot_id: read::<SnapshotId>(parameters)?.snapshot_id },
            "attach-volume" => {
                let Attach { volume_id, instance_id, device, .. } = read(parameters)?;
                let (Some(instance_id), Some(device)) = (instance_id, device) else {
                    return Err(Trouble::Unknown("InstanceId and Device must be given".into()));
                };
                ec2::Command::AttachVolume { volume_id, instance_id, device, card_index: None }
            }
            "detach-volume" => {
                let Attach { volume_id, instance_id, device, force } = read(parameters)?;
                ec2::Command::DetachVolume { volume_id, instance_id, device, force }
            }
            "create-security-group" => {
                let CreateGroup { group_name, description, vpc_id } = read(parameters)?;
                ec2::Command::CreateSecurityGroup { name: group_name, description, vpc_id, tags: tag_items(&BTreeMap::new()) }
            }
            "delete-security-group" => ec2::Command::DeleteSecurityGroup { group_id: read::<GroupId>(parameters)?.group_id },
            "authorize-security-group-ingress" => {
                let Authorize { group_id, ip_permissions } = read(parameters)?;
                let rules = ip_permissions.into_iter().flat_map(rules).collect();
                ec2::Command::AuthorizeIngress(ec2::RuleChange { group_id: Some(group_id), rules, ..ec2::RuleChange::default() })
            }
            _ => return Err(Trouble::Unknown("is not known in virtual time; run with --live".into())),
        };
        let reply = self.aws(Input::Ec2(ec2::Input::Command(input)))?;
        let seed = self.aws.ec2.seed();
        Ok(match reply {
            Some(Reply::Ec2(ec2::Reply::Volume(volume))) => self.show_volume(&volume),
            Some(Reply::Ec2(ec2::Reply::Snapshot(snapshot))) => self.show_snapshot(&snapshot),
            Some(Reply::Ec2(ec2::Reply::Modification { volume, modification })) => {
                json!({"VolumeModification": self.show_modification(&volume.id(seed), &modification)})
            }
            Some(Reply::Ec2(ec2::Reply::Attachment { volume, instance, attachment })) => {
                show_attachment(&volume.id(seed), &instance, &attachment)
            }
            Some(Reply::Ec2(ec2::Reply::SecurityGroup { id })) => json!({"GroupId": id}),
            Some(Reply::Ec2(ec2::Reply::Rules { .. })) => json!({"Return": true}),
            _ => json!({}),
        })
    }

    fn ec2_describe(&self, command: &str, describe: Describe) -> Result<Value, Trouble> {
        let Describe { ids, filters } = describe;
        let filters: Vec<Filter> = filters.into_iter().map(|filter| Filter { name: filter.name, values: filter.values }).collect();
        let (ec2, network) = (&self.aws.ec2, self.aws.ec2.network());
        let named = |id: &str| ids.is_empty() || ids.iter().any(|wanted| wanted == id);
        let mut shown = Vec::new();
        Ok(match command {
            "describe-volumes" => {
                let page = ec2.describe_volumes(&ids, &filters, &Paging::default())?;
                json!({"Volumes": page.items.into_iter().map(|volume| self.show_volume(volume)).collect::<Vec<_>>()})
            }
            "describe-volumes-modifications" => {
                let page = ec2.describe_modifications(&ids, &filters, &Paging::default())?;
                let shown = page
                    .items
                    .into_iter()
                    .filter_map(|volume| Some(self.show_modification(&volume.key.id(ec2.seed()), volume.modification.as_ref()?)));
                json!({"VolumesModifications": shown.collect::<Vec<_>>()})
            }
            "describe-snapshots" => {
                let page = ec2.describe_snapshots(&ids, &filters, &Paging::default())?;
                json!({"Snapshots": page.items.into_iter().map(|snapshot| self.show_snapshot(snapshot)).collect::<Vec<_>>()})
            }
            "describe-instances" => {
                let page = ec2.describe_instances(&ids, &filters, &Paging::default())?;
                let reservations = page.items.into_iter().map(|instance| {
                    json!({"Instances": [{
                        "InstanceId": instance.id.to_string(), "InstanceType": instance.instance_type, "PrivateDnsName": instance.private_dns_name,
                        "PrivateIpAddress": instance.private_ip.to_string(), "Placement": {"AvailabilityZone": instance.zone},
                        "State": {"Code": 16, "Name": "running"}, "SubnetId": instance.subnet_id, "VpcId": instance.vpc_id, "Tags": tags(&instance.tags),
                    }]})
                });
                json!({"Reservations": reservations.collect::<Vec<_>>()})
            }
            "describe-availability-zones" => {
                for zone in network.zones.iter().filter(|zone| named(&zone.name)) {
                    let fields = |name: &str| [if name == "zone-name" { zone.name.clone() } else { "available".into() }];
                    if ec2.filter_world(&filters, &["zone-name", "state"], &BTreeMap::new(), fields)? {
                        shown.push(json!({"ZoneName": zone.name, "ZoneId": zone.id, "State": "available", "RegionName": network.region}));
                    }
                }
                json!({"AvailabilityZones": shown})
            }
            "describe-vpcs" => {
                let vpc = &network.vpc;
                let fields = |name: &str| [if name == "vpc-id" { vpc.id.clone() } else { "true".into() }];
                if named(&vpc.id) && ec2.filter_world(&filters, &["vpc-id", "is-default", "isDefault"], &vpc.tags, fields)? {
                    shown.push(json!({"VpcId": vpc.id, "CidrBlock": vpc.cidr, "IsDefault": true, "State": "available", "OwnerId": network.account}));
                }
                json!({"Vpcs": shown})
            }
            "describe-subnets" => {
                let mut subnets: Vec<_> = network.subnets.values().filter(|subnet| named(&subnet.id)).collect();
                subnets.sort_by_key(|subnet| u32::from(subnet.cidr.network));
                for subnet in subnets {
                    let cidr = format!("{}/{}", subnet.cidr.network, subnet.cidr.prefix);
                    let fields = |name: &str| {
                        [match name {
                            "vpc-id" => subnet.vpc_id.clone(),
                            "subnet-id" => subnet.id.clone(),
                            _ => subnet.zone.name.clone(),
                        }]
                    };
                    if ec2.filter_world(&filters, &["vpc-id", "subnet-id", "availability-zone"], &subnet.tags, fields)? {
                        shown.push(json!({
                            "SubnetId": subnet.id, "VpcId": subnet.vpc_id, "CidrBlock": cidr, "State": "available",
                            "AvailabilityZone": subnet.zone.name, "AvailabilityZoneId": subnet.zone.id,
                        }));
                    }
                }
                json!({"Subnets": shown})
            }
            _ => {
                for group in ec2.security_groups().into_iter().filter(|group| named(&group.id)) {
                    let fields = |name: &str| {
                        [match name {
                            "vpc-id" => group.vpc_id.clone(),
                            "group-id" => group.id.clone(),
                            _ => group.name.clone(),
                        }]
                    };
                    if ec2.filter_world(&filters, &["vpc-id", "group-id", "group-name"], &group.tags, fields)? {
                        shown.push(json!({
                            "GroupId": group.id, "GroupName": group.name, "Description": group.description, "VpcId": group.vpc_id,
                        }));
                    }
                }
                json!({"SecurityGroups": shown})
            }
        })
    }

    fn efs_command(&mut self, command: &str, parameters: &Value) -> Result<Value, Trouble> {
        let need = |id: Option<String>, name: &str| id.ok_or_else(|| Trouble::Unknown(format!("{name} must be given")));
        let all = usize::MAX;
        let input = match command {
            "describe-file-systems" => {
                let ids: Ids = read(parameters)?;
                let page = self.aws.efs.describe_file_systems(ids.file_system_id.as_deref(), ids.creation_token.as_deref(), 0, all)?;
                return Ok(
                    json!({"FileSystems": page.items.into_iter().map(|(row, n)| self.show_file_system(row, n)).collect::<Vec<_>>()}),
                );
            }
            "describe-mount-targets" => {
                let ids: Ids = read(parameters)?;
                let (fs, target, point) = (ids.file_system_id.as_deref(), ids.mount_target_id.as_deref(), ids.access_point_id.as_deref());
                let page = self.aws.efs.describe_mount_targets(fs, target, point, 0, all)?;
                return Ok(json!({"MountTargets": page.items.into_iter().map(|row| self.show_mount_target(row)).collect::<Vec<_>>()}));
            }
            "describe-access-points" => {
                let ids: Ids = read(parameters)?;
                let page = self.aws.efs.describe_access_points(ids.access_point_id.as_deref(), ids.file_system_id.as_deref(), 0, all)?;
                return Ok(json!({"AccessPoints": page.items.into_iter().map(|row| self.show_access_point(row)).collect::<Vec<_>>()}));
            }
            "create-file-system" => {
                let new: CreateFileSystem = read(parameters)?;
                efs::Command::CreateFileSystem(efs::NewFileSystem {
                    creation_token: new.creation_token,
                    performance_mode: new.performance_mode,
                    throughput_mode: new.throughput_mode,
                    encrypted: new.encrypted,
                    availability_zone: new.availability_zone_name,
                    tags: new.tags.into_iter().map(|tag| (tag.key, tag.value)).collect(),
                    ..efs::NewFileSystem::default()
                })
            }
            "create-mount-target" => {
                let CreateMountTarget { file_system_id, subnet_id, ip_address, security_groups } = read(parameters)?;
                efs::Command::CreateMountTarget(efs::NewMountTarget { file_system_id, subnet_id, ip_address, security_groups })
            }
            "create-access-point" => {
                let CreateAccessPoint { client_token, file_system_id, posix_user, root_directory, tags } = read(parameters)?;
                let creation = root_directory.creation_info.map(|info| efs::Creation {
                    owner_uid: info.owner_uid,
                    owner_gid: info.owner_gid,
                    permissions: info.permissions,
                });
                efs::Command::CreateAccessPoint(efs::NewAccessPoint {
                    client_token,
                    file_system_id,
                    posix_user: posix_user.map(|user| PosixUser { uid: user.uid, gid: user.gid, secondary_gids: user.secondary_gids }),
                    path: root_directory.path,
                    creation,
                    tags: tags.into_iter().map(|tag| (tag.key, tag.value)).collect(),
                })
            }
            "delete-file-system" => efs::Command::DeleteFileSystem { id: need(read::<Ids>(parameters)?.file_system_id, "FileSystemId")? },
            "delete-mount-target" => {
                efs::Command::DeleteMountTarget { id: need(read::<Ids>(parameters)?.mount_target_id, "MountTargetId")? }
            }
            "delete-access-point" => {
                efs::Command::DeleteAccessPoint { id: need(read::<Ids>(parameters)?.access_point_id, "AccessPointId")? }
            }
            _ => return Err(Trouble::Unknown("is not known in virtual time; run with --live".into())),
        };
        let reply = self.aws(Input::Efs(efs::Input::Command(input)))?;
        Ok(match reply {
            Some(Reply::Efs(efs::Reply::FileSystem(row, targets))) if command.starts_with("create") => self.show_file_system(&row, targets),
            Some(Reply::Efs(efs::Reply::MountTarget(row))) if command.starts_with("create") => self.show_mount_target(&row),
            Some(Reply::Efs(efs::Reply::AccessPoint(row))) if command.starts_with("create") => self.show_access_point(&row),
            _ => json!({}),
        })
    }
}

fn rules(permission: Permission) -> Vec<Rule> {
    let Permission { ip_protocol, from_port, to_port, ip_ranges, user_id_group_pairs } = permission;
    let ports = from_port.zip(to_port);
    let ranges = ip_ranges.into_iter().map(|range| (Peer::Cidr(range.cidr_ip), range.description));
    let pairs = user_id_group_pairs.into_iter().map(|pair| (Peer::Group(pair.group_id), None));
    ranges
        .chain(pairs)
        .map(|(peer, description)| Rule { id: String::new(), protocol: ip_protocol.clone(), ports, peer, description })
        .collect()
}

fn tags_for(resource: &str, specifications: Vec<TagSpecification>) -> Vec<TagItem> {
    let wanted = specifications.into_iter().filter(|spec| spec.resource_type == resource);
    wanted.flat_map(|spec| spec.tags).map(|tag| TagItem { key: tag.key, value: Some(tag.value) }).collect()
}
