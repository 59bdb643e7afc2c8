//! Everything around the kubelet: the disk, the drivers, and what the API server and the attach/detach controller do.

use std::collections::{BTreeMap, BTreeSet};

use model_common::csi::{self, Code, NodeCall, NodeCapability, NodeReply};
use model_node::pending::Key;
use model_node::volume_manager::{
    Action, Answer, Attachment, Failure, Found, Layout, ResizePhase, VolData, VolumeName, attachment_name, unique_name,
};

use crate::wishes::{How, VOLUMES};

pub const NODE: &str = "n1";
pub const GIB: u64 = 1 << 30;

pub fn driver(volume: usize) -> &'static str {
    if VOLUMES[volume].attached { "ebs" } else { "efs" }
}

pub fn handle(volume: usize) -> String {
    format!("vol-{volume}")
}

pub fn name(volume: usize) -> VolumeName {
    unique_name(driver(volume), &handle(volume))
}

/// The volume of a handle, a claim or a PersistentVolume: all end with its number.
pub fn number(text: &str) -> usize {
    text.rsplit('-').next().and_then(|number| number.parse().ok()).expect("a name that ends with a volume's number")
}

pub fn uid(pod: usize) -> String {
    format!("pod-{pod}")
}

/// The pod in a path below its directory, or at the end of a path of block devices.
fn pod_of(path: &str) -> usize {
    let uid = path.split("/pods/").nth(1).map_or_else(|| path.rsplit('/').next(), |rest| rest.split('/').next());
    number(uid.unwrap_or_default())
}

/// A volume published to a pod.
pub type Mount = (usize, usize);

#[derive(Debug)]
pub struct Outside {
    pub layout: Layout,
    /// Attached to the machine.
    pub devices: BTreeSet<usize>,
    /// `volumesAttached` and `volumesInUse` of the node.
    pub listed: BTreeSet<usize>,
    pub in_use: BTreeSet<VolumeName>,
    /// The controller took it out of `volumesAttached` and has not looked yet.
    pub detaching: BTreeSet<usize>,
    pub staged: BTreeSet<usize>,
    pub published: BTreeSet<Mount>,
    /// Block devices that are linked in the pod's directory.
    pub linked: BTreeSet<Mount>,
    /// Given to the pod's group since it was published.
    pub grouped: BTreeSet<Mount>,
    /// Mounted a second time by somebody else; those of which the kubelet was told so when it asked last.
    pub borrowed: BTreeSet<usize>,
    pub refused: BTreeSet<usize>,
    data: BTreeMap<String, VolData>,
    /// GiB of the file system or device, and in the claim's status.
    pub grown: [u64; VOLUMES.len()],
    pub claimed: [u64; VOLUMES.len()],
    /// What a driver still works on though nobody waits for it.
    pub late: Vec<NodeCall>,
}

fn rpc(code: Code) -> Failure {
    Failure::Rpc(csi::Error::new(code, "no"))
}

impl Outside {
    pub fn new(layout: Layout) -> Self {
        let nothing = BTreeSet::new;
        Self {
            layout,
            devices: nothing(),
            listed: nothing(),
            in_use: BTreeSet::new(),
            detaching: nothing(),
            staged: nothing(),
            published: BTreeSet::new(),
            linked: BTreeSet::new(),
            grouped: BTreeSet::new(),
            borrowed: nothing(),
            refused: nothing(),
            data: BTreeMap::new(),
            grown: [4; VOLUMES.len()],
            claimed: [4; VOLUMES.len()],
            late: Vec::new(),
        }
    }

    pub fn mount_of(call: &NodeCall) -> Option<Mount> {
        match call {
            NodeCall::NodePublishVolume { volume_id, target_path, .. } | NodeCall::NodeUnpublishVolume { volume_id, target_path } => {
                Some((pod_of(target_path), number(volume_id)))
            }
            _ => None,
        }
    }

    /// Published to these pods, or about to be.
    pub fn mounts(&self, volume: usize) -> impl Iterator<Item = Mount> {
        let late = self.late.iter().filter(|call| matches!(call, NodeCall::NodePublishVolume { .. })).filter_map(Self::mount_of);
        self.published.iter().copied().chain(late).filter(move |(_, of)| *of == volume)
    }

    /// Staged, or about to be.
    pub fn stages(&self, volume: usize) -> bool {
        let late = |call: &NodeCall| matches!(call, NodeCall::NodeStageVolume { volume_id, .. } if number(volume_id) == volume);
        self.staged.contains(&volume) || self.late.iter().any(late)
    }

    pub fn listed_names(&self) -> BTreeSet<VolumeName> {
        self.listed.iter().map(|volume| name(*volume)).collect()
    }

    pub fn attach(&mut self, volume: usize) {
        if !self.detaching.contains(&volume) {
            self.devices.insert(volume);
            self.listed.insert(volume);
        }
    }

    /// The controller's flag, and then its look at the kubelet's (§2.5).
    pub fn begin_detach(&mut self, volume: usize) {
        if self.devices.contains(&volume) && !self.in_use.contains(&name(volume)) {
            self.listed.remove(&volume);
            self.detaching.insert(volume);
        }
    }

    pub fn end_detach(&mut self, volume: usize) {
        if self.detaching.remove(&volume) {
            if self.in_use.contains(&name(volume)) {
                self.listed.insert(volume);
            } else {
                self.devices.remove(&volume);
            }
        }
    }

    pub fn end_late(&mut self, which: usize) {
        if !self.late.is_empty() {
            let call = self.late.remove(which % self.late.len());
            // Nobody hears how it ended.
            let _ = self.execute(&call);
        }
    }

    /// A driver's call takes effect. Idempotent, as CSI demands.
    fn execute(&mut self, call: &NodeCall) -> Result<NodeReply, csi::Error> {
        let volume = number(call.volume_id());
        Ok(match call {
            NodeCall::NodeStageVolume { .. } if !self.devices.contains(&volume) => {
                return Err(csi::Error::new(Code::Internal, "no such device"));
            }
            NodeCall::NodeStageVolume { .. } => {
                self.staged.insert(volume);
                NodeReply::NodeStageVolume
            }
            NodeCall::NodeUnstageVolume { .. } => {
                self.staged.remove(&volume);
                NodeReply::NodeUnstageVolume
            }
            NodeCall::NodePublishVolume { .. } if VOLUMES[volume].attached && !self.staged.contains(&volume) => {
                return Err(csi::Error::new(Code::FailedPrecondition, "not staged"));
            }
            NodeCall::NodePublishVolume { .. } => {
                self.published.extend(Self::mount_of(call));
                NodeReply::NodePublishVolume
            }
            NodeCall::NodeUnpublishVolume { .. } => {
                let mount = Self::mount_of(call).expect("it names a mount");
                self.published.remove(&mount);
                self.grouped.remove(&mount);
                NodeReply::NodeUnpublishVolume
            }
            NodeCall::NodeExpandVolume { capacity, .. } => {
                self.grown[volume] = self.grown[volume].max(capacity.required_bytes / GIB);
                NodeReply::NodeExpandVolume { capacity_bytes: capacity.required_bytes }
            }
            NodeCall::NodeGetVolumeStats { .. } | NodeCall::NodeGetCapabilities | NodeCall::NodeGetInfo => {
                unreachable!("no call on a volume")
            }
        })
    }

    fn call(&mut self, key: &Key, call: &NodeCall, how: How) -> Result<NodeReply, Failure> {
        if matches!(call, NodeCall::NodeGetCapabilities) {
            let volume = number(&key.volume);
            return match how {
                How::Well if VOLUMES[volume].attached => {
                    Ok(NodeReply::NodeGetCapabilities(vec![NodeCapability::StageUnstageVolume, NodeCapability::ExpandVolume]))
                }
                How::Well => Ok(NodeReply::NodeGetCapabilities(Vec::new())),
                // What a failure of this probe does to a mount that may be there is F1, a known bug of the kubelet.
                _ if self.stages(volume) || self.mounts(volume).next().is_some() => Err(Failure::NotRegistered(driver(volume).to_owned())),
                How::Lost(code) | How::Late(code) | How::Refused(code) => Err(rpc(code)),
            };
        }
        // A driver that still works on a volume says so.
        if self.late.iter().any(|late| late.volume_id() == call.volume_id()) {
            return Err(rpc(Code::Aborted));
        }
        match how {
            How::Well => self.execute(call).map_err(Failure::Rpc),
            How::Lost(code) => {
                // The call may fail as well: nobody hears it.
                let _ = self.execute(call);
                Err(rpc(code))
            }
            How::Late(code) => {
                self.late.push(call.clone());
                Err(rpc(code))
            }
            // A final error says that it is not mounted: a driver does not say so of what is.
            How::Refused(_) if self.is_done(call) => Err(rpc(Code::Unavailable)),
            How::Refused(code) => Err(rpc(code)),
        }
    }

    fn is_done(&self, call: &NodeCall) -> bool {
        match call {
            NodeCall::NodeStageVolume { volume_id, .. } => self.staged.contains(&number(volume_id)),
            NodeCall::NodePublishVolume { .. } => Self::mount_of(call).is_some_and(|mount| self.published.contains(&mount)),
            _ => false,
        }
    }

    /// A failed mkdir before a mount counts as "not mounted", like F1: none here where it may be mounted.
    fn may_fail(&self, key: &Key, dir: &str) -> bool {
        let volume = number(&key.volume);
        match dir.ends_with("globalmount") || dir.contains("/staging/") {
            true => !self.stages(volume),
            false => self.mounts(volume).next().is_none(),
        }
    }

    /// Carries an action out.
    pub fn answer(&mut self, key: &Key, action: &Action, how: How) -> Result<Answer, Failure> {
        let well = matches!(how, How::Well);
        match action {
            Action::Csi { call, .. } => return self.call(key, call, how).map(Answer::Csi),
            Action::ReadNode | Action::ReadAttachment { .. } | Action::ClaimResize { .. } if !well => {
                return Err(Failure::Api("cut off".to_owned()));
            }
            Action::MakeDir { dir, .. } if !well && !self.may_fail(key, dir) => {}
            _ if !well => return Err(Failure::Io("input/output error".to_owned())),
            _ => {}
        }
        match action {
            Action::ReadNode => return Ok(Answer::Attached(self.listed_names())),
            Action::ReadAttachment { name } => {
                let attached = |volume: &&usize| attachment_name(&handle(**volume), driver(**volume), NODE) == *name;
                let attachment = Attachment { attached: true, ..Attachment::default() };
                return Ok(Answer::Attachment(self.devices.iter().find(attached).map(|_| attachment)));
            }
            Action::MakeDir { data, .. } => self.data.extend(data.clone()),
            Action::RemoveMount { mount, data_dir } => {
                let volume = number(&key.volume);
                let busy = match mount.ends_with("globalmount") {
                    true => self.staged.contains(&volume),
                    false => self.published.contains(&(pod_of(mount), volume)),
                };
                if busy {
                    return Ok(Answer::StillMounted);
                }
                self.data.remove(data_dir);
            }
            Action::ReadVolData { dir } => return Ok(Answer::VolData(self.data.get(dir).cloned())),
            Action::FindVolData { mount } => {
                let volume = number(&key.volume);
                let bound = self.published.contains(&(pod_of(mount), volume)) && self.staged.contains(&volume);
                let data = self.data.get(&self.layout.staging_dir(driver(volume), &handle(volume)));
                return Ok(Answer::VolData(data.filter(|_| bound).cloned()));
            }
            Action::MountRefs { .. } => {
                let volume = number(&key.volume);
                // For a block device these are its links.
                let mounts = if VOLUMES[volume].block { &self.linked } else { &self.published };
                let mut refs: Vec<String> = mounts.iter().filter(|(_, of)| *of == volume).map(|(pod, _)| uid(*pod)).collect();
                refs.extend(self.borrowed.contains(&volume).then(|| "/mnt".to_owned()));
                if refs.is_empty() {
                    self.refused.remove(&volume)
                } else {
                    self.refused.insert(volume)
                };
                return Ok(Answer::Refs(refs));
            }
            Action::ApplyFsGroup { path, .. } => drop(self.grouped.insert((pod_of(path), number(&key.volume)))),
            Action::MapDevice { link, .. } => drop(self.linked.insert((pod_of(link), number(&key.volume)))),
            Action::UnmapDevice { link, .. } => drop(self.linked.remove(&(pod_of(link), number(&key.volume)))),
            Action::RemovePaths { paths } => self.data.retain(|dir, _| !paths.contains(dir)),
            Action::ClaimResize { claim, phase: ResizePhase::Finished(size) } => self.claimed[number(&claim.name)] = size / GIB,
            Action::ClaimResize { .. } | Action::CleanSubPaths { .. } | Action::Csi { .. } => {}
        }
        Ok(Answer::Done)
    }

    /// What a kubelet finds when it starts: the directories of pods, and those where volumes are staged.
    pub fn found(&self) -> Vec<Found> {
        let pods = self.data.iter().filter(|(dir, _)| dir.contains("/pods/"));
        let mounts = pods.map(|(dir, data)| Found::of_pod(uid(pod_of(dir)), data.spec_vol_id.clone(), false, Some(data.clone())));
        let links = self.linked.iter().map(|(pod, volume)| {
            let pv = format!("pv-{volume}");
            let data = self.data.get(&self.layout.block_data_dir(&pv)).cloned();
            Found::of_pod(uid(*pod), pv, true, data)
        });
        let plugins = self.layout.plugins();
        let staged = self.data.iter().filter_map(|(dir, data)| {
            let place = dir.strip_prefix(&plugins)?.strip_prefix('/')?;
            Some(match place.strip_prefix("volumeDevices/") {
                Some(device) => Found::staged(device.strip_suffix("/data")?, true, data.clone()),
                None => Found::staged(place, false, data.clone()),
            })
        });
        mounts.chain(links).chain(staged).collect()
    }
}
