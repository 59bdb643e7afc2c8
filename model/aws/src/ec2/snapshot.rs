//! Snapshots: a copy of the blocks that were written before CreateSnapshot returned.
//!
//! ```text
//!   CreateSnapshot ─▶ pending ──copied, progress 100%──▶ completed ──DeleteSnapshot──▶ (gone at once; the file when nobody reads it)
//!                        └──cannot be copied──▶ error
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::fast_restore::FastRestore;
use super::ids::{self, SnapshotKey, VolumeKey};
use super::index::Facet;
use super::lock::SnapshotLock;
use super::records::Changed;
use super::volume::{File, Volume, VolumeStatus};
use super::{Effect, Failure, Held, Hold, Kind, RETRY, Reject, Reply, State, TagItem, Tags, Timer, Work, tags};
use crate::At;

/// Steps of progress until 100 %.
const STEPS: u8 = 4;
const MOST_FAILURES: u8 = 3;
/// Pending snapshots of one volume at a time (ebs.md §7, row 26).
const MOST_PENDING: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub key: SnapshotKey,
    pub volume: VolumeKey,
    /// Shown also after the volume is gone.
    pub volume_id: String,
    pub size_gib: u32,
    pub encrypted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    pub description: String,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// False after DeleteSnapshot: it no longer shows, its file goes when nobody reads it.
    pub wanted: bool,
    pub file: File,
    /// Steps of the time that it takes on AWS which are over.
    pub steps: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Work>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
    #[serde(default)]
    pub failures: u8,
    /// A fault holds it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Keys of the volumes that are being filled from it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub readers: BTreeSet<u64>,
    /// By zone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fast_restores: BTreeMap<String, FastRestore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<SnapshotLock>,
    /// Noted for StartTime and CompletionTime; nothing is decided on them.
    pub started_at: At,
    pub completed_at: Option<At>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotStatus {
    Pending,
    Completed,
    Error,
}

impl SnapshotStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Error => "error",
        }
    }
}

impl Snapshot {
    /// Derived: nothing stores it.
    pub fn status(&self) -> SnapshotStatus {
        match self.file {
            File::Present { .. } if self.steps >= STEPS && self.hold.is_none() => SnapshotStatus::Completed,
            File::Present { .. } | File::Absent => SnapshotStatus::Pending,
            File::Lost => SnapshotStatus::Error,
        }
    }

    /// Percent.
    pub fn progress(&self) -> u32 {
        match self.status() {
            SnapshotStatus::Completed => 100,
            // The time is over and the copy is not there: nothing is known of how far it is.
            SnapshotStatus::Pending | SnapshotStatus::Error if self.steps >= STEPS => 0,
            SnapshotStatus::Pending | SnapshotStatus::Error => u32::from(self.steps) * 100 / u32::from(STEPS),
        }
    }

    pub(super) fn facets(&self) -> Vec<Facet> {
        if !self.wanted {
            return Vec::new();
        }
        vec![Facet::Status(self.status().name()), Facet::Volume(self.volume_id.clone())]
    }
}

impl State {
    pub(super) fn named_snapshot(&self, parameter: &str, id: &str) -> Result<&Snapshot, Reject> {
        let missing = || Reject::NotFound { kind: Kind::Snapshot, ids: vec![id.to_owned()] };
        let key = ids::snapshot_key(self.seed, parameter, id)?.ok_or_else(missing)?;
        self.snapshots.get(&key).filter(|snapshot| snapshot.wanted).ok_or_else(missing)
    }

    pub(super) fn plan_snapshot(&self, volume_id: &str, new_tags: &[TagItem]) -> Result<VolumeKey, Reject> {
        let volume = self.named_volume("volumeId", volume_id)?;
        match volume.status() {
            VolumeStatus::Available | VolumeStatus::InUse => {}
            status @ (VolumeStatus::Creating | VolumeStatus::Deleting | VolumeStatus::Error) => {
                return Err(Reject::VolumeState { volume: volume_id.to_owned(), status });
            }
        }
        if volume.snapshot_rate {
            return Err(Reject::SnapshotRate);
        }
        let of_volume = self.snapshot_index.with(&Facet::Volume(volume_id.to_owned()));
        let pending = of_volume.into_iter().flatten().filter_map(|key| self.snapshots.get(key));
        if pending.filter(|snapshot| snapshot.status() == SnapshotStatus::Pending).count() >= MOST_PENDING {
            return Err(Reject::ConcurrentSnapshots { limit: MOST_PENDING });
        }
        tags::check_new(new_tags)?;
        Ok(volume.key)
    }

    pub(super) fn create_snapshot(
        &mut self,
        at: At,
        volume_id: &str,
        (description, new_tags): (&str, &[TagItem]),
        held: Held,
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        let volume = self.plan_snapshot(volume_id, new_tags)?;
        let key = SnapshotKey(self.fresh_key());
        let (step, rate) = (self.timing().snapshot_step, self.timing().snapshot_rate);
        let Some(source) = self.volume(volume) else { return Ok(()) };
        let snapshot = Snapshot {
            key,
            volume,
            volume_id: volume_id.to_owned(),
            size_gib: source.spec.size_gib,
            encrypted: source.encrypted,
            kms_key_id: source.kms_key_id.clone(),
            description: description.to_owned(),
            tags: tags::collect(new_tags),
            wanted: true,
            file: File::Absent,
            steps: if step.is_zero() { STEPS } else { 0 },
            running: None,
            waiting: false,
            failures: 0,
            hold: held.hold,
            readers: BTreeSet::new(),
            fast_restores: BTreeMap::new(),
            lock: None,
            started_at: at,
            completed_at: None,
        };
        self.change_volume(volume, |volume| {
            volume.readers.insert(key.0);
            volume.snapshot_rate = !rate.is_zero();
        });
        self.snapshot_index.add(key, &snapshot.facets());
        self.snapshot_index.add_tags(key, &snapshot.tags);
        out.push(Effect::Reply(Reply::Snapshot(Box::new(snapshot.clone()))));
        out.extend(Self::snapshot_hold(key, snapshot.hold.as_ref()));
        self.snapshots.insert(key, snapshot);
        self.dirty.insert(Changed::Snapshot(key));
        if !step.is_zero() {
            out.push(Effect::Arm(Timer::Snapshot(key), step));
        }
        if !rate.is_zero() {
            out.push(Effect::Arm(Timer::SnapshotRate(volume), rate));
        }
        self.drive_snapshot(at, key, out);
        Ok(())
    }

    pub(super) fn delete_snapshot(&mut self, at: At, id: &str, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let snapshot = self.plan_delete_snapshot(id)?;
        let (key, tags) = (snapshot.key, snapshot.tags.clone());
        let timers = Self::fast_restore_timers(snapshot);
        out.extend(timers.into_iter().map(Effect::Disarm));
        self.snapshot_index.remove_tags(key, &tags);
        self.change_snapshot(key, |snapshot| snapshot.wanted = false);
        out.push(Effect::Reply(Reply::Done));
        self.drive_snapshot(at, key, out);
        Ok(())
    }

    pub(super) fn change_snapshot(&mut self, key: SnapshotKey, change: impl FnOnce(&mut Snapshot)) {
        let Some(snapshot) = self.snapshots.get_mut(&key) else { return };
        let before = snapshot.facets();
        change(snapshot);
        let after = snapshot.facets();
        self.snapshot_index.replace(key, &before, &after);
        self.dirty.insert(Changed::Snapshot(key));
    }

    /// Drives one snapshot as far as it goes without the outside.
    pub(super) fn drive_snapshot(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        let Some(snapshot) = self.snapshots.get(&key) else { return };
        if snapshot.running.is_some() || snapshot.waiting {
            return;
        }
        let (volume, bytes) = (snapshot.volume, u64::from(snapshot.size_gib) << 30);
        let work = match (snapshot.wanted, snapshot.file) {
            (true, File::Absent) if !self.devices => {
                self.change_snapshot(key, |snapshot| snapshot.file = File::Present { bytes });
                self.note_completion(at, key, out);
                self.snapshot_has_read(at, volume, key, out);
                return;
            }
            (true, File::Absent) => {
                let freeze = self.volume(volume).map(Volume::holders).unwrap_or_default();
                Work::CopySnapshot { snapshot: key, volume, bytes, freeze }
            }
            (true, File::Present { .. } | File::Lost) => return,
            (false, File::Present { .. }) if !snapshot.readers.is_empty() => return,
            (false, File::Present { .. }) if self.devices => Work::RemoveSnapshot { snapshot: key },
            (false, File::Present { .. } | File::Absent | File::Lost) => {
                if snapshot.steps < STEPS {
                    out.push(Effect::Disarm(Timer::Snapshot(key)));
                }
                if snapshot.hold.as_ref().is_some_and(|hold| hold.after.is_some()) {
                    out.push(Effect::Disarm(Timer::SnapshotHold(key)));
                }
                self.snapshots.remove(&key);
                self.dirty.insert(Changed::Snapshot(key));
                self.snapshot_has_read(at, volume, key, out);
                return;
            }
        };
        self.change_snapshot(key, |snapshot| snapshot.running = Some(work.clone()));
        out.push(Effect::Run(work));
    }

    /// What begins when a snapshot is completed.
    pub(super) fn note_completion(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        let mut now = false;
        self.change_snapshot(key, |snapshot| {
            if snapshot.status() == SnapshotStatus::Completed && snapshot.completed_at.is_none() {
                snapshot.completed_at = Some(at);
                now = true;
            }
        });
        if now {
            self.begin_lock(at, key, out);
            self.drive_fast_restores(at, key, out);
        }
    }

    pub(super) fn done_snapshot(&mut self, at: At, key: SnapshotKey, work: &Work, result: &Result<(), Failure>, out: &mut Vec<Effect>) {
        let Some(snapshot) = self.snapshots.get(&key).filter(|snapshot| snapshot.running.as_ref() == Some(work)) else { return };
        let volume = snapshot.volume;
        let bytes = u64::from(snapshot.size_gib) << 30;
        let copied = matches!(work, Work::CopySnapshot { .. });
        let mut retry = false;
        self.change_snapshot(key, |snapshot| {
            snapshot.running = None;
            match (copied, result) {
                (true, Ok(())) => snapshot.file = File::Present { bytes },
                (false, Ok(())) => snapshot.file = File::Absent,
                (true, Err(_)) => {
                    snapshot.failures = snapshot.failures.saturating_add(1);
                    if snapshot.failures >= MOST_FAILURES {
                        snapshot.file = File::Lost;
                    } else {
                        retry = true;
                    }
                }
                (false, Err(_)) => retry = true,
            }
            snapshot.waiting = retry;
        });
        if retry {
            out.push(Effect::Arm(Timer::SnapshotRetry(key), RETRY));
        } else if copied {
            self.note_completion(at, key, out);
            self.snapshot_has_read(at, volume, key, out);
        }
        self.drive_snapshot(at, key, out);
    }

    pub(super) fn snapshot_fired(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        let step = self.timing().snapshot_step;
        let Some(steps) = self.snapshots.get(&key).map(|snapshot| snapshot.steps).filter(|steps| *steps < STEPS) else { return };
        self.change_snapshot(key, |snapshot| snapshot.steps = steps + 1);
        if steps + 1 < STEPS {
            out.push(Effect::Arm(Timer::Snapshot(key), step));
        } else {
            self.note_completion(at, key, out);
        }
    }

    pub(super) fn snapshot_retry(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        self.change_snapshot(key, |snapshot| snapshot.waiting = false);
        self.drive_snapshot(at, key, out);
    }

    /// A volume that was filled from the snapshot is done with it.
    pub(super) fn snapshot_read(&mut self, at: At, source: SnapshotKey, reader: u64, out: &mut Vec<Effect>) {
        if self.snapshots.get(&source).is_some_and(|snapshot| snapshot.readers.contains(&reader)) {
            self.change_snapshot(source, |snapshot| {
                snapshot.readers.remove(&reader);
            });
            self.drive_snapshot(at, source, out);
        }
    }

    /// Whether the time for this snapshot is over; at a start the timer is armed again where it is not.
    pub(super) fn snapshot_timer(&self, snapshot: &Snapshot) -> Option<Effect> {
        let step = self.timing().snapshot_step;
        (snapshot.wanted && snapshot.steps < STEPS).then_some(Effect::Arm(Timer::Snapshot(snapshot.key), step))
    }
}
