//! Attachments: a volume's block device in an instance.
//!
//! ```text
//!   AttachVolume ─▶ attaching ──device up──▶ attached ──DetachVolume──▶ detaching ──device down──▶ (gone)
//!                                                                      └─device in use─▶ busy ─┘
//! ```

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, VolumeKey};
use super::records::Changed;
use super::volume::VolumeStatus;
use super::{Agent, Effect, Held, Hold, HoldKind, Reject, Reply, State, Timer, hold};
use crate::{At, kms};

/// Most instances of one multi-attach volume (ebs.md §12, rule 14).
const MULTI_ATTACH_LIMIT: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// As AttachVolume gave it; echoed as it is.
    pub device: String,
    /// False after DetachVolume; it never becomes true again.
    pub wanted: bool,
    pub have: Have,
    /// The last wish has taken the time that it takes on AWS.
    pub settled: bool,
    /// Who held the device when it was last tried to take it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<String>,
    /// The last work failed or found the device in use; the retry timer is armed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    pub card_index: Option<u32>,
    /// A fault holds it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// A fault gave the device in the node this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<String>,
    /// Noted for AttachTime; nothing is decided on it.
    pub attached_at: At,
}

/// The device in the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Have {
    Down,
    Up {
        bytes: u64,
    },
    /// A work on it was lost; both works are idempotent and say how it is.
    Unknown,
}

impl Have {
    pub(super) fn is_up(self) -> bool {
        matches!(self, Have::Up { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AttachmentStatus {
    Attaching,
    Attached,
    Detaching,
    Busy,
}

impl AttachmentStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Busy => "busy",
        }
    }
}

impl Attachment {
    fn holds(&self, kind: HoldKind) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.kind == kind)
    }

    /// The path of the device in the node. EC2 takes `sdf` and `/dev/sdf`; a node only knows paths.
    pub(super) fn path(&self) -> String {
        let name = self.renamed.as_deref().unwrap_or(&self.device);
        if name.starts_with("/dev/") { name.to_owned() } else { format!("/dev/{name}") }
    }

    /// Derived: nothing stores it.
    pub fn status(&self) -> AttachmentStatus {
        match (self.wanted, self.have) {
            (true, _) if self.holds(HoldKind::Attaching) => AttachmentStatus::Attaching,
            (true, _) if self.holds(HoldKind::DeviceLate) && self.settled => AttachmentStatus::Attached,
            (true, Have::Up { .. }) if self.settled => AttachmentStatus::Attached,
            (true, _) => AttachmentStatus::Attaching,
            (false, _) if self.busy.is_some() || self.holds(HoldKind::Busy) => AttachmentStatus::Busy,
            (false, _) => AttachmentStatus::Detaching,
        }
    }
}

/// Whether EC2 takes a device name: `sd[a-z]`, `xvd[a-z]`, `xvd[a-d][a-z]` up to `xvddx`, `sda1`, `sda2`, each with or
/// without `/dev/` (ebs.md §3.5).
fn valid_device(name: &str) -> bool {
    let short = name.strip_prefix("/dev/").unwrap_or(name);
    let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase());
    match (short.strip_prefix("sd"), short.strip_prefix("xvd")) {
        (Some("a1" | "a2"), _) => true,
        (Some(rest), _) => rest.len() == 1 && letters(rest),
        (_, Some(rest)) => match rest.len() {
            1 => letters(rest),
            2 => letters(rest) && ("aa"..="dx").contains(&rest),
            _ => false,
        },
        (None, None) => false,
    }
}

/// Device names are compared without `/dev/`.
fn same_device(a: &str, b: &str) -> bool {
    a.strip_prefix("/dev/").unwrap_or(a) == b.strip_prefix("/dev/").unwrap_or(b)
}

impl State {
    pub(super) fn plan_attach(
        &self,
        keys: &kms::State,
        volume_id: &str,
        instance_id: &str,
        device: &str,
    ) -> Result<(VolumeKey, InstanceId), Reject> {
        let volume = self.named_volume("volumeId", volume_id)?;
        let instance = self.named_instance(instance_id)?;
        if !valid_device(device) {
            return Err(Reject::InvalidDevice { device: device.to_owned() });
        }
        if volume.zone != instance.zone {
            return Err(Reject::ZoneMismatch { volume: volume_id.to_owned(), instance: instance_id.to_owned() });
        }
        if volume.attachments.contains_key(&instance.id) {
            return Err(Reject::AlreadyAttached { volume: volume_id.to_owned() });
        }
        match volume.status() {
            VolumeStatus::Available => {}
            VolumeStatus::InUse if volume.spec.multi_attach => {
                if volume.attachments.len() >= MULTI_ATTACH_LIMIT {
                    return Err(Reject::MultiAttachLimit { volume: volume_id.to_owned(), limit: MULTI_ATTACH_LIMIT });
                }
            }
            VolumeStatus::InUse => return Err(Reject::AlreadyAttached { volume: volume_id.to_owned() }),
            VolumeStatus::Creating | VolumeStatus::Deleting | VolumeStatus::Error => {
                return Err(Reject::NotAvailable { volume: volume_id.to_owned() });
            }
        }
        if volume.kms_key_id.as_deref().is_some_and(|key| !keys.usable(key)) {
            return Err(Reject::KeyRevoked { volume: volume_id.to_owned() });
        }
        let taken = instance.root_device.as_str();
        if same_device(taken, device) || self.attached_to(&instance.id).any(|(_, attachment)| same_device(&attachment.device, device)) {
            return Err(Reject::DeviceInUse { device: device.to_owned() });
        }
        let limit = instance.attachment_limit();
        if self.attached_to(&instance.id).count() >= limit.free {
            return Err(Reject::AttachmentLimit { limit: limit.shown });
        }
        if let (true, Agent::NoDevices { reason }) = (self.needs_device(instance), &instance.agent) {
            return Err(Reject::NoDevices { instance: instance_id.to_owned(), reason: reason.clone() });
        }
        Ok((volume.key, instance.id.clone()))
    }

    pub(super) fn attach_volume(
        &mut self,
        at: At,
        keys: &kms::State,
        (volume_id, instance_id, device): (&str, &str, &str),
        card_index: Option<u32>,
        held: Held,
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        let (key, instance) = self.plan_attach(keys, volume_id, instance_id, device)?;
        let delay = self.timing().attach;
        let attachment = Attachment {
            device: device.to_owned(),
            wanted: true,
            have: Have::Down,
            settled: delay.is_zero(),
            busy: None,
            waiting: false,
            force: false,
            card_index,
            hold: held.hold,
            renamed: held.renamed.then(|| hold::other_name(device)),
            attached_at: at,
        };
        out.extend(Self::attachment_hold(key, &instance, attachment.hold.as_ref()));
        self.change_volume(key, |volume| {
            volume.attachments.insert(instance.clone(), attachment.clone());
        });
        out.push(Effect::Reply(Reply::Attachment { volume: key, instance: instance.clone(), attachment }));
        if !delay.is_zero() {
            out.push(Effect::Arm(Timer::Attachment(key, instance), delay));
        }
        self.drive_volume(at, key, out);
        Ok(())
    }

    pub(super) fn plan_detach(
        &self,
        volume_id: &str,
        instance_id: Option<&str>,
        device: Option<&str>,
    ) -> Result<(VolumeKey, InstanceId), Reject> {
        let volume = self.named_volume("volumeId", volume_id)?;
        if volume.attachments.is_empty() {
            return Err(Reject::VolumeState { volume: volume_id.to_owned(), status: volume.status() });
        }
        let instance = match instance_id {
            Some(id) => {
                self.named_instance(id)?;
                id
            }
            None if volume.attachments.len() > 1 => return Err(Reject::MissingParameter("InstanceId".to_owned())),
            None => volume.attachments.keys().next().map_or("", |id| id.as_ref()),
        };
        let not_attached = || Reject::NotAttached { volume: volume_id.to_owned(), instance: instance.to_owned() };
        let (id, attachment) = volume.attachments.get_key_value(instance).ok_or_else(not_attached)?;
        if device.is_some_and(|device| !same_device(device, &attachment.device)) {
            return Err(not_attached());
        }
        Ok((volume.key, id.clone()))
    }

    /// Asking again while it detaches is accepted and shows how far it is; `force` counts from then on.
    pub(super) fn detach_volume(
        &mut self,
        at: At,
        (volume_id, instance_id, device): (&str, Option<&str>, Option<&str>),
        force: bool,
        held: Held,
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        let (key, instance) = self.plan_detach(volume_id, instance_id, device)?;
        let delay = self.timing().detach;
        let away = self.instances.get(&instance).is_some_and(|instance| instance.agent == Agent::Away);
        let mut first = false;
        let mut reply = None;
        let mut left = None;
        let mut armed = None;
        self.change_volume(key, |volume| {
            let at_work = volume.running.is_some();
            if let Some(attachment) = volume.attachments.get_mut(&instance) {
                first = attachment.wanted;
                attachment.wanted = false;
                attachment.force |= force;
                // What held the attachment up does not hold the detachment; force ends what holds that.
                if first || force {
                    armed = attachment.hold.take().filter(|hold| hold.after.is_some());
                }
                if first && !force {
                    attachment.hold = held.hold;
                }
                if force {
                    attachment.waiting = false;
                    // A node that is not there cannot let go: the caller is taken at his word. What the node still has
                    // when it comes back is a stray.
                    if away && !at_work {
                        left = (attachment.have != Have::Down).then(|| attachment.path());
                        (attachment.have, attachment.busy) = (Have::Down, None);
                    }
                }
                if first {
                    attachment.settled = delay.is_zero();
                    attachment.waiting = false;
                }
                reply = Some(attachment.clone());
            }
        });
        if armed.is_some() {
            out.push(Effect::Disarm(Timer::Hold(key, instance.clone())));
        }
        if first {
            out.extend(Self::attachment_hold(key, &instance, reply.as_ref().and_then(|attachment| attachment.hold.as_ref())));
        }
        if let Some(device_name) = left {
            self.leftovers.entry(instance.clone()).or_default().insert(key.id(self.seed), device_name);
            self.dirty.insert(Changed::Leftovers(instance.clone()));
        }
        if let Some(attachment) = reply {
            out.push(Effect::Reply(Reply::Attachment { volume: key, instance: instance.clone(), attachment }));
        }
        if first && !delay.is_zero() {
            out.push(Effect::Arm(Timer::Attachment(key, instance), delay));
        }
        self.drive_volume(at, key, out);
        Ok(())
    }

    /// The attachments of an instance.
    pub fn attached_to(&self, instance: &InstanceId) -> impl Iterator<Item = (VolumeKey, &Attachment)> {
        let keys = self.volume_index.with(&super::index::Facet::Instance(instance.clone()));
        let instance = instance.clone();
        keys.into_iter().flatten().filter_map(move |key| Some((*key, self.volume(*key)?.attachments.get(&instance)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_of_the_driver_are_valid() {
        for name in ["/dev/xvdaa", "/dev/xvddx", "/dev/xvdb", "/dev/sdf", "xvdh", "/dev/sda2", "/dev/sda1"] {
            assert!(valid_device(name), "{name}");
        }
        for name in ["/dev/sdk1", "/dev/xvddy", "/dev/xvdea", "/dev/nvme1n1", "", "/dev/", "/dev/xvdaaa", "/dev/sdA"] {
            assert!(!valid_device(name), "{name}");
        }
    }
}
