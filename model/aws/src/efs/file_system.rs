//! The file system: a tree outside and what EFS knows of it.
//!
//! ```text
//! create ─▶ Making ─▶ Settling ─▶ Made ◀─▶ Metering      shown: creating, creating, available, available
//!             │ fails              │ want = Absent
//!             ▼                    ▼
//!           Failed ───delete──▶ Removing ─▶ gone          shown: error, deleting
//!                                  │ ▲ timer
//!                                  └▶ Stuck
//! ```
//!
//! Making, Metering and Removing each have one effect out; a delete waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::Row;
use super::{Effect, Input, Key, LifeCycle, Reject, Reply, State, Timer, Work, tags};
use crate::{At, ec2, kms};

/// Before a removal is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A file system with only its root holds 6 KiB (efs.md §5.3).
const EMPTY_BYTES: u64 = 6144;
const MAX_POLICY: usize = 20_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PerformanceMode {
    #[default]
    GeneralPurpose,
    #[serde(rename = "maxIO")]
    MaxIo,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ThroughputMode {
    #[default]
    Bursting,
    Provisioned,
    Elastic,
}

/// One transition of a life cycle configuration; exactly one of the three is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecyclePolicy {
    #[serde(rename = "TransitionToIA", default, skip_serializing_if = "Option::is_none")]
    pub to_ia: Option<String>,
    #[serde(rename = "TransitionToPrimaryStorageClass", default, skip_serializing_if = "Option::is_none")]
    pub to_primary: Option<String>,
    #[serde(rename = "TransitionToArchive", default, skip_serializing_if = "Option::is_none")]
    pub to_archive: Option<String>,
}

/// A CreateFileSystem request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewFileSystem {
    pub creation_token: String,
    pub performance_mode: Option<PerformanceMode>,
    pub encrypted: Option<bool>,
    pub kms_key_id: Option<String>,
    pub throughput_mode: Option<ThroughputMode>,
    /// KiB/s (the API has MiB/s with a fraction).
    pub provisioned_kibps: Option<u64>,
    /// One Zone: the zone's name.
    pub availability_zone: Option<String>,
    pub backup: Option<bool>,
    pub tags: BTreeMap<String, String>,
}

/// A file system as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileSystem {
    /// `fs-` and 17 hex digits.
    pub id: String,
    pub creation_token: String,
    pub performance_mode: PerformanceMode,
    pub encrypted: bool,
    pub kms_key_id: Option<String>,
    pub throughput_mode: ThroughputMode,
    pub provisioned_kibps: Option<u64>,
    /// One Zone: name and id of its zone.
    pub zone: Option<(String, String)>,
    pub tags: BTreeMap<String, String>,
    pub overwrite_protection: bool,
    pub lifecycle: Vec<LifecyclePolicy>,
    pub backup: bool,
    pub policy: Option<String>,
    pub created: At,
    pub metered_bytes: u64,
    pub metered: At,
    want: Want,
    have: Have,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Want {
    Present,
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Have {
    Making,
    Settling,
    Made,
    Metering,
    Failed(String),
    Removing,
    Stuck(String),
}

impl Row for FileSystem {
    const TABLE: &'static str = "efs/file-systems";

    fn id(&self) -> &str {
        &self.id
    }
}

impl FileSystem {
    /// The state that users see.
    pub fn shown(&self) -> LifeCycle {
        match (self.want, &self.have) {
            (Want::Absent, _) | (_, Have::Removing | Have::Stuck(_)) => LifeCycle::Deleting,
            (_, Have::Making | Have::Settling) => LifeCycle::Creating,
            (_, Have::Made | Have::Metering) => LifeCycle::Available,
            (_, Have::Failed(_)) => LifeCycle::Error,
        }
    }

    /// What hinders it, where something does.
    pub fn trouble(&self) -> Option<&str> {
        match &self.have {
            Have::Failed(message) | Have::Stuck(message) => Some(message),
            Have::Making | Have::Settling | Have::Made | Have::Metering | Have::Removing => None,
        }
    }

    /// Level-triggered: the same after a command, a completion and a start.
    fn drive(&mut self, key: Key, out: &mut Vec<Effect>) {
        if self.want == Want::Absent {
            match self.have {
                Have::Settling | Have::Made | Have::Failed(_) => {
                    out.extend([Effect::Disarm(Timer::FileSystem(key)), Effect::Disarm(Timer::Meter(key))]);
                    self.have = Have::Removing;
                    out.push(Effect::Work(Work::Remove(self.id.clone())));
                }
                // Wait for the effect that is out, or for the timer.
                Have::Making | Have::Metering | Have::Removing | Have::Stuck(_) => {}
            }
        }
    }
}

fn check(new: &NewFileSystem) -> Result<(), Reject> {
    if !(1..=64).contains(&new.creation_token.chars().count()) {
        return Err(Reject::invalid("creationToken", &new.creation_token, "Member must have length between 1 and 64"));
    }
    tags::check(&new.tags)?;
    let mode = new.throughput_mode.unwrap_or_default();
    let max_io = new.performance_mode == Some(PerformanceMode::MaxIo);
    if max_io && (mode == ThroughputMode::Elastic || new.availability_zone.is_some()) {
        let with = if mode == ThroughputMode::Elastic { "elastic throughput" } else { "One Zone file systems" };
        return Err(Reject::BadRequest(format!("The performance mode maxIO cannot be used with {with}.")));
    }
    if new.kms_key_id.is_some() && new.encrypted != Some(true) {
        return Err(Reject::BadRequest("KmsKeyId can be given only when Encrypted is true.".to_owned()));
    }
    check_throughput(mode, new.provisioned_kibps)
}

fn check_throughput(mode: ThroughputMode, kibps: Option<u64>) -> Result<(), Reject> {
    match (mode, kibps) {
        (ThroughputMode::Provisioned, None) => {
            Err(Reject::BadRequest("ProvisionedThroughputInMibps is required when ThroughputMode is provisioned.".to_owned()))
        }
        (ThroughputMode::Provisioned, Some(kibps)) if !(1 << 10..=3414 << 10).contains(&kibps) => Err(Reject::ThroughputLimit),
        (ThroughputMode::Bursting | ThroughputMode::Elastic, Some(_)) => {
            Err(Reject::BadRequest("ProvisionedThroughputInMibps can be given only when ThroughputMode is provisioned.".to_owned()))
        }
        (ThroughputMode::Provisioned, Some(_)) | (ThroughputMode::Bursting | ThroughputMode::Elastic, None) => Ok(()),
    }
}

impl State {
    pub(super) fn index_file_system(&mut self, key: Key, row: &FileSystem) {
        self.by_creation_token.insert(row.creation_token.clone(), key);
    }

    /// The key of an id or ARN.
    pub(super) fn file_system_key(&self, id: &str) -> Result<Key, Reject> {
        let plain = id.rsplit_once(":file-system/").map_or(id, |(_, plain)| plain);
        let unknown = || Reject::unknown("fileSystemId", "file-system", "fs-", plain, Reject::NoFileSystem);
        self.file_systems.key(plain).ok_or_else(unknown)
    }

    /// The file system of an id or ARN.
    pub fn file_system(&self, id: &str) -> Result<&FileSystem, Reject> {
        let key = self.file_system_key(id)?;
        self.file_systems.get(key).ok_or_else(|| Reject::NoFileSystem(id.to_owned()))
    }

    /// The key of a file system that is available.
    pub(super) fn available(&self, id: &str) -> Result<Key, Reject> {
        let row = self.file_system(id)?;
        match row.shown() {
            LifeCycle::Available => self.file_system_key(id),
            state => Err(Reject::FileSystemState { id: row.id.clone(), state: state.as_str().to_owned() }),
        }
    }

    pub(super) fn create_file_system(
        &mut self,
        at: At,
        ec2: &ec2::State,
        keys: &kms::State,
        new: &NewFileSystem,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Reject> {
        check(new)?;
        let zone = match &new.availability_zone {
            None => None,
            Some(name) => match ec2.network().zone(name) {
                Some(zone) => Some((zone.name.clone(), zone.id.clone())),
                None => return Err(Reject::UnsupportedZone(name.clone())),
            },
        };
        if let Some(existing) = self.by_creation_token.get(&new.creation_token).and_then(|key| self.file_systems.get(*key)) {
            return Err(Reject::FileSystemExists { id: existing.id.clone(), token: new.creation_token.clone() });
        }
        if self.file_systems.len() >= self.limits.file_systems {
            return Err(Reject::FileSystemLimit(self.limits.file_systems));
        }
        let encrypted = new.encrypted.unwrap_or(false);
        let grant = encrypted.then(|| keys.grant(new.kms_key_id.as_deref(), kms::EFS));
        if let Some(kms::Grant { arn, usable: false }) = grant {
            return Err(Reject::UnusableKey(arn));
        }
        let key = self.new_key();
        let row = FileSystem {
            id: self.new_id("fs", key),
            creation_token: new.creation_token.clone(),
            performance_mode: new.performance_mode.unwrap_or_default(),
            encrypted,
            kms_key_id: grant.map(|grant| grant.arn),
            throughput_mode: new.throughput_mode.unwrap_or_default(),
            provisioned_kibps: new.provisioned_kibps,
            backup: new.backup.unwrap_or(zone.is_some()),
            zone,
            tags: new.tags.clone(),
            overwrite_protection: true,
            lifecycle: Vec::new(),
            policy: None,
            created: at,
            metered_bytes: EMPTY_BYTES,
            metered: at,
            want: Want::Present,
            have: Have::Making,
        };
        out.push(Effect::Work(Work::Make(row.id.clone())));
        self.index_file_system(key, &row);
        self.file_systems.insert(key, row.clone());
        Ok(Reply::FileSystem(Box::new(row), 0))
    }

    /// Changes a setting of an available file system.
    pub(super) fn change_file_system(&mut self, id: &str, change: impl FnOnce(&mut FileSystem)) -> Result<Reply, Reject> {
        let key = self.available(id)?;
        let Some(row) = self.file_systems.get_mut(key) else { return Err(Reject::NoFileSystem(id.to_owned())) };
        change(row);
        let reply = row.clone();
        Ok(Reply::FileSystem(Box::new(reply), self.targets(key)))
    }

    pub(super) fn update_file_system(&mut self, id: &str, mode: Option<ThroughputMode>, kibps: Option<u64>) -> Result<Reply, Reject> {
        let row = self.file_system(id)?;
        let mode = mode.unwrap_or(row.throughput_mode);
        if row.performance_mode == PerformanceMode::MaxIo && mode == ThroughputMode::Elastic {
            return Err(Reject::BadRequest("The performance mode maxIO cannot be used with elastic throughput.".to_owned()));
        }
        let kept = if mode == ThroughputMode::Provisioned { row.provisioned_kibps } else { None };
        let kibps = kibps.or(kept);
        check_throughput(mode, kibps)?;
        self.change_file_system(id, |row| (row.throughput_mode, row.provisioned_kibps) = (mode, kibps))
    }

    pub(super) fn put_lifecycle(&mut self, id: &str, policies: &[LifecyclePolicy]) -> Result<Reply, Reject> {
        const AFTER: [&str; 10] = [
            "AFTER_1_DAY",
            "AFTER_7_DAYS",
            "AFTER_14_DAYS",
            "AFTER_30_DAYS",
            "AFTER_60_DAYS",
            "AFTER_90_DAYS",
            "AFTER_180_DAYS",
            "AFTER_270_DAYS",
            "AFTER_365_DAYS",
            "AFTER_1_ACCESS",
        ];
        if policies.len() > 3 {
            return Err(Reject::invalid(
                "lifecyclePolicies",
                policies.len().to_string(),
                "Member must have length less than or equal to 3",
            ));
        }
        let mut seen = [false; 3];
        for policy in policies {
            let set = [&policy.to_ia, &policy.to_primary, &policy.to_archive];
            if set.iter().filter(|rule| rule.is_some()).count() != 1 {
                return Err(Reject::BadRequest("Each LifecyclePolicy object can have exactly one transition.".to_owned()));
            }
            for (place, rule) in set.into_iter().enumerate() {
                let Some(rule) = rule else { continue };
                // The primary storage class knows only AFTER_1_ACCESS, the others only days.
                if !AFTER.contains(&rule.as_str()) || (place == 1) != (rule == "AFTER_1_ACCESS") {
                    return Err(Reject::invalid("lifecyclePolicies", rule, "Member must satisfy enum value set"));
                }
                if std::mem::replace(&mut seen[place], true) {
                    return Err(Reject::BadRequest("A transition can be given only once.".to_owned()));
                }
            }
        }
        self.change_file_system(id, |row| row.lifecycle = policies.to_vec())
    }

    pub(super) fn put_policy(&mut self, id: &str, policy: &str) -> Result<Reply, Reject> {
        if policy.is_empty() || policy.len() > MAX_POLICY {
            return Err(Reject::InvalidPolicy(format!("its length must be between 1 and {MAX_POLICY}")));
        }
        match serde_json::from_str::<serde_json::Value>(policy) {
            Ok(serde_json::Value::Object(document)) if document.contains_key("Statement") => {}
            Ok(_) => return Err(Reject::InvalidPolicy("it must be a JSON object with Statement".to_owned())),
            Err(error) => return Err(Reject::InvalidPolicy(error.to_string())),
        }
        self.change_file_system(id, |row| row.policy = Some(policy.to_owned()))
    }

    pub(super) fn delete_file_system(&mut self, id: &str, out: &mut Vec<Effect>) -> Result<Reply, Reject> {
        let key = self.file_system_key(id)?;
        let targets = self.targets(key);
        if targets > 0 {
            return Err(Reject::InUse { id: self.file_system(id)?.id.clone(), targets });
        }
        for point in self.points_of.get(&key).cloned().unwrap_or_default() {
            out.push(Effect::Disarm(Timer::AccessPoint(point)));
            self.forget_access_point(point);
        }
        if let Some(row) = self.file_systems.get_mut(key) {
            row.want = Want::Absent;
            row.drive(key, out);
        }
        Ok(Reply::Done)
    }

    /// An effect on a tree ended. One that nobody waits for is ignored.
    pub(super) fn done(&mut self, at: At, work: &Work, result: &Result<u64, String>, out: &mut Vec<Effect>) {
        let (Work::Make(id) | Work::Remove(id) | Work::Meter(id)) = work;
        let Some(key) = self.file_systems.key(id) else { return };
        let (settle, meter) = (self.delays.file_system, self.delays.metering);
        let Some(row) = self.file_systems.get_mut(key) else { return };
        match (&row.have, work, result) {
            (Have::Making, Work::Make(_), Ok(_)) => {
                row.have = Have::Settling;
                out.push(Effect::Arm(Timer::FileSystem(key), settle));
            }
            (Have::Making, Work::Make(_), Err(message)) => row.have = Have::Failed(message.clone()),
            (Have::Metering, Work::Meter(_), result) => {
                row.have = Have::Made;
                // A tree that could not be metered keeps its last size.
                if let Ok(bytes) = result {
                    (row.metered_bytes, row.metered) = (*bytes, at);
                }
                out.push(Effect::Arm(Timer::Meter(key), meter));
            }
            (Have::Removing, Work::Remove(_), Ok(_)) => {
                if let Some(row) = self.file_systems.remove(key) {
                    self.by_creation_token.remove(&row.creation_token);
                }
                return;
            }
            (Have::Removing, Work::Remove(_), Err(message)) => {
                row.have = Have::Stuck(message.clone());
                out.push(Effect::Arm(Timer::FileSystem(key), RETRY));
            }
            (
                Have::Making | Have::Settling | Have::Made | Have::Metering | Have::Failed(_) | Have::Removing | Have::Stuck(_),
                Work::Make(_) | Work::Remove(_) | Work::Meter(_),
                _,
            ) => {}
        }
        row.drive(key, out);
    }

    /// One of the file system's two timers is due.
    pub(super) fn file_system_due(&mut self, key: Key, input: &Input, out: &mut Vec<Effect>) {
        let meter = self.delays.metering;
        let Some(row) = self.file_systems.get_mut(key) else { return };
        let metering = matches!(input, Input::Fired(Timer::Meter(_)));
        match (&row.have, metering) {
            (Have::Settling, false) => {
                row.have = Have::Made;
                out.push(Effect::Arm(Timer::Meter(key), meter));
            }
            (Have::Stuck(_), false) => {
                row.have = Have::Removing;
                out.push(Effect::Work(Work::Remove(row.id.clone())));
            }
            (Have::Made, true) => {
                row.have = Have::Metering;
                out.push(Effect::Work(Work::Meter(row.id.clone())));
            }
            // A timer of a state that has passed.
            (Have::Making | Have::Metering | Have::Failed(_) | Have::Removing, _)
            | (Have::Settling | Have::Stuck(_), true)
            | (Have::Made, false) => {}
        }
        row.drive(key, out);
    }

    /// What exists is the truth: half-done work is done again, trees of no file system are removed.
    pub(super) fn boot_file_systems(&mut self, trees: &BTreeSet<String>, out: &mut Vec<Effect>) {
        let keys: Vec<Key> = self.file_systems.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(row) = self.file_systems.get_mut(key) else { continue };
            match row.have {
                Have::Made | Have::Metering | Have::Settling if !trees.contains(&row.id) => row.have = Have::Making,
                Have::Metering => row.have = Have::Made,
                Have::Stuck(_) => row.have = Have::Removing,
                Have::Making | Have::Settling | Have::Made | Have::Failed(_) | Have::Removing => {}
            }
            match row.have {
                Have::Making => out.push(Effect::Work(Work::Make(row.id.clone()))),
                Have::Settling => out.push(Effect::Arm(Timer::FileSystem(key), self.delays.file_system)),
                Have::Made => out.push(Effect::Arm(Timer::Meter(key), self.delays.metering)),
                Have::Removing => out.push(Effect::Work(Work::Remove(row.id.clone()))),
                Have::Metering | Have::Failed(_) | Have::Stuck(_) => {}
            }
            row.drive(key, out);
        }
        let orphans = trees.iter().filter(|id| self.file_systems.key(id).is_none());
        out.extend(orphans.map(|id| Effect::Work(Work::Remove(id.clone()))));
    }

    fn targets(&self, key: Key) -> usize {
        self.targets_of.get(&key).map_or(0, BTreeSet::len)
    }
}
