//! What clients can ask for, and the way of a command: plan, apply, reply, drive.

use serde::{Deserialize, Serialize};

use super::fast_restore::FastRestores;
use super::lock::LockSnapshot;
use super::network::Rule;
use super::token::{fingerprint, in_order};
use super::volume::Volume;
use super::{Effect, Held, Kind, MetadataChange, Registration, Reject, Reply, State, TagItem};
use crate::{At, kms};

/// A request that changes something. Ids are as the client wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    CreateVolume(CreateVolume),
    CopyVolumes(CopyVolumes),
    DeleteVolume {
        volume_id: String,
    },
    ModifyVolume(ModifyVolume),
    AttachVolume {
        volume_id: String,
        instance_id: String,
        device: String,
        card_index: Option<u32>,
    },
    DetachVolume {
        volume_id: String,
        instance_id: Option<String>,
        device: Option<String>,
        force: bool,
    },
    CreateSnapshot {
        volume_id: String,
        description: String,
        tags: Vec<TagItem>,
    },
    DeleteSnapshot {
        snapshot_id: String,
    },
    FastRestores(FastRestores),
    LockSnapshot(LockSnapshot),
    UnlockSnapshot {
        snapshot_id: String,
    },
    CreateTags {
        resources: Vec<String>,
        tags: Vec<TagItem>,
    },
    /// Without a value a tag goes whatever its value; with no tags at all, all go.
    DeleteTags {
        resources: Vec<String>,
        tags: Vec<TagItem>,
    },
    ModifyMetadataOptions(MetadataChange),
    CreateSecurityGroup {
        name: String,
        description: String,
        vpc_id: Option<String>,
        tags: Vec<TagItem>,
    },
    DeleteSecurityGroup {
        group_id: String,
    },
    /// Not of EC2's API: a node of another Kubernetes tells that it is there.
    Register(Registration),
    AuthorizeIngress(RuleChange),
    RevokeIngress(RuleChange),
    AuthorizeEgress(RuleChange),
    RevokeEgress(RuleChange),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateVolume {
    pub client_token: Option<String>,
    pub zone: Option<String>,
    pub zone_id: Option<String>,
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub encrypted: bool,
    pub kms_key_id: Option<String>,
    pub multi_attach: bool,
    pub snapshot_id: Option<String>,
    pub initialization_rate: Option<u32>,
    pub tags: Vec<TagItem>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyVolumes {
    pub client_token: Option<String>,
    pub source_volume_id: String,
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub multi_attach: bool,
    pub tags: Vec<TagItem>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModifyVolume {
    pub volume_id: String,
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub multi_attach: Option<bool>,
}

/// Rules to add to or take from a security group. The ids of new rules are given by the machine; to take rules away they are
/// named by id or by what they say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleChange {
    pub group_id: Option<String>,
    pub group_name: Option<String>,
    pub rules: Vec<Rule>,
    pub rule_ids: Vec<String>,
}

impl State {
    /// Whether a command would be accepted: what a dry run answers. Parameters are checked as by the command itself.
    pub fn dry_run(&self, keys: &kms::State, command: &Command) -> Result<(), Reject> {
        match command {
            Command::CreateVolume(request) => self.plan_create(keys, request).map(drop),
            Command::CopyVolumes(request) => self.plan_copy(keys, request).map(drop),
            Command::DeleteVolume { volume_id } => self.plan_delete(volume_id).map(drop),
            Command::ModifyVolume(request) => self.plan_modify(request).map(drop),
            Command::AttachVolume { volume_id, instance_id, device, .. } => {
                self.plan_attach(keys, volume_id, instance_id, device).map(drop)
            }
            Command::DetachVolume { volume_id, instance_id, device, .. } => {
                self.plan_detach(volume_id, instance_id.as_deref(), device.as_deref()).map(drop)
            }
            Command::CreateSnapshot { volume_id, tags, .. } => self.plan_snapshot(volume_id, tags).map(drop),
            Command::DeleteSnapshot { snapshot_id } => self.plan_delete_snapshot(snapshot_id).map(drop),
            Command::FastRestores(request) => self.plan_fast_restores(request).map(drop),
            Command::LockSnapshot(request) => self.plan_lock(request).map(drop),
            Command::UnlockSnapshot { snapshot_id } => self.plan_unlock(snapshot_id).map(drop),
            Command::CreateTags { resources, tags } => self.check_tagging(resources, tags, true),
            Command::DeleteTags { resources, tags } => self.check_tagging(resources, tags, false),
            Command::ModifyMetadataOptions(change) => self.plan_metadata(change).map(drop),
            Command::CreateSecurityGroup { name, description, vpc_id, tags } => {
                self.plan_security_group(name, description, vpc_id.as_deref(), tags)
            }
            Command::DeleteSecurityGroup { group_id } => self.plan_delete_security_group(group_id),
            Command::Register(new) => self.plan_register(new, |_| false).map(drop),
            Command::AuthorizeIngress(change) => self.plan_authorize(change, true).map(drop),
            Command::AuthorizeEgress(change) => self.plan_authorize(change, false).map(drop),
            Command::RevokeIngress(change) => self.plan_revoke(change, true).map(drop),
            Command::RevokeEgress(change) => self.plan_revoke(change, false).map(drop),
        }
    }

    pub(super) fn command(
        &mut self,
        at: At,
        keys: &kms::State,
        command: &Command,
        held: Held,
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        match command {
            Command::CreateVolume(request) => self.create_volume(at, keys, request, out),
            Command::CopyVolumes(request) => self.copy_volumes(at, keys, request, out),
            Command::DeleteVolume { volume_id } => self.delete_volume(at, volume_id, out),
            Command::ModifyVolume(request) => self.modify_volume(at, request, out),
            Command::AttachVolume { volume_id, instance_id, device, card_index } => {
                self.attach_volume(at, keys, (volume_id, instance_id, device), *card_index, held, out)
            }
            Command::DetachVolume { volume_id, instance_id, device, force } => {
                self.detach_volume(at, (volume_id, instance_id.as_deref(), device.as_deref()), *force, held, out)
            }
            Command::CreateSnapshot { volume_id, description, tags } => self.create_snapshot(at, volume_id, (description, tags), held, out),
            Command::DeleteSnapshot { snapshot_id } => self.delete_snapshot(at, snapshot_id, out),
            Command::FastRestores(request) => self.change_fast_restores(at, request, out),
            Command::LockSnapshot(request) => self.lock_snapshot(at, request, out),
            Command::UnlockSnapshot { snapshot_id } => self.unlock_snapshot(snapshot_id, out),
            Command::CreateTags { resources, tags } => {
                self.check_tagging(resources, tags, true)?;
                self.retag(resources, |current| current.extend(super::tags::collect(tags)));
                out.push(Effect::Reply(Reply::Done));
                Ok(())
            }
            Command::DeleteTags { resources, tags } => {
                self.check_tagging(resources, tags, false)?;
                self.retag(resources, |current| {
                    let gone = |key: &str, value: &str| tags.iter().any(|t| t.key == key && t.value.as_deref().is_none_or(|v| v == value));
                    // AWS's own tags stay.
                    current.retain(|key, value| key.starts_with("aws:") || !(tags.is_empty() || gone(key, value)));
                });
                out.push(Effect::Reply(Reply::Done));
                Ok(())
            }
            Command::ModifyMetadataOptions(change) => self.modify_metadata(change, out),
            Command::CreateSecurityGroup { name, description, vpc_id, tags } => {
                self.create_security_group(name, description, vpc_id.as_deref(), tags, out)
            }
            Command::DeleteSecurityGroup { group_id } => self.delete_security_group(group_id, out),
            Command::Register(new) => self.register(at, new, |_| false, out),
            Command::AuthorizeIngress(change) => self.authorize(change, true, out),
            Command::AuthorizeEgress(change) => self.authorize(change, false, out),
            Command::RevokeIngress(change) => self.revoke(change, true, out),
            Command::RevokeEgress(change) => self.revoke(change, false, out),
        }
    }

    fn create_volume(&mut self, at: At, keys: &kms::State, request: &CreateVolume, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let token = request.client_token.as_deref();
        let print = fingerprint(&CreateVolume { client_token: None, tags: in_order(&request.tags), ..request.clone() });
        if let Some([key]) = self.recall("CreateVolume", token, print)? {
            out.extend(self.volume(*key).map(|volume| Effect::Reply(Reply::Volume(Box::new(volume.clone())))));
            return Ok(());
        }
        let new = self.plan_create(keys, request)?;
        let key = self.insert_volume(at, new, out);
        self.remember("CreateVolume", token, print, &[key], out);
        out.extend(self.volume(key).map(|volume| Effect::Reply(Reply::Volume(Box::new(volume.clone())))));
        self.drive_volume(at, key, out);
        Ok(())
    }

    fn copy_volumes(&mut self, at: At, keys: &kms::State, request: &CopyVolumes, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let token = request.client_token.as_deref();
        let print = fingerprint(&CopyVolumes { client_token: None, tags: in_order(&request.tags), ..request.clone() });
        let reply = |volumes: Vec<Volume>| Effect::Reply(Reply::Volumes(volumes));
        if let Some(keys) = self.recall("CopyVolumes", token, print)? {
            out.push(reply(keys.iter().filter_map(|key| self.volume(*key).cloned()).collect()));
            return Ok(());
        }
        let new = self.plan_copy(keys, request)?;
        let key = self.insert_volume(at, new, out);
        self.remember("CopyVolumes", token, print, &[key], out);
        out.push(reply(self.volume(key).cloned().into_iter().collect()));
        self.drive_volume(at, key, out);
        Ok(())
    }

    /// The instance that a request names.
    pub(super) fn named_instance(&self, id: &str) -> Result<&super::Instance, Reject> {
        if !Kind::Instance.well_formed(id) {
            return Err(Reject::MalformedId { kind: Kind::Instance, parameter: "instanceId".to_owned(), id: id.to_owned() });
        }
        self.instances.get(id).ok_or_else(|| Reject::NotFound { kind: Kind::Instance, ids: vec![id.to_owned()] })
    }
}
