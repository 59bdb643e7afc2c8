//! Driving volumes: compare what is wanted with what is there, start the one next work, take in how works end.

use super::attachment::Have;
use super::ids::{InstanceId, SnapshotKey, VolumeKey};
use super::volume::{File, Source, Volume};
use super::{Agent, Effect, Failure, Instance, RETRY, State, Timer, Work};
use crate::At;

/// After so many failures to make its file a volume is in `error`.
const MOST_FAILURES: u8 = 3;

/// What a volume needs next.
enum Step {
    /// Something outside.
    Run(Work),
    /// A change that needs nothing outside.
    Change(Change),
}

enum Change {
    FileMade,
    FileGrown(u64),
    DeviceUp(InstanceId),
    DeviceDown(InstanceId),
    Forget(InstanceId),
    Modified,
    Gone,
}

impl State {
    /// Whether attaching to this instance means a device; else it is a record only.
    pub(super) fn needs_device(&self, instance: &Instance) -> bool {
        self.devices && instance.node.is_some()
    }

    /// Drives one volume as far as it goes without the outside. The same after a command, a completion and a restart.
    pub(super) fn drive_volume(&mut self, at: At, key: VolumeKey, out: &mut Vec<Effect>) {
        // Each change brings the volume nearer to what is wanted, so this ends.
        while let Some(step) = self.volume(key).and_then(|volume| self.next_step(volume)) {
            match step {
                Step::Run(work) => {
                    self.change_volume(key, |volume| volume.running = Some(work.clone()));
                    out.push(Effect::Run(work));
                    return;
                }
                Step::Change(change) => self.apply_change(at, key, change, out),
            }
        }
    }

    fn next_step(&self, volume: &Volume) -> Option<Step> {
        if volume.running.is_some() {
            return None;
        }
        self.next_of_devices(volume).or_else(|| self.next_of_file(volume)).or_else(|| Self::next_of_modification(volume))
    }

    fn next_of_devices(&self, volume: &Volume) -> Option<Step> {
        for (id, attachment) in volume.attachments.iter().filter(|(_, attachment)| attachment.hold.is_none()) {
            let instance = self.instances.get(id);
            let device = instance.is_some_and(|instance| self.needs_device(instance));
            let reachable = instance.is_some_and(|instance| instance.agent == Agent::Connected);
            let ready = !attachment.waiting && reachable;
            let step = match (attachment.wanted, attachment.have) {
                (true, Have::Down | Have::Unknown) => match volume.file {
                    File::Present { .. } if !device => Step::Change(Change::DeviceUp(id.clone())),
                    File::Present { bytes } if ready => {
                        Step::Run(Work::Attach { volume: volume.key, instance: id.clone(), device: attachment.path(), bytes })
                    }
                    File::Present { .. } | File::Absent | File::Lost => continue,
                },
                (true, Have::Up { bytes: shown }) => match volume.file {
                    File::Present { bytes } if shown < bytes && !device => Step::Change(Change::DeviceUp(id.clone())),
                    File::Present { bytes } if shown < bytes && ready => {
                        Step::Run(Work::Resize { volume: volume.key, instance: id.clone(), bytes })
                    }
                    File::Present { .. } | File::Absent | File::Lost => continue,
                },
                (false, Have::Down) if attachment.settled => Step::Change(Change::Forget(id.clone())),
                (false, Have::Down) => continue,
                (false, Have::Up { .. } | Have::Unknown) if !device => Step::Change(Change::DeviceDown(id.clone())),
                (false, Have::Up { .. } | Have::Unknown) if ready => {
                    let last = volume.attachments.iter().all(|(other, attachment)| other == id || attachment.have == Have::Down);
                    Step::Run(Work::Detach {
                        volume: volume.key,
                        instance: id.clone(),
                        device: attachment.path(),
                        last,
                        force: attachment.force,
                    })
                }
                (false, Have::Up { .. } | Have::Unknown) => continue,
            };
            return Some(step);
        }
        None
    }

    fn next_of_file(&self, volume: &Volume) -> Option<Step> {
        if volume.waiting {
            return None;
        }
        match (volume.wanted, volume.file) {
            (true, File::Absent) if volume.refused => volume.settled.then_some(Step::Change(Change::Gone)),
            (true, File::Absent) if !self.devices => Some(Step::Change(Change::FileMade)),
            (true, File::Absent) => {
                let freeze = match volume.source {
                    Source::Volume(source) => self.volume(source).map(Volume::holders).unwrap_or_default(),
                    Source::Empty | Source::Snapshot(_) => Vec::new(),
                };
                let bytes = volume.spec.bytes();
                Some(Step::Run(Work::MakeFile { volume: volume.key, bytes, source: volume.source, freeze }))
            }
            (true, File::Present { bytes }) => {
                let wanted = volume.wanted_bytes();
                if bytes >= wanted {
                    None
                } else if self.devices {
                    Some(Step::Run(Work::GrowFile { volume: volume.key, bytes: wanted }))
                } else {
                    Some(Step::Change(Change::FileGrown(wanted)))
                }
            }
            (true, File::Lost) => None,
            (false, _) if !volume.attachments.is_empty() || !volume.readers.is_empty() || !volume.settled => None,
            (false, File::Present { .. }) if self.devices => Some(Step::Run(Work::RemoveFile { volume: volume.key })),
            (false, File::Present { .. } | File::Absent | File::Lost) => Some(Step::Change(Change::Gone)),
        }
    }

    /// `modifying` ends when file and devices show the new size and the time is over (ebs.md §12, rule 10).
    fn next_of_modification(volume: &Volume) -> Option<Step> {
        let modification = volume.modification.as_ref().filter(|modification| modification.may_proceed())?;
        let wanted = modification.target.bytes();
        let file = matches!(volume.file, File::Present { bytes } if bytes >= wanted);
        let devices = volume.attachments.values().all(|attachment| match attachment.have {
            Have::Up { bytes } => bytes >= wanted || !attachment.wanted,
            Have::Down | Have::Unknown => true,
        });
        (file && devices).then_some(Step::Change(Change::Modified))
    }

    fn apply_change(&mut self, at: At, key: VolumeKey, change: Change, out: &mut Vec<Effect>) {
        match change {
            Change::FileMade => {
                self.change_volume(key, |volume| volume.file = File::Present { bytes: volume.spec.bytes() });
                self.stop_reading_source(at, key, out);
            }
            Change::FileGrown(bytes) => self.change_volume(key, |volume| volume.file = File::Present { bytes }),
            Change::DeviceUp(id) => self.change_volume(key, |volume| {
                if let (File::Present { bytes }, Some(attachment)) = (volume.file, volume.attachments.get_mut(&id)) {
                    attachment.have = Have::Up { bytes };
                }
            }),
            Change::DeviceDown(id) => self.change_volume(key, |volume| {
                if let Some(attachment) = volume.attachments.get_mut(&id) {
                    (attachment.have, attachment.busy) = (Have::Down, None);
                }
            }),
            Change::Forget(id) => self.change_volume(key, |volume| {
                volume.attachments.remove(&id);
            }),
            Change::Modified => self.modified(at, key, out),
            Change::Gone => {
                let source = self.volume(key).map(|volume| volume.source);
                let effects = self.timers_of(key);
                out.extend(effects.into_iter().map(Effect::Disarm));
                self.stop_reading_source(at, key, out);
                self.drop_volume(key);
                if let Some(Source::Volume(source)) = source {
                    self.drive_volume(at, source, out);
                }
            }
        }
    }

    /// Timers that can be armed for a volume that goes.
    fn timers_of(&self, key: VolumeKey) -> Vec<Timer> {
        let Some(volume) = self.volume(key) else { return Vec::new() };
        let mut timers: Vec<Timer> = volume.recent_modifications.iter().map(|number| Timer::ModificationForgotten(key, *number)).collect();
        if volume.modification.as_ref().is_some_and(|modification| modification.state.ongoing()) {
            timers.push(Timer::Modification(key));
        }
        if volume.snapshot_rate {
            timers.push(Timer::SnapshotRate(key));
        }
        timers
    }

    /// The volume has its blocks, or never will: its source may go when nobody else reads it.
    fn stop_reading_source(&mut self, at: At, key: VolumeKey, out: &mut Vec<Effect>) {
        match self.volume(key).map(|volume| volume.source) {
            None | Some(Source::Empty) => {}
            Some(Source::Snapshot(source)) => self.snapshot_read(at, source, key.0, out),
            Some(Source::Volume(source)) => self.volume_read(at, source, key.0, out),
        }
    }

    /// A reader of the volume's file is done.
    pub(super) fn volume_read(&mut self, at: At, source: VolumeKey, reader: u64, out: &mut Vec<Effect>) {
        if self.volume(source).is_some_and(|volume| volume.readers.contains(&reader)) {
            self.change_volume(source, |volume| {
                volume.readers.remove(&reader);
            });
            self.drive_volume(at, source, out);
        }
    }

    pub(super) fn done(&mut self, at: At, work: &Work, result: &Result<(), Failure>, out: &mut Vec<Effect>) {
        match work {
            Work::MakeFile { volume, .. }
            | Work::GrowFile { volume, .. }
            | Work::RemoveFile { volume }
            | Work::Attach { volume, .. }
            | Work::Detach { volume, .. }
            | Work::Resize { volume, .. } => {
                // A completion of a work that is not out (from before a restart) says nothing.
                if self.volume(*volume).is_some_and(|volume| volume.running.as_ref() == Some(work)) {
                    self.change_volume(*volume, |volume| volume.running = None);
                    self.done_volume(at, *volume, work, result, out);
                    self.drive_volume(at, *volume, out);
                }
            }
            Work::CopySnapshot { snapshot, .. } | Work::RemoveSnapshot { snapshot } => self.done_snapshot(at, *snapshot, work, result, out),
            Work::DetachStray { instance, volume_id, .. } => self.done_stray(instance, volume_id, result, out),
            // The file that could not be removed is seen again at the next start.
            Work::RemoveStray { .. } => {}
        }
    }

    fn done_volume(&mut self, at: At, key: VolumeKey, work: &Work, result: &Result<(), Failure>, out: &mut Vec<Effect>) {
        let mut retry = false;
        match (work, result) {
            (Work::MakeFile { bytes, .. } | Work::GrowFile { bytes, .. }, Ok(())) => {
                self.change_volume(key, |volume| (volume.file, volume.failures) = (File::Present { bytes: *bytes }, 0));
                if matches!(work, Work::MakeFile { .. }) {
                    self.stop_reading_source(at, key, out);
                }
            }
            (Work::MakeFile { .. }, Err(_)) => {
                let mut given_up = false;
                self.change_volume(key, |volume| {
                    volume.failures = volume.failures.saturating_add(1);
                    given_up = volume.failures >= MOST_FAILURES;
                    if given_up {
                        volume.file = File::Lost;
                    }
                });
                if given_up {
                    self.stop_reading_source(at, key, out);
                }
                retry = !given_up;
                self.change_volume(key, |volume| volume.waiting = retry);
            }
            (Work::RemoveFile { .. }, Ok(())) => self.change_volume(key, |volume| volume.file = File::Absent),
            (Work::GrowFile { .. } | Work::RemoveFile { .. }, Err(_)) => {
                self.change_volume(key, |volume| volume.waiting = true);
                retry = true;
            }
            (Work::Attach { instance, .. } | Work::Detach { instance, .. } | Work::Resize { instance, .. }, _) => {
                retry = self.done_device(key, instance, work, result);
            }
            (Work::CopySnapshot { .. } | Work::RemoveSnapshot { .. } | Work::DetachStray { .. } | Work::RemoveStray { .. }, _) => {}
        }
        if retry {
            out.push(Effect::Arm(Timer::Retry(key), RETRY));
        }
    }

    /// Takes in how a device work ended; true when it shall be tried again.
    fn done_device(&mut self, key: VolumeKey, instance: &InstanceId, work: &Work, result: &Result<(), Failure>) -> bool {
        let mut retry = false;
        self.change_volume(key, |volume| {
            let Some(attachment) = volume.attachments.get_mut(instance) else { return };
            match (work, result) {
                (Work::Attach { bytes, .. } | Work::Resize { bytes, .. }, Ok(())) => attachment.have = Have::Up { bytes: *bytes },
                (Work::Detach { .. }, Ok(())) => (attachment.have, attachment.busy) = (Have::Down, None),
                // The node cannot have devices at all: the attachment does not come about, as on EC2 when it fails later.
                (Work::Attach { .. }, Err(Failure::Unsupported { .. })) => {
                    (attachment.have, attachment.wanted, attachment.settled) = (Have::Down, false, true);
                }
                (Work::Detach { .. }, Err(Failure::Busy { holder })) => {
                    (attachment.busy, retry) = (Some(holder.clone()), true);
                }
                (Work::Attach { .. } | Work::Detach { .. }, Err(_)) => (attachment.have, retry) = (Have::Unknown, true),
                // What it showed before it still shows at least.
                (Work::Resize { .. }, Err(_)) => retry = true,
                (
                    Work::MakeFile { .. }
                    | Work::GrowFile { .. }
                    | Work::RemoveFile { .. }
                    | Work::CopySnapshot { .. }
                    | Work::RemoveSnapshot { .. }
                    | Work::DetachStray { .. }
                    | Work::RemoveStray { .. },
                    _,
                ) => {}
            }
            attachment.waiting = retry;
        });
        if let (Err(Failure::Unsupported { reason }), Some(instance)) = (result, self.instances.get_mut(instance)) {
            instance.agent = Agent::NoDevices { reason: reason.clone() };
        }
        retry
    }

    pub(super) fn fired(&mut self, at: At, timer: &Timer, out: &mut Vec<Effect>) {
        match timer {
            Timer::Settle(key) => self.change_and_drive(at, *key, |volume| volume.settled = true, out),
            Timer::Attachment(key, instance) => {
                let settle = |volume: &mut Volume| {
                    if let Some(attachment) = volume.attachments.get_mut(instance) {
                        attachment.settled = true;
                    }
                };
                self.change_and_drive(at, *key, settle, out);
            }
            Timer::Hold(key, instance) => self.let_go(at, *key, instance, out),
            Timer::SnapshotHold(key) => self.let_go_snapshot(at, *key, out),
            Timer::Retry(key) => {
                let wake = |volume: &mut Volume| {
                    volume.waiting = false;
                    volume.attachments.values_mut().for_each(|attachment| attachment.waiting = false);
                };
                self.change_and_drive(at, *key, wake, out);
            }
            Timer::Modification(key) => self.modification_fired(at, *key, out),
            Timer::ModificationForgotten(key, number) => self.change_volume(*key, |volume| {
                volume.recent_modifications.remove(number);
            }),
            Timer::SnapshotRate(key) => self.change_volume(*key, |volume| volume.snapshot_rate = false),
            Timer::Snapshot(key) => self.snapshot_fired(at, *key, out),
            Timer::SnapshotRetry(key) => self.snapshot_retry(at, *key, out),
            Timer::FastRestore(key, zone) => self.fast_restore_fired(at, *key, zone, out),
            Timer::LockCoolOff(key) => self.lock_fired(*key, false, out),
            Timer::LockEnd(key) => self.lock_fired(*key, true, out),
            Timer::Strays(instance) => self.strays_fired(instance, out),
            Timer::Metadata(instance) => self.metadata_fired(instance),
            Timer::Token(token) => self.forget_token(token),
        }
    }

    fn change_and_drive(&mut self, at: At, key: VolumeKey, change: impl FnOnce(&mut Volume), out: &mut Vec<Effect>) {
        self.change_volume(key, change);
        self.drive_volume(at, key, out);
    }

    /// A snapshot has read what it needs of a volume.
    pub(super) fn snapshot_has_read(&mut self, at: At, volume: VolumeKey, snapshot: SnapshotKey, out: &mut Vec<Effect>) {
        self.volume_read(at, volume, snapshot.0, out);
    }
}

impl Volume {
    /// The bytes its file shall have: those of an ongoing modification count from its start.
    pub(super) fn wanted_bytes(&self) -> u64 {
        let target = self.modification.as_ref().filter(|modification| modification.state.ongoing()).map(|m| m.target.bytes());
        target.unwrap_or(0).max(self.spec.bytes())
    }
}
