//! What a fault holds up: an attachment, a detachment, a snapshot. It goes on when its time is over or the fault is gone.

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, SnapshotKey, VolumeKey};
use super::{Command, Effect, State, Timer};
use crate::At;
use crate::faults::{Call, Span};

/// A hold of the fault table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The fault's id.
    pub fault: String,
    pub kind: HoldKind,
    /// How long; none: as long as the fault is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldKind {
    /// It stays `attaching`, and the device does not come.
    Attaching,
    /// It shows `attached`, and the device does not come.
    DeviceLate,
    /// It shows `busy`, and the device does not go.
    Busy,
    /// The snapshot stays `pending`.
    Pending,
}

/// What meets a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub hold: Option<Hold>,
    /// The device comes under another name.
    pub renamed: bool,
}

/// The other of the two names that kernels have for one device: `/dev/sdf` and `/dev/xvdf`.
pub(super) fn other_name(device: &str) -> String {
    let short = device.strip_prefix("/dev/").unwrap_or(device);
    match (short.strip_prefix("xvd"), short.strip_prefix("sd")) {
        (Some(rest), _) => format!("/dev/sd{rest}"),
        (_, Some(rest)) => format!("/dev/xvd{rest}"),
        (None, None) => format!("/dev/{short}"),
    }
}

impl State {
    /// What an accepted command begins that a fault can hold up, and by which names a rule may mean it.
    pub(crate) fn begins(&self, command: &Command) -> Option<Call> {
        let volume = |id: &str| {
            let tags = self.volume_by_id(id).into_iter().flat_map(|volume| volume.tags.values().cloned());
            std::iter::once(id.to_owned()).chain(tags).collect::<Vec<String>>()
        };
        let (operation, names) = match command {
            Command::AttachVolume { volume_id, instance_id, .. } => {
                let mut names = volume(volume_id);
                names.push(instance_id.clone());
                ("AttachVolume", names)
            }
            Command::DetachVolume { volume_id, instance_id, device, force: false } => {
                let (key, instance) = self.plan_detach(volume_id, instance_id.as_deref(), device.as_deref()).ok()?;
                // Asked again, nothing begins.
                self.volume(key)?.attachments.get(&instance).filter(|attachment| attachment.wanted)?;
                let mut names = volume(volume_id);
                names.push(instance.to_string());
                ("DetachVolume", names)
            }
            Command::CreateSnapshot { volume_id, tags, .. } => {
                let mut names = volume(volume_id);
                names.extend(tags.iter().filter_map(|tag| tag.value.clone()));
                names
                    .extend(self.volume_by_id(volume_id).into_iter().flat_map(|volume| volume.attachments.keys()).map(|id| id.to_string()));
                ("CreateSnapshot", names)
            }
            _ => return None,
        };
        Some(Call {
            service: "ec2".to_owned(),
            operation: operation.to_owned(),
            region: Some(self.network.region.clone()),
            names,
            dry_run: false,
        })
    }

    /// The timer of an attachment's hold, to be armed when it begins and after a restart.
    pub(super) fn attachment_hold(key: VolumeKey, instance: &InstanceId, hold: Option<&Hold>) -> Option<Effect> {
        Some(Effect::Arm(Timer::Hold(key, instance.clone()), hold?.after?.duration()))
    }

    pub(super) fn snapshot_hold(key: SnapshotKey, hold: Option<&Hold>) -> Option<Effect> {
        Some(Effect::Arm(Timer::SnapshotHold(key), hold?.after?.duration()))
    }

    /// An attachment's hold is over.
    pub(super) fn let_go(&mut self, at: At, key: VolumeKey, instance: &InstanceId, out: &mut Vec<Effect>) {
        self.change_volume(key, |volume| {
            if let Some(attachment) = volume.attachments.get_mut(instance) {
                attachment.hold = None;
            }
        });
        self.drive_volume(at, key, out);
    }

    /// A snapshot's hold is over.
    pub(super) fn let_go_snapshot(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        self.change_snapshot(key, |snapshot| snapshot.hold = None);
        self.note_completion(at, key, out);
        self.drive_snapshot(at, key, out);
    }

    /// A fault is gone: what it held goes on.
    pub(crate) fn release(&mut self, at: At, fault: &str, out: &mut Vec<Effect>) {
        let of = |hold: &Option<Hold>| hold.as_ref().is_some_and(|hold| hold.fault == fault);
        let mut attachments = Vec::new();
        for volume in self.volumes.values() {
            let held = volume.attachments.iter().filter(|(_, attachment)| of(&attachment.hold));
            attachments.extend(held.map(|(instance, _)| (volume.key, instance.clone())));
        }
        for (key, instance) in attachments {
            out.push(Effect::Disarm(Timer::Hold(key, instance.clone())));
            self.let_go(at, key, &instance, out);
        }
        let snapshots: Vec<SnapshotKey> =
            self.snapshots.values().filter(|snapshot| of(&snapshot.hold)).map(|snapshot| snapshot.key).collect();
        for key in snapshots {
            out.push(Effect::Disarm(Timer::SnapshotHold(key)));
            self.let_go_snapshot(at, key, out);
        }
    }

    /// What is held by which fault: attachments, then snapshots.
    pub fn held(&self) -> impl Iterator<Item = &Hold> {
        let attachments = self.volumes.values().flat_map(|volume| volume.attachments.values()).filter_map(|a| a.hold.as_ref());
        attachments.chain(self.snapshots.values().filter_map(|snapshot| snapshot.hold.as_ref()))
    }
}
