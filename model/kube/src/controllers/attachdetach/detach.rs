//! The detach half: off the node's `volumesAttached`, the live read, and the VolumeAttachment deleted (§2.5; `csi_attacher.go`, `Detach`).

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use model_common::bugs::{self, Bug};

use super::report::attached_of;
use super::{AttachDetach, FORCE_DETACH, OPERATION, Op, Pair, timer};
use crate::machine::{Backoff, Effect, Purpose};
use crate::object::{Key, Kind, Object};
use crate::write::Write;

impl AttachDetach {
    pub(super) fn start_detach(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if self.is_locked(pair) {
            return;
        }
        let in_use = self.in_use.get(&pair.node).is_some_and(|volumes| volumes.contains(&pair.volume));
        let (healthy, out_of_service) = self.health(&pair.node);
        let Some(have) = self.have.get_mut(pair) else { return };
        if !have.detach_requested {
            have.detach_requested = true;
            out.push(Effect::Arm(timer(Purpose::ForceDetach, item), FORCE_DETACH));
        }
        let forced = out_of_service || (have.expired && !healthy);
        if in_use && !forced {
            return;
        }
        if bugs::on(Bug::DetachUnannounced) {
            (have.op, have.told) = (Op::Detaching, false);
            out.push(Effect::Arm(timer(Purpose::Deadline, item), OPERATION));
            return self.go_on_detaching(item, pair, out);
        }
        have.op = Op::Unreporting;
        have.reported = false;
        self.go_on_unreporting(item, pair, out);
    }

    /// First the write that takes the volume off the node's list, then the live read.
    pub(super) fn go_on_unreporting(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        let key = Key::new(Kind::Node, "", &pair.node);
        let reports = self.cache.at::<Node>(&key).is_some_and(|node| attached_of(node).any(|volume| volume == pair.volume));
        if reports {
            if let Some(write) = self.report(&key) {
                self.work.write(item, write, out);
            }
            return;
        }
        if bugs::on(Bug::HandshakeByWatch) {
            let node = self.cache.at::<Node>(&key).cloned().map(Object::Node);
            self.verified(item, node.as_ref(), out);
            // Given up, it waits.
            if self.have.get(pair).is_some_and(|have| have.op == Op::Detaching) {
                self.work.mark(item.clone());
            }
            return;
        }
        self.work.read(item, key, out);
    }

    /// The live read has shown the node; none: there is no such node.
    pub(super) fn verified(&mut self, item: &Key, node: Option<&Object>, out: &mut Vec<Effect>) {
        let Some(pair) = self.pairs.get(item).cloned() else { return };
        if self.work.is_backing_off(item) || self.have.get(&pair).is_none_or(|have| have.op != Op::Unreporting) {
            return;
        }
        if self.wanted.contains_key(&pair) {
            return; // The sync gives the detach up.
        }
        let (_, out_of_service) = self.health(&pair.node);
        let forced = self.have.get(&pair).is_some_and(|have| have.expired) || out_of_service;
        if let Some(Object::Node(node)) = node {
            if attached_of(node).any(|volume| volume == pair.volume) {
                return; // The list in the cache is now this one: the sync writes again.
            }
            let in_use = node.status.iter().flat_map(|status| status.volumes_in_use.iter().flatten()).any(|volume| *volume == pair.volume);
            if in_use && !forced {
                self.give_up_detach(&pair);
                self.work.fail(item, Backoff::OPERATION, out);
                return;
            }
        }
        if let Some(have) = self.have.get_mut(&pair) {
            (have.op, have.told) = (Op::Detaching, false);
        }
        out.push(Effect::Arm(timer(Purpose::Deadline, item), OPERATION));
    }

    pub(super) fn give_up_detach(&mut self, pair: &Pair) {
        if let Some(have) = self.have.get_mut(pair) {
            have.op = Op::Idle;
            have.reported = true;
        }
        self.work.mark(Key::new(Kind::Node, "", &pair.node));
        self.mark_siblings(pair);
    }

    pub(super) fn go_on_detaching(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        match self.cache.at::<VolumeAttachment>(item).cloned() {
            None if self.have.get(pair).is_some_and(|have| have.told) => self.end(item, pair, out),
            // It is deleted in the API, whether or not the watch has shown it (`csi_attacher.go`, `Detach`).
            None => drop(self.work.write(item, Write::delete(item.clone()), out)),
            Some(attachment) if attachment.metadata.deletion_timestamp.is_none() => {
                self.work.write(item, Write::delete(item.clone()), out);
            }
            Some(attachment) => {
                if attachment.status.as_ref().is_some_and(|status| status.detach_error.is_some()) {
                    self.detach_failed(item, pair, out);
                }
            }
        }
    }

    /// A delete was carried out; `gone`: it found nothing, and the detach is over.
    pub(super) fn deleted(&mut self, item: &Key, gone: bool, out: &mut Vec<Effect>) {
        let Some(pair) = self.pairs.get(item).cloned() else { return };
        let Some(have) = self.have.get_mut(&pair).filter(|have| have.op == Op::Detaching) else { return };
        have.told = true;
        if gone {
            self.end(item, &pair, out);
        }
    }

    pub(super) fn detach_failed(&mut self, item: &Key, pair: &Pair, out: &mut Vec<Effect>) {
        if let Some(have) = self.have.get_mut(pair) {
            have.op = Op::Idle;
            // It must be attached anew before it is reported again.
            have.confirmed = false;
        }
        out.push(Effect::Disarm(timer(Purpose::Deadline, item)));
        self.work.fail(item, Backoff::OPERATION, out);
        self.mark_siblings(pair);
    }
}
