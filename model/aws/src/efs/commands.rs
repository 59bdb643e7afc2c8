//! The commands of EFS and what they give back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AccessPoint, Effect, FileSystem, LifecyclePolicy, MountTarget, NewAccessPoint, NewFileSystem, NewMountTarget};
use super::{Reject, State, ThroughputMode};
use crate::{At, ec2, kms};

/// A request that changes something. Ids may be ARNs where EFS takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    CreateFileSystem(NewFileSystem),
    UpdateFileSystem { id: String, throughput_mode: Option<ThroughputMode>, provisioned_kibps: Option<u64> },
    UpdateFileSystemProtection { id: String, replication_overwrite: bool },
    PutLifecycleConfiguration { id: String, policies: Vec<LifecyclePolicy> },
    PutBackupPolicy { id: String, enabled: bool },
    PutFileSystemPolicy { id: String, policy: String },
    DeleteFileSystemPolicy { id: String },
    DeleteFileSystem { id: String },
    CreateMountTarget(NewMountTarget),
    ModifyMountTargetSecurityGroups { id: String, security_groups: Vec<String> },
    DeleteMountTarget { id: String },
    CreateAccessPoint(NewAccessPoint),
    DeleteAccessPoint { id: String },
    TagResource { id: String, tags: BTreeMap<String, String> },
    UntagResource { id: String, keys: Vec<String> },
}

/// What a command gives back: the record as it is right after the command, with the number of mount targets where it is a
/// file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    FileSystem(Box<FileSystem>, usize),
    MountTarget(Box<MountTarget>),
    AccessPoint(Box<AccessPoint>),
    Done,
}

impl State {
    pub(super) fn command(
        &mut self,
        at: At,
        ec2: &ec2::State,
        keys: &kms::State,
        command: &Command,
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        let reply = match command {
            Command::CreateFileSystem(new) => self.create_file_system(at, ec2, keys, new, out)?,
            Command::UpdateFileSystem { id, throughput_mode, provisioned_kibps } => {
                self.update_file_system(id, *throughput_mode, *provisioned_kibps)?
            }
            Command::UpdateFileSystemProtection { id, replication_overwrite } => {
                self.change_file_system(id, |row| row.overwrite_protection = *replication_overwrite)?
            }
            Command::PutLifecycleConfiguration { id, policies } => self.put_lifecycle(id, policies)?,
            Command::PutBackupPolicy { id, enabled } => self.change_file_system(id, |row| row.backup = *enabled)?,
            Command::PutFileSystemPolicy { id, policy } => self.put_policy(id, policy)?,
            Command::DeleteFileSystemPolicy { id } => self.change_file_system(id, |row| row.policy = None)?,
            Command::DeleteFileSystem { id } => self.delete_file_system(id, out)?,
            Command::CreateMountTarget(new) => self.create_mount_target(ec2, new, out)?,
            Command::ModifyMountTargetSecurityGroups { id, security_groups } => self.set_security_groups(ec2, id, security_groups)?,
            Command::DeleteMountTarget { id } => self.delete_mount_target(id, out)?,
            Command::CreateAccessPoint(new) => self.create_access_point(new, out)?,
            Command::DeleteAccessPoint { id } => self.delete_access_point(id, out)?,
            Command::TagResource { id, tags } => self.tag(id, tags)?,
            Command::UntagResource { id, keys } => self.untag(id, keys)?,
        };
        out.push(Effect::Reply(reply));
        Ok(())
    }
}
