//! Locks of snapshots: a locked snapshot cannot be deleted.
//!
//! ```text
//!   Lock governance ─▶ governance ─────────────────────────────┬─▶ expired (can be deleted)
//!   Lock compliance ─▶ compliance-cooloff ──hours──▶ compliance ┘
//!        governance, compliance-cooloff: Unlock, or lock in another way;   compliance: only longer
//! ```
//! A lock ends at a date that its owner knows. Here alone, therefore, a noted time says how long a timer runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::filter::{self, Filter, Filtered};
use super::ids::{Kind, SnapshotKey};
use super::query::{EMPTY, Page, Paging};
use super::snapshot::SnapshotStatus;
use super::{Effect, Reject, Reply, Snapshot, State, Tags, Timer};
use crate::At;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const MOST_DAYS: u32 = 36_500;
const MOST_HOURS: u32 = 72;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockSnapshot {
    pub snapshot_id: String,
    pub mode: String,
    pub cool_off_hours: Option<u32>,
    /// Either this or a date.
    pub days: Option<u32>,
    pub expires_on: Option<At>,
    /// When it was asked for: the date is measured from here.
    pub asked_at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LockMode {
    Governance,
    Compliance,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotLock {
    pub mode: LockMode,
    pub days: u32,
    pub cool_off_hours: Option<u32>,
    pub created_on: At,
    pub cool_off_until: Option<At>,
    /// The duration begins when the snapshot is completed.
    pub starts_on: Option<At>,
    pub expires_on: Option<At>,
    /// It is in the cooling-off period.
    pub cooling: bool,
    pub expired: bool,
}

/// Why a lock cannot be as asked. EC2's own codes of these refusals are not documented; the ones here are its general ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum LockReject {
    Locked { snapshot: String },
    Compliance { snapshot: String },
    NotLocked { snapshot: String },
    Mode { mode: String },
    CoolOff { hours: u32 },
    CoolOffInGovernance,
    CoolOffOver,
    Days { days: u32 },
    DaysAndDate,
    NeitherDaysNorDate,
    DateTooSoon,
    Shorter { snapshot: String },
}

impl LockReject {
    /// EC2's code and text.
    pub(super) fn to_error(&self) -> (&'static str, String) {
        let value = "InvalidParameterValue";
        let combination = "InvalidParameterCombination";
        match self {
            Self::Locked { snapshot } => ("SnapshotLocked", format!("The snapshot {snapshot} is locked and cannot be deleted.")),
            Self::Compliance { snapshot } => {
                ("SnapshotLocked", format!("The snapshot {snapshot} is locked in compliance mode and cannot be unlocked."))
            }
            Self::NotLocked { snapshot } => ("IncorrectState", format!("The snapshot {snapshot} is not locked.")),
            Self::Mode { mode } => {
                (value, format!("Value ({mode}) for parameter LockMode is invalid. Expected: 'compliance' or 'governance'."))
            }
            Self::CoolOff { hours } => {
                (value, format!("Value ({hours}) for parameter CoolOffPeriod is invalid. Expected: 1 to {MOST_HOURS} hours."))
            }
            Self::CoolOffInGovernance => (combination, "The parameter CoolOffPeriod is not supported in governance mode.".to_owned()),
            Self::CoolOffOver => {
                (combination, "The parameter CoolOffPeriod is not supported after the cooling-off period has expired.".to_owned())
            }
            Self::Days { days } => {
                (value, format!("Value ({days}) for parameter LockDuration is invalid. Expected: 1 to {MOST_DAYS} days."))
            }
            Self::DaysAndDate => {
                (combination, "The parameters LockDuration and ExpirationDate cannot be used in the same request.".to_owned())
            }
            Self::NeitherDaysNorDate => {
                ("MissingParameter", "The request must contain the parameter LockDuration or ExpirationDate".to_owned())
            }
            Self::DateTooSoon => (value, "The ExpirationDate must be at least one day after the current time.".to_owned()),
            Self::Shorter { snapshot } => {
                (value, format!("The snapshot {snapshot} is locked in compliance mode; its lock can only be extended."))
            }
        }
    }
}

impl SnapshotLock {
    /// As `lockState` shows it.
    pub fn state(&self) -> &'static str {
        match (self.expired, self.mode, self.cooling) {
            (true, _, _) => "expired",
            (false, LockMode::Governance, _) => "governance",
            (false, LockMode::Compliance, true) => "compliance-cooloff",
            (false, LockMode::Compliance, false) => "compliance",
        }
    }

    /// Nobody can take it away before its time.
    fn firm(&self) -> bool {
        !self.expired && self.mode == LockMode::Compliance && !self.cooling
    }
}

/// The time from one point to another; none before it.
fn until(from: At, to: At) -> Duration {
    Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

/// What filters of DescribeLockedSnapshots find.
struct Locked<'a>(&'a SnapshotLock);

impl Filtered for Locked<'_> {
    const NAMES: &'static [&'static str] = &["lock-state"];

    fn tags(&self) -> &Tags {
        &EMPTY
    }

    fn values(&self, _: &str, give: &mut dyn FnMut(&str)) {
        give(self.0.state());
    }
}

impl State {
    pub(super) fn plan_lock(&self, request: &LockSnapshot) -> Result<(SnapshotKey, SnapshotLock), Reject> {
        let refuse = |reject| Err(Reject::Lock(reject));
        let mode = match request.mode.as_str() {
            "governance" => LockMode::Governance,
            "compliance" => LockMode::Compliance,
            other => return refuse(LockReject::Mode { mode: other.to_owned() }),
        };
        let snapshot = self.named_snapshot("snapshotId", &request.snapshot_id)?;
        if let Some(hours) = request.cool_off_hours {
            if mode == LockMode::Governance {
                return refuse(LockReject::CoolOffInGovernance);
            }
            if !(1..=MOST_HOURS).contains(&hours) {
                return refuse(LockReject::CoolOff { hours });
            }
        }
        let at = request.asked_at;
        let days = match (request.days, request.expires_on) {
            (Some(_), Some(_)) => return refuse(LockReject::DaysAndDate),
            (None, None) => return refuse(LockReject::NeitherDaysNorDate),
            (Some(days), None) if !(1..=MOST_DAYS).contains(&days) => return refuse(LockReject::Days { days }),
            (Some(days), None) => days,
            (None, Some(date)) if date.0.saturating_sub(at.0) < DAY => return refuse(LockReject::DateTooSoon),
            (None, Some(date)) => u32::try_from(date.0.saturating_sub(at.0) / DAY).unwrap_or(MOST_DAYS),
        };
        let hours = request.cool_off_hours;
        let mut lock = SnapshotLock {
            mode,
            days,
            cool_off_hours: hours,
            created_on: at,
            cool_off_until: hours.map(|hours| At(at.0.saturating_add(i64::from(hours) * HOUR))),
            starts_on: None,
            expires_on: request.expires_on,
            cooling: hours.is_some(),
            expired: false,
        };
        if snapshot.status() == SnapshotStatus::Completed {
            lock.begin(at);
        }
        if let Some(firm) = snapshot.lock.as_ref().filter(|lock| lock.firm()) {
            if hours.is_some() {
                return refuse(LockReject::CoolOffOver);
            }
            let longer = match (lock.expires_on, firm.expires_on) {
                (Some(new), Some(old)) => new >= old,
                (_, _) => lock.days >= firm.days,
            };
            if mode != LockMode::Compliance || !longer {
                return refuse(LockReject::Shorter { snapshot: request.snapshot_id.clone() });
            }
            lock.created_on = firm.created_on;
        }
        Ok((snapshot.key, lock))
    }

    pub(super) fn lock_snapshot(&mut self, at: At, request: &LockSnapshot, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let (key, lock) = self.plan_lock(request)?;
        out.extend(self.lock_timers(key).into_iter().map(Effect::Disarm));
        self.change_snapshot(key, |snapshot| snapshot.lock = Some(lock.clone()));
        out.push(Effect::Reply(Reply::Lock { snapshot: key, lock }));
        self.arm_lock(at, key, out);
        Ok(())
    }

    pub(super) fn plan_unlock(&self, id: &str) -> Result<SnapshotKey, Reject> {
        let snapshot = self.named_snapshot("snapshotId", id)?;
        match &snapshot.lock {
            None => Err(Reject::Lock(LockReject::NotLocked { snapshot: id.to_owned() })),
            Some(lock) if lock.expired => Err(Reject::Lock(LockReject::NotLocked { snapshot: id.to_owned() })),
            Some(lock) if lock.firm() => Err(Reject::Lock(LockReject::Compliance { snapshot: id.to_owned() })),
            Some(_) => Ok(snapshot.key),
        }
    }

    pub(super) fn unlock_snapshot(&mut self, id: &str, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let key = self.plan_unlock(id)?;
        out.extend(self.lock_timers(key).into_iter().map(Effect::Disarm));
        self.change_snapshot(key, |snapshot| snapshot.lock = None);
        out.push(Effect::Reply(Reply::Done));
        Ok(())
    }

    /// Whether a lock forbids to delete it.
    pub(super) fn plan_delete_snapshot(&self, id: &str) -> Result<&Snapshot, Reject> {
        let snapshot = self.named_snapshot("snapshotId", id)?;
        match &snapshot.lock {
            Some(lock) if !lock.expired => Err(Reject::Lock(LockReject::Locked { snapshot: id.to_owned() })),
            Some(_) | None => Ok(snapshot),
        }
    }

    /// The snapshot is completed: the duration of its lock begins.
    pub(super) fn begin_lock(&mut self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        if self.snapshots.get(&key).and_then(|snapshot| snapshot.lock.as_ref()).is_some_and(|lock| lock.starts_on.is_none()) {
            self.change_snapshot(key, |snapshot| {
                if let Some(lock) = &mut snapshot.lock {
                    lock.begin(at);
                }
            });
            self.arm_lock(at, key, out);
        }
    }

    /// Arms what the lock waits for: when it begins, and after a restart.
    pub(super) fn arm_lock(&self, at: At, key: SnapshotKey, out: &mut Vec<Effect>) {
        let Some(lock) = self.snapshots.get(&key).and_then(|snapshot| snapshot.lock.as_ref()).filter(|lock| !lock.expired) else { return };
        if let Some(end) = lock.cool_off_until.filter(|_| lock.cooling) {
            out.push(Effect::Arm(Timer::LockCoolOff(key), until(at, end)));
        }
        if let Some(end) = lock.expires_on {
            out.push(Effect::Arm(Timer::LockEnd(key), until(at, end)));
        }
    }

    /// The timers that may be armed for a lock.
    pub(super) fn lock_timers(&self, key: SnapshotKey) -> Vec<Timer> {
        let lock = self.snapshots.get(&key).and_then(|snapshot| snapshot.lock.as_ref());
        let Some(lock) = lock.filter(|lock| !lock.expired) else { return Vec::new() };
        let cooling = lock.cooling.then_some(Timer::LockCoolOff(key));
        cooling.into_iter().chain(lock.expires_on.map(|_| Timer::LockEnd(key))).collect()
    }

    pub(super) fn lock_fired(&mut self, key: SnapshotKey, ended: bool, out: &mut Vec<Effect>) {
        if ended {
            let cooling = self.lock_timers(key).into_iter().filter(|timer| matches!(timer, Timer::LockCoolOff(_)));
            out.extend(cooling.map(Effect::Disarm));
        }
        self.change_snapshot(key, |snapshot| {
            if let Some(lock) = &mut snapshot.lock {
                lock.cooling = false;
                lock.expired |= ended;
            }
        });
    }

    /// What DescribeLockedSnapshots lists. Ids are all or nothing, but one that is not locked is only not in the list.
    pub fn describe_locks(&self, ids: &[String], filters: &[Filter], paging: &Paging) -> Result<Page<(&Snapshot, &SnapshotLock)>, Reject> {
        filter::check::<Locked>(filters)?;
        let mut missing = Vec::new();
        for id in ids {
            match self.named_snapshot("snapshotId", id) {
                Ok(_) => {}
                Err(Reject::NotFound { ids, .. }) => missing.extend(ids),
                Err(reject) => return Err(reject),
            }
        }
        if !missing.is_empty() {
            return Err(Reject::NotFound { kind: Kind::Snapshot, ids: missing });
        }
        let named = |snapshot: &&Snapshot| snapshot.wanted && (ids.is_empty() || ids.contains(&snapshot.key.id(self.seed)));
        let items = self.snapshots.values().filter(named).filter_map(|snapshot| Some((snapshot, snapshot.lock.as_ref()?)));
        self.page(items.filter(|(_, lock)| filter::matches(filters, &Locked(lock))), paging, !ids.is_empty())
    }
}

impl SnapshotLock {
    fn begin(&mut self, at: At) {
        self.starts_on = Some(at);
        self.expires_on = self.expires_on.or(Some(At(at.0.saturating_add(i64::from(self.days) * DAY))));
    }
}
