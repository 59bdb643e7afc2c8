//! Volumes: what is wanted of them, what exists, and how they are made and deleted.
//!
//! ```text
//!   CreateVolume ─▶ creating ──file made──▶ available ◀──▶ in-use
//!                      │ └──cannot be made──▶ error   └─DeleteVolume─▶ deleting ──file removed──▶ (gone)
//!                      └──its key cannot be used──▶ (gone)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::attachment::Attachment;
use super::command::{CopyVolumes, CreateVolume};
use super::ids::{self, InstanceId, SnapshotKey, VolumeKey};
use super::index::Facet;
use super::modification::Modification;
use super::records::Changed;
use super::snapshot::SnapshotStatus;
use super::spec::{Asked, Spec, VolumeType};
use super::{Effect, Kind, Memo, Reject, Reply, State, Tags, Timer, Work, tags};
use crate::{At, kms};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub key: VolumeKey,
    pub zone: String,
    pub spec: Spec,
    pub encrypted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    /// Its key could not be used: it goes instead of becoming available.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    pub source: Source,
    /// As shown: the id of the snapshot or volume it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization_rate: Option<u32>,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Made from a snapshot for which fast restores were enabled in the volume's zone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fast_restored: bool,
    /// False after DeleteVolume.
    pub wanted: bool,
    pub file: File,
    /// The last wish (creation or deletion) has taken the time that it takes on AWS.
    pub settled: bool,
    /// The work that is out; never more than one a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Work>,
    /// The last work on the file failed; the retry timer is armed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
    /// How often in a row making the file failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u8,
    /// Keys of the snapshots and volumes that are being filled from this file; it stays until they are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub readers: BTreeSet<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attachments: BTreeMap<InstanceId, Attachment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modification: Option<Modification>,
    /// Modifications that still count against the limit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub recent_modifications: BTreeSet<u64>,
    /// A snapshot was made so recently that another is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot_rate: bool,
    /// Noted for CreateTime; nothing is decided on it.
    pub created_at: At,
    /// As DescribeVolumes shows it.
    #[serde(skip)]
    pub shown: Memo,
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// What a volume was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    Empty,
    Snapshot(SnapshotKey),
    Volume(VolumeKey),
}

/// The file that holds the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum File {
    Absent,
    Present {
        bytes: u64,
    },
    /// It could not be made, or was there and is gone.
    Lost,
}

/// The state that DescribeVolumes shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeStatus {
    Creating,
    Available,
    InUse,
    Deleting,
    Error,
}

impl VolumeStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::InUse => "in-use",
            Self::Deleting => "deleting",
            Self::Error => "error",
        }
    }
}

impl Volume {
    /// Derived: nothing stores it.
    pub fn status(&self) -> VolumeStatus {
        match (self.wanted, self.file) {
            (false, _) => VolumeStatus::Deleting,
            (true, _) if !self.attachments.is_empty() => VolumeStatus::InUse,
            (true, File::Lost) => VolumeStatus::Error,
            (true, File::Absent) => VolumeStatus::Creating,
            (true, File::Present { .. }) if self.settled => VolumeStatus::Available,
            (true, File::Present { .. }) => VolumeStatus::Creating,
        }
    }

    /// What the indexes know of it, without tags.
    pub(super) fn facets(&self) -> Vec<Facet> {
        let mut facets = vec![Facet::Zone(self.zone.clone()), Facet::Status(self.status().name())];
        if let Source::Snapshot(_) = self.source {
            facets.extend(self.source_id.clone().map(Facet::Snapshot));
        }
        if self.modification.is_some() {
            facets.push(Facet::Modified);
        }
        facets.extend(self.attachments.keys().cloned().map(Facet::Instance));
        facets
    }

    /// Instances on which it is attached, so that a copy can ask for a freeze.
    pub(super) fn holders(&self) -> Vec<InstanceId> {
        self.attachments.iter().filter(|(_, attachment)| attachment.have.is_up()).map(|(id, _)| id.clone()).collect()
    }
}

/// A volume that may be made.
pub(super) struct NewVolume {
    zone: String,
    spec: Spec,
    encrypted: bool,
    kms_key_id: Option<String>,
    refused: bool,
    source: Source,
    source_id: Option<String>,
    initialization_rate: Option<u32>,
    fast_restored: bool,
    tags: Tags,
}

impl State {
    /// The volume that a request names. One that is being deleted counts as there only where `deleting` says so.
    pub(super) fn named_volume(&self, parameter: &str, id: &str) -> Result<&Volume, Reject> {
        let missing = || Reject::NotFound { kind: Kind::Volume, ids: vec![id.to_owned()] };
        let key = ids::volume_key(self.seed, parameter, id)?.ok_or_else(missing)?;
        self.volume(key).filter(|volume| volume.wanted).ok_or_else(missing)
    }

    pub(super) fn plan_create(&self, keys: &kms::State, request: &CreateVolume) -> Result<NewVolume, Reject> {
        let volume_type = match &request.volume_type {
            Some(name) => name.parse()?,
            // EC2's own default; the CSI driver always names one.
            None => VolumeType::Gp2,
        };
        let snapshot = request.snapshot_id.as_deref().map(|id| self.named_snapshot("snapshotId", id)).transpose()?;
        let size_gib = match (request.size_gib, snapshot) {
            (Some(size), _) => size,
            (None, Some(snapshot)) => snapshot.size_gib,
            (None, None) => return Err(Reject::SizeMissing),
        };
        let zone = self.plan_zone(request)?;
        let spec = Spec::new(
            volume_type,
            Asked { size_gib, iops: request.iops, throughput: request.throughput, multi_attach: request.multi_attach },
        )?;
        let (mut source, mut encrypted) = (Source::Empty, request.encrypted || request.kms_key_id.is_some());
        let (mut refused, mut key) = (false, request.kms_key_id.as_deref());
        if let Some(snapshot) = snapshot {
            let id = snapshot.key.id(self.seed);
            match snapshot.status() {
                SnapshotStatus::Completed => {}
                SnapshotStatus::Pending | SnapshotStatus::Error => return Err(Reject::SnapshotNotCompleted { snapshot: id }),
            }
            if size_gib < snapshot.size_gib {
                return Err(Reject::SmallerThanSnapshot { size_gib, snapshot: id, least: snapshot.size_gib });
            }
            source = Source::Snapshot(snapshot.key);
            encrypted |= snapshot.encrypted;
            // The blocks are to be read with the snapshot's key, which is also the volume's when no other is named.
            refused = snapshot.kms_key_id.as_deref().is_some_and(|key| !keys.usable(key));
            key = key.or(snapshot.kms_key_id.as_deref());
        }
        let fast_restored = snapshot.is_some_and(|snapshot| Self::restores_fast(snapshot, &zone));
        tags::check_new(&request.tags)?;
        // EC2 asks for the key only after it has answered: a request that names an unusable one is accepted.
        let grant = encrypted.then(|| keys.grant(key, kms::EBS));
        Ok(NewVolume {
            zone,
            spec,
            encrypted,
            refused: refused || grant.as_ref().is_some_and(|grant| !grant.usable),
            kms_key_id: grant.map(|grant| grant.arn),
            source,
            source_id: request.snapshot_id.clone(),
            initialization_rate: request.initialization_rate,
            fast_restored,
            tags: tags::collect(&request.tags),
        })
    }

    /// A request may name the zone, the zone's id, or both when they agree.
    fn plan_zone(&self, request: &CreateVolume) -> Result<String, Reject> {
        let zones = &self.network.zones;
        let by_name = match &request.zone {
            Some(name) => Some(zones.iter().find(|zone| zone.name == *name).ok_or_else(|| Reject::NoSuchZone { zone: name.clone() })?),
            None => None,
        };
        let by_id = match &request.zone_id {
            Some(id) => Some(zones.iter().find(|zone| zone.id == *id).ok_or_else(|| Reject::NoSuchZone { zone: id.clone() })?),
            None => None,
        };
        match (by_name, by_id) {
            (Some(name), Some(id)) if name != id => Err(Reject::NoSuchZone { zone: id.id.clone() }),
            (Some(zone), _) | (None, Some(zone)) => Ok(zone.name.clone()),
            (None, None) => Err(Reject::MissingParameter("AvailabilityZone".to_owned())),
        }
    }

    pub(super) fn plan_copy(&self, keys: &kms::State, request: &CopyVolumes) -> Result<NewVolume, Reject> {
        let source = self.named_volume("sourceVolumeId", &request.source_volume_id)?;
        match source.status() {
            VolumeStatus::Available | VolumeStatus::InUse => {}
            status @ (VolumeStatus::Creating | VolumeStatus::Deleting | VolumeStatus::Error) => {
                return Err(Reject::VolumeState { volume: request.source_volume_id.clone(), status });
            }
        }
        let volume_type = request.volume_type.as_deref().map(str::parse).transpose()?.unwrap_or(source.spec.volume_type);
        let same_type = volume_type == source.spec.volume_type;
        // IOPS and throughput that the source was given go over to a copy of the same type; gp2 derives its own.
        let inherit = |own: Option<u32>| own.filter(|_| same_type && volume_type != VolumeType::Gp2);
        let size_gib = request.size_gib.unwrap_or(source.spec.size_gib);
        if size_gib < source.spec.size_gib {
            return Err(Reject::SmallerThanSource { size_gib, least: source.spec.size_gib });
        }
        let asked = Asked {
            size_gib,
            iops: request.iops.or(inherit(source.spec.iops)),
            throughput: request.throughput.or(inherit(source.spec.throughput)),
            multi_attach: request.multi_attach,
        };
        let spec = Spec::new(volume_type, asked)?;
        tags::check_new(&request.tags)?;
        Ok(NewVolume {
            zone: source.zone.clone(),
            spec,
            encrypted: source.encrypted,
            refused: source.kms_key_id.as_deref().is_some_and(|key| !keys.usable(key)),
            kms_key_id: source.kms_key_id.clone(),
            source: Source::Volume(source.key),
            source_id: Some(request.source_volume_id.clone()),
            initialization_rate: None,
            fast_restored: false,
            tags: tags::collect(&request.tags),
        })
    }

    /// Makes the record; the drive makes the file. The caller sends the reply and drives.
    pub(super) fn insert_volume(&mut self, at: At, new: NewVolume, out: &mut Vec<Effect>) -> VolumeKey {
        let key = VolumeKey(self.fresh_key());
        let delay = self.timing().create;
        match new.source {
            Source::Empty => {}
            Source::Snapshot(snapshot) => self.change_snapshot(snapshot, |source| {
                source.readers.insert(key.0);
            }),
            Source::Volume(volume) => self.change_volume(volume, |source| {
                source.readers.insert(key.0);
            }),
        }
        let volume = Volume {
            key,
            zone: new.zone,
            spec: new.spec,
            encrypted: new.encrypted,
            kms_key_id: new.kms_key_id,
            refused: new.refused,
            source: new.source,
            source_id: new.source_id,
            initialization_rate: new.initialization_rate,
            fast_restored: new.fast_restored,
            tags: new.tags,
            wanted: true,
            file: File::Absent,
            settled: delay.is_zero(),
            running: None,
            waiting: false,
            failures: 0,
            readers: BTreeSet::new(),
            attachments: BTreeMap::new(),
            modification: None,
            recent_modifications: BTreeSet::new(),
            snapshot_rate: false,
            created_at: at,
            shown: Memo::default(),
        };
        self.volume_index.add(key, &volume.facets());
        self.volume_index.add_tags(key, &volume.tags);
        self.volumes.insert(key, Box::new(volume));
        self.dirty.insert(Changed::Volume(key));
        if !delay.is_zero() {
            out.push(Effect::Arm(Timer::Settle(key), delay));
        }
        key
    }

    pub(super) fn plan_delete(&self, id: &str) -> Result<VolumeKey, Reject> {
        let volume = self.named_volume("volumeId", id)?;
        match volume.status() {
            VolumeStatus::Available | VolumeStatus::Error => Ok(volume.key),
            VolumeStatus::InUse => {
                let instance = volume.attachments.keys().next().map(|id| id.to_string()).unwrap_or_default();
                Err(Reject::VolumeInUse { volume: id.to_owned(), instance })
            }
            status @ (VolumeStatus::Creating | VolumeStatus::Deleting) => Err(Reject::VolumeState { volume: id.to_owned(), status }),
        }
    }

    pub(super) fn delete_volume(&mut self, at: At, id: &str, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let key = self.plan_delete(id)?;
        let delay = self.timing().delete;
        self.change_volume(key, |volume| {
            volume.wanted = false;
            volume.settled = delay.is_zero();
        });
        out.push(Effect::Reply(Reply::Done));
        if !delay.is_zero() {
            out.push(Effect::Arm(Timer::Settle(key), delay));
        }
        self.drive_volume(at, key, out);
        Ok(())
    }

    /// Changes a volume, its index entries and the list of what is to be saved. Nothing happens when it is not there.
    pub(super) fn change_volume(&mut self, key: VolumeKey, change: impl FnOnce(&mut Volume)) {
        let Some(volume) = self.volumes.get_mut(&key) else { return };
        let before = volume.facets();
        change(volume);
        volume.shown.forget();
        let after = volume.facets();
        self.volume_index.replace(key, &before, &after);
        self.dirty.insert(Changed::Volume(key));
    }

    /// Forgets a volume whose file is gone.
    pub(super) fn drop_volume(&mut self, key: VolumeKey) {
        if let Some(volume) = self.volumes.remove(&key) {
            self.volume_index.remove(key, &volume.facets());
            self.volume_index.remove_tags(key, &volume.tags);
            self.dirty.insert(Changed::Volume(key));
        }
    }
}
