//! What kubelets ask of their nodes, and the drivers' node services. The mounts are rows of a table and the files are trees.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model_aws::efs::Client;
use model_common::agent::EfsMount;
use model_common::csi::{Access, Code, Error, NodeCall, NodeCapability, NodeReply};
use model_kube::object::{Key, Kind};
use model_node::driver::efs;
use model_node::kubelet::Input;
use model_node::pending;
use model_node::volume_manager::{self as volumes, Action, Answer, Attachment, Failure, PodUid, VolumeName};

use super::kubelet::{Mount, status_patch};
use super::{World, files};
use crate::invariants::Seen;

/// How long a kubelet takes to look at a file and give it a group.
const CHOWN: Duration = Duration::from_millis(1);

impl World {
    pub(super) fn action_done(&mut self, number: usize, op: pending::Key, action: Action) {
        let result = self.act(number, action);
        self.kubelet(number, &Input::Volume(volumes::Input::Done { op, result }));
    }

    fn act(&mut self, number: usize, action: Action) -> Result<Answer, Failure> {
        let talks = matches!(action, Action::ReadNode | Action::ReadAttachment { .. } | Action::ClaimResize { .. });
        if talks && self.nodes[number].cut {
            return Err(Failure::Api(super::kubelet::UNREACHABLE.into()));
        }
        match action {
            Action::ReadNode => {
                let name = &self.nodes[number].info.name;
                let node = self.store.get::<core::Node>("", name).ok_or_else(|| Failure::Api(format!("nodes \"{name}\" not found")))?;
                let attached = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
                Ok(Answer::Attached(attached.map(|volume| VolumeName::from(volume.name.as_str())).collect()))
            }
            Action::ReadAttachment { name } => {
                let attachment = self.store.get::<VolumeAttachment>("", &name);
                Ok(Answer::Attachment(attachment.map(|object| {
                    let status = object.status.as_ref();
                    Attachment {
                        attached: status.is_some_and(|status| status.attached),
                        deleting: object.metadata.deletion_timestamp.is_some(),
                        attach_error: status.and_then(|status| status.attach_error.as_ref()).and_then(|error| error.message.clone()),
                        metadata: status.and_then(|status| status.attachment_metadata.clone()).unwrap_or_default(),
                    }
                })))
            }
            // Calls go another way (`call_plugin`).
            Action::Csi { driver, .. } => Err(Failure::NotRegistered(driver)),
            Action::MakeDir { dir, data } => {
                self.make_dir(number, &dir, data);
                Ok(Answer::Done)
            }
            Action::RemoveMount { mount, data_dir } => {
                let result = self.remove_mount(number, &mount, &data_dir);
                self.watch_orphans(number);
                result
            }
            Action::ReadVolData { dir } => Ok(Answer::VolData(self.nodes[number].data.get(&dir).cloned())),
            Action::FindVolData { mount } => Ok(Answer::VolData(self.nodes[number].bound_at(&mount).cloned())),
            Action::MountRefs { mount } => {
                let mounts = &self.nodes[number].mounts;
                let Some(this) = mounts.get(&mount) else { return Ok(Answer::Refs(Vec::new())) };
                Ok(Answer::Refs(
                    mounts
                        .iter()
                        .filter(|(path, other)| **path != mount && other.tree == this.tree)
                        .map(|(path, _)| path.clone())
                        .collect(),
                ))
            }
            Action::ApplyFsGroup { path, gid, on_root_mismatch } => {
                if let Some(tree) = self.walked_tree(number, &path, gid, on_root_mismatch) {
                    // The root last (#89776), so that a walk that was cut short is begun again.
                    (tree.files_group, tree.root_group) = (Some(gid), Some(gid));
                }
                Ok(Answer::Done)
            }
            Action::CleanSubPaths { pod, volume } => self.clean_sub_paths(number, pod, volume),
            Action::MapDevice { publish, map, link } => {
                let mount = self.nodes[number].mounts.get(&publish).cloned();
                let mount = mount.ok_or_else(|| Failure::Io(format!("{publish}: No such file or directory")))?;
                self.mount(number, &map, mount);
                self.nodes[number].links.insert(link);
                Ok(Answer::Done)
            }
            Action::UnmapDevice { map, link } => {
                self.unmount(number, &map);
                self.nodes[number].links.remove(&link);
                Ok(Answer::Done)
            }
            Action::RemovePaths { paths } => {
                let result = paths.iter().try_for_each(|path| self.remove_path(number, path));
                self.watch_orphans(number);
                result.map(|()| Answer::Done)
            }
            Action::ClaimResize { claim, phase } => {
                let now = Time(self.timestamp());
                let current = self.store.get::<core::PersistentVolumeClaim>(&claim.namespace, &claim.name);
                let current = current.ok_or_else(|| Failure::Api(format!("persistentvolumeclaims \"{}\" not found", claim.name)))?;
                let volume = current.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
                let volume = volume.and_then(|volume| self.store.get::<core::PersistentVolume>("", volume));
                let status = volumes::claim_resize_status(current, volume.map(|volume| &**volume), &phase, &now);
                let key = Key::new(Kind::PersistentVolumeClaim, &claim.namespace, &claim.name);
                self.commit(&status_patch(key, status)).map_err(|error| Failure::Api(error.to_string()))?;
                Ok(Answer::Done)
            }
        }
    }

    /// The tree whose files are to get a group; none where the kubelet leaves them.
    fn walked_tree(&mut self, number: usize, path: &str, gid: u32, on_root_mismatch: bool) -> Option<&mut files::Tree> {
        let mount = self.nodes[number].mounts.get(path)?;
        self.trees.get_mut(&mount.tree).filter(|tree| !on_root_mismatch || tree.root_group != Some(gid))
    }

    /// How long an action takes for the files that it walks over. From now on their groups are mixed.
    pub(super) fn walk(&mut self, number: usize, action: &Action) -> Duration {
        let Action::ApplyFsGroup { path, gid, on_root_mismatch } = action else { return Duration::ZERO };
        let Some(tree) = self.walked_tree(number, path, *gid, *on_root_mismatch) else { return Duration::ZERO };
        if tree.files_group != Some(*gid) {
            tree.files_group = None;
        }
        CHOWN.saturating_mul(u32::try_from(tree.count()).unwrap_or(u32::MAX))
    }

    /// Unmounts the subPaths of a pod's volume. A directory that was deleted is a mount that is broken, and is unmounted, unless its file
    /// system says that it is not there: that one is left, and the directory above is not empty (#139535).
    fn clean_sub_paths(&mut self, number: usize, pod: PodUid, volume: String) -> Result<Answer, Failure> {
        let key = (pod, volume);
        let absent =
            |(tree, root): &(String, String)| self.trees.get(tree).is_some_and(|tree| tree.deleted_is_absent && !tree.has_directory(root));
        if self.nodes[number].sub_paths.get(&key).is_some_and(|bound| bound.iter().any(absent)) {
            let (pod, volume) = &key;
            let at = format!("{}/pods/{pod}/volume-subpaths/{volume}", self.nodes[number].layout.root);
            return Err(Failure::Io(format!("error cleaning subPath mounts for volume {volume}: remove {at}: directory not empty")));
        }
        self.nodes[number].sub_paths.remove(&key);
        Ok(Answer::Done)
    }

    /// Mounts something where nothing is mounted yet.
    fn mount(&mut self, number: usize, path: &str, mount: Mount) {
        let node = &mut self.nodes[number];
        if node.mounts.contains_key(path) {
            return;
        }
        let (tree, read_only) = (mount.tree.clone(), mount.read_only);
        node.mounts.insert(path.to_owned(), mount);
        self.see_node(number, |node| Seen::Mounted { node, path, tree: &tree, read_only });
    }

    /// Mounts something, be it over another mount.
    fn mount_over(&mut self, number: usize, path: &str, mount: Mount) {
        let node = &mut self.nodes[number];
        if node.mounts.contains_key(path) {
            // What lies over what is the same volume each time: its driver was asked for it again.
            *node.stacked.entry(path.to_owned()).or_default() += 1;
        } else {
            self.mount(number, path, mount);
        }
    }

    /// Takes the uppermost mount away.
    fn unmount(&mut self, number: usize, path: &str) {
        if let Some(below) = self.nodes[number].stacked.get_mut(path) {
            *below -= 1;
            if *below == 0 {
                self.nodes[number].stacked.remove(path);
            }
            return;
        }
        if let Some(mount) = self.nodes[number].mounts.remove(path) {
            self.see_node(number, |node| Seen::Unmounted { node, path, tree: &mount.tree });
        }
    }

    /// A file system spans its device from now on; a device without one stays as it is.
    fn grow_file_system(&mut self, number: usize, volume: &str) {
        let Some(device) = self.nodes[number].devices.get(volume) else { return };
        let bytes = device.bytes;
        if let Some(tree) = self.trees.get_mut(volume).filter(|tree| tree.format.is_some() && tree.bytes < bytes) {
            tree.bytes = bytes;
            self.see(&Seen::FileSystem { tree: volume, bytes });
        }
    }

    pub(super) fn ebs_node(&mut self, number: usize, call: &NodeCall) -> Result<NodeReply, Error> {
        let missing =
            |volume_id: &str| Error::new(Code::NotFound, format!("Failed to find device path of {volume_id}. no device path for it found"));
        let node = &self.nodes[number];
        let busy = |target: &str| {
            let message =
                format!("Could not unmount \"{target}\": unmount failed: exit status 32\nOutput: umount: {target}: target is busy.");
            Error::new(Code::Internal, message)
        };
        match call {
            NodeCall::NodeStageVolume { volume_id, staging_target_path, capability, .. } => {
                if !node.devices.contains_key(volume_id) {
                    return Err(missing(volume_id));
                }
                if let Access::Mount { fs_type, .. } = &capability.access {
                    if let Some(tree) = self.trees.get_mut(volume_id) {
                        let kind = if fs_type.is_empty() { "ext4" } else { fs_type };
                        tree.format.get_or_insert_with(|| kind.to_owned());
                    }
                    // What was restored to a larger volume grows here (`NeedResize`).
                    self.grow_file_system(number, volume_id);
                    let mount = Mount { tree: volume_id.clone(), root: "/".into(), read_only: false };
                    self.mount(number, staging_target_path, mount);
                }
                Ok(NodeReply::NodeStageVolume)
            }
            NodeCall::NodeUnstageVolume { volume_id, staging_target_path } => {
                if self.trouble.holds(number, volume_id) && node.mounts.contains_key(staging_target_path) {
                    return Err(busy(staging_target_path));
                }
                self.unmount(number, staging_target_path);
                Ok(NodeReply::NodeUnstageVolume)
            }
            NodeCall::NodePublishVolume { volume_id, staging_target_path, target_path, capability, readonly, .. } => {
                let mount = match capability.access {
                    Access::Block if !node.devices.contains_key(volume_id) => return Err(missing(volume_id)),
                    Access::Block => Mount { tree: volume_id.clone(), root: "/".into(), read_only: *readonly },
                    // The driver binds the staging directory, whatever is or is not mounted there.
                    Access::Mount { .. } => match node.mounts.get(staging_target_path) {
                        Some(staged) => Mount { read_only: *readonly, ..staged.clone() },
                        None => {
                            let tree = format!("directory/{}{staging_target_path}", node.info.name);
                            self.trees.entry(tree.clone()).or_default();
                            Mount { tree, root: "/".into(), read_only: *readonly }
                        }
                    },
                };
                self.mount(number, target_path, mount);
                Ok(NodeReply::NodePublishVolume)
            }
            NodeCall::NodeUnpublishVolume { volume_id, target_path } => {
                if self.trouble.holds(number, volume_id) && node.mounts.contains_key(target_path) {
                    return Err(busy(target_path));
                }
                self.unmount(number, target_path);
                Ok(NodeReply::NodeUnpublishVolume)
            }
            NodeCall::NodeExpandVolume { volume_id, .. } => {
                let capacity_bytes = node.devices.get(volume_id).ok_or_else(|| missing(volume_id))?.bytes;
                self.grow_file_system(number, volume_id);
                Ok(NodeReply::NodeExpandVolume { capacity_bytes })
            }
            NodeCall::NodeGetCapabilities => Ok(NodeReply::NodeGetCapabilities(vec![
                NodeCapability::StageUnstageVolume,
                NodeCapability::ExpandVolume,
                NodeCapability::GetVolumeStats,
            ])),
            NodeCall::NodeGetVolumeStats { .. } | NodeCall::NodeGetInfo => {
                Err(Error::new(Code::Unimplemented, "not asked for in virtual time"))
            }
        }
    }

    pub(super) fn efs_node(&mut self, number: usize, call: &NodeCall) -> Result<NodeReply, Error> {
        match call {
            NodeCall::NodePublishVolume { volume_id, target_path, readonly, capability, volume_context, .. } => {
                let plan = efs::plan(volume_id, capability, *readonly, volume_context, &self.nodes[number].info.zone)?;
                // The driver does not look whether it mounted already (efs.md §3.1); mount.efs does, before anything else.
                if self.nodes[number].mounts.contains_key(target_path) && !self.mounts_each_time(volume_id) {
                    return Ok(NodeReply::NodePublishVolume);
                }
                let mount = self.mount_efs(number, volume_id, &plan)?;
                self.mount_over(number, target_path, mount);
                Ok(NodeReply::NodePublishVolume)
            }
            NodeCall::NodeUnpublishVolume { target_path, .. } => {
                self.unmount(number, target_path);
                Ok(NodeReply::NodeUnpublishVolume)
            }
            NodeCall::NodeGetCapabilities => Ok(NodeReply::NodeGetCapabilities(vec![NodeCapability::GetVolumeStats])),
            NodeCall::NodeStageVolume { .. }
            | NodeCall::NodeUnstageVolume { .. }
            | NodeCall::NodeExpandVolume { .. }
            | NodeCall::NodeGetVolumeStats { .. }
            | NodeCall::NodeGetInfo => Err(Error::new(Code::Unimplemented, "")),
        }
    }

    fn mounts_each_time(&self, volume_id: &str) -> bool {
        let tree = efs::Handle::parse(volume_id).ok().and_then(|handle| self.trees.get(&handle.file_system_id));
        tree.is_some_and(|tree| tree.mounts_each_time)
    }

    /// What mount.efs does: asks whether it may, and makes the access point's root where it is missing.
    fn mount_efs(&mut self, number: usize, volume_id: &str, plan: &efs::Mount) -> Result<Mount, Error> {
        let handle = efs::Handle::parse(volume_id)?;
        let option = |name: &str| plan.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        let read_only = plan.options.iter().any(|option| option == "ro");
        let info = &self.nodes[number].info;
        let groups =
            self.aws.ec2.instance(&info.instance_id).map(|instance| instance.interface.security_groups.clone()).unwrap_or_default();
        let request = EfsMount {
            file_system_id: handle.file_system_id.clone(),
            access_point_id: option("accesspoint"),
            instance_id: info.instance_id.clone(),
            availability_zone: option("az"),
            mount_target_ip: option("mounttargetip"),
            tls: plan.options.iter().any(|option| option == "tls"),
            iam: plan.options.iter().any(|option| option == "iam"),
            read_only,
        };
        let client = Client { zone: &info.zone, ip: info.private_ip, groups: &groups };
        let failed = |message: &str| {
            Error::new(
                Code::Internal,
                format!("Could not mount \"{}:/\": mount failed: exit status 32\nOutput: {message}", handle.file_system_id),
            )
        };
        let grant = self.aws.efs.mount(&self.aws.ec2, &request, client).map_err(|refusal| failed(&refusal.message))?;
        let tree = self.trees.get_mut(&grant.file_system_id).ok_or_else(|| failed("the file system has no tree"))?;
        let root = files::clean(&format!("{}/{}", grant.root_directory, handle.path));
        if !tree.has_directory(&root) {
            if grant.creation.is_none() {
                return Err(failed("mount.nfs4: mounting 127.0.0.1:/ failed, reason given by server: No such file or directory"));
            }
            tree.make_directory(&root);
        }
        Ok(Mount { tree: grant.file_system_id, root, read_only })
    }
}
