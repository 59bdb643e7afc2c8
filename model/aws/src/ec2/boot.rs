//! After a start the disk is the truth for files, and each agent's report is the truth for its node's devices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attachment::{Attachment, Have};
use super::ids::{InstanceId, SnapshotKey, VolumeKey};
use super::instance::Stray;
use super::records::Changed;
use super::volume::{File, Source};
use super::{Agent, Effect, Kind, MODIFICATION_WINDOW, State, TOKEN_MEMORY, Timer, Work, ids};
use crate::At;

/// What lies on disk: the ids in the names of whole files, and the files' lengths in bytes. Half-made files are not reported;
/// the shell removes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    pub volumes: BTreeMap<String, u64>,
    pub snapshots: BTreeMap<String, u64>,
}

/// A device that an agent found in its node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedDevice {
    pub volume_id: String,
    pub device: String,
    pub bytes: u64,
}

impl State {
    /// Takes over from a former process. Works that were out are gone; what they did shows in `observed`, or when the agents
    /// report. Timers start anew: a pause of the process makes waits longer, never shorter.
    pub(super) fn booted(&mut self, at: At, observed: &Observed, out: &mut Vec<Effect>) {
        for instance in self.instances.values_mut() {
            instance.agent = Agent::Away;
            instance.strays.clear();
        }
        let volumes: Vec<VolumeKey> = self.volumes.keys().copied().collect();
        let snapshots: Vec<SnapshotKey> = self.snapshots.keys().copied().collect();
        if self.devices {
            self.adopt_files(&volumes, &snapshots, observed);
            self.remove_stray_files(observed, out);
        } else {
            for key in &volumes {
                self.change_volume_if(*key, |volume| volume.running.is_some(), |volume| volume.running = None);
            }
        }
        self.find_readers(&volumes, &snapshots);
        for key in &volumes {
            self.rearm(*key, out);
            self.drive_volume(at, *key, out);
        }
        for key in &snapshots {
            out.extend(self.snapshots.get(key).and_then(|snapshot| self.snapshot_timer(snapshot)));
            out.extend(self.snapshots.get(key).and_then(|snapshot| Self::snapshot_hold(*key, snapshot.hold.as_ref())));
            self.drive_snapshot(at, *key, out);
            // Completed by what was found on disk: no completion says so.
            self.note_completion(at, *key, out);
            self.arm_lock(at, *key, out);
            let delay = self.timing().fast_restore;
            let waiting = self.snapshots.get(key).map(Self::fast_restore_timers).unwrap_or_default();
            out.extend(waiting.into_iter().map(|timer| Effect::Arm(timer, delay)));
        }
        self.rearm_metadata(out);
        out.extend(self.tokens.keys().map(|name| Effect::Arm(Timer::Token(name.clone()), TOKEN_MEMORY)));
    }

    fn adopt_files(&mut self, volumes: &[VolumeKey], snapshots: &[SnapshotKey], observed: &Observed) {
        let seed = self.seed;
        let found = |file: File, wanted: bool, running: Option<&Work>, length: Option<&u64>| match length {
            Some(length) => File::Present { bytes: *length },
            None => match (file, running) {
                // It was whole once and nobody was removing it: the blocks are lost.
                (File::Present { .. }, None) if wanted => File::Lost,
                (File::Present { .. }, Some(Work::Attach { .. } | Work::Detach { .. } | Work::Resize { .. } | Work::GrowFile { .. })) => {
                    if wanted {
                        File::Lost
                    } else {
                        File::Absent
                    }
                }
                (File::Lost, _) => File::Lost,
                (File::Present { .. } | File::Absent, _) => File::Absent,
            },
        };
        for key in volumes {
            let Some(volume) = self.volume(*key) else { continue };
            let file = found(volume.file, volume.wanted, volume.running.as_ref(), observed.volumes.get(&key.id(seed)));
            let differs = file != volume.file || volume.running.is_some() || volume.waiting;
            let waits = volume.attachments.values().any(|attachment| attachment.waiting);
            if !differs && !waits {
                continue;
            }
            self.change_volume(*key, |volume| {
                volume.file = file;
                volume.waiting = false;
                // Whether a device shows the size of a resize that was out, the agent's report tells.
                if let Some(Work::Attach { instance, .. } | Work::Detach { instance, .. }) = volume.running.take()
                    && let Some(attachment) = volume.attachments.get_mut(&instance)
                {
                    attachment.have = Have::Unknown;
                }
                volume.attachments.values_mut().for_each(|attachment| attachment.waiting = false);
            });
        }
        for key in snapshots {
            let Some(snapshot) = self.snapshots.get(key) else { continue };
            let file = found(snapshot.file, snapshot.wanted, snapshot.running.as_ref(), observed.snapshots.get(&key.id(seed)));
            // A snapshot's length is its volume's, whatever the file system says of the copy.
            let file = match file {
                File::Present { .. } => File::Present { bytes: u64::from(snapshot.size_gib) << 30 },
                File::Absent | File::Lost => file,
            };
            if file != snapshot.file || snapshot.running.is_some() || snapshot.waiting {
                self.change_snapshot(*key, |snapshot| {
                    (snapshot.file, snapshot.running, snapshot.waiting) = (file, None, false);
                });
            }
        }
    }

    fn remove_stray_files(&self, observed: &Observed, out: &mut Vec<Effect>) {
        let volume = |id: &&String| self.volume_by_id(id).is_none();
        let snapshot = |id: &&String| match ids::snapshot_key(self.seed, "", id) {
            Ok(Some(key)) => !self.snapshots.contains_key(&key),
            Ok(None) | Err(_) => true,
        };
        let strays = observed.volumes.keys().filter(volume).chain(observed.snapshots.keys().filter(snapshot));
        // Only what has the form of our names is ours to remove.
        let ours = strays.filter(|id| Kind::Volume.well_formed(id) || Kind::Snapshot.well_formed(id));
        out.extend(ours.map(|id| Effect::Run(Work::RemoveStray { id: id.clone() })));
    }

    /// Who is being filled from whom follows from what has no blocks yet.
    fn find_readers(&mut self, volumes: &[VolumeKey], snapshots: &[SnapshotKey]) {
        for key in volumes {
            self.change_volume_if(*key, |volume| !volume.readers.is_empty(), |volume| volume.readers.clear());
        }
        for key in snapshots {
            if self.snapshots.get(key).is_some_and(|snapshot| !snapshot.readers.is_empty()) {
                self.change_snapshot(*key, |snapshot| snapshot.readers.clear());
            }
        }
        for key in volumes {
            let Some(volume) = self.volume(*key).filter(|volume| volume.file == File::Absent && volume.wanted) else { continue };
            match volume.source {
                Source::Empty => {}
                Source::Snapshot(source) => self.change_snapshot(source, |source| {
                    source.readers.insert(key.0);
                }),
                Source::Volume(source) => self.change_volume(source, |source| {
                    source.readers.insert(key.0);
                }),
            }
        }
        for key in snapshots {
            let Some(snapshot) = self.snapshots.get(key).filter(|snapshot| snapshot.file == File::Absent && snapshot.wanted) else {
                continue;
            };
            let volume = snapshot.volume;
            self.change_volume(volume, |volume| {
                volume.readers.insert(key.0);
            });
        }
    }

    fn change_volume_if(&mut self, key: VolumeKey, when: impl FnOnce(&super::Volume) -> bool, change: impl FnOnce(&mut super::Volume)) {
        if self.volume(key).is_some_and(when) {
            self.change_volume(key, change);
        }
    }

    /// Arms the timers that a volume waits for.
    fn rearm(&mut self, key: VolumeKey, out: &mut Vec<Effect>) {
        let Some(volume) = self.volume(key) else { return };
        let timing = self.timing();
        if !volume.settled {
            out.push(Effect::Arm(Timer::Settle(key), if volume.wanted { timing.create } else { timing.delete }));
        }
        for (instance, attachment) in &volume.attachments {
            out.extend(Self::attachment_hold(key, instance, attachment.hold.as_ref()));
            if !attachment.settled {
                let delay = if attachment.wanted { timing.attach } else { timing.detach };
                out.push(Effect::Arm(Timer::Attachment(key, instance.clone()), delay));
            }
        }
        if let Some(modification) = volume.modification.as_ref().filter(|modification| modification.state.ongoing()) {
            let optimizing = modification.state == super::ModificationState::Optimizing;
            if optimizing || !modification.settled {
                out.push(Effect::Arm(Timer::Modification(key), if optimizing { timing.optimizing } else { timing.modifying }));
            }
        }
        let forget = |number: &u64| Effect::Arm(Timer::ModificationForgotten(key, *number), MODIFICATION_WINDOW);
        out.extend(volume.recent_modifications.iter().map(forget));
        if volume.snapshot_rate {
            out.push(Effect::Arm(Timer::SnapshotRate(key), timing.snapshot_rate));
        }
    }

    /// An agent reports what its node has. Attachments take that over; what no attachment explains is taken away.
    pub(super) fn connected(
        &mut self,
        at: At,
        id: &InstanceId,
        no_devices: Option<&str>,
        devices: &[ObservedDevice],
        out: &mut Vec<Effect>,
    ) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.agent = match no_devices {
            Some(reason) => Agent::NoDevices { reason: reason.to_owned() },
            None => Agent::Connected,
        };
        instance.strays.clear();
        if !self.instances.get(id).is_some_and(|instance| self.needs_device(instance)) {
            return;
        }
        let mut found: BTreeMap<&str, &ObservedDevice> = devices.iter().map(|device| (device.volume_id.as_str(), device)).collect();
        let attached: Vec<VolumeKey> = self.attached_to(id).map(|(key, _)| key).collect();
        for key in attached {
            let seen = found.remove(key.id(self.seed).as_str());
            self.change_volume(key, |volume| {
                let running = volume.running.as_ref().is_some_and(|work| work.concerns(id));
                let Some(attachment) = volume.attachments.get_mut(id) else { return };
                attachment.waiting = false;
                // The completion of a work that is still out comes, and knows more. A node that died has lost its names, but
                // the loop device may be up all the same: only a device that never was raised counts as down.
                match (running, seen) {
                    (true, _) => {}
                    (false, Some(device)) => attachment.have = Have::Up { bytes: device.bytes },
                    (false, None) if attachment.have == Have::Down => {}
                    (false, None) => (attachment.have, attachment.busy) = (Have::Unknown, None),
                }
            });
            self.drive_volume(at, key, out);
        }
        for (volume_id, device) in found {
            self.adopt_stray(at, id, volume_id, &device.device, Have::Up { bytes: device.bytes }, out);
        }
        for (volume_id, device) in self.leftovers.get(id).cloned().unwrap_or_default() {
            let key = self.volume_by_id(&volume_id).map(|volume| volume.key);
            if !key.is_some_and(|key| self.volume(key).is_some_and(|volume| volume.attachments.contains_key(id))) {
                self.adopt_stray(at, id, &volume_id, &device, Have::Unknown, out);
            }
            // What became an attachment is remembered there; a stray of no volume until it is gone.
            if key.is_some() {
                self.forget_leftover(id, &volume_id);
            }
        }
        self.drive_strays(id, out);
    }

    /// A device that nothing explains: of a volume that exists it becomes an attachment that is to go, so that nothing else
    /// is done with the volume before; otherwise it is taken away for itself.
    fn adopt_stray(&mut self, at: At, id: &InstanceId, volume_id: &str, device: &str, have: Have, out: &mut Vec<Effect>) {
        match self.volume_by_id(volume_id).map(|volume| volume.key) {
            Some(key) => {
                let stray = Attachment {
                    device: device.to_owned(),
                    wanted: false,
                    have,
                    settled: true,
                    busy: None,
                    waiting: false,
                    force: false,
                    card_index: None,
                    hold: None,
                    renamed: None,
                    attached_at: at,
                };
                self.change_volume(key, |volume| {
                    volume.attachments.insert(id.clone(), stray);
                });
                self.drive_volume(at, key, out);
            }
            None => {
                if let Some(instance) = self.instances.get_mut(id) {
                    let stray = Stray { device: device.to_owned(), running: false, waiting: false };
                    instance.strays.entry(volume_id.to_owned()).or_insert(stray);
                }
            }
        }
    }

    /// The instance has nothing of the volume any more.
    pub(super) fn forget_leftover(&mut self, id: &InstanceId, volume_id: &str) {
        let Some(left) = self.leftovers.get_mut(id) else { return };
        if left.remove(volume_id).is_some() {
            if left.is_empty() {
                self.leftovers.remove(id);
            }
            self.dirty.insert(Changed::Leftovers(id.clone()));
        }
    }

    pub(super) fn disconnected(&mut self, id: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.agent = Agent::Away;
        }
    }
}

impl Work {
    /// Whether it is a device work on this instance.
    fn concerns(&self, id: &InstanceId) -> bool {
        match self {
            Work::Attach { instance, .. } | Work::Detach { instance, .. } | Work::Resize { instance, .. } => instance == id,
            Work::MakeFile { .. }
            | Work::GrowFile { .. }
            | Work::RemoveFile { .. }
            | Work::CopySnapshot { .. }
            | Work::RemoveSnapshot { .. }
            | Work::DetachStray { .. }
            | Work::RemoveStray { .. } => false,
        }
    }
}
