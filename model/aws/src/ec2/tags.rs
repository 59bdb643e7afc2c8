//! Tags of every kind of resource.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{self, Kind};
use super::records::Changed;
use super::{Reject, State};

/// Key to value.
pub type Tags = BTreeMap<String, String>;

/// A tag of a request. DeleteTags may leave the value out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TagItem {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Most tags of a resource; longest key and value in characters (EC2 user guide, tag restrictions).
const MOST_TAGS: usize = 50;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

/// Checks tags that a resource is to be made with.
pub(super) fn check_new(tags: &[TagItem]) -> Result<(), Reject> {
    check(tags)?;
    if tags.len() > MOST_TAGS {
        return Err(Reject::TooManyTags);
    }
    Ok(())
}

fn check(tags: &[TagItem]) -> Result<(), Reject> {
    for (index, tag) in tags.iter().enumerate() {
        if tag.key.is_empty() || tag.key.chars().count() > LONGEST_KEY {
            return Err(Reject::TagKeyLength { key: tag.key.clone() });
        }
        if tag.key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return Err(Reject::ReservedTagKey);
        }
        if tag.value.as_ref().is_some_and(|value| value.chars().count() > LONGEST_VALUE) {
            return Err(Reject::TagValueLength { key: tag.key.clone() });
        }
        if tags[..index].iter().any(|other| other.key == tag.key) {
            return Err(Reject::DuplicateTagKey { key: tag.key.clone() });
        }
    }
    Ok(())
}

pub(super) fn collect(tags: &[TagItem]) -> Tags {
    tags.iter().map(|tag| (tag.key.clone(), tag.value.clone().unwrap_or_default())).collect()
}

impl State {
    /// The tags of a resource by id.
    pub fn tags_of(&self, id: &str) -> Option<&Tags> {
        match Kind::of_id(id)? {
            Kind::Volume => self.named_volume("", id).ok().map(|volume| &volume.tags),
            Kind::Snapshot => self.named_snapshot("", id).ok().map(|snapshot| &snapshot.tags),
            Kind::Instance => self.instances.get(id).map(|instance| &instance.tags),
            Kind::SecurityGroup => self.network.security_groups.get(id).map(|group| &group.tags),
            Kind::Subnet => self.network.subnets.get(id).map(|subnet| &subnet.tags),
            Kind::Vpc => (self.network.vpc.id == id).then_some(&self.network.vpc.tags),
            Kind::NetworkInterface => self.instances.values().find(|instance| instance.interface.id == id).map(|i| &i.interface.tags),
        }
    }

    /// All ids with tags, with their kind: what DescribeTags goes over when no filter narrows it.
    pub fn tagged(&self) -> impl Iterator<Item = (Kind, String, &Tags)> {
        let volumes = self.volumes.values().filter(|v| v.wanted).map(|v| (Kind::Volume, v.key.id(self.seed), &v.tags));
        let snapshots = self.snapshots.values().filter(|s| s.wanted).map(|s| (Kind::Snapshot, s.key.id(self.seed), &s.tags));
        volumes.chain(snapshots).chain(self.tagged_of_world())
    }

    /// The same without volumes and snapshots.
    pub(super) fn tagged_of_world(&self) -> impl Iterator<Item = (Kind, String, &Tags)> {
        let instances = self.instances.values().map(|i| (Kind::Instance, i.id.to_string(), &i.tags));
        let interfaces = self.instances.values().map(|i| (Kind::NetworkInterface, i.interface.id.clone(), &i.interface.tags));
        let groups = self.network.security_groups.values().map(|g| (Kind::SecurityGroup, g.id.clone(), &g.tags));
        let subnets = self.network.subnets.values().map(|s| (Kind::Subnet, s.id.clone(), &s.tags));
        let vpc = std::iter::once((Kind::Vpc, self.network.vpc.id.clone(), &self.network.vpc.tags));
        instances.chain(interfaces).chain(groups).chain(subnets).chain(vpc)
    }

    pub(super) fn check_tagging(&self, resources: &[String], tags: &[TagItem], adds: bool) -> Result<(), Reject> {
        if adds {
            check(tags)?;
        }
        for id in resources {
            let current = match self.tags_of(id) {
                Some(tags) => tags,
                None => return Err(Self::no_such_resource(self.seed, id)),
            };
            let new = tags.iter().filter(|tag| !current.contains_key(&tag.key)).count();
            if adds && current.len() + new > MOST_TAGS {
                return Err(Reject::TooManyTags);
            }
            if adds && self.instances.get(id.as_str()).is_some_and(|instance| instance.metadata.wanted.tags) {
                super::metadata::check_tag_keys(&collect(tags))?;
            }
        }
        Ok(())
    }

    fn no_such_resource(seed: u64, id: &str) -> Reject {
        match Kind::of_id(id) {
            Some(Kind::Volume) => match ids::volume_key(seed, "resourceId", id) {
                Ok(_) => Reject::NotFound { kind: Kind::Volume, ids: vec![id.to_owned()] },
                Err(reject) => reject,
            },
            Some(kind) if kind.well_formed(id) => Reject::NotFound { kind, ids: vec![id.to_owned()] },
            Some(_) | None => Reject::InvalidResourceId { id: id.to_owned() },
        }
    }

    /// Changes the tags of resources that [`State::check_tagging`] found.
    pub(super) fn retag(&mut self, resources: &[String], change: impl Fn(&mut Tags)) {
        for id in resources {
            let Some(before) = self.tags_of(id).cloned() else { continue };
            let mut after = before.clone();
            change(&mut after);
            if after != before {
                self.set_tags(id, &before, after);
            }
        }
    }

    fn set_tags(&mut self, id: &str, before: &Tags, after: Tags) {
        match Kind::of_id(id) {
            Some(Kind::Volume) => {
                let Some(key) = ids::volume_key(self.seed, "", id).ok().flatten() else { return };
                self.volume_index.remove_tags(key, before);
                self.volume_index.add_tags(key, &after);
                self.change_volume(key, |volume| volume.tags = after);
            }
            Some(Kind::Snapshot) => {
                let Some(key) = ids::snapshot_key(self.seed, "", id).ok().flatten() else { return };
                self.snapshot_index.remove_tags(key, before);
                self.snapshot_index.add_tags(key, &after);
                self.change_snapshot(key, |snapshot| snapshot.tags = after);
            }
            Some(Kind::SecurityGroup) => {
                if let Some(group) = self.network.security_groups.get_mut(id) {
                    group.tags = after;
                    self.dirty.insert(Changed::SecurityGroup(id.to_owned()));
                }
            }
            Some(Kind::Instance | Kind::Subnet | Kind::Vpc | Kind::NetworkInterface) => {
                self.set_world_tags(id, after);
                self.dirty.insert(Changed::WorldTags(id.to_owned()));
            }
            None => {}
        }
    }

    /// Tags of the world's own things, which have no record of their own.
    pub(super) fn set_world_tags(&mut self, id: &str, tags: Tags) {
        match Kind::of_id(id) {
            Some(Kind::Instance) => {
                if let Some(instance) = self.instances.get_mut(id) {
                    instance.tags = tags;
                }
            }
            Some(Kind::Subnet) => {
                if let Some(subnet) = self.network.subnets.get_mut(id) {
                    subnet.tags = tags;
                }
            }
            Some(Kind::Vpc) if self.network.vpc.id == id => self.network.vpc.tags = tags,
            Some(Kind::NetworkInterface) => {
                if let Some(instance) = self.instances.values_mut().find(|instance| instance.interface.id == id) {
                    instance.interface.tags = tags;
                }
            }
            Some(Kind::Volume | Kind::Snapshot | Kind::SecurityGroup | Kind::Vpc) | None => {}
        }
    }
}
