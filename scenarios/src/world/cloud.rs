//! AWS in the virtual world: its machines, the work on virtual files and devices, and what the drivers ask of it.

use std::collections::BTreeMap;

use model_aws::ec2::{self, Failure, Filter, Observed, Paging, Work};
use model_aws::{Effect, Input, Reject, efs, faults, kms};
use model_common::agent::PosixUser;
use model_node::driver::CallId;
use model_node::driver::cloud::{self, CloudCall, CloudError, CloudReply, SnapshotQuery, VolumeQuery};

use super::clock::Part;
use super::files::Tree;
use super::lanes::subject;
use super::{Event, Timer, Told, World};
use crate::engine::EngineError;
use crate::invariants::Seen;

/// Requests are not told apart here.
const REQUEST_ID: &str = "00000000-0000-0000-0000-000000000000";

/// What a command of either machine gave back.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Ec2(ec2::Reply),
    Efs(efs::Reply),
    Faults(faults::Reply),
}

/// A refusal as AWS words it: code, text and HTTP status.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub code: String,
    pub message: String,
    pub status: u16,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Ec2(reject) => reject.into(),
            Reject::Efs(reject) => reject.into(),
            Reject::Kms(reject) => {
                let (code, status) = kms::reject_to_error(&reject);
                Self { code: code.into(), message: reject.to_string(), status }
            }
            Reject::Faults(reject) => Self { code: "InternalError".into(), message: reject.to_string(), status: 500 },
        }
    }
}

impl From<ec2::Reject> for Refusal {
    fn from(reject: ec2::Reject) -> Self {
        let (code, message, status) = ec2::reject_to_error(&reject);
        Self { code: code.into(), message, status }
    }
}

impl From<efs::Reject> for Refusal {
    fn from(reject: efs::Reject) -> Self {
        let error = efs::reject_to_error(&reject);
        Self { code: error.code.into(), message: error.message, status: error.status }
    }
}

pub(super) fn tag_items(tags: &BTreeMap<String, String>) -> Vec<ec2::TagItem> {
    tags.iter().map(|(key, value)| ec2::TagItem { key: key.clone(), value: Some(value.clone()) }).collect()
}

fn unsigned(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

impl World {
    /// Both machines start with nothing on disk, and the agents of all nodes connect.
    pub(super) fn boot_aws(&mut self) -> Result<(), String> {
        let mut inputs =
            vec![Input::Ec2(ec2::Input::Booted(Observed::default())), Input::Efs(efs::Input::Booted { trees: Default::default() })];
        let instances: Vec<_> = self.aws.ec2.instances().filter(|instance| instance.node.is_some()).map(|i| i.id.clone()).collect();
        inputs.extend(
            instances.into_iter().map(|instance| Input::Ec2(ec2::Input::Connected { instance, no_devices: None, devices: Vec::new() })),
        );
        inputs.into_iter().try_for_each(|input| self.aws(input).map(drop).map_err(|refusal| refusal.message))
    }

    /// A step of AWS. Replies come back at once; the rest takes its time.
    pub(super) fn aws(&mut self, input: Input) -> Result<Option<Reply>, Refusal> {
        let mut effects = Vec::new();
        let verdict = self.aws.step(self.at(), &input, &mut effects);
        self.input("aws").value(&input).verdict(&verdict).value(&effects);
        verdict?;
        let mut reply = None;
        for effect in effects {
            match effect {
                Effect::Ec2(ec2::Effect::Reply(given)) => reply = Some(Reply::Ec2(given)),
                Effect::Efs(efs::Effect::Reply(given)) => reply = Some(Reply::Efs(given)),
                Effect::Ec2(ec2::Effect::Arm(timer, span)) => self.arm(Timer::Ec2(timer), span),
                Effect::Efs(efs::Effect::Arm(timer, span)) => self.arm(Timer::Efs(timer), span),
                Effect::Ec2(ec2::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Ec2(timer)),
                Effect::Efs(efs::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Efs(timer)),
                Effect::Ec2(ec2::Effect::Run(work)) => self.soon(Part::Device, Event::Device(Box::new(work))),
                Effect::Efs(efs::Effect::Work(work)) => self.soon(Part::Device, Event::Tree(work)),
                // Nobody in this world changes keys, so none is replied and none is to be deleted.
                Effect::Kms(_) => {}
                Effect::Faults(faults::Effect::Arm(timer, span)) => self.arm(Timer::Fault(timer), span),
                Effect::Faults(faults::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Fault(timer)),
                Effect::Faults(faults::Effect::Reply(given)) => reply = Some(Reply::Faults(given)),
                Effect::Faults(_) => {}
            }
        }
        // The virtual disk is the memory itself: nothing is to be saved.
        for key in self.aws.ec2.take_changed_volumes() {
            self.volume_changed(key);
        }
        Ok(reply)
    }

    /// Tells the invariants what became of a volume.
    fn volume_changed(&mut self, key: ec2::VolumeKey) {
        let id = key.id(self.aws.ec2.seed());
        let now = self.clock.now();
        let Some(volume) = self.aws.ec2.volume(key) else {
            if self.attachments.remove(&id).is_some() {
                self.watch.see(now, &Seen::VolumeDeleted { volume: &id });
            }
            return;
        };
        let instances: BTreeMap<String, &'static str> =
            volume.attachments.iter().map(|(instance, attachment)| (instance.to_string(), attachment.status().name())).collect();
        match self.attachments.get(&id) {
            Some(known) if *known == instances => return,
            Some(_) => {}
            None => self.watch.see(now, &Seen::VolumeMade { volume: &id, multi_attach: volume.spec.multi_attach, tags: &volume.tags }),
        }
        if !instances.is_empty() || self.attachments.contains_key(&id) {
            self.watch.see(now, &Seen::Attachments { volume: &id, instances: &instances });
            self.trace_attachments(&id, &instances);
        }
        self.attachments.insert(id, instances);
    }

    /// Puts a rule into AWS's table of faults.
    pub(super) fn cause_in_aws(&mut self, rule: &faults::Rule) -> Result<(), EngineError> {
        if matches!(rule.action_id, faults::Action::EventualConsistency | faults::Action::AgentUnreachable) {
            return Err(EngineError::Unsupported(format!("the fault {} is known only with --live", rule.action_id)));
        }
        let mut rule = rule.clone();
        // Nodes may have other names here than in the account.
        if let Some(node) = self.nodes.iter().find(|node| Some(&node.info.name) == rule.node.as_ref()) {
            rule.node = Some(node.info.instance_id.clone());
        }
        let command = faults::Command::Add { rules: vec![rule] };
        let refused = |refusal: Refusal| EngineError::Unsupported(refusal.message);
        self.aws(Input::Faults(faults::Input::Command(command))).map(drop).map_err(refused)
    }

    /// Ends all faults of AWS.
    pub(super) fn clear_aws(&mut self) {
        let ids: Vec<_> = self.aws.faults.faults().map(faults::Fault::id).collect();
        if !ids.is_empty() {
            // They are all there.
            let _ = self.aws(Input::Faults(faults::Input::Command(faults::Command::Remove { ids })));
        }
    }

    /// A driver's request reaches AWS, and meets what the table of faults holds for it.
    pub(super) fn cloud_arrived(&mut self, which: super::Which, id: CallId, call: Box<CloudCall>, met: bool) {
        let verdict = if met { faults::Verdict::default() } else { self.judge(&call) };
        if let Some(delay) = verdict.delay {
            return self.clock.after(delay.duration(), Event::Cloud { which, id, call, met: true });
        }
        let mut result = match verdict.error {
            Some(error) => Box::new(Err(call.error(error.status, REQUEST_ID, &error.code, &error.message))),
            None => self.cloud(&call),
        };
        if verdict.lost {
            let (service, operation) = call.operation();
            let operation = format!("{service}: {operation}");
            *result = Err(CloudError::Transport {
                operation,
                message: "https response error StatusCode: 0, RequestID: , request send failed, EOF".into(),
            });
        }
        self.note("cloud").value(&call).value(&result);
        self.trace(|_| {
            let (service, operation) = call.operation();
            let outcome = match &*result {
                Ok(_) => "ok".to_owned(),
                Err(error) if error.code().is_empty() => error.message().to_owned(),
                Err(error) => format!("{} ({})", error.code(), error.message()),
            };
            Told::new(service.to_lowercase(), format!("{operation}{}: {outcome}", subject(&call))).failed(result.is_err())
        });
        self.soon(Part::Cloud, Event::Answer { which, id, result });
    }

    fn judge(&mut self, call: &CloudCall) -> faults::Verdict {
        if self.aws.faults.faults().next().is_none() {
            return faults::Verdict::default();
        }
        let (service, operation) = call.operation();
        let service = if service == "EFS" { "elasticfilesystem" } else { "ec2" };
        let mut names = Vec::new();
        faults::texts(&serde_json::to_value(call).unwrap_or_default(), &mut names);
        let dry_run = matches!(call, CloudCall::CreateVolume(new) if new.dry_run);
        let call = faults::Call { service: service.into(), operation: operation.into(), region: None, names, dry_run };
        let verdict = match self.aws(Input::Faults(faults::Input::Call(call))) {
            Ok(Some(Reply::Faults(faults::Reply::Verdict(verdict)))) => verdict,
            // The table judges every call.
            _ => faults::Verdict::default(),
        };
        self.faults_changed();
        verdict
    }

    pub(super) fn device_done(&mut self, work: Work) {
        let result = self.device(&work);
        // A late answer is ignored by the machine itself.
        let _ = self.aws(Input::Ec2(ec2::Input::Done(work, result)));
    }

    /// What the shell and the agents do, on trees and tables.
    fn device(&mut self, work: &Work) -> Result<(), Failure> {
        let seed = self.aws.ec2.seed();
        let missing = |what: &str| Failure::Failed { message: format!("{what}: No such file or directory") };
        match work {
            Work::MakeFile { volume, source, .. } => {
                let tree = match source {
                    ec2::Source::Empty => Tree::default(),
                    ec2::Source::Snapshot(key) => self.trees.get(&key.id(seed)).cloned().ok_or_else(|| missing("snapshot"))?,
                    ec2::Source::Volume(key) => self.trees.get(&key.id(seed)).cloned().ok_or_else(|| missing("volume"))?,
                };
                self.trees.insert(volume.id(seed), tree);
            }
            Work::CopySnapshot { snapshot, volume, .. } => {
                let tree = self.trees.get(&volume.id(seed)).cloned().ok_or_else(|| missing("volume"))?;
                self.trees.insert(snapshot.id(seed), tree);
            }
            Work::RemoveFile { volume } => drop(self.trees.remove(&volume.id(seed))),
            Work::RemoveSnapshot { snapshot } => drop(self.trees.remove(&snapshot.id(seed))),
            Work::RemoveStray { id } => drop(self.trees.remove(id)),
            Work::GrowFile { .. } => {}
            Work::Attach { volume, instance, bytes, .. } => {
                let id = volume.id(seed);
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                self.see_node(node, |node| Seen::Device { node, volume: &id, bytes: Some(*bytes) });
                self.nodes[node].devices.insert(id, super::kubelet::Device { bytes: *bytes });
            }
            Work::Resize { volume, instance, bytes } => {
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                if let Some(device) = self.nodes[node].devices.get_mut(&volume.id(seed)) {
                    device.bytes = *bytes;
                    let id = volume.id(seed);
                    self.see_node(node, |node| Seen::Device { node, volume: &id, bytes: Some(*bytes) });
                }
            }
            Work::Detach { volume, instance, force, .. } => {
                let id = volume.id(seed);
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                self.take_device(node, &id, *force)?;
            }
            Work::DetachStray { instance, volume_id, .. } => {
                let node = self.node_of_instance(instance).ok_or(Failure::Lost)?;
                self.take_device(node, volume_id, false)?;
            }
        }
        Ok(())
    }

    fn take_device(&mut self, node: usize, volume: &str, force: bool) -> Result<(), Failure> {
        let holder = self.nodes[node].ebs_mounts().find(|(mounted, _)| *mounted == volume).map(|(_, path)| path.to_owned());
        match holder {
            Some(path) if !force => Err(Failure::Busy { holder: format!("mounted at {path}") }),
            _ => {
                if self.nodes[node].devices.remove(volume).is_some() {
                    self.see_node(node, |node| Seen::Device { node, volume, bytes: None });
                }
                Ok(())
            }
        }
    }

    fn node_of_instance(&self, instance: &str) -> Option<usize> {
        self.numbers.get(instance).copied()
    }

    pub(super) fn tree_done(&mut self, work: efs::Work) {
        let result = match &work {
            efs::Work::Make(id) => {
                self.trees.entry(id.clone()).or_default();
                Ok(0)
            }
            efs::Work::Remove(id) => {
                self.trees.remove(id);
                Ok(0)
            }
            // As an empty file system: small text files are below the metering's grain.
            efs::Work::Meter(_) => Ok(6144),
        };
        let _ = self.aws(Input::Efs(efs::Input::Done(work, result)));
    }

    /// A driver's request to AWS.
    pub(super) fn cloud(&mut self, call: &CloudCall) -> Box<Result<CloudReply, CloudError>> {
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
