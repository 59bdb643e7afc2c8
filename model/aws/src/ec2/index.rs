//! Indexes, so that the cost of a question follows its answer and not the world.

use std::collections::{BTreeMap, BTreeSet};

use super::Tags;
use super::ids::InstanceId;

/// Something that a filter can ask for by its exact value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Facet {
    Status(&'static str),
    Zone(String),
    Instance(InstanceId),
    /// Volumes: made from this snapshot.
    Snapshot(String),
    /// Snapshots: of this volume.
    Volume(String),
    /// Volumes: once modified.
    Modified,
    /// The key itself; never in the index, answered by the table.
    Id(u64),
}

/// Keys by facet and by tag. Keys within an entry are in the order of creation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Index<K: Ord> {
    facets: BTreeMap<Facet, BTreeSet<K>>,
    tags: BTreeMap<String, BTreeMap<String, BTreeSet<K>>>,
}

impl<K: Ord> Default for Index<K> {
    fn default() -> Self {
        Self { facets: BTreeMap::new(), tags: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Index<K> {
    pub(super) fn add(&mut self, key: K, facets: &[Facet]) {
        for facet in facets {
            self.facets.entry(facet.clone()).or_default().insert(key);
        }
    }

    pub(super) fn remove(&mut self, key: K, facets: &[Facet]) {
        for facet in facets {
            if let Some(keys) = self.facets.get_mut(facet) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.facets.remove(facet);
                }
            }
        }
    }

    /// Touches only what differs.
    pub(super) fn replace(&mut self, key: K, before: &[Facet], after: &[Facet]) {
        let gone: Vec<_> = before.iter().filter(|facet| !after.contains(facet)).cloned().collect();
        let new: Vec<_> = after.iter().filter(|facet| !before.contains(facet)).cloned().collect();
        self.remove(key, &gone);
        self.add(key, &new);
    }

    pub(super) fn add_tags(&mut self, key: K, tags: &Tags) {
        for (name, value) in tags {
            self.tags.entry(name.clone()).or_default().entry(value.clone()).or_default().insert(key);
        }
    }

    pub(super) fn remove_tags(&mut self, key: K, tags: &Tags) {
        for (name, value) in tags {
            let Some(values) = self.tags.get_mut(name) else { continue };
            if let Some(keys) = values.get_mut(value) {
                keys.remove(&key);
                if keys.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.tags.remove(name);
            }
        }
    }

    /// The keys with a facet.
    pub(super) fn with(&self, facet: &Facet) -> Option<&BTreeSet<K>> {
        self.facets.get(facet)
    }

    /// The keys that carry exactly this tag.
    pub(super) fn tagged(&self, name: &str, value: &str) -> Option<&BTreeSet<K>> {
        self.tags.get(name)?.get(value)
    }

    /// The sets of keys that carry a tag of this name, one a value.
    pub(super) fn tag_key(&self, name: &str) -> impl Iterator<Item = &BTreeSet<K>> {
        self.tags.get(name).into_iter().flat_map(BTreeMap::values)
    }
}
