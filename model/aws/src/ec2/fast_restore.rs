//! Fast snapshot restores: of a snapshot in a zone.
//!
//! ```text
//!   Enable ─▶ enabling ──snapshot completed──▶ optimizing ──▶ enabled ──Disable──▶ disabling ──▶ disabled
//! ```
//! Blocks are whole before a volume shows here, so a restore is fast either way; what a client sees is the state, and
//! `fastRestored` of the volumes that are made meanwhile.

use serde::{Deserialize, Serialize};

use super::filter::{self, Filter, Filtered};
use super::ids::SnapshotKey;
use super::query::{EMPTY, Page, Paging};
use super::snapshot::SnapshotStatus;
use super::{Effect, Reject, Reply, Snapshot, State, Tags, Timer};
use crate::At;

/// What is asked of snapshots in zones: each of the snapshots in each of the zones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FastRestores {
    pub enable: bool,
    pub zones: Vec<String>,
    pub zone_ids: Vec<String>,
    pub snapshots: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FastRestoreState {
    Enabling,
    Optimizing,
    Enabled,
    Disabling,
    Disabled,
}

impl FastRestoreState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabling => "enabling",
            Self::Optimizing => "optimizing",
            Self::Enabled => "enabled",
            Self::Disabling => "disabling",
            Self::Disabled => "disabled",
        }
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::Enabling => Some(Self::Optimizing),
            Self::Optimizing => Some(Self::Enabled),
            Self::Disabling => Some(Self::Disabled),
            Self::Enabled | Self::Disabled => None,
        }
    }
}

/// One snapshot's in one zone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FastRestore {
    pub state: FastRestoreState,
    /// The state has taken the time that it takes on AWS.
    pub settled: bool,
    /// When which state began, in their order. Noted for EnablingTime and the others; nothing is decided on them.
    pub since: Vec<(FastRestoreState, At)>,
}

impl FastRestore {
    fn begin(state: FastRestoreState, at: At, settled: bool) -> Self {
        Self { state, settled, since: vec![(state, at)] }
    }

    fn enter(&mut self, state: FastRestoreState, at: At, settled: bool) {
        (self.state, self.settled) = (state, settled);
        self.since.retain(|(other, _)| *other != state);
        self.since.push((state, at));
    }

    fn on(&self) -> bool {
        matches!(self.state, FastRestoreState::Enabling | FastRestoreState::Optimizing | FastRestoreState::Enabled)
    }
}

/// What filters of DescribeFastSnapshotRestores find.
struct Restored<'a> {
    snapshot: &'a Snapshot,
    zone: &'a str,
    restore: &'a FastRestore,
    state: &'a State,
}

impl Filtered for Restored<'_> {
    const NAMES: &'static [&'static str] = &["availability-zone", "availability-zone-id", "owner-id", "snapshot-id", "state"];

    fn tags(&self) -> &Tags {
        &EMPTY
    }

    fn values(&self, name: &str, give: &mut dyn FnMut(&str)) {
        match name {
            "availability-zone" => give(self.zone),
            "availability-zone-id" => self.state.network.zone(self.zone).into_iter().for_each(|zone| give(&zone.id)),
            "owner-id" => give(&self.state.network.account),
            "snapshot-id" => give(&self.snapshot.key.id(self.state.seed)),
            "state" => give(self.restore.state.name()),
            _ => {}
        }
    }
}

impl State {
    /// The names of the zones; what is wrong with a snapshot is not said here but in the answer, for each.
    pub(super) fn plan_fast_restores(&self, request: &FastRestores) -> Result<Vec<String>, Reject> {
        if request.snapshots.is_empty() {
            return Err(Reject::MissingParameter("SourceSnapshotIds".to_owned()));
        }
        let mut zones = Vec::new();
        for wanted in request.zones.iter().chain(&request.zone_ids) {
            let zone = self.network.zones.iter().find(|zone| zone.name == *wanted || zone.id == *wanted);
            zones.push(zone.ok_or_else(|| Reject::NoSuchZone { zone: wanted.clone() })?.name.clone());
        }
        if zones.is_empty() {
            return Err(Reject::MissingParameter("AvailabilityZones".to_owned()));
        }
        zones.sort();
        zones.dedup();
        Ok(zones)
    }

    pub(super) fn change_fast_restores(&mut self, at: At, request: &FastRestores, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let zones = self.plan_fast_restores(request)?;
        let settled = self.timing().fast_restore.is_zero();
        let (mut successful, mut unsuccessful, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for id in &request.snapshots {
            let key = self.named_snapshot("snapshotId", id).map(|snapshot| snapshot.key);
            for zone in &zones {
                let change = match &key {
                    Ok(key) => self.change_fast_restore(at, (*key, id, zone), request.enable, settled).map(|new| (*key, new)),
                    Err(reject) => Err(reject.clone()),
                };
                match change {
                    Ok((key, (restore, new))) => {
                        if new {
                            changed.push((key, zone.clone()));
                        }
                        successful.push((key, zone.clone(), restore));
                    }
                    Err(reject) => unsuccessful.push((id.clone(), zone.clone(), reject)),
                }
            }
        }
        out.push(Effect::Reply(Reply::FastRestores { successful, unsuccessful }));
        for (key, zone) in changed {
            if !settled {
                out.push(Effect::Arm(Timer::FastRestore(key, zone), self.timing().fast_restore));
            }
            self.drive_fast_restores(at, key, out);
        }
        Ok(())
    }

    /// The state after the change, and whether it began something. To enable what is enabled changes nothing.
    fn change_fast_restore(
        &mut self,
        at: At,
        (key, id, zone): (SnapshotKey, &str, &str),
        enable: bool,
        settled: bool,
    ) -> Result<(FastRestore, bool), Reject> {
        let known = self.snapshots.get(&key).and_then(|snapshot| snapshot.fast_restores.get(zone));
        match known {
            Some(restore) if restore.on() == enable && (enable || restore.state == FastRestoreState::Disabling) => {
                return Ok((restore.clone(), false));
            }
            Some(restore) if !enable && !restore.on() => {
                return Err(Reject::NoFastRestore { snapshot: id.to_owned(), zone: zone.to_owned() });
            }
            None if !enable => return Err(Reject::NoFastRestore { snapshot: id.to_owned(), zone: zone.to_owned() }),
            Some(_) | None => {}
        }
        let restore = match known {
            Some(restore) if !enable => {
                let mut restore = restore.clone();
                restore.enter(FastRestoreState::Disabling, at, settled);
                restore
            }
            Some(_) | None => FastRestore::begin(FastRestoreState::Enabling, at, settled),
        };
        self.change_snapshot(key, |snapshot| {
            snapshot.fast_restores.insert(zone.to_owned(), restore.clone());
        });
        Ok((restore, true))
    }

    /// Drives the fast restores of a snapshot as far as they go without time.
    pub(super) fn drive_fast_restores(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        let delay = self.timing().fast_restore;
        loop {
            let Some(snapshot) = self.snapshots.get(&key).filter(|snapshot| snapshot.wanted) else { return };
            let completed = snapshot.status() == SnapshotStatus::Completed;
            let due = snapshot.fast_restores.iter().find_map(|(zone, restore)| {
                let next = restore.state.next().filter(|_| restore.settled)?;
                (completed || restore.state != FastRestoreState::Enabling).then(|| (zone.clone(), next))
            });
            let Some((zone, next)) = due else { return };
            let settled = delay.is_zero() || next.next().is_none();
            self.change_snapshot(key, |snapshot| {
                if let Some(restore) = snapshot.fast_restores.get_mut(&zone) {
                    restore.enter(next, at, settled);
                }
            });
            if !settled {
                out.push(Effect::Arm(Timer::FastRestore(key, zone), delay));
            }
        }
    }

    pub(super) fn fast_restore_fired(&mut self, at: At, key: SnapshotKey, zone: &str, out: &mut Vec<Effect>) {
        self.change_snapshot(key, |snapshot| {
            if let Some(restore) = snapshot.fast_restores.get_mut(zone) {
                restore.settled = true;
            }
        });
        self.drive_fast_restores(at, key, out);
    }

    /// The timers that fast restores wait for, to be armed after a restart and disarmed when the snapshot goes.
    pub(super) fn fast_restore_timers(snapshot: &Snapshot) -> Vec<Timer> {
        let waiting = snapshot.fast_restores.iter().filter(|(_, restore)| !restore.settled);
        waiting.map(|(zone, _)| Timer::FastRestore(snapshot.key, zone.clone())).collect()
    }

    /// Whether a volume made from this snapshot in this zone is fast from the start.
    pub(super) fn restores_fast(snapshot: &Snapshot, zone: &str) -> bool {
        snapshot.fast_restores.get(zone).is_some_and(|restore| restore.state == FastRestoreState::Enabled)
    }

    /// What DescribeFastSnapshotRestores lists: snapshot, zone and state, in the order of the snapshots.
    pub fn describe_fast_restores(&self, filters: &[Filter], paging: &Paging) -> Result<Page<(&Snapshot, &str, &FastRestore)>, Reject> {
        filter::check::<Restored>(filters)?;
        let all = self.snapshots.values().filter(|snapshot| snapshot.wanted);
        let items = all.flat_map(|snapshot| snapshot.fast_restores.iter().map(move |(zone, restore)| (snapshot, zone.as_str(), restore)));
        let keep = |(snapshot, zone, restore): &(&Snapshot, &str, &FastRestore)| {
            filter::matches(filters, &Restored { snapshot, zone, restore, state: self })
        };
        self.page(items.filter(keep), paging, false)
    }
}
