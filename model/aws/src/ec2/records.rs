//! What is saved: one record a resource, so that saving costs what changed.

use std::collections::BTreeSet;

use model_common::pick::{hex17, unhex17};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ids::{InstanceId, SnapshotKey, VolumeKey};
use super::{State, Tags};
use crate::{Dirty, LoadError};

const VOLUMES: &str = "ec2.volumes";
const SNAPSHOTS: &str = "ec2.snapshots";
const TOKENS: &str = "ec2.tokens";
/// Those that agents registered; the world's own need none.
const INSTANCES: &str = "ec2.instances";
const SECURITY_GROUPS: &str = "ec2.securityGroups";
/// By instance.
const LEFTOVERS: &str = "ec2.leftovers";
/// Tags that were given to things of the world.
const WORLD_TAGS: &str = "ec2.worldTags";
/// By instance.
const METADATA: &str = "ec2.metadata";
/// The next key, under the empty name.
const NEXT: &str = "ec2.next";

/// The tables of this machine's records.
/// Instances first: what others hold of an instance goes to it.
pub const TABLES: &[&str] = &[INSTANCES, VOLUMES, SNAPSHOTS, TOKENS, SECURITY_GROUPS, LEFTOVERS, WORLD_TAGS, METADATA, NEXT];

/// A record that differs from what was saved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Changed {
    Volume(VolumeKey),
    Snapshot(SnapshotKey),
    Token(String),
    Instance(InstanceId),
    SecurityGroup(String),
    Leftovers(InstanceId),
    WorldTags(String),
    Metadata(InstanceId),
    Next,
}

fn record(table: &'static str, key: String, value: Option<&impl Serialize>) -> Dirty {
    // Our records have string keys and finite numbers only, so JSON cannot fail; if it did, the record would not be saved.
    Dirty { table, key, value: value.and_then(|value| serde_json::to_vec(value).ok()) }
}

fn parse<T: DeserializeOwned>(table: &str, key: &str, value: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(value).map_err(|error| LoadError { table: table.to_owned(), key: key.to_owned(), message: error.to_string() })
}

impl State {
    /// The volumes that changed since the last call, for a world that saves nothing.
    pub fn take_changed_volumes(&mut self) -> Vec<VolumeKey> {
        let changed = std::mem::take(&mut self.dirty).into_iter();
        changed.filter_map(|changed| if let Changed::Volume(key) = changed { Some(key) } else { None }).collect()
    }

    /// The records that changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<Dirty> {
        let changed: BTreeSet<Changed> = std::mem::take(&mut self.dirty);
        changed
            .into_iter()
            .map(|changed| match changed {
                Changed::Volume(key) => record(VOLUMES, key.id(self.seed), self.volume(key)),
                Changed::Snapshot(key) => record(SNAPSHOTS, key.id(self.seed), self.snapshots.get(&key)),
                Changed::Token(name) => {
                    let value = self.tokens.get(&name);
                    record(TOKENS, name, value)
                }
                Changed::Instance(id) => record(INSTANCES, id.to_string(), self.registered(&id).as_ref()),
                Changed::SecurityGroup(id) => {
                    let value = self.network.security_groups.get(&id);
                    record(SECURITY_GROUPS, id, value)
                }
                Changed::Leftovers(id) => record(LEFTOVERS, id.to_string(), self.leftovers.get(&id)),
                Changed::WorldTags(id) => {
                    let value = self.tags_of(&id);
                    record(WORLD_TAGS, id, value)
                }
                Changed::Metadata(id) => record(METADATA, id.to_string(), self.instances.get(&id).map(|instance| &instance.metadata)),
                Changed::Next => record(NEXT, String::new(), Some(&self.next)),
            })
            .collect()
    }

    /// Takes back a saved record; false when the table is not of this machine.
    pub fn restore(&mut self, table: &str, key: &str, value: &[u8]) -> Result<bool, LoadError> {
        match table {
            VOLUMES => {
                let volume: super::Volume = parse(table, key, value)?;
                self.volume_index.add(volume.key, &volume.facets());
                self.volume_index.add_tags(volume.key, &volume.tags);
                self.volumes.insert(volume.key, Box::new(volume));
            }
            SNAPSHOTS => {
                let snapshot: super::Snapshot = parse(table, key, value)?;
                self.snapshot_index.add(snapshot.key, &snapshot.facets());
                if snapshot.wanted {
                    self.snapshot_index.add_tags(snapshot.key, &snapshot.tags);
                }
                self.snapshots.insert(snapshot.key, snapshot);
            }
            TOKENS => {
                self.tokens.insert(key.to_owned(), parse(table, key, value)?);
            }
            INSTANCES => self.insert_registered(key, parse(table, key, value)?),
            SECURITY_GROUPS => {
                self.network.security_groups.insert(key.to_owned(), parse(table, key, value)?);
            }
            LEFTOVERS => {
                self.leftovers.insert(key.into(), parse(table, key, value)?);
            }
            WORLD_TAGS => {
                let tags: Tags = parse(table, key, value)?;
                self.set_world_tags(key, tags);
            }
            METADATA => {
                let metadata = parse(table, key, value)?;
                // An instance that the world no longer has needs none.
                if let Some(instance) = self.instances.get_mut(key) {
                    instance.metadata = metadata;
                }
            }
            NEXT => self.next = parse(table, key, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// An id of a thing that has no key of its own type.
    pub(super) fn fresh_id(&mut self, prefix: &str) -> String {
        let key = self.fresh_key();
        format!("{prefix}-{}", hex17(self.seed, key))
    }

    /// Where in the order of creation an id of such a thing stands; the world's own come first.
    pub(super) fn order_of(&self, id: &str) -> u64 {
        let key = id.split_once('-').and_then(|(_, digits)| unhex17(self.seed, digits));
        key.filter(|key| *key < self.next).unwrap_or(0)
    }
}
