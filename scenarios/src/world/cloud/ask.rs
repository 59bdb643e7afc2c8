//! What the drivers ask of AWS, and its answers as the drivers read them.

use model_aws::ec2::{self, Filter, Paging};
use model_aws::{Input, efs};
use model_common::agent::PosixUser;
use model_node::driver::cloud::{self, CloudCall, CloudError, CloudReply, SnapshotQuery, VolumeQuery};

use super::super::World;
use super::{REQUEST_ID, Refusal, Reply, tag_items, unsigned};

impl World {
    /// A driver's request to AWS.
    pub(in crate::world) fn cloud(&mut self, call: &CloudCall) -> Box<Result<CloudReply, CloudError>> {
        Box::new(self.ask(call).map_err(|refusal| call.error(refusal.status, REQUEST_ID, &refusal.code, &refusal.message)))
    }

    fn ask(&mut self, call: &CloudCall) -> Result<CloudReply, Refusal> {
        let command = match call {
            CloudCall::DescribeAvailabilityZones => {
                return Ok(CloudReply::Zones(self.aws.ec2.network().zones.iter().map(|zone| zone.name.clone()).collect()));
            }
            CloudCall::DescribeVolumes(query) => {
                let (ids, filters) = match query {
                    VolumeQuery::Id(id) => (vec![id.clone()], Vec::new()),
                    VolumeQuery::Name(name) => (Vec::new(), vec![filter("tag:CSIVolumeName", name)]),
                };
                let page = self.aws.ec2.describe_volumes(&ids, &filters, &Paging::default())?;
                return Ok(CloudReply::Volumes(page.items.into_iter().map(|volume| self.volume(volume)).collect()));
            }
            CloudCall::DescribeVolumeStatus { volume_id } => {
                self.aws.ec2.describe_volumes(std::slice::from_ref(volume_id), &[], &Paging::default())?;
                // Files are copied whole before a volume is available: nothing is ever still being fetched.
                return Ok(CloudReply::VolumeStatus { initializing: Some(false) });
            }
            CloudCall::DescribeVolumesModifications { volume_id } => {
                let page = self.aws.ec2.describe_modifications(std::slice::from_ref(volume_id), &[], &Paging::default())?;
                let state = page.items.first().and_then(|volume| volume.modification.as_ref()).map(|m| m.state.name().to_owned());
                return Ok(CloudReply::Modification(state));
            }
            CloudCall::DescribeInstances { instance_id } => {
                let page = self.aws.ec2.describe_instances(std::slice::from_ref(instance_id), &[], &Paging::default())?;
                return Ok(CloudReply::Instances(page.items.into_iter().map(|instance| self.instance(instance)).collect()));
            }
            CloudCall::DescribeSnapshots(query) => return self.snapshots(query),
            CloudCall::DescribeAccessPoints { file_system_id, next_token } => {
                let after = next_token.as_deref().and_then(|token| token.parse().ok()).unwrap_or(0);
                let page = self.aws.efs.describe_access_points(None, Some(file_system_id), after, 1000)?;
                let access_points = page.items.into_iter().map(access_point).collect();
                return Ok(CloudReply::AccessPoints { access_points, next_token: page.next.map(|key| key.to_string()) });
            }
            CloudCall::DescribeFileSystems { file_system_id } => {
                let page = self.aws.efs.describe_file_systems(Some(file_system_id), None, 0, 1)?;
                let systems = page.items.into_iter().map(|(row, _)| cloud::FileSystem {
                    file_system_id: row.id.clone(),
                    availability_zone: row.zone.as_ref().map(|(name, _)| name.clone()),
                });
                return Ok(CloudReply::FileSystems(systems.collect()));
            }
            CloudCall::CreateVolume(new) => {
                let command = ec2::Command::CreateVolume(ec2::CreateVolume {
                    client_token: new.client_token.clone(),
                    zone: new.availability_zone.clone(),
                    zone_id: new.availability_zone_id.clone(),
                    size_gib: Some(unsigned(new.size_gib)),
                    volume_type: Some(new.volume_type.clone()),
                    iops: new.iops.map(unsigned),
                    throughput: new.throughput.map(unsigned),
                    encrypted: new.encrypted.unwrap_or(false),
                    kms_key_id: new.kms_key_id.clone(),
                    multi_attach: new.multi_attach.unwrap_or(false),
                    snapshot_id: new.snapshot_id.clone(),
                    initialization_rate: new.initialization_rate.map(unsigned),
                    tags: tag_items(&new.tags),
                });
                if new.dry_run {
                    self.aws.dry_run(&command)?;
                    let message = "Request would have succeeded, but DryRun flag is set.".into();
                    return Err(Refusal { code: "DryRunOperation".into(), message, status: 412 });
                }
                Input::Ec2(ec2::Input::Command(command))
            }
            CloudCall::CopyVolumes(copy) => ec2_command(ec2::Command::CopyVolumes(ec2::CopyVolumes {
                client_token: Some(copy.client_token.clone()),
                source_volume_id: copy.source_volume_id.clone(),
                size_gib: Some(unsigned(copy.size_gib)),
                volume_type: Some(copy.volume_type.clone()),
                iops: copy.iops.map(unsigned),
                throughput: copy.throughput.map(unsigned),
                multi_attach: copy.multi_attach,
                tags: tag_items(&copy.tags),
            })),
            CloudCall::DeleteVolume { volume_id } => ec2_command(ec2::Command::DeleteVolume { volume_id: volume_id.clone() }),
            CloudCall::ModifyVolume(modify) => ec2_command(ec2::Command::ModifyVolume(ec2::ModifyVolume {
                volume_id: modify.volume_id.clone(),
                size_gib: modify.size_gib.map(unsigned),
                volume_type: modify.volume_type.clone(),
                iops: modify.iops.map(unsigned),
                throughput: modify.throughput.map(unsigned),
                multi_attach: None,
            })),
            CloudCall::AttachVolume { volume_id, instance_id, device } => ec2_command(ec2::Command::AttachVolume {
                volume_id: volume_id.clone(),
                instance_id: instance_id.clone(),
                device: device.clone(),
                card_index: None,
            }),
            CloudCall::DetachVolume { volume_id, instance_id } => ec2_command(ec2::Command::DetachVolume {
                volume_id: volume_id.clone(),
                instance_id: Some(instance_id.clone()),
                device: None,
                force: false,
            }),
            CloudCall::CreateTags { resource, tags } => {
                ec2_command(ec2::Command::CreateTags { resources: vec![resource.clone()], tags: tag_items(tags) })
            }
            CloudCall::DeleteTags { resource, keys } => ec2_command(ec2::Command::DeleteTags {
                resources: vec![resource.clone()],
                tags: keys.iter().map(|key| ec2::TagItem { key: key.clone(), value: None }).collect(),
            }),
            CloudCall::CreateSnapshot { volume_id, description, tags } => ec2_command(ec2::Command::CreateSnapshot {
                volume_id: volume_id.clone(),
                description: description.clone(),
                tags: tag_items(tags),
            }),
            CloudCall::DeleteSnapshot { snapshot_id } => ec2_command(ec2::Command::DeleteSnapshot { snapshot_id: snapshot_id.clone() }),
            CloudCall::CreateAccessPoint(new) => efs_command(efs::Command::CreateAccessPoint(new_access_point(new)?)),
            CloudCall::DeleteAccessPoint { access_point_id } => {
                efs_command(efs::Command::DeleteAccessPoint { id: access_point_id.clone() })
            }
        };
        let reply = self.aws(command)?;
        Ok(match reply {
            Some(Reply::Ec2(ec2::Reply::Volume(volume))) => CloudReply::Volume(self.volume(&volume)),
            Some(Reply::Ec2(ec2::Reply::Volumes(volumes))) => match volumes.first() {
                Some(volume) => CloudReply::Volume(self.volume(volume)),
                None => CloudReply::Done,
            },
            Some(Reply::Ec2(ec2::Reply::Modification { modification, .. })) => {
                CloudReply::Modification(Some(modification.state.name().to_owned()))
            }
            Some(Reply::Ec2(ec2::Reply::Snapshot(snapshot))) => CloudReply::Snapshot(self.snapshot(&snapshot)),
            Some(Reply::Efs(efs::Reply::AccessPoint(point))) if matches!(call, CloudCall::CreateAccessPoint(_)) => {
                CloudReply::AccessPoint(access_point(&point))
            }
            _ => CloudReply::Done,
        })
    }

    fn snapshots(&self, query: &SnapshotQuery) -> Result<CloudReply, Refusal> {
        let (ids, filters, paging) = match query {
            SnapshotQuery::Id(id) => (vec![id.clone()], Vec::new(), Paging::default()),
            SnapshotQuery::Name(name) => (Vec::new(), vec![filter("tag:CSIVolumeSnapshotName", name)], Paging::default()),
            SnapshotQuery::List { volume_id, max_results, next_token } => (
                Vec::new(),
                volume_id.iter().map(|id| filter("volume-id", id)).collect(),
                Paging { max_results: Some(unsigned(*max_results)), next_token: next_token.clone() },
            ),
        };
        let page = self.aws.ec2.describe_snapshots(&ids, &filters, &paging)?;
        let snapshots = page.items.into_iter().map(|snapshot| self.snapshot(snapshot)).collect();
        Ok(CloudReply::Snapshots { snapshots, next_token: page.next_token })
    }

    fn volume(&self, volume: &ec2::Volume) -> cloud::Volume {
        let now = self.at().0;
        let signed = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        cloud::Volume {
            volume_id: volume.key.id(self.aws.ec2.seed()),
            size_gib: signed(volume.spec.size_gib),
            state: volume.status().name().into(),
            availability_zone: volume.zone.clone(),
            availability_zone_id: self.aws.ec2.network().zone(&volume.zone).map(|zone| zone.id.clone()).unwrap_or_default(),
            kms_key_id: volume.kms_key_id.clone().unwrap_or_default(),
            volume_type: volume.spec.volume_type.name().into(),
            iops: volume.spec.iops.map(signed),
            throughput: volume.spec.throughput.map(signed),
            multi_attach: volume.spec.multi_attach,
            tags: volume.tags.clone(),
            attachments: volume
                .attachments
                .iter()
                .map(|(instance, attachment)| cloud::Attachment {
                    instance_id: instance.to_string(),
                    state: attachment.status().name().into(),
                    device: attachment.device.clone(),
                    age_seconds: u64::try_from((now - attachment.attached_at.0) / 1000).unwrap_or(0),
                })
                .collect(),
        }
    }

    fn instance(&self, instance: &ec2::Instance) -> cloud::Instance {
        let seed = self.aws.ec2.seed();
        let devices = self.aws.ec2.attached_to(&instance.id).map(|(volume, attachment)| (attachment.device.clone(), volume.id(seed)));
        cloud::Instance {
            instance_id: instance.id.to_string(),
            root_device_name: instance.root_device.clone(),
            block_devices: devices.collect(),
        }
    }

    fn snapshot(&self, snapshot: &ec2::Snapshot) -> cloud::Snapshot {
        cloud::Snapshot {
            snapshot_id: snapshot.key.id(self.aws.ec2.seed()),
            volume_id: snapshot.volume_id.clone(),
            size_gib: i32::try_from(snapshot.size_gib).unwrap_or(i32::MAX),
            start_time_ms: snapshot.started_at.0,
            state: snapshot.status().name().into(),
        }
    }
}

fn ec2_command(command: ec2::Command) -> Input {
    Input::Ec2(ec2::Input::Command(command))
}

fn efs_command(command: efs::Command) -> Input {
    Input::Efs(efs::Input::Command(command))
}

fn filter(name: &str, value: &str) -> Filter {
    Filter { name: name.into(), values: vec![value.into()] }
}

fn access_point(row: &efs::AccessPoint) -> cloud::AccessPoint {
    cloud::AccessPoint {
        access_point_id: row.id.clone(),
        file_system_id: row.file_system_id.clone(),
        client_token: row.client_token.clone(),
        path: row.path.clone(),
        posix_user: row.posix_user.as_ref().map(|user| (i64::from(user.uid), i64::from(user.gid))),
    }
}

fn new_access_point(new: &cloud::NewAccessPoint) -> Result<efs::NewAccessPoint, Refusal> {
    let id = |number: i64, field: &str| {
        u32::try_from(number).map_err(|_| Refusal {
            code: "BadRequest".into(),
            message: format!("{field} is not a valid id: {number}"),
            status: 400,
        })
    };
    let (uid, gid) = (id(new.uid, "uid")?, id(new.gid, "gid")?);
    Ok(efs::NewAccessPoint {
        client_token: new.client_token.clone(),
        file_system_id: new.file_system_id.clone(),
        posix_user: Some(PosixUser { uid, gid, secondary_gids: Vec::new() }),
        path: Some(new.path.clone()),
        creation: Some(efs::Creation { owner_uid: uid, owner_gid: gid, permissions: new.permissions.clone() }),
        tags: new.tags.clone(),
    })
}
