//! EFS: file systems, mount targets, access points.
//!
//! A file system is a directory tree outside, so it has effects (make, meter, remove) and a want/have machine; mount targets
//! and access points are records whose state only time moves. The source of all rules and texts is efs.md §1, §4, §5.4, §6.

mod access_point;
mod commands;
mod describe;
mod file_system;
mod mount;
mod mount_target;
mod reject;
pub(crate) mod table;
mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use access_point::{AccessPoint, Creation, NewAccessPoint};
pub use commands::{Command, Reply};
pub use describe::Page;
pub use file_system::{FileSystem, LifecyclePolicy, NewFileSystem, PerformanceMode, ThroughputMode};
pub use mount::{Client, Grant};
pub use mount_target::{MountTarget, NewMountTarget};
pub use reject::{Error, Reject, reject_to_error};
pub use table::{Key, LifeCycle};

use crate::world::World;
use crate::{At, Dirty, LoadError, Profile, ec2, kms};
use table::{Row, Table};

/// The tables of this machine's records.
pub const TABLES: &[&str] = &[FileSystem::TABLE, MountTarget::TABLE, AccessPoint::TABLE, META];
const META: &str = "efs/meta";
const NEXT: &str = "next";

/// What happens to EFS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    Command(Command),
    /// An effect on a tree ended. The number is the bytes held, as metered; 0 for other work.
    Done(Work, Result<u64, String>),
    Fired(Timer),
    /// A start: the ids of the trees that exist.
    Booted {
        trees: BTreeSet<String>,
    },
}

/// What the shell shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Reply(Reply),
    Arm(Timer, Duration),
    Disarm(Timer),
    Work(Work),
}

/// Work on the tree of a file system, named by id. Idempotent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Make the root directory: root:root 755 (efs.md §5.2).
    Make(String),
    /// Remove the tree without following links out of it.
    Remove(String),
    /// Sum the bytes it holds (efs.md §5.3).
    Meter(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Timer {
    /// The next change of a file system: it becomes available, or its removal is tried again.
    FileSystem(Key),
    /// The next metering of a file system.
    Meter(Key),
    MountTarget(Key),
    AccessPoint(Key),
}

/// How long changes take (efs.md §4.1, §5.4).
#[derive(Debug, Clone, Copy)]
struct Delays {
    file_system: Duration,
    mount_target: Duration,
    mount_target_gone: Duration,
    access_point: Duration,
    /// Metering is "about hourly" on AWS.
    metering: Duration,
}

impl Delays {
    fn of(profile: Profile) -> Self {
        let seconds = Duration::from_secs;
        match profile {
            Profile::Instant => Self {
                file_system: Duration::ZERO,
                mount_target: Duration::ZERO,
                mount_target_gone: Duration::ZERO,
                access_point: Duration::ZERO,
                metering: seconds(300),
            },
            Profile::Aws => Self {
                file_system: seconds(5),
                mount_target: seconds(75),
                mount_target_gone: seconds(30),
                access_point: seconds(3),
                metering: seconds(3600),
            },
        }
    }
}

/// Quotas of an account (efs.md §5.1).
#[derive(Debug, Clone, Copy)]
struct Limits {
    file_systems: usize,
    mount_targets: usize,
    access_points: usize,
    security_groups: usize,
}

const LIMITS: Limits = Limits { file_systems: 1_000, mount_targets: 1_400, access_points: 10_000, security_groups: 5 };

/// All of EFS in one account and region.
#[derive(Debug, Clone)]
pub struct State {
    seed: u64,
    region: String,
    delays: Delays,
    limits: Limits,
    /// The key of the next thing made; keys are never used again.
    next: Key,
    next_dirty: bool,
    file_systems: Table<FileSystem>,
    mount_targets: Table<MountTarget>,
    access_points: Table<AccessPoint>,
    by_creation_token: BTreeMap<String, Key>,
    by_client_token: BTreeMap<String, Key>,
    targets_of: BTreeMap<Key, BTreeSet<Key>>,
    points_of: BTreeMap<Key, BTreeSet<Key>>,
    addresses: BTreeMap<Ipv4Addr, Key>,
}

/// Ids of EFS are made from another seed than those of EC2.
const SALT: u64 = 0x6566_735f_6964_7321;

impl State {
    pub fn new(world: &World, profile: Profile) -> Self {
        Self {
            seed: world.seed ^ SALT,
            region: world.region.clone(),
            delays: Delays::of(profile),
            limits: LIMITS,
            next: 1,
            next_dirty: false,
            file_systems: Table::default(),
            mount_targets: Table::default(),
            access_points: Table::default(),
            by_creation_token: BTreeMap::new(),
            by_client_token: BTreeMap::new(),
            targets_of: BTreeMap::new(),
            points_of: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// Whether a mount target has this address.
    pub(crate) fn has_address(&self, ip: &Ipv4Addr) -> bool {
        self.addresses.contains_key(ip)
    }

    /// Takes back a saved record; false when the table is not of this machine.
    pub fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> Result<bool, LoadError> {
        match table {
            FileSystem::TABLE => {
                let (key, row) = table::parse::<FileSystem>(key, value)?;
                self.index_file_system(key, &row);
                self.file_systems.restore(key, row);
            }
            MountTarget::TABLE => {
                let (key, row) = table::parse::<MountTarget>(key, value)?;
                self.index_mount_target(key, &row);
                self.mount_targets.restore(key, row);
            }
            AccessPoint::TABLE => {
                let (key, row) = table::parse::<AccessPoint>(key, value)?;
                self.index_access_point(key, &row);
                self.access_points.restore(key, row);
            }
            META if key == NEXT => {
                self.next = serde_json::from_slice(value).map_err(|error| LoadError {
                    table: table.to_owned(),
                    key: key.to_owned(),
                    message: error.to_string(),
                })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The one entry. A rejected input changed nothing.
    pub fn step(&mut self, at: At, ec2: &ec2::State, keys: &kms::State, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Command(command) => self.command(at, ec2, keys, command, out)?,
            Input::Done(work, result) => self.done(at, work, result, out),
            Input::Fired(Timer::FileSystem(key) | Timer::Meter(key)) => self.file_system_due(*key, input, out),
            Input::Fired(Timer::MountTarget(key)) => self.mount_target_due(*key),
            Input::Fired(Timer::AccessPoint(key)) => self.access_point_due(*key),
            Input::Booted { trees } => self.booted(trees, out),
        }
        Ok(())
    }

    /// The records that changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut dirty = Vec::new();
        if std::mem::take(&mut self.next_dirty) {
            dirty.push(Dirty { table: META, key: NEXT.to_owned(), value: Some(self.next.to_string().into_bytes()) });
        }
        self.file_systems.take_dirty(&mut dirty);
        self.mount_targets.take_dirty(&mut dirty);
        self.access_points.take_dirty(&mut dirty);
        dirty
    }

    fn new_key(&mut self) -> Key {
        let key = self.next;
        self.next += 1;
        self.next_dirty = true;
        key
    }

    /// `kind-` and 17 hex digits; each key has another.
    fn new_id(&self, kind: &str, key: Key) -> String {
        format!("{kind}-{}", model_common::pick::hex17(self.seed, key))
    }

    fn booted(&mut self, trees: &BTreeSet<String>, out: &mut Vec<Effect>) {
        self.boot_file_systems(trees, out);
        for (key, target) in self.mount_targets.iter() {
            if let Some(after) = self.mount_target_delay(target.state) {
                out.push(Effect::Arm(Timer::MountTarget(key), after));
            }
        }
        for (key, point) in self.access_points.iter() {
            if point.state != LifeCycle::Available {
                out.push(Effect::Arm(Timer::AccessPoint(key), self.delays.access_point));
            }
        }
    }
}

#[cfg(test)]
mod tests;
