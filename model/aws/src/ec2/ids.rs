//! Keys and ids. Inside, resources have dense keys in the order of their creation; outside, ids of 17 hex digits made from the
//! key and the world's seed, which are read back without a table.

use std::fmt;
use std::sync::Arc;

use model_common::pick::{Hex17, hex17, unhex17};
use serde::{Deserialize, Serialize};

use super::Reject;

/// A volume. Keys of one kind never serve for another kind: all come from one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeKey(pub u64);

/// A snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotKey(pub u64);

/// An instance, by its id `i-…`: instances come from the world and may have ids that were given.
pub type InstanceId = Arc<str>;

impl VolumeKey {
    /// `vol-` and 17 hex digits.
    pub fn id(self, seed: u64) -> String {
        self.shown(seed).to_string()
    }

    /// The id, to be written where it is needed.
    pub fn shown(self, seed: u64) -> VolumeId {
        VolumeId(Hex17::new(seed, self.0))
    }
}

impl SnapshotKey {
    /// `snap-` and 17 hex digits.
    pub fn id(self, seed: u64) -> String {
        format!("snap-{}", hex17(seed, self.0))
    }
}

/// Displays as `vol-` and 17 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeId(Hex17);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vol-")?;
        self.0.fmt(f)
    }
}

/// A kind of resource that has an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Instance,
    NetworkInterface,
    SecurityGroup,
    Snapshot,
    Subnet,
    Volume,
    Vpc,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Instance, Kind::NetworkInterface, Kind::SecurityGroup, Kind::Snapshot, Kind::Subnet, Kind::Volume, Kind::Vpc];

    /// The name in `ResourceType` of tag specifications and DescribeTags.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Instance => "instance",
            Kind::NetworkInterface => "network-interface",
            Kind::SecurityGroup => "security-group",
            Kind::Snapshot => "snapshot",
            Kind::Subnet => "subnet",
            Kind::Volume => "volume",
            Kind::Vpc => "vpc",
        }
    }

    /// What ids begin with, before the dash.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Instance => "i",
            Kind::NetworkInterface => "eni",
            Kind::SecurityGroup => "sg",
            Kind::Snapshot => "snap",
            Kind::Subnet => "subnet",
            Kind::Volume => "vol",
            Kind::Vpc => "vpc",
        }
    }

    /// The kind whose ids begin as this one does.
    pub fn of_id(id: &str) -> Option<Self> {
        let prefix = id.split_once('-')?.0;
        Self::ALL.into_iter().find(|kind| kind.prefix() == prefix)
    }

    /// Whether `id` has the form of this kind's ids: prefix, dash, 8 or 17 hex digits.
    pub fn well_formed(self, id: &str) -> bool {
        let digits = id.strip_prefix(self.prefix()).and_then(|rest| rest.strip_prefix('-'));
        digits.is_some_and(|digits| matches!(digits.len(), 8 | 17) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The key behind an id of this form; none where the id is well formed but not one that this seed gives.
/// `parameter` is the request's name for it, which the text of the reject repeats.
fn key(kind: Kind, seed: u64, parameter: &str, id: &str) -> Result<Option<u64>, Reject> {
    let digits = id.strip_prefix(kind.prefix()).and_then(|rest| rest.strip_prefix('-'));
    let key = digits.and_then(|digits| unhex17(seed, digits));
    if key.is_none() && !kind.well_formed(id) {
        return Err(Reject::MalformedId { kind, parameter: parameter.to_owned(), id: id.to_owned() });
    }
    Ok(key)
}

pub(super) fn volume_key(seed: u64, parameter: &str, id: &str) -> Result<Option<VolumeKey>, Reject> {
    Ok(key(Kind::Volume, seed, parameter, id)?.map(VolumeKey))
}

pub(super) fn snapshot_key(seed: u64, parameter: &str, id: &str) -> Result<Option<SnapshotKey>, Reject> {
    Ok(key(Kind::Snapshot, seed, parameter, id)?.map(SnapshotKey))
}
