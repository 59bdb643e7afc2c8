//! The attach half: from a pod that wants the volume to a VolumeAttachment that says `attached` (`csi_attacher.go`, `Attach`).

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model_common::bugs::{self, Bug};
use model_common::fixes::Fix;

use super::super::name;
use super::{AttachDetach, Have, OPERATION, Op, Pair, timer};
use crate::machine::{Backoff, Effect, Purpose};
use crate::object::{Key, Kind};
use crate::write::{ApiError, Write};

impl AttachDetach {
    pub(super) fn start_attach(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if self.is_locked(pair) {
            return;
        }
        // As in the real controller an uncertain attachment elsewhere does not count (§10 F6); EC2 itself refuses.
        let counts = |have: &Have| have.confirmed || self.fixes.has(Fix::UncertainAttachmentCounts);
        let elsewhere: Vec<String> = self.siblings(pair).filter(|(_, have)| counts(have)).map(|(other, _)| other.node.clone()).collect();
        if !self.multi_attach(pair) && !elsewhere.is_empty() && !bugs::on(Bug::AttachedElsewhereIgnored) {
            return self.tell_multi_attach(pair, &elsewhere, out);
        }
        let existing = self.cache.at::<VolumeAttachment>(item);
        if existing.is_some_and(|attachment| attachment.metadata.deletion_timestamp.is_some()) {
            return; // Its end is a watch event.
        }
        if !self.have.contains_key(pair) {
            self.had(pair.clone(), false);
        }
        if let Some(have) = self.have.get_mut(pair) {
            (have.op, have.told) = (Op::Attaching, false);
        }
        out.push(Effect::Arm(timer(Purpose::Deadline, item), OPERATION));
        self.go_on_attaching(item, pair, out);
    }

    pub(super) fn go_on_attaching(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        let Some(attachment) = self.cache.at::<VolumeAttachment>(item).cloned() else {
            if self.have.get(pair).is_some_and(|have| have.told) {
                return; // The watch shows it any moment, or the time for the attach ends.
            }
            let Some(attachment) = self.attachment(item, pair) else {
                // Nobody wants it any more and there is nothing to wait for.
                return self.end(item, pair, out);
            };
            self.work.write(item, Write::create(attachment), out);
            return;
        };
        let status = attachment.status.clone().unwrap_or_default();
        if self.is_of_dead_volume(&attachment, pair) && self.fixes.has(Fix::AttachmentOfDeadVolumeIsReplaced) {
            // Its end is a watch event, and then a new one is written. While the attacher has not let go of it, that waits.
            if attachment.metadata.deletion_timestamp.is_none() {
                self.work.write(item, Write::delete(item.clone()), out);
            }
            return;
        }
        if attachment.metadata.deletion_timestamp.is_some() {
            let why = format!("volume attachment {} is being deleted", name(&attachment.metadata));
            return self.attach_failed(item, pair, &why, out);
        }
        if status.attached {
            if let Some(have) = self.have.get_mut(pair) {
                have.op = Op::Idle;
                have.confirmed = true;
                have.reported = true;
            }
            self.work.succeed(item);
            out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
            self.tell_pods(pair, false, |volume| format!("AttachVolume.Attach succeeded for volume \"{volume}\" "), out);
            self.work.mark(Key::new(Kind::Node, "", &pair.node));
            self.work.mark(item.clone());
            self.mark_siblings(pair);
        } else if let Some(error) = status.attach_error {
            self.attach_failed(item, pair, error.message.as_deref().unwrap_or(""), out);
        }
    }

    /// A create failed: it may have been carried out all the same, and then nobody else deletes what it made. "Already exists" is as good
    /// as done (`csi_attacher.go`, `Attach`).
    pub(super) fn not_created(&mut self, item: &Key, error: &ApiError, out: &mut Vec<Effect>) {
        let Some(pair) = self.pairs.get(item).cloned() else { return };
        match self.have.get_mut(&pair).filter(|have| have.op == Op::Attaching) {
            Some(have) if error.is_already_exists() => have.told = true,
            Some(_) => self.attach_failed(item, &pair, &error.to_string(), out),
            None => {}
        }
    }

    pub(super) fn attach_failed(&mut self, item: &Key, pair: &Pair, why: &str, out: &mut Vec<Effect>) {
        if let Some(have) = self.have.get_mut(pair) {
            have.op = Op::Idle;
            have.confirmed = false;
        }
        out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
        self.tell_pods(pair, true, |volume| format!("AttachVolume.Attach failed for volume \"{volume}\" : {why}"), out);
        self.work.fail(item, Backoff::OPERATION, out);
        if !self.wanted.contains_key(pair) {
            // A detach does not wait for the backoff of an attach.
            self.work.succeed(item);
        }
        self.mark_siblings(pair);
    }

    /// Whether a VolumeAttachment that was never attached names another PersistentVolume than the wanted one, which is gone: its name is
    /// made of handle, driver and node only.
    pub(super) fn is_of_dead_volume(&self, attachment: &VolumeAttachment, pair: &Pair) -> bool {
        let named = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or("");
        let wanted = self.wanted.get(pair).is_some_and(|wanted| wanted.volume != named);
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        wanted && !attached && self.cache.get::<PersistentVolume>("", named).is_none()
    }

    /// The new VolumeAttachment; none when no pod names its volume.
    pub(super) fn attachment(&self, item: &Key, pair: &Pair) -> Option<VolumeAttachment> {
        let wanted = self.wanted.get(pair)?;
        let (driver, _) = pair.parts()?;
        Some(VolumeAttachment {
            metadata: ObjectMeta { name: Some(item.name.to_string()), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: driver.to_owned(),
                node_name: pair.node.clone(),
                source: VolumeAttachmentSource { persistent_volume_name: Some(wanted.volume.clone()), ..VolumeAttachmentSource::default() },
            },
            status: None,
        })
    }

    /// Whether several nodes may have the volume: RWX or ROX, or its access modes are not known.
    pub(super) fn multi_attach(&self, pair: &Pair) -> bool {
        let named = self.wanted.get(pair).map(|wanted| wanted.volume.clone()).or_else(|| {
            let attachment = self.cache.at::<VolumeAttachment>(&self.pairs.item(pair))?;
            attachment.spec.source.persistent_volume_name.clone()
        });
        let Some(volume) = named.and_then(|volume| self.cache.get::<PersistentVolume>("", &volume).cloned()) else { return true };
        let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
        modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
    }
}
